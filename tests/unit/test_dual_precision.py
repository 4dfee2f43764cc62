"""Weights stored as narrow integers and multiplied in FP8: precisions, expansion, widths, traffic, energy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner

import bitmosaic
from bitmosaic.cli import main
from bitmosaic.explorations.menu import for_layer
from simulator.errors import MappingError, PrecisionError
from simulator.floating import decode, encode
from simulator.formats import Format
from simulator.layer import Layer
from simulator.mapping import Mapping, MappingLevel
from simulator.precision import LayerPrecision
from simulator.processing_elements import DualPrecisionElement
from simulator.reference import simulate_reference
from simulator.scales import GroupScales
from tests.unit.test_floating_point import EXAMPLE

W4A8 = LayerPrecision.parse("w4:fp8_e4m3")
YAML = EXAMPLE.replace("kind: floating_point", "kind: dual_precision").replace(
    "    size_bits: 1048576\n", "    size_bits: 65536\n").replace(
    "grid:", "  - {kind: register_file, name: registers, keeps: [weight], size_bits: 32, read_energy_pj_per_bit: 0.5,"
    " write_energy_pj_per_bit: 0.5}\ngrid:")


def element(**parameters: Any) -> DualPrecisionElement:
    return DualPrecisionElement(
        **{"operand_formats": ("fp8_e4m3", "fp8_e4m3_ieee", "bf16"), "energy_pj_per_cycle": 1.0, **parameters}
    )


def expand(
    unit: DualPrecisionElement, codes: list[int], scale: float, zero: int, name: str = "fp8_e4m3"
) -> list[float]:
    formats = LayerPrecision.parse(f"w4:{name}")
    given = np.array(codes), np.full(len(codes), scale), np.full(len(codes), zero)
    return decode(unit.expand(*given, formats), Format(name)).tolist()


# Precisions


def test_the_short_form() -> None:
    assert (W4A8.weight, W4A8.expanded_weight, W4A8.input) == ("uint4", "fp8_e4m3", "fp8_e4m3")
    assert (W4A8.accumulator, W4A8.output, W4A8.weight_group, W4A8.zero_bits) == ("fp32", "bf16", 128, 4)
    assert W4A8.label == "w4:fp8_e4m3" and LayerPrecision.parse(W4A8.label) == W4A8
    assert (W4A8.stored_bits("weight"), W4A8.register_bits("weight"), W4A8.register_bits("input")) == (4, 8, 8)
    assert LayerPrecision.parse("int4:fp8_e4m3").expanded_weight is None


def test_scales_and_zero_points_cost_bits() -> None:
    layer = Layer(name="layer", dims={"G": 2, "K": 3, "C": 100, "R": 3})  # 300 weights a channel: three groups
    assert W4A8.scale_shape(layer) == (2, 3, 3)
    assert W4A8.parameter_bits(layer) == 2 * 3 * 3 * (16 + 4)
    product = layer.model_copy(update={"weight_is_activation": True})
    assert for_layer(product, W4A8).expanded_weight is None
    assert for_layer(product, W4A8).parameter_bits(product) == 16


@pytest.mark.parametrize(("text", "message"), [
    ("w4:int8", "must be a floating-point one"), ("w4:fp8", "'fp8': no such number format"),
    ("w40:bf16", "'uint40': no such number format"),
])
def test_short_forms_that_are_none(text: str, message: str) -> None:
    with pytest.raises(PrecisionError) as caught:
        LayerPrecision.parse(text)
    assert message in str(caught.value)


def test_what_expands_must_be_an_integer_beside_a_float() -> None:
    with pytest.raises(ValueError, match="weight=bf16, input=bf16"):
        LayerPrecision(weight="bf16", input="bf16", expanded_weight="bf16")
    with pytest.raises(ValueError, match="input=int8"):
        LayerPrecision(weight="int4", input="int8", expanded_weight="bf16")


def test_what_it_cannot_run_is_named() -> None:
    wide = W4A8.model_copy(update={"weight": Format("uint5"), "expanded_weight": Format("fp16")})
    assert [problem.path for problem in element().problems(wide)] == ["precision.weight", "precision.expanded_weight"]
    assert element(max_weight_bits=5).problems(W4A8) == []
    assert element().problems(LayerPrecision.parse("fp8_e4m3:bf16")) == []
    plain = bitmosaic.open_accelerator("bit_fusion").processing_element
    assert "precision.input" in [problem.path for problem in plain.problems(W4A8)]


def test_no_other_kind_expands() -> None:
    from tests.unit.test_floating_point import element as floating_point

    (problem,) = floating_point().problems(W4A8)
    assert str(problem) == "precision.expanded_weight=fp8_e4m3: the processing element does not expand weights"


# Expansion


def test_expansion_rounds_once() -> None:
    # 17/16 lies in the middle of 1 and 9/8: to even. 3 · 17/16 = 51/16 lies nearer to 13/4 than to 3.
    assert expand(element(), [8, 9, 11, 0], 17 / 16, 8) == [0.0, 1.0, 3.25, -8.0]


def test_expansion_is_clipped_before_it_is_rounded() -> None:
    """What NumPy's type makes NaN of: 500 is beyond the 448 of E4M3."""
    assert np.isnan(np.float32(500).astype(ml_dtypes.float8_e4m3fn))
    assert expand(element(), [15, 0], 100.0, 8) == [448.0, -448.0]
    assert expand(element(), [15, 0], 100.0, 8, "fp8_e4m3_ieee") == [240.0, -240.0]
    protected = element(expansion_limit=224.0)
    assert expand(protected, [15, 0], 100.0, 8, "fp8_e4m3_ieee") == [224.0, -224.0]


