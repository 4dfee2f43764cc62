"""Layers split by channel: the engines agree, values are exact, and the ends of the split are layers that are whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given

from simulator.accelerator import LANES
from simulator.engine import simulate
from simulator.functional import compute_layer
from simulator.layer import Dim, Layer
from simulator.mapping import Mapping
from simulator.plan import Plan
from simulator.precision import LayerPrecision
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
