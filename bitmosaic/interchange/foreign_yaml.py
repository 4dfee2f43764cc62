"""Read other tools' YAML: tags and lists at the top, with the line of every mistake.

Tags are kept as text and never make objects. Numbers that a tool lets be expressions are read where they are products.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase, CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from hw_configs.yaml_reader import read_text
from simulator.errors import ConfigurationError, Problem, closest

_TEMPLATE = re.compile(r"\{%|\{\{")


class Reading:
    """One file while it is read: its mistakes are collected, and raised together at the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def wrong(
        self, rule: str, path: str, value: object = "", *, at: Any = None, allowed: Sequence[str] = (),
    ) -> None:
        """Record a mistake; ``at`` is the node around it, or the number of its line."""
        line = at if isinstance(at, int) else line_of(at)
        where = f"{self.name}:{line}" if line else self.name
        text = str(value)
        near = closest(text, list(allowed)) if allowed else ""
        self.problems.append(Problem(rule, where=where, path=path, value=text, allowed=tuple(allowed),
                                     did_you_mean=near))

    def note(self, text: str) -> None:
        """Record what is lost or assumed."""
        if text not in self.notes:
            self.notes.append(text)

    def finish(self) -> None:
        """Raise ``ConfigurationError`` with every mistake that was found."""
        if self.problems:
            raise ConfigurationError(self.problems)

    def fields(self, node: Any, path: str, required: Sequence[str], optional: Sequence[str] = ()) -> bool:
        """Whether a node is a mapping with these fields and no others; what is wrong with it is recorded."""
        if not isinstance(node, dict):
            self.wrong("must be a mapping of fields (name: value)", path, at=node)
            return False
        known = (*required, *optional)
        for key in node:
            if key not in known:
                self.wrong("is not understood", f"{path}.{key}" if path else str(key), at=key_line(node, key),
                           allowed=known)
        missing = [key for key in required if key not in node]
        for key in missing:
            self.wrong("required field is missing", f"{path}.{key}" if path else key, at=node)
        return not missing

    def number(self, node: Any, key: str, path: str, *, whole: bool = False, default: Any = None) -> Any:
        """A number, or a product of numbers; with ``whole`` a whole one of at least 1. ``inf`` is None."""
        if key not in node:
            return default
        text = str(node[key]).strip()
        if text.lower() in ("inf", ".inf", "+inf"):
            return None
        try:
            value: float | int = math.prod(
                int(part) if re.fullmatch(r"\s*\d+\s*", part) else float(part) for part in text.split("*")
            )
        except ValueError:
            self.wrong("must be a number, a product of numbers, or inf", f"{path}.{key}", text, at=key_line(node, key))
            return default
        if value != value or value < 0 or (whole and (value < 1 or value != int(value))):
            rule = "must be a whole number of at least 1" if whole else "must be 0 or more"
            self.wrong(rule, f"{path}.{key}", text, at=key_line(node, key))
            return default
        return int(value) if whole else float(value)

    def items(self, node: Any, path: str) -> list[Any]:
        """Entries of a list; what is none is recorded, and has none."""
        if isinstance(node, list):
            return node
        self.wrong("must be a list", path, at=node)
        return []


def load(path: Path) -> Any:
    """Return what a file holds: lists, mappings, plain values; tags are kept (``tag_of``).

    Raises ``ConfigurationError`` where there is no such file, or it is no YAML.
    """
    text = read_text(path)
    try:
        return YAML(typ="rt", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError, AttributeError, TypeError) as error:
        if _TEMPLATE.search(text):
            raise ConfigurationError(
                Problem("is a Jinja template: render it first, with the tool that it is for", where=str(path))
            ) from error
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        detail = (error.problem if isinstance(error, MarkedYAMLError) else None) or str(error).partition("\n")[0]
        raise ConfigurationError(Problem(f"is not valid YAML: {detail}", where=where)) from error


def tag_of(node: Any) -> str:
    """The tag of a node, without its exclamation mark; empty where it has none."""
    tag = getattr(node, "tag", None)
    value = getattr(tag, "value", None)
    return value.lstrip("!") if isinstance(value, str) and value.startswith("!") and value != "!" else ""


def line_of(node: Any) -> int:
    """Line of a node, from 1; 0 where it is not known."""
    if isinstance(node, CommentedBase) and node.lc.line is not None:
        return int(node.lc.line) + 1
    return 0


def key_line(node: Any, key: Any) -> int:
    """Line on which a field of a mapping, or an entry of a list, stands."""
    try:
        if isinstance(node, CommentedMap):
            return int(node.lc.key(key)[0]) + 1
        if isinstance(node, CommentedSeq):
            return int(node.lc.item(key)[0]) + 1
    except (KeyError, TypeError, AttributeError):
        pass
    return line_of(node)
