"""What a mapping costs within a variant: sums of products with one factor a block, for the search.

``cost_terms`` lays them out; descents and both provers read them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from mapper.candidates import Block
from mapper.variants import Variant
from simulator.layer import Operand

Ints = npt.NDArray[np.int64]


def _rows_of(factor: Ints, kept: npt.NDArray[np.bool_] | Ints) -> Ints:
    return factor[kept]


@dataclass(frozen=True)
class Term:
    """``coefficient · ∏ factors``; ``factors`` holds one array (rows of the block,) for each block, or None for 1."""

    name: str
    coefficient: float
    factors: tuple[npt.NDArray[np.int64] | None, ...]
    floor: float = 0.0

    @property
    def smallest(self) -> float:
        """Lower bound over all choices: ``floor``, where more is known than each factor shows on its own."""
        value = self.coefficient
        for factor in self.factors:
            value *= 1.0 if factor is None else float(factor.min())
        return max(value, self.floor)

    def at(self, rows: Sequence[int]) -> float:
        """Value for one row of each block."""
        value = self.coefficient
        for factor, row in zip(self.factors, rows, strict=True):
            if factor is not None:
                value *= float(factor[row])
        return value


@dataclass(frozen=True)
class Exposed:
    """Cycles in which the grid waits for one operand's tiles.

    Double-buffered, only the first load (or the last write-back) shows: ``doubled``. Else all of them do:
    ``single + single_constant``.
    """

    operand: Operand
    doubled: Term
    single: Term
    single_constant: float


@dataclass(frozen=True)
class Capacity:
    """``Σ bits of the tiles ≤ size_bits``. ``level``: of the memory, the registers below all buffers.

    ``doubled``: operands whose tile may be kept twice. ``ahead``: those for which that changes no closed-form cost,
    because they lie in other buffers too.
    """

    memory: str
    size_bits: int
    tiles: dict[Operand, Term]
    doubled: frozenset[Operand]
    level: int
    ahead: frozenset[Operand] = frozenset()


@dataclass(frozen=True)
class CostModel:
    """All terms of one variant. Costs are sums of terms plus a constant.

    ``grid``, ``paced`` and ``channel`` are in cycles, ``energy`` in pJ. ``paced`` is the grid's sum where folds take as
    long as they load or drain; empty where none does. The exposed waits come on top of both. What leaks comes on top
    of ``energy``: ``leakage_pj_per_cycle`` times the latency. ``always_doubled``: operands that every mapping
    double-buffers (``constrained_space``); the terms count their tiles twice already. ``always_ahead``: the same at
    single levels, of operands that lie in several buffers. ``kernel_inputs``: what ``kernel_input`` has laid out of
    this model so far.
    """

    variant: Variant
    blocks: tuple[Block, ...]
    grid: tuple[Term, ...]
    grid_constant: float
    paced: tuple[Term, ...]
    paced_constant: float
    exposed: tuple[Exposed, ...]
    channel: tuple[Term, ...]
    channel_constant: float
    final: tuple[Term, ...]
    final_constant: float
    energy: tuple[Term, ...]
    energy_constant: float
    leakage_pj_per_cycle: float
    capacities: tuple[Capacity, ...]
    axis_sizes: tuple[int, ...]
    always_doubled: tuple[Operand, ...] = ()
    always_ahead: tuple[tuple[int, Operand], ...] = ()
    kernel_inputs: dict[object, object] = field(default_factory=dict, init=False, repr=False, compare=False)

    def take(self, rows: Sequence[npt.NDArray[np.bool_] | npt.NDArray[np.int64]]) -> CostModel:
        """The model of some rows of each block: a mask of them, or their numbers."""
        blocks = tuple(block.take(kept) for block, kept in zip(self.blocks, rows, strict=True))
        return self.of_blocks(blocks, [partial(_rows_of, kept=kept) for kept in rows])

    def of_blocks(self, blocks: tuple[Block, ...], factor_of: Sequence[Callable[[Ints], Ints]]) -> CostModel:
        """The model of other rows of its blocks: ``factor_of``, for each block, has theirs of a term's factors."""

        def term(whole: Term) -> Term:
            factors = (None if f is None else own(f) for f, own in zip(whole.factors, factor_of, strict=True))
            return replace(whole, factors=tuple(factors))

        def terms(whole: tuple[Term, ...]) -> tuple[Term, ...]:
            return tuple(term(each) for each in whole)

        return replace(
            self,
            blocks=blocks,
            grid=terms(self.grid), paced=terms(self.paced), channel=terms(self.channel), final=terms(self.final),
            energy=terms(self.energy),
            exposed=tuple(replace(each, doubled=term(each.doubled), single=term(each.single)) for each in self.exposed),
            capacities=tuple(
                replace(each, tiles={operand: term(tile) for operand, tile in each.tiles.items()})
                for each in self.capacities
            ),
        )
