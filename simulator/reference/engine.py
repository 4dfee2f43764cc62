"""The clock of the reference engine: one cycle after the other, until the last bit is written back."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from simulator.accelerator import Accelerator, MulticastPassing
from simulator.layer import OPERANDS, Layer, Operand
from simulator.mapping import Mapping
from simulator.precision import LayerPrecision
from simulator.reference.grid import Grid
from simulator.reference.memories import IntArray, Memories
from simulator.reference.multicast import MulticastGrid
from simulator.reference.program import Event, Program, Request, Run
from simulator.reference.systolic import SystolicGrid
from simulator.result import STALL_CAUSES, LayerResult, StallCause
from simulator.scales import GroupScales, check_scales


def simulate_reference(
    layer: Layer,
    precision: LayerPrecision,
    accelerator: Accelerator,
    mapping: Mapping,
    weights: IntArray,
    inputs: IntArray,
    scales: GroupScales | None = None,
) -> tuple[LayerResult, IntArray]:
    """Step one layer through the machine.

    Args:
        weights: codes, shape (G, K, C, R, S): whole numbers of an integer format, bit patterns of a floating one.
        inputs: codes, shape (G, N, C, H, W) with ``layer.stored_input_size`` = (H, W).
        scales: of the groups of weights, where the precision expands weights; else None.

    Returns:
        The result, and the outputs as DRAM holds them at the end, of shape (G, N, K, P, Q): exact sums of integers,
        or bit patterns of the ``output`` format in floating point (docs/simulator.md, "Values").

    The mapping must be valid; where it is not, an assertion fails. Raises ``PrecisionError`` where the processing
    element cannot run the precision, or the scales do not fit it.
    """
    accelerator.processing_element.check(precision)
    check_scales(layer, precision, scales)
    machine = _Machine(layer, precision, accelerator, mapping, weights, inputs, scales)
    machine.run()
    outputs = np.zeros([layer.extent(dim) for dim in ("G", "N", "K", "P", "Q")], dtype=np.int64)
    assert len(machine.memories.finished) == outputs.size
    for element, value in machine.memories.finished.items():
        outputs[element] = value
    return machine.result(), outputs


@dataclass
class _Flight:
    """A load whose transfer has ended and that its latency still holds back."""

    request: Request
    cycles_left: int


class _Machine:
    """DRAM channel, grid and memories under one clock. ``now`` counts the cycles that have passed."""

    def __init__(
        self,
        layer: Layer,
        precision: LayerPrecision,
        accelerator: Accelerator,
        mapping: Mapping,
        weights: IntArray,
        inputs: IntArray,
        scales: GroupScales | None,
    ) -> None:
        self.layer, self.precision, self.accelerator = layer, precision, accelerator
        self.program = Program(layer, accelerator, mapping)
        self.memories = Memories(self.program, precision, accelerator, weights, inputs, scales)
        self.grid = self._new_grid()
        self.now = 0
        # When things happened; an entry that is missing has not happened yet.
        self._parameters_at: int | None = None
        self._loaded_at: dict[tuple[Operand, int], int] = {}
        self._written_at: dict[int, int] = {}
        self._ended_at: dict[int, int] = {}
        # The DRAM channel.
        self._queue = deque(request for request in self.program.requests() if not self._moves_nothing(request))
        self._transfer: Request | None = None
        self._bits_left = 0
        self._flights: list[_Flight] = []
        # The grid.
        self._next_event = 0
        self._running: int | None = None
        self._waited = 0
        # What the cycles were spent on.
        self.compute = self.fill_drain = self.dram_busy = 0
        self.stalls: dict[StallCause, int] = dict.fromkeys(STALL_CAUSES, 0)

    def _new_grid(self) -> Grid:
        description, element = self.accelerator.grid, self.accelerator.processing_element
        if isinstance(description.passing, MulticastPassing):
            return MulticastGrid(element, self.memories)
        return SystolicGrid(element, self.memories, description)

    def _moves_nothing(self, request: Request) -> bool:
        """Note requests of no bits as fulfilled: they never enter the queue."""
        if self.memories.request_bits(request) > 0:
            return False
        if request.run is None:
            self._parameters_at = 0
        else:
            # A tile of nothing but padding: there is nothing to wait for.
            assert request.kind == "load"
            self._loaded_at[request.run.operand, request.run.number] = 0
        return True

    def run(self) -> None:
        """Pass cycles until every event is through and everything is written."""
        while True:
            self._settle()
            if self._is_done():
                return
            self._count_cycle()
            self._channel_cycle()
            self.now += 1
            self._note_end_of_cycle()

    def _is_done(self) -> bool:
        through = len(self._ended_at) == len(self.program.events)
        return through and len(self._written_at) == len(self.program.runs["output"])

    # ------------------------------------------------------------------ what may start now

    def _settle(self) -> None:
        """Start everything whose conditions hold at this border of two cycles."""
        while self._start_request() or self._start_event():
            pass

    def _start_request(self) -> bool:
        if self._transfer is not None or not self._queue or not self._may_start(self._queue[0]):
            return False
        request = self._queue.popleft()
        if request.run is not None and request.kind != "write_back":
            self.memories.allocate(request.run)
        self._transfer = request
        bits, burst = self.memories.request_bits(request), self.accelerator.dram.burst_bits
        self._bits_left = -(-bits // burst) * burst
        return True

    def _may_start(self, request: Request) -> bool:
        run = request.run
        if run is None:
            return True
        if request.kind == "load":
            before = self._run_before(run)
            return before is None or before.last_event in self._ended_at
        if request.kind == "partial_sums":
            return self._slot_free_at(run) is not None
        return run.last_event in self.grid.completed

    def _run_before(self, run: Run) -> Run | None:
        """Run that has to give up its room before this one may come: the last, or the last but one."""
        number = run.number - self.program.copies(run.operand)
        return self.program.runs[run.operand][number] if number >= 0 else None

    def _slot_free_at(self, run: Run) -> int | None:
        """When room for an output run came free; None while it has not."""
        before = self._run_before(run)
        return 0 if before is None else self._written_at.get(before.number)

    def _start_event(self) -> bool:
        if self.grid.occupied or self._next_event == len(self.program.events):
            return False
        event = self.program.events[self._next_event]
        arrivals = self._arrivals(event)
        known = [time for time in arrivals.values() if time is not None]
        if len(known) < len(arrivals):
            return False
        if self._waited:
            # The causes stand in the order in which they count; max takes the first of equals.
            cause = max(arrivals, key=lambda name: arrivals[name] or 0)
            self.stalls[cause] += self._waited
            self._waited = 0
        run = self.program.run("output", event.index)
        if run.fresh and run.first_event == event.index:
            self.memories.allocate(run)
        for operand in OPERANDS:
            run = self.program.run(operand, event.index)
            if operand != "output" and not run.elements and run.first_event == event.index:
                self.memories.allocate(run)
        self.grid.start(event)
        self._running = event.index
        self._next_event += 1
        return True

    def _arrivals(self, event: Event) -> dict[StallCause, int | None]:
        """What an event waits for, and when each came; None for what has not."""
        run = {operand: self.program.run(operand, event.index) for operand in OPERANDS}
        arrivals: dict[StallCause, int | None] = {
            "parameters": self._parameters_at,
            "weight": self._loaded_at.get(("weight", run["weight"].number)),
            "input": self._loaded_at.get(("input", run["input"].number)),
        }
        if run["output"].first_event == event.index:
            if run["output"].fresh:
                arrivals["output_slot"] = self._slot_free_at(run["output"])
            else:
                arrivals["partial_sum"] = self._loaded_at.get(("output", run["output"].number))
        return arrivals

    # ------------------------------------------------------------------ one cycle

    def _count_cycle(self) -> None:
        """Let the grid pass a cycle, and count what the cycle was spent on."""
        last_completed = len(self.program.events) - 1 in self.grid.completed
        activity = self.grid.cycle()
        if activity == "compute":
            self.compute += 1
        elif activity == "fill_drain":
            self.fill_drain += 1
        elif self._next_event < len(self.program.events):
            self._waited += 1
        elif not last_completed:
            self.fill_drain += 1
        else:
            self.stalls["write_back"] += 1

    def _channel_cycle(self) -> None:
        for flight in self._flights:
            flight.cycles_left -= 1
        if self._transfer is None:
            return
        self.dram_busy += 1
        self._bits_left -= self.accelerator.dram.bandwidth_bits_per_cycle
        if self._bits_left <= 0:
            self._flights.append(_Flight(self._transfer, self._latency(self._transfer)))
            self._transfer = None

    def _latency(self, request: Request) -> int:
        return 0 if request.kind == "write_back" else self.accelerator.dram.latency_cycles

    def _note_end_of_cycle(self) -> None:
        for flight in [flight for flight in self._flights if flight.cycles_left == 0]:
            self._flights.remove(flight)
            self._complete(flight.request)
        if self._running is not None and not self.grid.occupied:
            self._ended_at[self._running] = self.now
            operands: tuple[Operand, ...] = ("weight", "input")
            for operand in operands:
                run = self.program.run(operand, self._running)
                if run.last_event == self._running:
                    self.memories.release(run)
            self._running = None

    def _complete(self, request: Request) -> None:
        if request.kind == "write_back":
            assert request.run is not None
            self.memories.write_back(request)
            self._written_at[request.run.number] = self.now
            return
        self.memories.load(request)
        if request.run is None:
            self._parameters_at = self.now
        else:
            self._loaded_at[request.run.operand, request.run.number] = self.now

    # ------------------------------------------------------------------ result

    def result(self) -> LayerResult:
        """Put together what was counted."""
        traffic = self.memories.traffic()
        energy = {memory.name: 0.0 for memory in self.accelerator.memories}
        for memory in self.accelerator.memories:
            for row in traffic:
                if row.memory == memory.name:
                    energy[memory.name] += row.read_bits * memory.read_energy_pj_per_bit
                    energy[memory.name] += row.write_bits * memory.write_energy_pj_per_bit
        element = self.accelerator.processing_element
        active = self.grid.active_pe_cycles
        energy["processing_elements"] = active * element.energy_pj_per_cycle
        expansion = element.expansion_energy_pj(self.precision)
        if expansion is not None:
            energy["weight_expansion"] = self.memories.expanded_weights * expansion
        possible = self.now * self.accelerator.grid.pe_count * element.lanes(self.precision)
        return LayerResult(
            engine="reference",
            layer=self.layer.name,
            total_cycles=self.now,
            compute_cycles=self.compute,
            fill_drain_cycles=self.fill_drain,
            stall_cycles=self.stalls,
            traffic=traffic,
            energy_pj=energy,
            macs=self.layer.macs,
            active_pe_cycles=active,
            pe_utilization=self.layer.macs * element.cycles_per_step(self.precision) / possible,
            dram_busy_cycles=self.dram_busy,
            tile_count=len(self.program.events),
        )
