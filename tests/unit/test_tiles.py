"""Machines of several tiles: what a tile is to the engines, where layers run, and what idle tiles cost."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from click.testing import CliRunner

import bitmosaic
from bitmosaic.cli import main
from hw_configs import dump_accelerator, load_machine, open_accelerator, open_machine, validate_file
from mapper.network import network_precisions, simulate_network, vector_tiles
from mapper.placement import cheapest, map_network
from mapper.search import map_layer
from mapper.solution import MappingSolution, SearchBudget
from simulator.accelerator import Accelerator, Axis, Buffer, Dram, Grid, MulticastPassing, RegisterFile, VectorUnit
from simulator.engine import simulate, simulate_vector_op
from simulator.errors import ConfigurationError, InfeasibleError, MappingError, PrecisionError
from simulator.formats import Format
from simulator.layer import OPERANDS, Layer, VectorKind, VectorOp
from simulator.output_stage import OutputStage
from simulator.precision import LayerPrecision
from simulator.processing_elements import BitFusionElement, FixedElement, FloatingPointElement, ProcessingElement
from simulator.provenance import Source
from simulator.result import LayerResult
from simulator.tiled import Tile, TiledAccelerator, machine_confidence, machine_not_modelled
from workloads.network import Network

CLOCK_MHZ = 250.0
BUDGET = SearchBudget(cpu_seconds=0.5)


def a_tile(name: str, element: ProcessingElement, size: int, buffer_kib: int = 16, leakage_mw: float = 0.5) -> Tile:
    """A square multicast grid with one buffer for all operands; the buffer leaks, and each PE."""
    return Tile(
        name=name,
        memories=(
            Buffer(name="buffer", keeps=OPERANDS, size_bits=buffer_kib * 8192, read_energy_pj_per_bit=0.1,
                   write_energy_pj_per_bit=0.1, leakage_mw=leakage_mw, area_um2=1e4),
            RegisterFile(name="sums", keeps=("output",), size_bits=32, read_energy_pj_per_bit=0.01,
                         write_energy_pj_per_bit=0.01, area_um2=0.0),
        ),
        grid=Grid(
            axes=(Axis(name="rows", size=size, unroll=("C", "P")), Axis(name="columns", size=size, unroll=("K",))),
            passing=MulticastPassing(),
        ),
        processing_element=element,
        vector_unit=VectorUnit(lanes=size, energy_pj_per_operation=0.2, area_um2=100.0),
        output_stage=OutputStage(requantisation_energy_pj=0.1, float_conversion_energy_pj=0.4, area_um2=0.0),
    )


FUSION = a_tile("fusion", BitFusionElement(energy_pj_per_cycle=0.4, area_um2=1e3, leakage_mw=0.02), size=4)
PLAIN = a_tile("plain", FixedElement(energy_pj_per_cycle=0.25, area_um2=500.0, leakage_mw=0.01), size=4)
FLOAT = a_tile(
    "float", FloatingPointElement(operand_formats=("bf16",), energy_pj_per_cycle=0.8, area_um2=2e3), size=2,
    leakage_mw=0.7,
)
DRAM = Dram(bandwidth_bits_per_cycle=64, latency_cycles=7, read_energy_pj_per_bit=4.0, write_energy_pj_per_bit=4.0,
            background_mw=1.5)


def a_machine(*tiles: Tile, **changes: Any) -> TiledAccelerator:
    given = {"name": "chip", "description": "drawn by hand", "clock_mhz": CLOCK_MHZ, "dram": DRAM, "tiles": tiles}
    return TiledAccelerator(**{**given, **changes})


CHIP = a_machine(FUSION, PLAIN, FLOAT)
# By hand: buffer and PEs of each tile, in mW.
POWERS = {"fusion": 0.5 + 16 * 0.02, "plain": 0.5 + 16 * 0.01, "float": 0.7}


def alone(tile: Tile) -> Accelerator:
    """A tile with the DRAM to itself and nobody beside it."""
    return Accelerator(
        name="alone", description="one tile", clock_mhz=CLOCK_MHZ, memories=(DRAM, *tile.memories), grid=tile.grid,
        processing_element=tile.processing_element, vector_unit=tile.vector_unit, output_stage=tile.output_stage,
    )


def a_network() -> Network:
    """A convolution, an attention product in between, a matrix product; fused, plain and joining vector operations."""
    operations: list[Layer | VectorOp] = [
        VectorOp(name="norm", operator="Norm", kind=VectorKind.NORMALISATION, input_count=64, output_count=64,
                 processed_count=64),
        Layer(name="conv", dims={"K": 8, "C": 4, "P": 4, "Q": 4, "R": 3, "S": 3}),
        VectorOp(name="relu", operator="Relu", kind=VectorKind.ELEMENTWISE, input_count=128, output_count=128,
                 processed_count=128, fused=True),
        Layer(name="scores", dims={"G": 2, "K": 8, "C": 8, "P": 8}, weight_is_activation=True),
        VectorOp(name="softmax", operator="Softmax", kind=VectorKind.NORMALISATION, input_count=128,
                 output_count=128, processed_count=128, operations_per_element=3),
        Layer(name="fc", dims={"K": 10, "C": 16, "P": 8}, has_bias=True),
        VectorOp(name="add", operator="Add", kind=VectorKind.ELEMENTWISE, input_count=160, output_count=80,
                 processed_count=80),
    ]
    graph = nx.DiGraph()
    for operation in operations:
        graph.add_node(operation.name, op=operation)
    names = [operation.name for operation in operations]
    graph.add_edges_from([*itertools.pairwise(names), ("relu", "add")])
    return Network("small", graph, source="made here")


NETWORK = a_network()
MIXED = {
    "conv": LayerPrecision.parse("w4a4"), "scores": LayerPrecision.parse("bf16"), "fc": LayerPrecision.parse("w8a8"),
}


@pytest.fixture(scope="module", params=["latency", "energy", "edp"])
def objective(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def solutions(objective: Any) -> dict[str, MappingSolution]:
    return map_network(NETWORK, CHIP, MIXED, objective, budget=BUDGET, workers=1)


# A tile as an accelerator ------------------------------------------------------------------------------------------


def test_a_tile_is_an_accelerator_whose_neighbours_leak() -> None:
    for tile in CHIP.tiles:
        found = CHIP.tile(tile.name)
        assert found.memories == (DRAM, *tile.memories) and found.grid == tile.grid
        others = sum(power for name, power in POWERS.items() if name != tile.name)
        assert found.idle_leakage_mw == pytest.approx(others, rel=1e-15)
        assert found.own_leakage_pj_per_cycle == pytest.approx((POWERS[tile.name] + 1.5) * 1e3 / CLOCK_MHZ)
        assert found.leakage_pj_per_cycle == pytest.approx(CHIP.leakage_pj_per_cycle, rel=1e-12)
    assert CHIP.leakage_pj_per_cycle == pytest.approx((sum(POWERS.values()) + 1.5) * 1e3 / CLOCK_MHZ)


def test_area_is_the_sum_of_the_tiles() -> None:
    areas = [alone(tile).area_mm2 for tile in CHIP.tiles]
    assert CHIP.area_mm2 == pytest.approx(sum(area or math.nan for area in areas))
    without = FLOAT.model_copy(update={"vector_unit": VectorUnit(lanes=2, energy_pj_per_operation=0.2)})
    assert a_machine(FUSION, without).area_mm2 is None


def test_one_tile_costs_what_it_costs_alone() -> None:
    single = a_machine(FUSION).tile("fusion")
    assert single.idle_leakage_pj_per_cycle is None
    assert single.leakage_pj_per_cycle == alone(FUSION).leakage_pj_per_cycle
    layer = NETWORK.layers[0]
    found = map_layer(layer, MIXED["conv"], single, "energy", budget=BUDGET)
    assert simulate(layer, MIXED["conv"], alone(FUSION), found.mapping).energy_pj == found.result.energy_pj


def test_neighbours_without_leakage_are_not_modelled_and_not_zero() -> None:
    silent = FLOAT.model_copy(update={"memories": tuple(
        memory.model_copy(update={"leakage_mw": None}) for memory in FLOAT.memories
    )})
    assert a_machine(FUSION, silent).tile("fusion").idle_leakage_pj_per_cycle is None
    notes = machine_not_modelled(a_machine(FUSION, silent))
    assert any(note.startswith("leakage of") and "float.buffer" in note for note in notes)


# Placement ---------------------------------------------------------------------------------------------------------


def test_each_layer_runs_where_it_costs_least_and_the_proof_is_over_all_tiles(
    solutions: dict[str, MappingSolution], objective: Any
) -> None:
    exact = network_precisions(NETWORK, MIXED)
    for layer in NETWORK.layers:
        solution = solutions[layer.name]
        found = {}
        for name in CHIP.tile_names:
            tile = CHIP.tile(name)
            if not tile.processing_element.all_problems(exact[layer.name]):
                found[name] = map_layer(layer, exact[layer.name], tile, objective, budget=BUDGET)
        assert solution.tile is not None and solution.cost == min(each.cost for each in found.values())
        assert solution.cost == found[solution.tile].cost
        assert solution.lower_bound == min(each.lower_bound for each in found.values())
        if solution.status == "optimal":
            assert all(
                each.status == "optimal" or each.lower_bound >= solution.cost * (1 - 1e-5) for each in found.values()
            )
        offers = {offer.tile: offer for offer in solution.offers}
        assert tuple(offers) == CHIP.tile_names
        for name, offer in offers.items():
            assert (offer.cost is None) == (name not in found) == bool(offer.reason)
            assert name not in found or (offer.cost, offer.status) == (found[name].cost, found[name].status)


def test_mixed_precision_costs_the_single_tiles_and_idle_leakage_exactly(
    solutions: dict[str, MappingSolution]
) -> None:
    exact = network_precisions(NETWORK, MIXED)
    result = simulate_network(NETWORK, CHIP, exact, solutions)
    tiles = {tile.name: tile for tile in CHIP.tiles}
    assert solutions["scores"].tile == "float" and solutions["conv"].tile in ("fusion", "plain")
    for operation, row in zip(NETWORK.operations, result.operations, strict=True):
        assert row.tile is not None
        machine = alone(tiles[row.tile])
        if isinstance(operation, Layer):
            mapping = solutions[operation.name].mapping
            expected: Any = simulate(operation, exact[operation.name], machine, mapping)
        else:
            expected = simulate_vector_op(operation, machine)
        idle = math.fsum(power for name, power in POWERS_IN_PARTS if name != row.tile) * 1e3 / CLOCK_MHZ
        energy = {**expected.energy_pj, "idle_leakage": expected.total_cycles * idle}
        assert row == expected.model_copy(update={"tile": row.tile, "energy_pj": energy})
    assert result.total_cycles == sum(row.total_cycles for row in result.operations)
    assert result.total_energy_pj == math.fsum(row.total_energy_pj for row in result.operations)
    assert set(result.confidence) >= {"idle_leakage", "leakage", "dram", "buffer"}


# Every part that leaks, so that the exactly rounded sum over the idle ones is the same.
POWERS_IN_PARTS = [("fusion", 16 * 0.02), ("fusion", 0.5), ("plain", 16 * 0.01), ("plain", 0.5), ("float", 0.7)]


def test_a_tie_goes_to_the_tile_named_first_and_equal_tiles_are_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import mapper.network as network_module

    asked = []

    def counted(layer: Layer, precision: LayerPrecision, accelerator: Accelerator, *given: Any, **named: Any) -> Any:
        asked.append(accelerator.name)
        return map_layer(layer, precision, accelerator, *given, **named)

    monkeypatch.setattr(network_module, "map_layer", counted)
    twins = a_machine(FUSION.model_copy(update={"name": "b"}), FUSION.model_copy(update={"name": "a"}), FLOAT)
    found = map_network(one_layer(), twins, {"conv": MIXED["conv"]}, budget=BUDGET, workers=1)
    assert found["conv"].tile == "b" and asked == ["chip.b"]
    assert found["conv"].offers[0].cost == found["conv"].offers[1].cost


def one_layer() -> Network:
    graph = nx.DiGraph()
    graph.add_node("conv", op=NETWORK.layers[0])
    return Network("one", graph)


def test_the_bound_is_the_smallest_of_all_tiles_and_the_status_follows() -> None:
    best = map_layer(NETWORK.layers[2], MIXED["fc"], CHIP.tile("plain"), "latency", budget=BUDGET)
    rival = best.model_copy(update={"cost": best.cost * 2, "lower_bound": best.cost / 2, "status": "feasible"})
    found = cheapest({"plain": best, "fusion": rival}, {"float": "it cannot"}, CHIP.tile_names)
    assert (found.tile, found.cost, found.lower_bound) == ("plain", best.cost, best.cost / 2)
    assert found.status == "feasible" and found.gap == 0.5
    beaten = rival.model_copy(update={"lower_bound": best.cost})
    assert cheapest({"plain": best, "fusion": beaten}, {"float": "it cannot"}, CHIP.tile_names).status == best.status


def test_a_precision_that_no_tile_runs_is_one_error_with_every_reason() -> None:
    wanted = MIXED | {"conv": LayerPrecision.parse("fp16"), "fc": LayerPrecision.parse("fp16")}
    with pytest.raises(PrecisionError) as caught:
        map_network(NETWORK, CHIP, wanted, budget=BUDGET, workers=1)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("layer conv") and "no tile of chip can run it" in lines[0]
    for name in CHIP.tile_names:
        assert any(f"tile {name}" in line and "fp16" in line for line in lines)


def test_a_layer_that_fits_nowhere_is_one_error_with_every_reason() -> None:
    small = a_machine(*(
        tile.model_copy(update={"memories": (
            tile.memories[0].model_copy(update={"size_bits": 8}), *tile.memories[1:]
        )}) for tile in (FUSION, FLOAT)
    ))
    with pytest.raises(InfeasibleError) as caught:
        map_network(one_layer(), small, {"conv": MIXED["conv"]}, budget=BUDGET, workers=1)
    assert "no tile of chip can run it" in str(caught.value)
    assert "tile fusion" in str(caught.value) and "buffer.size_bits=8" in str(caught.value)
    assert "tile float" in str(caught.value) and "precision.weight=int4" in str(caught.value)


def test_a_tile_that_is_too_small_leaves_the_layer_to_another() -> None:
    tiny = PLAIN.model_copy(update={"memories": (
        PLAIN.memories[0].model_copy(update={"size_bits": 8}), *PLAIN.memories[1:]
    )})
    found = map_network(one_layer(), a_machine(tiny, FUSION), {"conv": MIXED["conv"]}, budget=BUDGET, workers=1)
    assert found["conv"].tile == "fusion" and "size_bits" in found["conv"].offers[0].reason


def test_vector_operations_follow_the_layer_they_read() -> None:
    placed = {"conv": "fusion", "scores": "float", "fc": "plain"}
    assert vector_tiles(NETWORK, placed, "fusion") == {
        "norm": "fusion", "relu": "fusion", "softmax": "float", "add": "plain",
    }


def test_a_solution_of_another_machine_is_refused(solutions: dict[str, MappingSolution]) -> None:
    exact = network_precisions(NETWORK, MIXED)
    with pytest.raises(MappingError, match="for no tile of this machine"):
        simulate_network(NETWORK, a_machine(PLAIN, FLOAT), exact, solutions | {
            "conv": solutions["conv"].model_copy(update={"tile": "fusion"})
        })
    with pytest.raises(MappingError, match="for no tile of this machine"):
        simulate_network(NETWORK, alone(FUSION), exact, solutions)


def test_sums_in_floating_point_may_be_written_as_integers() -> None:
    element = FLOAT.processing_element
    precision = LayerPrecision.parse("bf16").model_copy(update={"output": Format("int4")})
    assert element.problems(precision) == []
    sums = [0x3F800000, 0x7F800000, 0x3FC12345]
    assert element.finish(sums, precision) == sums, "scales, which a layer does not hold, decide the integers"
    exact = network_precisions(NETWORK, MIXED | {"conv": LayerPrecision.parse("bf16"), "fc": MIXED["conv"]})
    assert exact["conv"].output == "bf16" and exact["scores"].output == "bf16"
    chain = nx.DiGraph()
    for layer in (NETWORK.layers[0], NETWORK.layers[2]):
        chain.add_node(layer.name, op=layer)
    chain.add_edge("conv", "fc")
    assignment = {"conv": LayerPrecision.parse("bf16"), "fc": MIXED["conv"]}
    network = Network("chain", chain)
    found = map_network(network, CHIP, assignment, budget=BUDGET, workers=1)
    result = simulate_network(network, CHIP, network_precisions(network, assignment), found)
    conv = result.operations[0]
    assert isinstance(conv, LayerResult) and conv.tile == "float"
    assert conv.energy_pj["conversion"] == pytest.approx(128 * 0.4), "each output is turned once"


# Descriptions ------------------------------------------------------------------------------------------------------

TEXT = """bitmosaic_version: 1
name: duo
description: "Two tiles, for tests"
clock_mhz: 500.0
dram: {bandwidth_bits_per_cycle: 64, read_energy_pj_per_bit: 4.0, write_energy_pj_per_bit: 4.0}
tiles:
  - name: fusion
    preset: bit_fusion
    memories:
      - {name: output_buffer, size_bits: 65536}
    grid:
      axes: [{name: columns, size: 8}]
  - name: small
    preset: gaudi_like
    processing_element: {kind: fixed, energy_pj_per_cycle: 0.25}
    memories:
      - {name: sram, size_bits: 1048576}
