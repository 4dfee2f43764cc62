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
from mapper.constraints import MappingConstraints
from mapper.cost_terms import build_cost_models
from mapper.descent import Candidate, may_double
from mapper.front import map_front
from mapper.pareto import pareto_front
from mapper.search import map_layer
from mapper.solution import OBJECTIVES, Objective, SearchBudget, objective_cost
from simulator.engine import simulate
from simulator.errors import InfeasibleError, MappingError
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Layer
from simulator.mapping import Mapping
from simulator.result import LayerResult
from tests.properties.strategies import Case, cases

MOST_MAPPINGS = 1000
BUDGET = SearchBudget(cpu_seconds=20, prover="enumeration")
few_examples = settings(
    max_examples=max(4, settings().max_examples // 38),
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.filter_too_much],
)


def every_mapping(case: Case, *, all_rows: bool) -> Iterator[tuple[Mapping, LayerResult]]:
    """All mappings of the space that fit, with their simulated costs; ``all_rows``: dominated ones too."""
    with pytest.MonkeyPatch.context() as patch:
        if all_rows:
            patch.setattr("mapper.candidates._prefilter", lambda choice: choice)
        models = build_cost_models(case.layer, case.precision, case.accelerator)
    assume(sum(math.prod(block.size for block in model.blocks) for model in models) * 8 <= MOST_MAPPINGS)
    seen = set()
    for model in models:
        allowed = [operand for operand, may in zip(OPERANDS, may_double(model), strict=True) if may]
        for rows in itertools.product(*(range(block.size) for block in model.blocks)):
            for count in range(len(allowed) + 1):
                for doubled in itertools.combinations(allowed, count):
                    for mapping in build_mapping(model, Candidate(rows, doubled, 0.0), case.accelerator):
                        text = mapping.model_dump_json()
                        if text in seen:
                            continue
                        seen.add(text)
                        try:
                            yield mapping, simulate(case.layer, case.precision, case.accelerator, mapping)
                        except MappingError:
                            continue


def trips(mapping: Mapping, layer: Layer, level: str) -> dict[str, int]:
    """Nominal trips of the loops of a level, from the mapping's own numbers."""
    tile, register = mapping.level("buffer").tile, mapping.level("register").tile
    if level == "dram":
        return {dim: -(-layer.extent(dim) // tile.get(dim, 1)) for dim in DIMS}
    return {dim: -(-tile.get(dim, 1) // (register.get(dim, 1) * mapping.unrolled(dim))) for dim in DIMS}


def keeps(mapping: Mapping, layer: Layer, constraints: MappingConstraints) -> bool:
    """Whether a mapping keeps constraints, read off the mapping alone."""
    numbers = [
        (wish, mapping.spatial.get(axis, {}).get(dim, 1))
        for axis, wishes in constraints.spatial.items() for dim, wish in wishes.items()
    ]
    numbers += [(wish, mapping.level("buffer").tile.get(dim, 1)) for dim, wish in constraints.tile.items()]
    numbers += [(wish, mapping.level("register").tile.get(dim, 1)) for dim, wish in constraints.register_tile.items()]
    numbers += [(wish, trips(mapping, layer, "dram")[dim]) for dim, wish in constraints.trips.items()]
    for wish, number in numbers:
        low, high = wish.exactly or wish.at_least or 1, wish.exactly or wish.at_most or math.inf
        if not low <= number <= high:
            return False
    for level, order in constraints.order.items():
        loops = [dim for dim in mapping.level(level).order if trips(mapping, layer, level)[dim] > 1 and dim in order]
        if loops != [dim for dim in order if dim in loops]:
            return False
    for level, operand in constraints.stationary.items():
        loops = [dim for dim in mapping.level(level).order if trips(mapping, layer, level)[dim] > 1]
        relevant = [dim in RELEVANT_DIMS[operand] for dim in loops]
        if relevant != sorted(relevant, reverse=True):
            return False
    return all((operand in mapping.bypass) == wish for operand, wish in constraints.bypass.items()) and all(
        (operand in mapping.double_buffer) == wish for operand, wish in constraints.double_buffer.items()
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

    def some(values: dict[str, int]) -> dict[str, Any]:
        chosen = draw(st.lists(st.sampled_from(sorted(values)), unique=True, max_size=2)) if values else []
        return {dim: wish(values[dim]) for dim in chosen}

    layer, at_dram = case.layer, trips(mapping, case.layer, "dram")
    content: dict[str, Any] = {
        "spatial": {axis: some(dict(factors)) for axis, factors in mapping.spatial.items()},
        "tile": some(dict(mapping.level("buffer").tile)), "trips": some(dict(at_dram)),
        "register_tile": some(dict(mapping.level("register").tile)),
        "order": {}, "stationary": {}, "bypass": {}, "double_buffer": {},
    }
    for level in ("dram", "buffer"):
        own = list(mapping.level(level).order)
        loops = [dim for dim in own if trips(mapping, layer, level)[dim] > 1]
        if draw(st.booleans()):
            others = draw(st.permutations([dim for dim in own if dim not in loops]))
            content["order"][level] = [*others[: len(others) // 2], *loops, *others[len(others) // 2 :]]
        holds = [
            operand for operand in OPERANDS
            if (flags := [dim in RELEVANT_DIMS[operand] for dim in loops]) == sorted(flags, reverse=True)
            and (level == "dram" or case.accelerator.registers_of(operand) is not None)
        ]
        if holds and draw(st.booleans()):
            content["stationary"][level] = draw(st.sampled_from(holds))
    for name, chosen in (("bypass", mapping.bypass), ("double_buffer", mapping.double_buffer)):
        for operand in OPERANDS:
            if draw(st.integers(0, 2)) == 0:
                content[name][operand] = operand in chosen
    return MappingConstraints.model_validate(content, strict=False)


@few_examples
@given(cases(max_macs=24, max_levels=1), st.data(), st.sampled_from(OBJECTIVES))
def test_a_constrained_search_finds_and_proves_the_optimum(
    case: Case, data: st.DataObject, objective: Objective
) -> None:
    found = list(every_mapping(case, all_rows=True))
    assume(found)
    model, _ = found[data.draw(st.integers(0, len(found) - 1))]
    constraints = data.draw(constraints_like(model, case))
    best = min(
        (objective_cost(result, objective) for mapping, result in found if keeps(mapping, case.layer, constraints)),
        default=math.inf,
    )
    assert math.isfinite(best), constraints.describe()
    solution = map_layer(
        case.layer, case.precision, case.accelerator, objective, budget=BUDGET, constraints=constraints
    )
    assert keeps(solution.mapping, case.layer, constraints), constraints.describe()
    # Numbers that the constraints name are tried beyond those of the unconstrained space.
    assert solution.status == "optimal" and solution.lower_bound <= best * (1 + 1e-9), constraints.describe()
    assert simulate(case.layer, case.precision, case.accelerator, solution.mapping) == solution.result


@few_examples
@given(cases(max_macs=24, max_levels=1), st.data())
def test_limits_are_kept_and_the_best_within_them_is_found(case: Case, data: st.DataObject) -> None:
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
