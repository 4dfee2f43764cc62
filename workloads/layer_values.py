"""The codes that a layer's operands have: for machines whose time depends on them.

*Recorded*: trained weights, and the activations of one example of the network's own data, recorded while onnxruntime
runs the FP32 model; quantised symmetrically at the layer's precision, with the scales that accuracy is measured with
for weights, and one scale a tensor from the calibration data for activations. Zero is code 0 (no zero point): a
machine that skips zero bits needs ReLU's zeros to have none.

*Statistical*: drawn, where a network has shapes alone, or an operand cannot be recorded. The distribution is stated in
``Distribution``, and in every ``LayerValues.note``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from simulator.errors import NetworkError, PrecisionError, Problem
from simulator.formats import Format
from simulator.layer import Dim, Layer
from simulator.precision import LayerPrecision
from simulator.values import Codes, LayerValues
from workloads.calibration import (
    ValueRange,
    activation_sites,
    calibrate,
    fitting_feeds,
    input_shapes,
    open_session,
    trained_model,
    with_free_batch,
)
from workloads.fake_quantised_model import quantised_weight
from workloads.network import AxisLoops, Network
from workloads.quantisation import activation_parameters, code_range, quantise_activation
from workloads.tasks.task import Feed, Task

ValueChoice = Literal["auto", "statistical"]

# Order of the loops in the arrays of ``LayerValues``.
WEIGHT_LOOPS = ("G", "K", "C", "R", "S")
INPUT_LOOPS = ("G", "N", "C", "H", "W")
# In a matrix product every row stands at its own place of the stored input.
_STORED = {"P": "H", "Q": "W"}
_DRAWN_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Distribution:
    """How statistical codes are drawn.

    Attributes:
        shape: ``normal``, or ``laplace`` with the same standard deviation.
        relative_deviation: standard deviation in units of the highest code. The largest of thousands of normal values
            lies near four deviations, so a quarter is what scaling by the largest magnitude gives.
        relu: inputs below zero become 0.
        seed: draws of one seed are equal for equal layers in equal precisions.
    """

    shape: Literal["normal", "laplace"] = "normal"
    relative_deviation: float = 0.25
    relu: bool = True
    seed: int = 0

    def describe(self) -> str:
        """The distribution in words, for tables."""
        rectified = ", inputs rectified" if self.relu else ""
        deviation = f"standard deviation {self.relative_deviation:g} of the highest code"
        return f"{self.shape}, {deviation}{rectified}, seed {self.seed}"


DEFAULT_DISTRIBUTION = Distribution()


def statistical_values(
    layer: Layer, precision: LayerPrecision, distribution: Distribution = DEFAULT_DISTRIBUTION
) -> LayerValues:
    """Draw codes for a layer. Raises ``PrecisionError`` for operands in floating point."""
    weights, inputs = (_drawn(layer, precision, operand, distribution) for operand in ("weight", "input"))
    return LayerValues(weights, inputs, source="statistical", note=distribution.describe())


def _drawn(layer: Layer, precision: LayerPrecision, operand: str, distribution: Distribution) -> Codes:
    number_format = precision.weight if operand == "weight" else precision.input
    # Of the layer's own work: equal layers of other names draw alike.
    own = (*layer.shape, *layer.stored_input_size, number_format.bits, number_format.is_signed, operand == "weight")
    rng = np.random.default_rng([distribution.seed, *map(int, own)])
    return draw_codes(rng, number_format, operand, _shape(layer, operand), distribution)


def draw_codes(
    rng: np.random.Generator, number_format: Format, operand: str, shape: tuple[int, ...],
    distribution: Distribution = DEFAULT_DISTRIBUTION,
) -> Codes:
    """Draw codes of an operand, ``weight`` or ``input``. Raises ``PrecisionError`` for floating point."""
    low, high = _code_limits(number_format, operand)
    deviation = distribution.relative_deviation * high
    codes = np.empty(math.prod(shape), dtype=_storage(number_format))
    rectified = distribution.relu and operand == "input"
    for begin in range(0, codes.size, _DRAWN_AT_ONCE):
        part = codes[begin : begin + _DRAWN_AT_ONCE]
        if distribution.shape == "normal":
            values = rng.normal(0.0, deviation, part.size)
        else:
            values = rng.laplace(0.0, deviation / math.sqrt(2.0), part.size)
        part[:] = np.clip(np.rint(values), max(low, 0) if rectified else low, high)
    return codes.reshape(shape)


def _code_limits(number_format: Format, operand: str) -> tuple[int, int]:
    if not number_format.is_integer:
        raise PrecisionError(
            Problem("has no codes to draw: only integers do", path=f"precision.{operand}", value=str(number_format))
        )
    low, high = code_range(number_format, symmetric=True)
    return int(low), int(high)


def _storage(number_format: Format) -> type[np.signedinteger[Any]]:
    if number_format.bits <= 8 and number_format.is_signed:
        return np.int8
    return np.int16 if number_format.bits < 16 else np.int32


def _shape(layer: Layer, operand: str) -> tuple[int, ...]:
    rows, columns = layer.stored_input_size
    stored = {"H": rows, "W": columns}
    loops = WEIGHT_LOOPS if operand == "weight" else INPUT_LOOPS
    return tuple(stored[loop] if loop in stored else layer.extent(loop) for loop in loops)  # type: ignore[arg-type]


class ValueRecorder:
    """Codes of every layer of a network on one example of its task.

    ``example``: which of the calibration examples is run. Without a task activations are statistical, without trained
    weights these too; ``choice`` ``statistical`` draws everything.
    Raises ``NetworkError`` where the model cannot be run on its own data, or has fewer examples.
    """

    def __init__(
        self, network: Network, task: Task | None, *, example: int = 0, choice: ValueChoice = "auto",
        distribution: Distribution = DEFAULT_DISTRIBUTION,
    ) -> None:
        self.network = network
        self.distribution = distribution
        self._tensors: dict[str, NDArray[Any]] = {}
        self._ranges: Mapping[str, ValueRange] = {}
        self._name = ""
        self.notes: set[str] = set()
        self._has_weights = choice == "auto" and network.model is not None and bool(network.bindings)
        if self._has_weights and task is not None:
            where = f"{network.name}: calibration data of {task.name!r}"
            feeds = fitting_feeds(network, task.calibration_feeds(), where)
            self._ranges = calibrate(network, feeds)
            self._tensors = _record(network, _example(network, feeds, example))
            self._name = f"weights of the network, activations of {task.name}, calibration example {example}"

    @property
    def draws_everything(self) -> bool:
        """Whether nothing is recorded: equal layers then have equal codes."""
        return not self._has_weights

    def values(self, layer: Layer, precision: LayerPrecision) -> LayerValues:
        """Codes of a layer at a precision. What cannot be recorded is drawn, and the note says which operand.

        ``notes`` collects the notes of all that were given.
        """
        found = self._values(layer, precision)
        self.notes.add(found.note)
        return found

    def _values(self, layer: Layer, precision: LayerPrecision) -> LayerValues:
        found: dict[str, Codes] = {}
        drawn = []
        for operand in ("weight", "input"):
            codes = self._recorded(layer, precision, operand)
            if codes is None:
                codes = _drawn(layer, precision, operand, self.distribution)
                drawn.append(operand)
            found[operand] = codes
        if not drawn:
            return LayerValues(found["weight"], found["input"], "recorded", self._name)
        note = self.distribution.describe()
        if len(drawn) == 1:
            note = f"{drawn[0]} drawn ({note}), the other operand recorded"
        return LayerValues(found["weight"], found["input"], "statistical", note)

    def _recorded(self, layer: Layer, precision: LayerPrecision, operand: str) -> Codes | None:
        binding = self.network.bindings.get(layer.name)
        if binding is None or not self._has_weights:
            return None
        number_format = precision.weight if operand == "weight" else precision.input
        _code_limits(number_format, operand)
        loops = binding.weight_loops if operand == "weight" else binding.input_loops
        if operand == "weight" and binding.weight is not None:
            weight = quantised_weight(self.network, layer.name, precision)
            assert weight is not None
            codes = weight.codes
        else:
            site = next(
                (site for site in activation_sites(self.network)
                 if site.layer == layer.name and site.operand == operand), None,
            )
            if site is None or not np.issubdtype(self._tensors.get(site.tensor, np.zeros(0, int)).dtype, np.floating):
                return None  # inside a node, without data, or codes already: of a model that is quantised itself
            span = self._ranges[site.tensor]
            parameters = activation_parameters(span.low, span.high, number_format, "symmetric")
            codes = quantise_activation(self._tensors[site.tensor], parameters).codes
        arranged = arrange(codes, loops, layer, operand)
        return None if arranged is None else arranged.astype(_storage(number_format))


def arrange(
    tensor: NDArray[Any], axis_loops: AxisLoops, layer: Layer, operand: str
) -> NDArray[Any] | None:
    """Lay a tensor of the model out as the nest reads it: weights GKCRS, inputs GNCHW; None where that is not known.

    ``axis_loops``: ``weight_loops`` or ``input_loops`` of the layer's binding.
    """
    target = WEIGHT_LOOPS if operand == "weight" else INPUT_LOOPS
    if len(axis_loops) != tensor.ndim:
        return None
    names: list[str] = []
    extents: list[int] = []
    for loops, extent in zip(axis_loops, tensor.shape, strict=True):
        names += loops
        # Several loops on one axis: all but the innermost have their whole extent.
        outer = [layer.extent(_dim(loop)) for loop in loops[:-1]]
        extents += [*outer, extent // max(1, math.prod(outer))] if loops else []
    if math.prod(extents) != tensor.size:
        return None
    places = [_STORED.get(name[0], name[0]) if operand == "input" else name[0] for name in names]
    order = sorted(range(len(names)), key=lambda place: (target.index(places[place]), int(names[place][1:])))
    shape = _shape(layer, operand)
    if math.prod(shape) != tensor.size:
        return None
    return tensor.reshape(extents).transpose(order).reshape(shape)


def _dim(loop: str) -> Dim:
    return loop[0]  # type: ignore[return-value]


def _example(network: Network, feeds: Any, example: int) -> Feed:
    """One example, of the calibration feeds taken together; a feed that has no batch axis is an example."""
    shapes = input_shapes(with_free_batch(trained_model(network)))
    left = example
    for feed in feeds:
        is_free = all(shape and shape[0] is None for shape in shapes.values())
        count = min(len(array) for array in feed.values()) if is_free else 1
        if left < count:
            return {name: array[left : left + 1] for name, array in feed.items()} if is_free else feed
        left -= count
    raise NetworkError(
        Problem(f"there are {example - left} calibration examples, counted from 0", where=network.name,
                path="example", value=str(example))
    )


def _record(network: Network, feed: Feed) -> dict[str, NDArray[Any]]:
    """Run the FP32 model once; return the tensors of all activation sites."""
    model = with_free_batch(trained_model(network))
    tensors = list(dict.fromkeys(site.tensor for site in activation_sites(network)))
    inner = [tensor for tensor in tensors if tensor not in feed]
    found = {tensor: np.asarray(feed[tensor]) for tensor in tensors if tensor in feed}
    if inner:
        del model.graph.output[:]
        model.graph.output.extend(helper.make_empty_tensor_value_info(tensor) for tensor in inner)
        computed = open_session(model).run(None, dict(feed))
        found |= dict(zip(inner, computed, strict=True))
    return found