sources:
  tiles.fusion.grid: {confidence: extracted, source: "somewhere"}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "duo.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_tile_is_its_preset_but_for_what_the_file_gives(tmp_path: Path) -> None:
    machine = load_machine(written(tmp_path, TEXT))
    assert isinstance(machine, TiledAccelerator) and machine.tile_names == ("fusion", "small")
    preset, tile = open_accelerator("bit_fusion"), machine.tile("fusion")
    sizes = {buffer.name: buffer.size_bits for buffer in tile.buffers}
    assert sizes == {**{buffer.name: buffer.size_bits for buffer in preset.buffers}, "output_buffer": 65536}
    assert [axis.size for axis in tile.grid.axes] == [16, 8] and tile.grid.axes[1].unroll == ("K",)
    assert tile.processing_element == preset.processing_element and tile.vector_unit == preset.vector_unit
    assert machine.tile("small").processing_element == FixedElement(energy_pj_per_cycle=0.25)


def test_a_number_given_anew_does_not_have_the_presets_source(tmp_path: Path) -> None:
    machine = load_machine(written(tmp_path, TEXT))
    tile, preset = machine.tile("fusion"), open_accelerator("bit_fusion")
    assert tile.sources["memories.output_buffer.size_bits"].confidence == "assumed"
    assert tile.sources["grid.axes.columns.size"] == Source(confidence="extracted", source="somewhere")
    key = "memories.weight_buffer.area_um2"
    assert tile.sources[key] == preset.sources[key]
    assert not any(key.startswith("processing_element.expansion") for key in machine.tile("small").sources)


