"""DPQ against a plain implementation of its steps, against what the W4A8 element expands, and against its baselines."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_configs import open_accelerator
from simulator.errors import PrecisionError
from simulator.floating import decode
from simulator.formats import Format
from simulator.precision import LayerPrecision
from workloads.accuracy import AccuracyEvaluator, uniform
from workloads.dpq import dpq, group_aware_order, protective_range, tensor_scale
from workloads.error_compensation import weighted_error
from workloads.library import open_network
from workloads.tasks import find_task
from workloads.weight_quantisers import quantise_weight

LARGEST = {"fp8_e4m3": 448.0, "fp8_e4m3_ieee": 240.0}
MANTISSA_BITS, SMALLEST_EXPONENT = 3, -6  # of both
W4A8 = {name: LayerPrecision.parse(f"w4:{name}") for name in LARGEST}
seeds = st.integers(0, 2**32 - 1)
wide_formats = st.sampled_from(list(LARGEST))


def problem(seed, rows=4, columns=12, samples=30):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(columns, columns)) * rng.lognormal(0, 1, columns)
    x = rng.normal(size=(samples, columns)) @ mixing
    weight = rng.standard_t(4, size=(rows, columns)) * 10.0 ** rng.uniform(-4, 3)
    return weight.astype(np.float32), 2 / samples * x.T @ x


def plain_dpq(weight, hessian, wide, group, order):
    """The steps one after the other, on plain lists of columns, with an inverse of what is left for each column."""
    limit = LARGEST[wide] - LARGEST[wide] / 15
    columns = weight.shape[1]
    width = columns if group < 0 else group
    weights, moments = weight.astype(np.float64), hessian.copy()
    for column in range(columns):
        if moments[column, column] == 0:
            moments[column, column] = 1
            weights[:, column] = 0
    moments += np.eye(columns) * 0.01 * np.mean(np.diag(moments))
    cost = np.diag(moments)
    left = list(range(columns))
    if order == "act":
        left = sorted(left, key=lambda column: -cost[column])
    if order == "gar":
        groups = [sorted(left[begin : begin + width], key=lambda column: -cost[column])
                  for begin in range(0, columns, width)]
        left = [column for own in sorted(groups, key=lambda own: -max(cost[own])) for column in own]
    outer = 2.0 ** math.ceil(math.log2(max(np.abs(weights).max() / limit, 1 / (512 * limit))))

    def cast(values):
        # Rounded once: ml_dtypes rounds float64 to float32 first, and a value just off a tie then falls to either side.
        clipped = np.clip(values, -limit, limit)
        spacing = 2.0 ** (np.maximum(np.frexp(clipped)[1] - 1, SMALLEST_EXPONENT) - MANTISSA_BITS)
        return np.rint(clipped / spacing) * spacing

    fp8 = cast(weights / outer)
    scales, zeros = {}, {}
    for own in range(-(-columns // width)):
        part = fp8[:, own * width : (own + 1) * width]
        low, high = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
        scale = ((high - low) / 15).astype(np.float32).astype(np.float64)
        scales[own] = np.where(scale > 0, scale, 1)
        zeros[own] = np.clip(np.rint(-low / scales[own]), 0, 15)
    codes, values = np.zeros(weights.shape, int), np.zeros(weights.shape)
    while left:
        column = left[0]
        scale, zero = scales[column // width], zeros[column // width]
        w8 = cast(weights[:, column] / outer).astype(np.float32)
        code = np.clip(np.rint(w8 / scale.astype(np.float32)) + zero, 0, 15)
        codes[:, column] = code
        values[:, column] = outer * cast(scale * (code - zero))
        inverse = np.linalg.inv(moments[np.ix_(left, left)])
        error = (weights[:, column] - values[:, column]) / inverse[0, 0]
        weights[:, left] -= np.outer(error, inverse[0])
        left = left[1:]
    return codes, values


@given(seeds, wide_formats, st.sampled_from([(-1, "gar"), (3, "natural"), (5, "act"), (12, "natural")]))
def test_dpq_equals_its_steps(seed, wide, case):
    group, order = case
    weight, hessian = problem(seed)
    result = dpq(weight, hessian, wide, group=group, order=order)
    codes, values = plain_dpq(weight, hessian, wide, group, order)
    assert (result.codes == codes).all()
    np.testing.assert_allclose(result.values, values, rtol=1e-6, atol=0)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("wide", LARGEST)
def test_group_aware_reordering_equals_its_steps(wide, seed):
    weight, hessian = problem(seed, rows=8, columns=150, samples=400)
    hessian[140] = hessian[:, 140] = 0
    result = dpq(weight, hessian, wide, group=40)
    codes, values = plain_dpq(weight, hessian, wide, 40, "gar")
    np.testing.assert_array_equal(result.codes, codes)
    np.testing.assert_allclose(result.values, values, rtol=1e-6, atol=0)
    assert result.scale.shape == result.zero_point.shape == (8, 4) and (result.values[:, 140] == 0).all()


def test_the_order_keeps_groups_together():
    cost = np.array([1.0, 5.0, 2.0, 9.0, 3.0, 3.0, 7.0])
    assert group_aware_order(cost, 3).tolist() == [3, 4, 5, 6, 1, 2, 0]
    assert group_aware_order(cost, -1).tolist() == [3, 6, 1, 4, 5, 2, 0]


@given(seeds, wide_formats, st.sampled_from(["rtn", "gptq", "gptq_act", "dpq"]), st.sampled_from([-1, 40]))
def test_values_are_what_the_machine_expands(seed, wide, quantiser, group):
    """The simulator's W4A8 element, given codes, scales and zero points, multiplies by the same numbers."""
    weight, hessian = problem(seed, columns=50)
    precision = W4A8[wide].model_copy(update={"weight_group": group})
    result = quantise_weight(weight, (0,), precision, quantiser=quantiser, moments=hessian[None])
    element = open_accelerator("gaudi_like").processing_element.model_copy(
        update={"expansion_limit": protective_range(Format(wide))}
    )
    number = np.arange(50) // (50 if group < 0 else group)
    scales, zeros = (array.reshape(len(weight), -1)[:, number] for array in (result.scale, result.zero_point))
    assert result.codes.min() >= 0 and result.codes.max() <= 15
    codes = element.expand(result.codes.astype(np.int64), scales.astype(np.float64), zeros, precision)
    values = decode(codes, Format(wide))
    assert np.isfinite(values).all() and np.abs(values).max() <= protective_range(Format(wide))
    np.testing.assert_array_equal(result.values, values * result.tensor_scale)


