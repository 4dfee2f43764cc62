"""The kernel of closed-form costs against the same sums in plain Python, and the tables that its input is made from."""

from __future__ import annotations

import numpy as np
import pytest

from mapper.factor_table import FactorTable
from simulator.kernels import choice_cost as kernel

TERMS = 16


def plain_cost(m: kernel.CostInput, value: np.ndarray, mask: int) -> float:
    """Cost with some operands double-buffered (bits of ``mask``), as ``choice_cost`` says in words."""
    terms = list(zip(value, m.kind, m.operand, m.capacity, strict=True))
    twice = {operand for operand in range(3) if mask >> operand & 1}
    if any(not m.may_double[operand] for operand in twice):
        return np.inf
    for place, size in enumerate(m.capacity_size):
        need = sum(
            v * (2 if operand in twice and m.capacity_doubles[place][operand] else 1)
            for v, kind, operand, of in terms if kind == kernel.TILE and of == place
        )
        if need > size * (1 + 1e-12):
            return np.inf
    grid, paced, channel, final, energy = (
        constant + sum(v for v, kind, *_ in terms if kind == which)
        for which, constant in (
            (kernel.GRID, m.grid_constant), (kernel.PACED, m.paced_constant), (kernel.CHANNEL, m.channel_constant),
            (kernel.FINAL, m.final_constant), (kernel.ENERGY, m.energy_constant),
        )
    )
    for operand in range(3):
        which = kernel.DOUBLED if operand in twice else kernel.SINGLE
        waits = sum(v for v, kind, of, _ in terms if kind == which and of == operand)
        waits += 0.0 if operand in twice else m.single_constant[operand]
        grid, paced = grid + waits, paced + waits
    latency = max(grid, paced, channel, final)
    energy += m.leakage * latency
    if latency > m.latency_limit or energy > m.energy_limit:
        return np.inf
    return {kernel.LATENCY: latency, kernel.ENERGY_COST: energy, kernel.EDP: latency * energy}[m.objective]


@pytest.mark.parametrize("objective", [kernel.LATENCY, kernel.ENERGY_COST, kernel.EDP])
def test_costs_with_each_set_of_double_buffered_operands(objective: int) -> None:
    rng = np.random.default_rng(objective)
    finite = 0
    for _ in range(150):
        m = kernel.CostInput(
            factors=np.ones((1, TERMS)), block_start=np.array([0, 1]), axis_use=np.ones((1, 1), dtype=np.int64),
            axis_size=np.ones(1, dtype=np.int64), coefficient=np.ones(TERMS), floor=np.zeros(TERMS),
            kind=rng.integers(0, 8, TERMS), operand=rng.integers(0, 3, TERMS), capacity=rng.integers(0, 2, TERMS),
            capacity_size=rng.integers(3, 30, 2).astype(np.float64), capacity_doubles=rng.random((2, 3)) < 0.6,
            may_double=rng.random(3) < 0.8, grid_constant=1.0, channel_constant=-1.0, final_constant=0.0,
            paced_constant=float(rng.choice([-np.inf, 3.0])), energy_constant=2.0,
            leakage=float(rng.integers(0, 2)), single_constant=-np.ones(3), objective=objective,
            latency_limit=np.inf if rng.random() < 0.7 else 20.0, energy_limit=np.inf,
        )
        value, by_mask = rng.integers(0, 9, TERMS).astype(np.float64), np.empty(kernel.MASKS)
        best, best_mask = kernel.choice_cost(m, value, kernel.new_scratch(m), by_mask)
        expected = [plain_cost(m, value, mask) for mask in range(kernel.MASKS)]
        if objective == kernel.ENERGY_COST and m.leakage == 0 and np.isinf(m.latency_limit):
            expected[1:] = [np.inf] * (kernel.MASKS - 1)  # it does not depend on double buffering
        assert list(by_mask) == pytest.approx(expected, rel=1e-12)
        assert best == min(by_mask) and (np.isinf(best) or by_mask[best_mask] == best)
        finite += int(np.isfinite(by_mask).sum())
    assert finite > 150  # both what fits and what does not


def test_a_factor_table_gives_any_selection_of_columns() -> None:
    table, columns = FactorTable(), [np.arange(4) + 10 * number for number in range(3)]
    first = table.columns([columns[1], None], 4)
    assert first.flags.c_contiguous and first.dtype == np.float64
    assert first.tolist() == [[10, 1], [11, 1], [12, 1], [13, 1]]
    again = table.columns([None, columns[2], columns[1], columns[2]], 4)
    assert again.tolist() == [[1, 20 + row, 10 + row, 20 + row] for row in range(4)]
    first[:] = 0  # what was handed out is the caller's
    assert table.columns([columns[1]], 4).ravel().tolist() == [10, 11, 12, 13]
