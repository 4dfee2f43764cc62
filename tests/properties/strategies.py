"""Hypothesis strategies: small layers, machines of every kind, and mappings that are valid on them.

``cases()`` is what most tests want. A mapping is drawn first; buffers and registers are then made just large
enough for it, or a little larger, so that every case is valid and many are tight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from hypothesis import assume, settings
from hypothesis import strategies as st

from simulator.accelerator import (
    LANES,
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
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.mapping import Mapping, MappingLevel
from simulator.precision import LayerPrecision
from simulator.reference.program import Program
from simulator.scales import GroupScales
from tests.properties.element_strategies import KINDS, Kind, precisions, processing_elements, random_codes

Dataflow = Literal["multicast", "streaming", "weight", "input", "output"]
DATAFLOWS: tuple[Dataflow, ...] = get_args(Dataflow)
"""Kinds of grid: multicast, systolic with all operands streaming, systolic with one stationary."""

share_of_examples = settings(max_examples=max(1, settings().max_examples // len(DATAFLOWS)))
"""For a test that runs once for each dataflow: the profile's examples, shared among them."""

HUGE = 1 << 40
LARGEST: dict[Dim, int] = {"G": 3, "N": 3, "K": 7, "C": 9, "P": 6, "Q": 5, "R": 3, "S": 3}


