"""The notebooks: public API only, small, without errors or anybody's paths. That they run is tested by nbmake."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import bitmosaic

NOTEBOOKS = Path(bitmosaic.__file__).parents[1] / "notebooks"
FILES = sorted(NOTEBOOKS.glob("*.ipynb"))
OTHERS_ALLOWED = {"pandas", "numpy", "matplotlib"}


def _cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def _trees(path: Path) -> list[ast.Module]:
    return [ast.parse("".join(cell["source"])) for cell in _cells(path, "code")]


def test_there_is_one() -> None:
    assert [path.name for path in FILES] == ["01_first_front.ipynb"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_notebook_uses_the_public_api_only(path: Path) -> None:
    used = set()
    for node in (node for tree in _trees(path) for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            imported = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported = {node.module or ""}
        else:
            imported = set()
        for name in imported:
            assert name == "bitmosaic" or name in OTHERS_ALLOWED or name in sys.stdlib_module_names, name
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "bitmosaic":
            used.add(node.attr)
    assert {"explore", "map_layer", "plot_front"} <= used <= set(bitmosaic.__all__)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_nobodys(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 300_000
    assert not re.search(r"[\"' ]/(home|root|tmp|Users|work|var)/", text), "a path of the machine that ran it"
    for cell in _cells(path, "code"):
        assert all(output["output_type"] != "error" for output in cell["outputs"])
        assert "execution" not in cell["metadata"], "times of a run: they change with every execution"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_outputs_are_of_the_code_that_is_there(path: Path) -> None:
    """Either no cell was run, or all were, in order."""
    counts = [cell["execution_count"] for cell in _cells(path, "code")]
    assert counts in ([None] * len(counts), list(range(1, len(counts) + 1)))
