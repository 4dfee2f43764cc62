"""Mutation check: break one place of a kernel at a time, and see whether the tests notice.

    python tools/mutate.py [--count N] [--seconds S] [--seed SEED] [--files tile_walk,…]
                           [--lines tile_walk:301,tile_walk:302:17,…] [--list]

Takes a sample of mutants (a comparison flipped, a constant one off, an operator swapped, min for max, a statement
dropped) of ``simulator/kernels/*.py``, the same for the same seed, and runs the tests that cover the file, without
compilation and until the first failure: first with few examples of each property, then, where nothing fails, with as
many as the check of every change takes. Mutants live in memory only, each in a process of its own. One that no test
notices has survived: each is printed with its line and column. Exit status 1 if any survived, 2 if the tests fail
without any mutation.

Some mutants change nothing that can be seen (a bound one too low that is never reached); a survivor is a question to
the tests, not always a gap in them.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNELS = Path("simulator/kernels")
WALK = (
    "tests/unit/test_memory_system.py", "tests/properties/test_engines_agree.py", "tests/properties/test_trace.py",
    "tests/properties/test_bit_sparse.py", "-k", "not bit_sparse and not mapper or timeline",
)
CHOICES = ("tests/properties/test_branch_and_bound.py",)
SUITES: dict[str, tuple[str, ...]] = {
    "batch": ("tests/properties/test_batch.py", "tests/unit/test_batch.py"),
    "bit_fusion_tiling": ("tests/unit/test_bit_fusion_search.py",),
    "channels": ("tests/properties/test_channel_split.py", "-k", "equals_reference or below_fast"),
    "chains": ("tests/unit/test_zigzag_search.py", "-k", "nothing_costs_less or undominated"),
    "choice_cost": CHOICES,
    "descent": CHOICES,
    "dominance": CHOICES,
    "dram_rows": WALK,
    "enumeration": CHOICES,
    "extents": WALK,
    "functional": (
        "tests/properties/test_functional.py", "tests/unit/test_functional.py", "-k", "not every_width"
    ),
    "grid_ports": WALK,
    "loop_nest": WALK,
    "nest_front": ("tests/unit/test_nest_search.py",),
    "occupation": WALK,
    "pass_table": ("tests/properties/test_plain_walk.py",),
    "plain_walk": ("tests/properties/test_plain_walk.py", *WALK),
    "row_trees": CHOICES,
    "split_rows": ("tests/properties/test_split_search.py",),
    "tile_walk": WALK,
    "tiling_cycles": ("tests/properties/test_batch.py", "-k", "tilings"),
    "tiling_input": ("tests/properties/test_batch.py",),
    "transfers": WALK,
    "value_steps": ("tests/properties/test_bit_sparse.py",),
}
"""Tests of each kernel file."""

NOT_PUT_IN = 99  # exit status of a child whose mutant is none
MORE_EXAMPLES = 10
"""How many times those of ``few`` the examples of ``quick`` are, which are as many as those of ``ci``."""

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift, ast.Mod: ast.FloorDiv,
}


@dataclass(frozen=True)
class Mutant:
    """A kernel file with one place changed: the node of a number, counted in the order of the walk."""

    path: Path
    line: int
    column: int
    change: str
    number: int
    apply: Callable[[ast.AST], ast.AST]

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.path.name

    def places(self) -> tuple[str, str]:
        """Its line, and its line and column, as ``--lines`` has them."""
        line = f"{self.path.stem}:{self.line}"
        return line, f"{line}:{self.column}"

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.change}"

    def source(self) -> str:
        """The whole file, changed."""
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        return ast.unparse(ast.fix_missing_locations(_Replace(self.number, self.apply).visit(tree)))


Change = tuple[str, Callable[[ast.AST], ast.AST]]


def changes(node: ast.AST) -> Iterator[Change]:
    """What may be broken at a node, with a word for each."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            other = _COMPARISONS.get(type(operator))
            if other is not None:
                yield f"{type(operator).__name__} → {other.__name__}", _with_comparison(place, other)
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _OPERATORS:
        other_operator = _OPERATORS[type(node.op)]
        yield f"{type(node.op).__name__} → {other_operator.__name__}", _with_field("op", other_operator())
    elif isinstance(node, ast.BoolOp):
        swapped: ast.boolop = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "and ↔ or", _with_field("op", swapped)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not dropped", lambda found: found.operand  # type: ignore[attr-defined]
    elif isinstance(node, ast.Constant) and isinstance(node.value, int) and not isinstance(node.value, bool):
        for step in (1, -1):
            yield f"{node.value} → {node.value + step}", _with_field("value", node.value + step)
    elif isinstance(node, ast.Name) and node.id in ("min", "max") and isinstance(node.ctx, ast.Load):
        yield "min ↔ max", _with_field("id", "max" if node.id == "min" else "min")
    if isinstance(node, ast.AugAssign | ast.Assign | ast.Continue | ast.Break) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield "statement dropped", lambda _: ast.Pass()


def _with_field(name: str, value: object) -> Callable[[ast.AST], ast.AST]:
    def change(node: ast.AST) -> ast.AST:
        setattr(node, name, value)
        return node

    return change


def _with_comparison(place: int, operator: type[ast.cmpop]) -> Callable[[ast.AST], ast.AST]:
    def change(node: ast.AST) -> ast.AST:
        node.ops[place] = operator()  # type: ignore[attr-defined]
        return node

    return change


class _Replace(ast.NodeTransformer):
    """Changes the node of a number, counted in the order of the walk."""

    def __init__(self, number: int, change: Callable[[ast.AST], ast.AST]) -> None:
        self.number, self.change, self.seen = number, change, -1

    def visit(self, node: ast.AST) -> ast.AST:
        self.seen += 1
        if self.seen == self.number:
            return ast.copy_location(self.change(node), node)
        return self.generic_visit(node)


