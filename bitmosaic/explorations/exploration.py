"""What an exploration found, read from its results folder alone.

The same object serves a finished run, an interrupted one, and ``bitmosaic redraw``: whatever is drawn or printed
comes from here, so a folder redraws to what the run drew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from bitmosaic.explorations.rank_correlation import rank_correlations
from bitmosaic.explorations.records import (
    Accuracy,
    AccuracyRecord,
    HarmRecord,
    Minimised,
    PointRecord,
    SensitivityMethod,
    Settings,
    rated_gradients,
    rated_quantiser,
    rated_reading,
)
from bitmosaic.explorations.store import RecordFile
from mapper.pareto import pareto_front as undominated
from simulator.errors import ConfigurationError, Problem, closest
from simulator.shown import Shown
from workloads.entropy import DEFAULT_READING, EntropyReading
from workloads.vector_jacobian import Gradients
from workloads.weight_quantisers import Quantiser

CostAxis = Minimised
COST_UNITS: dict[CostAxis, str] = {"latency": "ms", "energy": "µJ", "memory": "KiB"}
"""Those of ``Point.cost``."""
SETTINGS_FILE = "inputs/settings.json"
MAPPINGS_FILE = "mappings.jsonl"
SENSITIVITY_FILE = "sensitivity.jsonl"
ACCURACY_FILE = "accuracy.jsonl"
POINTS_FILE = "points.jsonl"
ENTROPY_FILE = "entropy.jsonl"
SELECTIONS_FILE = "selections.jsonl"
DISTANCES_FILE = "distances.jsonl"
FAMILIES_FILE = "families.jsonl"
COMPARISON_FILE = "inputs/comparison.json"
DEFAULT_ACCURACY_LOSS = 0.01


@dataclass(frozen=True)
class Point(Shown):
    """One network point and its short name: ``w8a8`` for a uniform baseline, ``m1``, ``m2``, … for the others."""

    label: str
    record: PointRecord

    @property
    def is_uniform(self) -> bool:
        """Whether this is a uniform-precision baseline."""
        return self.record.uniform is not None

    def cost(self, axis: CostAxis) -> float:
        """Latency in ms or energy in µJ of one inference, or memory of the weights in KiB (NaN: not recorded)."""
        if axis == "memory":
            return self.record.weight_kib
        return self.record.latency_ms if axis == "latency" else self.record.energy_uj


@dataclass(frozen=True)
class Exploration(Shown):
    """Points of one network on one accelerator, with the settings of the run that made them.

    Attributes:
        folder: the results folder.
        settings: what the run was asked for.
        fp32: score of the network as trained; None for a cost-only network, or before it was measured.
        points: uniform baselines and mixed assignments, in the order in which they were scored.
        harms: (layer, precision) → rated harm in the method's unit, infinite where outputs were not finite; empty
            where a method rates channels instead.
        measured_harms: the same as measured by perturbation, where it was.
    """

    folder: Path
    settings: Settings
    fp32: Accuracy | None
    points: tuple[Point, ...]
    harms: dict[tuple[str, str], float]
    measured_harms: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def has_accuracy(self) -> bool:
        """Whether accuracy was measured (a network without weights or task has a cost only)."""
        return self.settings.task is not None

    def front(self, axis: CostAxis) -> tuple[Point, ...]:
        """The points that no other beats in both cost and measured accuracy, cheapest first."""
        return pareto_front(self.points, axis)

    def predicted_harm(self, point: Point) -> float:
        """Sum of the rated harms of a point's layers; NaN where none of them was rated."""
        rated = [self.harms[pair] for pair in point.record.assignment.items() if pair in self.harms]
        return sum(rated) if rated else math.nan

    @property
    def correlations(self) -> dict[str, float | None] | None:
        """Precision → rank correlation over the layers of rated with measured harm (``rank_correlations``).

        None where harm was not measured.
        """
        if not self.measured_harms:
            return None
        return rank_correlations(self.harms, self.measured_harms, self.settings.menu)

    def point(self, label: str) -> Point:
        """Return a point by its label. Raises ``ConfigurationError`` where there is none."""
        for point in self.points:
            if point.label == label:
                return point
        labels = [point.label for point in self.points]
        raise ConfigurationError(
            Problem("no such point", where=str(self.folder), path="point", value=repr(label),
                    allowed=tuple(labels), did_you_mean=closest(label, labels))
        )

    def is_allowed(self, point: Point) -> bool:
        """Whether a point keeps precisions, layers' menus, ties, memory, latency and energy as asked for; baselines may
        not."""
        limit, bits = self.settings.weight_bits_limit, point.record.weight_bits
        fits = limit is None or (bits is not None and bits <= limit)
        fits = fits and all(point.cost(axis) <= most * (1 + 1e-12) for axis, most in self.settings.cost_limits.items())
        chosen = point.record.assignment
        offered = all(chosen[layer] in labels for layer, labels in self.settings.layer_menus.items())
        agree = all(len({chosen[layer] for layer in group}) == 1 for group in self.settings.tied)
        return fits and offered and agree and self.settings.kept.items() <= chosen.items()

    @property
    def accuracy_floor(self) -> float | None:
        """The accuracy (0 … 1) that the chosen point is to reach: the one asked for, else FP32's less 1 %."""
        if self.settings.accuracy_at_least is not None:
            return self.settings.accuracy_at_least
        return None if self.fp32 is None else self.fp32.value - DEFAULT_ACCURACY_LOSS

    def chosen(self, accuracy_loss: float | None = None) -> Point | None:
        """The cheapest allowed point within ``accuracy_loss`` (absolute, 0 … 1) of FP32; None: at ``accuracy_floor``.

        That is the fastest, or that of least energy or weight memory, as ``settings.minimise`` says. Where none does,
        or cost was limited and no accuracy asked for, the most accurate one of those allowed; for cost-only networks
        the baseline; None where there are no points yet.
        """
        if not self.points:
            return None
        measured = [point for point in self.points if point.record.accuracy is not None]
        measured = [point for point in measured if self.is_allowed(point)] or measured
        asked = self.accuracy_floor
        if accuracy_loss is not None and self.fp32 is not None:
            asked = self.fp32.value - accuracy_loss
        if not measured or self.fp32 is None or asked is None:
            return self.points[0]
        floor = asked - 1e-12
        good = [point for point in measured if _score(point) >= floor]
        if good and (accuracy_loss is not None or not self.seeks_accuracy):
            return min(good, key=lambda point: (*self._costs(point), -_score(point)))
        return max(measured, key=lambda point: (_score(point), -self._costs(point)[0]))

    @property
    def seeks_accuracy(self) -> bool:
        """Whether the most accurate point is asked for: cost was limited, and no accuracy was."""
        return bool(self.settings.cost_limits) and self.settings.accuracy_at_least is None

    def _costs(self, point: Point) -> tuple[float, ...]:
        """What the chosen point has least of, and of equal ones next."""
        record = point.record
        if self.settings.minimise == "memory":
            bits = math.inf if record.weight_bits is None else record.weight_bits
            return bits, record.total_cycles, record.energy_pj
        costs = record.total_cycles, record.energy_pj
        return costs if self.settings.minimise == "latency" else costs[::-1]


