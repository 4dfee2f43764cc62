"""Load accelerators from YAML, list the presets, and say everything that is wrong with a file at once.

The data model in ``simulator.accelerator`` is the schema. What Pydantic finds is translated here into the
project's one form of message: where in the file, which field, what stood there, which rule it breaks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from hw_configs.yaml_reader import Document, Place, path_text, read_document, value_text
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, Problem, closest
from simulator.provenance import UnknownSources

SCHEMA_VERSION = 1
VERSION_FIELD = "bitmosaic_version"
PRESETS = Path(__file__).parent / "presets"
_DISCRIMINATOR = "kind"
_COMPARISONS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("greater than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


@dataclass(frozen=True)
class PresetInfo:
    """A preset's name, and what it is in one line."""

    name: str
    description: str


@cache
def list_presets() -> tuple[PresetInfo, ...]:
    """Return the presets that come with Bitmosaic, by name."""
    return tuple(PresetInfo(name, load_accelerator(PRESETS / f"{name}.yaml").description) for name in _names())


def open_accelerator(name_or_path: str | Path) -> Accelerator:
    """Load a preset by its name, or a YAML file by its path.

    Raises ``ConfigurationError`` where there is neither, or the file is wrong.
    """
    text = str(name_or_path)
    names = _names()
    if text in names:
        return load_accelerator(PRESETS / f"{text}.yaml")
    path = Path(text)
    looks_like_path = isinstance(name_or_path, Path) or len(path.parts) > 1 or path.suffix in (".yaml", ".yml")
    if looks_like_path or path.exists():
        return load_accelerator(path)
    raise ConfigurationError(
        Problem("no such preset", path="accelerator", value=value_text(text),
                allowed=(*names, "or a path to a YAML file"),
                did_you_mean=closest(text.lower().replace("-", "_").replace(" ", "_"), names))
    )


def load_accelerator(path: str | Path) -> Accelerator:
    """Load an accelerator from a YAML file.

    Raises ``ConfigurationError`` with every mistake in the file, in the order of its lines.
    """
    accelerator, problems = _read(Path(path))
    if accelerator is None:
        raise ConfigurationError(problems)
    return accelerator


def validate_file(path: str | Path) -> list[Problem]:
    """Return every mistake in a YAML file, in the order of its lines; an empty list if it can be loaded."""
    try:
        return _read(Path(path))[1]
    except ConfigurationError as error:
        return list(error.problems)


def dump_accelerator(accelerator: Accelerator) -> str:
    """Write an accelerator as YAML that loads back to an equal one, defaults included."""
    data = {VERSION_FIELD: SCHEMA_VERSION, **accelerator.model_dump(mode="json")}
    yaml = YAML(typ="rt", pure=True)
    yaml.Representer = _Representer
    yaml.allow_unicode = True
    # Long texts stay on one line: folding would have to preserve every blank.
    yaml.width = 1 << 20
    stream = StringIO()
    yaml.dump(_in_flow_style(data), stream)
    return stream.getvalue()


class _Representer(RoundTripRepresenter):
    """Writes ``null`` as a word: an empty value looks forgotten."""

    def represent_null(self, data: None) -> ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_null)


def _names() -> list[str]:
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))


def _in_flow_style(value: Any) -> Any:
    """Lists of plain values in brackets on one line; the rest in blocks."""
    if isinstance(value, dict):
        return {key: _in_flow_style(item) for key, item in value.items()}
    if isinstance(value, list):
        items = CommentedSeq([_in_flow_style(item) for item in value])
        if not any(isinstance(item, dict | list) for item in value):
            items.fa.set_flow_style()
        return items
    return value


def _read(path: Path) -> tuple[Accelerator | None, list[Problem]]:
    """Return the accelerator, or None and what is wrong. Raises ``ConfigurationError`` if the file is unreadable."""
    document = read_document(path)
    problems = [*document.problems, *_check_version(document)]
    accelerator = None
    try:
        # As JSON, because strict validation of Python data would not take a list for a tuple.
        accelerator = Accelerator.model_validate_json(json.dumps(document.data))
    except ValidationError as error:
        problems += _explain(document, error)
    problems.sort(key=_line_of)
    return (None if problems else accelerator), problems


