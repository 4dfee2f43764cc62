"""Ports: the DRAM channel and those of the buffers' banks. Each serves who needs it in program order."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from typing import Literal, NamedTuple

from simulator.accelerator import Buffer
from simulator.layer import OPERANDS, Operand
from simulator.reference.memories import Memories
from simulator.reference.program import Event, Place, Program, Request, Run

Way = Literal["read", "write"]


class Port(NamedTuple):
    """One port of a bank; the DRAM channel is that of ``dram``, bank 0."""

    memory: str
    way: Way | Literal["both"]
    bank: int


class Use(NamedTuple):
    """What somebody wants of a port: bits, and the port's bits a cycle."""

    bits: int
    width: int

    @property
    def cycles(self) -> int:
        """Cycles that it takes."""
        return -(-self.bits // self.width)


class Ports:
    """Who waits at which port, in which order, and since when a port is idle."""

    def __init__(self, program: Program, memories: Memories) -> None:
        self.program, self.memories = program, memories
        self.dram = memories.accelerator.dram
        self.channel = Port(self.dram.name, "both", 0)
        self._queues: dict[Port, deque[Request | Event]] = defaultdict(deque)
        self._busy: set[Port] = set()
        self.idle_since: dict[Port, int] = defaultdict(int)

    def enqueue(self, who: Request | Event, ports: Iterable[Port]) -> None:
        """Take a place at the end of the queue of each port."""
        for port in ports:
            self._queues[port].append(who)

    def are_free_for(self, who: Request | Event, ports: Iterable[Port]) -> bool:
        """Whether it is somebody's turn at every port, and none is in use."""
        return all(self._queues[port][0] is who and port not in self._busy for port in ports)

    def seize(self, who: Request | Event, ports: Iterable[Port]) -> None:
        """Begin to use ports."""
        for port in ports:
            assert self._queues[port].popleft() is who
            self._busy.add(port)

    def block(self, port: Port) -> None:
        """Put a port out of use."""
        self._busy.add(port)

    def is_busy(self, port: Port) -> bool:
        """Whether a port is in use."""
        return port in self._busy

    def leave(self, port: Port, now: int) -> None:
        """End the use of a port."""
        self._busy.remove(port)
        self.idle_since[port] = now

    def rank(self, port: Port) -> tuple[int, bool, int]:
        """Ports in the order of the machine: by memory, reading before writing, by bank."""
        names = [memory.name for memory in self.memories.accelerator.memories]
        return names.index(port.memory), port.way == "write", port.bank

    # ------------------------------------------------------------------ who needs what

    def of_transfer(self, request: Request) -> dict[Port, Use]:
        """Ports that a transfer takes. It holds them all as long as the slowest needs."""
        bits = self.memories.request_bits(request)
        outer: Place | None = None
        uses: dict[Port, Use] = {}
        inward = request.kind != "write_back"
        if request.run is not None:
            run = request.run
            parent = self.program.parent(run)
            own = self.memories.own_bits(request)
            uses |= self._of_buffer(run, "write" if inward else "read", own)
            if parent is not None:
                outer = parent.place
                uses |= self._of_buffer(parent, "read" if inward else "write", bits)
        if outer is None:
            burst = self.dram.burst_bits
            uses[self.channel] = Use(-(-bits // burst) * burst, self.dram.bandwidth_bits_per_cycle)
        return uses if bits else {}

    def of_pass(self, event: Event, bits: Counter[tuple[Operand, Way]]) -> dict[Port, dict[Place, int]]:
        """Cycles for which a pass holds each port, by the place whose data moves. ``bits``: what it moves."""
        held: dict[Port, dict[Place, int]] = defaultdict(lambda: defaultdict(int))
        ways: tuple[Way, Way] = ("read", "write")
        for operand in OPERANDS:
            run = self.program.run(operand, event.index)
            for way in ways:
                moved = bits[operand, way]
                for port, use in self._of_buffer(run, way, moved).items() if moved else ():
                    held[port][run.place] += use.cycles
        return held

    def _of_buffer(self, run: Run, way: Way, bits: int) -> dict[Port, Use]:
        """Port of the bank in which a run lies, where it is limited."""
        memory = run.place.memory
        if not isinstance(memory, Buffer):
            return {}
        width = memory.read_bandwidth_bits_per_cycle if way == "read" else memory.write_bandwidth_bits_per_cycle
        if width is None:
            return {}
        slot = self._first_slot(run.place) + run.number % run.place.copies
        return {Port(memory.name, "both" if memory.ports == "shared" else way, slot % memory.banks): Use(bits, width)}

    def _first_slot(self, place: Place) -> int:
        """Slots of a memory are numbered by operand, in the order in which it keeps them."""
        slots = 0
        for operand in place.memory.keeps:
            if operand == place.operand:
                break
            slots += sum(other.copies for other in self.program.places[operand] if other.memory == place.memory)
        return slots
