"""Machines of a report: each as the differences from a base, with what a reader asks of it first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bitmosaic.report_page.model import Change, MachineEntry, PartEntry, Shared
from bitmosaic.sweeps.fields import plain_description
from bitmosaic.sweeps.points import HardwarePoint
from hw_configs.loader import SCHEMA_VERSION, VERSION_FIELD
from simulator.tiled import Machine

Place = tuple[str | int, ...]


class Machines:
    """The machines of a report, gathered one by one."""

    def __init__(self) -> None:
        self.descriptions: list[dict[str, Any]] = []
        self.entries: list[MachineEntry] = []
        self.parts = Shared[PartEntry]()
        self._bases: dict[str, int] = {}
        self._files: dict[str, int] = {}

    def add(self, name: str, machine: Machine, fields: Mapping[str, Any] | None = None) -> int:
        """Keep a machine, and return its place. The first of a name is the base of those behind it."""
        description = {VERSION_FIELD: SCHEMA_VERSION, **plain_description(machine)}
        # Sources would be most of the page, and a description is valid without them.
        description["sources"] = {}
        base = self._bases.setdefault(name, len(self.descriptions))
        if base == len(self.descriptions):
            self.descriptions.append(description)
        point = HardwarePoint(name, dict(fields or {}), machine)
        parts = (
            PartEntry(
                name=part.name, copies=part.copies,
                area_mm2=None if part.area_um2 is None or not part.is_on_chip else part.copies * part.area_um2 * 1e-6,
                leakage_mw=None if part.leakage_mw is None else part.copies * part.leakage_mw,
            )
            for part in machine.parts
        )
        self.entries.append(MachineEntry(
            name=name, file=self._file(name), base=base, fields=dict(fields or {}),
            changes=tuple(changes(self.descriptions[base], description)), pe_count=point.pe_count,
            buffer_bits=point.buffer_bits, area_mm2=point.area_mm2, leakage_mw=point.leakage_mw,
            bandwidth_bits_per_cycle=machine.dram.bandwidth_bits_per_cycle, parts=self.parts.places(parts),
        ))
        return len(self.entries) - 1

    def _file(self, name: str) -> str:
        """A file name of its own: numbers tell the machines of one name apart."""
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        self._files[plain] = self._files.get(plain, 0) + 1
        return f"{plain}_{self._files[plain]}.yaml"


def changes(base: Any, other: Any, place: Place = ()) -> Iterator[Change]:
    """What makes ``other`` of ``base``, as few and as deep as there are; where their shapes differ, the whole part.

    >>> [(change.place, change.value) for change in changes({"a": [1, 2], "b": 3}, {"a": [1, 5], "b": 3})]
    [(('a', 1), 5)]
    """
    if isinstance(base, dict) and isinstance(other, dict) and base.keys() == other.keys():
        for key, value in base.items():
            yield from changes(value, other[key], (*place, key))
    elif isinstance(base, list) and isinstance(other, list) and len(base) == len(other):
        for index, (one, another) in enumerate(zip(base, other, strict=True)):
            yield from changes(one, another, (*place, index))
    elif base != other:
        yield Change(place=place, value=other)