def test_a_limit_beyond_the_format_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expansion_limit=300\.0: must not exceed 240"):
        element(expansion_limit=300.0)


def test_subnormal_weights_may_be_flushed() -> None:
    assert expand(element(), [9], 2.0**-8, 8) == [2.0**-8]
    assert expand(element(subnormals="flushed"), [9], 2.0**-8, 8) == [0.0]


# On a machine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bitmosaic.Accelerator:
    monkeypatch.chdir(tmp_path)
    Path("engine.yaml").write_text(YAML, encoding="utf-8")
    return bitmosaic.open_accelerator("engine.yaml")


LAYER = Layer(name="layer", dims={"K": 8, "C": 8, "P": 4})


def mapping(register_k: int = 1) -> Mapping:
    return Mapping(
        spatial={"rows": {"C": 4}, "columns": {"K": 4}, "lanes": {"C": 2}},
        levels=(MappingLevel(level="dram"),
                MappingLevel(level="buffer", tile={"K": 8, "C": 8, "P": 4}, order=("K", "P")),
                MappingLevel(level="register", tile={"K": register_k})),
    )


def test_each_memory_has_its_width(machine: bitmosaic.Accelerator) -> None:
    result = bitmosaic.simulate(LAYER, W4A8, machine, mapping())
    assert result.moved_bits("dram", "weight") == (8 * 8 * 4, 0)
    assert result.moved_bits("dram", "parameters") == (8 * 20, 0)
    assert result.moved_bits("buffer", "weight") == (8 * 8 * 4, 8 * 8 * 4)
    assert result.moved_bits("registers", "weight") == (8 * 8 * 4 * 8, 0)
    plain = bitmosaic.simulate(LAYER, LayerPrecision.parse("fp8_e4m3"), machine, mapping())
    assert plain.compute_cycles == result.compute_cycles
    assert plain.moved_bits("dram", "weight") == (8 * 8 * 8, 0)


def test_registers_hold_the_expanded_weights(machine: bitmosaic.Accelerator) -> None:
    """Two weights of 8 bits fit in 16 bits, four do not; of 4 bits they would."""
    tight = machine.model_copy(update={"memories": tuple(
        memory.model_copy(update={"size_bits": 16}) if memory.name == "registers" else memory
        for memory in machine.memories)})
    file = tight.register_files[0].model_copy(update={"keeps": ("weight", "input", "output"), "size_bits": 128})
    roomy = tight.model_copy(update={"memories": (*tight.memories[:-1], file)})
    bitmosaic.simulate(LAYER, W4A8, tight, mapping())
    bitmosaic.simulate(LAYER, W4A8, roomy, mapping(register_k=2))
    short = file.model_copy(update={"size_bits": 2 * 16 + 2 * 8 + 2 * 32 - 1})
    with pytest.raises(MappingError, match=r"needs 112 bits \(weight 32, input 16, output 64\)"):
        bitmosaic.simulate(LAYER, W4A8, tight.model_copy(update={"memories": (*tight.memories[:-1], short)}),
                           mapping(register_k=2))


