"""How long each pass takes where the time of a step depends on values: from codes and a plan to arrays by event."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.formats import Format
from simulator.kernels import input_counts, nested_starts, pass_times, weight_counts
from simulator.kernels import value_steps as kernel
from simulator.kernels.transfers import WalkInput
from simulator.plan import Counts, Plan
from simulator.processing_elements import BitSparseElement
from simulator.values import LayerValues

_NO_TABLE = np.zeros((0, 1), dtype=np.uint8)


@dataclass(frozen=True, eq=False)
class PassTimes:
    """What each pass takes, in cycles: int64 arrays by event.

    Attributes:
        compute: cycles in which the grid takes steps.
        occupied: cycles that the pass holds the grid.
        early: how many of these the results need not wait for.
        active_pe_cycles: Σ over PEs of the cycles in which they work on at least one product, of the whole layer.
    """

    compute: Counts
    occupied: Counts
    early: Counts
    active_pe_cycles: int


def time_passes(plan: Plan, walk: WalkInput, values: LayerValues) -> PassTimes:
    """Time every pass of a layer. Every step is looked at; nothing is sampled.

    ``walk``: the plan laid out for the walk, whose events these are. ``values`` must fit the layer.
    """
    element = plan.accelerator.processing_element
    assert isinstance(element, BitSparseElement)
    chunks = _chunks(plan)
    products = int(np.prod(plan.lane_unroll))
    groups = -(-products // element.lanes_in_group)
    one_place = len(element.skipped_operands) == 1
    weight_table = input_table = _NO_TABLE
    if "weight" in element.skipped_operands:
        how = _counting(element, plan.precision.weight)
        weight_table = weight_counts(how, values.weights, chunks, groups, one_place)
    if "input" in element.skipped_operands:
        how = _counting(element, plan.precision.input)
        layer = plan.layer
        geometry = np.array([layer.stride, layer.dilation, layer.padding_begin], dtype=np.int64).T.copy()
        input_table = input_counts(how, values.inputs, geometry, chunks, groups, one_place)
    steps = kernel.Steps(
        weight_counts=weight_table,
        input_counts=input_table,
        factor=element.static_factor(plan.precision),
        overlapped=element.overlapped_cycles,
        least=element.min_step_cycles,
    )
    compute, occupied, early, active = pass_times(walk, chunks, steps)
    return PassTimes(compute, occupied, early, int(active))


def _chunks(plan: Plan) -> kernel.Chunks:
    starts: list[npt.NDArray[np.int64]] = [
        nested_starts(int(extent), np.array([*tiles, unroll], dtype=np.int64))
        for extent, tiles, unroll in zip(plan.extent, plan.tile[1:].T, plan.unroll, strict=True)
    ]
    first = np.zeros((len(starts), max(map(len, starts))), dtype=np.int64)
    for row, own in zip(first, starts, strict=True):
        row[: len(own)] = own
    return kernel.Chunks(
        first=first,
        count=np.array([len(own) - 1 for own in starts], dtype=np.int64),
        lanes=plan.lane_unroll,
        spread=plan.unroll // plan.lane_unroll,
    )


def _counting(element: BitSparseElement, number_format: Format) -> kernel.Counting:
    modes = {
        "zero_bits": kernel.ZERO_BITS if element.first_stage_bits is None else kernel.SHIFTED,
        "zero_columns": kernel.ZERO_COLUMNS,
        "leading_bits": kernel.LEADING_BITS,
    }
    return kernel.Counting(
        mode=modes[element.skipping],
        magnitude=element.encoding == "sign_magnitude",
        signed=number_format.is_signed,
        bits=number_format.bits,
        sign_cycles=element.sign_cycles,
        group=element.lanes_in_group,
        reach=1 << (element.first_stage_bits or 0),
    )
