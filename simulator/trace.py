"""The timeline of a layer: what the grid, the DRAM channel and the buffers do from the first cycle to the last.

It comes out of the very walk that counts cycles (``kernels.tile_walk``), so its sums are those of the ``LayerResult``:
the grid's slices lie end to end and last ``total_cycles``, those of the channel last ``dram_busy_cycles``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from simulator.fast import timed_walk_input
from simulator.kernels import transfers as kernel
from simulator.kernels import walk
from simulator.layer import OPERANDS
from simulator.plan import Plan
from simulator.result import STALL_CAUSES
from simulator.values import LayerValues

Track = Literal["grid", "dram", "buffer", "held"]
WAIT = "wait: "

# What the kinds of the kernel's log are called, and on which track they lie.
_KINDS: dict[int, tuple[Track, str]] = {
    kernel.COMPUTE: ("grid", "compute"),
    kernel.FILL_DRAIN: ("grid", "fill and drain"),
    **{
        kernel.STALL0 + number: ("grid", WAIT + cause.replace("_", " ")) for number, cause in enumerate(STALL_CAUSES)
    },
    kernel.PARAMETER_READ: ("dram", "load parameters"),
    kernel.WEIGHT_READ: ("dram", "load weight"),
    kernel.INPUT_READ: ("dram", "load input"),
    kernel.SUM_READ: ("dram", "load partial sums"),
    kernel.SUM_WRITE: ("dram", "write partial sums"),
    kernel.FINAL_WRITE: ("dram", "write output"),
    **{kernel.HELD0 + number: ("held", operand) for number, operand in enumerate(OPERANDS)},
}


class Slice(NamedTuple):
    """Something that lasts.

    Attributes:
        track: ``grid`` (a fold of a pass, or a wait), ``dram`` (a request on the channel), ``buffer`` (a transfer
            between two buffers), or ``held`` (a tile on chip, from the start of its load until its room is free).
        name: what it is; on the track ``held`` the operand.
        start, cycles: when and how long, in cycles from the layer's start.
        bits: bits moved or held; 0 on the grid.
        tile: number of the pass of the tile loop (event) that it belongs to, from 0. A load belongs to the first pass
            that needs it, a write-back and a held tile to the last.
        memory: of a transfer the outer one, of a tile the one that holds it, of a wait the one that is waited for;
            empty where the grid works.
    """

    track: Track
    name: str
    start: int
    cycles: int
    bits: int
    tile: int
    memory: str


@dataclass(frozen=True)
class LayerTrace:
    """The timeline of one layer.

    Attributes:
        rows: shape (slices, 6), int64: kind in the kernel's numbering, start, cycles, bits, tile, memory's number.
        total_cycles: length of the layer.
        left_out: slices beyond the limit, which are not in ``rows``.
    """

    rows: npt.NDArray[np.int64]
    total_cycles: int
    left_out: int
    memories: tuple[str, ...]

    def slices(self) -> Iterator[Slice]:
        """All slices, in the order in which the tile loop causes them."""
        for kind, start, cycles, bits, tile, memory in self.rows.tolist():
            track, name = _KINDS[kind]
            if track == "dram" and memory != kernel.DRAM:
                track = "buffer"
            yield Slice(track, name, start, cycles, bits, tile, self.memories[memory] if memory >= 0 else "")


def count_slices(plan: Plan, values: LayerValues | None = None) -> int:
    """Slices of a layer's whole timeline, without keeping them. ``values`` as in ``simulate_fast``."""
    return _walk(timed_walk_input(plan, values)[0], 0)[1]


def trace_layer(plan: Plan, most: int, values: LayerValues | None = None) -> LayerTrace:
    """Timeline of a layer, at most ``most`` slices of it (≥ 0): the first ones, and the count of the others.

    ``values`` as in ``simulate_fast``.
    """
    laid_out, _ = timed_walk_input(plan, values)
    # First counted, so that the limit costs no memory where the layer is small.
    kept = min(most, _walk(laid_out, 0)[1])
    rows, count, total = _walk(laid_out, kept)
    return LayerTrace(rows, total, count - kept, tuple(memory.name for memory in plan.accelerator.memories))


def _walk(laid_out: kernel.WalkInput, capacity: int) -> tuple[npt.NDArray[np.int64], int, int]:
    """Rows, how many there would be, total cycles."""
    log = kernel.Log(np.empty((capacity, 6), dtype=np.int64), np.zeros(1, dtype=np.int64))
    counts, _ = walk(laid_out, log)
    return log.rows, int(log.count[0]), int(counts[kernel.TOTAL])
