"""Measured accuracies of a sweep's precision policies: of each network in each policy once, whatever the machines.

They are measured in the sweep's own process before its tasks, and kept in the results folder as explorations keep
theirs, so that a sweep that was killed measures none of them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bitmosaic.explorations.accuracy_book import AccuracyBook
from bitmosaic.explorations.identity import subject_key
from bitmosaic.explorations.records import Accuracy
from bitmosaic.progress import Progress
from simulator.errors import BitmosaicError, Problem
from simulator.precision import LayerPrecision
from workloads.network import Network
from workloads.tasks import find_task
from workloads.weight_quantisers import DEFAULT_QUANTISER

Accuracies = Mapping[tuple[str, str], Accuracy]
"""(network, policy) → its score."""


def unmeasurable(network: Network) -> str:
    """Why the accuracy of a network cannot be measured, as a rule; empty where it can."""
    if find_task(network) is not None:
        return ""
    what = "trained weights" if network.model is None else "data of its own to be scored on"
    return f"has no {what}: leave `accuracy` out, or the network"


def measure_policies(
    networks: Mapping[str, Network], policies: Mapping[tuple[str, str], Mapping[str, LayerPrecision]], folder: Path,
    progress: Progress,
) -> dict[tuple[str, str], Accuracy]:
    """Score every (network, policy), given as layer → precision; what the folder knows already is not measured again.

    ``networks`` are those of the policies, each with trained weights and a task. Raises what the evaluator raises where
    it cannot measure a policy (``PrecisionError``), or data of a network are not installed (``MissingPackageError``).
    """
    books: dict[str, AccuracyBook] = {}
    found: dict[tuple[str, str], Accuracy] = {}
    for done, ((name, policy), asked) in enumerate(policies.items()):
        progress.update("accuracy", done, len(policies))
        network = networks[name]
        if name not in books:
            task = find_task(network)
            assert task is not None, "refused when the sweep was read"
            books[name] = AccuracyBook(
                network, task, subject_key(network, task.name), folder, DEFAULT_QUANTISER
            )
        bound = {layer: precision for layer, precision in asked.items() if layer in network.bindings}
        try:
            found[name, policy] = books[name].measure(bound)
        except BitmosaicError as error:
            problems = [Problem(f"{problem}", where=f"accuracy of {name} in {policy}") for problem in error.problems]
            raise type(error)(problems) from error
    progress.update("accuracy", len(policies), len(policies))
    return found
