"""Hypothesis strategies: small layers, machines of every kind, and mappings that are valid on them.

``cases()`` is what most tests want. A mapping is drawn first; buffers and registers are then made just large
enough for it, or a little larger, so that every case is valid and many are tight.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

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
    DramRows,
    Grid,
    MulticastPassing,
    Passing,
    RegisterFile,
    SystolicPassing,
    VectorUnit,
)
from simulator.interconnect import Interconnect
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.mapping import Mapping, MappingLevel
from simulator.output_stage import OutputStage
from simulator.precision import LayerPrecision
from simulator.processing_elements import ProcessingElement
from simulator.reference.program import Place, Program, Run
from simulator.scales import GroupScales
from tests.properties.element_strategies import (
    INTEGER_KINDS,
    KINDS,
    Kind,
    precisions,
    processing_elements,
    random_codes,
    split_precisions,
)

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
        if self.precision.split is not None:
            narrow = self.precision.split.channels(self.layer)
            for codes, number_format in ((weights, self.precision.split.weight), (inputs, self.precision.split.input)):
                codes[:, :, :narrow] = random_codes(rng, number_format, codes[:, :, :narrow].shape)
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
    """Multicast, or systolic with every flag that does not need systolic rows."""
    if dataflow == "multicast":
        return MulticastPassing()
    return SystolicPassing(
        stationary=None if dataflow == "streaming" else dataflow,
        fold_overlap=draw(st.booleans()),
        stationary_preload=draw(st.booleans()),
        pipeline_cycles=draw(st.integers(0, 2)),
    )


@st.composite
def axis_passings(draw: st.DrawFn, passing: Passing, count: int) -> tuple[Passing, list[dict[str, Any]]]:
    """What each axis says of itself, one of a systolic grid's at least being systolic; and the flags of its rows."""
    own: list[dict[str, Any]] = [{} for _ in range(count)]
    if isinstance(passing, MulticastPassing):
        return passing, [{"adder_tree_cycles": draw(st.sampled_from((0, 0, 1, 2)))} for _ in range(count)]
    multicast = draw(st.sampled_from((None, None, 0, 1)))
    if multicast is not None:
        depth = 0 if passing.stationary == "output" else draw(st.integers(0, 2))
        own[multicast] = {"passing": "multicast", "adder_tree_cycles": depth}
    if multicast != 0:
        passing = passing.model_copy(update={
            "partial_sum_hop_cycles": draw(st.integers(1, 3)), "drains_outputs": draw(st.booleans()),
        })
    return passing, own


@st.composite
def grids(draw: st.DrawFn, dataflow: Dataflow) -> Grid:
    """Grids of at most 16 PEs, mixed ones among them, with dimensions that their dataflow allows along each axis."""
    passing = draw(passings(dataflow))
    allowed: tuple[Dim, ...] = DIMS
    axis_count = draw(st.integers(1, 3))
    if isinstance(passing, SystolicPassing):
        axis_count = 2
        if passing.stationary is not None:
            allowed = tuple(dim for dim in DIMS if dim in RELEVANT_DIMS[passing.stationary])
    passing, own = draw(axis_passings(passing, axis_count))
    budget = 16
    axes = []
    for number in range(axis_count):
        size = draw(st.integers(1, min(5, budget)))
        budget //= size
        axes.append(Axis(name=f"axis{number}", size=size, unroll=draw(subsets(allowed, min_size=1)), **own[number]))
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
class LevelWishes:
    """One level of buffers: what its buffers keep, what of that the mapping sends past them, what it holds twice."""

    keeps: tuple[Operand, ...]
    bypass: tuple[Operand, ...]
    double_buffer: tuple[Operand, ...]


