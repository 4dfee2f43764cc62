"""A machine of several tiles that share one DRAM, and what each of them is to the engines: an ``Accelerator``.

Tiles may differ in everything but the clock: an integer array stands next to one in floating point. In this version
they take turns (docs/simulator.md, "Several tiles"): an operation runs on one tile with the whole DRAM channel, the
others rest and leak, and operands pass from tile to tile through DRAM, as those of every layer do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field, model_validator

from simulator.accelerator import (
    IDLE_LEAKAGE,
    LEAKAGE,
    Accelerator,
    Amount,
    Buffer,
    Dram,
    Grid,
    Part,
    RegisterFile,
    VectorUnit,
    check_memories,
)
from simulator.errors import ConfigurationError, Problem
from simulator.layer import Frozen
from simulator.output_stage import OutputStage
from simulator.precision import LayerPrecision
from simulator.processing_elements import ProcessingElement
from simulator.provenance import (
    EVERYTHING,
    Confidence,
    Source,
    UnknownSources,
    confidence_of,
    network_confidence,
    not_modelled,
    source_of,
    unknown_sources,
    weakest,
)
from simulator.shown import Shown

OnChipMemory = Annotated[Buffer | RegisterFile, Field(discriminator="kind")]
_CLOCK = "clock_mhz"


class Tile(Frozen):
    """A grid of PEs with buffers, registers, a vector unit and an output stage of its own: an accelerator but its DRAM.

    ``memories``: buffers, then register files, outermost first. ``preset``: the preset that a file takes the tile from,
    for the reader; the fields hold all that counts.
    """

    name: str = Field(min_length=1)
    preset: str | None = None
    memories: tuple[OnChipMemory, ...]
    grid: Grid
    processing_element: ProcessingElement
    vector_unit: VectorUnit
    output_stage: OutputStage | None = None

    @model_validator(mode="after")
    def _check(self) -> Tile:
        if "." in self.name:
            raise ValueError(f"name={self.name!r}: must not hold a dot, which parts the names of places in sources")
        check_memories(self.memories)
        return self


class MachineTile(Accelerator):
    """A tile as the engines and the mapper take it: an accelerator with the shared DRAM to itself, and with neighbours.

    ``idle_leakage_mw``: power that the other tiles draw at all times; None: not modelled. It is a component of energy
    of its own, and part of ``leakage_pj_per_cycle``, so that a search for least energy counts it.
    """

    idle_leakage_mw: Amount | None = None

    @property
    def idle_leakage_pj_per_cycle(self) -> float | None:
        """Energy that the other tiles draw in a cycle; None where that of none is modelled."""
        # mW times µs are nJ.
        return None if self.idle_leakage_mw is None else self.idle_leakage_mw * 1e3 / self.clock_mhz


class TiledAccelerator(Shown, Frozen):
    """Several tiles, one DRAM and one clock for all of them.

    ``sources`` says where numbers are from; those of a tile are called ``tiles.NAME`` and what an accelerator calls
    them: ``tiles.fusion.memories.weight_buffer.size_bits``. The DRAM's are called ``dram``.
    """

    name: str
    description: str
    clock_mhz: float = Field(gt=0)
    dram: Dram
    tiles: tuple[Tile, ...] = Field(min_length=1)
    sources: dict[str, Source] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> TiledAccelerator:
        names = self.tile_names
        if len(set(names)) != len(names):
            raise ValueError(f"tiles: names must differ, got {list(names)}")
        for tile in self.tiles:
            if self.dram.name in {memory.name for memory in tile.memories}:
                raise ValueError(f"tiles: a memory of tile {tile.name} has the name of the DRAM, {self.dram.name!r}")
        unknown = unknown_sources(self.model_dump(mode="json", exclude={"sources"}), self.sources)
        if unknown:
            raise UnknownSources(unknown)
        return self

    @property
    def tile_names(self) -> tuple[str, ...]:
        """Names of the tiles, in the order of the description."""
        return tuple(tile.name for tile in self.tiles)

    def tile(self, name: str) -> MachineTile:
        """A tile as an accelerator: with the DRAM, the clock, its own sources, and the leakage of the others.

        Raises ``KeyError`` where there is no such tile.
        """
        found = {tile.name: tile for tile in self.tiles}[name]
        return self._as_accelerator(found, self._idle_leakage_mw(name))

    def _as_accelerator(self, tile: Tile, idle_leakage_mw: float | None) -> MachineTile:
        return MachineTile(
            name=f"{self.name}.{tile.name}",
            description=f"tile {tile.name} of {self.name}",
            clock_mhz=self.clock_mhz,
            memories=(self.dram, *tile.memories),
            grid=tile.grid,
            processing_element=tile.processing_element,
            vector_unit=tile.vector_unit,
            output_stage=tile.output_stage,
            sources=self._sources_of(tile),
            idle_leakage_mw=idle_leakage_mw,
        )

    def _idle_leakage_mw(self, name: str) -> float | None:
        powers = [
            part.copies * part.leakage_mw
            for tile in self.tiles if tile.name != name
            for part in self._parts_on_chip(tile) if part.leakage_mw is not None
        ]
        # Exactly rounded, so that equal tiles in different places have equal neighbours.
        return math.fsum(powers) if powers else None

    def _parts_on_chip(self, tile: Tile) -> tuple[Part, ...]:
        return tuple(part for part in self._as_accelerator(tile, None).parts if part.is_on_chip)

    def _sources_of(self, tile: Tile) -> dict[str, Source]:
        """Sources under the names that they have in an accelerator."""
        whole = f"tiles.{tile.name}"
        # Where the file names a larger group, its source is that of each section of the tile (and not of the DRAM).
        groups = {key: self.sources[key] for key in ("tiles", whole, f"{whole}.memories") if key in self.sources}
        sections = [f"memories.{memory.name}" for memory in tile.memories]
        sections += ["grid", "processing_element", "vector_unit", *(["output_stage"] if tile.output_stage else [])]
        found: dict[str, Source] = {}
        for section in sections:
            source = source_of(groups, f"{whole}.{section}")
            if source is not None:
                found[section] = source
        for key, source in self.sources.items():
            if key in (EVERYTHING, _CLOCK):
                found[key] = source
            elif key == "dram" or key.startswith("dram."):
                found[f"memories.{self.dram.name}{key.removeprefix('dram')}"] = source
            elif key.startswith(f"{whole}.") and key not in (*groups, f"{whole}.name", f"{whole}.preset"):
                found[key.removeprefix(f"{whole}.")] = source
        return found

    @property
    def parts(self) -> tuple[Part, ...]:
        """Everything that takes room or leaks, tile by tile (``fusion.weight_buffer``), and the DRAM once."""
        dram = self.dram
        return (
            *(
                part._replace(name=f"{tile.name}.{part.name}", path=f"tiles.{tile.name}.{part.path}")
                for tile in self.tiles for part in self._parts_on_chip(tile)
            ),
            Part(dram.name, "dram", "background_mw", 1, False, None, dram.background_mw),
        )

    @property
    def area_mm2(self) -> float | None:
        """Sum of the tiles' areas; None where one of them has a part whose area is not modelled.

        What connects the tiles with each other and with the DRAM is never in it.
        """
        areas = [self._as_accelerator(tile, None).area_mm2 for tile in self.tiles]
        known = [area for area in areas if area is not None]
        return math.fsum(known) if len(known) == len(areas) else None

    @property
    def leakage_pj_per_cycle(self) -> float | None:
        """Energy that all tiles and the DRAM draw in a cycle, whoever works; None where that of none is modelled."""
        return self.tile(self.tile_names[0]).leakage_pj_per_cycle


Machine = Accelerator | TiledAccelerator


def tiles_of(machine: Machine) -> dict[str | None, Accelerator]:
    """Tile's name → the tile as an accelerator, in the order of the description; of one tile None → the machine."""
    if isinstance(machine, Accelerator):
        return {None: machine}
    return {name: machine.tile(name) for name in machine.tile_names}


