"""The pages that are written from the code are what the code writes today."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import Field

import bitmosaic
from simulator.layer import Frozen

TOOLS = Path(bitmosaic.__file__).parents[1] / "tools"


def _tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["yaml_reference", "api_reference"])
def test_the_page_is_current(name: str) -> None:
    tool = _tool(name)
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), f"run python tools/{name}.py"


def test_the_yaml_reference_has_every_field_of_every_model() -> None:
    tool = _tool("yaml_reference")
    text = tool.PAGE.read_text(encoding="utf-8")
    models: dict[type, None] = {}
    for model, _, _ in tool.FILES.values():
        tool.reached(model, models)
    assert len(models) > 25
    tables = re.split(r"^#{2,3} ", text, flags=re.MULTILINE)[1:]
    by_heading = {table.partition("\n")[0]: table for table in tables}
    headings = {model: heading for heading, (model, _, _) in tool.FILES.items()}
    for model in models:
        table = by_heading[headings.get(model, model.__name__)]
        assert all(f"\n| `{name}` | " in table for name in model.model_fields), model  # type: ignore[attr-defined]


class _Part(Frozen):
    """A part.

    Attributes:
        size_bits, wait_cycles: how large, and
            how long.
    """

    size_bits: int = Field(ge=1)
    wait_cycles: float | None = None
    energy_pj_per_bit: tuple[float, ...] = Field(default=(), description="of each bit")


class _Unknown(Frozen):
    size_bits: int


def test_types_limits_units_defaults_and_meanings_of_a_model() -> None:
    tool = _tool("yaml_reference")
    rows = tool.section(_Part, "", {})
    assert rows[2:] == [
        "| `size_bits` | whole number; at least 1 | bits | *required* | how large, and how long. |",
        "| `wait_cycles` | number or null | cycles | `null` | how large, and how long. |",
        "| `energy_pj_per_bit` | list of number | pJ a bit | `[]` | of each bit |",
    ]
    with pytest.raises(ValueError, match="no meaning of size_bits"):
        tool.section(_Unknown, "", {})


def test_signatures_are_readable() -> None:
    tool = _tool("api_reference")
    assert tool.signature("load_layer", bitmosaic.load_layer) == "load_layer(path: str | Path) -> Layer"
    text = tool.signature("explore", bitmosaic.explore)
    assert "\n    *,\n" in text and 'sensitivity: SensitivityMethod | Literal[\'auto\'] = \'auto\',' in text
