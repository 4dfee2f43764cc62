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


# What each is about: names that it must use.
SUBJECTS = {
    "01_first_front": {"explore", "map_layer", "plot_front"},
    "02_compare_accelerators": {"uniform_run", "rates_frame", "plot_pareto"},
    "03_mixed_precision": {"compare", "explore", "estimate", "assign", "mixed_run"},
    "04_hardware_sweep": {"sweep", "load_sweep", "plot_pareto", "plot_parallel", "hypervolume_frame"},
    "05_own_machine": {"validate_file", "open_accelerator", "compute_layer", "map_layer", "nest_text"},
    "06_where_cycles_go": {"uniform_run", "write_trace", "plot_roofline", "plot_utilization", "plot_breakdown"},
}


def test_they_are_those_of_the_list() -> None:
    assert [path.stem for path in FILES] == list(SUBJECTS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_notebook_shows_results_as_tables_and_pictures(path: Path) -> None:
    shown = [output.get("data", {}) for cell in _cells(path, "code") for output in cell["outputs"]]
    tables = ["".join(data["text/html"]) for data in shown if "text/html" in data]
    assert sum("<table" in table for table in tables) >= 4
    source = "".join("".join(cell["source"]) for cell in _cells(path, "code"))
    if re.search(r"bitmosaic\.(plot_|explore|compare)", source):
        assert any("image/png" in data for data in shown) or any("<img" in table for table in tables)


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
    assert SUBJECTS[path.stem] <= used <= set(bitmosaic.__all__)


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
