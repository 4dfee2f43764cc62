"""Quantisers: properties, a plain twin for granularity, and errors."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from simulator.errors import PrecisionError
from simulator.formats import Format
from workloads.quantisation import (
    LEAST_ERROR,
    MAX_ABS,
    Clipping,
    activation_parameters,
    code_range,
    quantise,
    quantise_activation,
)

FLOATS = ("fp8_e4m3", "fp8_e4m3_ieee", "fp8_e5m2", "fp16", "bf16", "fp32")
DTYPES = {
    "fp8_e4m3": ml_dtypes.float8_e4m3fn, "fp8_e4m3_ieee": ml_dtypes.float8_e4m3,
    "fp8_e5m2": ml_dtypes.float8_e5m2, "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16, "fp32": np.float32,
}
numbers = st.floats(-1e4, 1e4, width=32)
arrays = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=7), elements=numbers)
integers = st.builds(lambda sign, bits: Format(f"{sign}int{bits}"), st.sampled_from(["", "u"]), st.integers(1, 16))
formats = st.one_of(integers, st.sampled_from([Format(name) for name in FLOATS]))


@given(arrays, integers)
def test_integer_error_is_at_most_half_a_step_inside_the_range(values, format):
    result = quantise(values, format)
    lowest, highest = code_range(format, symmetric=True)
    assert result.codes.min() >= lowest and result.codes.max() <= highest
    inside = (values >= lowest * result.scale) & (values <= highest * result.scale)
    error = np.abs(result.values.astype(np.float64) - values)[inside]
    # Half a step, and the roundings of FP32 arithmetic on a value of up to 2^15 steps.
    slack = np.abs(values[inside]) * 4 * np.finfo(np.float32).eps
    assert (error <= float(result.scale) / 2 * (1 + 1e-6) + slack).all()


@given(arrays, st.integers(2, 16))
def test_maximum_magnitude_is_never_clipped(values, bits):
    result = quantise(values, f"int{bits}")
    assert np.abs(result.values).max() == pytest.approx(np.abs(values).max(), rel=1e-5, abs=1e-35)


clippings = st.sampled_from([MAX_ABS, Clipping(98.0), LEAST_ERROR])


@given(arrays, formats, st.booleans(), clippings)
def test_quantising_again_with_the_same_scale_changes_nothing(values, format, symmetric, clipping):
    once = quantise(values, format, symmetric=symmetric, clipping=clipping)
    twice = quantise(once.values, format, symmetric=symmetric, scale=once.scale, zero_point=once.zero_point)
    np.testing.assert_array_equal(once.values, twice.values)
    np.testing.assert_array_equal(once.codes, twice.codes)


@given(arrays, formats, st.booleans(), clippings)
def test_monotone(values, format, symmetric, clipping):
    order = np.argsort(values.ravel(), kind="stable")
    quantised = quantise(values, format, symmetric=symmetric, clipping=clipping)
    assert (np.diff(quantised.values.ravel()[order]) >= 0).all()


@given(arrays, integers.filter(lambda format: format.bits > 1))
def test_zero_points_give_all_values_half_a_step(values, format):
    result = quantise(values, format, symmetric=False)
    lowest, highest = code_range(format, symmetric=False)
    assert lowest <= result.codes.min() and result.codes.max() <= highest
    assert lowest <= result.zero_point <= highest
    scale = float(result.scale)
    np.testing.assert_allclose(result.values, (result.codes - result.zero_point) * scale, rtol=1e-6)
    # The zero point is rounded, so an end of the range may be clipped by up to half a step more.
    slack = np.abs(values) * 4 * np.finfo(np.float32).eps
    assert (np.abs(result.values.astype(np.float64) - values) <= scale * 1.001 + slack).all()
    inside = (values >= (lowest - result.zero_point) * scale) & (values <= (highest - result.zero_point) * scale)
    error = np.abs(result.values.astype(np.float64) - values)[inside]
    assert (error <= scale / 2 * (1 + 1e-6) + slack[inside]).all()
    assert quantise(np.append(values, 0.0), format, symmetric=False).values[-1] == 0


def test_a_zero_point_halves_the_step_of_one_sided_values():
    weights = np.linspace(0, 15, 16, dtype=np.float32)
    result = quantise(weights, "uint4", symmetric=False)
    assert (result.scale, result.zero_point) == (1.0, 0) and (result.values == weights).all()
    result = quantise(-weights, "int4", symmetric=False)
    assert (result.scale, result.zero_point) == (1.0, 7) and (result.values == -weights).all()


def squared_error(result, values):
    return float(np.square(result.values.astype(np.float64) - values).sum())


@given(arrays, formats, st.booleans())
def test_least_error_is_never_worse_than_the_whole_range(values, format, symmetric):
    errors = [squared_error(quantise(values, format, symmetric=symmetric, clipping=clipping), values)
              for clipping in (LEAST_ERROR, MAX_ABS)]
    assert errors[0] <= errors[1] * (1 + 1e-12)


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("shape", ["normal", "laplace"])
def test_least_error_is_near_the_exact_optimum(bits, shape):
    values = getattr(np.random.default_rng([bits, len(shape)]), shape)(size=200).astype(np.float32)
    highest = (1 << (bits - 1)) - 1
    # Between neighbouring scales at which a code changes all codes hold, and least squares gives the best scale.
    edges = np.sort((np.abs(values)[:, None] / (np.arange(highest) + 0.5)).ravel().astype(np.float64))
    optimum = np.inf
    for scale in (edges[1:] + edges[:-1]) / 2:
        codes = np.clip(np.rint(values / scale), -highest, highest)
        optimum = min(optimum, float(np.square(values - codes * (values @ codes) / (codes @ codes)).sum()))
    found = squared_error(quantise(values, f"int{bits}", clipping=LEAST_ERROR), values)
    assert optimum * (1 - 1e-6) <= found <= 1.01 * optimum
    if bits < 6:
        assert found < 0.95 * squared_error(quantise(values, f"int{bits}"), values)


@given(arrays, integers)
def test_values_are_codes_times_scale(values, format):
    result = quantise(values, format)
    np.testing.assert_array_equal(result.values, result.codes.astype(np.float32) * result.scale)
    assert result.codes.dtype == np.int32 and result.codes.shape == values.shape == result.values.shape


@given(hnp.arrays(np.float32, (2, 3, 5), elements=numbers), st.sampled_from(["int2", "uint4", "int7", "fp8_e4m3"]),
       st.sampled_from([1, 2, 3, 4, 10, 99]), st.sampled_from([(0,), (1,), (2,), (0, 2), (-1,)]), st.booleans(),
       clippings)
def test_groups_equal_a_plain_loop(values, format, group, axes, symmetric, clipping):
    options = {"symmetric": symmetric, "clipping": clipping}
    result = quantise(values, format, channel_axes=axes, group=group, **options)
    rest = [axis for axis in range(3) if axis not in {a % 3 for a in axes}]
    channels = np.ndindex(*(values.shape[axis] for axis in axes))
    for row, channel in enumerate(channels):
        index = [slice(None)] * 3
        for axis, position in zip(axes, channel, strict=True):
            index[axis] = position
        flat, got = values[tuple(index)].ravel(), result.values[tuple(index)].ravel()
        assert len(flat) == np.prod([values.shape[axis] for axis in rest])
        for number, start in enumerate(range(0, len(flat), group)):
            part = quantise(flat[start : start + group], format, **options)
            np.testing.assert_array_equal(got[start : start + group], part.values)
            assert result.scale[row, number] == part.scale
            assert result.zero_point[row, number] == part.zero_point


def test_a_scale_for_each_channel_serves_small_channels():
    weights = np.array([[1000.0, 500.0], [1.0, 0.5]], np.float32)
    by_channel = quantise(weights, "int4", channel_axes=(0,), group=-1)
    assert by_channel.scale.shape == (2,)
    assert np.abs(by_channel.values - weights)[1].max() <= by_channel.scale[1] / 2
    assert (quantise(weights, "int4").values[1] == 0).all()


@given(arrays, st.sampled_from(FLOATS))
def test_floats_are_clipped_then_cast(values, name):
    result = quantise(values * 100, name, scale=1.0)
    largest = float(ml_dtypes.finfo(DTYPES[name]).max)
    expected = np.clip(values * 100, -largest, largest).astype(DTYPES[name])
    np.testing.assert_array_equal(result.values, expected.astype(np.float32))
    assert np.isfinite(result.values).all() and result.codes.dtype == DTYPES[name]


def test_500_in_e4m3_is_448_not_nan():
    assert np.isnan(np.float32(500).astype(ml_dtypes.float8_e4m3fn).astype(np.float32))
    assert quantise([500.0, -500.0], "fp8_e4m3", scale=1.0).values.tolist() == [448.0, -448.0]


def test_known_values():
    result = quantise([-1.0, -0.5, 0.24, 0.7, 1.0], "int3")
    assert result.scale == np.float32(1 / 3)
    assert result.codes.tolist() == [-3, -2, 1, 2, 3]  # -1.5 steps: ties to even
    assert quantise([-2.0, 0.6, 3.0], "uint2").codes.tolist() == [0, 1, 3]
    assert quantise([-2.0, 0.6, 3.0], "int1").codes.tolist() == [-1, 0, 0]


def test_zeros_and_tiny_values_are_fine():
    assert (quantise(np.zeros(4), "int8").values == 0).all()
    assert np.isfinite(quantise([1e-44, -1e-44], "int16").values).all()


def test_clipping_takes_a_finer_step():
    values = np.concatenate([np.linspace(-1, 1, 999), [100.0]]).astype(np.float32)
    clipped = quantise(values, "int8", clipping=Clipping(99.5))
    assert float(clipped.scale) < 0.02 and clipped.values[-1] < 1.1
    assert float(quantise(values, "int8").scale) > 0.7


@given(st.floats(-1e4, 1e4), st.floats(0, 1e4), integers.filter(lambda f: f.bits > 1),
       st.sampled_from(["affine", "symmetric"]), st.lists(st.floats(0, 1), max_size=20))
def test_activation_ranges(low, width, format, scheme, shares):
    parameters = activation_parameters(low, low + width, format, scheme)
    values = np.array([*(low + width * share for share in shares), 0.0], np.float32)
    result = quantise_activation(values, parameters)
    assert result.values[-1] == 0  # padding stays exact
    assert parameters.lowest <= parameters.zero_point <= parameters.highest
    if scheme == "symmetric":
        assert parameters.zero_point == 0
    held = values if scheme == "affine" or format.is_signed else values[values >= 0]
    kept = result.values if scheme == "affine" or format.is_signed else result.values[values >= 0]
    # The zero point is rounded, so an end of the range may be clipped by up to half a step more.
    assert (np.abs(kept - held) <= parameters.scale * 1.001 + np.abs(held) * 1e-6).all()


def test_affine_uses_all_codes_of_a_relu():
    parameters = activation_parameters(0.0, 15.0, "int4")
    assert (parameters.scale, parameters.zero_point) == (1.0, -8)
    assert quantise_activation([0.0, 7.4, 15.0, 99.0], parameters).codes.tolist() == [-8, -1, 7, 7]


@pytest.mark.parametrize("call, message", [
    (lambda: quantise([np.nan], "int8"), "must be finite"),
    (lambda: quantise([1.0], "int17"), "at most 16 bits"),
    (lambda: quantise([1.0], "int8", channel_axes=(3,), group=-1), "channel_axes"),
    (lambda: quantise([1.0], "int8", scale=[1.0, 2.0]), "scale"),
    (lambda: quantise([1.0], "int8", scale=0.0), "must be positive"),
    (lambda: quantise([1.0], "uint4", symmetric=False, scale=1.0, zero_point=16), "zero_point=16"),
    (lambda: quantise([1.0], "uint4", scale=1.0, zero_point=3), "0 where values are symmetric"),
    (lambda: quantise([1.0], "uint4", symmetric=False, scale=1.0, zero_point=[1, 2]), "one beside each scale"),
    (lambda: quantise([1.0], "itn8"), "did you mean 'int8'"),
    (lambda: Clipping(0.0), "clipping.percentile"),
    (lambda: activation_parameters(1.0, 0.0, "int8"), "low ≤ high"),
    (lambda: activation_parameters(0.0, np.inf, "int8"), "finite range"),
    (lambda: quantise_activation([np.inf], activation_parameters(0, 1, "int8")), "must be finite"),
])
def test_mistakes_are_named(call, message):
    with pytest.raises(PrecisionError, match=message):
        call()


@settings(max_examples=10)
@given(arrays)
def test_fp32_changes_nothing(values):
    np.testing.assert_array_equal(quantise(values, "fp32").values, values)
