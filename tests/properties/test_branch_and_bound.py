"""The kernels of the search against plain twins: the cost of a choice, rows that no other beats, bounds, descents, and
the cheapest choices against walking through every one; random rows and terms, with and without devices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.kernels import choice_cost as kernel
from simulator.kernels import enumerate_choices, least_cost, non_dominated, non_dominated_of_each, random_descents
from simulator.kernels.enumeration import surviving_rows
from simulator.kernels.row_trees import TELLING, row_trees

KINDS = (
    kernel.GRID, kernel.CHANNEL, kernel.FINAL, kernel.ENERGY, kernel.DOUBLED, kernel.SINGLE, kernel.TILE, kernel.PACED,
)
BLOCKS, TERMS, AXES = 3, 10, 2
fewer = settings(max_examples=max(5, settings().max_examples // 3))


def random_problem(
    rng: np.random.Generator, objective: int, sizes: tuple[int, ...] | None = None
) -> kernel.CostInput:
    """Few rows with small numbers, so that equal factors and equal costs are common. ``sizes``: rows of each block."""
    sizes = rng.integers(1, 7, BLOCKS) if sizes is None else np.array(sizes)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    factors = rng.integers(0 if rng.random() < 0.2 else 1, 6, (starts[-1], TERMS)).astype(np.float64)
    kind = np.array([*KINDS, *rng.choice(KINDS, TERMS - len(KINDS))])
    coefficient = rng.integers(1, 5, TERMS).astype(np.float64)
    capacity = np.where(kind == kernel.TILE, rng.integers(0, 2, TERMS), 0)
    floor = np.zeros(TERMS)
    m = kernel.CostInput(
        factors=factors, block_start=starts, axis_use=rng.integers(1, 4, (starts[-1], AXES)),
        axis_size=rng.integers(2, 20, AXES), coefficient=coefficient, floor=floor, kind=kind,
        operand=rng.integers(0, 3, TERMS), capacity=capacity, capacity_size=rng.integers(20, 400, 2).astype(np.float64),
        capacity_doubles=rng.random((2, 3)) < 0.5, may_double=rng.random(3) < 0.7,
        grid_constant=1.0, channel_constant=-1.0, final_constant=0.0, energy_constant=2.0,
        paced_constant=-np.inf if rng.random() < 0.5 else 2.0,
        leakage=float(rng.integers(0, 2)), single_constant=-np.ones(3), objective=objective,
        latency_limit=np.inf if rng.random() < 0.7 else 500.0,
        energy_limit=np.inf if rng.random() < 0.7 else 1000.0,
    )
    # Of one term the least value over all choices that fit is known, as of the steps of the grid.
    floor[0] = min((value[0] for _, value in fitting(m)), default=0.0)
    return m


def fitting(m: kernel.CostInput) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Each choice of rows that fits the axes, with the values of its terms."""
    for rows in rows_of(m):
        whole = [row + start for row, start in zip(rows, m.block_start, strict=False)]
        if (np.prod(m.axis_use[whole], axis=0) <= m.axis_size).all():
            yield rows, m.coefficient * np.prod(m.factors[whole], axis=0)


def cost_of(m: kernel.CostInput, value: np.ndarray, mask: int) -> float:
    """Cost of a choice with a set of double-buffered operands, from the terms' values; inf where it may not be."""

    def total(kind: int, operand: int | None = None, capacity: int | None = None) -> float:
        of = m.kind == kind
        if operand is not None:
            of &= m.operand == operand
        if capacity is not None:
            of &= m.capacity == capacity
        return float(value[of].sum())

    twice = [bool(mask >> operand & 1) for operand in range(3)]
    if any(double and not may for double, may in zip(twice, m.may_double, strict=True)):
        return np.inf
    for place, size in enumerate(m.capacity_size):
        tiles = [total(kernel.TILE, operand, place) for operand in range(3)]
        copies = [2 if double and may else 1 for double, may in zip(twice, m.capacity_doubles[place], strict=True)]
        if np.dot(tiles, copies) > size:
            return np.inf
    grid = max(m.grid_constant + total(kernel.GRID), m.paced_constant + total(kernel.PACED)) + sum(
        total(kernel.DOUBLED, operand) if twice[operand] else m.single_constant[operand] + total(kernel.SINGLE, operand)
        for operand in range(3)
    )
    channel, final = m.channel_constant + total(kernel.CHANNEL), m.final_constant + total(kernel.FINAL)
    latency = max(grid, channel, final)
    energy = m.energy_constant + total(kernel.ENERGY) + m.leakage * latency
    if latency > m.latency_limit or energy > m.energy_limit:
        return np.inf
    return float({kernel.LATENCY: latency, kernel.ENERGY_COST: energy, kernel.EDP: latency * energy}[m.objective])


