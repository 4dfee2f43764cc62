"""The dynamic program along a path: against brute force, one over every budget, CP-SAT; its order, bounds, limits."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapper import assignment, assignment_options, assignment_path
from mapper.assignment import Choice, Conversion, assign
from mapper.assignment_model import AssignmentProblem, Search
from mapper.assignment_options import QUANTITIES
from mapper.assignment_path import path_optimum


@pytest.fixture(autouse=True)
def _groups_stay_apart(monkeypatch):
    """Terms stay terms, however few combinations their groups have."""
    monkeypatch.setattr(assignment_options, "JOINED_OPTIONS", 0)


def problem_of(rows, tables, **budgets):
    """``rows``: (cost, harm, bits) by layer and option; ``tables``: layers → array of costs by their options."""
    choices = {
        str(i): [Choice(str(j), *map(float, values[:2]), *map(int, values[2:])) for j, values in enumerate(row)]
        for i, row in enumerate(rows)
    }
    conversions = [
        Conversion(tuple(map(str, layers)), {
            tuple(map(str, picked)): float(cost) for picked, cost in np.ndenumerate(np.asarray(table))
        })
        for layers, table in tables.items()
    ]
    return AssignmentProblem.of(choices, (), budgets, conversions)


def scaled(problem):
    return {name: problem.scaled(name) for name in QUANTITIES}


def drawn(random, layers, options, reach):
    """Layers with falling harm and rising cost, tables between neighbours and over skips of up to ``reach`` layers."""
    size, sensitivity = random.lognormal(3, 1.2, layers), random.lognormal(1, 1.5, layers)
    rows = [
        [(int(size[i] * (j + 1)) + int(random.integers(0, 3)), int(sensitivity[i] * 3.0 ** (options - j) / 50) % 900,
          int(size[i]) * (options - j)) for j in range(options)]
        for i in range(layers)
    ]
    between = [(i, i + 1) for i in range(layers - 1)]
    between += [(i, i + reach) for i in range(0, layers - reach, reach + 1)] if reach > 1 else []
    tables = {
        pair: random.integers(0, 20, (options, options)) * int(np.ceil(size[pair[0]] / 10)) for pair in between
    }
    least, most = (sum(f(row, key=lambda each: each[1])[1] for row in rows) for f in (min, max))
    return rows, tables, least + int((most - least) * random.uniform(0, 0.4))


SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(2, 6), st.integers(1, 3), st.sampled_from(["cost", "harm", "weight_bits"]), st.booleans())
def test_equals_brute_force_with_terms_of_any_shape(seed, layers, options, minimise, is_bounded):
    random = np.random.default_rng(seed)
    rows = random.integers(0, 9, (layers, options, 3)).tolist()
    count = int(random.integers(1, 4))
    tables = {}
    for _ in range(count):
        between = tuple(sorted(random.choice(layers, min(layers, int(random.integers(2, 4))), replace=False).tolist()))
        tables[between] = random.integers(-8, 9, (options,) * len(between))
    other = "harm" if minimise == "cost" else "cost"

    def amounts(picks):
        values = np.sum([row[i] for row, i in zip(rows, picks, strict=True)], axis=0).tolist()
        values[0] += sum(table[tuple(picks[layer] for layer in between)] for between, table in tables.items())
        return dict(zip(QUANTITIES, values, strict=True))

    every = [amounts(picks) for picks in itertools.product(range(options), repeat=layers)]
    budgets = {}
    if is_bounded:
        budgets[other] = int(np.quantile([each[other] for each in every], random.uniform(0, 1)))
        every = [each for each in every if each[other] <= budgets[other]]
    problem = problem_of(rows, tables, **budgets)
    found = path_optimum(problem, minimise, scaled(problem))
    if not problem.terms:
        assert found is None
        return
    assert found is not None, "left to CP-SAT"
    least = min(each[minimise] for each in every)
    assert problem.total(minimise, found.picks) == least
    assert problem.within_budgets(found.picks)
    then = assignment.THEN_LEAST[minimise]
    assert found.settled == (not is_bounded or then == other)
    if found.settled:
        assert problem.total(then, found.picks) == min(each[then] for each in every if each[minimise] == least)


@given(SEEDS)
def test_a_chain_equals_a_program_over_every_budget(seed):
    random = np.random.default_rng(seed)
    rows, tables, budget = drawn(random, int(random.integers(10, 40)), int(random.integers(2, 6)), 1)
    best = np.full((len(rows[0]), budget + 1), math.inf)
    for j, (cost, harm, _) in enumerate(rows[0]):
        best[j, harm:harm + 1] = cost
    for i, row in enumerate(rows[1:]):
        then = np.full((len(row), budget + 1), math.inf)
        for j, (cost, harm, _) in enumerate(row):
            come = (best + np.asarray(tables[i, i + 1])[:, j, None]).min(axis=0)
            if harm <= budget:
                then[j, harm:] = come[: budget + 1 - harm] + cost
        best = then
    least = best.min(axis=0)
    problem = problem_of(rows, tables, harm=float(budget))
    found = path_optimum(problem, "cost", scaled(problem))
    assert found is not None
    assert (problem.total("cost", found.picks), problem.total("harm", found.picks)) == (
        least.min(), int(np.argmin(least))
    )


@given(SEEDS, st.sampled_from(["cost", "harm"]))
def test_skips_equal_cp_sat(seed, minimise):
    random = np.random.default_rng(seed)
    rows, tables, budget = drawn(random, int(random.integers(8, 16)), 3, int(random.integers(2, 4)))
    budgets = {"harm": budget} if minimise == "cost" else {"cost": sum(min(row)[0] for row in rows) * 2}
    problem = problem_of(rows, tables, **budgets)
    found = path_optimum(problem, minimise, scaled(problem))
    bound, complete, picks = Search(problem, scaled(problem)).minimise(minimise, None, time.perf_counter() + 60, 1)
    assert complete
    if picks is None:
        assert found is None
    else:
        assert found is not None
        assert found.least == bound
        assert problem.total(minimise, found.picks) == problem.total(minimise, picks)


def test_every_multiplier_bounds_every_assignment_from_below():
    random = np.random.default_rng(5)
    for _ in range(20):
        rows, tables, budget = drawn(random, 6, 3, 2)
        problem = problem_of(rows, tables, harm=budget)
        amounts = scaled(problem)
        steps = assignment_path._steps(problem, amounts["cost"].down, amounts["harm"].down, None)
        room = problem.room("harm", amounts["harm"])
        program = assignment_path._Program(steps, room, 0.0)
        found = program.optimum()
        if found is None:
            continue
        prices, _ = program._prices(room)
        assert prices[0].bound <= found[0] <= program._best().cost
        for p, q in ((0, 1), (1, 7), (1, 1), (9, 2), (1000, 1)):
            assert program._price(p, q).bound <= max(price.bound for price in prices) + 1
            assert program._price(p, q).bound <= found[0]


def test_a_component_is_decided_together_with_a_narrow_frontier_and_those_that_move_most_come_first():
    pair = ((0, 0), (0, 1), (1, 0), (1, 1))
    terms = [assignment_options.Term(groups, ((0, 1), (0, 1)), pair, (0, 1, 1, 0)) for groups in (
        (0, 3), (3, 6), (1, 4), (4, 5), (1, 5))]
    order = assignment_path.decided_in(terms, 7, [1, 9, 2, 1, 1, 1, 1])
    assert [set(order[:3]), set(order[3:6]), set(order[6:])] in (
        [{1, 4, 5}, {0, 3, 6}, {2}], [{1, 4, 5}, {2}, {0, 3, 6}])
    assert order.index(0) < order.index(3) < order.index(6)


def test_what_is_not_for_the_path_is_left_to_the_search(monkeypatch):
    rows = [[(1, 0, 3), (0, 2, 0)]] * 4
    tables = {pair: [[0, 3], [3, 1]] for pair in itertools.combinations(range(4), 2)}
    problem = problem_of(rows, tables, harm=4)
    whole = path_optimum(problem, "cost", scaled(problem))
    assert whole is not None
    for budgets in ({"harm": 4, "weight_bits": 4}, {"harm": -1}):
        other = problem_of(rows, tables, **budgets)
        assert path_optimum(other, "cost", scaled(other)) is None
    for name, few in (("MOST_STATES", 3), ("MOST_ENTRIES", 10), ("MOST_PAIRS", 5)):
        with monkeypatch.context() as patch:
            patch.setattr(assignment_path, name, few)
            left = path_optimum(problem, "cost", scaled(problem))
            assert left is None or (not left.complete and left.least <= whole.least), name
            assert (left is None) == (name != "MOST_PAIRS")
    choices = {str(i): [Choice(str(j), *map(float, each[:2])) for j, each in enumerate(row)]
               for i, row in enumerate(rows)}
    conversions = [Conversion(tuple(map(str, pair)), {("0", "1"): 3.0, ("1", "0"): 3.0, ("1", "1"): 1.0})
                   for pair in tables]
    found = assign(choices, minimise="cost", harm_budget=4, conversions=conversions)
    monkeypatch.setattr(assignment, "path_optimum", lambda *_: None)
    searched = assign(choices, minimise="cost", harm_budget=4, conversions=conversions)
    assert (found.cost, found.harm, found.status) == (searched.cost, searched.harm, "optimal")
    assert found.cost == problem.total("cost", whole.picks)


def test_large_numbers_do_not_overflow():
    """Sums of costs and of harms near what the integers are scaled to, and steps of very unlike steepness."""
    random = np.random.default_rng(11)
    for scale in (2.0**40, 2.0**-40):
        rows = [[(float(random.integers(1, 2**36)) * scale, float(random.random()) * 1e-30) for _ in range(3)]
                for _ in range(8)]
        tables = {(i, i + 1): random.integers(0, 2**30, (3, 3)) * scale for i in range(7)}
        choices = {str(i): [Choice(str(j), *each) for j, each in enumerate(row)] for i, row in enumerate(rows)}
        conversions = [
            Conversion((str(a), str(b)), {(str(i), str(j)): cost for (i, j), cost in np.ndenumerate(table)})
            for (a, b), table in tables.items()
        ]
        budget = sum(min(each[1] for each in row) for row in rows) + 2e-30
        found = assign(choices, minimise="cost", harm_budget=budget, conversions=conversions)
        every = (
            (math.fsum([*(row[i][0] for row, i in zip(rows, picks, strict=True)),
                        *(table[picks[a], picks[b]] for (a, b), table in tables.items())]))
            for picks in itertools.product(range(3), repeat=8)
            if math.fsum(row[i][1] for row, i in zip(rows, picks, strict=True)) <= budget
        )
        assert found.status == "optimal"
        assert found.cost == pytest.approx(min(every), rel=1e-12)
