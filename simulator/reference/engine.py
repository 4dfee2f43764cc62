"""The clock of the reference engine: one cycle after the other, until the last bit is written back."""

from __future__ import annotations

from collections import Counter

import numpy as np

from simulator.accelerator import Accelerator, MulticastPassing, RegisterFile
from simulator.layer import OPERANDS, Layer, Operand
from simulator.mapping import Mapping
from simulator.precision import LayerPrecision
from simulator.reference.cycles_spent import CyclesSpent, result_of
from simulator.reference.dram_rows import OpenRows
from simulator.reference.geometry import Element
from simulator.reference.grid import Grid
from simulator.reference.in_flight import Arrival, Flight, Pass, Transfer
from simulator.reference.memories import IntArray, Memories
from simulator.reference.multicast import MulticastGrid
from simulator.reference.ports import Port, Ports, Use
from simulator.reference.program import Event, Place, Program, Request, Run
from simulator.reference.systolic import SystolicGrid
from simulator.result import LayerResult, StallCause
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
    result = result_of(
        layer, precision, accelerator, machine.memories, machine.grid, machine.spent, machine.now,
        len(machine.program.events),
    )
    return result, outputs


_WAITS_FOR: dict[Operand, StallCause] = {"weight": "weight", "input": "input", "output": "partial_sum"}


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
        self.program = Program(layer, precision, accelerator, mapping)
        self.memories = Memories(self.program, precision, accelerator, weights, inputs, scales)
        self.grid = self._new_grid()
        self.ports = Ports(self.program, self.memories)
        self.rows = OpenRows(accelerator.dram, layer, precision)
        self.now = 0
        # When things happened; an entry that is missing has not happened yet. Runs by place and number.
        self._parameters_at: int | None = None
        self._loaded_at: dict[tuple[Place, int], int] = {}
        self._blamed: dict[tuple[Place, int], str] = {}
        self._moved_at: dict[tuple[Place, int], int] = {}
        self._written_at: dict[tuple[Place, int], int] = {}
        self._ended_at: dict[int, int] = {}
        self._completions: dict[int, int] = {}
        self._completed_at: dict[int, int] = {}
        # Transfers that have not started, in program order.
        self._waiting: list[tuple[Request, dict[Port, Use]]] = []
        self._empty: list[Run] = []
        self._transfers: list[Transfer] = []
        self._flights: list[Flight] = []
        self._refresh_cycles_left = 0
        # The grid.
        self._next_event = 0
        self._running: Pass | None = None
        self._stretches: dict[int, int] = {}
        self._waited = 0
        self._pass_ports: dict[int, dict[Port, dict[Place, int]]] = {}
        # What the cycles were spent on.
        self.spent = CyclesSpent()
        self._line_up()

    def _new_grid(self) -> Grid:
        description, element = self.accelerator.grid, self.accelerator.processing_element
        if isinstance(description.passing, MulticastPassing):
            return MulticastGrid(element, self.memories, description)
        return SystolicGrid(element, self.memories, description)

    def _line_up(self) -> None:
        """Let everything that uses ports queue up at them, in program order; note what moves nothing."""
        limited = any(
            width is not None
            for buffer in self.accelerator.buffers
            for width in (buffer.read_bandwidth_bits_per_cycle, buffer.write_bandwidth_bits_per_cycle)
        )
        seen: set[Element] = set()
        for who in self.program.in_order():
            if isinstance(who, Event):
                bits = self.memories.pass_bits(self.program.folds(who), seen) if limited else Counter()
                self._pass_ports[who.index] = self.ports.of_pass(who, bits)
                self.ports.enqueue(who, self._pass_ports[who.index])
            elif self.memories.request_bits(who) > 0:
                uses = self.ports.of_transfer(who)
                self._waiting.append((who, uses))
                self.ports.enqueue(who, uses)
            elif who.run is None:
                self._parameters_at = 0
            else:
                # A tile of nothing but padding: it is there as soon as it has room.
                assert who.kind == "load"
                self._empty.append(who.run)

    def run(self) -> None:
        """Pass cycles until every event is through and everything is written."""
        while True:
            self._settle()
            if self._is_done():
                return
            self._count_cycle()
            self._transfer_cycle()
            self.now += 1
            self._note_end_of_cycle()

    def _is_done(self) -> bool:
        through = len(self._ended_at) == len(self.program.events)
        outermost = self.program.runs["output"][0]
        return through and all((run.place, run.number) in self._written_at for run in outermost)

    # ------------------------------------------------------------------ what may start now

    def _settle(self) -> None:
        """Start everything whose conditions hold at this border of two cycles."""
        while self._start_refresh() or self._start_transfer() or self._land() or self._start_event():
            pass

    def _start_refresh(self) -> bool:
        channel = self.ports.channel
        if self.ports.is_busy(channel) or not self.rows.is_refresh_due(self.now):
            return False
        self._refresh_cycles_left = self.rows.refresh()
        if self._refresh_cycles_left:
            self.ports.block(channel)
        return True

    def _start_transfer(self) -> bool:
        """Start the first transfer whose turn it is and whose conditions hold."""
        for run in self._empty:
            room = self._room_at(run)
            if room is not None:
                self._empty.remove(run)
                self._loaded_at[run.place, run.number] = room
                self._blamed[run.place, run.number] = self._outer_memory(run)
                return True
        for place, (request, uses) in enumerate(self._waiting):
            if self.ports.are_free_for(request, uses) and self._may_start(request):
                del self._waiting[place]
                self._start(request, uses)
                return True
        return False

    def _start(self, request: Request, uses: dict[Port, Use]) -> None:
        run = request.run
        if run is not None and request.kind != "write_back":
            self.memories.allocate(run)
            self._blamed[run.place, run.number] = self._memory_to_blame(request)
        elif run is not None:
            parent = self.program.parent(run)
            if parent is not None and not self.memories.is_allocated(parent):
                self.memories.allocate(parent)
        self.ports.seize(request, uses)
        wait = self.rows.wait_cycles(request) if self.ports.channel in uses else 0
        left = {port: use.bits for port, use in uses.items()}
        self._transfers.append(Transfer(request, wait, left, uses))
        if not uses:
            self._end_transfer(self._transfers[-1])

    def _may_start(self, request: Request) -> bool:
        run = request.run
        if run is None:
            return True
        parent = self.program.parent(run)
        parent_is_there = parent is None or self._is_there(parent)
        if request.kind == "write_back":
            if self.program.is_innermost(run.place):
                added_up = self._completed_at.get(run.last_event) is not None
            else:
                added_up = all((child.place, child.number) in self._written_at for child in self.program.children(run))
            return parent_is_there and added_up
        if request.kind == "partial_sums" and self._written_before(run) is None:
            return False
        return parent_is_there and self._room_at(run) is not None

    def _is_there(self, run: Run) -> bool:
        """Whether a run is loaded; of a fresh output, whether it has its room."""
        return self._there_at(run) is not None

    def _there_at(self, run: Run) -> int | None:
        if run.operand == "output" and run.fresh:
            return self._room_at(run)
        return self._loaded_at.get((run.place, run.number))

    def _room_at(self, run: Run) -> int | None:
        """When room for a run came free; None while it has not."""
        before = self.program.before(run)
        if before is None:
            return 0
        if run.operand == "output":
            return self._written_at.get((before.place, before.number))
        if self.program.is_innermost(run.place):
            return self._ended_at.get(before.last_event)
        if not before.elements:
            return self._loaded_at.get((before.place, before.number))
        copies = [self._moved_at.get((child.place, child.number)) for child in self.program.children(before)
                  if child.elements]
        times = [time for time in copies if time is not None]
        return max(times, default=0) if len(times) == len(copies) else None

    def _written_before(self, run: Run) -> int | None:
        """When the last of the write-backs that stand before an output run's partial sums was done; None: not yet."""
        runs = self.program.runs["output"][run.place.number]
        ahead = self.program.is_ahead(run)
        earlier = [self._written_at.get((run.place, other.number)) for other in runs[: run.number - ahead]]
        times = [time for time in earlier if time is not None]
        return max(times, default=0) if len(times) == len(earlier) else None

    def _outer_memory(self, run: Run) -> str:
        parent = self.program.parent(run)
        return self.accelerator.dram.name if parent is None else parent.place.memory.name

    def _memory_to_blame(self, request: Request) -> str:
        """The memory outside; but where its data came last of all conditions, whatever that itself waited for."""
        run = request.run
        assert run is not None
        parent = self.program.parent(run)
        room = self._room_at(run)
        assert room is not None
        if request.kind == "partial_sums":
            written = self._written_before(run)
            assert written is not None
            room = max(room, written)
        if parent is not None and self._there_at(parent) == self.now and self.now > room:
            return self._blame_of(parent)
        return self._outer_memory(run)

    def _blame_of(self, run: Run) -> str:
        return self._blamed.get((run.place, run.number), self._outer_memory(run))

    # ------------------------------------------------------------------ the grid

    def _start_event(self) -> bool:
        if self._running is not None or self._next_event == len(self.program.events):
            return False
        event = self.program.events[self._next_event]
        uses = self._pass_ports[event.index]
        arrivals = self._arrivals(event, uses)
        known = [arrival.at for arrival in arrivals if arrival.at is not None]
        if len(known) < len(arrivals) or not self.ports.are_free_for(event, uses):
            return False
        if self._waited:
            # The causes stand in the order in which they count; max takes the first of equals.
            last = max(arrivals, key=lambda arrival: arrival.at or 0)
            self.spent.stalls[last.cause, last.memory] += self._waited
            self._waited = 0
        for operand in OPERANDS:
            run = self.program.run(operand, event.index)
            comes_by_itself = run.fresh if operand == "output" else not run.elements
            if comes_by_itself and run.first_event == event.index:
                self.memories.allocate(run)
        self.ports.seize(event, uses)
        self._running = self._new_pass(event, uses)
        self.grid.start(event)
        self._next_event += 1
        return True

    def _new_pass(self, event: Event, uses: dict[Port, dict[Place, int]]) -> Pass:
        held = {port: sum(shares.values()) for port, shares in uses.items()}
        # Ports and operands stand in their order; max takes the first of equals.
        if not held:
            return Pass(event, {}, "weight", "")
        longest = max(sorted(held, key=self.ports.rank), key=lambda port: held[port])
        place = max(uses[longest], key=lambda place: uses[longest][place])
        return Pass(event, held, _WAITS_FOR[place.operand], place.memory.name)

    def _arrivals(self, event: Event, uses: dict[Port, dict[Place, int]]) -> list[Arrival]:
        """What an event waits for, and when each came; None for what has not."""
        arrivals = [Arrival(self._parameters_at, "parameters", self.accelerator.dram.name)]
        for operand in OPERANDS:
            run = self.program.run(operand, event.index)
            cause = "output_slot" if operand == "output" and run.fresh else _WAITS_FOR[operand]
            if operand != "output" or run.first_event == event.index:
                arrivals.append(Arrival(self._there_at(run), cause, self._blame_of(run)))
        for operand in OPERANDS:
            for port, shares in uses.items():
                if self.program.run(operand, event.index).place in shares:
                    place = self.program.run(operand, event.index).place
                    at = None if self.ports.is_busy(port) else self.ports.idle_since[port]
                    arrivals.append(Arrival(at, _WAITS_FOR[operand], place.memory.name))
        return arrivals

    # ------------------------------------------------------------------ one cycle

    def _count_cycle(self) -> None:
        """Let the grid pass a cycle, and count what the cycle was spent on."""
        last_completed = len(self.program.events) - 1 in self._completed_at
        is_stretched = self._running is not None and not self.grid.occupied
        activity = self.grid.cycle()
        if is_stretched:
            assert self._running is not None
            self.spent.stalls[self._running.cause, self._running.memory] += 1
            self._running.stretch += 1
        elif activity == "compute":
            self.spent.compute += 1
        elif activity == "fill_drain":
            self.spent.fill_drain += 1
        elif self._next_event < len(self.program.events):
            self._waited += 1
        elif not last_completed:
            self.spent.fill_drain += 1
        else:
            self.spent.stalls["write_back", self.accelerator.dram.name] += 1

    def _transfer_cycle(self) -> None:
        for flight in self._flights:
            flight.cycles_left -= 1
        for transfer in self._transfers:
            self.spent.dram_busy += self.ports.channel in transfer.uses
            if transfer.wait_cycles:
                transfer.wait_cycles -= 1
                self.spent.dram_row_cycles += 1
            else:
                for port, use in transfer.uses.items():
                    transfer.bits_left[port] -= use.width
        if self._running is not None:
            for port in self._running.port_cycles_left:
                self._running.port_cycles_left[port] -= 1

    def _note_end_of_cycle(self) -> None:
        if self._refresh_cycles_left:
            self._refresh_cycles_left -= 1
            if not self._refresh_cycles_left:
                self.ports.leave(self.ports.channel, self.now)
        for transfer in list(self._transfers):
            if not transfer.wait_cycles and max(transfer.bits_left.values()) <= 0:
                self._end_transfer(transfer)
        self._note_pass()
        for number in sorted(self.grid.completed - self._completed_at.keys()):
            # A pass that waited for its ports at its end is that much later.
            arrived = self._completions.setdefault(number, self.now)
            if number in self._stretches and self.now >= arrived + self._stretches[number]:
                self._completed_at[number] = self.now

    def _note_pass(self) -> None:
        running = self._running
        if running is None:
            return
        for port, left in list(running.port_cycles_left.items()):
            if left == 0:
                self.ports.leave(port, self.now)
                del running.port_cycles_left[port]
        if self.grid.occupied or running.port_cycles_left:
            return
        index = running.event.index
        self._ended_at[index] = self.now
        self._stretches[index] = running.stretch
        operands: tuple[Operand, ...] = ("weight", "input")
        for operand in operands:
            run = self.program.run(operand, index)
            if run.last_event == index:
                self.memories.release(run)
        self._running = None

    def _end_transfer(self, transfer: Transfer) -> None:
        """Let go of the ports; what was read still has its latency before it."""
        self._transfers.remove(transfer)
        for port in transfer.uses:
            self.ports.leave(port, self.now)
        request, run = transfer.request, transfer.request.run
        self._flights.append(Flight(request, self._latency(request)))
        if request.kind == "write_back":
            return
        self.memories.load(request)
        if run is None:
            return
        self._moved_at[run.place, run.number] = self.now
        # With its last copy further in, the tile outside has served.
        parent = self.program.parent(run)
        if parent is not None and run.operand != "output":
            copies = [child for child in self.program.children(parent) if child.elements]
            if all((child.place, child.number) in self._moved_at for child in copies):
                self.memories.release(parent)

    def _latency(self, request: Request) -> int:
        if request.kind == "write_back":
            return 0
        parent = None if request.run is None else self.program.parent(request.run)
        memory = self.accelerator.dram if parent is None else parent.place.memory
        return 0 if isinstance(memory, RegisterFile) else memory.latency_cycles

    def _land(self) -> bool:
        """Let everything arrive whose latency is over."""
        landed = [flight for flight in self._flights if flight.cycles_left <= 0]
        for flight in landed:
            self._flights.remove(flight)
            self._complete(flight.request)
        return bool(landed)

    def _complete(self, request: Request) -> None:
        run = request.run
        if request.kind == "write_back":
            assert run is not None
            self.memories.write_back(request)
            self._written_at[run.place, run.number] = self.now
            return
        if run is None:
            self._parameters_at = self.now
        else:
            self._loaded_at[run.place, run.number] = self.now
