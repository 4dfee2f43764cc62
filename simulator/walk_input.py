"""A plan laid out for the walk: places, ports, tables of the input's extents, the DRAM's rows."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from simulator.accelerator import Buffer
from simulator.kernels import transfers as kernel
from simulator.kernels.channels import SplitInput
from simulator.kernels.dram_rows import RowInput
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Operand
from simulator.plan import Place, Plan

Counts = npt.NDArray[np.int64]
_RELEVANT = np.array([[dim in RELEVANT_DIMS[operand] for dim in DIMS] for operand in OPERANDS])
_NO_PASSES = np.zeros(0, dtype=np.int64)


def walk_input(plan: Plan) -> kernel.WalkInput:
    """Lay a plan out for the kernel, without the times of passes that values decide (``simulator.fast``)."""
    stationary = plan.timing.stationary
    streamed = np.array([stationary is not None and dim not in RELEVANT_DIMS[stationary] for dim in DIMS])
    places = [plan.places(operand) for operand in OPERANDS]
    most = max(len(found) for found in places)
    ports, port_count = _ports(plan, places, most)
    trips = plan.trips.copy()
    for index, dim in enumerate(DIMS):
        if dim not in plan.buffer_event_loops:
            trips[-1, index] = 1
    precision, dram = plan.precision, plan.accelerator.dram
    bits = [precision.stored_bits(operand) for operand in OPERANDS] + [precision.output.bits]
    numbers = {memory.name: number for number, memory in enumerate(plan.accelerator.memories)}

    def table(fill: int, of: object) -> Counts:
        """Array (3, places) of a function of operand and place."""
        found = np.full((len(OPERANDS), most), fill, dtype=np.int64)
        for row, (operand, its_places) in enumerate(zip(OPERANDS, places, strict=True)):
            found[row, : len(its_places)] = [of(operand, place) for place in its_places]  # type: ignore[operator]
        return found

    grid_ports = any(ports[0][way, row, len(its) - 1] >= 0 for row, its in enumerate(places) for way in (0, 1))
    touched, touched_start, touched_width = _touched_tables(plan)
    prefix, prefix_start, prefix_width = _prefix_tables(plan, needed=bool(ports[0][0, 1, len(places[1]) - 1] >= 0))
    return kernel.WalkInput(
        loop_dim=np.array([DIMS.index(dim) for dim, _ in plan.event_loops], dtype=np.int64),
        loop_level=np.array([level for _, level in plan.event_loops], dtype=np.int64),
        extent=plan.extent,
        tile=plan.tile,
        trips=trips,
        grid_tile=plan.grid_tile,
        unroll=plan.unroll,
        streamed=streamed,
        relevant=_RELEVANT,
        touched=touched,
        touched_start=touched_start,
        touched_width=touched_width,
        element_bits=np.array(bits, dtype=np.int64),
        in_registers=np.array([plan.accelerator.registers_of(operand) is not None for operand in OPERANDS]),
        place_count=np.array([len(found) for found in places], dtype=np.int64),
        place_level=table(0, lambda _, place: place.level),
        place_depth=table(0, lambda operand, place: plan.run_depth(operand, place.level)),
        place_memory=table(0, lambda _, place: numbers[place.memory.name]),
        place_latency=table(0, lambda _, place: getattr(place.memory, "latency_cycles", 0)),
        place_bits=table(0, lambda operand, place: plan.held_bits(operand, place.level)),
        double_buffer=table(0, lambda _, place: place.double_buffer).astype(np.bool_),
        slot=table(0, lambda operand, place: _first_slot(plan, operand, place)),
        keeps_before=np.array([[_stands_before(other, first, places) for other in OPERANDS] for first in OPERANDS]),
        banks=table(1, lambda _, place: getattr(place.memory, "banks", 1)),
        port=ports[0],
        width=ports[1],
        port_count=port_count,
        memory_count=len(numbers),
        grid_ports=bool(grid_ports),
        held=np.array([[dim in held for dim in DIMS] for held in map(plan.held_loops, OPERANDS)]),
        register_tiles=plan.trips[-1].copy(),
        prefix=prefix,
        prefix_start=prefix_start,
        prefix_width=prefix_width,
        parameter_bits=precision.parameter_bits(plan.layer),
        step_cycles=plan.step_cycles,
        load_cycles=plan.timing.load_cycles,
        tail_cycles=plan.timing.tail_cycles,
        drain_cycles=plan.timing.drain_cycles,
        overlap=plan.timing.overlap,
        preload=plan.timing.preload,
        folds_on=stationary is not None,
        pass_compute=_NO_PASSES,
        pass_occupied=_NO_PASSES,
        pass_early=_NO_PASSES,
        bandwidth=dram.bandwidth_bits_per_cycle,
        latency=dram.latency_cycles,
        burst=dram.burst_bits,
        split=_split_input(plan),
        rows=_row_input(plan),
        has_rows=dram.rows is not None,
    )


def _split_input(plan: Plan) -> SplitInput:
    """Which channels are narrow, and what that means."""
    channels = plan.channels
    return SplitInput(
        narrow_channels=channels.narrow_channels,
        narrow_places=channels.narrow_places,
        channels_per_place=channels.channels_per_place,
        narrow_bits=np.array([plan.narrow.stored_bits(operand) for operand in OPERANDS], dtype=np.int64),
        narrow_step_cycles=plan.narrow_step_cycles,
    )


def _first_slot(plan: Plan, operand: Operand, place: Place) -> int:
    """Number of an operand's first slot in a memory: operands in the order in which it keeps them."""
    before = itertools.takewhile(lambda other: other != operand, place.memory.keeps)
    here = [
        found.double_buffer for other in before for found in plan.places(other) if found.memory == place.memory
    ]
    return sum(2 if double else 1 for double in here)


