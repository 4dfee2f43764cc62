"""Fake quantisation: a float model whose weights and activations take only the values of their formats.

Weights are replaced by their dequantised values; in front of each layer its activations are quantised and
dequantised with standard ONNX operators. Everything between layers, biases and sums stay in FP32: integer
accumulators are exact, and ``LayerPrecision.output`` and ``accumulator`` are costs, not roundings, here.
Layers that are not in the assignment, and operands in ``fp32``, are untouched.

There are two ways. ``fake_quantised_model`` writes a model for one assignment, to save or to give to others.
``QuantisedSession`` is for measuring many assignments: one onnxruntime session whose weights, scales and modes are
graph *inputs*, so that another assignment is just other arrays. Both compute the same; sums in another order can
move a value over a rounding edge. Measured on PP-OCRv6 (66 trained layers) in processor seconds: writing a model and
starting its session takes 0.8 to 1.1, and then 16 images 0.7 and 100 images 5.4; the shared session takes 0.9 and
5.5, since onnxruntime cannot pack its weights ahead. So it wins on 100 images or fewer, and by far on small networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from simulator.errors import NetworkError, PrecisionError, Problem, closest
from simulator.precision import LayerPrecision
from workloads.calibration import (
    ActivationSite,
    ValueRange,
    activation_sites,
    open_session,
    trained_model,
)
from workloads.error_compensation import Moments
from workloads.network import Network
from workloads.quantisation import (
    MAX_ABS,
    AffineParameters,
    Clipping,
    Quantised,
    Scheme,
    activation_parameters,
    float_format,
)
from workloads.quantised_graph import CONSTANTS, Mode, instrumented, site_prefix, weight_name
from workloads.tasks.task import Feed, Run
from workloads.weight_quantisers import Quantiser, quantise_weight

Assignment = Mapping[str, LayerPrecision]
Arrays = dict[str, NDArray[Any]]

_NARROW_BITS = 8  # up to here QuantizeLinear holds the codes


@dataclass(frozen=True)
class Calibrated:
    """A network with all that turns an assignment into arrays.

    Attributes:
        network: with model and bindings.
        ranges: tensor name → range, of every site that an assignment may quantise.
        scheme: ``affine`` (zero point) or ``symmetric`` activations.
        clipping: of weights.
        quantiser: of weights.
        moments: layer → second moments of its inputs (``record_moments``), for quantisers other than ``rtn``; a layer
            without is rounded to nearest.
    """

    network: Network
    ranges: Mapping[str, ValueRange]
    scheme: Scheme = "affine"
    clipping: Clipping = MAX_ABS
    quantiser: Quantiser = "rtn"
    moments: Mapping[str, Moments] = field(default_factory=dict)

    def weight(self, layer: str, precision: LayerPrecision) -> Quantised | None:
        """Quantise a layer's weights; None without trained ones. Raises as ``quantised_weight`` does."""
        return quantised_weight(self.network, layer, precision, self.clipping, self.quantiser, self.moments.get(layer))


def trained_weight(network: Network, layer: str) -> NDArray[Any] | None:
    """Trained weights of a layer as they stand in the model; None where both operands are activations.

    Raises ``NetworkError`` for an unknown layer.
    """
    model = trained_model(network)
    check_layers(network, (layer,))
    name = network.bindings[layer].weight
    return None if name is None else _constant(model, name)


def quantised_weight(
    network: Network, layer: str, precision: LayerPrecision, clipping: Clipping = MAX_ABS,
    quantiser: Quantiser = "rtn", moments: Moments | None = None,
) -> Quantised | None:
    """Quantise a layer's weights as ``quantise_weight`` does; None without trained weights.

    Raises as that does, and ``NetworkError`` for an unknown layer.
    """
    weight = trained_weight(network, layer)
    if weight is None:
        return None
    return quantise_weight(weight, network.bindings[layer].weight_channel_axes, precision, clipping=clipping,
                           quantiser=quantiser, moments=moments)


