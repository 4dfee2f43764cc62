"""Writes docs/yaml_reference.md: every field of every YAML file that Bitmosaic reads, from the models that read them.

    python tools/yaml_reference.py

Type, default and limits are those of the pydantic models. What a field means is its model's own docstring
("Attributes:"), or where that has no entry the table of docs/hardware.md, which the tests hold to the same models. A
field without a meaning is an error. tests/unit/test_references.py fails while the page is not what this writes.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bitmosaic.explorations.assignment_file import SCHEMA as ASSIGNMENT_SCHEMA
from bitmosaic.mapping_files import CONSTRAINTS_SCHEMA, LAYER_SCHEMA, MAPPING_SCHEMA
from bitmosaic.sweeps.description import SweepDescription
from hw_configs.loader import VERSION_FIELD
from hw_configs.technology_tables import Technology
from simulator.accelerator import Accelerator
from simulator.formats import Format
from simulator.tiled import TiledAccelerator

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "yaml_reference.md"

FILES: dict[str, tuple[type[BaseModel], str, str]] = {
    "A machine": (Accelerator, VERSION_FIELD, "`bitmosaic hardware`, `validate`, `--hardware`; presets. Explained in "
                  "[hardware.md](hardware.md)."),
    "A machine of several tiles": (TiledAccelerator, VERSION_FIELD, "The same commands; a file with a field `tiles` or "
                                   "`dram` is one. See [hardware.md](hardware.md#several-tiles)."),
    "A layer": (LAYER_SCHEMA.model, LAYER_SCHEMA.version_field,
                "`bitmosaic map FILE`; `load_layer`, `dump_layer`."),
    "A mapping": (MAPPING_SCHEMA.model, MAPPING_SCHEMA.version_field,
                  "Options `--from` and `--out` of `bitmosaic map`; `load_mapping`, `dump_mapping`. See "
                  "[mapper.md](mapper.md)."),
    "Constraints of a mapping": (CONSTRAINTS_SCHEMA.model, CONSTRAINTS_SCHEMA.version_field,
                                 "Option `--constraints` of `bitmosaic map`; `load_constraints`. See "
                                 "[mapper.md](mapper.md)."),
    "An assignment": (ASSIGNMENT_SCHEMA.model, ASSIGNMENT_SCHEMA.version_field,
                      "Option `--assignment` of `bitmosaic simulate`; `load_assignment`. See "
                      "[explore.md](explore.md#assignments-as-files)."),
    "A sweep": (SweepDescription, VERSION_FIELD, "`bitmosaic sweep run`; `bitmosaic.sweep`. See [sweep.md](sweep.md)."),
    "A technology table": (Technology, "", "The files in `hw_configs/technology`, which sources of a machine name."),
}
# Suffix of a field's name → unit. The longest that fits counts.
UNITS = {
    "_pj_per_bit": "pJ a bit", "_bits_per_cycle": "bits a cycle", "_pj_per_cycle": "pJ a cycle",
    "_pj_per_operation": "pJ", "_pj_per_bit_hop": "pJ a bit and hop", "_pj_per_weight": "pJ a weight", "_pj": "pJ",
    "_um2": "µm²", "_mm2": "mm²", "_mw": "mW", "_cycles": "cycles", "_bits": "bits", "_mhz": "MHz", "_nm": "nm",
    "_seconds": "s", "_seconds_per_layer": "s",
}
_PLAIN = {
    int: "whole number", float: "number", str: "text", bool: "`true`, `false`", Any: "any value", Format: "format",
}
_LIMITS = {Ge: ("at least", "ge"), Gt: ("more than", "gt"), Le: ("at most", "le"), Lt: ("less than", "lt")}


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models that a type is made of, in order."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def reached(model: type[BaseModel], known: dict[type[BaseModel], None]) -> None:
    """Add a model, and then those inside it, where they are met first."""
    if model not in known:
        known[model] = None
        for field in model.model_fields.values():
            for inner in models_in(field.annotation):
                reached(inner, known)


def type_text(annotation: Any) -> str:
    """A type in words: ``list of whole number``, or a link to the section of a model."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        parts = ["null" if part is type(None) else type_text(part) for part in arguments]
        return " or ".join(dict.fromkeys(parts))
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"list of {type_text(arguments[0])}"
        return f"list of {len(arguments)}: {', '.join(type_text(part) for part in arguments)}"
    if origin in (dict,) or getattr(origin, "__name__", "") == "Mapping":
        return f"{type_text(arguments[0])} → {type_text(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    raise TypeError(f"annotation={annotation}: has no words here")


def limits_text(field: FieldInfo) -> str:
    """What a value must keep beside its type."""
    found = []
    for limit in [*field.metadata, *_inner_metadata(field.annotation)]:
        if isinstance(limit, MinLen):
            found.append(f"at least {limit.min_length} {'letter' if field.annotation is str else 'entry'}")
        for kind, (words, name) in _LIMITS.items():
            if isinstance(limit, kind):
                found.append(f"{words} {getattr(limit, name):g}")
    return ", ".join(dict.fromkeys(found))


