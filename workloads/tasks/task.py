"""What a task is: data, and a score, for one trained network.

A task gives feeds (graph input name → array, batch first) to calibrate activation ranges on, and scores
whatever runs
the network: the FP32 model, or a fake-quantised one. Calibration and evaluation data are disjoint, and
    every random
choice has a fixed seed, so a score is a property of the network and the assignment, not of the day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from simulator.errors import NetworkError, Problem

Feed = Mapping[str, NDArray[Any]]
Run = Callable[[Feed], "list[NDArray[Any]]"]


@dataclass(frozen=True)
class TaskScore:
    """How well a network did.

    Attributes:
        value: the task's metric, 0 … 1, higher is better.
        count: examples that it was measured on.
        extra: further figures by name, e.g. ``character error rate``.
    """

    value: float
    count: int
    extra: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Task(Protocol):
    """Data and a metric for one network."""

    @property
    def name(self) -> str:
        """Name of the task, e.g. ``digits``."""

    @property
    def metric(self) -> str:
        """What ``TaskScore.value`` is: ``accuracy``, ``exact match``, ``agreement with FP32``."""

    def calibration_feeds(self) -> Sequence[Feed]:
        """Batches to calibrate on; never evaluated on."""

    def evaluate(self, run: Run) -> TaskScore:
        """Score what ``run`` computes on the evaluation data."""


def batches(feed: Feed, size: int) -> list[Feed]:
    """Cut a feed into feeds of at most ``size`` examples along the first axis."""
    count = min(len(array) for array in feed.values())
    return [
        {name: array[start : start + size] for name, array in feed.items()} for start in range(0, count, size)
    ]


def check_feed(feed: Feed, shapes: Mapping[str, tuple[int | None, ...]], where: str) -> None:
    """Check a feed against the graph's inputs: names, shapes (None: any extent), finite values.

    Raises ``NetworkError`` with all mistakes at once.
    """
    problems = [
        Problem("no such input of the network", where=where, path=name, allowed=tuple(shapes))
        for name in feed if name not in shapes
    ]
    for name, shape in shapes.items():
        expected = "×".join("any" if extent is None else str(extent) for extent in shape)
        array = feed.get(name)
        if array is None:
            problems.append(Problem(f"is missing (shape {expected})", where=where, path=name))
        elif array.ndim != len(shape) or any(
            extent is not None and extent != actual for extent, actual in zip(shape, array.shape, strict=True)
        ):
            problems.append(
                Problem(f"must have the shape {expected}", where=where, path=name,
                        value="×".join(map(str, array.shape)))
            )
        elif not array.size:
            problems.append(Problem("holds no example", where=where, path=name))
        elif np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            problems.append(Problem("must be finite: NaN or infinity found", where=where, path=name))
    if problems:
        raise NetworkError(problems)


def typed_feed(feed: Feed, types: Mapping[str, np.dtype[Any]], where: str) -> Feed:
    """A feed whose arrays have the types of the graph's inputs: NumPy's float64 becomes float32, bytes become floats.

    ``types``: input → type; arrays of that type, and of inputs that it does not name, stay as they are. Raises
    ``NetworkError`` with every array that is of another kind, or holds what its input's type cannot.
    """
    problems, found = [], {}
    for name, array in feed.items():
        wanted = types.get(name, array.dtype)
        if array.dtype == wanted:
            found[name] = array
            continue
        rule = ""
        if not np.can_cast(array.dtype, wanted, "same_kind"):
            rule = f"must be {wanted}"
        else:
            with np.errstate(over="ignore"):
                found[name] = array.astype(wanted, copy=False)
            exact = np.issubdtype(wanted, np.integer) or wanted == np.bool_
            if (found[name] != array).any() if exact else not np.isfinite(found[name]).all():
                rule = f"holds values that {wanted} has not"
        if rule:
            problems.append(Problem(rule, where=where, path=name, value=str(array.dtype)))
    if problems:
        raise NetworkError(problems)
    return found
