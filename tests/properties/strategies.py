"""Hypothesis strategies: small layers, machines of every kind, and mappings that are valid on them.

``cases()`` is what most tests want. A mapping is drawn first; buffers and registers are then made just large
enough for it, or a little larger, so that every case is valid and many are tight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
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
from simulator.formats import Format
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.mapping import Mapping, MappingLevel
from simulator.precision import LayerPrecision
from simulator.processing_elements import (
    BitFusionElement,
    BitSerialElement,
    FixedElement,
    ProcessingElement,
)
from simulator.reference.program import Program

HUGE = 1 << 40
LARGEST: dict[Dim, int] = {"G": 3, "N": 3, "K": 7, "C": 9, "P": 6, "Q": 5, "R": 3, "S": 3}


@dataclass(frozen=True)
class Case:
    """One simulation: a layer in a precision on a machine under a mapping."""

    layer: Layer
    precision: LayerPrecision
    accelerator: Accelerator
    mapping: Mapping

    def operands(self, seed: int = 0) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Random codes over the whole range of the formats: weights GKCRS, inputs GNCHW."""
        rng = np.random.default_rng(seed)
        extent = self.layer.extent
        shapes = (
            (self.precision.weight, tuple(extent(dim) for dim in ("G", "K", "C", "R", "S"))),
            (self.precision.input, (extent("G"), extent("N"), extent("C"), *self.layer.stored_input_size)),
        )
        weights, inputs = (
            rng.integers(*number_format.integer_range, size=shape, endpoint=True) for number_format, shape in shapes
        )
        return weights, inputs


def subsets(values: tuple[Dim, ...] | tuple[Operand, ...], min_size: int = 0) -> st.SearchStrategy[tuple]:
    """Subsets in their original order."""
    return st.lists(st.sampled_from(values), unique=True, min_size=min_size).map(
        lambda chosen: tuple(value for value in values if value in chosen)
    )


@st.composite
def layers(draw: st.DrawFn, max_macs: int = 1200) -> Layer:
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
def processing_elements(draw: st.DrawFn, max_lanes: int = 4) -> ProcessingElement:
    """PEs of all three kinds with their parameters."""
    common = {
        "energy_pj_per_cycle": draw(st.sampled_from((0.0, 0.25, 1.5))),
        "pipeline_cycles": draw(st.integers(0, 3)),
    }
    kind = draw(st.sampled_from(("fixed", "bit_fusion", "bit_serial")))
    if kind == "fixed":
        return FixedElement(
            operand_bits=draw(st.sampled_from((4, 8, 16))), lane_count=draw(st.integers(1, max_lanes)), **common
        )
    if kind == "bit_fusion":
        max_bits = draw(st.sampled_from((2, 4, 8)))
        min_bits = draw(st.sampled_from([bits for bits in (1, 2, 4, 8) if bits <= max_bits]))
        return BitFusionElement(max_bits=max_bits, min_bits=min_bits, **common)
    serial = draw(st.sampled_from((("weight",), ("input",), ("weight", "input"))))
    return BitSerialElement(
        serial_operands=serial,
        lane_count=draw(st.integers(1, max_lanes)),
        digit_bits=draw(st.integers(1, 3)),
        width_rounding=draw(st.sampled_from(("none", "power_of_two"))),
        min_bits=draw(st.integers(1, 3)),
        max_bits=8,
        **common,
    )


@st.composite
def precisions(draw: st.DrawFn, element: ProcessingElement) -> LayerPrecision:
    """Precisions that a PE takes."""

    def operand_format(operand: Operand) -> Format:
        bits = draw(st.sampled_from([bits for bits in element.allowed_bits(operand) if bits <= 10]))
        return Format(f"{draw(st.sampled_from(('int', 'uint')))}{bits}")

    return LayerPrecision(
        weight=operand_format("weight"),
        input=operand_format("input"),
        accumulator=Format(f"int{draw(st.sampled_from((12, 24, 32)))}"),
        output=Format(f"int{draw(st.integers(1, 16))}"),
        weight_group=draw(st.sampled_from((-1, 0, 2))),
        scale_bits=draw(st.sampled_from((0, 16))),
    )


