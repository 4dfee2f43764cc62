"""Tasks: the data and metrics that give a trained network its accuracy.

``find_task`` names the built-in ones; ``UserInputsTask`` makes one for any ONNX network from the user's arrays.
"""

from __future__ import annotations

from collections.abc import Callable

from workloads.network import Network
from workloads.tasks.digits import DigitsTask
from workloads.tasks.efficientnet import EfficientNetTask
from workloads.tasks.magika import MagikaTask
from workloads.tasks.minilm import MiniLmTask
from workloads.tasks.pp_ocrv6 import PpOcrTask
from workloads.tasks.task import Feed, Run, Task, TaskScore

__all__ = ["BUILT_IN", "Feed", "Run", "Task", "TaskScore", "find_task"]

BUILT_IN: dict[str, Callable[[Network], Task]] = {
    "digits_cnn": lambda network: DigitsTask(), "magika": lambda network: MagikaTask(),
    "pp_ocrv6": lambda network: PpOcrTask(), "minilm": lambda network: MiniLmTask(),
    "efficientnet_lite0": EfficientNetTask,
}


def find_task(network: Network) -> Task | None:
    """Return the built-in task of a network, by the network's name; None where there is none.

    Data are read when the task is first used; a package that they need raises ``MissingPackageError`` then.
    """
    build = BUILT_IN.get(network.name)
    return None if build is None or network.model is None else build(network)