def fake_quantised_model(calibrated: Calibrated, assignment: Assignment) -> onnx.ModelProto:
    """Write the fake-quantised model of one assignment; the batch dimension is free.

    Raises ``NetworkError`` for a layer that does not exist or a range that was not calibrated,
    ``PrecisionError`` for a format that operands cannot have.
    """
    network = calibrated.network
    check_assignment(network, assignment)
    arrays: Arrays = {**CONSTANTS}
    weights: list[str] = []
    modes: dict[ActivationSite, Mode] = {}
    for layer, precision in assignment.items():
        quantised = calibrated.weight(layer, precision)
        if quantised is not None and precision.weight != "fp32":
            weights.append(layer)
            arrays[weight_name(layer)] = quantised.values.astype(_weight_type(network, layer))
    for site in activation_sites(network):
        parameters = _site_arrays(calibrated, site, assignment)
        modes[site] = _site_mode(parameters, site)
        arrays.update(parameters)
    model = instrumented(network, weights, modes)
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items() if name in used
    )
    return model


class QuantisedSession:
    """One onnxruntime session for all assignments of a network.

    Raises ``NetworkError`` where the model cannot be instrumented or run.
    """

    def __init__(self, calibrated: Calibrated, threads: int = 0) -> None:
        self.calibrated = calibrated
        network = calibrated.network
        self._sites = activation_sites(network)
        self._layers = [layer for layer, binding in network.bindings.items() if binding.weight is not None]
        model = instrumented(network, self._layers, dict.fromkeys(self._sites, "any"))
        self._trained = {layer: _contiguous(trained_weight(network, layer)) for layer in self._layers}
        inputs = [
            helper.make_tensor_value_info(weight_name(layer), helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for layer, array in self._trained.items()
        ]
        for site in self._sites:
            inputs.extend(
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [])
                for name, array in _untouched(site).items()
            )
        model.graph.input.extend(inputs)
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in CONSTANTS.items())
        self._session = open_session(model, threads)
        self._weights: dict[tuple[str, str], NDArray[Any]] = {}

    def runner(self, assignment: Assignment) -> Run:
        """Return what runs the network under an assignment: feed → outputs, in the graph's order.

        Raises as ``fake_quantised_model`` does.
        """
        check_assignment(self.calibrated.network, assignment)
        arrays: Arrays = {weight_name(layer): self._weight(layer, assignment) for layer in self._layers}
        for site in self._sites:
            arrays.update(_site_arrays(self.calibrated, site, assignment))

        def run(feed: Feed) -> list[NDArray[Any]]:
            outputs: list[NDArray[Any]] = self._session.run(None, {**arrays, **feed})
            return outputs

        return run

    def _weight(self, layer: str, assignment: Assignment) -> NDArray[Any]:
        precision = assignment.get(layer)
        if precision is None or precision.weight == "fp32":
            return self._trained[layer]
        key = layer, weight_key(precision)
        if key not in self._weights:
            quantised = self.calibrated.weight(layer, precision)
            assert quantised is not None  # only layers with trained weights come here
            self._weights[key] = _contiguous(quantised.values.astype(self._trained[layer].dtype))
        return self._weights[key]


def weight_key(precision: LayerPrecision) -> str:
    """What of a precision can change quantised weights, in one text."""
    kinds = [str(precision.weight), str(precision.weight_group)]
    if precision.zero_bits:
        kinds.append("zeros")
    if precision.expanded_weight is not None:
        kinds.append(str(precision.expanded_weight))
    return " ".join(kinds)


def check_layers(network: Network, names: Mapping[str, Any] | tuple[str, ...]) -> None:
    """Raise ``NetworkError`` naming every layer that the network does not have."""
    known = tuple(network.bindings)
    problems = [
        Problem("no such layer", where=network.name, path=name, did_you_mean=closest(name, known),
                allowed=() if closest(name, known) else known[:8])
        for name in names if name not in network.bindings
    ]
    if problems:
        raise NetworkError(problems)


