"""Write other tools' YAML: tags, and mappings of plain values on one line."""

from __future__ import annotations

from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.tag import Tag


class Tagged(dict[str, Any]):
    """A mapping with a tag."""

    def __init__(self, tag: str, **fields: Any) -> None:
        super().__init__(**fields)
        self.tag = tag


def text_of(data: Any, notes: tuple[str, ...] = (), title: str = "") -> str:
    """Return YAML with notes above it as comments."""
    yaml = YAML(typ="rt", pure=True)
    yaml.width = 1 << 20
    yaml.indent(mapping=2, sequence=2, offset=0)
    stream = StringIO()
    yaml.dump(_styled(data), stream)
    head = [*([title] if title else []), *notes]
    return "".join(f"# {line}\n" for line in head) + stream.getvalue()


def _styled(value: Any) -> Any:
    if isinstance(value, dict):
        fields = CommentedMap((key, _styled(item)) for key, item in value.items())
        if not any(isinstance(item, dict | list | tuple) for item in value.values()) and len(value) < 6:
            fields.fa.set_flow_style()
        if isinstance(value, Tagged):
            fields.yaml_set_ctag(Tag(suffix=f"!{value.tag}"))
        return fields
    if isinstance(value, list | tuple):
        items = CommentedSeq([_styled(item) for item in value])
        if not any(isinstance(item, dict | list | tuple) for item in value):
            items.fa.set_flow_style()
        return items
    return value


def number(value: float) -> int | float:
    """A number as people write it: whole ones without a point."""
    return int(value) if float(value).is_integer() else float(value)
