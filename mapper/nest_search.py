"""Exact fronts of energy and latency under AccelForge's counting rules, by enumeration: each of them is a proof.

The space: perfect factors, any order of loops, any place in it where a memory keeps an operand, any spatial factors
that the axes hold, on a machine of an outermost memory, at most one memory shared by the array, and at most one memory
in each PE. Every quantity is a product over groups of dimensions (``nest_options``), so that a nest is walked group by
group, and left where even the best completion is matched or beaten by a nest that is known. What the walk returns has
been compared with everything else; each nest of the front is then counted by ``accelforge.count``.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapper.nest_costs import QUANTITIES, Blocks, Costs, Floats
from mapper.nest_options import Extents, Group, Option, OptionTable, Order, groups_of, lower_options, upper_options
from mapper.nest_spread import laid_out, possible_spreads, strides
from simulator.counting_rules import accelforge
from simulator.counting_rules.loop_nest import Loop, LoopNest, Machine, Memory, Store, check_precision
from simulator.errors import ConfigurationError, InfeasibleError, Problem
from simulator.kernels import nest_front as kernel
from simulator.layer import OPERANDS, RELEVANT_DIMS, Layer, Operand
from simulator.precision import LayerPrecision

MOST_POINTS = 1024  # of one front; more are an error, never left out
# Ties go to what is better in the other one.
OBJECTIVES: dict[str, Callable[[accelforge.Cost], tuple[float, float]]] = {
    "energy": lambda cost: (cost.energy_pj, cost.latency_cycles),
    "latency": lambda cost: (cost.latency_cycles, cost.energy_pj),
    "edp": lambda cost: (cost.edp, cost.latency_cycles),
}


@dataclass(frozen=True)
class FrontPoint:
    """A nest that no other one matches or beats in both energy and latency, and its cost."""

    nest: LoopNest
    cost: accelforge.Cost


@dataclass(frozen=True)
class NestFront:
    """All nests of a layer that are worth having, sorted by latency.

    Attributes:
        points: the exact front (costs closer than 1e-12 count as equal).
        nodes: partial nests that were visited.
        cpu_seconds: of the search.
    """

    points: tuple[FrontPoint, ...]
    nodes: int
    cpu_seconds: float

    def best(self, objective: str) -> FrontPoint:
        """Return the optimum for ``energy``, ``latency`` or ``edp``: it is on the front."""
        if objective not in OBJECTIVES:
            raise ConfigurationError(Problem("not an objective", path="objective", value=objective,
                                             allowed=tuple(OBJECTIVES)))
        return min(self.points, key=lambda point: OBJECTIVES[objective](point.cost))


@dataclass
class Upper:
    """Fronts of the upper block, one for each tile, and the options that their choices name."""

    tables: list[tuple[Order, list[list[Option]]]]
    count: npt.NDArray[np.int64]
    cost: Floats
    choice: npt.NDArray[np.int64]


def nest_front(layer: Layer, precision: LayerPrecision, machine: Machine) -> NestFront:
    """Return every nest of a layer that no other one matches or beats in both energy and latency.

    Raises ``ConfigurationError`` for a machine that the search does not know, ``PrecisionError`` for layers split by
    channel, and ``InfeasibleError`` where no nest fits.
    """
    began = time.process_time()
    check_precision(precision)
    blocks = Blocks.of(machine)
    groups = groups_of(layer) or [Group(("G",), (1,))]
    costs = Costs(layer, precision, machine)
    room_bits = np.array([float(precision.stored_bits(operand)) for operand in OPERANDS])
    spreads, fits = possible_spreads(groups, machine)
    upper = _search_upper(groups, blocks, costs, room_bits)
    front = np.empty((MOST_POINTS, 2))
    choice = np.empty((MOST_POINTS, 2 + len(groups)), dtype=np.int64)
    size = nodes = 0
    tables: list[tuple[Order, list[list[Option]]]] = []
    for places in _orders(blocks.local):
        options = [lower_options(group, places, spreads[number]) for number, group in enumerate(groups)]
        given, flat = _lower_input(groups, options, spreads, fits, costs, room_bits, blocks, upper)
        tables.append((places, flat))
        size, visited = kernel.lower(given, len(tables) - 1, front, choice, size)
        nodes += visited
        if size < 0:
            raise ConfigurationError(Problem(f"the front has more than {MOST_POINTS} points", where=layer.name))
    if size == 0:
        raise InfeasibleError(Problem("no nest fits its memories", where=f"{layer.name} on {machine.name}"))
    points = [
        _nest(groups, machine, blocks, spreads, upper, tables[int(row[0])], row) for row in choice[:size]
    ]
    counted = tuple(FrontPoint(nest, accelforge.count(layer, precision, machine, nest)) for nest in points)
    for point, (energy_pj, latency_cycles) in zip(counted, front[:size], strict=True):
        assert math.isclose(point.cost.energy_pj, energy_pj, rel_tol=1e-9)
        assert math.isclose(point.cost.latency_cycles, latency_cycles, rel_tol=1e-9)
    return NestFront(counted, nodes, time.process_time() - began)


def _orders(memory: Memory | None) -> list[Order]:
    return list(itertools.permutations(memory.keeps)) if memory is not None else [()]


def _search_upper(groups: list[Group], blocks: Blocks, costs: Costs, room_bits: Floats) -> Upper:
    """Return the front of the upper block at every tile of the array."""
    tiles = [len(group.tiles) for group in groups]
    capacity = math.inf
    if blocks.shared is not None and blocks.shared.size_bits is not None:
        capacity = float(blocks.shared.size_bits)
    kept = np.array([blocks.shared is not None and operand in blocks.shared.keeps for operand in OPERANDS])
    orders = _orders(blocks.shared)
    prepared = []
    for places in orders:
        options = [upper_options(group, places) for group in groups]
        flat = [[option for rows in table.by_key.values() for option in rows] for table in options]
        start = np.zeros((len(groups), max(tiles) + 1), dtype=np.int64)
        first = 0
        for number, table in enumerate(options):
            for tile, rows in enumerate(table.by_key.values()):
                start[number, tile] = first
                first += len(rows)
                start[number, tile + 1] = first
        every = [option for options_of in flat for option in options_of]
        given = kernel.UpperInput(
            tiles=np.array(tiles), start=start, traffic=_column(every, "traffic"), room=_column(every, "room"),
            slides=np.array([option.slides is not None for option in every], dtype=np.int64), cost=costs.upper,
            room_bits=room_bits * kept, capacity_bits=capacity,
        )
        prepared.append((places, flat, given))
    points = 4
    while True:
        count = np.zeros(math.prod(tiles), dtype=np.int64)
        cost = np.empty((len(count), points, costs.upper.shape[0]))
        choice = np.empty((len(count), points, 1 + len(groups)), dtype=np.int64)
        if all(kernel.upper(given, number, count, cost, choice) for number, (_, _, given) in enumerate(prepared)):
            return Upper([(places, flat) for places, flat, _ in prepared], count, cost, choice)
        points *= 2


def _column(options: Sequence[Option], name: str) -> Floats:
    return np.array([getattr(option, name) for option in options], dtype=np.float64)


def _lower_input(
    groups: list[Group], tables: list[OptionTable], spreads: list[list[Extents]], fits: npt.NDArray[np.bool_],
    costs: Costs, room_bits: Floats, blocks: Blocks, upper: Upper,
) -> tuple[kernel.LowerInput, list[list[Option]]]:
    """Return the lower block as arrays, and the options in their order."""
    flat: list[list[Option]] = []
    tile: list[int] = []
    spread: list[int] = []
    factors: list[tuple[int, ...]] = []
    for group, table, own_spreads in zip(groups, tables, spreads, strict=True):
        numbers = {one: number for number, one in enumerate(group.tiles)}
        of_group: list[Option] = []
        for (across, local), rows in table.by_key.items():
            inner = tuple(a * b for a, b in zip(across, local, strict=True))
            sharing = [
                math.prod(one for dim, one in zip(group.dims, across, strict=True) if dim not in RELEVANT_DIMS[operand])
                for operand in OPERANDS
            ]
            steps = math.prod(group.extents) // math.prod(across)
            for option in rows:
                of_group.append(option)
                tile.append(numbers[inner])
                spread.append(own_spreads.index(across))
                at_pes = [bits * copies for bits, copies in zip(option.traffic, sharing, strict=True)]
                factors.append((*option.traffic, *at_pes, sharing[OPERANDS.index("output")], steps))
        flat.append(of_group)
    every = [option for of_group in flat for option in of_group]
    start = np.cumsum([0, *(len(of_group) for of_group in flat)])
    values = np.array(factors, dtype=np.float64)
    least, most = np.ones((len(groups) + 1, QUANTITIES)), np.ones((len(groups) + 1, QUANTITIES))
    for level in reversed(range(len(groups))):
        own = values[start[level] : start[level + 1]]
        least[level], most[level] = least[level + 1] * own.min(axis=0), most[level + 1] * own.max(axis=0)
    tiles = [len(group.tiles) for group in groups]
    pe_memory = blocks.local
    kept = np.array([pe_memory is not None and operand in pe_memory.keeps for operand in OPERANDS])
    capacity = math.inf if pe_memory is None or pe_memory.size_bits is None else float(pe_memory.size_bits)
    given = kernel.LowerInput(
        start=start, factors=values, room=_column(every, "room"),
        slides=np.array([option.slides is not None for option in every], dtype=np.int64),
        tile=np.array(tile), spread=np.array(spread), stride=np.array(strides(tiles)),
        spread_stride=np.array(strides([len(own) for own in spreads])), fits=fits, cost=costs.lower,
        constant=costs.constant, room_bits=room_bits * kept, capacity_bits=capacity, least=least, most=most,
        upper_count=upper.count, upper_cost=upper.cost, upper_least=_suffix_minima(tiles, upper),
    )
    return given, flat


def _suffix_minima(tiles: list[int], upper: Upper) -> Floats:
    """Least upper cost over all tiles that begin with those of groups 0 … level, for each level.

    Shape (groups, tiles, 1 + ports); a beginning stands at the number that it has with tile 0 in the other groups.
    """
    there = np.arange(upper.cost.shape[1])[None, :, None] < upper.count[:, None, None]
    best = np.where(there, upper.cost, np.inf).min(axis=1).reshape(*tiles, -1)
    found = np.full((len(tiles), *best.shape), np.inf)
    for level in range(len(tiles)):
        rest = tuple(range(level + 1, len(tiles)))
        place: tuple[slice | int, ...] = (*([slice(None)] * (level + 1)), *([0] * len(rest)))
        found[level][place] = best.min(axis=rest) if rest else best
    return found.reshape(len(tiles), math.prod(tiles), -1)


def _nest(
    groups: list[Group], machine: Machine, blocks: Blocks, spreads: list[list[Extents]], upper: Upper,
    lower_table: tuple[Order, list[list[Option]]], row: npt.NDArray[np.int64],
) -> LoopNest:
    """Return the nest of one choice."""
    inner_places, lower_flat = lower_table
    lower = _chosen(lower_flat, row[2:])
    tiles = [group.tiles for group in groups]
    number = 0
    for group, option, own in zip(groups, lower, tiles, strict=True):
        extents = tuple(a // cut[0] for a, cut in zip(group.extents, option.sections, strict=True))
        number = number * len(own) + own.index(extents)
    above = upper.choice[number, row[1]]
    outer_places, upper_flat = upper.tables[int(above[0])]
    outer = _chosen(upper_flat, above[1:])
    temporal: list[Loop] = []
    stores: dict[Operand, list[Store]] = {
        operand: [Store(memory=blocks.outermost.name, loops_above=0)] for operand in OPERANDS
    }
    _add_sections(temporal, stores, groups, outer, outer_places, blocks.shared, first_section=0)
    _add_sections(temporal, stores, groups, lower, inner_places, blocks.local, first_section=1)
    spatial = laid_out(groups, [option.inside for option in lower], machine)
    return LoopNest(temporal=tuple(temporal), spatial=spatial,
                    stores={operand: tuple(kept) for operand, kept in stores.items()})


def _chosen(flat: list[list[Option]], numbers: npt.NDArray[np.int64]) -> list[Option]:
    """Return the options of a choice, whose numbers count through all groups."""
    every = [option for of_group in flat for option in of_group]
    return [every[int(number)] for number in numbers]


def _add_sections(
    temporal: list[Loop], stores: dict[Operand, list[Store]], groups: list[Group], options: list[Option],
    places: Order, memory: Memory | None, first_section: int,
) -> None:
    """Append the loops of a block, section by section, and the places between them."""
    for section in range(len(places) + 1):
        slid = False
        if section:
            assert memory is not None
            operand = places[section - 1]
            position = len(temporal)
            for group, option in zip(groups, options, strict=True):
                if operand == "input" and option.slides is not None:
                    temporal.append(Loop(option.slides, option.sections[group.dims.index(option.slides)][section]))
                    slid = True
            stores[operand].append(Store(memory=memory.name, loops_above=position,
                                         room_loops_above=len(temporal) if slid else None))
        if section < first_section:
            continue
        for group, option in zip(groups, options, strict=True):
            for dim, cut in zip(group.dims, option.sections, strict=True):
                if cut[section] > 1 and not (slid and option.slides == dim):
                    temporal.append(Loop(dim, cut[section]))
