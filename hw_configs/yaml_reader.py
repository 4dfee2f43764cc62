"""Read a YAML 1.2 file into plain data, and remember on which line each value stands.

A settings file is small, written by hand and wrong in several places at once. So the reader goes on after a
mistake wherever the text still has a meaning, and reports all of them. Of YAML it takes what a settings file
needs: mappings with text keys, lists, text, numbers, true and false, null, anchors. Tags and merge keys are refused.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from simulator.errors import ConfigurationError, Problem

Place = tuple[str | int, ...]

# Far above any machine, and low enough that a file of nested anchors cannot fill the memory.
MAX_FILE_BYTES = 1 << 20
MAX_VALUES = 20_000
# The engines count in 64-bit integers; a number near their end would overflow in the first product.
MAX_INTEGER = 1 << 62
_TAG = "tag:yaml.org,2002:"
_PLAIN_KEY = re.compile(r"[\w.-]+")
_BASES = {"0b": 2, "0o": 8, "0x": 16}


@dataclass
class Document:
    """What a file says.

    Attributes:
        name: the file, as the user called it.
        data: mappings, lists, text, numbers; ``None`` stands where a value could not be read.
        lines: place → line on which it is written; of a mapping's entry the line of its key.
        problems: mistakes found while reading.
        unreadable: places whose value is already reported in ``problems``.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[Place, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unreadable: set[Place] = field(default_factory=set)

    def line(self, place: Place) -> int:
        """Line of a place, or of the nearest thing around it that is written down."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def where(self, place: Place) -> str:
        """``file:line`` of a place."""
        return f"{self.name}:{self.line(place)}"


def path_text(place: Place) -> str:
    """Write a place the way messages do.

    >>> path_text(("memories", 1, "size_bits"))
    'memories[1].size_bits'
    """
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            # A key may hold anything, a line break too; a message is one line.
            text += ("." if text else "") + (part if _PLAIN_KEY.fullmatch(part) else repr(part))
    return text


def value_text(value: object) -> str:
    """Write a value for a message: short, on one line, text in quotes."""
    if isinstance(value, str):
        text = repr(value)
    elif isinstance(value, float) and not math.isfinite(value):
        text = ".nan" if math.isnan(value) else (".inf" if value > 0 else "-.inf")
    else:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."


def read_text(path: Path) -> str:
    """Return a file's text.

    Raises ``ConfigurationError`` where there is no file, or it cannot be opened, is too large, or holds no UTF-8 text.
    """
    name = str(path)
    try:
        if path.is_dir():
            raise ConfigurationError(Problem("is a directory, not a YAML file", where=name))
        if not path.exists():
            raise ConfigurationError(Problem("no such file", where=name))
        if not path.is_file():
            raise ConfigurationError(Problem("is not a regular file", where=name))
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a file name"
        raise ConfigurationError(Problem(f"cannot be read: {reason}", where=name)) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError(Problem(f"is larger than {MAX_FILE_BYTES} bytes: no settings file", where=name))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(Problem("is not text in UTF-8", where=f"{name}:{line}")) from error
    return text


def read_document(path: Path) -> Document:
    """Read a file whose top level is a mapping.

    Raises ``ConfigurationError`` where nothing can be made of the file; lesser mistakes are in ``problems``.
    """
    document = Document(str(path))
    root = _compose(read_text(path), document.name)
    if root is None or (isinstance(root, ScalarNode) and root.tag == _TAG + "null"):
        raise ConfigurationError(Problem("is empty", where=f"{document.name}:1"))
    if not isinstance(root, MappingNode):
        raise ConfigurationError(
            Problem("the top level must be a mapping of fields (name: value)",
                    where=f"{document.name}:{root.start_mark.line + 1}")
        )
    document.lines[()] = root.start_mark.line + 1
    try:
        document.data = _Builder(document).mapping(root, ())
    except RecursionError as error:
        raise ConfigurationError(Problem("is nested too deeply", where=f"{document.name}:1")) from error
    return document


def _compose(text: str, name: str) -> Node | None:
    """Parse text into nodes. Raises ``ConfigurationError`` at the first thing that is no YAML."""
    try:
        root: Node | None = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        detail = " ".join(part for part in (error.context, error.problem) if part)
        raise _not_yaml(f"{name}:{mark.line + 1 if mark else 1}", detail) from error
    except YAMLError as error:
        # The reader, which refuses control characters, gives a position in the text, not a line.
        position = getattr(error, "position", 0)
        raise _not_yaml(f"{name}:{text.count(chr(10), 0, position) + 1}", "holds a control character") from error
    except RecursionError as error:
        raise ConfigurationError(Problem("is nested too deeply", where=f"{name}:1")) from error
    except Exception as error:
        # On some broken escapes, tags and directives the parser stumbles with errors of Python's own.
        raise _not_yaml(f"{name}:1", "an escape, a tag or a directive is malformed") from error
    return root


def _not_yaml(where: str, detail: str) -> ConfigurationError:
    return ConfigurationError(Problem("is not valid YAML: " + " ".join(detail.split()), where=where))


class _Builder:
    """Turns nodes into plain data, and fills in a document's lines and problems on the way."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.open_nodes: set[int] = set()
        self.count = 0

    def problem(self, place: Place, rule: str, value: str = "", line: int | None = None) -> Any:
        """Record a mistake, and return what stands for the value; with ``line`` it is not the value that is wrong."""
        where = f"{self.document.name}:{line}" if line else self.document.where(place)
        self.document.problems.append(Problem(rule, where=where, path=path_text(place), value=value))
        if line is None:
            self.document.unreadable.add(place)
        return None

    def value(self, node: Node, place: Place) -> Any:
        """Plain data of any node."""
        self.count += 1
        if self.count > MAX_VALUES:
            raise ConfigurationError(Problem(f"holds more than {MAX_VALUES} values", where=f"{self.document.name}:1"))
        if isinstance(node, ScalarNode):
            return self.scalar(node, place)
        if id(node) in self.open_nodes:
            return self.problem(place, "an anchor must not contain itself")
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            return self.problem(place, "a settings file has no tags", str(node.tag)[:60])
        if isinstance(node, MappingNode):
            return self.mapping(node, place)
        assert isinstance(node, SequenceNode)
        self.open_nodes.add(id(node))
        items = []
        for index, item in enumerate(node.value):
            self.document.lines[(*place, index)] = item.start_mark.line + 1
            items.append(self.value(item, (*place, index)))
        self.open_nodes.discard(id(node))
        return items

    def mapping(self, node: MappingNode, place: Place) -> dict[str, Any]:
        """Data of a mapping; of a key that stands twice the first counts."""
        self.open_nodes.add(id(node))
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode) or key_node.tag != _TAG + "str" or not _is_text(key_node.value):
                shown = repr(str(key_node.value)[:40]) if isinstance(key_node, ScalarNode) else "?"
                self.problem(place, "a key must be text", shown, line)
                continue
            key = str(key_node.value)
            if key in data:
                first = self.document.lines[(*place, key)]
                self.problem((*place, key), f"duplicate key; it stands in line {first} already", line=line)
                continue
            self.document.lines[(*place, key)] = line
            data[key] = self.value(value_node, (*place, key))
        self.open_nodes.discard(id(node))
        return data

    def scalar(self, node: ScalarNode, place: Place) -> object:
        """Text, number, truth value or null."""
        text = str(node.value)
        kind = str(node.tag).removeprefix(_TAG)
        if kind == "null":
            return None
        # A date is no kind of value here; it can only have been meant as text.
        if kind in ("str", "timestamp"):
            return text if _is_text(text) else self.problem(place, "holds half of a surrogate pair", repr(text)[:60])
        if kind == "bool" and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind not in ("int", "float"):
            return self.problem(place, "cannot be read as text, a number, true or false", repr(text)[:60])
        try:
            number = _integer(text) if kind == "int" else _float(text)
        except (ValueError, OverflowError):
            return self.problem(place, "cannot be read as a number", repr(text)[:60])
        if isinstance(number, int) and abs(number) > MAX_INTEGER:
            return self.problem(place, f"must not exceed 2^62 = {MAX_INTEGER}", text[:40])
        if isinstance(number, float) and not math.isfinite(number):
            return self.problem(place, "must be a finite number", text[:40])
        return number


def _is_text(text: str) -> bool:
    """Whether every character exists on its own (an escape can write half of a surrogate pair)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    base = _BASES.get(digits[:2], 10)
    # Python refuses texts of more than some thousand digits; what is longer than this is too large anyway.
    if len(digits) > 100:
        return sign * 2 * MAX_INTEGER
    return sign * int(digits[2:] if base != 10 else digits, base)


def _float(text: str) -> float:
    plain = text.replace("_", "").lower()
    return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