def _line_of(problem: Problem) -> int:
    line = problem.where.rpartition(":")[2]
    return int(line) if line.isdigit() else 0


def _check_version(document: Document) -> Iterator[Problem]:
    """Take the schema's version out of the document, and say what is wrong with it."""
    place: Place = (VERSION_FIELD,)
    where = document.where(place)
    if VERSION_FIELD not in document.data:
        yield Problem(f"required field is missing; this release reads version {SCHEMA_VERSION}", where=where,
                      path=VERSION_FIELD, allowed=(str(SCHEMA_VERSION),))
        return
    version = document.data.pop(VERSION_FIELD)
    if place not in document.unreadable and (type(version) is not int or version != SCHEMA_VERSION):
        yield Problem("this release cannot read that version of the file format", where=where, path=VERSION_FIELD,
                      value=value_text(version), allowed=(str(SCHEMA_VERSION),))


# ---------------------------------------------------------------------------------------------------------------
# From Pydantic's findings to ours
# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spot:
    """A place in a document, what the schema wants there, and the mapping's model around it."""

    place: Place
    wanted: Any
    owner: type[BaseModel] | None


def _explain(document: Document, error: ValidationError) -> list[Problem]:
    found = [(_locate(entry["loc"]), entry) for entry in error.errors(include_url=False)]
    # A misspelt field is one mistake, although it makes another field missing.
    misspelt = {
        (*spot.place[:-1], closest(str(spot.place[-1]), _fields(spot.owner)))
        for spot, entry in found
        if entry["type"] == "extra_forbidden"
    }
    problems = []
    for spot, entry in found:
        for problem_place, problem in _translations(document, spot, entry):
            reported = any(problem_place[:depth] in document.unreadable for depth in range(len(problem_place) + 1))
            if problem is not None and not reported and not (entry["type"] == "missing" and problem_place in misspelt):
                problems.append(problem)
    return problems


def _translations(document: Document, spot: _Spot, entry: Any) -> Iterator[tuple[Place, Problem | None]]:
    """Say in our words what Pydantic found. A model may have found several things, one a line."""
    error = entry["ctx"]["error"] if entry["type"] == "value_error" else None
    if not isinstance(error, UnknownSources):
        yield _translate(document, spot, entry)
        return
    for key, rule in error.rules.items():
        place: Place = (*spot.place, "sources", key)
        yield place, Problem(rule, where=document.where(place), path=path_text(place))


def _locate(location: tuple[str | int, ...]) -> _Spot:
    """Follow Pydantic's location through the schema: it also names the member chosen of each union."""
    place: Place = ()
    wanted: Any = Accelerator
    owner: type[BaseModel] | None = None
    for part in location:
        members = _members(wanted)
        if part in members:
            wanted = members[str(part)]
            continue
        place = (*place, part)
        if isinstance(wanted, type) and issubclass(wanted, BaseModel):
            owner = wanted
            field = wanted.model_fields.get(str(part))
            wanted = field.annotation if field else None
        else:
            owner = None
            arguments = get_args(wanted)
            wanted = (arguments[1] if get_origin(wanted) is dict else arguments[0]) if arguments else None
        if get_origin(wanted) is Annotated:
            wanted = get_args(wanted)[0]
    return _Spot(place, wanted, owner)


def _members(wanted: Any) -> dict[str, type[BaseModel]]:
    """Models of a tagged union by their tag; empty if it is none."""
    found: dict[str, type[BaseModel]] = {}
    for member in get_args(wanted) if get_origin(wanted) in (Union, UnionType) else ():
        if isinstance(member, type) and issubclass(member, BaseModel):
            found[str(member.model_fields[_DISCRIMINATOR].default)] = member
    return found


def _fields(model: type[BaseModel] | None) -> list[str]:
    names = list(model.model_fields) if model else []
    return [VERSION_FIELD, *names] if model is Accelerator else names