def test_expanding_costs_energy_where_it_is_modelled(machine: bitmosaic.Accelerator) -> None:
    assert "weight_expansion" not in bitmosaic.simulate(LAYER, W4A8, machine, mapping()).energy_pj
    unit = machine.processing_element.model_copy(update={"expansion_energy_pj_per_weight": 0.25})
    priced = machine.model_copy(update={"processing_element": unit})
    assert bitmosaic.simulate(LAYER, W4A8, priced, mapping()).energy_pj["weight_expansion"] == 64 * 0.25
    unexpanded = bitmosaic.simulate(LAYER, LayerPrecision.parse("fp8_e4m3"), priced, mapping())
    assert "weight_expansion" not in unexpanded.energy_pj


def operands(seed: int = 3) -> tuple[Any, Any, GroupScales]:
    rng = np.random.default_rng(seed)
    weights, inputs = rng.integers(16, size=(1, 8, 8, 1, 1)), rng.normal(size=(1, 1, 8, 4, 1))
    scales = rng.uniform(0.1, 0.5, size=(1, 8, 1)).astype(np.float32).astype(np.float64)
    codes = inputs.astype(ml_dtypes.float8_e4m3fn).view(np.uint8).astype(np.int64)
    return weights, codes, GroupScales(scales, rng.integers(16, size=(1, 8, 1)))


def test_outputs_are_those_of_the_expanded_weights(machine: bitmosaic.Accelerator) -> None:
    """Small integers times E4M3 values: sums of eight are exact in FP32, so that their order does not matter."""
    weights, inputs, scales = operands()
    _, outputs = simulate_reference(LAYER, W4A8, machine, mapping(), weights, inputs, scales)
    real = (scales.scales * (weights[0, :, :, 0, 0] - scales.zeros[0]))[0].astype(np.float32)
    real = np.clip(real, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    values = inputs[0, 0, :, :, 0].astype(np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    expected = (real @ values).astype(ml_dtypes.bfloat16)
    found = decode(outputs[0, 0, :, :, 0], Format("bf16"))
    np.testing.assert_array_equal(found, expected.astype(np.float64))


@pytest.mark.parametrize(("change", "message"), [
    (None, "scales=none: weights that expand need their groups' scales"),
    ({"scales": np.ones((1, 8, 2))}, r"scales=shape \(1, 8, 2\): must have one entry a group \(allowed: \(1, 8, 1\)"),
    ({"scales": np.full((1, 8, 1), 0.1)}, r"scales=0\.1: must be finite and exact in FP32"),
    ({"scales": np.full((1, 8, 1), np.inf)}, "scales=inf: must be finite"),
    ({"zeros": np.full((1, 8, 1), 16)}, r"zeros=16: must be in the range of the weights.*allowed: 0 … 15"),
])
def test_wrong_scales_are_named(machine: bitmosaic.Accelerator, change: Any, message: str) -> None:
    weights, inputs, scales = operands()
    given = None if change is None else GroupScales(**{"scales": scales.scales, "zeros": scales.zeros, **change})
    with pytest.raises(PrecisionError, match=message):
        simulate_reference(LAYER, W4A8, machine, mapping(), weights, inputs, given)


def test_scales_without_expansion_are_refused(machine: bitmosaic.Accelerator) -> None:
    weights, inputs, scales = operands()
    codes = encode(weights.astype(np.float64), Format("fp8_e4m3"))
    with pytest.raises(PrecisionError, match="only expanded weights use scales"):
        simulate_reference(LAYER, LayerPrecision.parse("fp8_e4m3"), machine, mapping(), codes, inputs, scales)


def test_yaml_and_back(machine: bitmosaic.Accelerator) -> None:
    assert isinstance(machine.processing_element, DualPrecisionElement)
    Path("again.yaml").write_text(bitmosaic.dump_accelerator(machine), encoding="utf-8")
    assert bitmosaic.open_accelerator("again.yaml") == machine


def test_the_command_line_takes_it(machine: bitmosaic.Accelerator) -> None:
    command = ["simulate", "digits_cnn", "--hardware", "engine.yaml", "--seconds-per-layer", "0.1", "--gap", "0.5",
               "--workers", "1", "--precision", "w4:fp8_e4m3"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0 and "w4:fp8_e4m3" in result.stdout, result.output
