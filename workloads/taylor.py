"""The first-order (Taylor) sensitivity, AMP's metric: squared gradients times squared quantisation errors.

For an error ε of a tensor t the outputs move by J·ε to first order. With independent zero-mean errors of the elements
the expected squared change of the outputs is Σ_i ‖J_i‖²·ε_i² (AMP, arXiv 2505.13060: one high-precision forward and
backward pass; additive over tensors and layers). ‖J_i‖² is estimated by random projections: with independent
v_o = ±1, E[(vᵀJ_i)²] = ‖J_i‖² (Hutchinson), and g = vᵀJ is one backward pass. Errors are the true ones: of the
weights, ŵ − w, and of each recorded activation, x̂ − x, under the calibrated quantiser of its layer.

A weight's error is the same in all examples; still it is Σ_i g_i²ε_i² that is summed, and not (Σ_i g_i ε_i)²: the
errors of different weights are taken as independent, which those of a quantiser that compensates errors (GPTQ, DPQ) are
not. The other reading is what ``perturbation`` measures to first order. Examples of one run share a backward pass:
their signs are independent, so that cross terms have mean zero.

The unit is that of ``AccuracyEvaluator.output_mse``: the mean over all examples and elements of the float outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.formats import Format
from workloads.calibration import ActivationSite, trained_model, with_free_batch
from workloads.fake_quantised_model import Calibrated, trained_weight
from workloads.gradients import open_pass
from workloads.network import Network
from workloads.quantisation import activation_parameters, quantise_activation
from workloads.reverse_pass import input_sites, weight_as_read, weight_slots
from workloads.tasks.task import Feed, batches
from workloads.vector_jacobian import Gradients

PROJECTIONS = 4
SEED = 20243
# Examples that share a backward pass. More of them save time and take memory; each has signs of its own in any case.
EXAMPLES_AT_ONCE = 4

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SquaredGradients:
    """Mean squared gradients of a network's outputs on calibration data.

    Attributes:
        network: whose they are.
        weight: layer → E‖J_i‖² of each weight, as the layer reads it, divided by the number of output elements:
            times the squared errors of the weights, and summed, it is the layer's share of the output's mean squared
            error.
        input: (layer, format) → the same for the layer's input in that format, summed with its squared errors. Layers
            whose input cannot be reached from outside are missing: it stays in FP32.
        count: elements of all float outputs on all calibration data.
        projections: backward passes for each set of examples.
        seed: of the signs.
    """

    network: Network
    weight: Mapping[str, Doubles]
    input: Mapping[tuple[str, Format], float]
    count: int
    projections: int
    seed: int

    def weight_harm(self, layer: str, quantised: NDArray[Any]) -> float:
        """Σ E‖J_i‖²·ε_i² of a layer whose weights, as they stand in the model, become ``quantised``."""
        return float((self.weight[layer] * np.square(self._error(layer, quantised))).sum())

    def trace_harm(self, layer: str, quantised: NDArray[Any]) -> float:
        """Mean of E‖J_i‖² over the weights, times their squared error: every weight as if of mean sensitivity."""
        return float(self.weight[layer].mean() * np.square(self._error(layer, quantised)).sum())

    def _error(self, layer: str, quantised: NDArray[Any]) -> Doubles:
        binding, model = self.network.bindings[layer], trained_model(self.network)
        node = next(node for node in model.graph.node if node.name == binding.node)
        trained = trained_weight(self.network, layer)
        assert binding.weight is not None and trained is not None  # only layers with trained weights have gradients
        after, before = (
            weight_as_read(model, node.input[binding.weight_slot], binding.weight, array).astype(np.float64)
            for array in (quantised, trained)
        )
        return after - before


def squared_gradients(
    calibrated: Calibrated,
    feeds: Sequence[Feed],
    layers: Sequence[str],
    input_formats: Sequence[Format],
    *,
    one_by_one: bool = False,
    projections: int = PROJECTIONS,
    seed: int = SEED,
    threads: int = 0,
    gradients: Gradients = "own",
    progress: Callable[[int, int], None] | None = None,
) -> SquaredGradients:
    """Run calibration data forward, and ±1 projections of the outputs backward.

    Args:
        calibrated: network, ranges of its activations, and their scheme.
        feeds: calibration data, batch first.
        layers: with trained weights, to rate.
        input_formats: of the layers' inputs; ``fp32`` has no error.
        one_by_one: run single examples, for networks that cannot batch.
        projections: backward passes for each set of at most ``EXAMPLES_AT_ONCE`` examples.
        seed: of the signs.
        threads: of onnxruntime; NumPy's own setting, or torch's, decides for the backward pass.
        gradients: ``own``, or ``torch``, which must then be installed.
        progress: called with (sets done, sets).

    Raises ``NetworkError`` naming nodes and operators where a gradient cannot be had, ``MissingPackageError`` where
    torch is asked for and not installed.
    """
    network = calibrated.network
    weights, sites = weight_slots(network, layers), input_sites(network, layers)
    inputs = {layer: (site.node, site.slot) for layer, site in sites.items()}
    model = with_free_batch(trained_model(network))
    passes = open_pass(model, [*weights.values(), *inputs.values()], gradients, threads)
    rng = np.random.default_rng(seed)
    weight_sums: dict[str, Any] = dict.fromkeys(layers, 0.0)
    formats = [Format(each) for each in dict.fromkeys(input_formats)]
    input_sums = {(layer, format): 0.0 for layer in inputs for format in formats}
    count = 0
    sets = _sets(feeds, model, 1 if one_by_one else EXAMPLES_AT_ONCE)
    for done, feed in enumerate(sets):
        run = passes.forward(feed)
        count += sum(output.size for output in run.outputs.values())
        squares: dict[str, Any] = dict.fromkeys(inputs, 0.0)
        for _ in range(projections):
            signs = {name: _signs(rng, output) for name, output in run.outputs.items()}
            found = passes.backward(run, signs)
            for layer, slot in weights.items():
                weight_sums[layer] = weight_sums[layer] + np.square(found[slot], dtype=np.float64)
            for layer, slot in inputs.items():
                squares[layer] = squares[layer] + np.square(found[slot])
        for layer, site in sites.items():
            if np.ndim(squares[layer]) == 0:
                continue  # no output depends on it
            for format in formats:
                error = _activation_error(calibrated, site, run.values[site.tensor], format)
                input_sums[layer, format] += float((squares[layer] * np.square(error)).sum(dtype=np.float64))
        if progress is not None:
            progress(done + 1, len(sets))
    scale = projections * max(count, 1)
    return SquaredGradients(
        network, {layer: np.asarray(total) / scale for layer, total in weight_sums.items()},
        {pair: total / scale for pair, total in input_sums.items()}, count, projections, seed,
    )


def _sets(feeds: Sequence[Feed], model: Any, size: int) -> list[Feed]:
    """Feeds of at most ``size`` examples; feeds of a fixed batch as they are."""
    fixed = {
        value.type.tensor_type.shape.dim[0].dim_value
        for value in model.graph.input if value.type.tensor_type.shape.dim
    } - {0}
    if fixed - {1}:
        return list(feeds)
    return [single for feed in feeds for single in batches(feed, 1 if fixed else size)]


def _signs(rng: np.random.Generator, output: NDArray[Any]) -> NDArray[Any]:
    signs: NDArray[Any] = (2 * rng.integers(0, 2, output.shape, dtype=np.int8) - 1).astype(output.dtype)
    return signs


def _activation_error(
    calibrated: Calibrated, site: ActivationSite, values: NDArray[Any], format: Format
) -> NDArray[Any]:
    if format == "fp32":
        return np.zeros((), np.float32)
    span = calibrated.ranges[site.tensor]
    parameters = activation_parameters(span.low, span.high, format, calibrated.scheme)
    error: NDArray[Any] = quantise_activation(values, parameters).values - values
    return error
