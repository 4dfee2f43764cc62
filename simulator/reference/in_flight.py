"""What is under way in the reference engine: transfers, loads that their latency holds back, the pass on the grid."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.reference.ports import Port, Use
from simulator.reference.program import Event, Request
from simulator.result import StallCause


@dataclass
class Transfer:
    """A transfer under way: cycles that it waits for rows of the DRAM, bits left at each port."""

    request: Request
    wait_cycles: int
    bits_left: dict[Port, int]
    uses: dict[Port, Use]


@dataclass
class Flight:
    """A load whose transfer has ended and that its latency still holds back."""

    request: Request
    cycles_left: int


@dataclass
class Pass:
    """A pass that has started: for how long it still holds each port, and what to call a wait for the longest."""

    event: Event
    port_cycles_left: dict[Port, int]
    cause: StallCause
    memory: str
    stretch: int = 0


@dataclass(frozen=True)
class Arrival:
    """When something that a pass waits for was there, and what to call the wait."""

    at: int | None
    cause: StallCause
    memory: str
