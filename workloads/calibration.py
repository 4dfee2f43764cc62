"""Where activations are quantised, and the ranges that their values take on calibration data.

A *site* is one operand of a layer that is computed rather than trained: the input of every layer, and also the
``weight`` operand of an attention product. Ranges are measured by running the FP32 model with the sites' tensors as
further outputs: smallest and largest value, or percentiles of all values (two passes: the first finds the ends, the
second fills a histogram between them).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from simulator.errors import NetworkError, Problem
from workloads.network import Network
from workloads.tasks.task import Feed, batches, check_feed, typed_feed

HISTOGRAM_BINS = 8192


@dataclass(frozen=True)
class ActivationSite:
    """One computed operand of a layer.

    Attributes:
        layer: name of the layer.
        operand: which precision applies to it: ``input``, or ``weight`` (attention products).
        node: name of the ONNX node.
        slot: position among the node's inputs.
        tensor: name of the tensor that the node reads there.
    """

    layer: str
    operand: Literal["input", "weight"]
    node: str
    slot: int
    tensor: str


@dataclass(frozen=True)
class ValueRange:
    """Values of a tensor that must still fit: ``low`` … ``high``."""

    low: float
    high: float


def trained_model(network: Network) -> onnx.ModelProto:
    """The network's ONNX model. Raises ``NetworkError`` for a network that has shapes only."""
    if network.model is None or not network.bindings:
        raise NetworkError(
            Problem("has published shapes only: without trained weights it has a cost, but no accuracy",
                    where=network.name)
        )
    return network.model


def activation_sites(network: Network) -> tuple[ActivationSite, ...]:
    """All computed operands of all bound layers, in the order of the bindings.

    Operands inside a node (slot −1: the state of an LSTM) cannot be reached from outside: they stay in FP32.
    """
    nodes = {node.name: node for node in trained_model(network).graph.node}
    sites = []
    for layer, binding in network.bindings.items():
        node = nodes.get(binding.node)
        if node is None:
            raise NetworkError(Problem("is not in the model", where=network.name, path=f"node {binding.node!r}"))
        operands: list[tuple[Literal["input", "weight"], int]] = [("input", binding.input_slot)]
        if binding.weight is None:
            operands.append(("weight", binding.weight_slot))
        sites += [
            ActivationSite(layer, operand, node.name, slot, node.input[slot]) for operand, slot in operands if slot >= 0
        ]
    return tuple(sites)


def with_free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy of a model whose first dimension is free, so that it can run in batches; ``can_batch`` tells if it does.

    An imported model has batch 1 written into its inputs and its Reshape nodes. In the latter, 1 becomes 0 ("as in the
    input") wherever the input has 1 in that place too: the same for batch 1, and right for more where that place is
    the batch. A model with another fixed extent in front is copied as it is.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    shapes = input_shapes(copy)
    if any(not shape or shape[0] not in (None, 1) for shape in shapes.values()):
        return copy
    known = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in [*copy.graph.value_info, *copy.graph.input]
    }
    constants = {tensor.name: tensor for tensor in copy.graph.initializer}
    for node in copy.graph.node:
        target = constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if target is None:
            continue
        before, after = known.get(node.input[0], ()), numpy_helper.to_array(target).tolist()
        kept = [axis < len(before) and before[axis] == extent == 1 for axis, extent in enumerate(after)]
        free = [0 if keep else extent for keep, extent in zip(kept, after, strict=True)]
        keeps_zero = any(item.name == "allowzero" and item.i for item in node.attribute)
        if free != after and not keeps_zero:
            node.input[1] = f"bitmosaic/{node.name}/shape"
            copy.graph.initializer.append(numpy_helper.from_array(np.array(free, np.int64), node.input[1]))
    for value in [*(value for value in copy.graph.input if value.name in shapes), *copy.graph.output]:
        shape = value.type.tensor_type.shape
        if shape.dim:
            shape.dim[0].ClearField("dim_value")
            shape.dim[0].dim_param = "batch"
    del copy.graph.value_info[:]  # they name the old batch
    return copy


def can_batch(network: Network, feed: Feed, threads: int = 0) -> bool:
    """Whether two examples at once give what they give one by one: tried on the first two of ``feed``."""
    if any(array.ndim == 0 or len(array) < 2 for array in feed.values()):
        return True  # nothing to cut
    session = open_session(with_free_batch(trained_model(network)), threads)
    pair = {name: array[:2] for name, array in feed.items()}
    try:
        together = session.run(None, pair)
    except Exception:  # onnxruntime's exceptions share no public root
        return False
    # Sums in another order are worth up to 0.5 % in magika, whose normalisation subtracts large squares; examples that
    # mix are wrong by far more.
    return all(
        joint.shape[:1] == (2,) and np.allclose(joint[index], alone[0], rtol=0, atol=0.02 * float(np.abs(alone).max()))
        for index, single in enumerate(batches(pair, 1))
        for joint, alone in zip(together, session.run(None, dict(single)), strict=True)
    )


