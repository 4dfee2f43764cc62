"""Accuracies and sensitivities of one network on one task: from the results folder, else measured and written there.

The evaluator (calibration, an onnxruntime session) is made only when something must be measured, so a second run of
a finished exploration opens no session.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from bitmosaic.explorations.exploration import ACCURACY_FILE, ENTROPY_FILE, SENSITIVITY_FILE
from bitmosaic.explorations.identity import Json, content_key
from bitmosaic.explorations.records import (
    Accuracy,
    AccuracyRecord,
    EntropyRecord,
    HarmRecord,
    OperandEntropyRow,
    SensitivityMethod,
    rated_gradients,
    rated_quantiser,
    rated_reading,
)
from bitmosaic.explorations.store import RecordFile
from bitmosaic.progress import Progress
from simulator.precision import LayerPrecision
from workloads.accuracy import AccuracyEvaluator
from workloads.entropy import DEFAULT_READING, EntropyReading, LayerEntropy, OperandEntropy, layer_entropies
from workloads.fake_quantised_model import weight_key
from workloads.network import Network
from workloads.quantisation import MAX_ABS, Clipping
from workloads.sensitivity import AT_ONCE, METHODS, Request
from workloads.tasks import Task
from workloads.vector_jacobian import Gradients
from workloads.weight_quantisers import Quantiser

Assignment = Mapping[str, LayerPrecision]


def measured_formats(assignment: Assignment) -> Json:
    """What of an assignment can change an accuracy: formats of weight and input, and the scales' granularity; where
    weights have zero points or are expanded, that too."""
    found: dict[str, Json] = {}
    for layer, precision in assignment.items():
        further = (weight_key(precision),) if precision.zero_bits or precision.expanded_weight else ()
        found[layer] = [str(precision.weight), precision.weight_group, str(precision.input), *further]
    return found


class AccuracyBook:
    """Measures each assignment, and rates each layer in each precision, once for a results folder.

    Args:
        subject: key of network and task.
        folder: the results folder.
        quantiser, clipping: of the weights, as of ``AccuracyEvaluator``. They are part of every key that they can
            change, so that results of different ones stand beside each other in one folder and never mix.
        gradients: of the ratings that read them, likewise.
    """

    def __init__(
        self, network: Network, task: Task, subject: str, folder: Path, quantiser: Quantiser = "rtn",
        clipping: Clipping = MAX_ABS, gradients: Gradients = "own",
    ) -> None:
        self._network = network
        self._task = task
        self._subject = subject
        self._quantiser: Quantiser = quantiser
        self._clipping = clipping
        self._gradients: Gradients = gradients
        self._accuracies = RecordFile(folder / ACCURACY_FILE, AccuracyRecord)
        self._harms = RecordFile(folder / SENSITIVITY_FILE, HarmRecord)
        self._entropies = RecordFile(folder / ENTROPY_FILE, EntropyRecord)

    @cached_property
    def _evaluator(self) -> AccuracyEvaluator:
        return AccuracyEvaluator(
            self._network, self._task, quantiser=self._quantiser, clipping=self._clipping, gradients=self._gradients
        )

    def key(self, assignment: Assignment) -> str:
        """Key of an assignment's accuracy."""
        return content_key(
            "accuracy",
            {"subject": self._subject, "assignment": measured_formats(assignment),
             **(_named(self._quantiser, self._clipping) if assignment else {})},
        )

    def measure(self, assignment: Assignment) -> Accuracy:
        """Score the network under an assignment (layer → precision); an empty one is FP32."""
        key = self.key(assignment)
        known = self._accuracies.get(key)
        if known is None:
            result = self._evaluator.measure(dict(assignment))
            accuracy = Accuracy(metric=result.metric, value=result.value, count=result.count, extra=dict(result.extra))
            labels = {layer: precision.label for layer, precision in assignment.items()}
            known = self._accuracies.append(AccuracyRecord(
                key=key, assignment=labels, accuracy=accuracy, quantiser=self._quantiser if assignment else "rtn"
            ))
        return known.accuracy

    def harms(
        self, menu: tuple[LayerPrecision, ...], method: SensitivityMethod, progress: Progress,
        reading: EntropyReading = DEFAULT_READING,
    ) -> dict[tuple[str, str], float]:
        """Rate every layer with trained weights in every precision: (layer, label) → harm in the method's unit.

        Harm is infinite where the network's outputs were not finite. ``reading``: of entropies.
        """
        layers = [layer for layer, binding in self._network.bindings.items() if binding.weight is not None]
        wanted = [(layer, precision) for layer in layers for precision in menu]
        missing = [pair for pair in wanted if self._harm_key(*pair, method, reading) not in self._harms]
        if method in AT_ONCE and missing:
            self._rate(missing, method, reading, lambda done, total: progress.update("sensitivity", done, total))
        else:
            for done, pair in enumerate(missing):
                progress.update("sensitivity", done, len(missing))
                self._rate([pair], method, reading, lambda done, total: None)
            if missing:
                progress.update("sensitivity", len(missing), len(missing))
        harms = {}
        for layer, precision in wanted:
            record = self._harms.get(self._harm_key(layer, precision, method, reading))
            assert record is not None
            harms[layer, precision.label] = math.inf if record.harm is None else record.harm
        return harms

    def entropies(self, reading: EntropyReading = DEFAULT_READING) -> dict[str, LayerEntropy]:
        """Entropies of the 8-bit codes of every trained layer's weights, and of its inputs on calibration data, with
        the H and the n of a reading."""
        layers = [layer for layer, binding in self._network.bindings.items() if binding.weight is not None]
        codes: dict[str, Json] = {} if reading.codes == DEFAULT_READING.codes else {"codes": reading.codes}
        keys = {layer: content_key("entropy", {"subject": self._subject, "layer": layer, **codes}) for layer in layers}
        missing = [layer for layer in layers if keys[layer] not in self._entropies]
        if missing:
            evaluator = self._evaluator
            found = layer_entropies(self._network, missing, evaluator.calibrated, evaluator.calibration_feeds,
                                    code=reading.codes, threads=evaluator.threads)
            for layer, entropy in found.items():
                self._entropies.append(EntropyRecord(
                    key=keys[layer], subject=self._subject, codes=reading.codes, layer=layer,
                    weight=_row(entropy.weight), input=None if entropy.input is None else _row(entropy.input),
                ))
        records = [self._entropies.get(key) for key in keys.values()]
        operations = {layer.name: layer for layer in self._network.layers}
        return {
            record.layer: reading.of(
                LayerEntropy(_entropy(record.weight), _entropy(record.input) if record.input else None),
                operations[record.layer],
            )
            for record in records if record is not None
        }

    def _rate(
        self, pairs: list[tuple[str, LayerPrecision]], method: SensitivityMethod, reading: EntropyReading,
        report: Callable[[int, int], None],
    ) -> None:
        """Rate pairs of layer and precision, in one table, and write them down."""
        layers = tuple(dict.fromkeys(layer for layer, _ in pairs))
        menu = tuple(dict.fromkeys(precision for _, precision in pairs))
        table = METHODS[method](Request(self._network, self._evaluator, layers, menu, report, reading))
        for layer, precision in pairs:
            harm = float(table[layers.index(layer), menu.index(precision)])
            self._harms.append(
                HarmRecord(key=self._harm_key(layer, precision, method, reading), subject=self._subject, method=method,
                           quantiser=rated_quantiser(method, self._quantiser),
                           gradients=rated_gradients(method, self._gradients), reading=rated_reading(method, reading),
                           layer=layer, precision=precision.label, harm=harm if math.isfinite(harm) else None)
            )

    def _harm_key(
        self, layer: str, precision: LayerPrecision, method: SensitivityMethod, reading: EntropyReading
    ) -> str:
        gradients, read = rated_gradients(method, self._gradients), rated_reading(method, reading).identity
        return content_key(
            "harm",
            {"subject": self._subject, "method": method, "assignment": measured_formats({layer: precision}),
             **_named(rated_quantiser(method, self._quantiser), self._clipping),
             **({} if gradients == "own" else {"gradients": gradients}), **({"reading": read} if read else {})},
        )


def _row(entropy: OperandEntropy) -> OperandEntropyRow:
    return OperandEntropyRow(value=entropy.value, bit=entropy.bit, count=entropy.count)


def _entropy(row: OperandEntropyRow) -> OperandEntropy:
    return OperandEntropy(row.value, row.bit, row.count)


def _named(quantiser: Quantiser, clipping: Clipping) -> dict[str, Json]:
    """What a key says of quantiser and clipping: nothing of the defaults, which keys of before them do not name."""
    named: dict[str, Json] = {} if quantiser == "rtn" else {"quantiser": quantiser}
    return named if clipping == MAX_ABS else {**named, "clipping": [clipping.percentile, clipping.minimises_error]}
