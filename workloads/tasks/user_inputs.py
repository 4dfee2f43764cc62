"""A task for any ONNX network: arrays that the user gives, scored by agreement with FP32.

Without labels the only honest question is whether quantisation changes the answer: the share of positions at which the
largest value along the last axis of the first output stands where it stands in FP32. This is not an accuracy, and is
never called one.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import NetworkError, Problem
from workloads.calibration import can_batch, input_shapes, input_types, open_session, trained_model, with_free_batch
from workloads.network import Network
from workloads.tasks.task import Feed, Run, TaskScore, batches, check_feed, typed_feed

BATCH = 16
SEED = 20242


class UserInputsTask:
    """Agreement with FP32 on the arrays of an ``.npz`` file (names: the graph's inputs; first axis: examples).

    A quarter of the examples, drawn with a fixed seed, are for calibration; the others are evaluated. At least two
    examples are needed, unless the network has no batch dimension: then the one feed serves for both.

    Raises ``NetworkError`` where the file cannot be read, or its arrays do not fit the network or hold NaN. Numbers
    of another width become those of the network's inputs.
    """

    metric = "agreement with FP32"

    def __init__(self, network: Network, path: str | Path) -> None:
        self.name = f"inputs of {network.name}"
        self._network = network
        self._model = with_free_batch(trained_model(network))
        feed: Feed = _read(Path(path))
        shapes = input_shapes(self._model)
        check_feed(feed, shapes, str(path))
        feed = typed_feed(feed, input_types(self._model), str(path))
        counts = {name: len(array) for name, array in feed.items() if array.ndim}
        self._has_batch = bool(shapes) and all(shape and shape[0] is None for shape in shapes.values())
        if not self._has_batch:
            self._calibration: Feed = feed
            self._evaluation: Feed = feed
            return
        if len(set(counts.values())) > 1 or min(counts.values()) < 2:
            found = ", ".join(f"{name}: {count}" for name, count in counts.items())
            raise NetworkError(
                Problem("must hold the same number of examples for each input, at least 2", str(path), value=found)
            )
        count = next(iter(counts.values()))
        order = np.random.default_rng(SEED).permutation(count)
        first, rest = np.sort(order[: max(1, count // 4)]), np.sort(order[max(1, count // 4) :])
        self._calibration = {name: array[first] for name, array in feed.items()}
        self._evaluation = {name: array[rest] for name, array in feed.items()}

    def calibration_feeds(self) -> Sequence[Feed]:
        """Batches of at most 16 examples."""
        return batches(self._calibration, BATCH) if self._has_batch else [self._calibration]

    def evaluate(self, run: Run) -> TaskScore:
        """Share of equal top-1 positions over all examples (and all positions of an example)."""
        feeds = batches(self._evaluation, BATCH) if self._has_batch else [self._evaluation]
        equal, count = 0, 0
        for feed, expected in zip(feeds, self._expected, strict=True):
            answers = run(feed)[0].argmax(axis=-1)
            equal += int((answers == expected).sum())
            count += expected.size
        return TaskScore(equal / count, count)

    @cached_property
    def _expected(self) -> list[NDArray[Any]]:
        """Top-1 of FP32 for each batch."""
        session = open_session(self._model)
        feeds = batches(self._evaluation, BATCH) if self._has_batch else [self._evaluation]
        together = not self._has_batch or can_batch(self._network, self._evaluation)
        answers = []
        for feed in feeds:
            pieces = [feed] if together else batches(feed, 1)
            outputs = [session.run(None, dict(piece))[0] for piece in pieces]
            answers.append(np.concatenate(outputs).argmax(axis=-1) if self._has_batch else outputs[0].argmax(axis=-1))
        return answers


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if path.is_dir():
        raise NetworkError(Problem("is a directory, not an .npz file", where=str(path)))
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise NetworkError(Problem("holds one array: save with np.savez, names = inputs", where=str(path)))
        with archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise NetworkError(Problem("no such file", where=str(path))) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        # What NumPy says to a file of another kind speaks of pickles, and leads astray.
        rule = "is no .npz file of plain arrays: save with np.savez, names = inputs"
        raise NetworkError(Problem(rule, where=str(path))) from error
