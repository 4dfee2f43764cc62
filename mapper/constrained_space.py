"""The space of a search within a user's constraints, and why it is empty where it is.

Constraints on numbers choose among the rows of each dimension, before rows that others dominate are dropped; numbers
that the user names become candidates. Constraints on what bypasses choose among the variants. An order of a level's
loops, or what they hold, is kept by a variant's own order where, of two loops that stand the other way round, one has a
single trip: for each smallest set of dimensions that does this for all, those rows make a variant of their own.
Required double buffering makes the tile count twice, and its waits those of a double-buffered one.

Levels are numbered as in ``Plan``: 0 is DRAM, then those of the buffers, outermost first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from mapper.build_mapping import buffer_order, outer_orders
from mapper.build_models import build_cost_models
from mapper.constraint_problems import impossible
from mapper.constraints import TILE, TRIPS, ConstraintsByLevel, MappingConstraints, Range
from mapper.cost_model import Capacity, CostModel, Exposed
from mapper.descent import kernel_input
from mapper.dimension_choices import Axes, DimChoices, OwnNumbers, axis_factors, dimension_choices, few_smallest_tiles
from mapper.infeasible import explain_infeasible
from mapper.variants import Variant
from simulator.accelerator import LANES, Accelerator
from simulator.errors import InfeasibleError, Problem
from simulator.kernels import enumerate_choices
from simulator.layer import OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.precision import LayerPrecision

Pair = tuple[Dim, Dim]
FEASIBILITY_NODES = 200_000  # of a search for any mapping; beyond them the search proper has to find out


def constrained_models(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, constraints: MappingConstraints, *,
    dominance: bool = True,
) -> list[CostModel]:
    """Cost models of all mappings within the constraints, at least one; ``dominance``: without dominated rows.

    Raises ``InfeasibleError`` where a constraint asks for what layer or machine have not, or all together leave no
    mapping that fits: it names them, the demand, the capacity, and what would make it fit.
    """
    if constraints != MappingConstraints():
        problems = list(impossible(layer, precision, accelerator, constraints))
        if problems:
            raise InfeasibleError(problems)
    models = _models(layer, precision, accelerator, constraints, dominance=dominance)
    if constraints != MappingConstraints() and not _any_fits(models):
        raise InfeasibleError(_blame(layer, precision, accelerator, constraints, models))
    if not models:
        raise InfeasibleError(explain_infeasible(models, layer, precision))
    return models


def _models(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, constraints: MappingConstraints, *,
    dominance: bool = True,
) -> list[CostModel]:
    if constraints == MappingConstraints():
        return build_cost_models(layer, precision, accelerator, dominance=dominance)
    axis_names = (*(axis.name for axis in accelerator.grid.axes), LANES)
    asked = constraints.by_level(accelerator.buffer_levels)

    def choices_of(
        dim: Dim, extent: int, axes: Axes, register_tiles: tuple[int, ...], levels: int, border: int
    ) -> DimChoices:
        return _choices(constraints, asked, axis_names, dim, extent, axes, register_tiles, levels, border)

    def wanted(variant: Variant) -> bool:
        return all(_bypasses(variant, operand, level) == wish for _, level, operand, wish in asked.bypass)

    models = build_cost_models(
        layer, precision, accelerator, choices_of, wanted, dominance=dominance,
        single_trips=bool(asked.orders or asked.stationary),
    )
    if asked.double_buffer:
        models = [changed for model in models if (changed := _doubling(model, asked)) is not None]
    innermost = accelerator.buffer_levels
    for level in range(innermost + 1):
        orders = [order for _, at, order in asked.orders if at == level]
        held = [operand for _, at, operand in asked.stationary if at == level]
        if not orders and not held:
            continue
        models = [kept for model in models for kept in _ordered(model, level, orders, held)]
    return models


def _bypasses(variant: Variant, operand: Operand, level: int | None) -> bool:
    """Whether an operand passes by the buffers of a level; None: of all levels."""
    return variant.bypass == operand if level is None else level not in variant.places_of(operand)


# ---- rows -------------------------------------------------------------------------------------------------------


def _choices(
    constraints: MappingConstraints, asked: ConstraintsByLevel, axis_names: tuple[str, ...], dim: Dim, extent: int,
    axes: Axes, register_tiles: tuple[int, ...], levels: int, border: int,
) -> DimChoices:
    """Ways to cut a dimension that keep the constraints on its numbers."""
    on_axis = [constraints.spatial.get(name, {}).get(dim) for name in axis_names]
    register = constraints.register_tile.get(dim)
    numbers = [(kind, level, wish) for _, kind, level, about, wish in asked.numbers if about == dim]
    if register is None and not numbers and not any(on_axis):
        return dimension_choices(dim, extent, axes, register_tiles, levels, border)
    own_factors = []
    for wish, (size, allowed) in zip(on_axis, axes, strict=True):
        more: set[int] = set()
        if wish is not None and dim in allowed:
            more = {number for number in wish.named if number <= min(size, extent)}
            more |= {factor for number in more for factor in axis_factors(extent, number)}
        own_factors.append(tuple(more))
    if register is not None:
        register_tiles = tuple(sorted({*register_tiles, *(n for n in register.named if n <= extent)}))
    own_tiles = {number for kind, _, wish in numbers if kind == TILE for number in wish.named if number <= extent}
    # Outermost loops first: what they cut is what the next ones cut again.
    for _, level, wish in sorted((number for number in numbers if number[0] == TRIPS), key=lambda number: number[1]):
        trips = [number for number in wish.named if number <= extent]
        if level < levels:
            outer = {extent} if level == 0 else {*few_smallest_tiles(extent), *own_tiles}
            own_tiles |= {-(-tile // number) for number in trips for tile in outer}
        else:
            held = dimension_choices(
                dim, extent, axes, register_tiles, border=border, own=OwnNumbers(tuple(own_factors))
            ).grid_tile
            own_tiles |= {int(tile) * number for number in trips for tile in np.unique(held) if tile * number <= extent}
    found = dimension_choices(
        dim, extent, axes, register_tiles, levels, border, OwnNumbers(tuple(own_factors), tuple(sorted(own_tiles)))
    )
    keep = np.ones(len(found.buffer_tile), dtype=np.bool_)
    for place, wish in enumerate(on_axis):
        if wish is not None:
            keep &= wish.holds(found.axis_factors[:, place])
    if register is not None:
        keep &= register.holds(found.register_tile)
    for kind, level, wish in numbers:
        keep &= wish.holds(found.buffer_tiles[:, level - 1] if kind == TILE else found.trips(level))
    return found.take(keep)


# ---- orders -----------------------------------------------------------------------------------------------------


def _ordered(
    model: CostModel, level: int, orders: list[tuple[Dim, ...]], held: list[Operand]
) -> Iterator[CostModel]:
    """Models of those choices whose loops at a level stand in all of some orders, and hold all of some operands."""
    single = {
        choice.dim: choice.single_trip(level) for block in model.blocks for choice in block.choices
    }
    looping = {dim for dim, rows in single.items() if not rows.all()}
    found = []
    for one in _one_by_one(model, level) if level < model.variant.levels else (model,):
        has = outer_orders(one.variant)[0][level] if level < model.variant.levels else buffer_order(one.variant)
        pairs = [pair for order in orders for pair in _out_of_order(has, order)]
        pairs += [pair for operand in held for pair in _not_held(has, operand)]
        # Loops that never make more than one trip stand in any order.
        found.append((one, [pair for pair in pairs if looping.issuperset(pair)]))
    if not any(pairs for _, pairs in found):
        yield model
        return
    for one, pairs in found:
        yield from _with_single_trips(one, pairs, level)


def _one_by_one(model: CostModel, level: int) -> Iterator[CostModel]:
    """A model for each order of a level's loops that its variant stands for; not for the innermost buffer."""
    variant = model.variant
    second = list(variant.second or (None,) * variant.levels)
    for operand in OPERANDS:
        if operand != variant.held[level]:
            second[level] = operand
            yield replace(model, variant=replace(variant, second=tuple(second)))


