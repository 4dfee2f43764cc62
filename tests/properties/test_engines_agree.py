"""Three engines, one semantics: ``fast`` equals ``reference`` to the cycle, ``bound`` stays below."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.engine import simulate
from simulator.reference import simulate_reference
from simulator.result import LayerResult
from tests.properties.strategies import DATAFLOWS, Case, Dataflow, cases, share_of_examples


def fast(case: Case) -> LayerResult:
    return simulate(case.layer, case.precision, case.accelerator, case.mapping, engine="fast")


def bound(case: Case) -> LayerResult:
    return simulate(case.layer, case.precision, case.accelerator, case.mapping, engine="bound")


def moved(result: LayerResult) -> dict[tuple[str, str], tuple[int, int]]:
    """Traffic by memory and operand; rows of nothing say nothing."""
    rows = {(row.memory, row.operand): (row.read_bits, row.write_bits) for row in result.traffic}
    assert len(rows) == len(result.traffic)
    return {key: bits for key, bits in rows.items() if bits != (0, 0)}


def assert_same_counts(one: LayerResult, other: LayerResult) -> None:
    """Everything that does not depend on time is equal, and leakage is as the time is."""
    assert moved(one) == moved(other)
    assert one.energy_pj.keys() == other.energy_pj.keys()
    for component, energy in one.energy_pj.items():
        theirs = other.energy_pj[component]
        if component == "leakage":
            energy, theirs = energy * other.total_cycles, theirs * one.total_cycles
        assert energy == pytest.approx(theirs, rel=1e-9), component
    assert one.active_pe_cycles == other.active_pe_cycles
    assert one.compute_cycles == other.compute_cycles
    assert one.macs == other.macs


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_fast_equals_reference(dataflow: Dataflow) -> None:
    @share_of_examples
    @given(cases(dataflow))
    def check(case: Case) -> None:
        quick = fast(case)
        slow, _ = simulate_reference(
            case.layer, case.precision, case.accelerator, case.mapping, *case.operands(), case.scales()
        )
        assert_same_counts(quick, slow)
        assert quick.tile_count == slow.tile_count
        assert quick.total_cycles == slow.total_cycles
        assert quick.fill_drain_cycles == slow.fill_drain_cycles
        assert quick.stall_cycles == slow.stall_cycles
        assert quick.stalls == slow.stalls
        assert quick.dram_row_cycles == slow.dram_row_cycles
        assert quick.dram_busy_cycles == slow.dram_busy_cycles
        assert quick.pe_utilization == pytest.approx(slow.pe_utilization, rel=1e-9)

    check()


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_bound_is_below_fast_and_counts_alike(dataflow: Dataflow) -> None:
    @share_of_examples
    @given(cases(dataflow, max_macs=4000))
    def check(case: Case) -> None:
        below, quick = bound(case), fast(case)
        assert_same_counts(below, quick)
        assert below.total_cycles <= quick.total_cycles
        assert below.tile_count == quick.tile_count

    check()


@given(cases(max_macs=4000), st.integers(1, 4))
def test_more_bandwidth_never_costs_cycles(case: Case, factor: int) -> None:
    dram = case.accelerator.dram
    wide = dram.model_copy(update={"bandwidth_bits_per_cycle": dram.bandwidth_bits_per_cycle * factor})
    memories = (wide, *case.accelerator.memories[1:])
    faster = Case(
        case.layer, case.precision, case.accelerator.model_copy(update={"memories": memories}), case.mapping
    )
    assert fast(faster).total_cycles <= fast(case).total_cycles
