"""Changes to an ONNX graph that let it run with quantised operands.

A layer gets a weight tensor of its own, and its activations pass through quantise–dequantise operators
first. The graph that comes out *reads* tensors that it does not define (weights, scales, bounds): whoever
calls adds them, as initialisers or as graph inputs. Names of new tensors start with ``bitmosaic/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from simulator.errors import NetworkError, Problem
from workloads.calibration import ActivationSite, trained_model, with_free_batch
from workloads.network import Network

Mode = Literal["off", "narrow", "general", "any"]

MINIMUM_OPSET = 11  # Clip with bounds as inputs, Round
# Rounding to a float format needs ⌊log2|y|⌋; zero has none, so the smallest normal FP32 number stands in.
CONSTANTS = {
    "bitmosaic/tiny": np.array(np.finfo(np.float32).tiny, np.float32),
    "bitmosaic/log2": np.array(np.log(2.0), np.float32),
    "bitmosaic/two": np.array(2.0, np.float32),
}


def instrumented(
    network: Network, weights: Sequence[str], modes: Mapping[ActivationSite, Mode]
) -> onnx.ModelProto:
    """Copy of the model in which the layers ``weights`` read ``weight_name`` tensors, and the sites are
    quantised.

    ``modes``: ``off``, ``narrow`` (at most 8-bit integers), ``general``, or ``any`` (decided when it runs,
    by the tensors ``is_on`` and ``is_narrow``). Raises as ``rewired`` does.
    """
    return rewired(
        network, weights, {site: quantising_nodes(site, mode) for site, mode in modes.items() if mode != "off"}
    )


def rewired(
    network: Network, weights: Sequence[str], chains: Mapping[ActivationSite, Sequence[onnx.NodeProto]]
) -> onnx.ModelProto:
    """Copy of the model in which the layers ``weights`` read ``weight_name`` tensors, and each site of ``chains`` reads
    ``site_prefix(site) + "out"``, which its nodes compute.

    The batch dimension is free. Raises ``NetworkError`` where the opset is older than 11, or a weight does not reach
    its layer.
    """
    model = with_free_batch(trained_model(network))
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < MINIMUM_OPSET:
        raise NetworkError(
            Problem("is too old to quantise: export it again", where=network.name, path="opset", value=str(opset),
                    allowed=(f"{MINIMUM_OPSET} and later",))
        )
    producers = {output: node for node in model.graph.node for output in node.output}
    layers_of_node: dict[str, list[str]] = {}
    for layer in weights:
        layers_of_node.setdefault(network.bindings[layer].node, []).append(layer)
    sites_of_node: dict[str, list[ActivationSite]] = {}
    for site in chains:
        sites_of_node.setdefault(site.node, []).append(site)
    nodes: list[onnx.NodeProto] = []
    for original in list(model.graph.node):
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for site in sites_of_node.get(node.name, ()):
            nodes.extend(chains[site])
            node.input[site.slot] = site_prefix(site) + "out"
        for layer in layers_of_node.get(node.name, ()):
            binding = network.bindings[layer]
            assert binding.weight is not None
            chain, node.input[binding.weight_slot] = _own_weight(
                producers, original.input[binding.weight_slot], binding.weight, layer
            )
            nodes.extend(chain)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _own_weight(
    producers: Mapping[str, onnx.NodeProto], tensor: str, weight: str, layer: str
) -> tuple[list[onnx.NodeProto], str]:
    """Copy the nodes between an initialiser and its layer (Identity, Transpose, …) so that the layer has
    its own.

    A weight may be shared by layers that are quantised differently. Returns the copies and the tensor to
    read.
    """
    if tensor == weight:
        return [], weight_name(layer)
    producer = producers.get(tensor)
    if producer is None:
        raise NetworkError(Problem(f"does not come from {weight!r}", where=layer, path=f"weight {tensor!r}"))
    for slot, source in enumerate(producer.input):
        if source == weight or source in producers:
            chain, renamed = _own_weight(producers, source, weight, layer)
            copy = onnx.NodeProto()
            copy.CopyFrom(producer)
            copy.name = f"{weight_name(layer)}/{producer.name}"
            copy.input[slot] = renamed
            copy.output[:] = [f"{weight_name(layer)}/{output}" for output in producer.output]
            return [*chain, copy], copy.output[list(producer.output).index(tensor)]
    raise NetworkError(Problem(f"does not come from {weight!r}", where=layer, path=f"weight {tensor!r}"))


def quantising_nodes(site: ActivationSite, mode: Mode) -> list[onnx.NodeProto]:
    """Nodes that compute ``…out`` from the site's tensor.

    Narrow: QuantizeLinear and DequantizeLinear in 8 bits, clipped to the format's own range. General:
    ``round(clip(x / scale) / step) · step · scale``, with ``step = 2^(clip(⌊log2|y|⌋, smallest, largest) −
    mantissa)`` for floating-point formats (all ties to even, subnormals included) and 1 for integers.
    """
    p, out = site_prefix(site), site_prefix(site) + "out"

    def narrow(result: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("QuantizeLinear", [site.tensor, p + "scale", p + "zero"], [p + "codes"]),
            helper.make_node("DequantizeLinear", [p + "codes", p + "scale", p + "zero"], [p + "wide"]),
            helper.make_node("Clip", [p + "wide", p + "low_value", p + "high_value"], [result]),
        ]

    def general(result: str) -> list[onnx.NodeProto]:
        scale = p + "scale"
        steps = [
            ("Div", [site.tensor, scale], p + "ratio"),
            ("Clip", [p + "ratio", p + "low", p + "high"], p + "y"),
            ("Abs", [p + "y"], p + "size"),
            ("Max", [p + "size", "bitmosaic/tiny"], p + "positive"),
            ("Log", [p + "positive"], p + "natural_log"),
            ("Div", [p + "natural_log", "bitmosaic/log2"], p + "log2"),
            ("Floor", [p + "log2"], p + "floor"),
            ("Clip", [p + "floor", p + "smallest", p + "largest"], p + "exponent"),
            ("Sub", [p + "exponent", p + "mantissa"], p + "power"),
            ("Pow", ["bitmosaic/two", p + "power"], p + "step"),
            ("Div", [p + "y", p + "step"], p + "fine"),
            ("Round", [p + "fine"], p + "whole"),
            ("Mul", [p + "whole", p + "step"], p + "value"),
            ("Mul", [p + "value", scale], result),
        ]
        return [helper.make_node(operator, inputs, [output]) for operator, inputs, output in steps]

    if mode == "narrow":
        return narrow(out)
    if mode == "general":
        return general(out)

    def branch(nodes: list[onnx.NodeProto], result: str) -> onnx.GraphProto:
        info = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        return helper.make_graph(nodes, result, [], [info])

    names = {kind: f"{p}{kind}_out" for kind in ("narrow", "general", "quantised", "off")}
    which = helper.make_node(
        "If", [p + "is_narrow"], [names["quantised"]],
        then_branch=branch(narrow(names["narrow"]), names["narrow"]),
        else_branch=branch(general(names["general"]), names["general"]),
    )
    identity = helper.make_node("Identity", [site.tensor], [names["off"]])
    return [
        helper.make_node(
            "If", [p + "is_on"], [out], then_branch=branch([which], names["quantised"]),
            else_branch=branch([identity], names["off"]),
        )
    ]


def site_prefix(site: ActivationSite) -> str:
    """Start of the names of a site's tensors."""
    return f"bitmosaic/{site.layer}/{site.operand}/"


def weight_name(layer: str) -> str:
    """Name of the tensor that holds a layer's own copy of its weights."""
    return f"bitmosaic/{layer}/trained"
