"""From a YAML file to a data model, or to everything that is wrong with it at once.

The model is the schema. What Pydantic finds is translated here into the project's one form of message: where in the
file, which field, what stood there, which rule it breaks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from hw_configs.yaml_reader import Document, Place, path_text, read_document, value_text
from simulator.errors import Problem, closest
from simulator.provenance import UnknownSources

_DISCRIMINATOR = "kind"
_KEY = "[key]"  # how Pydantic ends the place of a key that is wrong
_COMPARISONS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("greater than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


@dataclass(frozen=True)
class Schema:
    """What a file describes: the model, and the field that holds the version of the file's format."""

    model: type[BaseModel]
    version_field: str
    version: int


def read_model(
    path: Path, schema: Schema, check: Callable[[Any], Mapping[Place, str]] = lambda model: {}
) -> tuple[BaseModel | None, list[Problem]]:
    """``model_of`` a file. Raises ``ConfigurationError`` if the file is unreadable."""
    return model_of(read_document(path), schema, check)


def model_of(
    document: Document, schema: Schema, check: Callable[[Any], Mapping[Place, str]] = lambda model: {}
) -> tuple[BaseModel | None, list[Problem]]:
    """Return the model, or None and what is wrong, in the order of the lines.

    ``check`` finds what the model alone does not know: place → rule.
    """
    problems = [*document.problems, *_check_version(document, schema)]
    model = None
    try:
        # As JSON, because strict validation of Python data would not take a list for a tuple.
        model = schema.model.model_validate_json(json.dumps(document.data))
    except ValidationError as error:
        problems += _explain(document, error, schema)
    else:
        problems += [
            Problem(rule, where=document.where(place), path=path_text(place)) for place, rule in check(model).items()
        ]
    problems.sort(key=_line_of)
    return (None if problems else model), problems


def _line_of(problem: Problem) -> int:
    line = problem.where.rpartition(":")[2]
    return int(line) if line.isdigit() else 0


def _check_version(document: Document, schema: Schema) -> Iterator[Problem]:
    """Take the schema's version out of the document, and say what is wrong with it."""
    field = schema.version_field
    place: Place = (field,)
    where = document.where(place)
    if field not in document.data:
        yield Problem(f"required field is missing; this release reads version {schema.version}", where=where,
                      path=field, allowed=(str(schema.version),))
        return
    version = document.data.pop(field)
    if place not in document.unreadable and (type(version) is not int or version != schema.version):
        yield Problem("this release cannot read that version of the file format", where=where, path=field,
                      value=value_text(version), allowed=(str(schema.version),))


# ---------------------------------------------------------------------------------------------------------------
# From Pydantic's findings to ours
# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spot:
    """A place in a document, what the schema wants there, and the mapping's model around it."""

    place: Place
    wanted: Any
    owner: type[BaseModel] | None


def _explain(document: Document, error: ValidationError, schema: Schema) -> list[Problem]:
    found = [(_locate(entry["loc"], schema), entry) for entry in error.errors(include_url=False)]
    # A misspelt field is one mistake, although it makes another field missing.
    misspelt = {
        (*spot.place[:-1], closest(str(spot.place[-1]), _fields(spot.owner, schema)))
        for spot, entry in found
        if entry["type"] == "extra_forbidden"
    }
    problems = []
    for spot, entry in found:
        for problem_place, problem in _translations(document, spot, entry, schema):
            reported = any(problem_place[:depth] in document.unreadable for depth in range(len(problem_place) + 1))
            if problem is not None and not reported and not (entry["type"] == "missing" and problem_place in misspelt):
                problems.append(problem)
    return problems


def _translations(
    document: Document, spot: _Spot, entry: Any, schema: Schema
) -> Iterator[tuple[Place, Problem | None]]:
    """Say in our words what Pydantic found. A model may have found several things, one a line."""
    error = entry["ctx"]["error"] if entry["type"] == "value_error" else None
    if not isinstance(error, UnknownSources):
        yield _translate(document, spot, entry, schema)
        return
    for key, rule in error.rules.items():
        place: Place = (*spot.place, "sources", key)
        yield place, Problem(rule, where=document.where(place), path=path_text(place))


def _locate(location: tuple[str | int, ...], schema: Schema) -> _Spot:
    """Follow Pydantic's location through the schema: it also names the member chosen of each union."""
    place: Place = ()
    wanted: Any = schema.model
    owner: type[BaseModel] | None = None
    keys: Any = None
    for part in location:
        if part == _KEY:
            wanted = keys
            continue
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
            keys = arguments[0] if get_origin(wanted) is dict else None
            wanted = (arguments[1] if get_origin(wanted) is dict else arguments[0]) if arguments else None
        if get_origin(wanted) is Annotated:
            wanted = get_args(wanted)[0]
        wanted = _without_none(wanted)
    return _Spot(place, wanted, owner)


def _without_none(wanted: Any) -> Any:
    """The model in ``Model | None``; anything else as it is."""
    if get_origin(wanted) not in (Union, UnionType):
        return wanted
    (first, *others) = [member for member in get_args(wanted) if member is not type(None)]
    is_model = isinstance(first, type) and issubclass(first, BaseModel)
    return first if is_model and not others else wanted


def _members(wanted: Any) -> dict[str, type[BaseModel]]:
    """Models of a tagged union by their tag; empty if it is none."""
    found: dict[str, type[BaseModel]] = {}
    for member in get_args(wanted) if get_origin(wanted) in (Union, UnionType) else ():
        if isinstance(member, type) and issubclass(member, BaseModel):
            found[str(member.model_fields[_DISCRIMINATOR].default)] = member
    return found


def _fields(model: type[BaseModel] | None, schema: Schema) -> list[str]:
    names = list(model.model_fields) if model else []
    return [schema.version_field, *names] if model is schema.model else names


def _choices(wanted: Any) -> tuple[str, ...]:
    """Values of a ``Literal``, also where it may be null."""
    if get_origin(wanted) is Literal:
        return tuple(str(choice) for choice in get_args(wanted))
    return tuple(
        choice
        for member in get_args(wanted)
        for choice in (("null",) if member is type(None) else _choices(member))
    )


def _translate(
    document: Document, spot: _Spot, entry: Any, schema: Schema
) -> tuple[Place, Problem | None]:
    """Say in our words what Pydantic found, and where. None: the mistake is reported by another entry."""
    kind, given, place = str(entry["type"]), entry["input"], spot.place
    rule, value, near = "is not valid here", value_text(given), ""
    allowed: tuple[str, ...] = ()
    if kind == "missing":
        rule, value = "required field is missing", ""
    elif kind == "extra_forbidden":
        fields = _fields(spot.owner, schema)
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
    elif kind == "string_too_short":
        rule = "must not be empty"
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