@dataclass(frozen=True)
class Case:
    """One simulation: a layer in a precision on a machine under a mapping. ``seed`` is that of its operands."""

    layer: Layer
    precision: LayerPrecision
    accelerator: Accelerator
    mapping: Mapping
    seed: int = 0

    def operands(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Random codes of the formats, the whole range of integer ones: weights GKCRS, inputs GNCHW."""
        rng = np.random.default_rng(self.seed)
        extent = self.layer.extent
        shapes = (
            (self.precision.weight, tuple(extent(dim) for dim in ("G", "K", "C", "R", "S"))),
            (self.precision.input, (extent("G"), extent("N"), extent("C"), *self.layer.stored_input_size)),
        )
        weights, inputs = (random_codes(rng, number_format, shape) for number_format, shape in shapes)
        return weights, inputs

    def scales(self) -> GroupScales | None:
        """Random scales and zero points, where weights expand: some expanded weights are clipped, some subnormal."""
        precision = self.precision
        if precision.expanded_weight is None:
            return None
        rng = np.random.default_rng(self.seed + 1)
        shape = precision.scale_shape(self.layer)
        scales = (rng.normal(size=shape) * 2.0 ** rng.integers(-12, 8, size=shape)).astype(np.float32)
        low, high = precision.weight.integer_range if precision.zero_bits else (0, 0)
        return GroupScales(scales.astype(np.float64), rng.integers(low, high, size=shape, endpoint=True))


def subsets(values: tuple[Dim, ...] | tuple[Operand, ...], min_size: int = 0) -> st.SearchStrategy[tuple]:
    """Subsets in their original order."""
    return st.lists(st.sampled_from(values), unique=True, min_size=min_size).map(
        lambda chosen: tuple(value for value in values if value in chosen)
    )


@st.composite
def layers(draw: st.DrawFn, max_macs: int = 500) -> Layer:
    """Small layers with every dimension, stride, dilation and padding at both ends."""
    dims: dict[Dim, int] = {}
    budget = max_macs
    for dim in draw(st.permutations(DIMS)):
        dims[dim] = draw(st.integers(1, max(1, min(LARGEST[dim], budget))))
        budget //= dims[dim]
    stride, dilation, padding = (
        (draw(st.integers(low, high)), draw(st.integers(low, high))) for low, high in ((1, 3), (1, 2), (0, 2))
    )
    touched = [
        (dims[out] - 1) * stride[axis] + (dims[tap] - 1) * dilation[axis] + 1 - padding[axis]
        for axis, (out, tap) in enumerate((("P", "R"), ("Q", "S")))
    ]
    input_size = None
    if min(touched) < 1 or draw(st.booleans()):
        # Smaller than what is touched: zeros below and to the right. Larger: rows that nobody reads.
        input_size = tuple(max(1, size + draw(st.integers(-2, 1))) for size in touched)
    return Layer(
        name="layer", dims=dims, stride=stride, dilation=dilation, padding_begin=padding, input_size=input_size,
        has_bias=draw(st.booleans()), weight_is_activation=draw(st.booleans()),
    )


@st.composite
def passings(draw: st.DrawFn, dataflow: Dataflow) -> Passing:
    """Multicast, or systolic with every flag."""
    if dataflow == "multicast":
        return MulticastPassing()
    return SystolicPassing(
        stationary=None if dataflow == "streaming" else dataflow,
        fold_overlap=draw(st.booleans()),
        stationary_preload=draw(st.booleans()),
        partial_sum_hop_cycles=draw(st.integers(1, 3)),
        drains_outputs=draw(st.booleans()),
        pipeline_cycles=draw(st.integers(0, 2)),
    )


@st.composite
def grids(draw: st.DrawFn, dataflow: Dataflow) -> Grid:
    """Grids of at most 16 PEs, with dimensions that their dataflow allows along each axis."""
    passing = draw(passings(dataflow))
    allowed: tuple[Dim, ...] = DIMS
    axis_count = draw(st.integers(1, 3))
    if isinstance(passing, SystolicPassing):
        axis_count = 2
        if passing.stationary is not None:
            allowed = tuple(dim for dim in DIMS if dim in RELEVANT_DIMS[passing.stationary])
    budget = 16
    axes = []
    for number in range(axis_count):
        size = draw(st.integers(1, min(5, budget)))
        budget //= size
        axes.append(Axis(name=f"axis{number}", size=size, unroll=draw(subsets(allowed, min_size=1))))
    lane_unroll = draw(subsets(("C", "R", "S"), min_size=1))
    return Grid(axes=tuple(axes), passing=passing, lane_unroll=lane_unroll)


@st.composite
def partitions(draw: st.DrawFn, operands: tuple[Operand, ...]) -> list[tuple[Operand, ...]]:
    """Ways to spread operands over memories: shared, each its own, anything between."""
    groups: dict[int, tuple[Operand, ...]] = {}
    for operand in operands:
        number = draw(st.integers(0, 2))
        groups[number] = (*groups.get(number, ()), operand)
    return list(groups.values())


@st.composite
def spatials(draw: st.DrawFn, layer: Layer, grid: Grid, lanes: int) -> dict[str, dict[Dim, int]]:
    """Random unrolling: axes and lanes may be full, partly used, or shared by several dimensions."""
    spatial: dict[str, dict[Dim, int]] = {}
    used = dict.fromkeys(DIMS, 1)
    places = [(axis.name, axis.size, axis.unroll) for axis in grid.axes] + [(LANES, lanes, grid.lane_unroll)]
    for name, size, unroll in draw(st.permutations(places)):
        factors: dict[Dim, int] = {}
        for dim in draw(st.permutations(unroll)):
            factor = draw(st.integers(1, max(1, min(size, layer.extent(dim) // used[dim]))))
            if factor > 1 or draw(st.integers(0, 3)) == 0:
                factors[dim] = factor
            used[dim] *= factor
            size //= factor
        if factors or draw(st.booleans()):
            spatial[name] = factors
    return spatial


@st.composite
def orders(draw: st.DrawFn, trips: dict[Dim, int], outermost: tuple[Operand, ...] = ()) -> tuple[Dim, ...]:
    """Orders of the real loops, now and then with loops of one trip between.

    Loops relevant to the operands in ``outermost`` come first.
    """
    dims = [dim for dim in draw(st.permutations(DIMS)) if trips[dim] > 1 or draw(st.integers(0, 5)) == 0]
    return tuple(sorted(dims, key=lambda dim: -sum(dim in RELEVANT_DIMS[operand] for operand in outermost)))


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)


@dataclass(frozen=True)
class Wishes:
    """What a mapping asks of the machine before its sizes are known."""

    layer: Layer
    grid: Grid
    lanes: int
    kept: tuple[Operand, ...]
    bypass: tuple[Operand, ...]
    double_buffer: tuple[Operand, ...]

    @property
    def outermost(self) -> tuple[Operand, ...]:
        """Operands whose irrelevant buffer loops must be the innermost."""
        passing = self.grid.passing
        stationary = passing.stationary if isinstance(passing, SystolicPassing) else None
        return self.bypass + ((stationary,) if stationary is not None else ())

    @property
    def register_tiles_are_one(self) -> bool:
        """Whether each lane works on one element at a time."""
        return isinstance(self.grid.passing, SystolicPassing) or len(self.kept) < len(OPERANDS)


@st.composite
def mappings(draw: st.DrawFn, wishes: Wishes, max_events: int) -> Mapping:
    """Mappings from the inside out: unrolling, register tiles, buffer tiles (none need divide), orders."""
    layer = wishes.layer
    spatial = draw(spatials(layer, wishes.grid, wishes.lanes))
    held, tile, register = {}, {}, {}
    for dim in DIMS:
        whole = layer.extent(dim)
        unrolled = math.prod(factors.get(dim, 1) for factors in spatial.values())
        most = 1 if wishes.register_tiles_are_one else _ceil(whole, unrolled)
        register[dim] = draw(st.integers(1, most))
        held[dim] = unrolled * register[dim]
        least = max(unrolled * (register[dim] - 1) + 1, min(whole, unrolled))
        tile[dim] = draw(st.integers(least, whole))

    # Two operands that both want their loops outermost can have it only where no loop belongs to one alone.
    for first, second in [wishes.outermost] if len(wishes.outermost) == 2 else []:
        alone = RELEVANT_DIMS[first] - RELEVANT_DIMS[second]
        for dim in draw(st.sampled_from((alone, RELEVANT_DIMS[second] - RELEVANT_DIMS[first]))):
            tile[dim] = min(tile[dim], held[dim])

    def trips() -> tuple[dict[Dim, int], dict[Dim, int]]:
        return (
            {dim: _ceil(layer.extent(dim), tile[dim]) for dim in DIMS},
            {dim: _ceil(tile[dim], held[dim]) for dim in DIMS},
        )

    def event_count() -> int:
        at_dram, at_buffer = trips()
        inner = {dim for operand in wishes.bypass for dim in RELEVANT_DIMS[operand]}
        return math.prod(at_dram.values()) * math.prod(at_buffer[dim] for dim in inner)

    while event_count() > max_events:
        # Whole multiples of what the grid holds keep one buffer loop; larger unrolling is not ours to choose.
        assume(not wishes.bypass)
        worst = max(DIMS, key=lambda dim: trips()[0][dim])
        tile[worst] = layer.extent(worst)
    dram_trips, buffer_trips = trips()
    return Mapping(
        spatial=spatial,
        levels=(
            MappingLevel(level="dram", order=draw(orders(dram_trips))),
            MappingLevel(level="buffer", tile=tile, order=draw(orders(buffer_trips, wishes.outermost))),
            MappingLevel(level="register", tile=register),
        ),
        bypass=wishes.bypass,
        double_buffer=wishes.double_buffer,
    )


@dataclass(frozen=True)
class Room:
    """A memory whose size is not known yet: what it keeps, its switch, spare bits, energies."""

    keeps: tuple[Operand, ...]
    switch: bool
    spare_bits: int
    read_energy: float
    write_energy: float


@st.composite
def rooms(draw: st.DrawFn, operands: tuple[Operand, ...]) -> list[Room]:
    """Memories that together keep some operands; every other one is an exact fit."""
    energies = st.sampled_from((0.0, 0.125, 2.0))
    return [
        Room(
            keeps, draw(st.booleans()), draw(st.sampled_from((0, 0, 7, 500))), draw(energies), draw(energies)
        )
        for keeps in draw(partitions(operands))
    ]


def _buffer(name: str, room: Room, wishes: Wishes, bits: dict[Operand, int]) -> Buffer:
    buffered = [operand for operand in room.keeps if operand not in wishes.bypass]
    return Buffer(
        name=name,
        keeps=room.keeps,
        size_bits=max(1, room.spare_bits + sum(bits[operand] for operand in buffered)),
        read_energy_pj_per_bit=room.read_energy,
        write_energy_pj_per_bit=room.write_energy,
        double_buffer=room.switch or any(operand in wishes.double_buffer for operand in buffered),
        may_bypass=tuple(operand for operand in room.keeps if room.switch or operand in wishes.bypass),
    )


def _register_file(name: str, room: Room, wishes: Wishes, bits: dict[Operand, int]) -> RegisterFile:
    both = set(wishes.bypass) & set(wishes.double_buffer)
    return RegisterFile(
        name=name,
        keeps=room.keeps,
        size_bits=room.spare_bits + sum(bits[operand] for operand in room.keeps),
        read_energy_pj_per_bit=room.read_energy,
        write_energy_pj_per_bit=room.write_energy,
        double_buffer=room.switch or bool(both & set(room.keeps)),
    )


def _sizes(
    wishes: Wishes, precision: LayerPrecision, mapping: Mapping, program: Program
) -> tuple[dict[Operand, int], dict[Operand, int]]:
    """Bits that each operand needs in its buffer and in the registers of a PE, all copies counted."""
    in_buffer, in_registers = {}, {}
    register, lanes = mapping.level("register").tile, mapping.spatial.get(LANES, {})
    for operand in OPERANDS:
        copies = 2 if operand in wishes.double_buffer else 1
        largest = max(len(run.elements) for run in program.runs[operand])
        in_buffer[operand] = copies * precision.stored_bits(operand) * largest
        in_a_pe = math.prod(register[dim] * lanes.get(dim, 1) for dim in RELEVANT_DIMS[operand])
        in_registers[operand] = precision.register_bits(operand) * in_a_pe * (copies if operand in wishes.bypass else 1)
    return in_buffer, in_registers


@st.composite
def drams(draw: st.DrawFn) -> Dram:
    """Channels narrow and wide."""
    energies = st.sampled_from((0.0, 0.125, 2.0))
    return Dram(
        name=draw(st.sampled_from(("dram", "lpddr"))),
        bandwidth_bits_per_cycle=draw(st.sampled_from((24, 64, 256, 4096))),
        latency_cycles=draw(st.integers(0, 12)),
        burst_bits=draw(st.sampled_from((1, 8, 64, 100))),
        read_energy_pj_per_bit=draw(energies),
        write_energy_pj_per_bit=draw(energies),
    )


@st.composite
def cases(
    draw: st.DrawFn, dataflow: Dataflow | None = None, max_macs: int = 500, max_events: int = 60,
    kinds: tuple[Kind, ...] = KINDS,
) -> Case:
    """Valid simulations on a grid of one dataflow (None: any). See the module's docstring."""
    if dataflow is None:
        dataflow = draw(st.sampled_from(DATAFLOWS))
    bypassing = draw(st.sampled_from((None, *OPERANDS, None)))
    stationary = {dataflow} & set(OPERANDS)
    chosen = draw(st.sampled_from((OPERANDS, None))) or draw(subsets(OPERANDS))
    kept = tuple(op for op in OPERANDS if op in chosen or op in stationary or op == bypassing)

    grid = draw(grids(dataflow))
    element = draw(processing_elements(kinds=kinds))
    precision = draw(precisions(element))
    layer = draw(layers(max_macs))
    bypass: tuple[Operand, ...] = () if bypassing is None else (bypassing,)
    wishes = Wishes(layer, grid, element.lanes(precision), kept, bypass, draw(subsets(OPERANDS)))
    mapping = draw(mappings(wishes, max_events))
    dram, buffers, files = draw(drams()), draw(rooms(OPERANDS)), draw(rooms(kept))

    def machine(in_buffer: dict[Operand, int], in_registers: dict[Operand, int]) -> Accelerator:
        memories = [
            dram,
            *(_buffer(f"buffer{i}", room, wishes, in_buffer) for i, room in enumerate(buffers)),
            *(_register_file(f"registers{i}", room, wishes, in_registers) for i, room in enumerate(files)),
        ]
        return Accelerator(
            name="machine", description="drawn", clock_mhz=500.0, memories=tuple(memories), grid=grid,
            processing_element=element, vector_unit=VectorUnit(lanes=4, energy_pj_per_operation=0.5),
        )

    roomy = machine(dict.fromkeys(OPERANDS, HUGE), dict.fromkeys(OPERANDS, HUGE))
    sizes = _sizes(wishes, precision, mapping, Program(layer, roomy, mapping))
    return Case(layer, precision, machine(*sizes), mapping, draw(st.integers(0, 1 << 16)))
