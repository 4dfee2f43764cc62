"""The digits task: labelled accuracy on held-out images of scikit-learn's handwritten digits.

The images ship in ``workloads/data/digits_test.npz`` (written by ``workloads.train_digits``, with the index
of every image), so nothing needs scikit-learn to evaluate. Neither part was seen in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.tasks.task import Feed, Run, TaskScore

DATA = Path(__file__).parents[1] / "data" / "digits_test.npz"


class DigitsTask:
    """400 test images and 128 calibration images, float32 [n, 1, 8, 8] in 0 … 1, ten classes."""

    name = "digits"
    metric = "accuracy"

    def __init__(self, input_name: str = "image", path: Path = DATA) -> None:
        self.input_name = input_name
        self.path = path

    @cached_property
    def _data(self) -> dict[str, NDArray[Any]]:
        with np.load(self.path) as archive:
            return {name: archive[name] for name in archive.files}

    def calibration_feeds(self) -> Sequence[Feed]:
        """One batch of 128 images."""
        return [{self.input_name: self._data["calibration_images"]}]

    def evaluate(self, run: Run) -> TaskScore:
        """Share of the 400 test images whose largest logit is at the label."""
        labels = self._data["test_labels"]
        logits = run({self.input_name: self._data["test_images"]})[0]
        return TaskScore(float((logits.argmax(axis=1) == labels).mean()), len(labels))
