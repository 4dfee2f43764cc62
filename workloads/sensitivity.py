"""Sensitivity: how much harm a precision does to a network, layer by layer, taken as additive.

All methods share one interface: ``estimate(network, evaluator, menu, method=…)`` gives a table layer × precision of
harms (≥ 0, in a unit of the method). Sums over layers are what precision assignment minimises or bounds; whether a
method's harms order layers as measurement does is what ``compare`` tells. Methods are functions in ``METHODS``.
``taylor`` is the default where the network has gradients, else ``perturbation``: ``default_method``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.errors import NetworkError, PrecisionError, Problem, closest
from simulator.precision import LayerPrecision
from simulator.shown import Shown
from workloads.accuracy import AccuracyEvaluator
from workloads.calibration import trained_model
from workloads.entropy import DEFAULT_READING, EntropyReading, Kind, layer_entropies
from workloads.fake_quantised_model import quantised_weight, trained_weight
from workloads.network import Network
from workloads.reverse_pass import gradient_problems
from workloads.vector_jacobian import Gradients

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Request:
    """What a method is given.

    Attributes:
        network: with model and bindings.
        evaluator: measures on calibration data; None where the caller has none (methods on weights need none).
        layers: names of the layers to rate: those with trained weights.
        menu: precisions to rate each layer in.
        progress: called with (done, total): after each entry of the table, or each set of examples of ``AT_ONCE``.
        reading: of SEADA's rules, for the entropies.
    """

    network: Network
    evaluator: AccuracyEvaluator | None
    layers: tuple[str, ...]
    menu: tuple[LayerPrecision, ...]
    progress: Progress
    reading: EntropyReading = DEFAULT_READING

    def table(
        self, harm: Callable[[str, LayerPrecision], float], *, report: bool = True
    ) -> NDArray[np.float64]:
        """Fill the table layers × menu entry by entry, reporting progress if asked to."""
        table = np.zeros((len(self.layers), len(self.menu)))
        for row, layer in enumerate(self.layers):
            for column, precision in enumerate(self.menu):
                table[row, column] = harm(layer, precision)
                if report:
                    self.progress(row * len(self.menu) + column + 1, table.size)
        return table


@dataclass(frozen=True, eq=False)
class Sensitivity(Shown):
    """Additive harm of each layer in each precision.

    Attributes:
        method: name of the estimator.
        layers: rows.
        menu: columns.
        harm: float64 [layers, menu], ≥ 0, read-only.
    """

    method: str
    layers: tuple[str, ...]
    menu: tuple[LayerPrecision, ...]
    harm: NDArray[np.float64]

    def of(self, layer: str, precision: LayerPrecision) -> float:
        """Harm of one layer in one precision. Raises ``NetworkError`` or ``PrecisionError`` where not rated."""
        if layer not in self.layers:
            raise NetworkError(
                Problem("was not rated", where="sensitivity", path=layer, did_you_mean=closest(layer, self.layers))
            )
        if precision not in self.menu:
            raise PrecisionError(
                Problem("was not rated", where="sensitivity", path="precision", value=precision.label,
                        allowed=tuple(entry.label for entry in self.menu))
            )
        return float(self.harm[self.layers.index(layer), self.menu.index(precision)])

    def total(self, assignment: Mapping[str, LayerPrecision]) -> float:
        """Predicted harm of an assignment: the sum over its layers."""
        return sum(self.of(layer, precision) for layer, precision in assignment.items())


Method = Callable[[Request], NDArray[np.float64]]


def perturbation(request: Request) -> NDArray[np.float64]:
    """Measured: mean squared error of the outputs with this one layer quantised and all others in FP32.

    Unit: square of the network's output. The reference for all other methods; one pass over the calibration data for
    each entry.
    """
    evaluator = _evaluator(request, "perturbation")
    return request.table(lambda layer, precision: evaluator.output_mse({layer: precision}))


def weight_error(request: Request) -> NDArray[np.float64]:
    """Squared error of the weights, Σ‖ŵ − w‖². Unit: square of a weight; activations do not count."""

    def harm(layer: str, precision: LayerPrecision) -> float:
        weight = trained_weight(request.network, layer)
        assert weight is not None  # only layers with trained weights are rated
        return float(np.square(_quantised(request, layer, precision).astype(np.float64) - weight).sum())

    return request.table(harm)


def taylor(request: Request) -> NDArray[np.float64]:
    """First order: mean of Σ g²·ε² over the calibration data, weights and inputs (AMP, arXiv 2505.13060).

    Unit: square of the network's output, as ``perturbation``. ``workloads.taylor`` has the formula and what it assumes.
    """
    gradients = _evaluator(request, "taylor").squared_gradients(
        request.layers, [precision.input for precision in request.menu], request.progress
    )
    return request.table(
        lambda layer, precision: gradients.weight_harm(layer, _quantised(request, layer, precision))
        + gradients.input.get((layer, precision.input), 0.0),
        report=False,
    )


def hessian_trace(request: Request) -> NDArray[np.float64]:
    """Mean trace of the layer's Hessian times ½‖ŵ − w‖² (HAWQ-V2, arXiv 1911.03852); activations do not count.

    The loss is the mean squared difference of the outputs to FP32. In FP32 its residual is zero, so that its Hessian is
    exactly 2·JᵀJ / elements, whose diagonal the projections of ``taylor`` estimate. Unit: as ``perturbation``.
    """
    gradients = _evaluator(request, "hessian_trace").squared_gradients(request.layers, [], request.progress)
    return request.table(
        lambda layer, precision: gradients.trace_harm(layer, _quantised(request, layer, precision)), report=False
    )


def bit_entropy(request: Request) -> NDArray[np.float64]:
    """Bits of information lost, of 8-bit codes' bit-plane entropy (SEADA as read in ``workloads.entropy``).

    Of weights and of the input of one example; of weights alone without an evaluator.
    """
    return _lost_bits(request, "bit")


def value_entropy(request: Request) -> NDArray[np.float64]:
    """Bits of information lost, of 8-bit codes' entropy (EAGL's, arXiv 2301.13330); as ``bit_entropy`` otherwise."""
    return _lost_bits(request, "value")


METHODS: dict[str, Method] = {
    "taylor": taylor, "perturbation": perturbation, "weight_error": weight_error, "hessian_trace": hessian_trace,
    "bit_entropy": bit_entropy, "value_entropy": value_entropy,
}
# A whole table costs them hardly more than one entry: gradients or recorded activations are the work.
AT_ONCE = frozenset(("taylor", "hessian_trace", "bit_entropy", "value_entropy"))


def default_method(network: Network, gradients: Gradients = "own") -> tuple[str, str]:
    """The method for a network, by gradients from there, and why it is not ``taylor`` (empty where it is).

    Raises ``NetworkError`` for a network without trained weights.
    """
    problems = gradient_problems(network, gradients)
    if not problems:
        return "taylor", ""
    return "perturbation", f"taylor needs gradients: {problems[0].path}: {problems[0].rule}"


def estimate(
    network: Network,
    evaluator: AccuracyEvaluator | None,
    menu: Sequence[LayerPrecision],
    *,
    method: str | None = None,
    progress: Progress | None = None,
    reading: EntropyReading = DEFAULT_READING,
) -> Sensitivity:
    """Rate every layer with trained weights in every precision of the menu.

    ``method`` None takes ``default_method``. Gradients are ``evaluator.gradients``. ``progress`` and ``reading`` are as
    in ``Request``. Raises ``NetworkError`` for a network without trained weights, an unknown method, or one that needs
    an evaluator where there is none, and ``PrecisionError`` for an empty menu.
    """
    if method is None:
        method = default_method(network, "own" if evaluator is None else evaluator.gradients)[0]
    if method not in METHODS:
        raise NetworkError(
            Problem("no such sensitivity method", path="method", value=repr(method), allowed=tuple(METHODS),
                    did_you_mean=closest(method, tuple(METHODS)))
        )
    if not menu:
        raise PrecisionError(Problem("must name at least one precision", path="menu"))
    trained_model(network)  # or its error: a table without layers would look as if nothing did harm
    layers = tuple(layer for layer, binding in network.bindings.items() if binding.weight is not None)
    if not layers:
        raise NetworkError(Problem("has no layer with trained weights that could be rated", where=network.name))
    request = Request(network, evaluator, layers, tuple(menu), progress or (lambda done, total: None), reading)
    harm = METHODS[method](request)
    harm.setflags(write=False)
    return Sensitivity(method, layers, request.menu, harm)


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation, ties given their mean rank: −1 … 1, or NaN where one side is constant.

    Arrays of one shape (flattened). Raises ``ValueError`` where the shapes differ or hold fewer than two values.
    """
    a, b = np.asarray(first, dtype=np.float64).ravel(), np.asarray(second, dtype=np.float64).ravel()
    if a.shape != b.shape or a.size < 2:
        raise ValueError(f"first={a.shape}, second={b.shape}: must have one shape and at least two values")
    ranks = [_mean_ranks(values) for values in (a, b)]
    x, y = (rank - rank.mean() for rank in ranks)
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale else float("nan")


