"""Second moments of what layers are fed: ``H = 2/N · Σ x xᵀ`` over calibration data, for GPTQ and DPQ.

A layer's output channels are products of weights with *patches* x of the input: for each group of channels its C·R·S
values, in the order C, R, S, at each of N output places (zeros of the padding included). Patches are those of the FP32
network: layers before it are not quantised, unlike in GPTQ as published, where they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from simulator.errors import NetworkError, Problem
from simulator.layer import Layer
from workloads.calibration import activation_sites, input_shapes, open_session, trained_model, with_free_batch
from workloads.error_compensation import Moments
from workloads.fake_quantised_model import trained_weight
from workloads.layer_values import arrange
from workloads.network import Network
from workloads.tasks.task import Feed, batches

_VALUES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class InputMoments:
    """Moments by layer.

    Attributes:
        by_layer: layer → float64 [groups, C·R·S, C·R·S].
        missing: trained layers whose inputs cannot be recorded (inside a node, or in a layout that is not known).
    """

    by_layer: dict[str, Moments] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


def record_moments(network: Network, feeds: Sequence[Feed], threads: int = 0) -> InputMoments:
    """Run the FP32 network on calibration data, one example after the other, and sum up every trained layer's patches.

    Raises ``NetworkError`` without data, or where the network has no trained weights.
    """
    trained_model(network)  # or its error, before that of the data
    if not feeds:
        raise NetworkError(Problem("no calibration data", where=network.name))
    layers = {layer.name: layer for layer in network.trained_layers}
    tensors = {
        site.layer: site.tensor for site in activation_sites(network)
        if site.operand == "input" and site.layer in layers and rows_match(network, layers[site.layer])
    }
    sums: dict[str, Moments] = {}
    counts: dict[str, int] = {}
    for values in recorded_runs(network, feeds, tuple(dict.fromkeys(tensors.values())), threads):
        for name, tensor in list(tensors.items()):
            inputs = arrange(values[tensor], network.bindings[name].input_loops, layers[name], "input")
            if inputs is None or not np.issubdtype(inputs.dtype, np.floating):
                del tensors[name]
                continue
            for part in patches(layers[name], inputs):
                product = part @ part.swapaxes(1, 2)
                sums[name] = sums[name] + product if name in sums else product
                counts[name] = counts.get(name, 0) + part.shape[2]
    by_layer = {name: sums[name] * (2 / counts[name]) for name in layers if name in tensors}
    return InputMoments(by_layer, tuple(name for name in layers if name not in by_layer))


def rows_match(network: Network, layer: Layer) -> bool:
    """Whether the weights that share scales are the nest's rows, [G·K, C·R·S] in its order.

    They are not in a transposed convolution: the taps of a channel are several channels of its nest.
    """
    binding = network.bindings[layer.name]
    weight = trained_weight(network, layer.name)
    if weight is None:
        return False
    places = np.arange(weight.size).reshape(weight.shape)
    nest = arrange(places, binding.weight_loops, layer, "weight")
    rows = np.moveaxis(places, binding.weight_channel_axes, range(len(binding.weight_channel_axes)))
    channels = math.prod(weight.shape[axis] for axis in binding.weight_channel_axes)
    if nest is None or channels != layer.extent("G") * layer.extent("K"):
        return False
    return bool(np.array_equal(nest.ravel(), rows.ravel()))


def patches(layer: Layer, inputs: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """What a layer's channels are multiplied by, from inputs [G, N, C, H, W]: float64 [G, C·R·S, places], in parts."""
    extents = {dim: layer.extent(dim) for dim in ("G", "N", "C", "P", "Q", "R", "S")}
    rows, columns = (
        np.arange(extents[tap])[:, None] * layer.dilation[axis] + np.arange(extents[place]) * layer.stride[axis]
        for axis, (place, tap) in enumerate((("P", "R"), ("Q", "S")))
    )
    begin = layer.padding_begin
    missing = [max(0, int(index.max()) + 1 - begin[axis] - inputs.shape[3 + axis])
               for axis, index in enumerate((rows, columns))]
    padded = np.pad(inputs.astype(np.float64), ((0, 0), (0, 0), (0, 0), (begin[0], missing[0]), (begin[1], missing[1])))
    width = extents["C"] * extents["R"] * extents["S"]
    of_a_row = extents["G"] * extents["N"] * width * extents["Q"]
    step = max(1, _VALUES_AT_ONCE // of_a_row)
    for first in range(0, extents["P"], step):
        part = padded[:, :, :, rows[:, None, first : first + step, None], columns[None, :, None, :]]
        # [G, N, C, R, S, P, Q] to [G, C·R·S, N·P·Q]
        yield part.transpose(0, 2, 3, 4, 1, 5, 6).reshape(extents["G"], width, -1)


def recorded_runs(
    network: Network, feeds: Sequence[Feed], tensors: tuple[str, ...], threads: int = 0
) -> Iterator[dict[str, NDArray[Any]]]:
    """Tensors of the FP32 network on each example; a feed without a batch axis is one example."""
    model = with_free_batch(trained_model(network))
    shapes = input_shapes(model)
    has_batch = all(shape and shape[0] is None for shape in shapes.values())
    inner = [tensor for tensor in tensors if tensor not in shapes]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(tensor) for tensor in inner)
    session = open_session(model, threads) if inner else None
    for feed in feeds:
        for example in batches(feed, 1) if has_batch else [feed]:
            computed = session.run(None, dict(example)) if session else []
            yield {**example, **dict(zip(inner, computed, strict=True))}
