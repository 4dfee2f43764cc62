"""GPTQ against the formulas it shortens, moments against plain sums, and both through the evaluator."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.errors import PrecisionError
from simulator.formats import Format
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from workloads.accuracy import AccuracyEvaluator, uniform
from workloads.error_compensation import inverse_factor, weighted_error
from workloads.fake_quantised_model import trained_weight
from workloads.gptq import gptq
from workloads.input_moments import patches, record_moments
from workloads.quantisation import LEAST_ERROR, MAX_ABS, quantise
from workloads.tasks import find_task
from workloads.weight_quantisers import quantise_weight

seeds = st.integers(0, 2**32 - 1)


def problem(seed, rows=5, columns=14, samples=40):
    """Weights, and moments of inputs whose columns depend on each other."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(columns, columns)) * rng.lognormal(0, 1, columns)
    x = rng.normal(size=(samples, columns)) @ mixing
    return rng.normal(size=(rows, columns)).astype(np.float32), 2 / samples * x.T @ x


def plain_gptq(weight, hessian, format, group, symmetric, order, damping, clipping=MAX_ABS):
    """Column by column, with an inverse of what is left for each of them."""
    weights = weight.astype(np.float64)
    columns = weights.shape[1]
    width = group if group > 0 else columns
    damped = hessian + damping * np.diag(hessian).mean() * np.eye(columns)
    options = {"symmetric": symmetric, "clipping": clipping}

    def scales_of(part):
        found = quantise(part.astype(np.float32), format, channel_axes=(0,), group=-1 if group else 0, **options)
        return found.scale, found.zero_point

    chosen = {own: scales_of(weights[:, own * width : (own + 1) * width]) for own in range(-(-columns // width))}
    left = list(range(columns))
    if order == "act":
        left.sort(key=lambda column: -hessian[column, column])
    rounded = np.empty_like(weights)
    while left:
        column = left[0]
        own = column // width
        if order == "natural" and group > 0 and column % width == 0:
            chosen[own] = scales_of(weights[:, column : column + width])
        scale, zero = chosen[own]
        rounded[:, column] = quantise(
            weights[:, column].astype(np.float32), format, channel_axes=(0,), group=-1 if group else 0,
            symmetric=symmetric, scale=scale, zero_point=None if symmetric else zero,
        ).values
        inverse = np.linalg.inv(damped[np.ix_(left, left)])
        error = weights[:, column] - rounded[:, column]
        weights[:, left] -= np.outer(error / inverse[0, 0], inverse[0])
        left = left[1:]
    return rounded


@given(seeds, st.sampled_from(["int2", "int4", "uint4", "fp8_e4m3"]), st.sampled_from([0, -1, 1, 3, 5, 14]),
       st.booleans(), st.sampled_from(["natural", "act"]), st.sampled_from([0.001, 0.01, 0.5]))
def test_gptq_equals_its_formulas(seed, format, group, symmetric, order, damping):
    weight, hessian = problem(seed)
    options = {"group": group, "symmetric": symmetric, "order": order, "damping": damping}
    result = gptq(weight, hessian, format, **options)
    expected = plain_gptq(weight, hessian, format, **options)
    np.testing.assert_allclose(result.values, expected, rtol=1e-4, atol=1e-5)
    zeros, scales = np.atleast_2d(result.zero_point.T).T, np.atleast_2d(result.scale.T).T
    number = np.arange(14) // (group if group > 0 else 14)
    steps = (result.codes.astype(np.float32) - zeros[:, number]).astype(np.float32)
    np.testing.assert_array_equal(result.values, steps * scales[:, number])


@pytest.mark.parametrize("order", ["natural", "act"])
@pytest.mark.parametrize("group", [-1, 48, 100])
def test_lazy_blocks_change_nothing(order, group):
    weight, hessian = problem(3, rows=4, columns=300, samples=400)
    options = {"group": group, "symmetric": False, "order": order, "damping": 0.01}
    result = gptq(weight, hessian, "int4", **options)
    expected = plain_gptq(weight, hessian, "int4", **options)
    np.testing.assert_allclose(result.values, expected, rtol=1e-4, atol=1e-5)


@given(seeds, st.sampled_from([0, -1, 4]), st.booleans(), st.sampled_from(["natural", "act"]),
       st.sampled_from([MAX_ABS, LEAST_ERROR]))
def test_nothing_can_be_made_good_where_inputs_are_independent(seed, group, symmetric, order, clipping):
    weight, hessian = problem(seed)
    result = gptq(weight, np.diag(np.diag(hessian)), "int3", group=group, symmetric=symmetric, order=order,
                  clipping=clipping)
    nearest = quantise(weight, "int3", channel_axes=(0,), group=group, symmetric=symmetric, clipping=clipping)
    np.testing.assert_array_equal(result.codes, nearest.codes)
    np.testing.assert_array_equal(result.scale, nearest.scale)
    np.testing.assert_array_equal(result.zero_point, nearest.zero_point)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_outputs_are_nearer_than_by_rounding_to_nearest(bits):
    ratios = []
    for seed in range(20):
        weight, hessian = problem(seed, rows=16, columns=48, samples=200)
        nearest = quantise(weight, f"int{bits}", channel_axes=(0,), group=-1).values
        errors = [weighted_error(found - weight, hessian)
                  for found in (gptq(weight, hessian, f"int{bits}").values, nearest)]
        ratios.append(errors[0] / errors[1])
    assert np.mean(ratios) < 0.7 and max(ratios) < 1


def test_the_factor_is_of_the_inverse():
    _, hessian = problem(1)
    factor = inverse_factor(hessian, 0.01)
    damped = hessian + 0.01 * np.diag(hessian).mean() * np.eye(14)
    np.testing.assert_allclose(factor.T @ factor @ damped, np.eye(14), atol=1e-9)
    assert (factor == np.triu(factor)).all() and (np.diag(factor) > 0).all()


def test_dead_columns_get_no_weight():
    weight, hessian = problem(2)
    hessian[3] = hessian[:, 3] = 0
    result = gptq(weight, hessian, "int4")
    assert (result.values[:, 3] == 0).all() and np.isfinite(result.values).all()


def test_mistakes_are_named():
    weight, hessian = problem(4)
    with pytest.raises(PrecisionError, match="hessian=shape"):
        gptq(weight, hessian[:3, :3], "int4")
    with pytest.raises(PrecisionError, match="singular"):
        gptq(weight, np.ones_like(hessian), "int4", damping=0)
    with pytest.raises(PrecisionError, match="damping=-1"):
        gptq(weight, hessian, "int4", damping=-1)
    with pytest.raises(PrecisionError, match="order='best'"):
        gptq(weight, hessian, "int4", order="best")
    with pytest.raises(PrecisionError, match="hessian: must be finite"):
        gptq(weight, hessian * np.nan, "int4")
    with pytest.raises(PrecisionError, match="did you mean 'gptq'"):
        quantise_weight(weight, (0,), LayerPrecision(), quantiser="gtpq")


def plain_patches(layer, inputs):
    """Patches one value at a time: [G, C·R·S, N·P·Q]."""
    g_, n_, c_, p_, q_, r_, s_ = (layer.extent(dim) for dim in "GNCPQRS")
    found = np.zeros((g_, c_ * r_ * s_, n_ * p_ * q_))
    for place, (n, p, q) in enumerate(np.ndindex(n_, p_, q_)):
        for column, (c, r, s) in enumerate(np.ndindex(c_, r_, s_)):
            y = p * layer.stride[0] + r * layer.dilation[0] - layer.padding_begin[0]
            x = q * layer.stride[1] + s * layer.dilation[1] - layer.padding_begin[1]
            if 0 <= y < inputs.shape[3] and 0 <= x < inputs.shape[4]:
                found[:, column, place] = inputs[:, n, c, y, x]
    return found


@pytest.mark.parametrize("layer", [
    Layer(name="plain", dims={"K": 2, "C": 3, "P": 4, "Q": 3, "R": 3, "S": 2}),
    Layer(name="padded", dims={"G": 2, "N": 2, "K": 2, "C": 2, "P": 4, "Q": 4, "R": 3, "S": 3}, padding_begin=(1, 1),
          input_size=(4, 4)),
    Layer(name="strided", dims={"C": 2, "P": 3, "Q": 2, "R": 2, "S": 3}, stride=(2, 3), dilation=(2, 1),
          padding_begin=(1, 0), input_size=(6, 7)),
    Layer(name="product", dims={"C": 5, "K": 3, "P": 7}),
], ids=lambda layer: layer.name)
def test_patches_equal_a_plain_loop(layer, monkeypatch):
    shape = layer.extent("G"), layer.extent("N"), layer.extent("C"), *layer.stored_input_size
    inputs = np.random.default_rng(5).normal(size=shape)
    expected = plain_patches(layer, inputs)
    np.testing.assert_array_equal(np.concatenate(list(patches(layer, inputs)), axis=2).sum(), expected.sum())
    (whole,) = patches(layer, inputs)
    np.testing.assert_array_equal(whole, expected)
    monkeypatch.setattr("workloads.input_moments._VALUES_AT_ONCE", 1)
    together = sum(part @ part.swapaxes(1, 2) for part in patches(layer, inputs))
    np.testing.assert_allclose(together, expected @ expected.swapaxes(1, 2), atol=1e-9)


def test_moments_of_a_network_give_its_output_errors(digits):
    """The weighted error of a layer is the mean square of what its outputs change by."""
    feed = {"image": find_task(digits).calibration_feeds()[0]["image"][:9]}
    moments = record_moments(digits, [feed])
    assert moments.missing == () and set(moments.by_layer) == {layer.name for layer in digits.trained_layers}
    weight = trained_weight(digits, "conv1")
    change = np.random.default_rng(6).normal(size=weight.shape)
    x = np.pad(feed["image"], ((0, 0), (0, 0), (1, 1), (1, 1)))
    outputs = sum(change[:, 0, r, s][None, :, None, None] * x[:, :, r : r + 8, s : s + 8]
                  for r in range(3) for s in range(3))
    assert weighted_error(change.reshape(len(change), -1), moments.by_layer["conv1"][0]) == pytest.approx(
        np.square(outputs).mean(axis=(0, 2, 3)).sum(), rel=1e-5
    )
    assert moments.by_layer["depthwise"].shape == (digits.graph.nodes["depthwise"]["op"].extent("G"), 9, 9)


@pytest.mark.parametrize("quantiser", ["gptq", "gptq_act"])
def test_a_network_keeps_its_outputs_better(digits, quantiser):
    task = find_task(digits)
    precision = LayerPrecision(weight=Format("int3"), input=Format("fp32"))
    errors = [AccuracyEvaluator(digits, task, quantiser=name).output_mse(uniform(digits, precision))
              for name in ("rtn", quantiser)]
    assert errors[1] < 0.7 * errors[0]


def test_every_granularity_goes_through_the_network(digits):
    moments = record_moments(digits, find_task(digits).calibration_feeds())
    for layer in digits.trained_layers:
        weight, axes = trained_weight(digits, layer.name), digits.bindings[layer.name].weight_channel_axes
        for group in (0, -1, 8):
            precision = LayerPrecision(weight=Format("int4"), weight_group=group, zero_bits=4)
            nearest = quantise_weight(weight, axes, precision)
            found = quantise_weight(weight, axes, precision, quantiser="gptq", moments=moments.by_layer[layer.name])
            assert found.values.shape == weight.shape and found.scale.shape == nearest.scale.shape
            assert found.zero_point.shape == nearest.zero_point.shape and found.codes.dtype == nearest.codes.dtype
            diagonal = np.stack([np.diag(np.diag(part)) for part in moments.by_layer[layer.name]])
            if (diagonal.max(axis=2) > 0).all():
                same = quantise_weight(weight, axes, precision, quantiser="gptq", moments=diagonal)
                np.testing.assert_array_equal(same.values, nearest.values)