@pytest.mark.parametrize("wide", LARGEST)
def test_dpq_beats_rounding_and_then_expanding(wide):
    ratios = []
    for seed in range(8):
        weight, hessian = problem(seed, rows=16, columns=256, samples=600)
        errors = {
            quantiser: weighted_error(
                quantise_weight(weight, (0,), W4A8[wide], quantiser=quantiser, moments=hessian[None]).values - weight,
                hessian,
            )
            for quantiser in ("rtn", "gptq", "dpq")
        }
        assert errors["dpq"] < errors["rtn"]
        ratios.append((errors["dpq"] / errors["rtn"], errors["dpq"] / errors["gptq"]))
    assert np.mean(ratios, axis=0)[0] < 0.7
    assert np.mean(ratios, axis=0)[1] < 1


@pytest.mark.parametrize("wide", LARGEST)
def test_a_network_in_w4a8(wide):
    network = open_network("digits_cnn")
    assignment = uniform(network, W4A8[wide])
    errors = {}
    for quantiser in ("rtn", "dpq"):
        evaluator = AccuracyEvaluator(network, find_task(network), quantiser=quantiser)
        assert evaluator.measure(assignment).value > 0.95
        errors[quantiser] = evaluator.output_mse(assignment)
        # What is stored alike and expanded otherwise is measured apart.
        plain = {layer: precision.model_copy(update={"expanded_weight": None}) for layer, precision in
                 assignment.items()} if quantiser == "rtn" else {}
        assert evaluator.output_mse(plain) != errors[quantiser]
    assert errors["dpq"] < 0.8 * errors["rtn"]


