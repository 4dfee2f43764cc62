"""What a user asks of a mapping beyond that it fits: factors, tiles, orders, what is held, what bypasses.

Constraints narrow the space of the search (``constrained_space``); the proof then holds within them. They are written
for the layer as a whole and for single levels of the hierarchy; ``by_level`` says both in one form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from simulator.layer import Dim, Frozen, Operand

LoopLevel = Literal["dram", "buffer"]


class Range(Frozen):
    """What a number may be: ``exactly`` one, or from ``at_least`` to ``at_most``; a plain number means exactly that.

    Attributes:
        exactly: this number and no other; alone.
        at_least: this number or more.
        at_most: this number or less.
    """

    exactly: int | None = Field(default=None, ge=1)
    at_least: int | None = Field(default=None, ge=1)
    at_most: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return {"exactly": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check(self) -> Range:
        if self.exactly is not None and (self.at_least is not None or self.at_most is not None):
            raise ValueError(f"exactly={self.exactly}: leaves nothing to at_least and at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least={self.at_least}: must not exceed at_most={self.at_most}")
        if (self.exactly, self.at_least, self.at_most) == (None, None, None):
            raise ValueError("needs exactly, at_least or at_most")
        return self

    @property
    def least(self) -> int:
        """The smallest number allowed."""
        return self.exactly or self.at_least or 1

    @property
    def named(self) -> tuple[int, ...]:
        """The numbers that the user wrote."""
        return tuple(number for number in (self.exactly, self.at_least, self.at_most) if number is not None)

    def holds(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of many numbers are allowed."""
        allowed = values >= self.least
        most = self.exactly or self.at_most
        return allowed if most is None else allowed & (values <= most)

    def __str__(self) -> str:
        if self.exactly is not None:
            return str(self.exactly)
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least} to {self.at_most}"
        return f"at least {self.at_least}" if self.at_least is not None else f"at most {self.at_most}"


class LevelConstraints(Frozen):
    """Constraints on one level of a mapping, named as in ``MappingLevel``.

    Attributes:
        tile: extents of the level's tile; at DRAM it is the layer.
        trips: trips of the loops inside the level's tile, over the next smaller tiles.
        order: dimensions, outermost first: those of them that loop here stand in this order.
        stationary: the operand that the loops here hold: of those that loop, the ones irrelevant to it are innermost.
        bypass: operand → whether it passes the buffers of this level by; not at DRAM.
        double_buffer: operand → whether its next tile loads here while the present one is used; not at DRAM.
    """

    tile: dict[Dim, Range] = Field(default_factory=dict)
    trips: dict[Dim, Range] = Field(default_factory=dict)
    order: tuple[Dim, ...] = ()
    stationary: Operand | None = None
    bypass: dict[Operand, bool] = Field(default_factory=dict)
    double_buffer: dict[Operand, bool] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> LevelConstraints:
        if len(set(self.order)) != len(self.order):
            raise ValueError(f"order={list(self.order)}: a dimension appears twice")
        return self


