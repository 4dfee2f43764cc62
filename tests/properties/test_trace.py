"""What is drawn of a layer is what happens in it.

The timeline's sums are those of the result, and in every cycle it says what the reference engine does; the closed form
of how often each PE works counts the steps of the reference's program.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.activity import active_steps, step_count
from simulator.fast import simulate_fast
from simulator.plan import Plan
from simulator.reference.engine import _Machine
from simulator.reference.program import Program
from simulator.result import STALL_CAUSES
from simulator.trace import WAIT, Slice, count_slices, trace_layer
from tests.properties.strategies import DATAFLOWS, Case, Dataflow, cases, share_of_examples

ALL = 10**9
fewer = settings(max_examples=max(1, settings().max_examples // 3))


def plan_of(case: Case) -> Plan:
    return Plan(case.layer, case.precision, case.accelerator, case.mapping)


def slices_of(case: Case) -> list[Slice]:
    trace = trace_layer(plan_of(case), ALL)
    assert trace.left_out == 0
    return list(trace.slices())


@fewer
@given(cases(max_macs=4000))
def test_sums_are_those_of_the_result(case: Case) -> None:
    result, slices = simulate_fast(plan_of(case)), slices_of(case)
    cycles: Counter[str] = Counter()
    bits: Counter[str] = Counter()
    for piece in slices:
        assert piece.cycles > 0 and piece.start >= 0 and 0 <= piece.tile < result.tile_count
        cycles[piece.name if piece.track == "grid" else piece.track] += piece.cycles
        if piece.track == "dram":
            bits[piece.name] += piece.bits
    assert cycles["compute"] == result.compute_cycles
    assert cycles["fill and drain"] == result.fill_drain_cycles
    for cause in STALL_CAUSES:
        assert cycles[f"wait: {cause.replace('_', ' ')}"] == result.stall_cycles[cause], cause
    assert cycles["dram"] == result.dram_busy_cycles
    for operand, read, written in (
        ("weight", ["load weight"], []), ("input", ["load input"], []), ("parameters", ["load parameters"], []),
        ("output", ["load partial sums"], ["write output", "write partial sums"]),
    ):
        moved = (sum(bits[name] for name in read), sum(bits[name] for name in written))
        assert moved == result.moved_bits(case.accelerator.dram.name, operand)  # type: ignore[arg-type]


@fewer
@given(cases(max_macs=4000))
def test_the_grid_has_no_gaps_and_the_channel_no_overlaps(case: Case) -> None:
    plan = plan_of(case)
    now = free = 0
    trace = trace_layer(plan, ALL)
    for piece in trace.slices():
        if piece.track == "grid":
            assert piece.start == now
            assert (piece.memory != "") == piece.name.startswith(WAIT), "only waits name one"
            now += piece.cycles
        elif piece.track == "dram":
            assert piece.start >= free
            free = piece.start + piece.cycles
    assert now == trace.total_cycles == simulate_fast(plan).total_cycles >= free


class Watched(_Machine):
    """The reference engine, noting for every cycle what the grid does, what moves, and how much is held."""

    def _count_cycle(self) -> None:
        before = (self.spent.compute, self.spent.fill_drain)
        held: Counter[tuple[str, str]] = Counter()
        for place, slots in self.memories._slots.items():
            for slot in slots.values():
                bits = self.memories._held_bits(place, slot.run.elements)
                held[place.memory.name, place.operand] += bits
        moving: Counter[tuple[str, str, int]] = Counter()
        for transfer in self._transfers:
            request = transfer.request
            outer = self.accelerator.dram.name if request.run is None else self._outer_memory(request.run)
            operand = request.run.operand if request.run else "parameters"
            moving[outer, operand, self.memories.request_bits(request)] += 1
        super()._count_cycle()
        spent = self.spent
        doing = "compute" if spent.compute > before[0] else "fill and drain" if spent.fill_drain > before[1] else "wait"
        self.cycles = [*getattr(self, "cycles", ()), (doing, moving, held)]


SPLIT: tuple[Dataflow, ...] = ("multicast", "streaming", "output")
"""Of layers split by channel, where folds never differ within a pass."""


@pytest.mark.parametrize(
    ("dataflow", "split"), [*((flow, False) for flow in DATAFLOWS), *((flow, True) for flow in SPLIT)]
)
def test_every_cycle_is_that_of_the_reference(dataflow: Dataflow, split: bool) -> None:
    @share_of_examples
    @given(cases(dataflow, max_macs=200, split=split))
    def check(case: Case) -> None:
        machine = Watched(case.layer, case.precision, case.accelerator, case.mapping, *case.operands(), case.scales())
        machine.run()
        doing: dict[int, str] = {}
        moving: dict[int, Counter[tuple[str, str, int]]] = defaultdict(Counter)
        held: dict[int, Counter[tuple[str, str]]] = defaultdict(Counter)
        owner = {"load partial sums": "output", "write partial sums": "output", "write output": "output"}
        for piece in slices_of(case):
            for cycle in range(piece.start, piece.start + piece.cycles):
                if piece.track == "grid":
                    doing[cycle] = piece.name.partition(":")[0]
                elif piece.track in ("dram", "buffer"):
                    operand = owner.get(piece.name, piece.name.removeprefix("load "))
                    moving[cycle][piece.memory, operand, piece.bits] += 1
                else:
                    held[cycle][piece.memory, piece.name] += piece.bits
        for cycle, (act, moved, bits) in enumerate(machine.cycles):
            assert doing[cycle] == act, cycle
            assert moving[cycle] == moved, cycle
            assert +held[cycle] == +bits, cycle

    check()


@fewer
@given(cases(), st.integers(0, 40))
def test_what_is_left_out_is_counted(case: Case, most: int) -> None:
    plan, everything = plan_of(case), slices_of(case)
    trace = trace_layer(plan, most)
    assert list(trace.slices()) == everything[:most]
    assert trace.left_out == max(0, len(everything) - most) and count_slices(plan) == len(everything)
    assert trace.total_cycles == simulate_fast(plan).total_cycles


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_each_pe_works_as_often_as_in_the_program(dataflow: Dataflow) -> None:
    @share_of_examples
    @given(cases(dataflow))
    def check(case: Case) -> None:
        plan, program = plan_of(case), Program(case.layer, case.precision, case.accelerator, case.mapping)
        steps = [step for event in program.events for fold in program.folds(event) for step in fold.steps]
        expected = np.zeros([axis.size for axis in case.accelerator.grid.axes], dtype=np.int64)
        for step in steps:
            for position in step.work:
                expected[position] += 1
        assert np.array_equal(active_steps(plan), expected)
        assert step_count(plan) == len(steps)
        assert expected.sum() == plan.active_pe_steps

    check()