def _out_of_order(has: tuple[Dim, ...], wanted: tuple[Dim, ...]) -> list[Pair]:
    """Loops that stand in the order ``has`` the other way round than they are wanted."""
    pairs = itertools.combinations([dim for dim in has if dim in wanted], 2)
    return [(one, other) for one, other in pairs if wanted.index(one) > wanted.index(other)]


def _not_held(has: tuple[Dim, ...], operand: Operand) -> list[Pair]:
    """Loops irrelevant to an operand, each with a relevant one that stands inside it.

    Not the variants that say they hold it are asked, but the loops: where loops have a single trip, an order holds more
    than its variant says, and only another variant's closed form knows what that saves.
    """
    relevant = RELEVANT_DIMS[operand]
    return [(one, other) for one, other in itertools.combinations(has, 2) if one not in relevant and other in relevant]


def _with_single_trips(model: CostModel, pairs: list[Pair], level: int) -> Iterator[CostModel]:
    """Models of the choices in which of each pair of loops at least one has a single trip."""
    for single in _smallest_covers(pairs):
        masks = []
        for block in model.blocks:
            keep = np.ones(block.size, dtype=np.bool_)
            for choice in block.choices:
                if choice.dim in single:
                    keep &= choice.single_trip(level)
            masks.append(keep)
        if all(mask.any() for mask in masks):
            yield model.take(masks)