class MappingConstraints(Frozen):
    """Constraints on one layer's mapping, named as in ``Mapping``.

    Where the machine has several levels of buffers, ``tile``, ``order.buffer`` and ``stationary.buffer`` are of the
    innermost one, ``bypass`` and ``double_buffer`` of all; ``levels`` has what is said of a single one.

    Attributes:
        spatial: axis name (or ``lanes``) → dimension → its factor there.
        tile: extents of the buffer tile.
        register_tile: extents of the register tile of one lane.
        trips: trips of the DRAM loops.
        order: ``dram`` or ``buffer`` → dimensions, outermost first: those of them that loop (more than one trip) stand
            in this order; loops that are not named may lie anywhere.
        stationary: ``dram`` or ``buffer`` → the operand that its loops hold: of those that loop, the ones irrelevant to
            it are innermost.
        bypass: operand → whether it bypasses its buffer; left out: either.
        double_buffer: operand → whether its next tile loads while the present one is used; left out: either.
        levels: ``dram``, ``buffer 1`` (the outermost), ``buffer 2``, …, or ``buffer`` (the innermost) → constraints on
            that level.
    """

    spatial: dict[str, dict[Dim, Range]] = Field(default_factory=dict)
    tile: dict[Dim, Range] = Field(default_factory=dict)
    register_tile: dict[Dim, Range] = Field(default_factory=dict)
    trips: dict[Dim, Range] = Field(default_factory=dict)
    order: dict[LoopLevel, tuple[Dim, ...]] = Field(default_factory=dict)
    stationary: dict[LoopLevel, Operand] = Field(default_factory=dict)
    bypass: dict[Operand, bool] = Field(default_factory=dict)
    double_buffer: dict[Operand, bool] = Field(default_factory=dict)
    levels: dict[str, LevelConstraints] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> MappingConstraints:
        for level, order in self.order.items():
            if len(set(order)) != len(order):
                raise ValueError(f"order.{level}={list(order)}: a dimension appears twice")
        required = [operand for operand, wanted in self.bypass.items() if wanted]
        if len(required) > 1:
            raise ValueError(f"bypass.{required[1]}=true: at most one operand bypasses its buffer")
        for name in ("tile", "bypass", "double_buffer"):
            if "dram" in self.levels and getattr(self.levels["dram"], name):
                raise ValueError(f"levels.dram.{name}: is for levels of buffers; DRAM holds the whole layer")
        return self

    def by_level(self, levels: int) -> ConstraintsByLevel:
        """All constraints but those on the grid and its registers, each with the level of a machine that it is about.

        ``levels``: how many levels of buffers the machine has.
        """
        found = ConstraintsByLevel()
        found.numbers += [(f"tile.{dim}", TILE, levels, dim, wish) for dim, wish in self.tile.items()]
        found.numbers += [(f"trips.{dim}", TRIPS, 0, dim, wish) for dim, wish in self.trips.items()]
        place = {"dram": 0, "buffer": levels}
        found.orders += [(f"order.{name}", place[name], order) for name, order in self.order.items()]
        found.stationary += [(f"stationary.{name}", place[name], held) for name, held in self.stationary.items()]
        found.bypass += [(f"bypass.{operand}", None, operand, wish) for operand, wish in self.bypass.items()]
        found.double_buffer += [
            (f"double_buffer.{operand}", None, operand, wish) for operand, wish in self.double_buffer.items()
        ]
        names = level_names(levels)
        for name, own in self.levels.items():
            if name != "buffer" and name not in names:
                found.unknown.append(f"levels.{name}")
                continue
            path, level = f"levels.{name}", levels if name == "buffer" else names.index(name)
            found.numbers += [(f"{path}.tile.{dim}", TILE, level, dim, wish) for dim, wish in own.tile.items()]
            found.numbers += [(f"{path}.trips.{dim}", TRIPS, level, dim, wish) for dim, wish in own.trips.items()]
            if own.order:
                found.orders.append((f"{path}.order", level, own.order))
            if own.stationary is not None:
                found.stationary.append((f"{path}.stationary", level, own.stationary))
            found.bypass += [(f"{path}.bypass.{operand}", level, operand, wish) for operand, wish in own.bypass.items()]
            found.double_buffer += [
                (f"{path}.double_buffer.{operand}", level, operand, wish) for operand, wish in own.double_buffer.items()
            ]
        return found

    def parts(self) -> Iterator[tuple[str, str, MappingConstraints]]:
        """Each constraint by itself: its path, what it says, and all the others without it."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        for path in _paths(content):
            rest = _without(content, path)
            value: Any = self
            for part in path:
                value = value[part] if isinstance(value, dict) else getattr(value, part)
            yield ".".join(path), said(value), MappingConstraints.model_validate_json(json.dumps(rest))

    def describe(self) -> str:
        """All constraints in one line."""
        return "; ".join(f"{path}={value}" for path, value, _ in self.parts())

    def space(self, unconstrained: str) -> str:
        """The space of a search: what it is without constraints, and these."""
        if self == MappingConstraints():
            return unconstrained
        return f"{unconstrained}; numbers named in constraints are tried too; within the constraints {self.describe()}"


Number = Literal["tile", "trips"]
TILE: Number = "tile"
TRIPS: Number = "trips"


@dataclass
class ConstraintsByLevel:
    """Constraints with their paths and the numbers of their levels: 0 is DRAM, then the buffers, outermost first.

    Attributes:
        numbers: of a level's tile, or of the trips of the loops inside it.
        orders: of the loops of a level.
        stationary: what the loops of a level hold.
        bypass: of one level; None: all levels at once.
        double_buffer: at one level; None: at every level that the operand passes.
        unknown: paths of levels that the machine has not.
    """

    numbers: list[tuple[str, Number, int, Dim, Range]] = field(default_factory=list)
    orders: list[tuple[str, int, tuple[Dim, ...]]] = field(default_factory=list)
    stationary: list[tuple[str, int, Operand]] = field(default_factory=list)
    bypass: list[tuple[str, int | None, Operand, bool]] = field(default_factory=list)
    double_buffer: list[tuple[str, int | None, Operand, bool]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def level_names(levels: int) -> tuple[str, ...]:
    """Names of a machine's levels, outermost first.

    >>> level_names(2)
    ('dram', 'buffer 1', 'buffer 2')
    """
    return ("dram", *(f"buffer {number}" for number in range(1, levels + 1)))


class Wishes(NamedTuple):
    """What a mapping must keep beside fitting; ``None`` is no limit. See ``map_layer``."""

    constraints: MappingConstraints = MappingConstraints()
    latency_limit_cycles: int | None = None
    energy_limit_pj: float | None = None


NO_WISHES = Wishes()


def said(value: Any) -> str:
    """A constraint's value in words."""
    if isinstance(value, tuple):
        return " ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _paths(content: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Places of the single constraints: two keys deep, three on an axis, three or four at a level."""
    for key, value in content.items():
        path = (*before, key)
        depth = {"spatial": 3, "levels": 3 if key in ("order", "stationary") else 4}.get(path[0], 2)
        if len(path) == depth:
            yield path
        elif value:
            yield from _paths(value, path)


def _without(content: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    first, *rest = path
    if not rest:
        return {key: value for key, value in content.items() if key != first}
    return {key: _without(value, tuple(rest)) if key == first else value for key, value in content.items()}
