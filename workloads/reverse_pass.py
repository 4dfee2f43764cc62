"""Gradients of an ONNX graph: forward in onnxruntime, backward by vector–Jacobian products in NumPy.

Asked for is the gradient at *slots*: the places where a node reads a tensor. A tensor that three layers read has three
slots, each with the gradient of that one use, as a quantiser in front of one layer needs it. Only nodes on a way from a
slot to an output of floating-point numbers are walked, and only what their rules read is kept from the forward pass.
``workloads.gradients`` has the same from torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from simulator.errors import NetworkError, Problem
from workloads.calibration import ActivationSite, activation_sites, open_session, trained_model, with_free_batch
from workloads.network import Network
from workloads.onnx_constants import Constants, is_standard
from workloads.tasks.task import Feed
from workloads.torch_operators import OPERATORS
from workloads.vector_jacobian import RULES, Array, Call, Gradients

Slot = tuple[str, int]  # name of a node, position among its inputs

_MOST_PROBLEMS = 5
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
# Their outputs are shapes, places or truths: a small change of the input does not change them.
_DISCRETE = frozenset((
    "And", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "Shape",
    "Size",
))


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """Values of one run.

    Attributes:
        values: tensor name → value, of all tensors that the way back reads.
        outputs: name → value, of the graph's outputs in floating point.
    """

    values: Mapping[str, Array]
    outputs: Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class _Step:
    """A node on the way back: its attributes, and the slots that need a gradient."""

    node: onnx.NodeProto
    attributes: Mapping[str, Any]
    wanted: frozenset[int]


class ReversePass:
    """Runs a model forward, and gradients of its outputs backward to the slots.

    Args:
        model: with unique node names, in topological order, as ``import_model`` leaves it.
        slots: where gradients are wanted.
        threads: of onnxruntime; 0 lets it choose.

    Raises ``NetworkError`` where an operator on the way has no rule, naming up to five nodes, and for a node that does
    not exist.
    """

    gradients: ClassVar[Gradients] = "own"

    def __init__(self, model: onnx.ModelProto, slots: Collection[Slot], threads: int = 0) -> None:
        problems = missing_rules(model, slots, self.gradients)
        if problems:
            raise NetworkError(problems)
        self.slots = tuple(dict.fromkeys(slots))
        self._asked = frozenset(slots)
        self._opset = _opset(model)
        self._steps = _steps(model, slots)
        self._computed = {name for step in self._steps for name in step.node.output}
        self._outputs = _float_outputs(model)
        constants = Constants(model)
        read: dict[str, None] = {}
        for step in self._steps:
            read.update(dict.fromkeys(name for name in (*step.node.input, *step.node.output) if name))
        folded = [name for name in read if name in constants.names and constants.is_known(name)]
        self._constants = {name: np.asarray(constants.array(name)) for name in folded}
        self._given = [value.name for value in model.graph.input if value.name in read]
        unused = _outputs_that_nothing_reads(model)
        self._fetched = [
            name for name in dict.fromkeys((*read, *self._outputs))
            if name not in self._constants and name not in self._given and (name not in unused or name in self._outputs)
        ]
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        del copy.graph.output[:]
        copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in self._fetched)
        self._session = open_session(copy, threads)

    def forward(self, feed: Feed) -> ForwardPass:
        """Run the model on one feed. Any number of examples; onnxruntime's own errors pass through."""
        computed: list[NDArray[Any]] = self._session.run(self._fetched, dict(feed))
        given = {name: np.asarray(feed[name]) for name in self._given}
        values = {**self._constants, **given, **dict(zip(self._fetched, computed, strict=True))}
        return ForwardPass(values, {name: values[name] for name in self._outputs})

    def backward(self, run: ForwardPass, output_gradients: Mapping[str, Array]) -> dict[Slot, Array]:
        """Gradient at every slot, of its tensor's shape, of Σ ⟨output, its gradient⟩; outputs left out count as 0.

        A slot that no output depends on has the scalar 0.

        Raises ``NetworkError`` naming the node where a form of an operator has no rule, or a gradient is not finite.
        """
        gradients: dict[str, Array] = dict(output_gradients)
        found: dict[Slot, Array] = {}
        for step in reversed(self._steps):
            node = step.node
            over = [gradients.pop(name, None) if name else None for name in node.output]
            if all(gradient is None for gradient in over):
                continue
            call = Call(
                node.name, node.op_type, self._opset, step.attributes,
                tuple(run.values[name] if name else None for name in node.input),
                tuple(run.values.get(name) for name in node.output), step.wanted,
            )
            complete = tuple(
                gradient if gradient is not None else _no_gradient(value)
                for gradient, value in zip(over, call.outputs, strict=True)
            )
            with np.errstate(all="ignore"):  # what is not finite is found below, and named
                parts = RULES[node.op_type](call, complete)
            for slot in step.wanted:
                if slot not in parts:
                    raise call.error(f"is not known for input {slot}")
                part, name = parts[slot], node.input[slot]
                if not np.isfinite(part).all():
                    raise call.error("is not finite")
                if (node.name, slot) in self._asked:
                    found[node.name, slot] = part
                if name in self._computed:
                    gradients[name] = gradients[name] + part if name in gradients else part
        # Where no output depends on a slot its gradient is zero.
        return {place: found.get(place, np.zeros(())) for place in self.slots}