def _smallest_covers(pairs: list[Pair]) -> list[frozenset[Dim]]:
    """Sets of dimensions with one of each pair, of which no part has that too."""
    dims = sorted({dim for pair in pairs for dim in pair})
    found: list[frozenset[Dim]] = []
    for count in range(len(dims) + 1):
        for chosen in map(frozenset, itertools.combinations(dims, count)):
            covers = all(one in chosen or other in chosen for one, other in pairs)
            if covers and not any(smaller <= chosen for smaller in found):
                found.append(chosen)
    return found


# ---- double buffering -------------------------------------------------------------------------------------------


def _doubling(model: CostModel, asked: ConstraintsByLevel) -> CostModel | None:
    """A model in which operands are always, or never, held twice where that is asked; None where they cannot be."""
    variant = model.variant
    wishes: dict[tuple[int, Operand], bool] = {}
    for _, level_or_all, operand, wish in asked.double_buffer:
        places = variant.places_of(operand)
        for level in places if level_or_all is None else (level_or_all,):
            # What passes a level by is not held there, let alone twice.
            if wishes.setdefault((level, operand), wish) != wish or (wish and level not in places):
                return None
    possible = {(each.level, operand) for each in model.capacities for operand in each.doubled | each.ahead}
    twice = {place for place, wish in wishes.items() if wish}
    if not twice <= possible:
        return None
    alone = {operand for level, operand in twice if len(variant.places_of(operand)) == 1}

    def capacity(each: Capacity) -> Capacity:
        tiles = dict(each.tiles)
        settled = frozenset(operand for operand in each.doubled | each.ahead if (each.level, operand) in wishes)
        for operand in settled:
            if wishes[each.level, operand]:
                tile = tiles[operand]
                tiles[operand] = replace(tile, coefficient=2 * tile.coefficient, floor=2 * tile.floor)
        return replace(each, tiles=tiles, doubled=each.doubled - settled, ahead=each.ahead - settled)

    def exposed(each: Exposed) -> Exposed:
        return replace(each, single=each.doubled, single_constant=0.0) if each.operand in alone else each

    return replace(
        model, capacities=tuple(map(capacity, model.capacities)), exposed=tuple(map(exposed, model.exposed)),
        always_doubled=tuple(operand for operand in OPERANDS if operand in alone),
        always_ahead=tuple(sorted(place for place in twice if place[1] not in alone)),
    )


# ---- why not ----------------------------------------------------------------------------------------------------


def _any_fits(models: list[CostModel]) -> bool:
    """Whether some mapping fits; True where that takes long to find out."""
    for model in models:
        count, _, _, _, finished = enumerate_choices(kernel_input(model, "energy"), math.inf, 1, FEASIBILITY_NODES)
        if len(count) or not finished:
            return True
    return False


def _blame(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, constraints: MappingConstraints,
    models: list[CostModel],
) -> list[Problem]:
    """Which constraints leave nothing, each of them without which there would be mappings, and what they overfill."""
    where = f"constraints on {layer.name}"
    free = _models(layer, precision, accelerator, MappingConstraints())
    if not _any_fits(free):
        return explain_infeasible(free, layer, precision)
    # Orders that the space does not have are no mistake of the user's; show which it has.
    orders = {
        path: tuple(sorted({
            "".join(order) for model in free for order in (
                [outer[level] for outer in outer_orders(model.variant)] if level < accelerator.buffer_levels
                else [buffer_order(model.variant)]
            )
        }))
        for path, level, _ in constraints.by_level(accelerator.buffer_levels).orders
    }
    problems = [
        Problem("no mapping keeps this constraint and the others; without it there are some", where, path, said,
                allowed=orders.get(path, ()))
        for path, said, rest in constraints.parts()
        if not list(impossible(layer, precision, accelerator, rest))
        and _any_fits(_models(layer, precision, accelerator, rest))
    ]
    if not problems:
        problems = [
            Problem("no mapping keeps all of these, and leaving out one of them is not enough", where,
                    value=constraints.describe())
        ]
    if not models:
        return problems
    # Models share most demands; the least of each memory over the variants is what counts.
    overfull = [problem for problem in explain_infeasible(models, layer, precision) if problem.path]
    return [*problems, *overfull]


__all__ = ["MappingConstraints", "Range", "constrained_models"]
