"""The machine: an ordered memory hierarchy, a grid of processing elements (``grid``), and a vector unit.

What the parts mean in time is said in ``docs/simulator.md``. Memories stand outermost first: one DRAM, any number of
levels of buffers, at most one level of registers in the PEs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, Protocol

from pydantic import Field, model_validator

from simulator.floating_point_unit import FLOATING_POINT_UNIT, FloatingPointUnit
from simulator.grid import LANES, Axis, Grid, MulticastPassing, Passing, SystolicPassing
from simulator.layer import OPERANDS, Frozen, Operand
from simulator.output_stage import OutputStage
from simulator.processing_elements import ProcessingElement
from simulator.provenance import Source, UnknownSources, unknown_sources
from simulator.shown import Shown

__all__ = [
    "COMPONENTS", "IDLE_LEAKAGE", "LANES", "LEAKAGE", "Accelerator", "Axis", "Buffer", "Dram", "DramRows", "Grid",
    "Memory", "MulticastPassing", "Part", "Passing", "RegisterFile", "SystolicPassing", "VectorUnit", "buffer_level",
    "check_memories",
]

Energy = Annotated[float, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
LEAKAGE, IDLE_LEAKAGE = "leakage", "idle_leakage"
# Components of energy beside the memories, which go by their names (simulator.counts, simulator.engine).
COMPONENTS = (
    "processing_elements", "weight_expansion", "interconnect", "conversion", "scaling", "vector_unit",
    FLOATING_POINT_UNIT, LEAKAGE, IDLE_LEAKAGE,
)


class _OnChip(Protocol):
    """What gives its area and its leakage."""

    @property
    def area_um2(self) -> float | None: ...

    @property
    def leakage_mw(self) -> float | None: ...


class Part(NamedTuple):
    """A part of a machine that takes room and draws power at all times: ``copies`` of the same.

    ``path`` is its place in the description, ``power`` the field of its leakage there. Area and leakage are of one
    copy; None: not modelled. What stands outside the chip (DRAM) has no area here, and leaks what it draws in the
    background.
    """

    name: str
    path: str
    power: str
    copies: int
    is_on_chip: bool
    area_um2: float | None
    leakage_mw: float | None


class DramRows(Frozen):
    """Banks and rows of a DRAM with open pages (docs/simulator.md, "DRAM rows").

    Attributes:
        banks: rows that may be open at once; consecutive rows lie in consecutive banks.
        row_bits: bits of one row.
        activate_cycles: from a bank with no open row to its first bit (tRCD).
        precharge_cycles: to close the row that is open instead (tRP).
        refresh_interval_cycles: every so often all rows close and the channel rests (tREFI); None: never.
        refresh_cycles: how long it rests (tRFC).
    """

    banks: int = Field(ge=1)
    row_bits: int = Field(ge=1)
    activate_cycles: int = Field(ge=0)
    precharge_cycles: int = Field(ge=0)
    refresh_interval_cycles: int | None = Field(default=None, ge=1)
    refresh_cycles: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> DramRows:
        if self.refresh_interval_cycles is not None and self.refresh_cycles >= self.refresh_interval_cycles:
            raise ValueError(
                f"refresh_cycles={self.refresh_cycles}: leaves no time for anything else "
                f"(refresh_interval_cycles={self.refresh_interval_cycles})"
            )
        return self


class Dram(Frozen):
    """Off-chip memory behind one channel. A request takes its latency, then moves whole bursts.

    ``rows`` adds the time of opening and closing rows; without it every access finds its row open.
    ``background_mw``: what it draws at all times, refresh and standby; None: not modelled.
    """

    kind: Literal["dram"] = "dram"
    name: str = "dram"
    bandwidth_bits_per_cycle: int = Field(ge=1)
    latency_cycles: int = Field(default=0, ge=0)
    burst_bits: int = Field(default=1, ge=1)
    read_energy_pj_per_bit: Energy
    write_energy_pj_per_bit: Energy
    rows: DramRows | None = None
    background_mw: Amount | None = None


class Buffer(Frozen):
    """On-chip memory that keeps tiles of one operand, or of several that share its capacity.

    Attributes:
        keeps: operands that it holds.
        size_bits: capacity, shared by all that it keeps.
        double_buffer: whether a tile may be kept twice, so that the next one loads while this one is used.
        may_bypass: operands that a mapping may send past this buffer: into the next smaller one that keeps them, or
            where there is none straight to the registers.
        level: which of the mapping's buffer tiles it holds, counted from 1, the outermost. None: one more than the
            innermost buffer listed before it that keeps one of its operands.
        read_bandwidth_bits_per_cycle, write_bandwidth_bits_per_cycle: what a bank's port passes; None: as much as
            is asked for, in no time.
        ports: ``separate`` ports for reading and writing, or one ``shared`` port a bank.
        banks: a power of two. The tiles that the buffer holds (two of a double-buffered operand) lie in consecutive
            banks, and accesses to different banks do not wait for each other.
        latency_cycles: from a read's transfer to the arrival in a smaller buffer.
        area_um2, leakage_mw: of the whole memory; None: not modelled.
    """

    kind: Literal["buffer"] = "buffer"
    name: str
    keeps: tuple[Operand, ...] = Field(min_length=1)
    size_bits: int = Field(ge=1)
    read_energy_pj_per_bit: Energy
    write_energy_pj_per_bit: Energy
    double_buffer: bool = True
    may_bypass: tuple[Operand, ...] = ()
    level: int | None = Field(default=None, ge=1)
    read_bandwidth_bits_per_cycle: int | None = Field(default=None, ge=1)
    write_bandwidth_bits_per_cycle: int | None = Field(default=None, ge=1)
    ports: Literal["separate", "shared"] = "separate"
    banks: int = Field(default=1, ge=1)
    latency_cycles: int = Field(default=0, ge=0)
    area_um2: Amount | None = None
    leakage_mw: Amount | None = None

    @model_validator(mode="after")
    def _check(self) -> Buffer:
        if self.banks & (self.banks - 1):
            raise ValueError(f"banks={self.banks}: must be a power of two")
        if self.ports == "shared" and None in (
            self.read_bandwidth_bits_per_cycle, self.write_bandwidth_bits_per_cycle
        ):
            raise ValueError("ports=shared: needs read_bandwidth_bits_per_cycle and write_bandwidth_bits_per_cycle")
        for operand in self.may_bypass:
            if operand not in self.keeps:
                raise ValueError(f"may_bypass={operand}: is not among what the buffer keeps")
        return self


class RegisterFile(Frozen):
    """Storage inside each PE. An operand that no register file keeps is read anew for every step.

    ``size_bits`` is the capacity in one PE, shared by all that it keeps. ``double_buffer``: a bypassing operand
    may be loaded behind the one in use. ``area_um2``, ``leakage_mw``: of one PE's; None: not modelled.
    """

    kind: Literal["register_file"] = "register_file"
    name: str
    keeps: tuple[Operand, ...] = Field(min_length=1)
    size_bits: int = Field(ge=1)
    read_energy_pj_per_bit: Energy
    write_energy_pj_per_bit: Energy
    double_buffer: bool = False
    area_um2: Amount | None = None
    leakage_mw: Amount | None = None


Memory = Annotated[Dram | Buffer | RegisterFile, Field(discriminator="kind")]


class VectorUnit(Frozen):
    """What runs everything that is not a loop nest: ``lanes`` operations a cycle.

    ``fuses_elementwise``: an element-wise operation behind a layer runs on its results as they drain, and its
    data never goes to DRAM. It still takes its cycles and its energy. ``area_um2``, ``leakage_mw``: of all lanes
    together; None: not modelled.
    """

    lanes: int = Field(ge=1)
    energy_pj_per_operation: Energy
    element_bits: int = Field(default=8, ge=1)
    fuses_elementwise: bool = True
    area_um2: Amount | None = None
    leakage_mw: Amount | None = None


def check_memories(memories: Sequence[Memory]) -> None:
    """Raise ``ValueError`` where memories do not make a hierarchy: order, names, who keeps which operand, levels.

    A DRAM, where there is one among them, stands first; that there is one is for the machine to say.
    """
    kinds = [memory.kind for memory in memories]
    if kinds != sorted(kinds, key=["dram", "buffer", "register_file"].index):
        raise ValueError("memories: must be listed outermost first: DRAM, buffers, register files")
    names = [memory.name for memory in memories]
    if len(set(names)) != len(names):
        raise ValueError(f"memories: names must differ, got {names}")
    taken = [name for name in names if name in COMPONENTS]
    if taken:
        raise ValueError(f"memories: the name {taken[0]!r} is kept for a component of energy")
    buffers = [memory for memory in memories if isinstance(memory, Buffer)]
    for operand in OPERANDS:
        levels = [buffer_level(buffers, buffer) for buffer in buffers if operand in buffer.keeps]
        if not levels:
            raise ValueError(f"memories: no buffer keeps the {operand}")
        if sorted(set(levels)) != levels:
            raise ValueError(
                f"memories: the buffers of the {operand} are on levels {levels}; each must lie further in"
            )
        files = sum(isinstance(memory, RegisterFile) and operand in memory.keeps for memory in memories)
        if files > 1:
            raise ValueError(f"memories: {files} register files keep the {operand}; this version runs one")
    levels = sorted({buffer_level(buffers, buffer) for buffer in buffers})
    if levels != list(range(1, len(levels) + 1)):
        raise ValueError(f"memories: buffers are on levels {levels}; levels are counted from 1 without gaps")


def buffer_level(buffers: Sequence[Buffer], buffer: Buffer) -> int:
    """Which of a mapping's buffer tiles a buffer holds, counted from 1, the outermost."""
    if buffer.level is not None:
        return buffer.level
    outer = buffers[: [other.name for other in buffers].index(buffer.name)]
    return 1 + max((buffer_level(buffers, other) for other in outer if set(other.keeps) & set(buffer.keeps)), default=0)


