"""A good start: coordinate descent on the model's cost, before anything is proven."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mapper.cost_model import CostModel, Term
from mapper.interruptible import heard
from mapper.solution import NO_LIMITS, OBJECTIVES, Limits, Objective
from simulator.kernels import choice_cost as kernel
from simulator.kernels import random_descents
from simulator.layer import OPERANDS, Operand

ROUNDING = 1e-9  # relative; closed-form costs are right to about 1e-12


@dataclass(frozen=True)
class Candidate:
    """One choice in a variant: a row of each block, the operands double-buffered, and the model's cost."""

    rows: tuple[int, ...]
    double_buffer: tuple[Operand, ...]
    cost: float


def double_buffer_bits(operands: tuple[Operand, ...]) -> int:
    """A set of double-buffered operands as the kernels have it: one bit an operand."""
    return sum(1 << OPERANDS.index(operand) for operand in operands)


def double_buffered(bits: int) -> tuple[Operand, ...]:
    """The operands of ``double_buffer_bits``."""
    return tuple(operand for i, operand in enumerate(OPERANDS) if (bits >> i) & 1)


def may_double(model: CostModel) -> tuple[bool, ...]:
    """Whether each operand may be double-buffered at all."""
    allowed = {operand for capacity in model.capacities for operand in capacity.doubled}
    return tuple(operand in allowed for operand in OPERANDS)


def kernel_input(
    model: CostModel, objective: Objective, event_price_cycles: float = 0.0, limits: Limits = NO_LIMITS
) -> kernel.CostInput:
    """Lay a cost model out for the kernel. Choices whose closed-form cost is beyond ``limits`` cost infinitely much."""
    key = objective, event_price_cycles, limits
    found = model.kernel_inputs.get(key)
    if found is None:
        found = model.kernel_inputs[key] = _laid_out(model, objective, event_price_cycles, limits)
    assert isinstance(found, kernel.CostInput)
    return found


def _laid_out(
    model: CostModel, objective: Objective, event_price_cycles: float, limits: Limits
) -> kernel.CostInput:
    terms: list[tuple[Term, int, int, int]] = []
    terms += [(term, kernel.GRID, 0, 0) for term in model.grid]
    terms += [(term, kernel.PACED, 0, 0) for term in model.paced]
    if event_price_cycles > 0:
        trips = tuple(
            block.product(tuple(f"trips{model.variant.levels}_{choice.dim}" for choice in block.choices))
            for block in model.blocks
        )
        price = Term("events", event_price_cycles, trips)
        terms += [(price, kind, 0, 0) for kind in (kernel.GRID, kernel.PACED, kernel.CHANNEL)]
    terms += [(term, kernel.CHANNEL, 0, 0) for term in model.channel]
    terms += [(term, kernel.FINAL, 0, 0) for term in model.final]
    terms += [(term, kernel.ENERGY, 0, 0) for term in model.energy]
    single_constant = np.zeros(3)
    for exposed in model.exposed:
        which = OPERANDS.index(exposed.operand)
        terms += [(exposed.doubled, kernel.DOUBLED, which, 0), (exposed.single, kernel.SINGLE, which, 0)]
        single_constant[which] = exposed.single_constant
    for place, capacity in enumerate(model.capacities):
        terms += [(term, kernel.TILE, OPERANDS.index(o), place) for o, term in capacity.tiles.items()]
    columns = zip(*(term.factors for term, *_ in terms), strict=True)
    return kernel.CostInput(
        factors=np.concatenate([block.table(own) for block, own in zip(model.blocks, columns, strict=True)]),
        block_start=np.cumsum([0, *(block.size for block in model.blocks)]),
        axis_use=np.concatenate([block.axis_use for block in model.blocks]),
        axis_size=np.array(model.axis_sizes, dtype=np.int64),
        coefficient=np.array([term.coefficient for term, *_ in terms], dtype=np.float64),
        floor=np.array([term.floor for term, *_ in terms], dtype=np.float64),
        kind=np.array([kind for _, kind, _, _ in terms], dtype=np.int64),
        operand=np.array([operand for _, _, operand, _ in terms], dtype=np.int64),
        capacity=np.array([place for *_, place in terms], dtype=np.int64),
        capacity_size=np.array([capacity.size_bits for capacity in model.capacities], dtype=np.float64),
        capacity_doubles=np.array([[o in capacity.doubled for o in OPERANDS] for capacity in model.capacities]),
        may_double=np.array(may_double(model)),
        grid_constant=float(model.grid_constant),
        channel_constant=float(model.channel_constant),
        final_constant=float(model.final_constant),
        energy_constant=float(model.energy_constant),
        paced_constant=float(model.paced_constant) if model.paced else -np.inf,
        leakage=float(model.leakage_pj_per_cycle),
        single_constant=single_constant,
        objective=OBJECTIVES.index(objective),
        latency_limit=limits.latency_cycles * (1 + ROUNDING),
        energy_limit=limits.energy_pj * (1 + ROUNDING),
    )


def pass_count(model: CostModel, candidate: Candidate) -> int:
    """Passes of the tile loop under a candidate, but for those that a bypassing operand adds."""
    return math.prod(
        int(block.columns[f"trips{model.variant.levels}_{choice.dim}"][row])
        for block, row in zip(model.blocks, candidate.rows, strict=True)
        for choice in block.choices
    )


def smallest_rows(model: CostModel) -> np.ndarray:
    """Row of each block with the smallest tiles: it fits if anything does."""
    return np.array([block.smallest for block in model.blocks], dtype=np.int64)


def descend(
    model: CostModel, objective: Objective, *, starts: int = 40, seed: int = 1, event_price_cycles: float = 0.0,
    limits: Limits = NO_LIMITS,
) -> list[Candidate]:
    """Ends of several descents, cheapest first, each once. Empty if nothing fits.

    ``event_price_cycles`` is added for each pass of the tile loop; costs then include it.
    """
    data = kernel_input(model, objective, event_price_cycles, limits)
    return _ends(data, smallest_rows(model), starts, seed)


def descend_from(
    model: CostModel, objective: Objective, first: np.ndarray, limits: Limits = NO_LIMITS
) -> list[Candidate]:
    """The end of a descent from a given row of each block; empty where it meets nothing that fits."""
    return _ends(kernel_input(model, objective, limits=limits), first, 0, 1)


def _ends(data: kernel.CostInput, first: np.ndarray, starts: int, seed: int) -> list[Candidate]:
    """Where descents lead from a choice, and from ``starts`` random ones near it: each end once, cheapest first."""
    rows, costs, masks = heard(random_descents, data, data.block_start[:-1] + first, starts, seed)
    found: dict[tuple[int, ...], Candidate] = {}
    for row, cost, mask in zip(rows, costs, masks, strict=True):
        if not np.isfinite(cost):
            continue
        local = tuple(int(r) for r in row - data.block_start[:-1])
        found.setdefault(local, Candidate(local, double_buffered(int(mask)), float(cost)))
    return sorted(found.values(), key=lambda candidate: candidate.cost)