def check_assignment(network: Network, assignment: Assignment) -> None:
    """Raise for layers that the network does not have, and for those split by channel."""
    check_layers(network, assignment)
    problems = [
        Problem("layers split by channel are measured by workloads.flexiq_model.FlexiqSession", where=network.name,
                path=layer, value=precision.label)
        for layer, precision in assignment.items() if precision.split is not None
    ]
    if problems:
        raise PrecisionError(problems)


def _untouched(site: ActivationSite) -> Arrays:
    """The site's inputs where nothing is quantised."""
    p = site_prefix(site)
    arrays: Arrays = {
        p + name: np.array(0, np.float32)
        for name in ("low", "high", "low_value", "high_value", "smallest", "largest", "mantissa")
    }
    arrays[p + "scale"] = np.array(1, np.float32)
    arrays[p + "zero"] = np.array(0, np.uint8)
    arrays[p + "is_on"] = np.array(False)
    arrays[p + "is_narrow"] = np.array(False)
    return arrays


def site_parameters(calibrated: Calibrated, site: ActivationSite, assignment: Assignment) -> AffineParameters | None:
    """How a site's values become codes under an assignment; None where they stay in FP32.

    Raises ``NetworkError`` for a tensor that was not calibrated.
    """
    precision = assignment.get(site.layer)
    format = None if precision is None else getattr(precision, site.operand)
    if format is None or format == "fp32":
        return None
    span = calibrated.ranges.get(site.tensor)
    if span is None:
        raise NetworkError(
            Problem("was not calibrated", where=calibrated.network.name, path=f"tensor {site.tensor!r}")
        )
    return activation_parameters(span.low, span.high, format, calibrated.scheme)


def _site_arrays(calibrated: Calibrated, site: ActivationSite, assignment: Assignment) -> Arrays:
    parameters = site_parameters(calibrated, site, assignment)
    return _untouched(site) if parameters is None else parameter_arrays(site, parameters)


def parameter_arrays(site: ActivationSite, parameters: AffineParameters) -> Arrays:
    """The tensors that the nodes of ``quantised_graph.quantising_nodes`` read."""
    arrays, format = _untouched(site), parameters.format
    p, scale = site_prefix(site), np.float32(parameters.scale)
    low, high = (np.float32(end - parameters.zero_point) for end in (parameters.lowest, parameters.highest))
    values: dict[str, Any] = {"scale": scale, "low": low, "high": high, "low_value": low * scale,
                              "high_value": high * scale}
    if not format.is_integer:
        shape = float_format(format)
        values |= {"smallest": shape.smallest_exponent, "largest": 127, "mantissa": shape.mantissa_bits}
    arrays.update({p + name: np.array(value, np.float32) for name, value in values.items()})
    narrow = format.is_integer and format.bits <= _NARROW_BITS
    # QuantizeLinear counts in uint8: signed codes move up by 128.
    offset = 128 if format.is_signed else 0
    arrays[p + "zero"] = np.array(parameters.zero_point + offset if narrow else 0, np.uint8)
    arrays[p + "is_on"], arrays[p + "is_narrow"] = np.array(True), np.array(narrow)
    return arrays


def _site_mode(arrays: Arrays, site: ActivationSite) -> Mode:
    p = site_prefix(site)
    if not arrays[p + "is_on"]:
        return "off"
    return "narrow" if arrays[p + "is_narrow"] else "general"


def _weight_type(network: Network, layer: str) -> np.dtype[Any]:
    weight = trained_weight(network, layer)
    assert weight is not None
    return weight.dtype


def _contiguous(array: NDArray[Any] | None) -> NDArray[Any]:
    assert array is not None
    return np.ascontiguousarray(array)


def _constant(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    """A weight by name: an initialiser, or the output of a Constant node."""
    for initializer in model.graph.initializer:
        if initializer.name == name:
            return np.asarray(numpy_helper.to_array(initializer))
    for node in model.graph.node:
        if node.op_type == "Constant" and name in node.output:
            value = next((item.t for item in node.attribute if item.name == "value"), None)
            if value is not None:
                return np.asarray(numpy_helper.to_array(value))
    raise NetworkError(Problem("is no constant of the model", where=model.graph.name, path=f"weight {name!r}"))
