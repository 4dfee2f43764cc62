"""Docstrings read from Python sources: of the standard library, and of all packages that Bitmosaic needs.

Nothing is imported or run: files are parsed, so that none of them acts, prints or opens windows. What compiled modules
say of themselves is not in a source; ``minilm_passages`` asks the public namespaces for that.
"""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePath

# What setup.cfg requires (install_requires).
REQUIRED = (
    "numpy", "numba", "networkx", "ortools", "matplotlib", "onnx", "onnxruntime", "ml_dtypes", "pydantic",
    "ruamel.yaml", "click", "rich", "pandas",
)
_TESTS = {"test", "tests", "conftest"}


def needed_packages(required: tuple[str, ...] = REQUIRED) -> list[Distribution]:
    """The installed packages among ``required``, what these require, and so on without extras; by name."""
    found: dict[str, Distribution] = {}
    waiting = list(required)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # required on another system only
            continue
        for requirement in found[name].requires or ():
            if "extra ==" not in requirement:
                waiting += re.findall(r"^[\w.-]+", requirement)
    return [found[name] for name in sorted(found)]


def source_files(packages: list[Distribution]) -> Iterator[tuple[str, Path]]:
    """Import name of the package or module, and path, of each file: the standard library's, then the packages'.

    Always in the same order. Tests are left out. Files with a private name are not: NumPy and matplotlib keep what is
    public in such files.
    """
    library = Path(sysconfig.get_path("stdlib"))
    for name in sorted(name for name in sys.stdlib_module_names if not name.startswith("_")):
        for path in (library / f"{name}.py", *sorted((library / name).rglob("*.py"))):
            if path.is_file() and not _is_test(path.relative_to(library)):
                yield name, path
    for package in packages:
        for file in sorted(package.files or ()):
            path = Path(str(package.locate_file(file)))
            if file.suffix == ".py" and ".." not in file.parts and not _is_test(file) and path.is_file():
                yield PurePath(file.parts[0]).stem, path


def docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a file, of its public functions and classes, and of these classes' own public ones, as they stand.

    None of a file that this version of Python cannot parse.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that have no meaning
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates, other encodings
            return
    yield ast.get_docstring(tree) or ""
    yield from _of_members(tree)


def _of_members(parent: ast.Module | ast.ClassDef) -> Iterator[str]:
    for node in parent.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield ast.get_docstring(node) or ""
            if isinstance(node, ast.ClassDef):
                yield from _of_members(node)


def _is_test(path: PurePath) -> bool:
    return any(_TESTS & set(part.split("_")) for part in path.with_suffix("").parts)
