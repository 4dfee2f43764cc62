"""What a lowering rule may ask about the graph around its node, and what it answers with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from simulator.errors import NetworkError, Problem
from simulator.layer import Layer, VectorOp
from workloads.network import LayerBinding
from workloads.onnx_constants import Array, Constants
from workloads.onnx_shapes import TensorType

# The slot of an operand that is no input of its node: the softmax inside a fused attention, a recurrent state.
INTERNAL = -1


@dataclass(frozen=True)
class Step:
    """One operation that a node is lowered to. The node's outputs are those of its last step.

    Attributes:
        op: the loop nest or the vector operation.
        tensors: tensors of the graph that it reads; constants may be among them, and count as no dependency.
        after: names of earlier steps of the same node whose results it reads.
        binding: where the operands of a layer live.
        fusable: may run on the drain path of the layer before it, if nothing else reads what lies between.
    """

    op: Layer | VectorOp
    tensors: tuple[str, ...]
    after: tuple[str, ...] = ()
    binding: LayerBinding | None = None
    fusable: bool = False


@dataclass(frozen=True)
class ModelView:
    """A resolved graph: all shapes static, all constants known.

    Attributes:
        types: tensor name → element type and shape.
        constants: values of what does not depend on the network's inputs.
        node_names: names taken in the graph; steps of one node get names beside them.
    """

    types: Mapping[str, TensorType]
    constants: Constants
    node_names: frozenset[str]

    def input(self, node: onnx.NodeProto, slot: int | None) -> str:
        """Name of a node's input, or an empty string where it is left out."""
        return node.input[slot] if slot is not None and slot < len(node.input) else ""

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Static shape of a tensor."""
        return self.types[tensor].shape

    def count(self, tensor: str) -> int:
        """Elements of a tensor; 0 for an input or output that is left out."""
        return self.types[tensor].count if tensor else 0

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor is known before the network runs."""
        return tensor in self.constants.names

    def value(self, tensor: str) -> Array:
        """Value of a constant."""
        return self.constants.array(tensor)

    def attribute(self, node: onnx.NodeProto, name: str, default: Any = None) -> Any:
        """Value of a node's attribute; text as ``str``."""
        for attribute in node.attribute:
            if attribute.name == name:
                value = helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def outputs_count(self, node: onnx.NodeProto) -> int:
        """Elements of all outputs of a node. Outputs that nobody reads may have no shape: they are not made."""
        return sum(self.count(name) for name in node.output if name in self.types)

    def step_name(self, node: onnx.NodeProto, part: str) -> str:
        """Name for one of several steps of a node: ``node.part``, beside all names of the graph."""
        name = f"{node.name}.{part}"
        while name in self.node_names:
            name += "_"
        return name

    def refuse(self, node: onnx.NodeProto, rule: str) -> NetworkError:
        """Return the error that says why a node is not understood."""
        return NetworkError(Problem(rule, path=f"{node.name} ({node.op_type})"))


def product(extents: Mapping[Any, int] | tuple[int, ...] | list[int]) -> int:
    """Multiply extents; 1 for none."""
    return math.prod(extents.values() if isinstance(extents, Mapping) else extents)