def missing_rules(model: onnx.ModelProto, slots: Collection[Slot], gradients: Gradients = "own") -> list[Problem]:
    """What keeps gradients from being had: nodes between slots and outputs whose operators have no rule.

    Torch need not be installed to ask what it would have none for.
    """
    known = RULES.keys() if gradients == "own" else OPERATORS.keys()
    names = {node.name for node in model.graph.node}
    problems = [
        Problem("is not in the model", where=model.graph.name, path=f"node {name!r}")
        for name, _ in slots if name not in names
    ]
    for step in _steps(model, slots):
        if not is_standard(step.node.domain) or step.node.op_type not in known:
            rule = _missing_rule(step.node, gradients)
            problems.append(Problem(rule, where=model.graph.name, path=f"node {step.node.name!r}"))
    return problems[:_MOST_PROBLEMS]


def _missing_rule(node: onnx.NodeProto, gradients: Gradients) -> str:
    if gradients == "torch":
        return (f"operator {node.op_type!r} is not known to gradients='torch', nor has gradients='own' a rule for it: "
                "the sensitivity 'perturbation' needs none")
    rule = f"no vector–Jacobian product of operator {node.op_type!r} is known: its gradient cannot be had"
    return f"{rule}, but by gradients='torch'" if is_standard(node.domain) and node.op_type in OPERATORS else rule


def weight_slots(network: Network, layers: Iterable[str]) -> dict[str, Slot]:
    """Where each layer reads its trained weights."""
    bindings = network.bindings
    return {layer: (bindings[layer].node, bindings[layer].weight_slot) for layer in layers}


def input_sites(network: Network, layers: Collection[str]) -> dict[str, ActivationSite]:
    """Layer → the site of its input, for layers that have one which can be reached."""
    return {
        site.layer: site for site in activation_sites(network) if site.layer in layers and site.operand == "input"
    }


def gradient_problems(network: Network, gradients: Gradients = "own") -> list[Problem]:
    """Why a network has no gradients here; empty where it has. Raises ``NetworkError`` without trained weights."""
    layers = [layer for layer, binding in network.bindings.items() if binding.weight is not None]
    model = with_free_batch(trained_model(network))
    return missing_rules(model, [
        *weight_slots(network, layers).values(),
        *((site.node, site.slot) for site in input_sites(network, layers).values()),
    ], gradients)


def weight_as_read(model: onnx.ModelProto, tensor: str, weight: str, array: Array) -> Array:
    """What stands in ``tensor`` where the constant ``weight`` holds ``array``: behind a Transpose, a Reshape, … ."""
    if tensor == weight:
        return array
    constants = Constants(model)
    constants.set(weight, array)
    return np.asarray(constants.array(tensor))


def _no_gradient(value: Array | None) -> Array:
    return np.zeros(()) if value is None else np.zeros_like(value)


def _is_discrete(node: onnx.NodeProto) -> bool:
    if node.op_type == "Cast":
        return any(item.name == "to" and item.i not in _FLOATS for item in node.attribute)
    return is_standard(node.domain) and node.op_type in _DISCRETE


def _opset(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if is_standard(entry.domain)), 1)


def _float_outputs(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in model.graph.output if value.type.tensor_type.elem_type in _FLOATS]


def _outputs_that_nothing_reads(model: onnx.ModelProto) -> set[str]:
    """Second and later outputs that no node reads: masks and indices, which some kernels do not even compute."""
    read = {name for node in model.graph.node for name in node.input}
    return {name for node in model.graph.node for name in node.output[1:] if name not in read}


def _steps(model: onnx.ModelProto, slots: Collection[Slot]) -> list[_Step]:
    """Nodes on a way from a slot to an output, in the order of the graph."""
    wanted: dict[str, set[int]] = {}
    for name, position in slots:
        wanted.setdefault(name, set()).add(position)
    nodes: Sequence[onnx.NodeProto] = model.graph.node
    moved: set[str] = set()  # tensors that depend on a slot
    reached: list[tuple[onnx.NodeProto, set[int]]] = []
    for node in nodes:
        needs = wanted.get(node.name, set()) | {slot for slot, name in enumerate(node.input) if name in moved}
        if needs and not _is_discrete(node):
            moved.update(name for name in node.output if name)
            reached.append((node, needs))
    useful = set(_float_outputs(model))
    steps = []
    for node, needs in reversed(reached):
        if useful.isdisjoint(node.output):
            continue
        useful.update(node.input[slot] for slot in needs)
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        steps.append(_Step(node, attributes, frozenset(needs)))
    return steps[::-1]