def test_a_machine_of_tiles_survives_being_written(tmp_path: Path) -> None:
    for machine in (CHIP, load_machine(written(tmp_path, TEXT)), open_machine("four_tiles")):
        path = tmp_path / "written.yaml"
        path.write_text(dump_accelerator(machine), encoding="utf-8")
        assert load_machine(path) == machine


@pytest.mark.parametrize(("right", "wrong", "line", "said"), [
    ("preset: bit_fusion", "preset: bit_fusoin", 8, "no such preset of one tile (allowed:"),
    ("preset: bit_fusion", "preset: four_tiles", 8, "no such preset of one tile (allowed:"),
    ("size_bits: 65536", "size_bits: -1", 10, "must be at least 1"),
    ("size_bits: 65536", "size_bit: 1", 10, "no such field"),
    ("size: 8", "size: many", 12, "must be a whole number"),
    ("name: small", "name: fusion", 6, "names must differ"),
    ("name: small", "name: a.b", 13, "must not hold a dot"),
    ("dram: {", "dram: {name: sram, ", 6, "has the name of the DRAM"),
    ("name: small", "name: ''", 13, "must not be empty"),
    ('source: "somewhere"', 'source: ""', 19, "must not be empty"),
    ("tiles.fusion.grid:", "tiles.fusion.gird:", 19, "names nothing in this description"),
    ("tiles:\n", "tile:\n", 6, "no such field"),
    ("    memories:\n      - {name: sram, size", "    memories:\n      - {name: sram, keeps: [weight], size", 16,
     "no buffer keeps the input"),
])
def test_mistakes_are_found_where_they_stand(tmp_path: Path, right: str, wrong: str, line: int, said: str) -> None:
    assert TEXT.count(right) == 1
    problems = validate_file(written(tmp_path, TEXT.replace(right, wrong)))
    assert len(problems) == 1, problems
    assert problems[0].where.endswith(f":{line}") and said in str(problems[0])


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    text = TEXT.replace("preset: gaudi_like", "preset: gaudi").replace("size: 8", "size: 0")
    text = text.replace("clock_mhz: 500.0", "clock_mhz: 0").replace("size_bits: 1048576", "size_bits: 1 MB")
    assert [problem.where.rpartition(":")[2] for problem in validate_file(written(tmp_path, text))] == [
        "4", "12", "14", "17",
    ]


