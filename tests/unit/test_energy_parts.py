"""Energies beside memories and PEs, area and leakage: worked by hand on one small layer."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.accelerator import (
    Accelerator,
    Axis,
    Buffer,
    Dram,
    Grid,
    MulticastPassing,
    Passing,
    RegisterFile,
    SystolicPassing,
    VectorUnit,
)
from simulator.engine import simulate, simulate_vector_op
from simulator.formats import Format
from simulator.interconnect import Interconnect, hops
from simulator.layer import OPERANDS, Dim, Layer, VectorKind, VectorOp
from simulator.mapping import Mapping, MappingLevel
from simulator.output_stage import OutputStage
from simulator.precision import LayerPrecision
from simulator.processing_elements import FixedElement, FloatingPointElement, PrecisionEnergy

ROWS, COLUMNS = 4, 6
LAYER = Layer(name="product", dims={"K": 6, "C": 8, "P": 5})
W8A8 = LayerPrecision()


def grid(passing: Passing, **changes: Any) -> Grid:
    unroll: dict[str | None, tuple[tuple[Dim, ...], tuple[Dim, ...]]] = {
        None: (("C",), ("K",)), "weight": (("C",), ("K",)), "input": (("C",), ("P",)), "output": (("P",), ("K",)),
    }
    rows, columns = unroll[getattr(passing, "stationary", None)]
    axes = (Axis(name="rows", size=ROWS, unroll=rows), Axis(name="columns", size=COLUMNS, unroll=columns))
    return Grid(axes=axes, passing=passing, **changes)


def machine(**changes: Any) -> Accelerator:
    given: dict[str, Any] = {
        "name": "small", "description": "drawn by hand", "clock_mhz": 500.0,
        "memories": (
            Dram(bandwidth_bits_per_cycle=64, read_energy_pj_per_bit=0.0, write_energy_pj_per_bit=0.0),
            Buffer(name="buffer", keeps=OPERANDS, size_bits=1 << 16, read_energy_pj_per_bit=0.0,
                   write_energy_pj_per_bit=0.0),
            RegisterFile(name="registers", keeps=("weight",), size_bits=8, read_energy_pj_per_bit=0.0,
                         write_energy_pj_per_bit=0.0),
        ),
        "grid": grid(SystolicPassing(stationary="weight")),
        "processing_element": FixedElement(energy_pj_per_cycle=0.0),
        "vector_unit": VectorUnit(lanes=4, energy_pj_per_operation=0.0),
    }
    return Accelerator(**{**given, **changes})


MAPPING = Mapping(
    spatial={"rows": {"C": 4}, "columns": {"K": 6}},
    levels=(
        MappingLevel(level="dram"), MappingLevel(level="buffer", tile={"K": 6, "C": 8, "P": 5}, order=("C", "P")),
        MappingLevel(level="register"),
    ),
)


@pytest.mark.parametrize(
    ("passing", "expected"),
    [
        (MulticastPassing(), (2.5 + 3.5, 2.5 + 3.5, 2.5 + 3.5)),
        (SystolicPassing(), (4, 6, 4)),
        (SystolicPassing(stationary="weight"), (2.5, 6, 4)),
        (SystolicPassing(stationary="input"), (6, 2.5, 4)),
        (SystolicPassing(stationary="output"), (4, 6, 2.5)),
    ],
    ids=["multicast", "none", "weight", "input", "output"],
)
def test_hops_of_each_operand(passing: Passing, expected: tuple[float, float, float]) -> None:
    assert hops(grid(passing)) == dict(zip(OPERANDS, expected, strict=True))


def test_bits_on_the_wires_counted_by_hand() -> None:
    """Two folds of 4 channels: weights once; inputs once; each of 5 · 6 sums leaves in both."""
    wires = Interconnect(energy_pj_per_bit_hop=0.5)
    wired = machine(grid=grid(SystolicPassing(stationary="weight"), interconnect=wires))
    result = simulate(LAYER, W8A8, wired, MAPPING)
    weights, inputs, sums = 6 * 8 * 8 * 2.5, 8 * 5 * 8 * 6, 2 * 5 * 6 * 32 * 4
    assert result.energy_pj["interconnect"] == pytest.approx(0.5 * (weights + inputs + sums))
    assert "interconnect" not in simulate(LAYER, W8A8, machine(), MAPPING).energy_pj


@pytest.mark.parametrize(
    ("precision", "conversion", "scaling"),
    [
        (W8A8, 30 * 0.5, 30 * 2.0),
        (W8A8.model_copy(update={"output": Format("int32")}), 0.0, 30 * 2.0),
        (W8A8.model_copy(update={"output": Format("bf16")}), 30 * 0.25, 30 * 2.0),
        (W8A8.model_copy(update={"weight_group": 0}), 30 * 0.5, 30 * 2.0),
        (W8A8.model_copy(update={"weight_group": 3}), 30 * 0.5, 3 * 30 * 2.0),
        (W8A8.model_copy(update={"weight_group": 3, "scale_bits": 0}), 30 * 0.5, 0.0),
    ],
    ids=["requantised", "as it is", "to floating point", "a scale a tensor", "groups of 3 in 8", "without scales"],
)
def test_outputs_are_converted_and_scaled(precision: LayerPrecision, conversion: float, scaling: float) -> None:
    stage = OutputStage(requantisation_energy_pj=0.5, float_conversion_energy_pj=0.25, scale_energy_pj=2.0)
    energy = simulate(LAYER, precision, machine(output_stage=stage), MAPPING).energy_pj
    assert energy["conversion"] == pytest.approx(conversion) and energy["scaling"] == pytest.approx(scaling)


def test_what_the_output_stage_does_not_describe_is_absent_and_not_zero() -> None:
    energy = simulate(LAYER, W8A8, machine(output_stage=OutputStage(scale_energy_pj=0.0)), MAPPING).energy_pj
    assert energy["scaling"] == 0.0 and "conversion" not in energy


def test_parts_leak_for_as_long_as_it_takes() -> None:
    dram, buffer, registers = machine().memories
    leaky = machine(
        memories=(
            dram.model_copy(update={"background_mw": 3.0}), buffer.model_copy(update={"leakage_mw": 1.0}),
            registers.model_copy(update={"leakage_mw": 0.125}),
        ),
        processing_element=FixedElement(energy_pj_per_cycle=0.0, leakage_mw=0.25),
    )
    # 24 PEs with 0.375 mW each, at 2 ns a cycle.
    assert leaky.leakage_pj_per_cycle == pytest.approx((3.0 + 1.0 + 24 * 0.375) * 2)
    result = simulate(LAYER, W8A8, leaky, MAPPING)
    assert result.energy_pj["leakage"] == pytest.approx(26.0 * result.total_cycles)
    assert result.total_energy_pj == pytest.approx(26.0 * result.total_cycles)
    operation = VectorOp(
        name="pool", operator="MaxPool", kind=VectorKind.REDUCTION, input_count=90, output_count=10, processed_count=90
    )
    vector = simulate_vector_op(operation, leaky)
    assert vector.energy_pj["leakage"] == pytest.approx(26.0 * vector.total_cycles)
    assert machine().leakage_pj_per_cycle is None
    assert "leakage" not in simulate_vector_op(operation, machine()).energy_pj


def test_area_is_known_once_every_part_has_one() -> None:
    dram, buffer, registers = machine().memories
    described = machine(
        memories=(dram, buffer.model_copy(update={"area_um2": 1000.0}), registers.model_copy(update={"area_um2": 0.0})),
        processing_element=FixedElement(energy_pj_per_cycle=0.0, area_um2=10.0),
        vector_unit=VectorUnit(lanes=4, energy_pj_per_operation=0.0, area_um2=20.0),
    )
    assert described.area_mm2 == pytest.approx((24 * 10 + 1000 + 20) * 1e-6)
    assert machine().area_mm2 is None
    wires = Interconnect(energy_pj_per_bit_hop=0.0)
    without = described.model_copy(
        update={"grid": grid(SystolicPassing(stationary="weight"), interconnect=wires)}
    )
    assert without.area_mm2 is None


def energies(*entries: tuple[str, str, float]) -> tuple[PrecisionEnergy, ...]:
    return tuple(
        PrecisionEnergy(weight=Format(weight), input=Format(activation), energy_pj_per_cycle=energy)
        for weight, activation, energy in entries
    )


@pytest.mark.parametrize(
    ("label", "energy", "exact"),
    [
        ("w4a4", 1.0, True),
        ("w8a4", 2.5, True),
        ("w4a8", 2.0, True),
        ("w3a4", 1.0, False),
        ("w2a8", 2.0, False),
        ("w5a4", 2.5, False),
        ("w5a5", 8.0, False),  # no entry is as wide in both
        ("w8a8", 8.0, False),
    ],
)
def test_between_entries_the_cheapest_wider_one_counts(label: str, energy: float, exact: bool) -> None:
    table = energies(("int4", "uint4", 1.0), ("int8", "int4", 2.5), ("int4", "int8", 2.0))
    element = FixedElement(energy_pj_per_cycle=8.0, energy_by_precision=table)
    precision = LayerPrecision.parse(label)
    assert element.energy_pj_per_cycle_at(precision) == energy
    entry, is_exact = element.energy_entry(precision)
    assert is_exact == exact and (entry is None) == (energy == 8.0)
    unsigned = precision.model_copy(update={"input": Format(f"u{precision.input}")})
    assert element.energy_pj_per_cycle_at(unsigned) == energy


def test_formats_of_floating_point_count_as_themselves() -> None:
    element = FloatingPointElement(
        operand_formats=("bf16", "fp16", "fp8_e5m2"), energy_pj_per_cycle=8.0,
        energy_by_precision=energies(("bf16", "bf16", 4.0), ("fp8_e5m2", "fp8_e5m2", 1.0)),
    )
    for label, energy in (("bf16", 4.0), ("fp16", 8.0), ("fp8_e5m2", 1.0), ("fp8_e5m2:bf16", 8.0)):
        assert element.energy_pj_per_cycle_at(LayerPrecision.parse(label)) == energy


def test_the_pes_energy_is_that_of_the_precision() -> None:
    element = FixedElement(energy_pj_per_cycle=8.0, energy_by_precision=energies(("int4", "int8", 2.0)))
    wide, narrow = (
        simulate(LAYER, LayerPrecision.parse(label), machine(processing_element=element), MAPPING)
        for label in ("w8a8", "w4a8")
    )
    assert wide.energy_pj["processing_elements"] == 4 * narrow.energy_pj["processing_elements"]
    assert wide.energy_pj["processing_elements"] == 8.0 * 6 * 8 * 5
