"""The closed forms of all variants of a layer on a machine, and the rows that its precisions share.

``candidates`` says which rows there are, ``variants`` which loops hold what, and ``cost_terms`` what that costs; here
they are put together. Rows do not depend on widths, so they are kept for the next precision with the same lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mapper.candidates import BLOCKS, Block, RowProblem, build_blocks, row_problem
from mapper.cost_model import CostModel
from mapper.cost_terms import TermProblem, VariantRows, VariantTerms
from mapper.dimension_choices import ChoicesOf, dimension_choices
from mapper.variants import Variant, variants
from simulator.accelerator import Accelerator
from simulator.kernels import non_dominated
from simulator.layer import OPERANDS, Dim, Layer
from simulator.precision import LayerPrecision

KEPT_ROWS = 64  # problems whose rows are kept: a network's layers, for a grid in one or two numbers of lanes
Floats = npt.NDArray[np.float64]


def build_cost_models(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, choices_of: ChoicesOf = dimension_choices,
    wanted: Callable[[Variant], bool] = lambda variant: True, *, dominance: bool = True, single_trips: bool = False,
) -> list[CostModel]:
    """Lay out the cost of every mapping of a layer, one model a variant that is wanted and has any.

    ``dominance``: of the ways to cut a dimension, leave out those that others dominate; with ``single_trips`` and
    ``choices_of``, only those that do so with no more loops.
    """
    of_rows = row_problem(layer, precision, accelerator)
    if choices_of is dimension_choices:
        rows = _plain_rows(of_rows, dominance)
    else:
        blocks = build_blocks(of_rows, choices_of, dominance=dominance, single_trips=single_trips)
        rows = _Rows(blocks, _axis_sizes(of_rows))
    problem = TermProblem(layer, precision, accelerator)
    found = []
    for variant in filter(wanted, variants(accelerator, precision)):
        own = rows.of(variant)
        if own.fewest_steps:
            found.append(_build_cost_model(VariantTerms(own, problem, variant), rows.axis_sizes))
    return found


class _Rows:
    """Blocks, and those of them that a variant may choose from: most variants share these."""

    def __init__(self, blocks: tuple[Block, ...], axis_sizes: tuple[int, ...]) -> None:
        self.blocks, self.axis_sizes = blocks, axis_sizes
        self._known: dict[frozenset[tuple[int, Dim]], VariantRows] = {}

    def of(self, variant: Variant) -> VariantRows:
        """What a variant may choose from."""
        if variant.single_trip not in self._known:
            own = _without_loops(self.blocks, variant.single_trip)
            possible = all(block.size for block in own)
            self._known[variant.single_trip] = VariantRows(own, _fewest_steps(own, self.axis_sizes) if possible else 0)
        return self._known[variant.single_trip]


def _axis_sizes(problem: RowProblem) -> tuple[int, ...]:
    return tuple(size for size, _ in problem.axes)


@lru_cache(maxsize=KEPT_ROWS)
def _plain_rows(problem: RowProblem, dominance: bool) -> _Rows:
    """Rows without constraints: of the last problems, because precisions and objectives of a layer share them."""
    return _Rows(build_blocks(problem, dominance=dominance), _axis_sizes(problem))


def _fewest_steps(blocks: tuple[Block, ...], axis_sizes: tuple[int, ...]) -> int:
    """Fewest steps that any unrolling allows, or of split channels their fewest cycles: the axes are shared, which
    single blocks do not see.

    0 where none fits: loops that must make one trip may need more of an axis together than it has.
    """
    # Uses of the axes that some rows of the blocks so far have together, and behind them the fewest steps with each.
    fewest = np.ones((1, len(axis_sizes) + 1), dtype=np.int64)
    for block, dims in zip(blocks, BLOCKS, strict=True):
        steps = np.ones(block.size, dtype=np.int64)
        for dim in dims:
            steps = steps * block.columns.get(f"steps_cycles_{dim}", block.columns[f"steps_{dim}"])
        table = np.column_stack([block.axis_use, steps])
        options = table[non_dominated(table)]
        together = (fewest[:, None, :] * options[None, :, :]).reshape(-1, fewest.shape[1])
        together = together[(together[:, :-1] <= axis_sizes).all(axis=1)]
        fewest = together[non_dominated(together)]
    return int(fewest[:, -1].min(initial=np.iinfo(np.int64).max)) if len(fewest) else 0


def _build_cost_model(builder: VariantTerms, axis_sizes: tuple[int, ...]) -> CostModel:
    layer, precision, accelerator = builder.layer, builder.precision, builder.accelerator
    dram = builder.dram_terms()
    parameters = precision.parameter_bits(layer)
    grid, grid_constant = builder.grid_terms(dram, parameters)
    bandwidth, latency = accelerator.dram.bandwidth_bits_per_cycle, accelerator.dram.latency_cycles
    spilled = builder.counts["output"] * precision.stored_bits("output")
    finished = builder.counts["output"] * precision.output.bits
    channel = tuple(
        builder.scaled(dram[operand], (2 if operand == "output" else 1) / bandwidth, f"channel_{operand}")
        for operand in OPERANDS
    )
    paced, paced_constant = builder.paced_terms(grid_constant)
    final, final_constant = builder.final_terms(dram, parameters)
    energy, energy_constant = builder.energy_terms(dram)
    return CostModel(
        variant=builder.variant,
        blocks=builder.blocks,
        grid=grid,
        grid_constant=grid_constant,
        paced=paced,
        paced_constant=paced_constant,
        exposed=builder.exposed(dram),
        channel=channel,
        channel_constant=latency + (parameters + finished - 2 * spilled) / bandwidth,
        final=final,
        final_constant=final_constant,
        energy=energy,
        energy_constant=energy_constant,
        leakage_pj_per_cycle=accelerator.leakage_pj_per_cycle or 0.0,
        capacities=builder.capacities(),
        axis_sizes=axis_sizes,
    )


def _without_loops(blocks: tuple[Block, ...], loops: frozenset[tuple[int, Dim]]) -> tuple[Block, ...]:
    """Rows in which the loops over some dimensions inside the tiles of some levels make one trip."""
    if not loops:
        return blocks
    found = []
    for block in blocks:
        single = np.ones(block.size, dtype=np.bool_)
        for choice in block.choices:
            for level, dim in loops:
                if choice.dim == dim:
                    single &= choice.single_trip(level)
        found.append(block.take(single))
    return tuple(found)


def forget_rows() -> None:
    """Let the next search build its rows anew, for whoever measures it."""
    _plain_rows.cache_clear()
