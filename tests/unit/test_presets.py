"""The presets: each loads, is accounted for number by number, and has room for work of any size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from typing import Any

import pytest

from hw_configs import dump_accelerator, list_presets, load_accelerator, open_accelerator
from simulator.accelerator import Accelerator, SystolicPassing
from simulator.engine import simulate
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Layer, Operand
from simulator.mapping import Mapping
from simulator.precision import LayerPrecision
from simulator.processing_elements import BitFusionElement

NAMES = [preset.name for preset in list_presets()]
CONFIDENCE = ("measured", "extracted", "scaled", "assumed", "recalled")


def test_the_presets_of_this_release() -> None:
    assert NAMES == [
        "bit_fusion", "bitwave_like", "eyeriss_like", "loom", "pragmatic_like", "stripes", "tpu_like",
    ]


@pytest.mark.parametrize("preset", list_presets(), ids=NAMES)
def test_description_is_one_short_line(preset: Any) -> None:
    assert preset.description == open_accelerator(preset.name).description
    assert 20 < len(preset.description) <= 120 and "\n" not in preset.description


@pytest.mark.parametrize("name", NAMES)
def test_name_and_round_trip(name: str, tmp_path: Any) -> None:
    accelerator = open_accelerator(name)
    assert accelerator.name == name
    file = tmp_path / "dump.yaml"
    file.write_text(dump_accelerator(accelerator), encoding="utf-8")
    assert load_accelerator(file) == accelerator


def numbers(value: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of all numbers; entries of a list go by their name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item, f"{path}.{item['name']}" if isinstance(item, dict) else path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_source_with_a_confidence(name: str) -> None:
    accelerator = open_accelerator(name)
    data = accelerator.model_dump(mode="json", exclude={"sources"})
    paths = set(numbers(data))
    assert len(paths) > 20

    def covers(key: str, path: str) -> bool:
        return path == key or path.startswith(key + ".")

    assert [path for path in paths if not any(covers(key, path) for key in accelerator.sources)] == []
    assert [key for key in accelerator.sources if not any(covers(key, path) for path in paths)] == []
    for text in accelerator.sources.values():
        assert text.split(":")[0] in CONFIDENCE and len(text.partition(": ")[2]) > 10


def widest(accelerator: Accelerator) -> LayerPrecision:
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
    layer, precision = Layer(name="layer", dims=dims), LayerPrecision()
    result = simulate(layer, precision, accelerator, full_grid_mapping(accelerator, layer, precision), engine="bound")
    assert result.total_cycles > 0
    assert all(energy >= 0 for energy in result.energy_pj.values())


@pytest.mark.parametrize("name", NAMES)
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
        if operand in accelerator.buffer_of(operand).may_bypass:
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
