"""What an exported network consists of, in whatever format it is written: codes of weights, ranges of activations, and
the model around them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, version_converter

from simulator.errors import NetworkError, Problem
from simulator.floating import rounded
from simulator.precision import LayerPrecision
from workloads.calibration import ActivationSite, activation_sites, trained_model
from workloads.dpq import protective_range
from workloads.fake_quantised_model import Assignment, Calibrated, site_parameters, trained_weight
from workloads.network import Network
from workloads.onnx_read import first_line
from workloads.quantisation import AffineParameters, Quantised, as_rows

METADATA = "bitmosaic.layers"


@dataclass(frozen=True)
class StoredWeights:
    """A layer's quantised weights, ready to be written.

    Attributes:
        layer, precision: whose they are.
        quantised: codes, scales, zero points and values.
        shape: of the weights in the model.
        channel_axes: axes that number output channels.
        type: of the values in the model.
    """

    layer: str
    precision: LayerPrecision
    quantised: Quantised
    shape: tuple[int, ...]
    channel_axes: tuple[int, ...]
    type: np.dtype[Any]

    @property
    def rows(self) -> NDArray[Any]:
        """Codes as [channels, weights of a channel]."""
        return rows_of(self.quantised.codes, self.channel_axes)


def rows_of(array: NDArray[Any], channel_axes: tuple[int, ...]) -> NDArray[Any]:
    """A weight tensor as [channels, weights of a channel]."""
    return as_rows(array, channel_axes, -1)[0][:, 0]


def stored_weights(calibrated: Calibrated, assignment: Assignment) -> list[StoredWeights]:
    """Quantise the trained weights of the layers that an assignment takes out of FP32. Raises as the quantisers do."""
    found = []
    for layer, precision in assignment.items():
        trained = trained_weight(calibrated.network, layer)
        if trained is None or precision.weight == "fp32":
            continue
        quantised = calibrated.weight(layer, precision)
        assert quantised is not None  # there are trained weights
        axes = calibrated.network.bindings[layer].weight_channel_axes
        found.append(StoredWeights(layer, precision, quantised, trained.shape, axes, trained.dtype))
    return found


def quantised_sites(calibrated: Calibrated, assignment: Assignment) -> dict[ActivationSite, AffineParameters]:
    """The activations that an assignment quantises, and how."""
    parameters = {
        site: site_parameters(calibrated, site, assignment) for site in activation_sites(calibrated.network)
    }
    return {site: each for site, each in parameters.items() if each is not None}


def at_opset(network: Network, opset: int) -> Network:
    """The network with its model at an opset, or a later one that it has already.

    Raises ``NetworkError`` where ONNX's own converter refuses an operator.
    """
    model = trained_model(network)
    if any(entry.domain in ("", "ai.onnx") and entry.version >= opset for entry in model.opset_import):
        return network
    try:
        converted = version_converter.convert_version(model, opset)
    except Exception as error:  # the converter's exceptions share no public root
        rule = f"cannot be brought to opset {opset}, which these formats need: {first_line(error)}"
        raise NetworkError(Problem(rule, where=network.name, path="opset")) from error
    return replace(network, model=converted)


def finish(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], constants: Mapping[str, onnx.TensorProto], note: str
) -> None:
    """Put nodes in front of a rewired model, add constants and metadata, and take out what nothing reads any more."""
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.extend(constants.values())
    helper.set_model_props(
        model, {**{item.key: item.value for item in model.metadata_props}, METADATA: note}
    )
    _remove_unread(model)


def described(assignment: Assignment, how: Mapping[str, str], sites: Mapping[ActivationSite, AffineParameters]) -> str:
    """What the metadata say of each layer, as JSON: its precision, and how weights and activations are written."""
    layers = {
        layer: {
            "precision": precision.label, "weight": how.get(layer, "not quantised"),
            **{f"computed {site.operand}": str(parameters.format) for site, parameters in sites.items()
               if site.layer == layer},
        }
        for layer, precision in assignment.items()
    }
    return json.dumps({"note": "sums, biases and all between layers are in FP32", "layers": layers})


def expands_alike(stored: StoredWeights) -> bool:
    """Whether scale · (code − zero), rounded to FP32 on its way into FP8, gives the values of the weights."""
    precision, found = stored.precision, stored.quantised
    wide = precision.expanded_weight
    assert wide is not None
    steps, scales = steps_and_scales(stored)
    limit = np.float32(protective_range(wide))
    products = np.clip(steps * scales, -limit, limit).astype(np.float64)
    values = rounded(products, wide).astype(np.float32) * np.float32(found.tensor_scale)
    return bool(np.array_equal(values, rows_of(found.values, stored.channel_axes)))


def steps_and_scales(stored: StoredWeights) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Codes less zero points, and the scale of each weight, as [channels, weights of a channel]."""
    rows, found = stored.rows, stored.quantised
    group = stored.precision.weight_group
    place = np.zeros(rows.shape[1], np.int64) if group <= 0 else np.arange(rows.shape[1]) // group
    scales, zeros = (
        np.broadcast_to(array.reshape((*array.shape, 1, 1)[:2]), (len(rows), place[-1] + 1))[:, place]
        for array in (found.scale, found.zero_point)
    )
    return (rows - zeros).astype(np.float32), scales.astype(np.float32)


def _remove_unread(model: onnx.ModelProto) -> None:
    """Take out nodes and constants that no output depends on, such as the weights that were replaced."""
    graph = model.graph
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            kept.append(node)
            read.update(_names_read(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    initial = {tensor.name for tensor in graph.initializer}
    for field, removed in ((graph.initializer, initial - read), (graph.input, initial - read)):
        remaining = [entry for entry in field if entry.name not in removed]
        del field[:]
        field.extend(remaining)


def _names_read(node: onnx.NodeProto) -> set[str]:
    """Tensors that a node reads, those of its branches among them."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names |= _names_read(inner)
            names |= {value.name for value in graph.output}
    return names
