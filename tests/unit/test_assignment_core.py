"""The dynamic program over the core: against one over the whole problem, against brute force, and its bounds."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapper import assignment
from mapper.assignment import Choice, assign
from mapper.assignment_core import core_optimum, lagrange_multipliers, reduced_costs
from mapper.assignment_model import AssignmentProblem
from mapper.assignment_options import QUANTITIES


def choices_of(rows):
    return {
        str(i): [Choice(str(j), *map(float, values[:2]), *values[2:]) for j, values in enumerate(row)]
        for i, row in enumerate(rows)
    }


def core_of(rows, minimise="cost", **budgets):
    problem = AssignmentProblem.of(choices_of(rows), (), budgets)
    return problem, core_optimum(problem, minimise, {name: problem.scaled(name) for name in QUANTITIES})


@st.composite
def correlated(draw):
    """Many layers whose harm falls as their cost grows, as precisions have it; some alike; one sometimes very large."""
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    layers, options = draw(st.integers(15, 60)), draw(st.integers(2, 8))
    size = np.ceil(random.lognormal(3, 1.2, layers))
    if draw(st.booleans()):
        size[0] = size.sum()
    sensitivity = random.lognormal(1, 1.5, layers)
    rows = [
        [(int(size[i] * (j + 1)) + int(random.integers(0, 3)), int(sensitivity[i] * 3.0 ** (options - j) / 50) % 4000)
         for j in range(options)]
        for i in range(layers)
    ]
    rows += [rows[0]] * draw(st.integers(0, 10))
    least, most = (sum(f(harm for _, harm in row) for row in rows) for f in (min, max))
    return rows, least + int((most - least) * draw(st.floats(0, 0.3)))


@given(correlated())
def test_equals_a_dynamic_program_over_everything(problem):
    rows, budget = problem
    best = np.full(budget + 1, math.inf)
    best[0] = 0
    for row in rows:
        then = np.full(budget + 1, math.inf)
        for cost, harm in row:
            if harm <= budget:
                then[harm:] = np.minimum(then[harm:], best[: budget + 1 - harm] + cost)
        best = then
    _, core = core_of(rows, harm=float(budget))
    assert core is not None, "left to CP-SAT"
    assert core.settled
    problem, _ = core_of(rows, harm=float(budget))
    assert problem.total("cost", core.picks) == best.min()
    assert problem.total("harm", core.picks) == int(np.argmin(best))


SMALL = st.lists(
    st.lists(st.tuples(st.integers(-9, 20), st.integers(-9, 20), st.integers(0, 6)), min_size=1, max_size=4),
    min_size=1, max_size=5,
)


@given(SMALL, st.integers(-20, 60), st.integers(0, 20))
def test_every_optimum_keeps_to_the_options_that_are_left(rows, harm, bits):
    for minimise, name, limit in (("cost", "harm", harm), ("harm", "weight_bits", bits), ("weight_bits", "harm", harm)):
        problem, core = core_of(rows, minimise, **{name: limit})
        every = [
            (problem.total(minimise, picks), picks)
            for picks in itertools.product(*(range(len(row)) for row in problem.options))
            if problem.total(name, picks) <= limit
        ]
        if core is None:
            assert not every
            continue
        least = min(value for value, _ in every)
        assert problem.total(minimise, core.picks) == least
        for value, picks in every:
            if value == least and not core.settled:
                assert all(pick in kept for pick, kept in zip(picks, core.options, strict=True))


@given(SMALL, st.integers(0, 30), st.sampled_from(["cost", "harm"]))
def test_ties_are_settled_where_the_budget_is_a_third_quantity(rows, bits, minimise):
    choices = choices_of(rows)
    other = "harm" if minimise == "cost" else "cost"
    every = [
        (sum(getattr(each, minimise) for each in picked), sum(getattr(each, other) for each in picked))
        for picked in itertools.product(*choices.values()) if sum(each.weight_bits for each in picked) <= bits
    ]
    if every:
        found = assign(choices, minimise=minimise, weight_bits_budget=bits)
        assert (getattr(found, minimise), getattr(found, other)) == min(every)


@given(SMALL, st.integers(0, 60), st.fractions(0, 50))
def test_the_relaxation_is_a_bound_under_any_multiplier_and_tightest_under_its_own(rows, room, other):
    costs, uses = ([[values[axis] + 9 for values in row] for row in rows] for axis in (0, 1))
    feasible = [
        sum(row[i] for row, i in zip(costs, picks, strict=True))
        for picks in itertools.product(*(range(len(row)) for row in rows))
        if sum(row[i] for row, i in zip(uses, picks, strict=True)) <= room
    ]
    multipliers = lagrange_multipliers(costs, uses, room)
    assert bool(multipliers) == bool(feasible)
    if not feasible:
        return
    bounds = [reduced_costs(costs, uses, room, each)[0] for each in [*multipliers, other]]
    assert all(bound <= min(feasible) for bound in bounds)
    # The multiplier is the slope of a step, rounded to a float.
    assert bounds[0] >= max(bounds) - Fraction(1, 10**9)


def test_real_numbers_too_close_to_the_budget_are_left_to_the_search(monkeypatch):
    tenths = {str(i): [Choice("a", 1.0, 0.1), Choice("b", 0.0, 0.2)] for i in range(3)}
    with_core = assign(tenths, minimise="cost", harm_budget=math.fsum([0.1, 0.1, 0.2]))
    monkeypatch.setattr(assignment, "core_optimum", lambda *_: None)
    without = assign(tenths, minimise="cost", harm_budget=math.fsum([0.1, 0.1, 0.2]))
    assert (with_core.cost, with_core.harm, with_core.status) == (without.cost, without.harm, without.status)


@pytest.mark.parametrize("budgets", [{"harm": 1.0, "weight_bits": 1}, {"harm": -1.0}])
def test_what_is_not_for_the_core_is_left_to_the_search(budgets):
    _, core = core_of([[(1, 0, 3), (0, 2, 0)], [(1, 0, 3), (0, 2, 0)]], **budgets)
    assert core is None
