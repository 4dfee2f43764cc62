"""What a simulation answers: cycles by kind, bits moved by operand and memory, energy by component.

Two sums hold exactly and are checked when a result is made: ``total_cycles`` is compute plus fill and drain plus
every stall, and the cycles are integers.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from simulator.layer import Frozen
from simulator.provenance import Confidence
from simulator.shown import Shown
from simulator.values import ValueSource

StallCause = Literal["parameters", "weight", "input", "partial_sum", "output_slot", "write_back"]
STALL_CAUSES: tuple[StallCause, ...] = (
    "parameters", "weight", "input", "partial_sum", "output_slot", "write_back",
)
TrafficOperand = Literal["weight", "input", "output", "parameters"]
Engine = Literal["reference", "fast", "bound"]


class Traffic(Frozen):
    """Bits that one operand moved out of (read) and into (write) one memory."""

    memory: str
    operand: TrafficOperand
    read_bits: int
    write_bits: int


class Stall(Frozen):
    """Cycles that the grid waited: for what, and for which memory.

    A wait for data or room names the memory outside: the one whose port or channel moved it, or if that itself had to
    wait for its data, the one further out. A wait for a port of a buffer names that buffer.
    """

    cause: StallCause
    memory: str
    cycles: int


class LayerResult(Shown, Frozen):
    """Cost of one layer under one mapping.

    Attributes:
        engine: which engine counted. ``bound`` gives a lower bound of the cycles, and exact traffic.
        total_cycles: from the first request to the last bit written back.
        compute_cycles: cycles in which the grid takes steps.
        fill_drain_cycles: cycles in which a systolic grid loads, fills or empties without taking a new step,
            and the pipeline's end.
        stall_cycles: cycles in which the grid waits, by what it waits for. ``bound`` knows only their sum and
            puts it under the cause ``input``'s memory, the DRAM, as ``write_back`` 0 and ``input`` the rest.
        stalls: the same cycles by cause and memory; empty for ``bound``.
        traffic: bits moved, by memory and operand.
        energy_pj: energy by component: a memory's name, ``processing_elements``; where the machine describes them
            ``interconnect``, ``conversion``, ``scaling``, ``leakage``; on a machine of several tiles ``idle_leakage``,
            of the tiles that rest meanwhile. ``bound``'s leakage is that of its cycles.
        macs: multiply-accumulates of the layer.
        active_pe_cycles: Σ over PEs of the cycles in which they work on at least one product.
        pe_utilization: useful products ÷ products that grid and cycles would allow at this precision, a step every
            ``mean_step_cycles``.
        dram_busy_cycles: cycles in which the DRAM channel transfers, or waits for the rows of a transfer.
        dram_row_cycles: those of them in which it waits for rows to open.
        tile_count: passes that the tile loop makes.
        value_source: what the values were on which the time depends: ``recorded`` of a run of the network, or
            ``statistical``, drawn from a distribution; None where time does not depend on values.
        mean_step_cycles: cycles of a step of the grid, in the mean (None in records of earlier versions).
        tile: the tile that it ran on; None on a machine of one tile.
    """

    engine: Engine
    layer: str
    total_cycles: int
    compute_cycles: int
    fill_drain_cycles: int
    stall_cycles: dict[StallCause, int]
    stalls: tuple[Stall, ...] = ()
    traffic: tuple[Traffic, ...]
    energy_pj: dict[str, float]
    macs: int
    active_pe_cycles: int
    pe_utilization: float
    dram_busy_cycles: int
    dram_row_cycles: int = 0
    tile_count: int
    value_source: ValueSource | None = None
    mean_step_cycles: float | None = None
    tile: str | None = None

    @model_validator(mode="after")
    def _check(self) -> LayerResult:
        parts = self.compute_cycles + self.fill_drain_cycles + sum(self.stall_cycles.values())
        if parts != self.total_cycles:
            raise ValueError(f"total_cycles={self.total_cycles}: the parts sum to {parts}")
        return self

    @property
    def total_energy_pj(self) -> float:
        """Energy of all components."""
        return math.fsum(self.energy_pj.values())  # whatever order the components are kept in

    @property
    def energy_delay_product(self) -> float:
        """Energy times latency, pJ·cycles."""
        return self.total_energy_pj * self.total_cycles

    def moved_bits(self, memory: str, operand: TrafficOperand | None = None) -> tuple[int, int]:
        """Bits read from and written to a memory, by one operand or by all."""
        rows = [row for row in self.traffic if row.memory == memory and operand in (None, row.operand)]
        return sum(row.read_bits for row in rows), sum(row.write_bits for row in rows)


class VectorResult(Shown, Frozen):
    """Cost of one vector operation.

    Attributes:
        total_cycles: compute_cycles plus stall_cycles.
        dram_busy_cycles: cycles in which the DRAM channel transfers.
        tile: the tile whose vector unit ran it; None on a machine of one tile.
    """

    operation: str
    operator: str
    total_cycles: int
    compute_cycles: int
    stall_cycles: int
    dram_busy_cycles: int
    traffic: tuple[Traffic, ...]
    energy_pj: dict[str, float]
    tile: str | None = None

    @property
    def total_energy_pj(self) -> float:
        """Energy of all components."""
        return math.fsum(self.energy_pj.values())  # whatever order the components are kept in


class NetworkResult(Shown, Frozen):
    """Cost of a network: its operations run one after the other, each on one tile, never two at once.

    Attributes:
        confidence: component of energy → the weakest confidence, over all operations, of the numbers of the machine
            that it is made of; None: not stated.
        not_modelled: what costs energy and is left out of the machine's description, in words.
    """

    network: str
    accelerator: str
    clock_mhz: float
    operations: tuple[LayerResult | VectorResult, ...]
    confidence: dict[str, Confidence | None] = Field(default_factory=dict)
    not_modelled: tuple[str, ...] = ()

    @property
    def total_cycles(self) -> int:
        """Cycles of one inference."""
        return sum(operation.total_cycles for operation in self.operations)

    @property
    def total_energy_pj(self) -> float:
        """Energy of one inference."""
        return math.fsum(operation.total_energy_pj for operation in self.operations)

    @property
    def latency_ms(self) -> float:
        """Latency of one inference at the machine's clock."""
        return self.total_cycles / (self.clock_mhz * 1e3)

    @property
    def layers(self) -> tuple[LayerResult, ...]:
        """Results of the loop nests alone."""
        return tuple(operation for operation in self.operations if isinstance(operation, LayerResult))
