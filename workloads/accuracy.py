"""Accuracy, measured: a precision assignment goes in, the task's metric on real data comes out.

The evaluator calibrates activation ranges once (on the task's calibration data), opens one session, and then measures
assignments; each is measured once and remembered. Without an assignment for a layer, that layer runs in FP32. What is
modelled is post-training quantisation, by any of ``QUANTISERS``, without fine-tuning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.formats import Format
from simulator.precision import LayerPrecision
from simulator.shown import Shown
from workloads.calibration import calibrate, can_batch, fitting_feeds, input_types, trained_model
from workloads.fake_quantised_model import Assignment, Calibrated, QuantisedSession, weight_key
from workloads.gradients import check_gradients
from workloads.input_moments import InputMoments, record_moments
from workloads.network import Network
from workloads.quantisation import MAX_ABS, Clipping, Scheme
from workloads.tasks.task import Feed, Run, Task, batches, typed_feed
from workloads.taylor import SquaredGradients, squared_gradients
from workloads.vector_jacobian import Gradients
from workloads.weight_quantisers import ROUNDING, Quantiser, check_quantiser

# What of an assignment can change an output: layer, what the weights are quantised to, input format.
_Key = frozenset[tuple[str, str, str]]


@dataclass(frozen=True)
class AccuracyResult(Shown):
    """One measurement.

    Attributes:
        metric: what ``value`` is, e.g. ``accuracy``.
        value: 0 … 1, higher is better.
        count: examples.
        cpu_seconds: processor time of the measurement (all threads); of the first one, where it was remembered.
        extra: further figures of the task.
    """

    metric: str
    value: float
    count: int
    cpu_seconds: float
    extra: Mapping[str, float] = field(default_factory=dict)


class AccuracyEvaluator:
    """Measures assignments of one network on one task.

    Args:
        network: with trained weights.
        task: its data and metric.
        scheme: ``affine`` (with zero points, the default) or ``symmetric`` activations.
        percentile: of activation values that calibration keeps; 100 keeps all.
        clipping: of weights.
        quantiser: of weights: ``rtn`` rounds to nearest, ``rtn_least_error`` with scales of least error; ``gptq``,
            ``gptq_act`` and ``dpq`` (for weights that are expanded, as in ``w4:fp8_e4m3``) look at the layers' inputs
            on the calibration data.
        moments: of the layers' inputs, as another evaluator of the network has them; None: recorded where needed.
        threads: of onnxruntime; 0 lets it choose. Take 1 inside parallel sweeps.
        gradients: of ``squared_gradients``: ``own``, or ``torch``'s.

    ``moments.missing`` names the layers that are rounded to nearest all the same, because their inputs cannot be
    recorded. Raises ``PrecisionError`` for an unknown quantiser, ``NetworkError`` where the network has no trained
    weights or the calibration data do not fit it, ``MissingPackageError`` where torch is asked for and not installed.
    """

    def __init__(
        self, network: Network, task: Task, *, scheme: Scheme = "affine", percentile: float = 100.0,
        clipping: Clipping = MAX_ABS, quantiser: Quantiser = "rtn", moments: InputMoments | None = None,
        threads: int = 0, gradients: Gradients = "own",
    ) -> None:
        check_quantiser(quantiser)
        check_gradients(gradients)
        self.network = network
        self.task = task
        feeds = fitting_feeds(network, task.calibration_feeds(), f"{network.name}: calibration data of {task.name!r}")
        self._types = input_types(trained_model(network))
        self.threads = threads
        self.gradients: Gradients = gradients
        self._one_by_one = bool(feeds) and not can_batch(network, feeds[0], threads)
        self._feeds = tuple(single for feed in feeds for single in batches(feed, 1)) if self._one_by_one else feeds
        ranges = calibrate(network, self._feeds, percentile=percentile, threads=threads)
        if moments is None:
            moments = InputMoments() if quantiser in ROUNDING else record_moments(network, self._feeds, threads)
        self.moments = moments
        self.calibrated = Calibrated(network, ranges, scheme, clipping, quantiser, self.moments.by_layer)
        self._session = QuantisedSession(self.calibrated, threads)
        self._results: dict[_Key, AccuracyResult] = {}
        self._errors: dict[_Key, float] = {}
        self._gradients: SquaredGradients | None = None
        self._gradient_pairs: set[tuple[str, Format]] = set()
        self._reference: list[list[NDArray[Any]]] | None = None

    @property
    def calibration_feeds(self) -> tuple[Feed, ...]:
        """The calibration data, in feeds that the network can run: single examples where it cannot batch."""
        return self._feeds

    def measure(self, assignment: Assignment) -> AccuracyResult:
        """Score the network under an assignment (layer name → precision; layers left out run in FP32).

        Raises ``NetworkError`` for an unknown layer, ``PrecisionError`` for a format that operands cannot have.
        """
        key = _key(assignment)
        if key not in self._results:
            began = time.process_time()
            score = self.task.evaluate(self.runner(assignment))
            seconds = time.process_time() - began
            self._results[key] = AccuracyResult(
                self.task.metric, score.value, score.count, seconds, dict(score.extra)
            )
        return self._results[key]

    def runner(self, assignment: Assignment) -> Run:
        """What runs the network under an assignment: feed of any number of examples → outputs.

        Numbers of another width become those of the network's inputs. Raises as ``measure`` does.
        """
        run_typed = self._session.runner(assignment)

        def run(feed: Feed) -> list[NDArray[Any]]:
            typed = typed_feed(feed, self._types, f"{self.network.name}: data of {self.task.name!r}")
            if not self._one_by_one:
                return run_typed(typed)
            results = [run_typed(single) for single in batches(typed, 1)]
            return [np.concatenate(outputs) for outputs in zip(*results, strict=True)]

        return run

    def fp32(self) -> AccuracyResult:
        """Score of the network as trained."""
        return self.measure({})

    def output_mse(self, assignment: Assignment) -> float:
        """Mean squared difference to FP32 over all elements of all float outputs, on the calibration data.

        Infinite where an output is not finite. Raises as ``measure`` does.
        """
        key = _key(assignment)
        if key not in self._errors:
            run = self._session.runner(assignment)
            if self._reference is None:
                fp32 = self._session.runner({})
                self._reference = [fp32(feed) for feed in self._feeds]
            total, count = 0.0, 0
            for feed, expected in zip(self._feeds, self._reference, strict=True):
                for output, right in zip(run(feed), expected, strict=True):
                    if np.issubdtype(right.dtype, np.floating):
                        difference = (output - right).ravel()
                        # Squares are summed in double precision: an output can have millions of elements.
                        total += float(np.einsum("i,i->", difference, difference, dtype=np.float64))
                        count += right.size
            error = total / max(count, 1)
            self._errors[key] = error if np.isfinite(error) else float("inf")
        return self._errors[key]

    def squared_gradients(
        self, layers: Sequence[str], input_formats: Sequence[Format],
        progress: Callable[[int, int], None] | None = None,
    ) -> SquaredGradients:
        """Mean squared gradients of the outputs on the calibration data, with the layers' input errors in each format.

        The last ones are remembered, for all that they hold. Raises ``NetworkError`` where an operator has no gradient.
        """
        known = self._gradients
        pairs = {(layer, format) for layer in layers for format in input_formats}
        if known is None or not (known.weight.keys() >= set(layers) and self._gradient_pairs >= pairs):
            known = squared_gradients(
                self.calibrated, self._feeds, layers, input_formats, one_by_one=self._one_by_one,
                threads=self.threads, gradients=self.gradients, progress=progress,
            )
            self._gradients, self._gradient_pairs = known, pairs
        return known


def uniform(network: Network, precision: LayerPrecision) -> dict[str, LayerPrecision]:
    """The same precision for every layer whose weights are trained."""
    return {layer: precision for layer, binding in network.bindings.items() if binding.weight is not None}


def _key(assignment: Assignment) -> _Key:
    return frozenset(
        (layer, weight_key(precision), str(precision.input))
        for layer, precision in assignment.items()
    )
