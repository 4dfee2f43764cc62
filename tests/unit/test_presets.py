"""The presets: each loads, is accounted for number by number, and has room for work of any size."""

from __future__ import annotations

import json
from math import prod
from typing import Any

import pytest

from hw_configs import dump_accelerator, list_presets, load_machine, open_accelerator, open_machine
from simulator.accelerator import Accelerator, SystolicPassing
from simulator.engine import simulate
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Layer, Operand
from simulator.mapping import Mapping
from simulator.precision import LayerPrecision
from simulator.processing_elements import BitFusionElement
from simulator.processing_elements.base import IntegerElementBase
from simulator.provenance import EVERYTHING, covers, number_values, uncovered

NAMES = [preset.name for preset in list_presets() if not preset.tiles]
TILED = [preset.name for preset in list_presets() if preset.tiles]


def test_the_presets_of_this_release() -> None:
    assert NAMES == [
        "bit_fusion", "bit_fusion_float", "bitwave_like", "eyeriss_like", "flexiq_like", "gaudi_like", "loom",
        "pragmatic_like", "stripes", "tpu_like", "unpu_like",
    ]
    assert TILED == ["four_tiles"]


@pytest.mark.parametrize("preset", list_presets(), ids=lambda preset: preset.name)
def test_description_is_one_short_line(preset: Any) -> None:
    assert preset.description == open_machine(preset.name).description
    assert 20 < len(preset.description) <= 120 and "\n" not in preset.description


@pytest.mark.parametrize("name", [*NAMES, *TILED])
def test_name_and_round_trip(name: str, tmp_path: Any) -> None:
    accelerator = open_machine(name)
    assert accelerator.name == name
    file = tmp_path / "dump.yaml"
    file.write_text(dump_accelerator(accelerator), encoding="utf-8")
    assert load_machine(file) == accelerator


@pytest.mark.parametrize("name", [*NAMES, *TILED])
def test_every_number_has_a_source_and_every_source_a_number(name: str) -> None:
    accelerator = open_machine(name)
    numbers = number_values(accelerator.model_dump(mode="json", exclude={"sources"}))
    assert len(numbers) > 20 and EVERYTHING not in accelerator.sources
    assert uncovered(accelerator) == ()
    assert [key for key in accelerator.sources if not any(covers(key, path) for path in numbers)] == []
    assert all(len(source.source) > 10 for source in accelerator.sources.values())


@pytest.mark.parametrize("name", NAMES)
def test_area_is_that_of_the_parts(name: str) -> None:
    accelerator = open_accelerator(name)
    assert accelerator.area_mm2 is not None
    parts = {part.name: part for part in accelerator.parts}
    memories = sum(parts[buffer.name].area_um2 or 0.0 for buffer in accelerator.buffers)
    in_pes = [accelerator.processing_element.area_um2, *(file.area_um2 for file in accelerator.register_files)]
    beside = ("vector_unit", "interconnect", "output_stage", "floating_point_unit")
    others = [parts[each].area_um2 for each in beside if each in parts]
    total = accelerator.grid.pe_count * sum(filter(None, in_pes)) + memories + sum(filter(None, others))
    assert accelerator.area_mm2 == pytest.approx(total * 1e-6)
    # Denser than any SRAM cell of these nodes (0.1 um2 a bit at 22 nm) would be a slip of units, and so a tenth.
    bits = sum(buffer.size_bits for buffer in accelerator.buffers)
    assert 0.08 < memories / bits < 2.0


def test_bit_fusion_float_is_bit_fusion_beside_a_unit_whose_numbers_are_not_all_published() -> None:
    plain, beside = open_accelerator("bit_fusion"), open_accelerator("bit_fusion_float")
    unit = beside.floating_point_unit
    assert unit is not None and unit.energy_pj_per_mac == 1.1 + 0.9  # FP16 multiply and FP32 add of 45nm.yaml
    ours = {"name", "description", "sources", "floating_point_unit"}
    assert plain.model_dump(exclude=ours) == beside.model_dump(exclude=ours)
    others = {key: source for key, source in beside.sources.items() if not key.startswith("floating_point_unit")}
    assert others == plain.sources and len(beside.sources) - len(others) == 6
    assert beside.sources["floating_point_unit.macs_per_cycle"].confidence == "assumed"