def input_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """Shape of every graph input that is not a weight; None stands for a free extent."""
    constants = {initializer.name for initializer in model.graph.initializer}
    return {
        value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
            for dim in value.type.tensor_type.shape.dim
        )
        for value in model.graph.input if value.name not in constants
    }


def input_types(model: onnx.ModelProto) -> dict[str, np.dtype[Any]]:
    """Type of the elements of every graph input that is not a weight."""
    return {
        value.name: np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        for value in model.graph.input if value.name in input_shapes(model)
    }


def fitting_feeds(network: Network, feeds: Iterable[Feed], where: str) -> tuple[Feed, ...]:
    """Feeds that the network can run: checked, with arrays in the types of its inputs (``check_feed``, ``typed_feed``).

    ``where``: what errors say that they are. Raises ``NetworkError`` for the first one that does not fit.
    """
    model = with_free_batch(trained_model(network))
    shapes, types = input_shapes(model), input_types(model)
    found = []
    for feed in feeds:
        check_feed(feed, shapes, where)
        found.append(typed_feed(feed, types, where))
    return tuple(found)


def open_session(model: onnx.ModelProto, threads: int = 0) -> ort.InferenceSession:
    """Start onnxruntime on the CPU; ``threads`` 0 lets it choose.

    Raises ``NetworkError`` where onnxruntime refuses the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # it warns about every initialiser that an optimisation removed
    # Waiting threads would otherwise burn a processor that a parallel sweep needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public root
        raise NetworkError(Problem(f"onnxruntime refuses the model: {error}", where=model.graph.name)) from error


def calibrate(
    network: Network, feeds: Sequence[Feed], *, percentile: float = 100.0, threads: int = 0
) -> dict[str, ValueRange]:
    """Ranges of all activation sites' tensors over calibration data: tensor name → range.

    ``percentile`` 100 takes the smallest and largest value; p < 100 the quantiles (1 − p/100) and p/100, to
    within 1/8192 of the full range.

    Raises ``NetworkError`` for data of the wrong shape or type, or with NaN, for no data, or where a tensor's values
    are not finite; ``ValueError`` unless 50 < percentile ≤ 100.
    """
    if not 50 < percentile <= 100:
        raise ValueError(f"percentile={percentile}: must be above 50 and at most 100")
    model = with_free_batch(trained_model(network))
    shapes = input_shapes(model)
    if not feeds:
        raise NetworkError(Problem("no calibration data", where=network.name))
    feeds = fitting_feeds(network, feeds, f"{network.name}: calibration data")
    tensors = list(dict.fromkeys(site.tensor for site in activation_sites(network)))
    inner = [tensor for tensor in tensors if tensor not in shapes]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(tensor) for tensor in inner)
    session = open_session(model, threads) if inner else None

    def passes() -> Iterator[tuple[str, NDArray[Any]]]:
        for feed in feeds:
            computed = session.run(None, dict(feed)) if session else []
            values = {**feed, **dict(zip(inner, computed, strict=True))}
            yield from ((tensor, values[tensor]) for tensor in tensors)

    ranges = _extremes(passes())
    for tensor, bounds in ranges.items():
        if not np.isfinite((bounds.low, bounds.high)).all():
            raise NetworkError(Problem("has NaN or infinity on the calibration data", where=network.name, path=tensor))
    if percentile == 100:
        return ranges
    return _percentiles(passes(), ranges, percentile / 100)


def _extremes(values: Iterable[tuple[str, NDArray[Any]]]) -> dict[str, ValueRange]:
    ranges: dict[str, ValueRange] = {}
    for tensor, array in values:
        low, high = float(array.min()), float(array.max())
        if tensor in ranges:
            # NumPy's minimum keeps a NaN, Python's may lose it.
            low = float(np.minimum(low, ranges[tensor].low))
            high = float(np.maximum(high, ranges[tensor].high))
        ranges[tensor] = ValueRange(low, high)
    return ranges


def _percentiles(
    values: Iterable[tuple[str, NDArray[Any]]], ranges: Mapping[str, ValueRange], share: float
) -> dict[str, ValueRange]:
    counts = {tensor: np.zeros(HISTOGRAM_BINS, np.int64) for tensor in ranges}
    for tensor, array in values:
        bounds = ranges[tensor]
        if bounds.high > bounds.low:
            counts[tensor] += np.histogram(array, HISTOGRAM_BINS, (bounds.low, bounds.high))[0]
    cut = {}
    for tensor, bounds in ranges.items():
        cumulative = np.cumsum(counts[tensor])
        width = (bounds.high - bounds.low) / HISTOGRAM_BINS
        if not width:
            cut[tensor] = bounds
            continue
        # The range always contains the quantile: the low end is a bin's left edge, the high end a right edge.
        first = int(np.searchsorted(cumulative, (1 - share) * cumulative[-1], side="right"))
        last = int(np.searchsorted(cumulative, share * cumulative[-1], side="left"))
        cut[tensor] = ValueRange(bounds.low + first * width, bounds.low + (last + 1) * width)
    return cut