def _score(point: Point) -> float:
    return point.record.accuracy.value if point.record.accuracy else -math.inf


def pareto_front(points: Sequence[Point], axis: CostAxis) -> tuple[Point, ...]:
    """The undominated points in (cost, measured accuracy), cheapest first; of equal points the first."""
    measured = [point for point in points if point.record.accuracy is not None]
    mask = undominated([[point.cost(axis), -_score(point)] for point in measured])
    front = [point for point, stands in zip(measured, mask, strict=True) if stands]
    return tuple(sorted(front, key=lambda point: point.cost(axis)))


def rated_harms(
    records: Iterable[HarmRecord], subject: str, method: SensitivityMethod, quantiser: Quantiser,
    gradients: Gradients = "own", reading: EntropyReading = DEFAULT_READING,
) -> dict[tuple[str, str], float]:
    """(layer, precision) → harm that a method gave weights of a quantiser, by those gradients, and in that reading of
    entropies; infinite where outputs were not finite."""
    wanted = (subject, method, rated_quantiser(method, quantiser), rated_gradients(method, gradients),
              rated_reading(method, reading))
    return {
        (record.layer, record.precision): math.inf if record.harm is None else record.harm for record in records
        if (record.subject, record.method, record.quantiser, record.gradients, record.reading) == wanted
    }


def load_exploration(folder: str | Path) -> Exploration:
    """Read a results folder, finished or not.

    Raises ``ConfigurationError`` where it is none, or a file of it is damaged.
    """
    folder = Path(folder)
    path = folder / SETTINGS_FILE
    try:
        settings = Settings.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigurationError(
            Problem(f"is no results folder: it has no {SETTINGS_FILE}", where=str(folder))
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigurationError(
            Problem(first["msg"], where=str(path), path=".".join(str(part) for part in first["loc"]))
        ) from error
    fp32 = RecordFile(folder / ACCURACY_FILE, AccuracyRecord).get(settings.fp32_key or "")
    records = [
        record for record in RecordFile(folder / POINTS_FILE, PointRecord) if record.context == settings.context
    ]
    ratings = RecordFile(folder / SENSITIVITY_FILE, HarmRecord)

    def rated(method: SensitivityMethod) -> dict[tuple[str, str], float]:
        return {} if settings.method == "flexiq" else rated_harms(
            ratings, settings.subject, method, settings.quantiser, settings.gradients, settings.seada or DEFAULT_READING
        )

    mixed = 0
    points = []
    for record in records:
        if record.uniform is None:
            mixed += 1
        points.append(Point(record.uniform or f"m{mixed}", record))
    return Exploration(folder, settings, fp32.accuracy if fp32 else None, tuple(points), rated(settings.sensitivity),
                       rated("perturbation"))