def an_integer_machine(name: str) -> bool:
    return isinstance(open_accelerator(name).processing_element, IntegerElementBase)


INTEGER_NAMES = [name for name in NAMES if an_integer_machine(name)]


def any_precision(accelerator: Accelerator) -> LayerPrecision:
    """8 bits, or BF16 where integers do not run."""
    return LayerPrecision.parse("w8a8" if an_integer_machine(accelerator.name) else "bf16")


def widest(accelerator: Accelerator) -> LayerPrecision:
    if not an_integer_machine(accelerator.name):
        return any_precision(accelerator)
    bits = {op: max(accelerator.processing_element.allowed_bits(op)) for op in ("weight", "input")}
    return LayerPrecision.model_validate(
        {"weight": f"int{bits['weight']}", "input": f"int{bits['input']}", "accumulator": "int32"}
    )


@pytest.mark.parametrize("name", NAMES)
def test_buffers_hold_two_tiles_of_a_full_grid_of_a_matrix_product(name: str) -> None:
    """A 4096 × 4096 × 4096 product fills the grid: K, C and P are long, G, N, Q, R, S are 1."""
    accelerator = open_accelerator(name)
    precision = widest(accelerator)
    tile = {"C": accelerator.processing_element.lanes(precision), "K": 1, "P": 1}
    for axis in accelerator.grid.axes:
        dim = next(dim for dim in axis.unroll if dim in tile)
        tile[dim] *= axis.size
    assert max(tile.values()) <= 4096

    def bits(operand: Operand) -> int:
        elements = prod(extent for dim, extent in tile.items() if dim in RELEVANT_DIMS[operand])
        return elements * precision.stored_bits(operand)

    for buffer in accelerator.buffers:
        assert buffer.double_buffer
        assert 2 * sum(bits(operand) for operand in buffer.keeps) <= buffer.size_bits


