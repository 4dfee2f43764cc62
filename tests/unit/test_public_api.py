"""The public API: every name resolves, importing it is quick, doctests run, strangers' packages are refused."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import bitmosaic

PUBLIC_PACKAGES = ("bitmosaic", "mapper", "simulator", "workloads", "hw_configs")
# Training scripts and the like run when imported for their own purpose only.
NOT_IMPORTED = {"bitmosaic.__main__"}


def _modules() -> list[str]:
    found = []
    for package in PUBLIC_PACKAGES:
        module = importlib.import_module(package)
        found.append(package)
        found += [
            info.name for info in pkgutil.walk_packages(module.__path__, package + ".") if info.name not in NOT_IMPORTED
        ]
    return found


@pytest.mark.parametrize("name", _modules())
def test_doctests(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_the_api_documents_itself_with_doctests_that_run() -> None:
    assert doctest.testmod(bitmosaic).attempted >= 8


@pytest.mark.parametrize("name", bitmosaic.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(bitmosaic, name)
    if callable(value):
        assert value.__doc__


def test_the_three_lists_of_names_agree() -> None:
    tree = ast.parse(Path(bitmosaic.__file__).read_text(encoding="utf-8"))
    typed = {
        (statement.module, alias.name)
        for block in tree.body if isinstance(block, ast.If)
        for statement in block.body if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    lazy = {(module, name) for module, names in bitmosaic._HOME.items() for name in names}
    assert typed == lazy
    assert {name for _, name in lazy} | {"__version__"} == set(bitmosaic.__all__)
    assert list(bitmosaic.__all__) == sorted(bitmosaic.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'explode'"):
        _ = bitmosaic.explode


def test_import_is_light() -> None:
    heavy = ("onnxruntime", "ortools", "matplotlib", "pandas", "numba", "numpy")
    code = f"import sys, bitmosaic; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_packages_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "simulator").mkdir()
    (tmp_path / "simulator" / "__init__.py").write_text("")
    home = Path(bitmosaic.__file__).parent.parent
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(home)!r}]; import bitmosaic"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: bitmosaic needs its own packages") and "simulator (found at" in last
