"""The hardware points of a sweep: machines with fields given anew, all combinations of a grid, within the limits."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from bitmosaic.sweeps.description import HardwareEntry, Limits, SweepDescription
from bitmosaic.sweeps.fields import Field, find_field, plain_description, with_fields
from hw_configs import open_machine
from hw_configs.yaml_reader import Document, Place, path_text
from simulator.accelerator import Accelerator
from simulator.errors import BitmosaicError, Problem
from simulator.tiled import Machine, tiles_of

MOST_POINTS = 1_000_000


@dataclass(frozen=True)
class HardwarePoint:
    """One machine of a sweep.

    Attributes:
        hardware: name of the entry that it is of.
        fields: places that the sweep gives anew, in full → values.
        machine: the machine itself.
    """

    hardware: str
    fields: dict[str, Any]
    machine: Machine

    @property
    def area_mm2(self) -> float | None:
        """Area of the parts on chip; None where that of any is not modelled."""
        return self.machine.area_mm2

    @property
    def pe_count(self) -> int:
        """Processing elements of all tiles."""
        return sum(tile.grid.pe_count for tile in tiles_of(self.machine).values())

    @property
    def buffer_bits(self) -> int:
        """Size of all buffers of all tiles."""
        return sum(buffer.size_bits for tile in tiles_of(self.machine).values() for buffer in tile.buffers)

    @property
    def leakage_mw(self) -> float | None:
        """Leakage of what is on the chip; None where that of any part is not modelled."""
        on_chip = [part for part in self.machine.parts if part.is_on_chip]
        known = [part.copies * part.leakage_mw for part in on_chip if part.leakage_mw is not None]
        return math.fsum(known) if len(known) == len(on_chip) else None


@dataclass(frozen=True)
class Points:
    """Points within the limits, how many each limit left out, and what is wrong."""

    points: tuple[HardwarePoint, ...]
    left_out: dict[str, int]
    problems: tuple[Problem, ...]


def expand_points(description: SweepDescription, document: Document) -> Points:
    """Every point of every entry, in the order of the file; the last field of a grid changes fastest."""
    problems: list[Problem] = []
    points: list[HardwarePoint] = []
    left_out: Counter[str] = Counter()
    opened = cache(open_machine)  # entries often have one base, and reading its file takes longest
    for index, entry in enumerate(description.hardware):
        place: Place = ("hardware", index)
        count = math.prod(len(values) for values in entry.grid.values())
        if count > MOST_POINTS:
            problems.append(at_place(document, (*place, "grid"), f"has {count:,} points; {MOST_POINTS:,} are the most"))
            continue
        for found in _points_of(entry, place, document, description.scale_buffers, opened):
            if isinstance(found, Problem):
                problems.append(found)
                continue
            broken, unknown = beyond(found, description.limits)
            left_out.update(broken[:1])
            problems += [
                at_place(document, ("limits", name), f"is not modelled for every part of {found.hardware}: no limit")
                for name in unknown
            ]
            if not broken and not unknown:
                points.append(found)
    return Points(tuple(points), dict(left_out), tuple(dict.fromkeys(problems)))


def at_place(document: Document, place: Place, rule: str) -> Problem:
    """A problem at a place of the sweep file."""
    return Problem(rule, where=document.where(place), path=path_text(place))


@dataclass(frozen=True)
class OpenedEntry:
    """An entry of ``hardware`` with its base opened and its fields found.

    Attributes:
        name: what results call its machines.
        override: fields that every point has anew → value.
        grid: fields that points differ in → values.
        lines, file: where fields stand, for messages.
    """

    name: str
    machine: Machine
    override: dict[Field, Any]
    grid: dict[Field, tuple[Any, ...]]
    scale_buffers: bool
    lines: dict[str, int]
    file: str

    def point(self, values: Mapping[Field, Any]) -> HardwarePoint | list[Problem]:
        """The point of these values of the grid's fields, or what is wrong with it."""
        fields = self.override | dict(values)
        built, problems = (self.machine, []) if not fields else with_fields(
            self.machine, fields, scale_buffers=self.scale_buffers, name=self.file, lines=self.lines
        )
        if built is None:
            return problems
        return HardwarePoint(self.name, {field.path: value for field, value in fields.items()}, built)


def open_entry(
    entry: HardwareEntry, place: Place, document: Document, scale_buffers: bool, opened: Callable[[str], Machine]
) -> tuple[OpenedEntry | None, list[Problem]]:
    """Open an entry's base and find its fields; those that are none are left out, and are problems."""
    try:
        machine = opened(entry.base)
    except BitmosaicError as error:
        return None, [
            problem if problem.where else replace(
                problem, where=document.where((*place, "base")), path=path_text((*place, "base"))
            )
            for problem in error.problems
        ]
    plain = plain_description(machine)
    named: dict[str, dict[Field, Any]] = {"override": {}, "grid": {}}
    lines = {"": document.line(place)}
    seen: dict[str, str] = {}
    problems: list[Problem] = []
    for section, texts in (("override", entry.override), ("grid", entry.grid)):
        for text, value in texts.items():
            at = (*place, section, text)
            found = find_field(plain, text)
            if isinstance(found, Field) and found.path in seen:
                rule = f"names the same field as {seen[found.path]}"
                found = Problem(rule, path=text)
            if isinstance(found, Field) and section == "grid" and not value:
                found = Problem("must have at least 1 value", path=text)
            if isinstance(found, Problem):
                where = document.where(at)
                problems.append(replace(found, where=where, path=f"{path_text((*place, section))}: {text}"))
                continue
            seen[found.path] = f"{section}: {text}"
            named[section][found] = value
            lines[found.path] = document.line(at)
    name = entry.name or machine.name
    return OpenedEntry(
        name, machine, named["override"], named["grid"], scale_buffers, lines, document.name
    ), problems


def _points_of(
    entry: HardwareEntry, place: Place, document: Document, scale_buffers: bool, opened: Callable[[str], Machine]
) -> Iterator[HardwarePoint | Problem]:
    found, wrong = open_entry(entry, place, document, scale_buffers, opened)
    yield from wrong
    if found is None:
        return
    for values in itertools.product(*found.grid.values()):
        point = found.point(dict(zip(found.grid, values, strict=True)))
        if isinstance(point, list):
            yield from point
        elif not wrong:
            yield point


def beyond(point: HardwarePoint, limits: Limits) -> tuple[list[str], list[str]]:
    """Limits that a point breaks, and limits of what is not modelled."""
    broken, unknown = [], []
    for name in Limits.model_fields:
        most = getattr(limits, name)
        if most is None:
            continue
        amount = getattr(point, name)
        if amount is None:
            unknown.append(name)
        elif amount > most:
            broken.append(name)
    return broken, unknown


def has_values(machine: Machine) -> bool:
    """Whether the time of any tile depends on the operands' values."""
    tiles: list[Accelerator] = list(tiles_of(machine).values())
    return any(tile.processing_element.depends_on_values for tile in tiles)
