"""Write plain data as YAML that the reader takes back: blocks, and what is plain inside on one line."""

from __future__ import annotations

from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter


def yaml_text(data: dict[str, Any], *, compact: bool = False) -> str:
    """Return YAML of mappings, lists and plain values. Lists of plain values stand in brackets on one line.

    ``compact``: mappings of plain values, below the top, stand in braces on one line too.
    """
    yaml = YAML(typ="rt", pure=True)
    yaml.Representer = _Representer
    yaml.allow_unicode = True
    # Long texts stay on one line: folding would have to preserve every blank.
    yaml.width = 1 << 20
    stream = StringIO()
    yaml.dump({key: _styled(value, compact) for key, value in data.items()}, stream)
    return stream.getvalue()


class _Representer(RoundTripRepresenter):
    """Writes ``null`` as a word: an empty value looks forgotten."""

    def represent_null(self, data: None) -> ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_null)


def _styled(value: Any, compact: bool) -> Any:
    if isinstance(value, dict):
        fields = CommentedMap((key, _styled(item, compact)) for key, item in value.items())
        if compact and not any(isinstance(item, dict | list) for item in value.values()):
            fields.fa.set_flow_style()
        return fields
    if isinstance(value, list):
        items = CommentedSeq([_styled(item, compact) for item in value])
        if not any(isinstance(item, dict | list) for item in value):
            items.fa.set_flow_style()
        return items
    return value
