"""FlexiQ in an exploration: which channels are narrow at each ratio, and what the network is then worth.

As ``AccuracyBook`` does, it measures what is not in the results folder, and writes it down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from bitmosaic.explorations.accuracy_book import Assignment, measured_formats
from bitmosaic.explorations.exploration import ACCURACY_FILE, DISTANCES_FILE, SELECTIONS_FILE
from bitmosaic.explorations.identity import Json, content_key
from bitmosaic.explorations.records import (
    DEFAULT_FLEXIQ,
    Accuracy,
    AccuracyRecord,
    DistanceRecord,
    FlexiqVariant,
    SelectionRecord,
)
from bitmosaic.explorations.store import RecordFile
from bitmosaic.progress import Progress, Silent
from simulator.channel_split import ChannelSplit
from simulator.errors import NetworkError, Problem
from simulator.precision import LayerPrecision
from workloads.flexiq import DEFAULT_EVOLUTION, RATIOS, Mask, Unit, evolutionary, greedy
from workloads.flexiq_model import FlexiqSession, Lowered
from workloads.network import Network
from workloads.tasks import Task

WIDE = LayerPrecision.parse("w8a8")
NARROW = LayerPrecision.parse("w8a8/w4a4@1")


class FlexiqBook:
    """Selections of narrow channels of one network, and the accuracy of assignments that split layers so.

    Activations are symmetric here, so that ``w8a8`` is another measurement than that of ``AccuracyBook``.

    Args:
        subject: key of network and task.
        folder: the results folder.
        variant: who selects channels, how many together, and where effective bits of activations come from.
        progress: told how far an evolutionary selection is.
    """

    def __init__(
        self, network: Network, task: Task, subject: str, folder: Path, variant: FlexiqVariant = DEFAULT_FLEXIQ,
        progress: Progress | None = None,
    ) -> None:
        self._network = network
        self._task = task
        self._subject = subject
        self._variant = variant
        self._progress = progress or Silent()
        self._accuracies = RecordFile(folder / ACCURACY_FILE, AccuracyRecord)
        self._selections = RecordFile(folder / SELECTIONS_FILE, SelectionRecord)
        self._distances = RecordFile(folder / DISTANCES_FILE, DistanceRecord)
        self._narrow: dict[str, Mapping[str, tuple[int, ...]]] = {}

    @cached_property
    def _session(self) -> FlexiqSession:
        feeds = tuple(self._task.calibration_feeds())
        return FlexiqSession(self._network, feeds, extraction=self._variant.extraction)

    def selection_key(self, saved: Mapping[str, float]) -> str:
        """Key of the record of what ``select`` selects."""
        identity: Json = {
            "subject": self._subject, "gains": dict(_gains(saved)), "ratios": list(RATIOS),
            **self._variant.identity, "width": self._variant.width,
        }
        return content_key("flexiq selection", identity)

    def select(self, saved: Mapping[str, float]) -> list[tuple[float, dict[str, LayerPrecision]]]:
        """Ratios with the layers that they split, and the precision of each of these.

        ``saved``: cycles (or pJ) that a layer saves with all of its channels narrow; what is not above 0 counts as 1.
        Raises ``NetworkError`` where no channel of the network can be lowered.
        """
        gains, key = _gains(saved), self.selection_key(saved)
        record = self._selections.get(key)
        if record is None:
            session = self._session
            if not session.lowerable:
                rule = "has no layer whose input channels can be lowered, as the method flexiq does"
                raise NetworkError(Problem(rule, where=self._network.name))
            units = session.units(
                self._variant.width, gains={layer: gains.get(layer, 1.0) for layer in session.lowerable}
            )
            chosen = [session.lowered_channels(units, mask) for mask in self._masks(session, units)]
            record = self._selections.append(SelectionRecord(
                key=key, subject=self._subject, extraction=self._variant.extraction, ratios=RATIOS,
                narrow=tuple(
                    {layer: tuple(map(int, np.flatnonzero(mask))) for layer, mask in masks.items() if mask.any()}
                    for masks in chosen
                ),
            ))
        found = []
        for ratio, narrow in zip(record.ratios, record.narrow, strict=True):
            precisions = {layer: self._split(layer, len(channels)) for layer, channels in narrow.items()}
            self._narrow[_text(precisions)] = narrow
            found.append((ratio, precisions))
        return found

    def _masks(self, session: FlexiqSession, units: Sequence[Unit]) -> list[Mask]:
        """Select at each ratio. What an evolution has measured is written down at once, so that it can go on."""
        if self._variant.selection == "greedy":
            return greedy(units)
        stage, done = "evolutionary selection", 0
        most = DEFAULT_EVOLUTION.most_evaluations * sum(ratio < 1 for ratio in RATIOS)

        def distance(mask: Mask) -> float:
            nonlocal done
            self._progress.update(stage, done, most)
            done += 1
            return self._distance(session, session.lowered_channels(units, mask))

        masks = evolutionary(units, distance, RATIOS, DEFAULT_EVOLUTION)
        self._progress.update(stage, most, most)  # fewer where children were equal
        return masks

    def _distance(self, session: FlexiqSession, channels: Lowered) -> float:
        narrow: Json = {layer: list(map(int, np.flatnonzero(mask))) for layer, mask in channels.items()}
        key = content_key("flexiq distance", {
            "subject": self._subject, "extraction": self._variant.extraction, "narrow": narrow,
        })
        known = self._distances.get(key)
        if known is None:
            found = session.distance(channels)
            known = self._distances.append(DistanceRecord(
                key=key, subject=self._subject, distance=found if math.isfinite(found) else None,
            ))
        return math.inf if known.distance is None else known.distance

    def _split(self, layer: str, count: int) -> LayerPrecision:
        extent = self._network.graph.nodes[layer]["op"].extent("C")
        return WIDE.model_copy(update={"split": ChannelSplit(share=count / extent)})

    def measure(self, assignment: Assignment) -> Accuracy:
        """Score an assignment that ``select`` gave, or ``w8a8`` throughout."""
        split = {layer: precision for layer, precision in assignment.items() if precision.split is not None}
        narrow = self._narrow[_text(split)] if split else {}
        identity: Json = {
            "subject": self._subject, "quantiser": "flexiq",
            # With nothing lowered there are no effective bits to find.
            "extraction": self._variant.extraction if narrow else "static",
            "assignment": measured_formats(assignment), "narrow": {layer: list(own) for layer, own in narrow.items()},
        }
        key = content_key("accuracy", identity)
        known = self._accuracies.get(key)
        if known is None:
            masks = {layer: np.zeros(self._network.graph.nodes[layer]["op"].extent("C"), bool) for layer in narrow}
            for layer, own in narrow.items():
                masks[layer][list(own)] = True
            score = self._task.evaluate(self._session.runner(masks))
            known = self._accuracies.append(AccuracyRecord(
                key=key, assignment={layer: precision.label for layer, precision in assignment.items()},
                accuracy=Accuracy(metric=self._task.metric, value=score.value, count=score.count,
                                  extra=dict(score.extra)),
            ))
        return known.accuracy


def _gains(saved: Mapping[str, float]) -> dict[str, float]:
    return {layer: max(1.0, float(value)) for layer, value in saved.items()}


def _text(precisions: Mapping[str, LayerPrecision]) -> str:
    return " ".join(f"{layer}={precision.label}" for layer, precision in sorted(precisions.items()))