def _inner_metadata(annotation: Any) -> list[Any]:
    """Limits that stand at a member of a union: ``Annotated[float, Field(ge=0)] | None``."""
    found: list[Any] = []
    for part in get_args(annotation) if get_origin(annotation) in (Union, UnionType) else ():
        if get_origin(part) is Annotated:
            for each in get_args(part)[1:]:
                found += each.metadata if isinstance(each, FieldInfo) else [each]
    return found


def default_text(field: FieldInfo, name: str) -> str:
    """The default as YAML has it, or *required*. A kind tells the reader which model it is, and must be given."""
    if field.is_required() or name == "kind":
        return "*required*"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    elif isinstance(value, Format):
        value = str(value.name if hasattr(value, "name") else value)
    return f"`{json.dumps(value, default=str)}`"


def unit_of(name: str) -> str:
    """The unit that a field's name ends in, or nothing."""
    fitting = [suffix for suffix in UNITS if name.endswith(suffix)]
    return UNITS[max(fitting, key=len)] if fitting else ""


def docstring_meanings(model: type[BaseModel]) -> dict[str, str]:
    """Field → its entry under "Attributes:" of the docstrings of a model and of what it is derived from."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        text = inspect.cleandoc(base.__doc__ or "")
        _, _, section = text.partition("Attributes:\n")
        for names, meaning in re.findall(r"^    ([\w, ]+): (.+(?:\n {8,}.+)*)", section, re.MULTILINE):
            for name in names.split(", "):
                found[name] = " ".join(meaning.split()).replace("``", "`")
    return found


def hardware_meanings() -> dict[frozenset[str], dict[str, str]]:
    """Tables of fields of docs/hardware.md: set of fields → field → meaning."""
    found = {}
    text = (DOCS / "hardware.md").read_text(encoding="utf-8")
    table = r"^\| field \| unit \| default \| meaning \|\n\|[- |]+\|\n((?:\|.*\|\n)+)"
    for block in re.findall(table, text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|\n ").split(" | ")] for line in block.splitlines()]
        meanings = {row[0].strip("`"): row[-1].replace("](#", "](hardware.md#") for row in rows}
        meanings.pop(VERSION_FIELD, None)
        found[frozenset(meanings)] = meanings
    return found


def meanings_of(model: type[BaseModel], tables: dict[frozenset[str], dict[str, str]]) -> dict[str, str]:
    """Field → meaning. Raises ``ValueError`` naming the fields without one."""
    fields = model.model_fields
    own = {name: field.description for name, field in fields.items() if field.description}
    found = {**tables.get(frozenset(fields), {}), **docstring_meanings(model), **own}
    lacking = [name for name in fields if not found.get(name)]
    if lacking:
        raise ValueError(f"{model.__name__}: no meaning of {', '.join(lacking)}: give each an entry under Attributes")
    return {name: found[name] for name in fields}


def section(model: type[BaseModel], version: str, tables: dict[frozenset[str], dict[str, str]]) -> list[str]:
    """The table of a model's fields."""
    lines = ["| field | type | unit | default | meaning |", "| --- | --- | --- | --- | --- |"]
    if version:
        lines.append(f"| `{version}` | whole number | | *required* | version of the format: 1 |")
    for name, meaning in meanings_of(model, tables).items():
        field = model.model_fields[name]
        limits = limits_text(field)
        kind = type_text(field.annotation) + (f"; {limits}" if limits else "")
        cells = [f"`{name}`", kind.replace("|", "or"), unit_of(name), default_text(field, name), meaning]
        lines.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return lines


def page() -> str:
    """The whole page."""
    tables = hardware_meanings()
    lines = [
        "# YAML reference", "",
        "<!-- Written by tools/yaml_reference.py from the models that read the files. Do not edit. -->", "",
        "Every field of every file that Bitmosaic reads. A field that is not here is refused, with its line and what",
        "is allowed. Files are YAML 1.2; units stand in the names. A *required* field has no default; `→` is a mapping",
        "from keys to values. A precision is its short form (`w4a8`) where a file of precisions asks for one, or its",
        "fields.", "",
    ]
    lines += [f"- [{heading}](#{heading.lower().replace(' ', '-')})" for heading in FILES]
    parts: dict[type[BaseModel], None] = {}
    for heading, (model, version, note) in FILES.items():
        lines += ["", f"## {heading}", "", note, "", *section(model, version, tables)]
        for field in model.model_fields.values():
            for inner in models_in(field.annotation):
                reached(inner, parts)
    lines += ["", "## Parts", "", "What stands inside the files above, by the name of its model."]
    tops = {model for model, _, _ in FILES.values()}
    for model in parts:
        if model not in tops:
            lines += ["", f"### {model.__name__}", "", *section(model, "", tables)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE}: written", file=sys.stderr)