def test_machines_of_tiles_are_refused_where_one_tile_is_meant(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="machines of one tile"):
        open_accelerator("four_tiles")
    with pytest.raises(ConfigurationError, match="explore takes machines of one tile"):
        bitmosaic.explore("digits_cnn", "four_tiles", results=tmp_path / "results")
    assert not (tmp_path / "results").exists()


# The preset --------------------------------------------------------------------------------------------------------


def test_the_preset_has_four_different_tiles_with_their_presets_numbers() -> None:
    machine = open_machine("four_tiles")
    assert isinstance(machine, TiledAccelerator) and len(machine.tiles) == 4
    assert len({tile.processing_element.kind for tile in machine.tiles}) == 4
    fusion, preset = machine.tile("fusion"), open_accelerator("bit_fusion")
    for field in ("memories", "grid", "processing_element", "vector_unit", "output_stage", "clock_mhz"):
        assert getattr(fusion, field) == getattr(preset, field)
    assert {tile.preset for tile in machine.tiles} == {"bit_fusion", "loom", "gaudi_like", "tpu_like"}
    confidence = machine_confidence(machine, {"fusion": [MIXED["conv"]], "float": [MIXED["scores"]]})
    assert confidence["dram"] == "extracted" and None not in confidence.values()
    # So that no tile rests for free. (For the serial tile's wires there is no number.)
    parts = [part for tile in machine.tiles for part in machine.tile(tile.name).parts if part.is_on_chip]
    assert {part.name for part in parts if part.leakage_mw is None} == {"interconnect"}


