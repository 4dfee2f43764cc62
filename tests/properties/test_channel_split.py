"""Layers split by channel: the engines agree, values are exact, and the ends of the split are layers that are whole."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.accelerator import LANES
from simulator.functional import compute_layer
from simulator.mapping import Mapping
from simulator.plan import Plan
from simulator.reference import simulate_reference
from simulator.result import LayerResult
from tests.properties.strategies import DATAFLOWS, Case, Dataflow, cases, share_of_examples
from tests.properties.test_engines_agree import assert_same_counts, bound, fast
from tests.properties.test_reference_values import numpy_outputs


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_fast_equals_reference(dataflow: Dataflow) -> None:
    @share_of_examples
    @given(cases(dataflow, split=True))
    def check(case: Case) -> None:
        quick = fast(case)
        slow, outputs = simulate_reference(
            case.layer, case.precision, case.accelerator, case.mapping, *case.operands()
        )
        assert_same_counts(quick, slow)
        for name in ("tile_count", "total_cycles", "fill_drain_cycles", "stall_cycles", "stalls", "dram_row_cycles",
                     "dram_busy_cycles"):
            assert getattr(quick, name) == getattr(slow, name), name
        assert quick.pe_utilization == pytest.approx(slow.pe_utilization, rel=1e-9)
        assert quick.mean_step_cycles == pytest.approx(slow.mean_step_cycles, rel=1e-9)
        np.testing.assert_array_equal(outputs, numpy_outputs(case.layer, *case.operands()))

    check()


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_bound_is_below_fast_and_counts_alike(dataflow: Dataflow) -> None:
    @share_of_examples
    @given(cases(dataflow, max_macs=4000, split=True))
    def check(case: Case) -> None:
        below, quick = bound(case), fast(case)
        assert_same_counts(below, quick)
        assert below.total_cycles <= quick.total_cycles
        assert below.mean_step_cycles == quick.mean_step_cycles

    check()


def assert_equal_results(one: LayerResult, other: LayerResult) -> None:
    """Equal in everything; energies to rounding."""
    without = {"energy_pj": {}, "pe_utilization": 0.0, "mean_step_cycles": None}
    assert one.model_copy(update=without) == other.model_copy(update=without)
    assert one.energy_pj == pytest.approx(other.energy_pj, rel=1e-12)
    assert one.pe_utilization == pytest.approx(other.pe_utilization, rel=1e-12)
    assert one.mean_step_cycles == pytest.approx(other.mean_step_cycles, rel=1e-12)


@given(cases(max_macs=4000, split=True, share=0.0))
def test_a_share_of_nothing_is_the_whole_layer(case: Case) -> None:
    whole = dataclasses.replace(case, precision=case.precision.wide)
    assert_equal_results(fast(case), fast(whole))
    assert_equal_results(bound(case), bound(whole))


def in_channels(case: Case) -> Mapping:
    """The mapping of a wholly narrow layer, counting channels along C in place of places."""
    plan = Plan(case.layer, case.precision, case.accelerator, case.mapping)
    together, whole = plan.channels.channels_per_place, case.layer.extent("C")
    spatial = {axis: dict(unrolled) for axis, unrolled in case.mapping.spatial.items()}
    if together > 1:
        lanes = spatial.setdefault(LANES, {})
        lanes["C"] = lanes.get("C", 1) * together
    levels = []
    for level in case.mapping.levels:
        tile = level.tile
        if level.level == "buffer":
            tile = {**tile, "C": min(whole, tile["C"] * together)}
        levels.append(level.model_copy(update={"tile": tile}))
    return case.mapping.model_copy(update={"spatial": spatial, "levels": tuple(levels)})


@given(cases(max_macs=4000, split=True, share=1.0))
def test_a_share_of_everything_is_the_whole_layer_in_the_narrow_formats(case: Case) -> None:
    whole = dataclasses.replace(case, precision=case.precision.narrow, mapping=in_channels(case))
    assert_equal_results(fast(case), fast(whole))
    assert_equal_results(bound(case), bound(whole))


@given(cases(max_macs=4000, kinds=("fixed", "bit_serial"), split=True, share=0.0), st.floats(0, 1), st.floats(0, 1))
def test_more_narrow_channels_never_cost_cycles(case: Case, one: float, other: float) -> None:
    """Where a place is a channel the mapping stays; rows of the DRAM are left out, as tensors move in them."""
    dram, *memories = case.accelerator.memories
    machine = case.accelerator.model_copy(update={"memories": (dram.model_copy(update={"rows": None}), *memories)})

    def cycles(share: float) -> int:
        split = case.precision.split.model_copy(update={"share": share})
        precision = case.precision.model_copy(update={"split": split})
        return fast(dataclasses.replace(case, accelerator=machine, precision=precision)).total_cycles

    assert cycles(max(one, other)) <= cycles(min(one, other))


@given(cases(max_macs=4000, split=True))
def test_the_functional_mode_adds_both_parts(case: Case) -> None:
    expected = numpy_outputs(case.layer, *case.operands())
    for bit_level in (False, True):
        outputs = compute_layer(
            case.layer, case.precision, case.accelerator, case.mapping, *case.operands(), bit_level=bit_level
        )
        np.testing.assert_array_equal(outputs, expected)


@given(cases(max_macs=4000, split=True))
def test_products_take_at_least_their_time_at_full_rate(case: Case) -> None:
    element, plan = case.accelerator.processing_element, Plan(
        case.layer, case.precision, case.accelerator, case.mapping
    )
    needed = sum(count * element.cycles_per_step(part) / element.lanes(part) for part, count in plan.products())
    assert plan.compute_cycles >= math.floor(needed / case.accelerator.grid.pe_count)
    assert fast(case).pe_utilization <= 1.0 + 1e-9
