"""Floating-point formats, the precisions that name them, and the element that runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner

import bitmosaic
from bitmosaic.cli import main
from simulator.errors import PrecisionError
from simulator.floating import FLOAT_TYPES, NAN_CODES, decode, encode, flushed, rounded
from simulator.formats import FLOAT_BITS, Format
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from simulator.processing_elements import FloatingPointElement

EVERY = tuple(FLOAT_BITS)
NARROW = [name for name in EVERY if FLOAT_BITS[name] <= 16]
LARGEST = {
    "fp8_e4m3": 448.0, "fp8_e4m3_ieee": 240.0, "fp8_e5m2": 57344.0, "fp16": 65504.0,
    "bf16": (2 - 2**-7) * 2.0**127, "fp32": (2 - 2**-23) * 2.0**127,
}


def element(*formats: str, **parameters: Any) -> FloatingPointElement:
    return FloatingPointElement(operand_formats=formats or EVERY, energy_pj_per_cycle=1.0, **parameters)


def precision(weight: str, activation: str, accumulator: str = "fp32", output: str = "fp32") -> LayerPrecision:
    return LayerPrecision(weight=weight, input=activation, accumulator=accumulator, output=output)


# Formats


@pytest.mark.parametrize("name", NARROW)
def test_every_code_comes_back(name: str) -> None:
    codes = np.arange(1 << FLOAT_BITS[name])
    values = decode(codes, Format(name))
    again = encode(rounded(values, Format(name)), Format(name))
    np.testing.assert_array_equal(again, np.where(np.isnan(values), NAN_CODES[name], codes))
    assert np.isnan(decode(NAN_CODES[name], Format(name)))
    assert np.nanmax(np.where(np.isinf(values), np.nan, values)) == LARGEST[name]
    assert np.isinf(values).any() == (name != "fp8_e4m3")


@pytest.mark.parametrize("name", EVERY)
def test_rounding_is_that_of_the_types(name: str) -> None:
    """FP32 values of all magnitudes, and those at and beside the middle of two neighbours of the format."""
    rng = np.random.default_rng(5)
    codes = rng.integers(1 << 32, size=20000, dtype=np.uint32)
    with np.errstate(all="ignore"):
        narrow = decode(rng.integers(1 << FLOAT_BITS[name], size=20000), Format(name)).astype(np.float32)
        middles = narrow + np.spacing(narrow.astype(FLOAT_TYPES[name])).astype(np.float32) / 2
        beside = np.nextafter(middles, np.float32(rng.choice([-np.inf, np.inf])))
        values = np.concatenate([codes.view(np.float32), middles, beside])
        expected = values.astype(FLOAT_TYPES[name])
        # The middle of two FP32 values needs more bits than FP32 has: there rounding is held by float64 instead.
        if name == "fp32":
            values = values.astype(np.float64) * (1 + 2.0**-24)
            expected = values.astype(np.float32)
        wide = np.asarray(values, np.float64)
    found = decode(encode(rounded(np.where(np.isnan(wide), np.nan, wide), Format(name)), Format(name)), Format(name))
    np.testing.assert_array_equal(found, expected.astype(np.float64))
    np.testing.assert_array_equal(np.signbit(found[found == 0]), np.signbit(expected[found == 0]))


@pytest.mark.parametrize("name", EVERY)
def test_what_is_too_large_and_too_small(name: str) -> None:
    beyond = np.array([LARGEST[name] * 1.5, -LARGEST[name] * 1.5, np.inf, np.nan])
    saturated = decode(encode(rounded(beyond, Format(name)), Format(name), saturates=True), Format(name))
    np.testing.assert_array_equal(saturated, [LARGEST[name], -LARGEST[name], LARGEST[name], np.nan])
    kept = decode(encode(rounded(beyond, Format(name)), Format(name)), Format(name))
    infinity = np.nan if name == "fp8_e4m3" else np.inf
    np.testing.assert_array_equal(kept, [infinity, -infinity, infinity, np.nan])
    smallest = float(ml_dtypes.finfo(FLOAT_TYPES[name]).smallest_normal)
    zeros = flushed(np.array([smallest, smallest / 2, -smallest / 2]), Format(name))
    np.testing.assert_array_equal(zeros, [smallest, 0, 0])
    assert np.signbit(zeros[2])


# Precisions


@pytest.mark.parametrize(("text", "weight", "activation", "scale_bits"), [
    ("fp32", "fp32", "fp32", 0), (" BF16 ", "bf16", "bf16", 0), ("fp8_e4m3", "fp8_e4m3", "fp8_e4m3", 16),
    ("fp8_e4m3_ieee:fp8_e5m2", "fp8_e4m3_ieee", "fp8_e5m2", 16), ("int4:bf16", "int4", "bf16", 16),
])
def test_precisions_name_formats(text: str, weight: str, activation: str, scale_bits: int) -> None:
    found = LayerPrecision.parse(text)
    assert (found.weight, found.input, found.output) == (weight, activation, activation)
    assert (found.accumulator, found.scale_bits) == ("fp32", scale_bits)
    assert found.stored_bits("weight") == Format(weight).bits and found.stored_bits("output") == 32
    assert LayerPrecision.parse(found.label) == found
    assert found.parameter_bits(Layer(name="layer", dims={"K": 3})) == 3 * scale_bits


def test_integers_may_be_named_by_their_formats() -> None:
    assert LayerPrecision.parse("int4:int8") == LayerPrecision.parse("w4a8")


@pytest.mark.parametrize(("text", "message"), [
    ("bf61", "did you mean 'bf16'?"), ("fp8_e4m4:bf16", "'fp8_e4m4': no such number format"),
    ("bf16:", "'': no such number format"), ("bf16:bf16:bf16", "must name weight and activation bits"),
])
def test_precisions_that_are_none(text: str, message: str) -> None:
    with pytest.raises(PrecisionError) as caught:
        LayerPrecision.parse(text)
    assert message in str(caught.value)


# The element


def test_half_the_width_twice_the_lanes() -> None:
    wide, plain = element(lane_count=3), element(lane_count=3, lanes_double_at_half_width=False, step_cycles=4)
    lanes = {("fp32", "fp32"): 3, ("fp16", "bf16"): 6, ("fp8_e4m3", "fp8_e5m2"): 12, ("fp8_e4m3", "fp32"): 3}
    for (weight, activation), expected in lanes.items():
        assert wide.lanes(precision(weight, activation)) == expected
        assert wide.cycles_per_step(precision(weight, activation)) == 1
        assert plain.lanes(precision(weight, activation)) == 3
        assert plain.cycles_per_step(precision(weight, activation)) == 4
    assert element("bf16", "fp8_e5m2").lanes(precision("bf16", "bf16")) == 1


@pytest.mark.parametrize(("formats", "paths"), [
    (precision("fp8_e4m3", "bf16"), []),
    (precision("fp8_e5m2", "bf16"), ["precision.weight"]),
    (precision("bf16", "int8", "fp16"), ["precision.input", "precision.accumulator"]),
    (LayerPrecision(), ["precision.weight", "precision.input", "precision.accumulator"]),
    (precision("bf16", "bf16", output="int8"), []),
])
def test_what_it_cannot_run_is_named(formats: LayerPrecision, paths: list[str]) -> None:
    problems = element("bf16", "fp8_e4m3").problems(formats)
    assert [problem.path for problem in problems] == paths
    assert all(problem.allowed for problem in problems)


def test_a_near_format_is_proposed() -> None:
    (problem,) = element("bf16", "fp8_e4m3").problems(precision("fp8_e5m2", "bf16"))
    assert problem.did_you_mean == "fp8_e4m3"


def test_formats_stand_once() -> None:
    with pytest.raises(ValueError, match="must not repeat"):
        element("bf16", "bf16")


def dot(unit: FloatingPointElement, weights: list[float], inputs: list[float], name: str) -> float:
    formats = precision(name, name, unit.accumulator_format, name)
    codes = [encode(np.array(values), Format(name)) for values in (weights, inputs)]
    sums = unit.dot(*codes, formats)
    return float(decode(sums, Format(unit.accumulator_format)))


def test_the_order_of_lanes_shows() -> None:
    """In FP16 2048 + 1 is 2048: a chain loses every 1, a tree adds them to each other first."""
    weights, ones = [2048.0, 1.0, 1.0, 1.0, 1.0], [1.0] * 5
    assert dot(element(accumulator_format="fp16", lane_order="chain"), weights, ones, "fp16") == 2048
    # (2048 + 1) + (1 + 1) = 2050, and then 1: halfway, to the even 2052 of 2050 and 2052.
    assert dot(element(accumulator_format="fp16"), weights, ones, "fp16") == 2052


def test_products_round_before_they_are_added() -> None:
    """(1 + 2^-10)² = 1 + 2^-9 + 2^-20 loses its last bit in FP16: nothing is left after taking the rest away."""
    near_one = 1 + 2.0**-10
    weights, inputs = [near_one, -(1 + 2.0**-9)], [near_one, 1.0]
    assert dot(element(accumulator_format="fp16"), weights, inputs, "fp16") == 0
    assert dot(element(), weights, inputs, "fp16") == 2.0**-20


def test_special_values() -> None:
    infinite = np.inf
    for weights, inputs, expected in (
        ([infinite, -infinite], [1.0, 1.0], np.nan), ([infinite, 1.0], [0.0, 1.0], np.nan),
        ([infinite, 1.0], [-2.0, 1.0], -infinite), ([3e38, 3e38], [1.0, 1.0], infinite), ([3e38], [-4.0], -infinite),
    ):
        np.testing.assert_equal(dot(element(), weights, inputs, "bf16" if 3e38 not in weights else "fp32"), expected)


def test_subnormals_may_be_flushed() -> None:
    """Operands, products and outputs each on their own."""
    flushing = element(subnormals="flushed")
    smallest = 2.0**-24
    assert dot(element(), [smallest], [1.0], "fp16") == smallest
    assert dot(flushing, [smallest], [1.0], "fp16") == 0
    assert dot(element(), [2.0**-100], [2.0**-40], "fp32") == 2.0**-140
    assert dot(flushing, [2.0**-100], [2.0**-40], "fp32") == 0
    sums = encode(np.array([-smallest]), Format("fp32")).tolist()
    formats = precision("fp16", "fp16", output="fp16")
    assert element().finish(sums, formats) == [0x8001]
    assert flushing.finish(sums, formats) == [0x8000]


def test_outputs_may_saturate() -> None:
    sums = encode(np.array([470.0, -1e9, np.inf, np.nan, 464.0]), Format("fp32")).tolist()
    formats = precision("fp16", "fp16", output="fp8_e4m3")
    assert element().finish(sums, formats) == [0x7F, 0x7F, 0x7F, 0x7F, 0x7E]
    assert element(output_overflow="saturated").finish(sums, formats) == [0x7E, 0xFE, 0x7E, 0x7F, 0x7E]


# As a part of a machine


EXAMPLE = """\
bitmosaic_version: 1
name: engine
description: "assumed, for this test"
clock_mhz: 1000.0
memories:
  - {kind: dram, bandwidth_bits_per_cycle: 256, read_energy_pj_per_bit: 1.0, write_energy_pj_per_bit: 1.0}
  - kind: buffer
    name: buffer
    keeps: [weight, input, output]
    size_bits: 1048576
    read_energy_pj_per_bit: 0.1
    write_energy_pj_per_bit: 0.1