# The front door ----------------------------------------------------------------------------------------------------


def test_the_command_line_shows_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITMOSAIC_CACHE_DIR", str(tmp_path / "cache"))
    Path("chip.yaml").write_text(dump_accelerator(CHIP), encoding="utf-8")
    runner = CliRunner()
    shown = runner.invoke(main, ["hardware", "chip.yaml"])
    assert shown.exit_code == 0 and "fusion.buffer" in shown.stdout and "one at work at a time" in shown.stdout
    assert runner.invoke(main, ["validate", "chip.yaml"]).output == "chip.yaml: valid\n"
    arguments = ["simulate", "digits_cnn", "--hardware", "chip.yaml", "--precision", "w4a4", "--layer-precision",
                 "linear2=bf16", "--objective", "latency", "--gap", "0.5", "--seconds-per-layer", "0.1", "--workers",
                 "1", "--trace", "trace.json", "--plots", "plots"]
    result = runner.invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "One tile works at a time" in result.stdout and "idle leakage" in result.stdout
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith(" linear2 ")]
    assert rows and all(row[1] == "bf16" for row in rows) and rows[0][2] == "float"
    assert Path("plots/utilization_float.png").exists() and '"tile":"float"' in Path("trace.json").read_text()
    wrong = runner.invoke(main, ["simulate", "digits_cnn", "--hardware", "chip.yaml", "--precision", "fp8_e4m3"])
    assert wrong.exit_code == 2 and "error: layer conv1" in wrong.stderr and "tile plain" in wrong.stderr
    unknown = runner.invoke(main, [*arguments[:6], "--layer-precision", "linear3=bf16"])
    assert unknown.exit_code == 2 and "fits no layer (did you mean 'linear2'?)" in unknown.stderr