def full_grid_mapping(accelerator: Accelerator, layer: Layer, precision: LayerPrecision) -> Mapping:
    """Fill lanes and axes one after the other; the buffer tile is what the grid holds at once."""
    sizes = [("lanes", accelerator.processing_element.lanes(precision), accelerator.grid.lane_unroll)]
    sizes += [(axis.name, axis.size, axis.unroll) for axis in accelerator.grid.axes]
    unrolled = dict.fromkeys(DIMS, 1)
    spatial: dict[str, dict[str, int]] = {}
    for name, size, dims in sizes:
        spatial[name] = {}
        for dim in dims:
            spatial[name][dim] = min(size, -(-layer.extent(dim) // unrolled[dim]))
            unrolled[dim] *= spatial[name][dim]
            size //= spatial[name][dim]
    tile = {dim: min(layer.extent(dim), unrolled[dim]) for dim in DIMS}
    return Mapping.model_validate_json(json.dumps({
        "spatial": spatial,
        "levels": [{"level": "dram", "order": DIMS}, {"level": "buffer", "tile": tile}, {"level": "register"}],
        "double_buffer": OPERANDS,
    }))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "dims",
    [
        {},
        {"K": 10, "C": 64},
        {"P": 4096, "K": 4096, "C": 4096},
        {"K": 64, "C": 3, "P": 112, "Q": 112, "R": 7, "S": 7},
        {"G": 144, "P": 56, "Q": 56, "R": 3, "S": 3},
    ],
    ids=["one product", "classifier", "matrix product", "first convolution", "depthwise"],
)
def test_layers_of_any_size_run_double_buffered(name: str, dims: dict[Any, int]) -> None:
    accelerator = open_accelerator(name)
    layer, precision = Layer(name="layer", dims=dims), any_precision(accelerator)
    result = simulate(layer, precision, accelerator, full_grid_mapping(accelerator, layer, precision), engine="bound")
    assert result.total_cycles > 0
    assert all(energy >= 0 for energy in result.energy_pj.values())


@pytest.mark.parametrize("name", INTEGER_NAMES)
def test_registers_hold_one_step_at_every_width(name: str) -> None:
    accelerator = open_accelerator(name)
    element = accelerator.processing_element
    # A Fusion Unit takes weights beyond its width in several passes, and its register holds those of one.
    limit = element.max_bits if isinstance(element, BitFusionElement) else 16
    for weight in (bits for bits in element.allowed_bits("weight") if bits <= limit):
        for width in element.allowed_bits("input"):
            precision = LayerPrecision.parse(f"w{weight}a{width}")
            for file in accelerator.register_files:
                per_lane = {"weight": weight, "input": width}
                need = sum(
                    32 if operand == "output" else element.lanes(precision) * per_lane[operand]
                    for operand in file.keeps
                )
                assert need <= file.size_bits


@pytest.mark.parametrize("name", NAMES)
def test_a_bypassing_operand_has_registers(name: str) -> None:
    accelerator = open_accelerator(name)
    for operand in OPERANDS:
        if operand in accelerator.buffers_of(operand)[-1].may_bypass:
            assert accelerator.registers_of(operand) is not None


def test_bit_fusion_is_the_published_machine() -> None:
    accelerator = open_accelerator("bit_fusion")
    rows, columns = (axis.size for axis in accelerator.grid.axes)
    assert sum(buffer.size_bits for buffer in accelerator.buffers) == 112 * 1024 * 8
    assert accelerator.grid.pe_count == 512
    assert 512 * accelerator.processing_element.energy_pj_per_cycle == pytest.approx(235.104, rel=1e-12)
    passing = accelerator.grid.passing
    assert isinstance(passing, SystolicPassing)
    pipeline = passing.pipeline_cycles + accelerator.processing_element.pipeline_cycles
    tail = (rows * passing.partial_sum_hop_cycles - 1) + (columns - 1) + pipeline
    assert tail == rows + columns  # what the authors' RTL adds to the cycles in which it is fed


@pytest.mark.parametrize(
    ("name", "precision", "macs_a_cycle"),
    [
        ("bit_fusion", "w8a8", 512),
        ("bit_fusion", "w2a2", 512 * 16),
        ("tpu_like", "w8a8", 65536),
        ("tpu_like", "w2a2", 65536),
        ("eyeriss_like", "w16a16", 168),
        ("stripes", "w16a16", 4096),  # equals DaDianNao's 16 tiles × 256 multipliers
        ("stripes", "w16a5", 4096 * 16 / 5),
        ("pragmatic_like", "w16a16", 4096),  # no bit skipped
        ("bitwave_like", "w8a8", 512),
        ("loom", "w16a16", 128),
        ("loom", "w3a5", 128 * 256 / 15),
        ("unpu_like", "w16a16", 864),  # 345.6 GOPS at 200 MHz
        ("unpu_like", "w4a16", 3456),
        ("flexiq_like", "w8a8", 1024),
        ("flexiq_like", "w4a4", 4096),
        ("flexiq_like", "w2a2", 4096),
        ("gaudi_like", "bf16", 65536),
        ("gaudi_like", "fp8_e4m3_ieee:fp8_e5m2", 2 * 65536),
    ],
)
def test_peak_throughput(name: str, precision: str, macs_a_cycle: float) -> None:
    accelerator = open_accelerator(name)
    chosen = LayerPrecision.parse(precision)
    element = accelerator.processing_element
    element.check(chosen)
    peak = accelerator.grid.pe_count * element.lanes(chosen) / element.cycles_per_step(chosen)
    assert peak == pytest.approx(macs_a_cycle)


@pytest.mark.parametrize("name", NAMES)
def test_memories_grow_dearer_outwards(name: str) -> None:
    accelerator = open_accelerator(name)
    dram = accelerator.dram.read_energy_pj_per_bit
    for buffer in accelerator.buffers:
        assert dram > 10 * buffer.read_energy_pj_per_bit
        for file in accelerator.register_files:
            assert buffer.read_energy_pj_per_bit > file.read_energy_pj_per_bit