class Accelerator(Shown, Frozen):
    """One tile: memories outermost first, a grid, its PEs, a vector unit, a clock.

    ``output_stage``: conversions and scales behind the grid; None: not modelled. ``floating_point_unit``: runs layers
    that stay in floating point beside an integer grid; the engines leave it out. ``sources`` says for each number, or
    group of numbers, where it was published.
    """

    name: str
    description: str
    clock_mhz: float = Field(gt=0)
    memories: tuple[Memory, ...]
    grid: Grid
    processing_element: ProcessingElement
    vector_unit: VectorUnit
    output_stage: OutputStage | None = None
    floating_point_unit: FloatingPointUnit | None = None
    sources: dict[str, Source] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Accelerator:
        kinds = [memory.kind for memory in self.memories]
        if kinds.count("dram") != 1 or kinds[0] != "dram":
            raise ValueError("memories: the first must be the one DRAM")
        check_memories(self.memories)
        unknown = unknown_sources(self.model_dump(mode="json", exclude={"sources"}), self.sources)
        if unknown:
            raise UnknownSources(unknown)
        return self

    @property
    def dram(self) -> Dram:
        """The off-chip memory."""
        first = self.memories[0]
        assert isinstance(first, Dram)
        return first

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """The on-chip buffers, outermost first."""
        return tuple(memory for memory in self.memories if isinstance(memory, Buffer))

    @property
    def register_files(self) -> tuple[RegisterFile, ...]:
        """The storage inside each PE."""
        return tuple(memory for memory in self.memories if isinstance(memory, RegisterFile))

    def level_of(self, buffer: Buffer) -> int:
        """Which of a mapping's buffer tiles a buffer holds, counted from 1, the outermost."""
        return buffer_level(self.buffers, buffer)

    @property
    def buffer_levels(self) -> int:
        """Levels of buffers between DRAM and registers."""
        return max(self.level_of(buffer) for buffer in self.buffers)

    def buffers_of(self, operand: Operand) -> tuple[Buffer, ...]:
        """Return the buffers that keep an operand, outermost first."""
        return tuple(buffer for buffer in self.buffers if operand in buffer.keeps)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Everything that takes room or leaks: PEs, memories, vector unit, and what else is described."""
        element, unit, grid, stage = self.processing_element, self.vector_unit, self.grid, self.output_stage
        pes = grid.pe_count
        on_chip: list[tuple[str, str, int, _OnChip]] = [("processing_elements", "processing_element", pes, element)]
        for memory in self.memories:
            if not isinstance(memory, Dram):
                copies = pes if isinstance(memory, RegisterFile) else 1
                on_chip.append((memory.name, f"memories.{memory.name}", copies, memory))
        on_chip.append(("vector_unit", "vector_unit", 1, unit))
        if grid.interconnect is not None:
            on_chip.append(("interconnect", "grid.interconnect", 1, grid.interconnect))
        if stage is not None:
            on_chip.append(("output_stage", "output_stage", 1, stage))
        if self.floating_point_unit is not None:
            on_chip.append((FLOATING_POINT_UNIT, FLOATING_POINT_UNIT, 1, self.floating_point_unit))
        dram = self.dram
        return (
            *(
                Part(name, path, "leakage_mw", copies, True, described.area_um2, described.leakage_mw)
                for name, path, copies, described in on_chip
            ),
            Part(dram.name, f"memories.{dram.name}", "background_mw", 1, False, None, dram.background_mw),
        )

    @property
    def area_mm2(self) -> float | None:
        """Area of the parts on chip that are described; None where that of any of them is not modelled.

        Control, pads, clock tree and the wiring between parts are never in it, nor is an interconnect or an output
        stage without a description.
        """
        on_chip = [part for part in self.parts if part.is_on_chip]
        areas = [part.copies * part.area_um2 for part in on_chip if part.area_um2 is not None]
        return sum(areas) * 1e-6 if len(areas) == len(on_chip) else None

    @property
    def own_leakage_pj_per_cycle(self) -> float | None:
        """Energy that all parts together draw in a cycle, working or not; None where that of none is modelled."""
        known = [part.copies * part.leakage_mw for part in self.parts if part.leakage_mw is not None]
        # mW times µs are nJ.
        return sum(known) * 1e3 / self.clock_mhz if known else None

    @property
    def idle_leakage_pj_per_cycle(self) -> float | None:
        """Energy that tiles beside this one draw in a cycle; None where there are none, or that of none is modelled."""
        return None

    @property
    def leakage_pj_per_cycle(self) -> float | None:
        """All that leaks in a cycle, here and in tiles beside this one; None where nothing is modelled."""
        known = [each for each in (self.own_leakage_pj_per_cycle, self.idle_leakage_pj_per_cycle) if each is not None]
        return sum(known) if known else None

    def registers_of(self, operand: Operand) -> RegisterFile | None:
        """Return the register file that keeps an operand, or None where it is read anew for every step."""
        return next((file for file in self.register_files if operand in file.keeps), None)