def test_tiles_may_have_several_levels_of_buffers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITMOSAIC_CACHE_DIR", str(tmp_path / "cache"))
    # Transfers through its port take time, and so are in the trace.
    outer = Buffer(name="outer", keeps=OPERANDS, size_bits=1 << 20, read_energy_pj_per_bit=0.5,
                   write_energy_pj_per_bit=0.5, read_bandwidth_bits_per_cycle=8)
    deep = [tile.model_copy(update={"memories": (outer, *tile.memories)}) for tile in (FUSION, FLOAT)]
    network, precisions = one_layer(), ("w4a4", "bf16")
    chip = a_machine(*deep)
    for tile, precision in zip(chip.tile_names, precisions, strict=True):
        run = bitmosaic.uniform_run(network, chip, precision, objective="latency", workers=1,
                                    budget=SearchBudget(cpu_seconds=0.5, target_gap=0.5))
        bitmosaic.write_trace(run, tmp_path / "trace.json")
        events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        named = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
        between = {named[event["tid"]] for event in events if event.get("cat") == "buffers"}
        assert len(between) > 1 and all(name.startswith((f"{tile}.outer: ", f"{tile}.buffer: ")) for name in between)


def test_frames_name_the_tiles(solutions: dict[str, MappingSolution]) -> None:
    frame = bitmosaic.solutions_frame(list(solutions.values()))
    assert list(frame["tile"]) == [solution.tile for solution in solutions.values()]
    tiles = bitmosaic.tiles_frame(CHIP)
    assert list(tiles["tile"]) == ["fusion", "plain", "float"] and list(tiles["buffers_kib"]) == [16.0] * 3
    assert list(tiles["leakage_mw"]) == pytest.approx(list(POWERS.values()))
    assert bitmosaic.parts_frame(CHIP)["leakage_mw"].sum() == pytest.approx(sum(POWERS.values()) + 1.5)