def _numbered(tree: ast.AST) -> list[ast.AST]:
    """Nodes in the order in which ``_Replace`` meets them."""
    found = [tree]
    for child in ast.iter_child_nodes(tree):
        found += _numbered(child)
    return found


def kernel_files() -> list[Path]:
    """The files of ``KERNELS`` in which anything is compiled."""
    return [path for path in sorted((ROOT / KERNELS).glob("*.py")) if "@numba" in path.read_text(encoding="utf-8")]


def mutants(path: Path) -> list[Mutant]:
    """Every mutant of the functions of a kernel file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {id(node) for outer in tree.body if isinstance(outer, ast.FunctionDef) for part in outer.body
              for node in ast.walk(part)}
    found = []
    for number, node in enumerate(_numbered(tree)):
        if id(node) not in inside:
            continue
        line, column = getattr(node, "lineno", 0), getattr(node, "col_offset", -1) + 1
        found += [Mutant(path, line, column, change, number, apply) for change, apply in changes(node)]
    return found


def run_tests(mutant: Mutant | None, tests: tuple[str, ...], seconds: float, profile: str = "few") -> str:
    """Run tests in a child of this process, which has all but the tests imported; with a mutant's code if one is given.

    ``profile``: of Hypothesis (``tests/conftest.py``). Returns ``passed``, ``failed``, or ``endless`` after so many
    seconds; raises ``RuntimeError`` where the mutant could not be put in.
    """
    child = os.fork()
    if child == 0:
        status = NOT_PUT_IN
        try:
            with tempfile.TemporaryDirectory() as cache, Path(os.devnull).open("w", encoding="utf-8") as nowhere:
                for stream in (1, 2):
                    os.dup2(nowhere.fileno(), stream)
                os.environ |= {"HYPOTHESIS_PROFILE": profile, "BITMOSAIC_CACHE_DIR": cache}
                if mutant is not None:
                    _replace_code(mutant)
                status = 1
                status = int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))
        finally:
            os._exit(status)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, ended = os.waitpid(child, os.WNOHANG)
        if found:
            status = os.waitstatus_to_exitcode(ended)
            if status == NOT_PUT_IN:
                raise RuntimeError(f"{mutant}: could not be put in")
            return "passed" if status == 0 else "failed"
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "endless"


def _replace_code(mutant: Mutant) -> None:
    """Give the functions of a kernel file, wherever they were imported, the code of the mutant's."""
    module = importlib.import_module(f"simulator.kernels.{mutant.path.stem}")
    changed: dict[str, Any] = {"__name__": module.__name__}
    exec(compile(mutant.source(), mutant.file, "exec"), changed)
    for name, found in vars(module).items():
        if isinstance(found, types.FunctionType) and found.__module__ == module.__name__:
            found.__code__ = changed[name].__code__


def main() -> int:
    """Print one line a mutant, survivors with their line, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="mutants in the sample (100)")
    parser.add_argument("--seconds", type=float, default=3600.0, help="stop after so many seconds (3600)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", default="", help="kernel files without .py, by commas; all")
    parser.add_argument("--lines", default="", help="only mutants there: FILE:LINE or FILE:LINE:COLUMN, by commas")
    parser.add_argument("--list", action="store_true", help="print the sample and run nothing")
    options = parser.parse_args()
    chosen = set(options.files.split(",")) if options.files else None
    files = kernel_files()
    unknown = (chosen or set()) - {path.stem for path in files}
    if unknown:
        parser.error(f"--files={','.join(sorted(unknown))}: no such kernel (allowed: {[path.stem for path in files]})")
    every = [mutant for path in files if chosen is None or path.stem in chosen for mutant in mutants(path)]
    if options.lines:
        lines = set(options.lines.split(","))
        every = [mutant for mutant in every if lines & set(mutant.places())]
    sample = random.Random(options.seed).sample(every, min(options.count, len(every)))
    print(f"{len(sample)} of {len(every)} mutants, seed {options.seed}")
    if options.list:
        for mutant in sample:
            print(mutant)
        return 0
    began = time.monotonic()
    os.chdir(ROOT)
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    for package in ("hypothesis.strategies", "bitmosaic", "simulator.reference"):
        importlib.import_module(package)
    patience = {}
    for tests in sorted({SUITES[mutant.path.stem] for mutant in sample}):
        started = time.monotonic()
        if run_tests(None, tests, options.seconds) != "passed":
            print(f"{tests}: fail without any mutation")
            return 2
        patience[tests] = 60 + 5 * (time.monotonic() - started)
    counts = {"failed": 0, "endless": 0, "passed": 0}
    survivors = []
    for done, mutant in enumerate(sample, start=1):
        if time.monotonic() - began > options.seconds:
            print(f"time is up after {done - 1} mutants")
            break
        tests = SUITES[mutant.path.stem]
        outcome = run_tests(mutant, tests, patience[tests])
        if outcome == "passed":
            outcome = run_tests(mutant, tests, MORE_EXAMPLES * patience[tests], "quick")
        counts[outcome] += 1
        line = f"{mutant}: {'survived' if outcome == 'passed' else f'killed ({outcome})'}"
        print(line, flush=True)
        if outcome == "passed":
            survivors.append((line, mutant.path.read_text(encoding="utf-8").splitlines()[mutant.line - 1].strip()))
    tried = sum(counts.values())
    print(f"{tried} mutants: {counts['failed']} killed by a failure, {counts['endless']} by running without end, "
          f"{counts['passed']} survived ({100 * (tried - counts['passed']) / max(1, tried):.1f} % killed)")
    for line, text in survivors:
        print(f"  {line}\n      {text}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
