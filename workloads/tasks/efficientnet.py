"""The EfficientNet-Lite0 task: does quantisation change the class of a photograph?

Crops of the photographs that installed packages bring (scikit-learn's temple and flower, matplotlib's portrait), of
different sizes and places, drawn with a fixed seed, some mirrored. They have no labels for the network's 1000 classes,
so the score is *agreement with FP32*: the share of crops whose most probable class is FP32's. It is not an accuracy.
Crops for calibration and for evaluation are different ones, of the same photographs: whole photographs are too few to
divide. What is agreed on follows the photographs found; ``TaskScore.count`` says how many crops it was.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import MissingPackageError
from workloads.efficientnet import INPUT, SIZE
from workloads.network import Network
from workloads.tasks.task import Feed, Run, TaskScore, batches

PHOTOGRAPHS = (
    ("sklearn", "datasets/images/china.jpg"), ("sklearn", "datasets/images/flower.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)
EVALUATED, CALIBRATED = 96, 24
SMALLEST_SHARE = 0.35  # of the shorter side
BATCH = 8
SEED = 20246
_MEAN, _SCALE = 127.0, 128.0  # of the published network's preprocessing


def photographs() -> list[Path]:
    """Those that are installed. Raises ``MissingPackageError`` where there is none."""
    found = []
    for package, file in PHOTOGRAPHS:
        spec = importlib.util.find_spec(package)
        found += [Path(folder) / file for folder in (spec.submodule_search_locations or ()) if spec] if spec else []
    found = [path for path in found if path.exists()]
    if not found:
        raise MissingPackageError("photographs are needed, as scikit-learn brings them: pip install scikit-learn")
    return found


def crops(paths: Sequence[Path], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Square crops as the network's input, float32 [count, 3, 224, 224]; the photographs take turns."""
    from PIL import Image  # comes with matplotlib

    pictures: list[Image.Image] = []
    for path in paths:
        with Image.open(path) as file:
            pictures.append(file.convert("RGB"))
    images = np.empty((count, SIZE, SIZE, 3), np.float32)
    for row in range(count):
        picture = pictures[row % len(pictures)]
        side = round(min(picture.size) * rng.uniform(SMALLEST_SHARE, 1))
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in picture.size)
        crop = picture.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        pixels = np.asarray(crop, np.float32)
        images[row] = pixels[:, ::-1] if rng.integers(0, 2) else pixels
    return np.ascontiguousarray(((images - _MEAN) / _SCALE).transpose(0, 3, 1, 2))


class EfficientNetTask:
    """Agreement with FP32 on crops of photographs; none of them both for calibration and for evaluation.

    Raises ``MissingPackageError`` without photographs when data are first used.
    """

    name = "efficientnet_lite0"
    metric = "agreement with FP32"

    def __init__(
        self, network: Network, input_name: str = INPUT, evaluated: int = EVALUATED, calibrated: int = CALIBRATED
    ) -> None:
        self.input_name = input_name
        self.evaluated = evaluated
        self.calibrated = calibrated
        self._network = network

    @cached_property
    def _images(self) -> NDArray[np.float32]:
        return crops(photographs(), self.evaluated + self.calibrated, np.random.default_rng(SEED))

    @cached_property
    def _expected(self) -> list[NDArray[Any]]:
        """FP32's class of each crop, in the batches of the evaluation."""
        # Calibration reads what tasks are, so it cannot be read first.
        from workloads.calibration import open_session, trained_model, with_free_batch

        session = open_session(with_free_batch(trained_model(self._network)))
        return [session.run(None, dict(feed))[0].argmax(axis=-1) for feed in self._evaluation()]

    def _evaluation(self) -> list[Feed]:
        return batches({self.input_name: self._images[: self.evaluated]}, BATCH)

    def calibration_feeds(self) -> Sequence[Feed]:
        """Batches of crops that are not evaluated on."""
        return batches({self.input_name: self._images[self.evaluated :]}, BATCH)

    def evaluate(self, run: Run) -> TaskScore:
        """Share of crops whose most probable class is FP32's."""
        pairs = zip(self._evaluation(), self._expected, strict=True)
        equal = sum(int((run(feed)[0].argmax(axis=-1) == right).sum()) for feed, right in pairs)
        return TaskScore(equal / self.evaluated, self.evaluated)
