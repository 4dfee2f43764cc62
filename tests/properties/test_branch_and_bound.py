"""The kernel of the search against walking through every choice: random rows and terms, with and without devices."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.kernels import choice_cost as kernel
from simulator.kernels import enumerate_choices

KINDS = (kernel.GRID, kernel.CHANNEL, kernel.FINAL, kernel.ENERGY, kernel.DOUBLED, kernel.SINGLE, kernel.TILE)
BLOCKS, TERMS, AXES = 3, 10, 2


def random_problem(rng: np.random.Generator, objective: int) -> kernel.CostInput:
    """Few rows with small numbers, so that equal factors and equal costs are common."""
    sizes = rng.integers(1, 7, BLOCKS)
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
        leakage=float(rng.integers(0, 2)), single_constant=-np.ones(3), objective=objective,
        latency_limit=np.inf if rng.random() < 0.7 else 500.0, energy_limit=np.inf,
    )
    # Of one term the least value over all choices that fit is known, as of the steps of the grid.
    floor[0] = min((value[0] for _, value in fitting(m)), default=0.0)
    return m


def fitting(m: kernel.CostInput) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Each choice of rows that fits the axes, with the values of its terms."""
    for rows in itertools.product(*(range(b - a) for a, b in itertools.pairwise(m.block_start))):
        whole = [row + start for row, start in zip(rows, m.block_start, strict=False)]
        if (np.prod(m.axis_use[whole], axis=0) <= m.axis_size).all():
            yield rows, m.coefficient * np.prod(m.factors[whole], axis=0)


def every_choice(m: kernel.CostInput) -> dict[tuple[int, ...], float]:
    """Cost of each choice of rows and double buffering that fits the axes and costs something finite."""
    found = {}
    for rows, value in fitting(m):
        by_mask = np.empty(kernel.MASKS)
        kernel.choice_cost(m, value, kernel.new_scratch(m), by_mask)
        found |= {(*rows, mask): float(cost) for mask, cost in enumerate(by_mask) if np.isfinite(cost)}
    return found


@given(st.integers(0, 1 << 32), st.integers(0, 2), st.data())
def test_the_cheapest_choices_are_found(seed: int, objective: int, data: st.DataObject) -> None:
    m = random_problem(np.random.default_rng(seed), objective)
    expected = every_choice(m)
    costs = sorted(expected.values())
    below = data.draw(st.sampled_from([np.inf, *costs[:20:3]]))
    most = data.draw(st.sampled_from([1, 2, 7, 1000]))
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