def test_ranges_and_scales():
    assert protective_range(Format("fp8_e4m3")) == pytest.approx(448 * 14 / 15)
    assert protective_range(Format("fp8_e4m3_ieee")) == 224  # the limit of the preset gaudi_like
    assert open_accelerator("gaudi_like").processing_element.expansion_limit == 224
    wide = Format("fp8_e4m3_ieee")
    assert [tensor_scale(np.array([x]), wide) for x in (224.0, 225.0, 1.0, 0.0)] == [1.0, 2.0, 2**-7, 2**-16]


def test_nothing_overflows_at_the_ends():
    """The cast alone would turn what lies beyond the largest value into NaN."""
    weight = np.array([[500.0, -500.0, 0.001] * 50, [450.0, 1.0, 500.0] * 50], np.float32)
    for wide in LARGEST:
        for quantiser in ("rtn", "gptq", "dpq"):
            result = quantise_weight(weight, (0,), W4A8[wide], quantiser=quantiser, moments=np.eye(150)[None])
            assert np.isfinite(result.values).all() and result.tensor_scale >= 2


@pytest.mark.parametrize("quantiser", ["dpq", "gptq", "gptq_act"])
def test_what_is_never_fed_widens_no_scale(quantiser):
    """Columns that are fed nothing count as 0 before the scale of the tensor is taken, in each group of channels."""
    rng = np.random.default_rng(11)
    weight = rng.normal(size=(8, 64)).astype(np.float32)
    moments = np.stack([np.cov(rng.normal(size=(64, 300))) for _ in range(2)])
    for group, dead in enumerate((5, 40)):  # each of the two groups of channels has one of its own
        moments[group, dead] = moments[group, :, dead] = 0
        weight[4 * group : 4 * group + 4, dead] *= 1e6
    without = weight.copy()
    without[:4, 5] = without[4:, 40] = 0
    found, expected = (
        quantise_weight(each, (0,), W4A8["fp8_e4m3"], quantiser=quantiser, moments=moments)
        for each in (weight, without)
    )
    assert found.tensor_scale == tensor_scale(without, Format("fp8_e4m3")) == 2**-6
    np.testing.assert_array_equal(found.values, expected.values)
    assert (found.values[:4, 5] == 0).all() and (found.values[4:, 40] == 0).all()
    assert np.square(found.values - without).mean() < 0.05 * np.square(without).mean()
    # One scale for a tensor of integers, which all groups of channels share, is that of what is fed as well.
    tensor = LayerPrecision.parse("w4a8").model_copy(update={"weight_group": 0})
    if quantiser != "dpq":
        assert quantise_weight(weight, (0,), tensor, quantiser=quantiser, moments=moments).scale < 1


def test_mistakes_are_named():
    weight, hessian = problem(8)
    with pytest.raises(PrecisionError, match="group=32: is too small for group-aware reordering"):
        dpq(weight, hessian, "fp8_e4m3", group=32)
    assert dpq(weight, hessian, "fp8_e4m3", group=4, order="natural").scale.shape == (4, 3)
    with pytest.raises(PrecisionError, match=r"(?s)stored_format=fp16.*expanded_format=int8"):
        dpq(weight, hessian, "int8", stored_format="fp16")
    with pytest.raises(PrecisionError, match="order='best'"):
        dpq(weight, hessian, "fp8_e4m3", order="best")
    with pytest.raises(PrecisionError, match="group=0"):
        dpq(weight, hessian, "fp8_e4m3", group=0)
    with pytest.raises(PrecisionError, match="quantiser='dpq': is for weights that are expanded"):
        quantise_weight(weight, (0,), LayerPrecision(), quantiser="dpq", moments=hessian[None])


def test_small_groups_are_for_dpq_without_reordering():
    weight, hessian = problem(8)
    small = W4A8["fp8_e4m3"].model_copy(update={"weight_group": 4})
    with pytest.raises(PrecisionError, match="group=4: is too small for group-aware reordering"):
        quantise_weight(weight, (0,), small, quantiser="dpq", moments=hessian[None])
    found = quantise_weight(weight, (0,), small, quantiser="dpq_natural", moments=hessian[None])
    direct = dpq(weight, hessian, "fp8_e4m3", group=4, order="natural")
    assert np.array_equal(found.values, direct.values) and np.array_equal(found.codes, direct.codes)