def masks_of(m: kernel.CostInput) -> range:
    """Sets of double-buffered operands: the empty one alone where energy does not depend on them."""
    alike = m.objective == kernel.ENERGY_COST and m.leakage == 0 and m.latency_limit == np.inf
    return range(1 if alike else kernel.MASKS)


def every_choice(m: kernel.CostInput) -> dict[tuple[int, ...], float]:
    """Cost of each choice of rows and double buffering that fits the axes and costs something finite."""
    found = {}
    scratch, by_mask = kernel.new_scratch(m), np.empty(kernel.MASKS)
    for rows, value in fitting(m):
        kernel.choice_cost(m, value, scratch, by_mask)
        found |= {(*rows, mask): float(cost) for mask, cost in enumerate(by_mask) if np.isfinite(cost)}
    return found


@fewer
@given(st.integers(0, 1 << 32), st.integers(0, 2))
def test_the_cost_of_a_choice(seed: int, objective: int) -> None:
    m = random_problem(np.random.default_rng(seed), objective)
    scratch, by_mask = kernel.new_scratch(m), np.empty(kernel.MASKS)
    for _, value in itertools.islice(fitting(m), 0, None, 40):
        best, best_mask = kernel.choice_cost(m, value, scratch, by_mask)
        expected = [cost_of(m, value, mask) if mask in masks_of(m) else np.inf for mask in range(kernel.MASKS)]
        assert by_mask.tolist() == pytest.approx(expected, rel=1e-12)
        assert best == by_mask.min() and (np.isinf(best) or by_mask[best_mask] == best)


def bounds_of_rows(m: kernel.CostInput, below: float) -> tuple[np.ndarray, np.ndarray]:
    """Which rows may be part of a choice that costs less than ``below``, and what bounds the cost of such a choice:
    each row with the least factor, term by term, of the rows of each other block that are left."""
    starts, alive = m.block_start, np.ones(len(m.factors), dtype=np.bool_)
    scratch, by_mask = kernel.new_scratch(m), np.empty(kernel.MASKS)
    while True:
        own = [np.flatnonzero(alive[a:b]) + a for a, b in itertools.pairwise(starts)]
        if not all(map(len, own)):
            return np.zeros_like(alive), np.full(len(alive), np.inf)
        least = [m.factors[rows].min(axis=0) for rows in own]
        bound = np.full(len(alive), np.inf)
        for block, rows in enumerate(own):
            others = m.coefficient * np.prod([one for place, one in enumerate(least) if place != block], axis=0)
            for row in rows:
                value = np.maximum(m.floor, others * m.factors[row])
                bound[row] = kernel.choice_cost(m, value, scratch, by_mask)[0]
        if np.array_equal(bound < below, alive):
            return alive, bound
        alive = bound < below


@fewer
@given(st.integers(0, 1 << 32), st.integers(0, 2), st.data())
def test_bounds_of_rows_are_those_of_the_plain_twin(seed: int, objective: int, data: st.DataObject) -> None:
    m = random_problem(np.random.default_rng(seed), objective)
    costs = sorted(every_choice(m).values())
    below = data.draw(st.sampled_from([np.inf, *costs[:20:3]]))
    alive, bound = np.ones(len(m.factors), dtype=np.bool_), np.zeros(len(m.factors))
    expected, of_rows = bounds_of_rows(m, below)
    smallest = np.empty((BLOCKS, TERMS))
    assert surviving_rows(m, below, alive, bound, smallest) == expected.any()
    if expected.any():
        assert alive.tolist() == expected.tolist()
        assert bound[alive].tolist() == pytest.approx(of_rows[alive], rel=1e-12)
    of_rows = bounds_of_rows(m, np.inf)[1]
    least = max(of_rows[a:b].min() for a, b in itertools.pairwise(m.block_start))
    assert least_cost(m) == pytest.approx(least, rel=1e-12)
    assert not costs or least_cost(m) <= costs[0] * (1 + 1e-12)


