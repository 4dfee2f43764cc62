"""Networks on machines of several tiles: sums of parts, the cheapest tile, idle leakage; against each tile alone."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from mapper.cache import MappingCache
from mapper.network import network_precisions, simulate_network
from mapper.placement import map_network
from mapper.search import map_layer
from mapper.solution import OBJECTIVES, SearchBudget, objective_cost
from simulator.accelerator import Accelerator, Axis, Buffer, Dram, Grid, MulticastPassing, VectorUnit
from simulator.engine import simulate, simulate_vector_op
from simulator.layer import OPERANDS, Layer, VectorKind, VectorOp
from simulator.precision import LayerPrecision
from simulator.processing_elements import BitSerialElement, FixedElement, FloatingPointElement, ProcessingElement
from simulator.tiled import Tile, TiledAccelerator
from workloads.network import Network

# A gap that every search reaches long before its time is over, so that the same search finds the same again.
BUDGET = SearchBudget(cpu_seconds=60.0, target_gap=0.3)
CLOCK_MHZ = 400.0
POWERS = st.one_of(st.none(), st.floats(0.0, 5.0, allow_subnormal=False))
PRECISIONS = [LayerPrecision.parse(text) for text in ("w8a8", "w4a2", "bf16")]
few_examples = settings(max_examples=max(4, settings().max_examples // 10))


@st.composite
def elements(draw: st.DrawFn) -> ProcessingElement:
    fields: dict[str, Any] = {
        "energy_pj_per_cycle": draw(st.sampled_from([0.1, 0.5])), "leakage_mw": draw(POWERS),
    }
    kind = draw(st.sampled_from(["fixed", "bit_serial", "floating_point"]))
    if kind == "fixed":
        return FixedElement(**fields)
    if kind == "bit_serial":
        return BitSerialElement(serial_operands=("weight",), lane_count=2, **fields)
    return FloatingPointElement(operand_formats=("bf16",), **fields)


@st.composite
def tiles(draw: st.DrawFn, name: str) -> Tile:
    buffer = Buffer(
        name="buffer", keeps=OPERANDS, size_bits=draw(st.sampled_from([2048, 8192])), read_energy_pj_per_bit=0.1,
        write_energy_pj_per_bit=0.2, leakage_mw=draw(POWERS),
    )
    axes = tuple(
        Axis(name=axis, size=draw(st.integers(1, 4)), unroll=unroll) for axis, unroll in (("x", ("K",)), ("y", ("P",)))
    )
    return Tile(
        name=name, memories=(buffer,), grid=Grid(axes=axes, passing=MulticastPassing()),
        processing_element=draw(elements()),
        vector_unit=VectorUnit(lanes=draw(st.integers(1, 3)), energy_pj_per_operation=0.3, leakage_mw=draw(POWERS)),
    )


@st.composite
def machines(draw: st.DrawFn) -> TiledAccelerator:
    """One to three tiles, of which one runs integers and, where there are two, one floating point."""
    found = [draw(tiles(name)) for name in ("a", "b", "c")[: draw(st.integers(1, 3))]]
    integer = FixedElement(energy_pj_per_cycle=0.2, leakage_mw=draw(POWERS))
    found[0] = found[0].model_copy(update={"processing_element": integer})
    if len(found) > 1:
        floating = FloatingPointElement(operand_formats=("bf16",), energy_pj_per_cycle=0.6, leakage_mw=draw(POWERS))
        found[1] = found[1].model_copy(update={"processing_element": floating})
    dram = Dram(bandwidth_bits_per_cycle=draw(st.sampled_from([8, 64])), latency_cycles=draw(st.integers(0, 9)),
                read_energy_pj_per_bit=2.0, write_energy_pj_per_bit=3.0, background_mw=draw(POWERS))
    return TiledAccelerator(name="drawn", description="drawn", clock_mhz=CLOCK_MHZ, dram=dram, tiles=tuple(found))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A chain of layers and vector operations, some of them fused."""
    graph = nx.DiGraph()
    names: list[str] = []

    def append(operation: Layer | VectorOp) -> None:
        graph.add_node(operation.name, op=operation)
        graph.add_edges_from([(names[-1], operation.name)] if names else [])
        names.append(operation.name)

    for number in range(draw(st.integers(1, 3))):
        dims: Any = {"K": draw(st.integers(1, 6)), "C": draw(st.integers(1, 6)), "P": draw(st.integers(1, 6))}
        append(Layer(name=f"layer{number}", dims=dims, has_bias=draw(st.booleans())))
        if draw(st.booleans()):
            append(VectorOp(name=f"vector{number}", operator="Op", kind=VectorKind.ELEMENTWISE, input_count=12,
                            output_count=12, processed_count=12, fused=draw(st.booleans())))
    return Network("drawn", graph)