def single_tile(machine: Machine, what: str) -> Accelerator:
    """The machine, if it has one tile. Raises ``ConfigurationError``, saying ``what`` takes no others."""
    if isinstance(machine, Accelerator):
        return machine
    raise ConfigurationError(
        Problem(f"{what} takes machines of one tile; open_machine, map_network and `bitmosaic simulate` take this one",
                where=f"accelerator {machine.name}", path="tiles", value=", ".join(machine.tile_names))
    )


def machine_confidence(
    machine: Machine, precisions: Mapping[str | None, Iterable[LayerPrecision]]
) -> dict[str, Confidence | None]:
    """Component of energy → the weakest confidence over all tiles at work (``provenance.network_confidence``).

    ``precisions``: tile's name (None on a machine of one tile) → the precisions that it ran. A component's name may
    stand for parts of several tiles, two weight buffers say.
    """
    tiles = tiles_of(machine)
    found: dict[str, list[Confidence | None]] = {}
    for name, ran in precisions.items():
        for component, confidence in network_confidence(tiles[name], ran).items():
            found.setdefault(component, []).append(confidence)
    if isinstance(machine, TiledAccelerator) and any(
        tile.idle_leakage_pj_per_cycle is not None for tile in tiles.values()
    ):
        leaking = [part for part in machine.parts if part.is_on_chip and part.leakage_mw is not None]
        found[IDLE_LEAKAGE] = [confidence_of(machine, *(f"{part.path}.{part.power}" for part in leaking))]
    return {component: weakest(each) for component, each in found.items()}


def machine_not_modelled(machine: Machine) -> tuple[str, ...]:
    """What costs energy and is left out of a description, in words, with the tiles that it is left out of."""
    if isinstance(machine, Accelerator):
        return not_modelled(machine)
    lacking: dict[str, list[str]] = {}
    for name in machine.tile_names:
        for note in not_modelled(machine.tile(name)):
            if not note.startswith(LEAKAGE):
                lacking.setdefault(note, []).append(name)
    found = [
        note if len(names) == len(machine.tiles) else f"{note} (tile {', '.join(names)})"
        for note, names in lacking.items()
    ]
    silent = [part.name for part in machine.parts if part.leakage_mw is None]
    if silent:
        everything = len(silent) == len(machine.parts)
        found.append(LEAKAGE if everything else f"{LEAKAGE} of {', '.join(silent)}")
    return tuple(found)