@fewer
@given(st.integers(0, 1 << 32), st.booleans())
def test_a_node_of_a_tree_is_the_best_of_the_rows_below_it(seed: int, clustered: bool) -> None:
    rng = np.random.default_rng(seed)
    m = random_problem(rng, 0)
    own = [rng.permutation(np.arange(a, b))[: rng.integers(1, b - a + 1)] for a, b in itertools.pairwise(m.block_start)]
    trees = row_trees(m, [rows.copy() for rows in own], clustered=clustered)
    telling = np.log(np.column_stack([np.maximum(m.factors[:, np.isin(m.kind, TELLING)], 0.5), m.axis_use]))

    def rows_below(node: int) -> list[int]:
        first = trees.first[node]
        found = [int(trees.row[node])] if first < 0 else rows_below(first) + rows_below(first + 1)
        assert (first < 0) == (trees.row[node] >= 0)
        assert trees.least[node].tolist() == m.factors[found].min(axis=0).tolist()
        assert trees.axis_use[node].tolist() == m.axis_use[found].min(axis=0).tolist()
        if first >= 0:
            spread = np.ptp(telling[found], axis=0)
            if clustered and spread.max() > 0:
                column = telling[:, spread.argmax()]
                middle = (column[found].min() + column[found].max()) / 2
                assert max(column[rows_below(first)]) <= middle < min(column[rows_below(first + 1)])
            else:
                assert abs(len(rows_below(first)) - len(rows_below(first + 1))) <= 1
        return found

    for root, rows in zip(trees.root, own, strict=True):
        assert sorted(rows_below(root)) == sorted(rows.tolist())


@fewer
@given(st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=1, max_size=30))
def test_rows_that_no_other_beats(table: list[list[int]]) -> None:
    values = np.array(table, dtype=np.int64)
    kept = values[non_dominated(values)]
    beaten = [(values <= row).all(axis=1) & (values < row).any(axis=1) for row in values]
    expected = {tuple(row) for row, by in zip(table, beaten, strict=True) if not by.any()}
    assert sorted(map(tuple, kept.tolist())) == sorted(expected)


@fewer
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=30))
def test_rows_that_no_other_of_their_kind_beats(table: list[list[int]]) -> None:
    values, kind = np.array(table, dtype=np.int64)[:, 1:], np.array(table, dtype=np.int64)[:, 0]
    kept = np.flatnonzero(non_dominated_of_each(values, kind))
    expected = []
    for each in np.unique(kind):
        own = np.flatnonzero(kind == each)
        expected += own[non_dominated(values[own])].tolist()
    assert sorted(kept.tolist()) == sorted(expected)


@fewer
@given(st.integers(0, 1 << 32), st.integers(0, 2), st.integers(0, 6))
def test_descents_end_where_no_other_row_of_one_block_is_better(seed: int, objective: int, starts: int) -> None:
    m = random_problem(np.random.default_rng(seed), objective)
    expected = every_choice(m)
    best = {rows: min(expected.get((*rows, mask), np.inf) for mask in range(kernel.MASKS)) for rows in rows_of(m)}
    first = m.block_start[:-1].copy()
    ends, costs, masks = random_descents(m, first, starts, 1)
    assert len(ends) == len(costs) == len(masks) == starts + 1
    begins_well = np.isfinite(best[(0,) * BLOCKS])
    for end, cost, mask in zip(ends, costs, masks, strict=True):
        rows = tuple((end - m.block_start[:-1]).tolist())
        # Whoever begins at what fits, meets nothing but what fits.
        assert np.isfinite(cost) or not begins_well
        if np.isfinite(cost):
            assert cost == pytest.approx(expected[(*rows, int(mask))], rel=1e-12)
            assert cost == pytest.approx(best[rows], rel=1e-12)
        for block, size in enumerate(np.diff(m.block_start)):
            others = [(*rows[:block], row, *rows[block + 1 :]) for row in range(size)]
            assert min(best[other] for other in others) >= cost * (1 - 1e-12)
    if begins_well:
        assert costs[0] <= best[(0,) * BLOCKS] * (1 + 1e-12)
    # The first one begins at the given rows, whatever is drawn.
    again, cost_again, mask_again = random_descents(m, first, 0, 2)
    assert (again[0].tolist(), cost_again[0], mask_again[0]) == (ends[0].tolist(), costs[0], masks[0])