def _choices(wanted: Any) -> tuple[str, ...]:
    """Values of a ``Literal``, also where it may be null."""
    if get_origin(wanted) is Literal:
        return tuple(str(choice) for choice in get_args(wanted))
    return tuple(
        choice
        for member in get_args(wanted)
        for choice in (("null",) if member is type(None) else _choices(member))
    )


def _translate(document: Document, spot: _Spot, entry: Any) -> tuple[Place, Problem | None]:
    """Say in our words what Pydantic found, and where. None: the mistake is reported by another entry."""
    kind, given, place = str(entry["type"]), entry["input"], spot.place
    rule, value, near = "is not valid here", value_text(given), ""
    allowed: tuple[str, ...] = ()
    if kind == "missing":
        rule, value = "required field is missing", ""
    elif kind == "extra_forbidden":
        fields = _fields(spot.owner)
        rule, allowed, near = "no such field", tuple(fields), closest(str(place[-1]), fields)
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        allowed = tuple(_members(spot.wanted))
        place = (*place, _DISCRIMINATOR)
        if isinstance(given, dict) and _DISCRIMINATOR in given:
            chosen = given[_DISCRIMINATOR]
            rule, value, near = "no such kind", value_text(chosen), closest(str(chosen), allowed)
        else:
            rule, value = "required field is missing", ""
    elif kind == "literal_error":
        allowed = _choices(spot.wanted)
        rule, near = "no such choice", closest(str(given), allowed)
    elif kind == "value_error":
        return _from_validator(document, spot, str(entry["ctx"]["error"]))
    elif kind in _COMPARISONS:
        words, key = _COMPARISONS[kind]
        rule = f"must be {words} {entry['ctx'][key]:g}"
    elif kind == "too_short":
        least = entry["ctx"]["min_length"]
        if len(given) >= least:  # only because some of its entries are wrong, and those are reported
            return place, None
        rule = f"must have at least {least} {'entry' if least == 1 else 'entries'}"
    elif kind == "too_long":
        rule = f"must have at most {entry['ctx']['max_length']} entries"
    elif kind.endswith("_type"):
        rule = _type_rule(kind, given)
    line_at = place[:-1] if rule == "required field is missing" else place
    return place, Problem(rule, where=document.where(line_at), path=path_text(place), value=value, allowed=allowed,
                          did_you_mean=near)


def _type_rule(kind: str, given: object) -> str:
    """What sort of value belongs here."""
    if kind == "int_type":
        if isinstance(given, float):
            return "must be a whole number, written in digits without a point or an exponent"
        return "must be a whole number" + (", not in quotes" if isinstance(given, str) else "")
    if kind == "float_type":
        return "must be a number" + (", not in quotes" if isinstance(given, str) else "")
    rules = {"string_type": "must be text", "bool_type": "must be true or false", "tuple_type": "must be a list"}
    if kind == "string_type" and isinstance(given, bool | int | float):
        return "must be text (put it in quotes)"
    return rules.get(kind, "must be a mapping of fields (name: value)")


def _from_validator(document: Document, spot: _Spot, message: str) -> tuple[Place, Problem]:
    """Read the model's own message, ``name=value: rule``, and find the line of what it names."""
    subject, colon, rule = message.partition(": ")
    name, equals, value = subject.partition("=")
    place = spot.place
    here: Any = document.data
    for part in place:
        here = here[part]
    if not colon or name.partition(".")[0] not in here:
        return place, Problem(message, where=document.where(place), path=path_text(place))
    for part in name.split("."):
        index: str | int = part
        if isinstance(here, list):  # the model names entries of a list; the file has them by position
            named = [i for i, item in enumerate(here) if isinstance(item, dict) and item.get("name") == part]
            index = named[0] if named else part
        place = (*place, index)
        here = here[index] if isinstance(index, int) or (isinstance(here, dict) and index in here) else None
    return place, Problem(rule, where=document.where(place), path=path_text(place), value=value if equals else "")
