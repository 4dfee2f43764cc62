"""From an accelerator and a mapping of ours to a hierarchy of memories and a loop nest, for other tools.

Their factors divide: a tile that leaves a smaller last one is refused, but for Timeloop where the layer leaves it.
Their arrays have no skew, their units take one cycle for a product, and their memories move what is asked for; what of
ours has no counterpart is noted, what would change the count of products or accesses is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from bitmosaic.interchange.design import Design
from simulator.accelerator import LANES, Accelerator, Buffer, RegisterFile
from simulator.counting_rules.loop_nest import FLOWS, READS, Loop, LoopNest, Machine, Memory, Port, Store
from simulator.errors import ConfigurationError, MappingError, Problem
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.mapping import Mapping
from simulator.plan import Plan
from simulator.precision import LayerPrecision

_READS = frozenset((operand, flow) for operand in OPERANDS for flow in READS)
_WRITES = frozenset((operand, flow) for operand in OPERANDS for flow in FLOWS if flow not in READS)


def design_of(
    accelerator: Accelerator, precision: LayerPrecision, layer: Layer | None = None, mapping: Mapping | None = None
) -> Design:
    """Return an accelerator, and perhaps a layer with its mapping, as other tools describe them.

    Raises ``ConfigurationError`` or ``MappingError`` with everything that they cannot say.
    """
    problems: list[Problem] = []
    notes: list[str] = []
    element = accelerator.processing_element
    element.check(precision)
    if precision.split is not None:
        problems.append(Problem("other tools have no layers split by channel", path="precision.split",
                                value=precision.split.label))
    if element.depends_on_values:
        problems.append(Problem("its time depends on values, which other tools do not know", path="processing_element",
                                value=element.kind))
    elif element.cycles_per_step(precision) != 1:
        problems.append(Problem(f"a step takes {element.cycles_per_step(precision)} cycles in {precision.label}; other "
                                "tools have one cycle a product: choose a precision with steps of one cycle",
                                path="processing_element", value=element.kind))
    if precision.expanded_weight is not None:
        problems.append(Problem("other tools do not expand weights", path="precision.expanded_weight",
                                value=str(precision.expanded_weight)))
    if layer is not None and (layer.padding_begin != (0, 0) or layer.input_size is not None):
        notes.append("Padding is not carried over: other tools take an input as large as the kernel touches.")
    if layer is not None and layer.has_bias:
        notes.append("The bias is not carried over.")
    if precision.scale_bits or precision.zero_bits:
        notes.append("The traffic of scales is not carried over.")
    if accelerator.grid.passing.kind == "systolic":
        notes.append("The array is systolic here; its skew, fill and drain have no counterpart.")
    if any(axis.adder_tree_cycles for axis in accelerator.grid.axes):
        notes.append("The cycles of adder trees have no counterpart.")
    for path, described in (("grid.interconnect", accelerator.grid.interconnect),
                            ("output_stage", accelerator.output_stage), ("dram.rows", accelerator.dram.rows)):
        if described is not None:
            notes.append(f"{path} is not carried over.")
    if any(part.leakage_mw for part in accelerator.parts) or any(part.area_um2 for part in accelerator.parts):
        notes.append("Area and leakage are not carried over.")
    notes.append("The vector unit is not carried over.")
    lane_count = element.lanes(precision)
    plan = None
    if layer is not None and mapping is not None:
        plan = Plan(layer, precision, accelerator, mapping)
    machine = _machine(accelerator, precision, lane_count, mapping, problems, notes)
    if problems:
        raise ConfigurationError(problems)
    nest = None
    if plan is not None and layer is not None and mapping is not None:
        nest = nest_of(plan, machine)
        if any(level.double_buffer for level in mapping.levels) or mapping.double_buffer:
            notes.append("What is held twice is not carried over.")
    return Design("Bitmosaic", machine=machine, layer=layer, precision=precision, nest=nest,
                  clock_mhz=accelerator.clock_mhz, notes=tuple(dict.fromkeys(notes)))


def _machine(
    accelerator: Accelerator, precision: LayerPrecision, lane_count: int, mapping: Mapping | None,
    problems: list[Problem], notes: list[str],
) -> Machine:
    axes = {axis.name: axis.size for axis in accelerator.grid.axes}
    grid = tuple(axes)
    if lane_count > 1:
        axes[LANES] = lane_count
    memories = []
    for memory in accelerator.memories:
        kept = memory.keeps if isinstance(memory, Buffer | RegisterFile) else OPERANDS
        if isinstance(memory, Buffer) and mapping is not None:
            level = accelerator.level_of(memory)
            kept = tuple(operand for operand in kept if not mapping.bypasses(operand, level))
        elif isinstance(memory, Buffer) and memory.may_bypass:
            notes.append(f"{memory.name} keeps all its operands: that some may pass it by is not carried over.")
        if not kept:
            continue
        along: tuple[str, ...] = ()
        size: int | None = None if not isinstance(memory, Buffer | RegisterFile) else memory.size_bits
        if isinstance(memory, RegisterFile):
            along = grid
            if lane_count > 1 and kept != ("output",):
                if "output" in kept:
                    problems.append(Problem("keeps outputs, which the lanes of a PE share, and other operands, which "
                                            "they do not", path=f"memories.{memory.name}.keeps", value=", ".join(kept)))
                elif memory.size_bits % lane_count:
                    problems.append(Problem(f"must be the same for each of the {lane_count} lanes",
                                            path=f"memories.{memory.name}.size_bits", value=str(memory.size_bits)))
                along = (*grid, LANES)
                size = memory.size_bits // lane_count
        if isinstance(memory, Buffer) and memory.banks > 1:
            notes.append(f"{memory.name} has {memory.banks} banks here; other tools see one.")
        memories.append(Memory(name=memory.name, keeps=kept, size_bits=size, ports=_ports(accelerator, memory, notes),
                               read_energy_pj=memory.read_energy_pj_per_bit, replicated_along=along,
                               write_energy_pj=memory.write_energy_pj_per_bit))
    element = accelerator.processing_element
    return Machine(name=accelerator.name, memories=tuple(memories), axes=axes,
                   mac_energy_pj=element.energy_pj_per_cycle_at(precision) / lane_count)


def _ports(accelerator: Accelerator, memory: object, notes: list[str]) -> tuple[Port, ...]:
    if isinstance(memory, Buffer):
        read, written = memory.read_bandwidth_bits_per_cycle, memory.write_bandwidth_bits_per_cycle
        if memory.ports == "shared" and read == written:
            return (Port(name="both", serves=_READS | _WRITES, bits_per_cycle=read),)
        if memory.ports == "shared":
            notes.append(f"{memory.name} reads and writes through one port here, with two bandwidths: two ports there.")
        return (Port(name="read", serves=_READS, bits_per_cycle=read),
                Port(name="write", serves=_WRITES, bits_per_cycle=written))
    if isinstance(memory, RegisterFile):
        return (Port(name="read", serves=_READS), Port(name="write", serves=_WRITES))
    width = accelerator.dram.bandwidth_bits_per_cycle
    if accelerator.dram.latency_cycles or accelerator.dram.burst_bits > 1:
        notes.append("Latency and bursts of the DRAM are not carried over.")
    return (Port(name="both", serves=_READS | _WRITES, bits_per_cycle=width),)


def nest_of(plan: Plan, machine: Machine) -> LoopNest:
    """Return a mapping as a nest: loops level by level, tiles as far out as they are held.

    Tiles of the layer may leave a smaller last one, which Timeloop knows (``LoopNest.ragged``). Raises ``MappingError``
    with every tile inside another one that does.
    """
    mapping, layer = plan.mapping, plan.layer
    names = ["the layer", *(f"buffer {number}" for number in range(1, plan.levels + 1)), "the grid's register tile"]
    problems = []
    ragged: list[Dim] = []
    extents = [layer.shape, *([int(extent) for extent in plan.tile[number]] for number in range(1, plan.levels + 1)),
               [int(extent) for extent in plan.grid_tile]]
    for index, dim in enumerate(DIMS):
        for number, (outer, inner) in enumerate(itertools.pairwise(extents)):
            if outer[index] == layer.shape[index] and outer[index] % inner[index]:
                ragged.append(dim)
                if plan.unroll[index] > 1 and plan.register_tile[index] > 1 and outer[index] % extents[-1][index]:
                    problems.append(Problem(f"leaves a part of {names[-1]}, which PEs share in steps here; other tools "
                                            "give some of them all of it", path=f"{names[number + 1]}.{dim}",
                                            value=str(inner[index])))
            elif outer[index] % inner[index]:
                problems.append(Problem(f"does not divide the {outer[index]} of {names[number]}: other tools have "
                                        "no smaller last tile in every one of them", path=f"{names[number + 1]}.{dim}",
                                        value=str(inner[index])))
    if problems:
        raise MappingError(problems)
    temporal: list[Loop] = []
    cuts = []
    for number in range(plan.levels + 1):
        for dim in mapping.levels[number].order:
            trips = -(-extents[number][DIMS.index(dim)] // extents[number + 1][DIMS.index(dim)])
            if trips > 1:
                temporal.append(Loop(dim, trips))
        cuts.append(len(temporal))
    temporal += [Loop(dim, int(extent)) for dim, extent in zip(DIMS, plan.register_tile, strict=True) if extent > 1]
    spatial = {
        axis: tuple(Loop(dim, factor) for dim, factor in reversed(list(factors.items())) if factor > 1)
        for axis, factors in mapping.spatial.items() if math.prod(factors.values()) > 1
    }
    stores: dict[Operand, tuple[Store, ...]] = {}
    for operand in OPERANDS:
        kept = []
        for memory in machine.levels(operand):
            buffer = next((each for each in plan.accelerator.buffers if each.name == memory.name), None)
            if memory.name == plan.accelerator.dram.name:
                place = 0
            elif buffer is not None:
                place = _held_from(temporal, cuts[plan.accelerator.level_of(buffer) - 1], 0, RELEVANT_DIMS[operand])
            else:
                # Registers are filled anew at each pass over an innermost buffer tile, unless it is all that there is.
                least = 0 if plan.bypasses_all(operand) else cuts[-2] if plan.levels else 0
                place = _held_from(temporal, cuts[-1], least, RELEVANT_DIMS[operand])
            kept.append(Store(memory=memory.name, loops_above=place))
        stores[operand] = tuple(kept)
    return LoopNest(temporal=tuple(temporal), spatial=spatial, stores=stores, ragged=tuple(ragged))


def _held_from(temporal: Sequence[Loop], cut: int, least: int, relevant: frozenset[Dim]) -> int:
    """How far out a tile laid at a cut is held: past the loops around it that its operand does not depend on."""
    while cut > least and temporal[cut - 1].dim not in relevant:
        cut -= 1
    return cut