@st.composite
def level_wishes(draw: st.DrawFn, depth: int) -> tuple[LevelWishes, ...]:
    """Levels of buffers that together keep every operand; none is sent past all its buffers."""
    if depth == 1:
        return (LevelWishes(OPERANDS, (), ()),)
    where = {op: draw(st.lists(st.integers(0, depth - 1), min_size=1, unique=True)) for op in OPERANDS}
    for level in range(depth):
        if not any(level in levels for levels in where.values()):
            where[draw(st.sampled_from(OPERANDS))].append(level)
    found = []
    for level in range(depth):
        keeps = tuple(op for op in OPERANDS if level in where[op])
        past = tuple(op for op in keeps if max(where[op]) != level and draw(st.integers(0, 4)) == 0)
        found.append(LevelWishes(keeps, past, draw(subsets(keeps))))
    return tuple(found)


@dataclass(frozen=True)
class Wishes:
    """What a mapping asks of the machine before its sizes are known."""

    layer: Layer
    grid: Grid
    lanes: int
    kept: tuple[Operand, ...]
    bypass: tuple[Operand, ...]
    double_buffer: tuple[Operand, ...]
    levels: tuple[LevelWishes, ...]

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
    tiles = [tile]
    for _ in wishes.levels[1:]:
        tiles.insert(0, {dim: draw(st.integers(tiles[0][dim], layer.extent(dim))) for dim in DIMS})

    def trips() -> list[dict[Dim, int]]:
        inside = [{dim: layer.extent(dim) for dim in DIMS}, *tiles, held]
        return [{dim: _ceil(outer[dim], inner[dim]) for dim in DIMS} for outer, inner in itertools.pairwise(inside)]

    def event_count() -> int:
        inner = {dim for operand in wishes.bypass for dim in RELEVANT_DIMS[operand]}
        *outer, at_buffer = trips()
        return math.prod(count for level in outer for count in level.values()) * math.prod(
            at_buffer[dim] for dim in inner
        )

    while event_count() > max_events:
        # Whole multiples of what the grid holds keep one buffer loop; larger unrolling is not ours to choose.
        assume(not wishes.bypass)
        worst = max(DIMS, key=lambda dim: math.prod(level[dim] for level in trips()[:-1]))
        for each in tiles:
            each[worst] = layer.extent(worst)
    *outer_trips, buffer_trips = trips()
    outer_orders = [draw(orders(level)) for level in outer_trips]
    buffers = []
    for number, (level, its_tile) in enumerate(zip(wishes.levels, tiles, strict=True), start=1):
        innermost = number == len(tiles)
        order = draw(orders(buffer_trips, wishes.outermost)) if innermost else outer_orders[number]
        buffers.append(
            MappingLevel(
                level="buffer", tile=its_tile, order=order, bypass=level.bypass, double_buffer=level.double_buffer
            )
        )
    return Mapping(
        spatial=spatial,
        levels=(
            MappingLevel(level="dram", order=outer_orders[0]),
            *buffers,
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
    ports: dict[str, Any]


@st.composite
def port_fields(draw: st.DrawFn) -> dict[str, Any]:
    """A buffer's ports: mostly as wide as asked for, else narrow, shared or not, with banks."""
    if draw(st.integers(0, 2)):
        return {}
    widths = st.sampled_from((16, 40, 128, 1024))
    shared = draw(st.booleans())
    return {
        "ports": "shared" if shared else "separate",
        "read_bandwidth_bits_per_cycle": draw(widths if shared else st.none() | widths),
        "write_bandwidth_bits_per_cycle": draw(widths if shared else st.none() | widths),
        "banks": draw(st.sampled_from((1, 1, 2, 4))),
        "latency_cycles": draw(st.integers(0, 5)),
    }


@st.composite
def rooms(draw: st.DrawFn, operands: tuple[Operand, ...]) -> list[Room]:
    """Memories that together keep some operands; every other one is an exact fit."""
    energies = st.sampled_from((0.0, 0.125, 2.0))
    return [
        Room(
            keeps, draw(st.booleans()), draw(st.sampled_from((0, 0, 7, 500))), draw(energies), draw(energies),
            draw(port_fields()),
        )
        for keeps in draw(partitions(operands))
    ]


def _buffer(name: str, room: Room, wishes: Wishes, level: int, bits: dict[tuple[Operand, int], int]) -> Buffer:
    past = wishes.bypass + wishes.levels[level - 1].bypass
    buffered = [operand for operand in room.keeps if operand not in past]
    doubled = wishes.double_buffer + wishes.levels[level - 1].double_buffer
    return Buffer(
        name=name,
        keeps=room.keeps,
        size_bits=max(1, room.spare_bits + sum(bits[operand, level] for operand in buffered)),
        read_energy_pj_per_bit=room.read_energy,
        write_energy_pj_per_bit=room.write_energy,
        double_buffer=room.switch or any(operand in doubled for operand in buffered),
        may_bypass=tuple(operand for operand in room.keeps if room.switch or operand in past),
        level=level,
        **room.ports,
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
) -> tuple[dict[tuple[Operand, int], int], dict[Operand, int]]:
    """Bits that each operand needs in its buffer of each level and in the registers of a PE, all copies counted.

    Registers are made for the widest place that channels which are split may need.
    """

    def size_bits(operand: Operand, run: Run, place: Place) -> int:
        if operand == "output":
            finished = not program.holds_sums(place)
            return len(run.elements) * (precision.output.bits if finished else precision.stored_bits("output"))
        narrow = 0 if precision.split is None else precision.split.channels(wishes.layer)
        parts = (precision.narrow if element[2] < narrow else precision for element in run.elements)
        return sum(part.stored_bits(operand) for part in parts)

    together = max(len(channels) for channels in program.layout.channels)
    in_buffers, in_registers = {}, {}
    register, lanes = mapping.level("register").tile, mapping.spatial.get(LANES, {})
    for operand in OPERANDS:
        for place, runs in zip(program.places[operand], program.runs[operand], strict=True):
            largest = max(size_bits(operand, run, place) for run in runs)
            in_buffers[operand, place.level] = place.copies * largest
        in_a_pe = math.prod(register[dim] * lanes.get(dim, 1) for dim in RELEVANT_DIMS[operand])
        copies = 2 if operand in wishes.bypass and operand in wishes.double_buffer else 1
        bits = precision.register_bits(operand)
        if precision.split is not None and operand != "output":
            bits = max(bits, together * precision.narrow.register_bits(operand))
        in_registers[operand] = bits * in_a_pe * copies
    return in_buffers, in_registers


@st.composite
def dram_rows(draw: st.DrawFn) -> DramRows | None:
    """Every other DRAM opens rows, some refresh."""
    if draw(st.integers(0, 2)):
        return None
    return DramRows(
        banks=draw(st.integers(1, 4)), row_bits=draw(st.sampled_from((64, 100, 512, 4096))),
        activate_cycles=draw(st.integers(0, 7)), precharge_cycles=draw(st.integers(0, 7)),
        refresh_interval_cycles=draw(st.none() | st.integers(20, 200)), refresh_cycles=draw(st.integers(0, 19)),
    )


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
        rows=draw(dram_rows()),
        background_mw=draw(st.sampled_from((None, None, 1.0))),
    )


@st.composite
def interconnects(draw: st.DrawFn) -> Interconnect | None:
    """Wires, described or not."""
    if draw(st.booleans()):
        return None
    return Interconnect(
        energy_pj_per_bit_hop=draw(st.sampled_from((0.0, 0.125))), leakage_mw=draw(st.sampled_from((None, None, 2.0)))
    )


@st.composite
def output_stages(draw: st.DrawFn) -> OutputStage | None:
    """Output stages with each of their numbers described or not."""
    if draw(st.booleans()):
        return None
    energies = st.sampled_from((None, 0.0, 0.5))
    return OutputStage(
        requantisation_energy_pj=draw(energies), float_conversion_energy_pj=draw(energies),
        scale_energy_pj=draw(energies),
    )


def in_places(wishes: Wishes, precision: LayerPrecision, element: ProcessingElement) -> Wishes:
    """The same with a layer that has as many channels as the loop nest has places along C."""
    if precision.split is None:
        return wishes
    channels, narrow = wishes.layer.extent("C"), precision.split.channels(wishes.layer)
    together = element.lanes(precision.narrow) // element.lanes(precision.wide)
    if "C" in wishes.grid.lane_unroll:
        channels += -(-narrow // together) - narrow
    dims: dict[Dim, int] = {**wishes.layer.dims, "C": channels}
    return dataclasses.replace(wishes, layer=wishes.layer.model_copy(update={"dims": dims}))


@st.composite
def cases(
    draw: st.DrawFn, dataflow: Dataflow | None = None, max_macs: int = 500, max_events: int = 60,
    kinds: tuple[Kind, ...] = KINDS, max_levels: int = 3, split: bool = False,
    share: float | None = None,
) -> Case:
    """Valid simulations on a grid of one dataflow (None: any). See the module's docstring.

    ``split``: layers are split by channel, on those of ``kinds`` that take them, at a ``share`` (None: any).
    """
    if dataflow is None:
        dataflow = draw(st.sampled_from(DATAFLOWS))
    bypassing = draw(st.sampled_from((None, *OPERANDS, None)))
    stationary = {dataflow} & set(OPERANDS)
    chosen = draw(st.sampled_from((OPERANDS, None))) or draw(subsets(OPERANDS))
    kept = tuple(op for op in OPERANDS if op in chosen or op in stationary or op == bypassing)

    grid = draw(grids(dataflow)).model_copy(update={"interconnect": draw(interconnects())})
    if split:
        kinds = tuple(kind for kind in kinds if kind in INTEGER_KINDS)
    element = draw(processing_elements(kinds=kinds))
    precision = draw(split_precisions(element, share) if split else precisions(element))
    layer = draw(layers(max_macs))
    bypass: tuple[Operand, ...] = () if bypassing is None else (bypassing,)
    levels = draw(level_wishes(draw(st.sampled_from((1, 2, 3)[:max_levels]))))
    doubled = draw(subsets(OPERANDS)) if len(levels) == 1 or draw(st.booleans()) else ()
    wishes = Wishes(layer, grid, element.lanes(precision), kept, bypass, doubled, levels)
    mapping = draw(mappings(in_places(wishes, precision, element), max_events))
    dram, files = draw(drams()), draw(rooms(kept))
    buffers = [(level, room) for level, wish in enumerate(levels, start=1) for room in draw(rooms(wish.keeps))]
    stage = draw(output_stages())

    def machine(in_buffers: dict[tuple[Operand, int], int], in_registers: dict[Operand, int]) -> Accelerator:
        memories = [
            dram,
            *(
                _buffer(f"buffer{i}", room, wishes, level, in_buffers)
                for i, (level, room) in enumerate(buffers)
            ),
            *(_register_file(f"registers{i}", room, wishes, in_registers) for i, room in enumerate(files)),
        ]
        return Accelerator(
            name="machine", description="drawn", clock_mhz=500.0, memories=tuple(memories), grid=grid,
            processing_element=element, vector_unit=VectorUnit(lanes=4, energy_pj_per_operation=0.5),
            output_stage=stage,
        )

    everywhere = {(operand, level): HUGE for operand in OPERANDS for level in range(1, len(levels) + 1)}
    roomy = machine(everywhere, dict.fromkeys(OPERANDS, HUGE))
    sizes = _sizes(wishes, precision, mapping, Program(layer, precision, roomy, mapping))
    return Case(layer, precision, machine(*sizes), mapping, draw(st.integers(0, 1 << 16)))