def alone(machine: TiledAccelerator, name: str) -> Accelerator:
    """A tile with the DRAM to itself and nobody beside it."""
    tile = next(tile for tile in machine.tiles if tile.name == name)
    return Accelerator(
        name=name, description="alone", clock_mhz=machine.clock_mhz, memories=(machine.dram, *tile.memories),
        grid=tile.grid, processing_element=tile.processing_element, vector_unit=tile.vector_unit,
        output_stage=tile.output_stage,
    )


def idle_pj_per_cycle(machine: TiledAccelerator, working: str) -> float | None:
    """By exact sums over the parts of the other tiles, each rounded once as the machine has it."""
    powers = []
    for tile in machine.tiles:
        if tile.name == working:
            continue
        pes = tile.grid.pe_count
        for copies, power in ((1, tile.memories[0].leakage_mw), (pes, tile.processing_element.leakage_mw),
                              (1, tile.vector_unit.leakage_mw)):
            if power is not None:
                powers.append(Fraction(copies * power))
    return float(sum(powers, start=Fraction(0))) * 1e3 / CLOCK_MHZ if powers else None


@few_examples
@given(st.data())
def test_a_network_is_the_sum_of_its_tiles_alone_and_of_what_idles(tmp_path_factory: Any, data: st.DataObject) -> None:
    machine, network = data.draw(machines()), data.draw(networks())
    allowed = PRECISIONS if len(machine.tiles) > 1 else PRECISIONS[:2]
    assignment = {layer.name: data.draw(st.sampled_from(allowed)) for layer in network.layers}
    objective = data.draw(st.sampled_from(OBJECTIVES))
    cache = MappingCache(tmp_path_factory.mktemp("mappings"))
    solutions = map_network(network, machine, assignment, objective, budget=BUDGET, cache=cache, workers=1)
    exact = network_precisions(network, assignment)
    result = simulate_network(network, machine, exact, solutions)

    for operation, row in zip(network.operations, result.operations, strict=True):
        assert row.tile is not None
        single = alone(machine, row.tile)
        if isinstance(operation, Layer):
            solution = solutions[operation.name]
            assert solution.tile == row.tile
            expected: Any = simulate(operation, exact[operation.name], single, solution.mapping)
        else:
            expected = simulate_vector_op(operation, single)
        idle = idle_pj_per_cycle(machine, row.tile)
        energy = expected.energy_pj | ({} if idle is None else {"idle_leakage": expected.total_cycles * idle})
        assert row == expected.model_copy(update={"energy_pj": energy, "tile": row.tile})
    assert result.total_cycles == sum(row.total_cycles for row in result.operations)
    assert result.total_energy_pj == math.fsum(row.total_energy_pj for row in result.operations)

    for layer in network.layers:
        solution = solutions[layer.name]
        assert solution.cost == objective_cost(solution.result, objective) >= solution.lower_bound
        found = {}
        for name in machine.tile_names:
            tile = machine.tile(name)
            if not tile.processing_element.problems(exact[layer.name]):
                found[name] = map_layer(layer, exact[layer.name], tile, objective, budget=BUDGET)
        assert solution.tile == min(found, key=lambda name: found[name].cost), "the cheapest, of equal ones the first"
        assert solution.cost == min(each.cost for each in found.values())
        assert solution.lower_bound == min(each.lower_bound for each in found.values())
        close = all(each.lower_bound >= solution.cost * (1 - 3e-6) for each in found.values())
        assert (solution.status == "optimal") <= close and (solution.gap > 1e-5) <= (solution.status == "feasible")
        assert [offer.cost for offer in solution.offers] == [
            found[name].cost if name in found else None for name in machine.tile_names
        ]