def rows_of(m: kernel.CostInput) -> Iterator[tuple[int, ...]]:
    """Every choice of a row of each block, by its number in the block."""
    return itertools.product(*(range(b - a) for a, b in itertools.pairwise(m.block_start)))


@given(st.integers(0, 1 << 32), st.integers(0, 2), st.data())
def test_the_cheapest_choices_are_found(seed: int, objective: int, data: st.DataObject) -> None:
    m = random_problem(np.random.default_rng(seed), objective)
    expected = every_choice(m)
    costs = sorted(expected.values())
    below = data.draw(st.sampled_from([np.inf, *costs[:20:3]]))
    most = data.draw(st.sampled_from([1, 2, 7, 30, 1000]))
    devices = {name: data.draw(st.booleans()) for name in ("survivors", "clustered")}
    rows, masks, found, floor, finished = enumerate_choices(m, below, most, 1 << 20, **devices)
    assert finished
    wanted = [cost for cost in costs if cost < below][:most]
    assert sorted(found) == pytest.approx(wanted, rel=1e-12)
    choices = [(*map(int, row), int(mask)) for row, mask in zip(rows, masks, strict=True)]
    assert len(set(choices)) == len(choices)
    assert [expected[choice] for choice in choices] == pytest.approx(list(found), rel=1e-12)
    # Nothing that is not among them costs less than the floor.
    left = min((cost for choice, cost in expected.items() if choice not in choices), default=np.inf)
    assert floor <= left * (1 + 1e-12) or floor == below
    assert not wanted or len(wanted) < most or floor == pytest.approx(wanted[-1])
    undominated = enumerate_choices(m, below, 1, 1 << 20, True, **devices)[2]
    assert list(undominated) == pytest.approx(wanted[:1], rel=1e-12)


@given(st.integers(0, 1 << 32), st.integers(0, 2), st.integers(0, 60))
def test_the_floor_of_a_search_that_gave_up_holds(seed: int, objective: int, nodes: int) -> None:
    m = random_problem(np.random.default_rng(seed), objective)
    expected = every_choice(m)
    rows, masks, found, floor, finished = enumerate_choices(m, np.inf, 3, nodes)
    choices = {(*map(int, row), int(mask)) for row, mask in zip(rows, masks, strict=True)}
    assert len(choices) == len(found) and choices <= expected.keys()
    left = min((cost for choice, cost in expected.items() if choice not in choices), default=np.inf)
    assert floor <= left * (1 + 1e-12)
    assert not finished or sorted(found) == pytest.approx(sorted(expected.values())[:3], rel=1e-12)


def test_the_search_gives_up_when_it_is_told_to_and_not_before() -> None:
    rng = np.random.default_rng(1)

    def problem(rows: int) -> kernel.CostInput:
        """Every choice fits."""
        m = random_problem(rng, kernel.LATENCY, (rows,) * BLOCKS)
        return m._replace(axis_size=np.full(AXES, 100), capacity_size=np.full(2, 1e9), latency_limit=np.inf,
                          energy_limit=np.inf, may_double=np.zeros(3, dtype=np.bool_))

    one = problem(1)
    assert [enumerate_choices(one, np.inf, 9, nodes)[-1] for nodes in (0, 1)] == [False, True]
    many = problem(7)  # with 343 leaves of the search
    for flag in (0, 1):
        rows, *_, finished = enumerate_choices(many, np.inf, 1000, 1 << 20, stop=np.array([flag]))
        assert (finished, len(rows)) == (True, 343) if flag == 0 else not finished
    assert not enumerate_choices(many, np.inf, 1000, 300)[-1]
