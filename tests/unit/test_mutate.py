"""The mutation check itself: every mutant is another program that compiles, and differs in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tools import mutate

KERNEL = """\
def clip(value, low, high):
    if value < low and not high == 0:
        value = low
    return min(value, high - 1)
"""


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "kernel.py"
    path.write_text(KERNEL, encoding="utf-8")
    return path


def test_each_change_is_made_once(kernel: Path) -> None:
    found = {(mutant.line, mutant.change): mutant.source() for mutant in mutate.mutants(kernel)}
    assert set(found) == {
        (2, "and ↔ or"), (2, "Lt → LtE"), (2, "not dropped"), (2, "Eq → NotEq"), (2, "0 → 1"), (2, "0 → -1"),
        (3, "statement dropped"), (4, "min ↔ max"), (4, "Sub → Add"), (4, "1 → 2"), (4, "1 → 0"),
    }
    plain = ast.unparse(ast.parse(KERNEL)).splitlines()
    for (line, change), source in found.items():
        lines = source.splitlines()
        assert [number for number, (one, other) in enumerate(zip(plain, lines, strict=True), 1) if one != other] \
            == [line], change
        compile(source, "kernel", "exec")


@pytest.mark.parametrize("path", mutate.kernel_files(), ids=lambda path: path.stem)
def test_kernels_have_mutants_that_compile(path: Path) -> None:
    plain = ast.unparse(ast.parse(path.read_text(encoding="utf-8")))
    found = mutate.mutants(path)
    assert len(found) > 10
    sources = [mutant.source() for mutant in found[:: len(found) // 10]]
    assert len({*sources, plain}) == len(sources) + 1
    for source in sources:
        compile(source, path.name, "exec")
