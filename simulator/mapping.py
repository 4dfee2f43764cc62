"""A mapping: how one layer is cut up in space and time on one tile.

From the outside in: DRAM is walked in *buffer tiles*, one inside the other where the machine has several levels of
buffers, a buffer tile in *register tiles* (what the whole grid works on between two loads of its registers), and
inside a register tile the grid takes *steps* of one product a lane. Loop orders are written outermost first. Tile
extents need not divide anything: the last tile is smaller.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from simulator.layer import DIMS, Dim, Frozen, Operand
from simulator.shown import Shown

Level = Literal["dram", "buffer", "register"]
Extent = Annotated[int, Field(ge=1)]


class MappingLevel(Frozen):
    """One level of the hierarchy: the tile that it holds, and the order in which it hands out smaller ones.

    Attributes:
        level: which level.
        tile: extent of the tile in each dimension; left out: 1. At DRAM it is the whole layer, and left empty.
            At the register level it is what one PE works through on one lane.
        order: loops over the next smaller tiles, outermost first; dimensions left out have one iteration.
        bypass: operands that pass the buffers of this level by (see also ``Mapping.bypass``).
        double_buffer: operands whose next tile loads at this level while the present one is used.
    """

    level: Level
    tile: dict[Dim, Extent] = Field(default_factory=dict)
    order: tuple[Dim, ...] = ()
    bypass: tuple[Operand, ...] = ()
    double_buffer: tuple[Operand, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> MappingLevel:
        if len(set(self.order)) != len(self.order):
            raise ValueError(f"order={list(self.order)}: a dimension appears twice")
        return self


class Mapping(Shown, Frozen):
    """Spatial unrolling, tiles, loop orders, bypass and double buffering of one layer.

    Attributes:
        spatial: axis name (or ``lanes``) → how many of each dimension lie along it. Kept in alphabetical order, so
            that equal mappings read the same wherever they come from.
        levels: ``dram``, a ``buffer`` for each level of buffers of the machine, ``register``; outermost first.
        bypass: operands that bypass the buffers of every level: they go from DRAM straight to the registers.
        double_buffer: operands whose next tile loads while the present one is used, at every level that keeps them.
    """

    spatial: dict[str, dict[Dim, Extent]] = Field(default_factory=dict)
    levels: tuple[MappingLevel, ...]
    bypass: tuple[Operand, ...] = ()
    double_buffer: tuple[Operand, ...] = ()

    @field_validator("spatial", mode="after")
    @classmethod
    def _in_order(cls, spatial: dict[str, dict[Dim, int]]) -> dict[str, dict[Dim, int]]:
        return dict(sorted(spatial.items()))

    @model_validator(mode="after")
    def _check(self) -> Mapping:
        names = [level.level for level in self.levels]
        if names != ["dram", *["buffer"] * max(1, len(names) - 2), "register"]:
            raise ValueError(f"levels={names}: must be dram, one buffer or several, register")
        return self

    def level(self, name: Level) -> MappingLevel:
        """Return one level by name; of several levels of buffers the innermost."""
        return next(level for level in reversed(self.levels) if level.level == name)

    @property
    def buffer_levels(self) -> tuple[MappingLevel, ...]:
        """Levels of buffers, outermost first."""
        return self.levels[1:-1]

    def bypasses(self, operand: Operand, level: int) -> bool:
        """Whether an operand passes the buffers of a level by; levels are counted from 1."""
        return operand in self.bypass or operand in self.levels[level].bypass

    def doubles(self, operand: Operand, level: int) -> bool:
        """Whether the next tile of an operand loads at a level while the present one is used."""
        return operand in self.double_buffer or operand in self.levels[level].double_buffer

    def unrolled(self, dim: Dim) -> int:
        """How many of a dimension the whole grid holds at once, lanes included."""
        factor = 1
        for unrolled in self.spatial.values():
            factor *= unrolled.get(dim, 1)
        return factor

    def describe(self) -> str:
        """One line for tables: buffer tile, register tile where there is one, unrolling, orders."""

        def extents(tile: dict[Dim, int]) -> str:
            return " ".join(f"{dim}{tile[dim]}" for dim in DIMS if tile.get(dim, 1) > 1) or "1"

        parts = ["tile " + " > ".join(extents(level.tile) for level in self.buffer_levels)]
        if any(extent > 1 for extent in self.level("register").tile.values()):
            parts.append("register " + extents(self.level("register").tile))
        parts += [f"{axis} {extents(dims)}" for axis, dims in self.spatial.items() if extents(dims) != "1"]
        parts.append("order " + "/".join("".join(level.order) for level in self.levels[:-1]))
        if self.bypass:
            parts.append("bypass " + ",".join(self.bypass))
        for number, level in enumerate(self.buffer_levels, start=1):
            if level.bypass:
                parts.append(f"bypass of level {number} " + ",".join(level.bypass))
        return "; ".join(parts)