def _stands_before(other: Operand, operand: Operand, places: list[tuple[Place, ...]]) -> bool:
    """Whether another operand's slots come before an operand's in its outermost place."""
    memory = places[OPERANDS.index(operand)][0].memory
    if memory != places[OPERANDS.index(other)][0].memory:
        return False
    return memory.keeps.index(other) < memory.keeps.index(operand)


def _ports(plan: Plan, places: list[tuple[Place, ...]], most: int) -> tuple[tuple[Counts, Counts], int]:
    """First port and its width, both (2, 3, places), for reading and for writing; and how many ports there are."""
    port = np.full((2, len(OPERANDS), most), -1, dtype=np.int64)
    width = np.ones((2, len(OPERANDS), most), dtype=np.int64)
    first: dict[tuple[str, int], int] = {}
    count = 1  # port 0 is the DRAM channel
    for buffer in plan.accelerator.buffers:
        for way, bits in enumerate(_widths(buffer)):
            key = buffer.name, 0 if buffer.ports == "shared" else way
            if bits is not None and key not in first:
                first[key] = count
                count += buffer.banks
    for row, found in enumerate(places):
        for column, place in enumerate(found):
            if isinstance(place.memory, Buffer):
                for way, bits in enumerate(_widths(place.memory)):
                    if bits is not None:
                        key = place.memory.name, 0 if place.memory.ports == "shared" else way
                        port[way, row, column], width[way, row, column] = first[key], bits
    return (port, width), count


def _touched_tables(plan: Plan) -> tuple[Counts, Counts, Counts]:
    """Tables of the input's extents at each level where it has a place, behind one another."""
    start = np.zeros((2, plan.levels + 2), dtype=np.int64)
    width = np.zeros((2, plan.levels + 2), dtype=np.int64)
    tables: list[Counts] = []
    at = 0
    for place in plan.places("input"):
        for axis, found in enumerate(plan.touched(place.level)):
            start[axis, place.level], width[axis, place.level] = at, found.shape[1]
            tables.append(found.ravel())
            at += found.size
    return np.concatenate(tables), start, width


def _prefix_tables(plan: Plan, needed: bool) -> tuple[Counts, Counts, Counts]:
    """Sums of rows and columns over rectangles of register tiles: entry (i, j) is that of the first i by j tiles."""
    start, width = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
    if not needed:
        return np.zeros(0, dtype=np.int64), start, width
    tables = []
    at = 0
    for axis, found in enumerate(plan.touched(plan.levels + 1)):
        sums = np.zeros((found.shape[0] + 1, found.shape[1] + 1), dtype=np.int64)
        sums[1:, 1:] = found.cumsum(axis=0).cumsum(axis=1)
        start[axis], width[axis] = at, sums.shape[1]
        tables.append(sums.ravel())
        at += sums.size
    return np.concatenate(tables), start, width


def _row_input(plan: Plan) -> RowInput:
    """Where the tensors lie in the DRAM's rows: parameters, weights, inputs, outputs, partial sums, each from a new
    row on."""
    rows, layer, precision = plan.accelerator.dram.rows, plan.layer, plan.precision
    weights = [layer.extent(dim) for dim in ("G", "K", "C", "R", "S")]
    inputs = [*(layer.extent(dim) for dim in ("G", "N", "C")), *layer.stored_input_size]
    outputs = [layer.extent(dim) for dim in ("G", "N", "K", "P", "Q")]
    shape = np.array([weights, inputs, outputs], dtype=np.int64)
    geometry = np.array([layer.stride, layer.dilation, layer.padding_begin], dtype=np.int64).T.copy()
    if rows is None:
        return RowInput(1, 1, 0, 0, 0, 0, np.zeros(5, dtype=np.int64), shape, geometry)
    channels, places = layer.extent("C"), plan.channels.count
    sizes = [
        precision.parameter_bits(layer),
        int(np.prod(weights)) // channels * plan.channel_bits("weight", 0, places),
        int(np.prod(inputs)) // channels * plan.channel_bits("input", 0, places),
        int(np.prod(outputs)) * precision.output.bits,
        int(np.prod(outputs)) * precision.stored_bits("output"),
    ]
    first_row = np.cumsum([0, *(-(-size // rows.row_bits) for size in sizes[:-1])]).astype(np.int64)
    return RowInput(
        rows.banks, rows.row_bits, rows.activate_cycles, rows.precharge_cycles, rows.refresh_interval_cycles or 0,
        rows.refresh_cycles, first_row, shape, geometry,
    )


def _widths(buffer: Buffer) -> tuple[int | None, int | None]:
    """Bits a cycle of a bank's ports for reading and for writing; None: not limited."""
    return buffer.read_bandwidth_bits_per_cycle, buffer.write_bandwidth_bits_per_cycle
