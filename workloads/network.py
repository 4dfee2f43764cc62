"""A network: a graph of layers and vector operations, tied to the trained model it came from.

The graph is what the simulator and the mapper see; the bindings are what the quantisers see. A network without
trained weights (published shapes) has a graph and no model: it has a cost, and no accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import networkx as nx
import onnx

from simulator.layer import Layer, VectorOp
from simulator.shown import Shown

AxisLoops = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class LayerBinding:
    """Where a layer's operands live in the ONNX model.

    Attributes:
        node: name of the ONNX node that the layer was read from.
        weight: name of the initialiser that holds the trained weights; None where both operands are activations.
        weight_channel_axes: axes of that initialiser which number output channels (one scale each).
        weight_reduced_axes: axes that are summed over.
        weight_slot, input_slot: positions of the operands among the node's inputs.
        weight_loops, input_loops: for each axis of the operand's tensor the loops of the nest that it numbers, outer
            first, each with a place among its like: ``(("G0", "K0"), ("C0",))``. ``H`` and ``W`` are rows and columns
            of the stored input; an axis of extent 1 may number none. Empty where the layout is not known.
    """

    node: str
    weight: str | None
    weight_channel_axes: tuple[int, ...] = ()
    weight_reduced_axes: tuple[int, ...] = ()
    weight_slot: int = 1
    input_slot: int = 0
    weight_loops: AxisLoops = ()
    input_loops: AxisLoops = ()


@dataclass(frozen=True)
class Network(Shown):
    """A named acyclic graph of layers and vector operations.

    Attributes:
        name: what the user calls it.
        graph: nodes are operation names, each with an attribute ``op`` (``Layer`` or ``VectorOp``); edges point
            from producer to consumer.
        model: the trained ONNX model with shapes resolved, or None for published shapes.
        bindings: layer name → place in the model; empty without a model.
        source: where the shapes or the weights come from, for reports.
    """

    name: str
    graph: nx.DiGraph
    model: onnx.ModelProto | None = None
    bindings: Mapping[str, LayerBinding] = field(default_factory=dict)
    source: str = ""

    @cached_property
    def operations(self) -> tuple[Layer | VectorOp, ...]:
        """All operations, each after those whose results it reads."""
        order = nx.lexicographical_topological_sort(self.graph, key=self._position.__getitem__)
        return tuple(self.graph.nodes[name]["op"] for name in order)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The loop nests, in order."""
        return tuple(op for op in self.operations if isinstance(op, Layer))

    @property
    def trained_layers(self) -> tuple[Layer, ...]:
        """The layers whose weights are trained: those that a precision assignment chooses for."""
        return tuple(layer for layer in self.layers if not layer.weight_is_activation)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(layer.macs for layer in self.layers)

    @property
    def weight_count(self) -> int:
        """Trained weights of all layers, shared ones counted once for each use."""
        return sum(layer.weight_count for layer in self.trained_layers)

    @property
    def _position(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.graph.nodes)}
