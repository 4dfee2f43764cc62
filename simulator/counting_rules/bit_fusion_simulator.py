"""The counting rules of the simulator that the Bit Fusion authors published with their paper (ISCA 2018).

Own code, from the stated rules. Where they differ from ``docs/simulator.md``: no fill and no drain; all operands
are tiled by one loop nest over five dimensions; a tile may take half of its buffer; outputs are 32 bits wide,
written *and* read at DRAM, the first read of zeros included; edges are padded to whole tiles; transfers hide behind
compute as one sum, all but the first and the last of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from simulator.errors import MappingError, PrecisionError, Problem
from simulator.layer import OPERANDS, Operand

Loop = Literal["B", "OW", "OH", "IC", "OC"]
LOOPS: tuple[Loop, ...] = ("B", "OW", "OH", "IC", "OC")
DEPENDS_ON: dict[Operand, frozenset[Loop]] = {
    "weight": frozenset(("IC", "OC")),
    "input": frozenset(("B", "OW", "OH", "IC")),
    "output": frozenset(("B", "OW", "OH", "OC")),
}
OUTPUT_BITS = 32


@dataclass(frozen=True)
class Machine:
    """An array of ``rows`` (inputs) × ``columns`` (outputs) Fusion Units, a buffer for each operand, one DRAM port."""

    rows: int
    columns: int
    max_bits: int
    min_bits: int
    dram_bits_per_cycle: int
    buffer_bits: Mapping[Operand, int]


@dataclass(frozen=True)
class Work:
    """What all tiles of a layer share. ``im2col``: kernel taps lie on the rows together with the channels."""

    kernel: int
    stride: int
    input_bits: int
    weight_bits: int
    im2col: bool


@dataclass(frozen=True)
class Tiling:
    """Extent of one tile and number of tiles along each loop; ``order`` outermost first, all five loops."""

    extent: Mapping[Loop, int]
    trips: Mapping[Loop, int]
    order: tuple[Loop, ...]

    def __post_init__(self) -> None:
        """Refuse a nest that is not the five loops, once each."""
        if sorted(self.order) != sorted(LOOPS):
            raise MappingError(Problem("must be the five loops, once each", path="order", value=">".join(self.order),
                                       allowed=LOOPS))
        for name, numbers in (("extent", self.extent), ("trips", self.trips)):
            for loop in LOOPS:
                if numbers.get(loop, 0) < 1:
                    raise MappingError(Problem("must be at least 1", path=f"{name}.{loop}",
                                               value=str(numbers.get(loop))))


@dataclass(frozen=True)
class Counts:
    """What one layer costs: cycles, and bits moved (DRAM in all, buffers by operand)."""

    total_cycles: int
    compute_cycles: int
    stall_cycles: int
    dram_read_bits: int
    dram_write_bits: int
    buffer_read_bits: dict[Operand, int]
    buffer_write_bits: dict[Operand, int]


@dataclass(frozen=True)
class EnergyTable:
    """Energies of one machine: pJ a compute cycle of the whole array, pJ a bit of each memory."""

    core_pj_per_cycle: float
    buffer_read_pj_per_bit: Mapping[Operand, float]
    buffer_write_pj_per_bit: Mapping[Operand, float]
    dram_pj_per_bit: float

    def core_pj(self, counts: Counts) -> float:
        """Energy of the array."""
        return counts.compute_cycles * self.core_pj_per_cycle

    def buffers_pj(self, counts: Counts) -> float:
        """Energy of the three buffers."""
        return math.fsum(
            counts.buffer_read_bits[operand] * self.buffer_read_pj_per_bit[operand]
            + counts.buffer_write_bits[operand] * self.buffer_write_pj_per_bit[operand]
            for operand in OPERANDS
        )

    def dram_pj(self, counts: Counts) -> float:
        """Energy of the off-chip memory."""
        return (counts.dram_read_bits + counts.dram_write_bits) * self.dram_pj_per_bit

    def total_pj(self, counts: Counts) -> float:
        """Energy of all."""
        return self.core_pj(counts) + self.buffers_pj(counts) + self.dram_pj(counts)


PAPER_BUFFER_BITS: dict[Operand, int] = {"weight": 64 * 8192, "input": 32 * 8192, "output": 16 * 8192}
# The paper's 45 nm machine: 16 × 32 units of 8 bits, buffers as above. Core and DRAM: stated by its authors. Buffers:
# the one solution of its published energies, which are linear in the bits moved; its output buffer reads as much as
# it writes in every row, so that only the sum of the two energies (0.106239375) is known, and is halved here.
PAPER_ENERGY = EnergyTable(
    core_pj_per_cycle=235.104,
    buffer_read_pj_per_bit={"weight": 0.02136565625, "input": 0.059474375, "output": 0.0531196875},
    buffer_write_pj_per_bit={"weight": 0.02891615625, "input": 0.1137040625, "output": 0.0531196875},
    dram_pj_per_bit=15.0,
)


def products_per_unit(machine: Machine, work: Work) -> int:
    """Products of one Fusion Unit in a cycle: ``⌊pmax/max(a, pmin)⌋ · ⌊pmax/max(w, pmin)⌋``.

    Raises ``PrecisionError`` for operands wider than the unit, which these rules do not know.
    """
    found = 1
    for name, bits in (("input", work.input_bits), ("weight", work.weight_bits)):
        if max(bits, machine.min_bits) > machine.max_bits:
            raise PrecisionError(Problem(f"the unit takes at most {machine.max_bits} bits", path=f"precision.{name}",
                                         value=str(bits)))
        found *= machine.max_bits // max(bits, machine.min_bits)
    return found


def tile_bits(machine: Machine, work: Work, tiling: Tiling) -> dict[Operand, int]:
    """Bits of one tile of each operand, padded as the buffers are laid out."""
    b, ow, oh, ic, oc = (tiling.extent[loop] for loop in LOOPS)
    taps = work.kernel * work.kernel
    across = machine.rows * products_per_unit(machine, work)
    if work.im2col:
        inputs = oh * ow * taps * ic * b
    else:
        inputs = ((ow - 1) * work.stride + work.kernel) * ((oh - 1) * work.stride + work.kernel) * ic * b
    return {
        "weight": _ceil(taps * ic, across) * across * oc * work.weight_bits,
        "input": inputs * work.input_bits,
        "output": oh * ow * _ceil(oc, machine.columns) * machine.columns * b * OUTPUT_BITS,
    }


def problems(machine: Machine, work: Work, tiling: Tiling) -> list[Problem]:
    """Say which tiles exceed half of their buffers; empty where the mapping is feasible."""
    return [
        Problem(f"a tile takes {bits} bits, half the buffer is {machine.buffer_bits[operand] // 2}", path=operand)
        for operand, bits in tile_bits(machine, work, tiling).items()
        if 2 * bits > machine.buffer_bits[operand]
    ]


def count(machine: Machine, work: Work, tiling: Tiling) -> Counts:
    """Cost of one layer at one tiling. Raises ``MappingError`` where a tile exceeds half of its buffer."""
    found = problems(machine, work, tiling)
    if found:
        raise MappingError(found)
    moved, resident = _streams(machine, tile_bits(machine, work, tiling), tiling)
    tiles = math.prod(tiling.trips[loop] for loop in LOOPS)
    compute = tiles * _tile_cycles(machine, work, tiling)
    read, written = sum(moved.values()), moved["output"]
    first, last = sum(resident.values()), resident["output"]
    bandwidth = machine.dram_bits_per_cycle
    hidden = _ceil(read + written - first - last, bandwidth)
    stall = max(0, hidden - compute) + _ceil(first, bandwidth) + _ceil(last, bandwidth)

    b, ow, oh, ic, oc = (tiling.extent[loop] for loop in LOOPS)
    products = tiles * b * ow * oh * work.kernel * work.kernel * ic * oc
    results = tiles * b * ow * oh * oc * OUTPUT_BITS
    return Counts(
        total_cycles=compute + stall,
        compute_cycles=compute,
        stall_cycles=stall,
        dram_read_bits=read,
        dram_write_bits=written,
        # Each product reads its own weight and input; each tile reads and writes each of its results once.
        buffer_read_bits={
            "weight": products * work.weight_bits,
            "input": products * work.input_bits,
            "output": written + results,
        },
        buffer_write_bits={
            "weight": moved["weight"], "input": moved["input"], "output": moved["output"] + results,
        },
    )


def _tile_cycles(machine: Machine, work: Work, tiling: Tiling) -> int:
    b, ow, oh, ic, oc = (tiling.extent[loop] for loop in LOOPS)
    across = machine.rows * products_per_unit(machine, work)
    taps = work.kernel * work.kernel
    reduced = _ceil(taps * ic, across) if work.im2col else taps * _ceil(ic, across)
    return b * oh * ow * _ceil(oc, machine.columns) * reduced


def _streams(
    machine: Machine, tile: dict[Operand, int], tiling: Tiling
) -> tuple[dict[Operand, int], dict[Operand, int]]:
    """Bits that each operand moves over the nest, and the most of it that half its buffer held.

    From the innermost loop outwards: a loop that the operand depends on multiplies it. Once the product exceeds half
    the buffer, nothing is kept from one iteration to the next, and every loop further out multiplies it.
    """
    moved, resident = dict(tile), dict(tile)
    for operand in tile:
        kept = True
        for loop in reversed(tiling.order):
            if kept and loop not in DEPENDS_ON[operand]:
                continue
            moved[operand] *= tiling.trips[loop]
            kept = kept and 2 * moved[operand] <= machine.buffer_bits[operand]
            if kept:
                resident[operand] = moved[operand]
    return moved, resident


def _ceil(amount: int, unit: int) -> int:
    return -(-amount // unit)