grid:
  axes:
    - {name: rows, size: 4, unroll: [C]}
    - {name: columns, size: 4, unroll: [K]}
  passing: {kind: multicast}
processing_element:
  kind: floating_point
  operand_formats: [bf16, fp8_e4m3]
  lane_count: 2
  energy_pj_per_cycle: 1.0
  pipeline_cycles: 3
vector_unit: {lanes: 4, energy_pj_per_operation: 0.3}
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bitmosaic.Accelerator:
    monkeypatch.chdir(tmp_path)
    Path("engine.yaml").write_text(EXAMPLE, encoding="utf-8")
    return bitmosaic.open_accelerator("engine.yaml")


def test_yaml_and_back(machine: bitmosaic.Accelerator) -> None:
    assert isinstance(machine.processing_element, FloatingPointElement)
    Path("again.yaml").write_text(bitmosaic.dump_accelerator(machine), encoding="utf-8")
    assert bitmosaic.open_accelerator("again.yaml") == machine


def test_a_wrong_format_in_yaml_is_named(machine: bitmosaic.Accelerator) -> None:
    Path("engine.yaml").write_text(EXAMPLE.replace("[bf16, fp8_e4m3]", "[bf16, fp8_e4m]"), encoding="utf-8")
    (problem,) = bitmosaic.validate_file("engine.yaml")
    assert str(problem) == (
        "engine.yaml:20: processing_element.operand_formats[1]='fp8_e4m': no such choice "
        "(allowed: fp8_e4m3, fp8_e4m3_ieee, fp8_e5m2, fp16, bf16, fp32; did you mean 'fp8_e4m3'?)"
    )


