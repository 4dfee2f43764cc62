"""Sensitivity estimators and rank correlation."""

from dataclasses import replace

import numpy as np
import pytest

from simulator.errors import NetworkError, PrecisionError
from simulator.precision import LayerPrecision
from workloads import Network
from workloads.accuracy import uniform
from workloads.fake_quantised_model import trained_weight
from workloads.quantisation import quantise
from workloads.sensitivity import METHODS, estimate, spearman

MENU = tuple(LayerPrecision.parse(text) for text in ("w8a8", "w4a8", "w2a8"))


@pytest.mark.parametrize("method", METHODS)
def test_harm_is_non_negative_and_falls_with_width(digits, evaluator, method):
    table = estimate(digits, evaluator, MENU, method=method)
    assert table.layers == tuple(digits.bindings) and table.menu == MENU and table.method == method
    assert table.harm.shape == (6, 3) and (table.harm >= 0).all()
    assert (np.diff(table.harm, axis=1) > 0).all()
    with pytest.raises(ValueError):
        table.harm[0, 0] = 1


def test_perturbation_is_what_the_evaluator_measures(digits, evaluator):
    calls = []
    table = estimate(
        digits, evaluator, MENU[1:2], method="perturbation",
        progress=lambda done, total: calls.append((done, total)),
    )
    assert table.method == "perturbation"
    assert calls == [(done, 6) for done in range(1, 7)]
    assert table.of("conv2", MENU[1]) == evaluator.output_mse({"conv2": MENU[1]})
    assert table.total(uniform(digits, MENU[1])) == pytest.approx(table.harm.sum())


def test_single_harms_predict_the_joint_one(digits, evaluator):
    """Additivity is what precision assignment rests on: within a factor of two at 4 bits."""
    joint = evaluator.output_mse(uniform(digits, MENU[1]))
    assert 0.5 < joint / estimate(digits, evaluator, MENU[1:2], method="perturbation").harm.sum() < 2


def test_weight_error_needs_no_evaluator(digits):
    table = estimate(digits, None, MENU[1:2], method="weight_error")
    weight = trained_weight(digits, "linear1")
    error = quantise(weight, "int4", channel_axes=(0,), group=-1).values - weight.astype(np.float64)
    assert table.of("linear1", MENU[1]) == pytest.approx((error**2).sum())


def test_mistakes(digits, evaluator):
    with pytest.raises(NetworkError, match="did you mean 'perturbation'"):
        estimate(digits, evaluator, MENU, method="pertubation")
    with pytest.raises(PrecisionError, match="menu"):
        estimate(digits, evaluator, ())
    for method in ("perturbation", "taylor", "hessian_trace"):
        with pytest.raises(NetworkError, match=rf"method='{method}': needs an evaluator"):
            estimate(digits, None, MENU, method=method)
    table = estimate(digits, evaluator, MENU[:1], method="weight_error")
    with pytest.raises(NetworkError, match="did you mean 'conv1'"):
        table.of("conv_1", MENU[0])
    with pytest.raises(PrecisionError, match="was not rated"):
        table.of("conv1", MENU[2])


@pytest.mark.parametrize("method", [None, *METHODS])
def test_without_trained_weights_there_is_nothing_to_rate(digits, method):
    with pytest.raises(NetworkError, match=r"^shapes: has published shapes only: without trained weights"):
        estimate(Network("shapes", digits.graph), None, MENU, method=method)
    products = {layer: replace(binding, weight=None) for layer, binding in digits.bindings.items()}
    activations = replace(digits, bindings=products)
    with pytest.raises(NetworkError, match=r"has no layer with trained weights that could be rated"):
        estimate(activations, None, MENU, method=method or "taylor")


def test_spearman():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 400]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138)  # ties: mean ranks
    assert np.isnan(spearman([1, 1], [1, 2]))
    with pytest.raises(ValueError, match="one shape"):
        spearman([1, 2], [1, 2, 3])


def test_spearman_equals_scipy():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed (it is only an oracle here)")
    rng = np.random.default_rng(7)
    for _ in range(20):
        a, b = rng.integers(0, 8, (2, 30))
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