@st.composite
def passings(draw: st.DrawFn) -> Passing:
    """Multicast, and systolic with every stationary operand and every flag."""
    if draw(st.booleans()):
        return MulticastPassing()
    return SystolicPassing(
        stationary=draw(st.sampled_from((None, *OPERANDS))),
        fold_overlap=draw(st.booleans()),
        stationary_preload=draw(st.booleans()),
        partial_sum_hop_cycles=draw(st.integers(1, 3)),
        drains_outputs=draw(st.booleans()),
        pipeline_cycles=draw(st.integers(0, 2)),
    )


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Grids of at most 16 PEs, with dimensions that their dataflow allows along each axis."""
    passing = draw(passings())
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
def orders(
    draw: st.DrawFn, trips: dict[Dim, int], innermost: frozenset[Dim] = frozenset()
) -> tuple[Dim, ...]:
    """Orders of the real loops, those in ``innermost`` inside, now and then with loops of one trip between."""
    dims = [dim for dim in draw(st.permutations(DIMS)) if trips[dim] > 1 or draw(st.integers(0, 5)) == 0]
    return tuple(sorted(dims, key=lambda dim: dim in innermost))


def _ceil(value: int, divisor: int) -> int:
    return -(-value // divisor)


@st.composite
def cases(draw: st.DrawFn, max_macs: int = 1200, max_events: int = 80) -> Case:
    """Valid simulations. See the module's docstring."""
    layer = draw(layers(max_macs))
    element = draw(processing_elements())
    precision = draw(precisions(element))
    grid = draw(grids())
    passing = grid.passing
    stationary = passing.stationary if isinstance(passing, SystolicPassing) else None

    kept = set(draw(subsets(OPERANDS)))
    if stationary is not None:
        kept.add(stationary)
    bypass: tuple[Operand, ...] = ()
    if kept and draw(st.integers(0, 2)) == 0:
        bypass = (draw(st.sampled_from(sorted(kept))),)
    double_buffer: tuple[Operand, ...] = draw(subsets(OPERANDS))

    # The mapping: from the inside out, so that tiles fit into each other.
    spatial = draw(spatials(layer, grid, element.lanes(precision)))
    unrolled = {dim: math.prod(factors.get(dim, 1) for factors in spatial.values()) for dim in DIMS}
    streamed = {dim for operand in OPERANDS if operand not in kept for dim in RELEVANT_DIMS[operand]}
    register: dict[Dim, int] = {}
    tile: dict[Dim, int] = {}
    for dim in DIMS:
        whole = layer.extent(dim)
        most = 1 if stationary is not None or dim in streamed else _ceil(whole, unrolled[dim])
        register[dim] = draw(st.integers(1, most)) if draw(st.booleans()) else 1
        least = min(whole, unrolled[dim] * (register[dim] - 1) + 1)
        tile[dim] = draw(st.integers(max(least, min(whole, unrolled[dim])), whole))
    held = {dim: unrolled[dim] * register[dim] for dim in DIMS}
    events = math.prod(_ceil(layer.extent(dim), tile[dim]) for dim in DIMS)
    if bypass:
        events *= math.prod(_ceil(tile[dim], held[dim]) for dim in DIMS)
    while events > max_events:
        # Too many events: make the tile with the most trips whole.
        worst = max(DIMS, key=lambda dim: _ceil(layer.extent(dim), tile[dim]))
        if tile[worst] == layer.extent(worst):
            bypass = ()
        tile[worst] = layer.extent(worst)
        events = math.prod(_ceil(layer.extent(dim), tile[dim]) for dim in DIMS)
        if bypass:
            events *= math.prod(_ceil(tile[dim], held[dim]) for dim in DIMS)
    dram_trips = {dim: _ceil(layer.extent(dim), tile[dim]) for dim in DIMS}
    buffer_trips = {dim: _ceil(tile[dim], held[dim]) for dim in DIMS}
    innermost = frozenset(DIMS) - RELEVANT_DIMS[stationary] if stationary is not None else frozenset()
    mapping = Mapping(
        spatial=spatial,
        levels=(
            MappingLevel(level="dram", order=draw(orders(dram_trips))),
            MappingLevel(level="buffer", tile=tile, order=draw(orders(buffer_trips, innermost))),
            MappingLevel(level="register", tile=register),
        ),
        bypass=bypass,
        double_buffer=double_buffer,
    )

    # The machine: memories around the mapping.
    buffer_groups = draw(partitions(OPERANDS))
    register_groups = draw(partitions(tuple(operand for operand in OPERANDS if operand in kept)))
    energies = st.sampled_from((0.0, 0.125, 2.0))

    def copies(operand: Operand) -> int:
        return 2 if operand in double_buffer else 1

    def build(buffer_bits: dict[Operand, int], register_bits: dict[Operand, int]) -> Accelerator:
        memories = [dram]
        for number, (keeps, switch, slack, read, write) in enumerate(buffers):
            buffered = [operand for operand in keeps if operand not in bypass]
            memories.append(
                Buffer(
                    name=f"buffer{number}", keeps=keeps,
                    size_bits=max(1, slack + sum(buffer_bits[operand] for operand in buffered)),
                    read_energy_pj_per_bit=read, write_energy_pj_per_bit=write,
                    double_buffer=switch or any(operand in double_buffer for operand in buffered),
                    may_bypass=tuple(operand for operand in keeps if operand in bypass or switch),
                )
            )
        for number, (keeps, switch, slack, read, write) in enumerate(files):
            memories.append(
                RegisterFile(
                    name=f"registers{number}", keeps=keeps,
                    size_bits=slack + sum(register_bits[operand] for operand in keeps),
                    read_energy_pj_per_bit=read, write_energy_pj_per_bit=write,
                    double_buffer=switch or any(op in bypass and op in double_buffer for op in keeps),
                )
            )
        return Accelerator(
            name="machine", description="drawn", clock_mhz=500.0, memories=tuple(memories), grid=grid,
            processing_element=element, vector_unit=VectorUnit(lanes=4, energy_pj_per_operation=0.5),
        )

    dram = Dram(
        name=draw(st.sampled_from(("dram", "lpddr"))),
        bandwidth_bits_per_cycle=draw(st.sampled_from((8, 24, 64, 256, 4096))),
        latency_cycles=draw(st.integers(0, 12)),
        burst_bits=draw(st.sampled_from((1, 8, 64, 100))),
        read_energy_pj_per_bit=draw(energies),
        write_energy_pj_per_bit=draw(energies),
    )
    buffers, files = (
        [
            (keeps, draw(st.booleans()), draw(st.sampled_from((0, 0, 7, 500))), draw(energies), draw(energies))
            for keeps in groups
        ]
        for groups in (buffer_groups, register_groups)
    )
    roomy = build(dict.fromkeys(OPERANDS, HUGE), dict.fromkeys(OPERANDS, HUGE))
    program = Program(layer, roomy, mapping)
    buffer_bits, register_bits = {}, {}
    for operand in OPERANDS:
        bits = precision.stored_bits(operand) * copies(operand)
        buffer_bits[operand] = bits * max(len(run.elements) for run in program.runs[operand])
        in_a_pe = math.prod(
            register[dim] * spatial.get(LANES, {}).get(dim, 1) for dim in DIMS if dim in RELEVANT_DIMS[operand]
        )
        register_bits[operand] = in_a_pe * precision.stored_bits(operand)
        if operand in bypass:
            register_bits[operand] *= copies(operand)
    return Case(layer, precision, build(buffer_bits, register_bits), mapping)