def test_the_mapper_uses_the_doubled_lanes(machine: bitmosaic.Accelerator) -> None:
    """Compute alone: 64·64·32 products on 16 PEs of 2 lanes for BF16, of 4 for FP8."""
    layer, budget = Layer(name="product", dims={"K": 64, "C": 64, "P": 32}), bitmosaic.SearchBudget(cpu_seconds=1)
    compute = {}
    for label in ("bf16", "fp8_e4m3"):
        found = bitmosaic.map_layer(layer, LayerPrecision.parse(label), machine, budget=budget)
        compute[label] = bitmosaic.simulate(layer, LayerPrecision.parse(label), machine, found.mapping).compute_cycles
    assert compute == {"bf16": 64 * 64 * 32 // 32, "fp8_e4m3": 64 * 64 * 32 // 64}


def test_the_command_line_takes_it(machine: bitmosaic.Accelerator) -> None:
    command = ["simulate", "digits_cnn", "--hardware", "engine.yaml", "--seconds-per-layer", "0.1", "--gap", "0.5",
               "--workers", "1", "--precision"]
    result = CliRunner().invoke(main, [*command, "bf16"])
    assert result.exit_code == 0 and "bf16" in result.stdout, result.output
    refused = CliRunner().invoke(main, [*command, "w8a8"])
    assert refused.exit_code == 2
    assert "weight=int8: the processing element cannot run this format (accelerator engine) (allowed: bf16, fp8_e4m3" \
        in refused.stderr