def _evaluator(request: Request, method: str) -> AccuracyEvaluator:
    if request.evaluator is None:
        raise NetworkError(
            Problem("needs an evaluator: it measures on calibration data", where=request.network.name, path="method",
                    value=repr(method))
        )
    return request.evaluator


def _quantised(request: Request, layer: str, precision: LayerPrecision) -> NDArray[np.float32]:
    if request.evaluator is None:
        quantised = quantised_weight(request.network, layer, precision)
    else:  # as it is measured: with the evaluator's clipping and quantiser
        quantised = request.evaluator.calibrated.weight(layer, precision)
    assert quantised is not None  # only layers with trained weights are rated
    return quantised.values


def _lost_bits(request: Request, kind: Kind) -> NDArray[np.float64]:
    evaluator = request.evaluator
    if evaluator is None:
        found = layer_entropies(request.network, request.layers, code=request.reading.codes)
    else:
        found = layer_entropies(
            request.network, request.layers, evaluator.calibrated, evaluator.calibration_feeds,
            code=request.reading.codes, threads=evaluator.threads,
        )
    layers = {layer.name: layer for layer in request.network.layers}
    entropies = {name: request.reading.of(entropy, layers[name]) for name, entropy in found.items()}
    return request.table(lambda layer, precision: entropies[layer].lost_bits(kind, precision))


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2.0)[inverse]
