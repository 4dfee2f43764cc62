"""One node as it ran: what a rule for its vector–Jacobian product is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from simulator.errors import NetworkError, Problem

Array = NDArray[Any]
Gradients = Literal["own", "torch"]  # where gradients come from: the rules here, or torch


@dataclass(frozen=True, eq=False)
class Call:
    """A node with the values of its inputs and outputs.

    Attributes:
        node: its name, for messages.
        operator: ONNX operator.
        opset: version of the operator set that gives it its meaning.
        attributes: as the file has them.
        inputs: by slot; None where an optional input was left out.
        outputs: by position; None where nothing reads it.
        wanted: slots of the inputs whose gradient is asked for.
    """

    node: str
    operator: str
    opset: int
    attributes: Mapping[str, Any]
    inputs: tuple[Array | None, ...]
    outputs: tuple[Array | None, ...]
    wanted: frozenset[int]

    def input(self, slot: int) -> Array:
        """An input that must be there. Raises ``NetworkError`` otherwise."""
        found = self.optional(slot)
        if found is None:
            raise self.error(f"input {slot} is missing")
        return found

    def optional(self, slot: int) -> Array | None:
        """An input, or None where it was left out."""
        return self.inputs[slot] if slot < len(self.inputs) else None

    @property
    def output(self) -> Array:
        """The first output."""
        found = self.outputs[0]
        assert found is not None  # a rule runs only where the output's gradient is known
        return found

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute, texts decoded, or its default."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def integers(self, slot: int, attribute: str) -> list[int] | None:
        """Numbers that newer operator sets take as an input and older ones as an attribute; None where neither is."""
        array = self.optional(slot)
        if array is not None:
            return [int(value) for value in np.atleast_1d(array)]
        value = self.attributes.get(attribute)
        return None if value is None else [int(item) for item in np.atleast_1d(value)]

    def error(self, rule: str) -> NetworkError:
        """An error that names the node and its operator."""
        return NetworkError(Problem(f"gradient: {rule}", path=f"{self.node} ({self.operator})"))


# (call, gradients of the outputs) → gradient of each wanted input; others may be there too. A gradient has the shape
# of its tensor.
Rule = Callable[[Call, tuple[Array, ...]], Mapping[int, Array]]


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the axes along which its tensor, of ``shape``, was repeated."""
    if gradient.shape == shape:
        return gradient
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    stretched = tuple(axis for axis, extent in enumerate(shape) if extent == 1 and gradient.shape[axis] != 1)
    result: Array = gradient.sum(axis=stretched, keepdims=True)
    return result
