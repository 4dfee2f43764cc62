"""The space of a search within a user's constraints, and why it is empty where it is.

Constraints on numbers choose among the rows of each dimension, before rows that others dominate are dropped; numbers
that the user names become candidates. Constraints on what bypasses choose among the variants. An order of loops,
or what they hold, is kept by a variant's own order where, of two loops that stand the other way round, one has a
single trip: for each smallest set of dimensions that does this for all, those rows make a variant of their own.
Required double buffering makes the tile count twice, and its waits those of a double-buffered one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mapper.build_mapping import buffer_order, outer_orders
from mapper.candidates import Axes, DimChoices, OwnNumbers, axis_factors, dimension_choices
from mapper.constraints import LOOP_LEVELS, LoopLevel, MappingConstraints, Range
from mapper.cost_model import Capacity, CostModel, Exposed, Term
from mapper.cost_terms import build_cost_models
from mapper.descent import kernel_input, may_double
from mapper.infeasible import explain_infeasible
from mapper.variants import Variant
from simulator.accelerator import LANES, Accelerator, SystolicPassing
from simulator.errors import ConfigurationError, InfeasibleError, Problem, closest
from simulator.kernels import enumerate_choices
from simulator.layer import OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.precision import LayerPrecision

Pair = tuple[Dim, Dim]
Masks = tuple[npt.NDArray[np.bool_], ...]
FEASIBILITY_NODES = 200_000  # of a search for any mapping; beyond them the search proper has to find out


def constrained_models(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, constraints: MappingConstraints, *,
    dominance: bool = True,
) -> list[CostModel]:
    """Cost models of all mappings within the constraints, at least one; ``dominance``: without dominated rows.

    Raises ``InfeasibleError`` where a constraint asks for what layer or machine have not, or all together leave no
    mapping that fits: it names them, the demand, the capacity, and what would make it fit; ``ConfigurationError`` for
    constraints on a machine with several levels of buffers, of which they could not say which one they mean.
    """
    if constraints != MappingConstraints() and accelerator.buffer_levels > 1:
        raise ConfigurationError([
            Problem("constraints are for machines with one level of buffers; without them the mapper searches deeper "
                    "ones too, and within limits of latency or energy", f"constraints on {layer.name}", path, value)
            for path, value, _ in constraints.parts()
        ])
    if constraints != MappingConstraints():
        problems = list(_impossible(layer, precision, accelerator, constraints))
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

    def choices_of(dim: Dim, extent: int, axes: Axes, register_tiles: tuple[int, ...], levels: int) -> DimChoices:
        assert levels == 1, "constrained_models refuses constraints on deeper machines"
        return _choices(constraints, axis_names, dim, extent, axes, register_tiles)

    def wanted(variant: Variant) -> bool:
        return all((variant.bypass == operand) == wish for operand, wish in constraints.bypass.items())

    models = build_cost_models(layer, precision, accelerator, choices_of, wanted, dominance=dominance)
    for operand, wish in constraints.double_buffer.items():
        models = [changed for model in models if (changed := _doubling(model, operand, wish)) is not None]
    for level in LOOP_LEVELS:
        order, held = constraints.order.get(level), constraints.stationary.get(level)
        if order is None and held is None:
            continue
        kept: list[CostModel] = []
        for model in models:
            for one in _one_by_one(model) if level == "dram" else (model,):
                has = outer_orders(one.variant)[0][0] if level == "dram" else buffer_order(one.variant)
                kept += _with_single_trips(one, [*_out_of_order(has, order), *_not_held(has, held)], level)
        models = kept
    return models


# ---- rows -------------------------------------------------------------------------------------------------------


def _choices(
    constraints: MappingConstraints, axis_names: tuple[str, ...], dim: Dim, extent: int, axes: Axes,
    register_tiles: tuple[int, ...],
) -> DimChoices:
    """Ways to cut a dimension that keep the constraints on its numbers."""
    on_axis = [constraints.spatial.get(name, {}).get(dim) for name in axis_names]
    tile, register, trips = (each.get(dim) for each in (constraints.tile, constraints.register_tile, constraints.trips))
    if tile is None and register is None and trips is None and not any(on_axis):
        return dimension_choices(dim, extent, axes, register_tiles)
    own_factors = []
    for wish, (size, allowed) in zip(on_axis, axes, strict=True):
        more: set[int] = set()
        if wish is not None and dim in allowed:
            more = {number for number in wish.named if number <= min(size, extent)}
            more |= {factor for number in more for factor in axis_factors(extent, number)}
        own_factors.append(tuple(more))
    own_tiles = {number for number in (tile.named if tile else ()) if number <= extent}
    own_tiles |= {-(-extent // number) for number in (trips.named if trips else ()) if number <= extent}
    if register is not None:
        register_tiles = tuple(sorted({*register_tiles, *(n for n in register.named if n <= extent)}))
    found = dimension_choices(dim, extent, axes, register_tiles, own=OwnNumbers(tuple(own_factors), tuple(own_tiles)))
    keep = np.ones(len(found.buffer_tile), dtype=np.bool_)
    for place, wish in enumerate(on_axis):
        if wish is not None:
            keep &= wish.holds(found.axis_factors[:, place])
    for wish, values in ((tile, found.buffer_tile), (register, found.register_tile), (trips, found.tile_count(1))):
        if wish is not None:
            keep &= wish.holds(values)
    return found.take(keep)


def _take(model: CostModel, keep: Masks) -> CostModel | None:
    """A model with some of its rows; None where a block has none left."""
    if not all(mask.any() for mask in keep):
        return None

    def term(whole: Term) -> Term:
        factors = (None if f is None else f[mask] for f, mask in zip(whole.factors, keep, strict=True))
        return replace(whole, factors=tuple(factors))

    def terms(whole: tuple[Term, ...]) -> tuple[Term, ...]:
        return tuple(term(each) for each in whole)

    return replace(
        model,
        blocks=tuple(block.take(mask) for block, mask in zip(model.blocks, keep, strict=True)),
        grid=terms(model.grid), channel=terms(model.channel), final=terms(model.final), energy=terms(model.energy),
        exposed=tuple(replace(each, doubled=term(each.doubled), single=term(each.single)) for each in model.exposed),
        capacities=tuple(
            replace(each, tiles={operand: term(tile) for operand, tile in each.tiles.items()})
            for each in model.capacities
        ),
    )


# ---- orders -----------------------------------------------------------------------------------------------------


def _one_by_one(model: CostModel) -> Iterator[CostModel]:
    """A model for each order of the DRAM loops that its variant stands for."""
    for operand in OPERANDS:
        if operand != model.variant.held[0] and model.variant.second_by_dram in (None, operand):
            yield replace(model, variant=replace(model.variant, second_by_dram=operand))


def _out_of_order(has: tuple[Dim, ...], wanted: tuple[Dim, ...] | None) -> list[Pair]:
    """Loops that stand in the order ``has`` the other way round than they are wanted."""
    if wanted is None:
        return []
    pairs = itertools.combinations([dim for dim in has if dim in wanted], 2)
    return [(one, other) for one, other in pairs if wanted.index(one) > wanted.index(other)]


def _not_held(has: tuple[Dim, ...], operand: Operand | None) -> list[Pair]:
    """Loops irrelevant to an operand, each with a relevant one that stands inside it.

    Not the variants that say they hold it are asked, but the loops: where loops have a single trip, an order holds more
    than its variant says, and only another variant's closed form knows what that saves.
    """
    if operand is None:
        return []
    relevant = RELEVANT_DIMS[operand]
    return [(one, other) for one, other in itertools.combinations(has, 2) if one not in relevant and other in relevant]


def _with_single_trips(model: CostModel, pairs: list[Pair], level: LoopLevel) -> Iterator[CostModel]:
    """Models of the choices in which of each pair of loops at least one has a single trip."""
    for single in _smallest_covers(pairs):
        masks = []
        for block in model.blocks:
            keep = np.ones(block.size, dtype=np.bool_)
            for choice in block.choices:
                if choice.dim in single:
                    keep &= choice.single_trip(0 if level == "dram" else choice.levels)
            masks.append(keep)
        found = _take(model, tuple(masks))
        if found is not None:
            yield found


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


def _doubling(model: CostModel, operand: Operand, wish: bool) -> CostModel | None:
    """A model in which an operand is always, or never, double-buffered; None where it cannot be."""
    if wish and not may_double(model)[OPERANDS.index(operand)]:
        return None

    def capacity(each: Capacity) -> Capacity:
        tiles = dict(each.tiles)
        if wish and operand in each.doubled:
            tile = tiles[operand]
            tiles[operand] = replace(tile, coefficient=2 * tile.coefficient, floor=2 * tile.floor)
        return replace(each, tiles=tiles, doubled=each.doubled - {operand})

    def exposed(each: Exposed) -> Exposed:
        always = wish and each.operand == operand
        return replace(each, single=each.doubled, single_constant=0.0) if always else each

    return replace(
        model, capacities=tuple(map(capacity, model.capacities)), exposed=tuple(map(exposed, model.exposed)),
        always_doubled=(*model.always_doubled, *([operand] if wish else [])),
    )


# ---- why not ----------------------------------------------------------------------------------------------------


def _any_fits(models: list[CostModel]) -> bool:
    """Whether some mapping fits; True where that takes long to find out."""
    for model in models:
        count, _, _, _, finished = enumerate_choices(kernel_input(model, "energy"), math.inf, 1, FEASIBILITY_NODES)
        if len(count) or not finished:
            return True
    return False


def _impossible(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, constraints: MappingConstraints
) -> Iterator[Problem]:
    """Constraints that ask, each by itself, for what layer or machine have not."""
    where = f"constraints on {layer.name}"
    grid = accelerator.grid
    axes = {axis.name: (axis.size, axis.unroll) for axis in grid.axes}
    axes[LANES] = (accelerator.processing_element.lanes(precision), grid.lane_unroll)
    for name, wishes in constraints.spatial.items():
        if name not in axes:
            yield Problem("the grid has no such axis", where, f"spatial.{name}", allowed=tuple(axes),
                          did_you_mean=closest(name, list(axes)))
            continue
        size, allowed = axes[name]
        for dim, wish in wishes.items():
            if wish.least > 1 and dim not in allowed:
                yield Problem("may not lie along this axis", where, f"spatial.{name}.{dim}", str(wish.least), allowed)
        together = math.prod(wish.least for wish in wishes.values())
        if together > size:
            parts = " · ".join(f"{dim} {wish.least}" for dim, wish in wishes.items())
            yield Problem(f"needs {together} along the axis, which has {size}; factors of {size} together, or an axis "
                          f"of {together}, would fit", where, f"spatial.{name}", parts)
    factors = [(f"spatial.{name}.{dim}", dim, wish) for name, wishes in constraints.spatial.items()
               for dim, wish in wishes.items()]
    extents = (("tile", constraints.tile), ("register_tile", constraints.register_tile), ("trips", constraints.trips))
    factors += [(f"{name}.{dim}", dim, wish) for name, wishes in extents for dim, wish in wishes.items()]
    for path, dim, wish in factors:
        if wish.least > layer.extent(dim):
            yield Problem(f"the layer has {layer.extent(dim)} along {dim}", where, path, str(wish.least))
    without = [operand for operand in OPERANDS if accelerator.registers_of(operand) is None]
    for dim, wish in constraints.register_tile.items():
        if wish.least > 1 and isinstance(grid.passing, SystolicPassing):
            yield Problem("must be 1 in a systolic grid", where, f"register_tile.{dim}", str(wish.least))
        elif wish.least > 1 and without:
            yield Problem(f"no register file keeps the {without[0]}, so a lane works on one element", where,
                          f"register_tile.{dim}", str(wish.least))
    yield from _impossible_operands(accelerator, constraints, where)


def _impossible_operands(
    accelerator: Accelerator, constraints: MappingConstraints, where: str
) -> Iterator[Problem]:
    held = constraints.stationary.get("buffer")
    kept = tuple(operand for operand in OPERANDS if accelerator.registers_of(operand) is not None)
    if held is not None and held not in kept:
        yield Problem("no register file keeps it, so the loops of the buffer cannot hold it", where,
                      "stationary.buffer", held, kept)
    for operand, wish in constraints.bypass.items():
        buffers = accelerator.buffers_of(operand)
        refusing = [buffer.name for buffer in buffers if operand not in buffer.may_bypass]
        if wish and operand not in kept:
            yield Problem("no register file keeps it, which a bypassing operand needs", where, f"bypass.{operand}",
                          "true", ("false",))
        elif wish and refusing:
            yield Problem(f"may not bypass {refusing[0]}; may_bypass: [{operand}] in the machine would allow it", where,
                          f"bypass.{operand}", "true", ("false",))
    for operand, wish in constraints.double_buffer.items():
        places = [*accelerator.buffers_of(operand)]
        file = accelerator.registers_of(operand)
        doubles = any(buffer.double_buffer for buffer in places)
        if wish and not doubles and not (file is not None and file.double_buffer):
            yield Problem(f"{places[0].name} does not double-buffer; double_buffer: true in the machine would allow it",
                          where, f"double_buffer.{operand}", "true", ("false",))


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
        "order.dram": tuple(sorted({"".join(order) for model in free for order, in outer_orders(model.variant)})),
        "order.buffer": tuple(sorted({"".join(buffer_order(model.variant)) for model in free})),
    }
    problems = [
        Problem("no mapping keeps this constraint and the others; without it there are some", where, path, said,
                allowed=orders.get(path, ()))
        for path, said, rest in constraints.parts()
        if not list(_impossible(layer, precision, accelerator, rest))
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
