"""Constraints, limits and fronts of the mapper against trying every mapping one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mapper.build_mapping import build_mapping
from mapper.build_models import build_cost_models
from mapper.candidates import build_blocks, row_problem
from mapper.constraints import MappingConstraints
from mapper.descent import Candidate, may_double
from mapper.front import map_front
from mapper.pareto import pareto_front
from mapper.search import map_layer
from mapper.solution import OBJECTIVES, Objective, SearchBudget, objective_cost
from mapper.variants import variants
from simulator.engine import simulate
from simulator.errors import InfeasibleError, MappingError
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.mapping import Mapping
from simulator.plan import Plan, channel_places
from simulator.result import LayerResult
from tests.properties.strategies import Case, cases
from tests.properties.test_mapper_optimal import deep_cases, program_of, tiles_of

MOST_MAPPINGS = 1000
MOST_DEEP_CHOICES = 500  # of rows and variants, of which most are no mapping of their own
BUDGET = SearchBudget(cpu_seconds=20, prover="enumeration")
few_examples = settings(
    max_examples=max(4, settings().max_examples // 38),
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.filter_too_much],
)


def every_mapping(case: Case, *, all_rows: bool) -> Iterator[tuple[Mapping, LayerResult]]:
    """All mappings of the space that fit, with their simulated costs; ``all_rows``: dominated ones too."""
    problem = row_problem(case.layer, case.precision, case.accelerator)
    choices = math.prod(block.size for block in build_blocks(problem, dominance=not all_rows))
    deep = case.accelerator.buffer_levels > 1
    assume(not deep or choices * len(variants(case.accelerator, case.precision)) <= MOST_DEEP_CHOICES)
    models = build_cost_models(case.layer, case.precision, case.accelerator, dominance=not all_rows)
    assume(deep or sum(math.prod(block.size for block in model.blocks) for model in models) * 8 <= MOST_MAPPINGS)
    seen = set()
    for model in models:
        allowed = [operand for operand, may in zip(OPERANDS, may_double(model), strict=True) if may]
        for rows in itertools.product(*(range(block.size) for block in model.blocks)):
            for count in range(len(allowed) + 1):
                for doubled in itertools.combinations(allowed, count):
                    for mapping in build_mapping(model, Candidate(rows, doubled, 0.0), case.accelerator):
                        try:
                            # With several levels many variants give the same mapping, but for loops of one trip.
                            program = repr((mapping.levels[-1], mapping.spatial, tiles_of(mapping),
                                            model.variant.places, program_of(case, mapping)))
                            if program in seen:
                                continue
                            seen.add(program)
                            yield mapping, simulate(case.layer, case.precision, case.accelerator, mapping)
                        except MappingError:
                            continue


def nest_layer(case: Case) -> Layer:
    """The layer as the loop nest sees it: along C as many places as channels take."""
    places = channel_places(case.layer, case.precision, case.accelerator).count
    dims: dict[Dim, int] = {**case.layer.dims, "C": places}
    return case.layer.model_copy(update={"dims": dims})


def trips(mapping: Mapping, layer: Layer, level: int) -> dict[Dim, int]:
    """Nominal trips of the loops of a level (0: DRAM), from the mapping's own numbers."""
    register = mapping.level("register").tile
    tiles = [
        {dim: layer.extent(dim) for dim in DIMS}, *(buffer.tile for buffer in mapping.buffer_levels),
        {dim: register.get(dim, 1) * mapping.unrolled(dim) for dim in DIMS},
    ]
    return {dim: -(-tiles[level].get(dim, 1) // tiles[level + 1].get(dim, 1)) for dim in DIMS}


def loops(mapping: Mapping, layer: Layer, level: int) -> list[Dim]:
    """Loops of more than one trip of a level, outermost first."""
    counts = trips(mapping, layer, level)
    return [dim for dim in mapping.levels[level].order if counts[dim] > 1]


def holds(mapping: Mapping, layer: Layer, level: int, operand: Operand) -> bool:
    """Whether the loops of a level hold an operand."""
    relevant = [dim in RELEVANT_DIMS[operand] for dim in loops(mapping, layer, level)]
    return relevant == sorted(relevant, reverse=True)


def keeps(mapping: Mapping, case: Case, constraints: MappingConstraints) -> bool:
    """Whether a mapping keeps constraints, read off the mapping alone."""
    layer, innermost = nest_layer(case), len(mapping.buffer_levels)
    tiles = [level.tile for level in mapping.levels]
    numbers = [
        (wish, mapping.spatial.get(axis, {}).get(dim, 1))
        for axis, wishes in constraints.spatial.items() for dim, wish in wishes.items()
    ]
    numbers += [(wish, tiles[-2].get(dim, 1)) for dim, wish in constraints.tile.items()]
    numbers += [(wish, tiles[-1].get(dim, 1)) for dim, wish in constraints.register_tile.items()]
    numbers += [(wish, trips(mapping, layer, 0)[dim]) for dim, wish in constraints.trips.items()]
    places = {
        operand: {place.level: place.double_buffer for place in plan.places(operand)}
        for plan in [Plan(case.layer, case.precision, case.accelerator, mapping)] for operand in OPERANDS
    }
    orders = [({"dram": 0, "buffer": innermost}[name], order) for name, order in constraints.order.items()]
    held = [({"dram": 0, "buffer": innermost}[name], operand) for name, operand in constraints.stationary.items()]
    for name, own in constraints.levels.items():
        level = {"dram": 0, "buffer": innermost, "buffer 1": 1, "buffer 2": 2}[name]
        numbers += [(wish, tiles[level].get(dim, 1)) for dim, wish in own.tile.items()]
        numbers += [(wish, trips(mapping, layer, level)[dim]) for dim, wish in own.trips.items()]
        orders.append((level, own.order))
        held += [(level, own.stationary)] if own.stationary else []
        if not all((level not in places[operand]) == wish for operand, wish in own.bypass.items()):
            return False
        if not all(places[operand].get(level, False) == wish for operand, wish in own.double_buffer.items()):
            return False
    for wish, number in numbers:
        low, high = wish.exactly or wish.at_least or 1, wish.exactly or wish.at_most or math.inf
        if not low <= number <= high:
            return False
    for level, order in orders:
        named = [dim for dim in loops(mapping, layer, level) if dim in order]
        if named != [dim for dim in order if dim in named]:
            return False
    if not all(holds(mapping, layer, level, operand) for level, operand in held):
        return False
    return all((min(places[operand]) > innermost) == wish for operand, wish in constraints.bypass.items()) and all(
        set(places[operand].values()) == {wish} for operand, wish in constraints.double_buffer.items()
    )


@st.composite
def constraints_like(draw: st.DrawFn, mapping: Mapping, case: Case) -> MappingConstraints:
    """Constraints of every kind that a given mapping keeps."""

    def wish(value: int) -> Any:
        kind = draw(st.sampled_from(("exactly", "exactly", "at_least", "at_most", "both")))
        near = st.integers(0, 2)
        return {
            "exactly": {"exactly": value}, "at_least": {"at_least": max(1, value - draw(near))},
            "at_most": {"at_most": value + draw(near)},
            "both": {"at_least": max(1, value - draw(near)), "at_most": value + draw(near)},
        }[kind]

    def some(values: Any) -> dict[Dim, Any]:
        chosen = draw(st.lists(st.sampled_from(sorted(values)), unique=True, max_size=2)) if values else []
        return {dim: wish(values[dim]) for dim in chosen}

    layer, innermost = nest_layer(case), len(mapping.buffer_levels)
    plan = Plan(case.layer, case.precision, case.accelerator, mapping)

    def order_like(level: int) -> list[Dim]:
        own, running = mapping.levels[level].order, loops(mapping, layer, level)
        others = draw(st.permutations([dim for dim in own if dim not in running]))
        return [*others[: len(others) // 2], *running, *others[len(others) // 2 :]]

    def held_like(level: int) -> list[Operand]:
        return [
            operand for operand in OPERANDS
            if holds(mapping, layer, level, operand)
            and (level < innermost or case.accelerator.registers_of(operand) is not None)
        ]

    content: dict[str, Any] = {
        "spatial": {axis: some(factors) for axis, factors in mapping.spatial.items()},
        "tile": some(mapping.level("buffer").tile), "trips": some(trips(mapping, layer, 0)),
        "register_tile": some(mapping.level("register").tile),
        "order": {}, "stationary": {}, "bypass": {}, "double_buffer": {}, "levels": {},
    }
    for name, level in (("dram", 0), ("buffer", innermost)):
        if draw(st.booleans()):
            content["order"][name] = order_like(level)
        if (held := held_like(level)) and draw(st.booleans()):
            content["stationary"][name] = draw(st.sampled_from(held))
    for operand in OPERANDS:
        places = plan.places(operand)
        if draw(st.integers(0, 2)) == 0:
            content["bypass"][operand] = places[0].level > innermost
        if len({place.double_buffer for place in places}) == 1 and draw(st.integers(0, 2)) == 0:
            content["double_buffer"][operand] = places[0].double_buffer
    for level in draw(st.sets(st.integers(0, innermost), max_size=2)):
        name = draw(st.sampled_from(("buffer", f"buffer {level}"))) if level == innermost else f"buffer {level}"
        own: dict[str, Any] = {"trips": some(trips(mapping, layer, level))}
        if draw(st.booleans()):
            own["order"] = order_like(level)
        if (held := held_like(level)) and draw(st.booleans()):
            own["stationary"] = draw(st.sampled_from(held))
        if level:
            own["tile"] = some(mapping.levels[level].tile)
            here = {
                operand: {place.level: place.double_buffer for place in plan.places(operand)} for operand in OPERANDS
                if any(case.accelerator.level_of(buffer) == level for buffer in case.accelerator.buffers_of(operand))
            }
            own["bypass"] = {operand: level not in at for operand, at in here.items() if draw(st.integers(0, 2)) == 0}
            own["double_buffer"] = {
                operand: at.get(level, False) for operand, at in here.items() if draw(st.integers(0, 2)) == 0
            }
        content["levels"]["dram" if level == 0 else name] = own
    return MappingConstraints.model_validate(content, strict=False)


@few_examples
@given(cases(max_macs=24, max_levels=1), st.data(), st.sampled_from(OBJECTIVES))
def test_a_constrained_search_finds_and_proves_the_optimum(
    case: Case, data: st.DataObject, objective: Objective
) -> None:
    check_constrained(case, data, objective)


@settings(few_examples, max_examples=max(2, settings().max_examples // 20))
@given(deep_cases(), st.data(), st.sampled_from(OBJECTIVES))
def test_with_two_levels_of_buffers_too(case: Case, data: st.DataObject, objective: Objective) -> None:
    check_constrained(case, data, objective)


def check_constrained(case: Case, data: st.DataObject, objective: Objective) -> None:
    """A search within constraints that some mapping keeps: it keeps them, and no mapping that does is better."""
    found = list(every_mapping(case, all_rows=True))
    assume(found)
    model, _ = found[data.draw(st.integers(0, len(found) - 1))]
    constraints = data.draw(constraints_like(model, case))
    best = min(
        (objective_cost(result, objective) for mapping, result in found if keeps(mapping, case, constraints)),
        default=math.inf,
    )
    assert math.isfinite(best), constraints.describe()
    solution = map_layer(
        case.layer, case.precision, case.accelerator, objective, budget=BUDGET, constraints=constraints
    )
    assert keeps(solution.mapping, case, constraints), constraints.describe()
    # Numbers that the constraints name are tried beyond those of the unconstrained space.
    assert solution.status == "optimal" and solution.lower_bound <= best * (1 + 1e-9), constraints.describe()
    assert simulate(case.layer, case.precision, case.accelerator, solution.mapping) == solution.result


@few_examples
@given(cases(max_macs=24, max_levels=1), st.data())
def test_limits_are_kept_and_the_best_within_them_is_found(case: Case, data: st.DataObject) -> None:
    check_limit(case, data)


def check_limit(case: Case, data: st.DataObject) -> None:
    """The least energy within a drawn limit of latency, against all mappings."""
    found = list(every_mapping(case, all_rows=False))
    assume(found)
    costs = np.array([[result.total_cycles, result.total_energy_pj] for _, result in found])
    prover = data.draw(st.sampled_from(("enumeration", "enumeration", "cp_sat")))
    budget = SearchBudget(cpu_seconds=20 if prover == "enumeration" else 5, prover=prover)
    limit = int(data.draw(st.sampled_from(sorted(set(costs[:, 0]))))) + data.draw(st.integers(-1, 1))
    best = min(costs[costs[:, 0] <= limit, 1], default=math.inf)
    if limit < 1:
        return
    if math.isinf(best):
        with pytest.raises(InfeasibleError):
            map_layer(case.layer, case.precision, case.accelerator, "energy", budget=budget, latency_limit_cycles=limit)
    else:
        solution = map_layer(
            case.layer, case.precision, case.accelerator, "energy", budget=budget, latency_limit_cycles=limit
        )
        assert solution.result.total_cycles <= limit and solution.lower_bound <= best * (1 + 1e-9)
        if prover == "enumeration":
            assert solution.status == "optimal"
        if solution.status == "optimal":
            assert solution.cost == pytest.approx(best, rel=3e-6)


@few_examples
@given(cases(max_macs=24, max_levels=1))
def test_a_front_is_that_of_all_mappings(case: Case) -> None:
    check_front(case)


def check_front(case: Case) -> None:
    """The front against that of all mappings."""
    found = list(every_mapping(case, all_rows=False))
    assume(found)
    costs = np.array([[result.total_cycles, result.total_energy_pj] for _, result in found])
    expected = sorted(map(tuple, costs[pareto_front(costs)].tolist()))
    front = map_front(case.layer, case.precision, case.accelerator, budget=BUDGET)
    assert front.complete
    got = [(point.latency_cycles, point.energy_pj) for point in front.points]
    # No point is beaten, and none is missing but for energies that a proof cannot tell apart.
    for points, others in ((got, expected), (expected, got)):
        for cycles, energy in points:
            assert any(c <= cycles and e <= energy * (1 + 3e-6) for c, e in others)
