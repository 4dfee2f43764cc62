"""The hardware points that a sampled sweep may draw: entries and the values of their grids, none of them enumerated.

A point is a choice: the number of its entry, and for each field of that entry's grid the number of its value; where the
sweep maximises accuracy the number of its precision, too. All
parameters of all entries are drawn each time, and those of other entries ignored: a sampler that crosses points over
(NSGA-II) needs all of them to have the same parameters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, TypeAdapter, ValidationError

from bitmosaic.sweeps.description import Limits, SweepDescription
from bitmosaic.sweeps.fields import Field
from bitmosaic.sweeps.points import HardwarePoint, OpenedEntry, at_place, beyond, open_entry
from hw_configs import open_machine
from hw_configs.yaml_reader import Document, path_text
from simulator.errors import Problem
from simulator.tiled import Machine

ENTRY = "hardware"  # the parameter that says which entry a point is of, where there are several
PRECISION = "precision"  # and in which of the sweep's precisions it runs, where these are drawn
NOT_BUILT = "not buildable"


class Parameter(NamedTuple):
    """Something to choose: its name and how many choices there are.

    ``is_ordered``: choices are numbers in ascending order, so that neighbours are alike.
    """

    name: str
    choice_count: int
    is_ordered: bool


@dataclass(frozen=True)
class Space:
    """What points are drawn from.

    Attributes:
        entries: have the numbers of their grids in ascending order.
        precisions: names of the sweep's policies where one is drawn for each point, else none.
    """

    entries: tuple[OpenedEntry, ...]
    limits: Limits
    precisions: tuple[str, ...] = ()

    @property
    def combination_count(self) -> int:
        """Combinations of all entries together, buildable or not."""
        machines = sum(math.prod(len(values) for values in entry.grid.values()) for entry in self.entries)
        return machines * max(1, len(self.precisions))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All parameters: which entry, where there are several, which precision, then fields of each entry's grid."""
        first = [Parameter(ENTRY, len(self.entries), False)] if len(self.entries) > 1 else []
        if self.precisions:
            first.append(Parameter(PRECISION, len(self.precisions), False))
        return tuple(first + [
            Parameter(_name(index, field.path), len(values), _are_numbers(values))
            for index, entry in enumerate(self.entries) for field, values in entry.grid.items()
        ])

    def point(self, choices: Mapping[str, int]) -> HardwarePoint | str:
        """The point of a choice for each parameter; or why there is none: the limit it breaks, or ``NOT_BUILT``.

        A limit of something that is not modelled for every part of the point is broken.
        """
        index = choices.get(ENTRY, 0)
        entry = self.entries[index]
        values = {field: values[choices[_name(index, field.path)]] for field, values in entry.grid.items()}
        found = entry.point(values)
        if isinstance(found, list):
            return NOT_BUILT
        broken, unknown = beyond(found, self.limits)
        return next(iter([*broken, *unknown]), found)

    def precision(self, choices: Mapping[str, int]) -> str | None:
        """The precision of a choice; None where a point has all of them."""
        return self.precisions[choices[PRECISION]] if self.precisions else None


def open_space(description: SweepDescription, document: Document) -> tuple[Space, tuple[Problem, ...]]:
    """The space of a sweep, and what is wrong with it.

    A value that is wrong by itself (a text where a number is wanted, a size below 1) is a mistake. One that is wrong
    beside other values is none: points that have it so cannot be built, and are counted when they are drawn.
    """
    problems: list[Problem] = []
    entries = []
    opened = cache(open_machine)
    for index, entry in enumerate(description.hardware):
        found, wrong = open_entry(entry, ("hardware", index), document, description.scale_buffers, opened)
        problems += wrong
        if found is None:
            continue
        given = [*found.override.items(), *((field, value) for field in found.grid for value in found.grid[field])]
        for field, value in given:
            if not _is_right_alone(found.machine, field, value):
                built = found.point({field: value})
                problems += [
                    problem for problem in (built if isinstance(built, list) else ()) if _is_in(problem.path, field)
                ]
        problems += _unmodelled(description, document, index, found)
        ordered = {
            field: tuple(sorted(values)) if _are_numbers(values) else values for field, values in found.grid.items()
        }
        entries.append(OpenedEntry(**{**vars(found), "grid": ordered}))
    sampling = description.sampling
    precisions: tuple[str, ...] = ()
    if sampling and sampling.draws_precision:
        precisions = (*description.precisions, *description.layer_precisions)
    if precisions and not description.accuracy:
        rule = "needs `accuracy: true`, so that there is an accuracy to maximise"
        problems.append(at_place(document, ("sampling", "maximise"), rule))
    return Space(tuple(entries), description.limits, precisions), tuple(dict.fromkeys(problems))


def _unmodelled(
    description: SweepDescription, document: Document, index: int, entry: OpenedEntry
) -> list[Problem]:
    """Costs and limits that no point of an entry can have, as far as its base tells."""
    base = entry.point({})
    sampling = description.sampling
    if isinstance(base, list):
        return base if not entry.grid else []
    problems = []
    _, unknown = beyond(base, description.limits)
    if sampling and "area_mm2" in sampling.minimise and base.area_mm2 is None and not _gives(entry, "area_um2"):
        rule = f"area_mm2 is not modelled for every part of {base.hardware} and cannot be minimised"
        problems.append(at_place(document, ("sampling", "minimise"), rule))
    return problems + [
        at_place(document, ("limits", name), f"is not modelled for every part of {base.hardware}: no limit")
        for name in unknown if not _gives(entry, {"area_mm2": "area_um2"}.get(name, name))
    ]


def _gives(entry: OpenedEntry, end: str) -> bool:
    """Whether the grid gives such fields, or whole parts, which may have them."""
    return any(
        field.path.endswith(end) or any(isinstance(value, dict | list) for value in values)
        for field, values in entry.grid.items()
    )


def _name(index: int, path: str) -> str:
    return f"{index}.{path}"


def _is_right_alone(machine: Machine, field: Field, value: Any) -> bool:
    """Whether a field takes a value, whatever stands beside it. What is no field of a model takes any."""
    owner: Any = machine
    for part in field.place[:-1]:
        owner = owner[part] if isinstance(part, int) or isinstance(owner, Mapping) else getattr(owner, part)
    if not isinstance(owner, BaseModel):
        return True
    info = type(owner).model_fields[str(field.place[-1])]
    wanted: Any = Annotated[info.annotation, info]
    try:
        TypeAdapter(wanted).validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return False
    return True


def _is_in(path: str, field: Field) -> bool:
    """Whether a problem is of a field itself, and not of what is around it."""
    own = path_text(field.place)
    return path == own or path.startswith((f"{own}.", f"{own}["))


def _are_numbers(values: tuple[object, ...]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
