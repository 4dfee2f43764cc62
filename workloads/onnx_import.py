"""From an ONNX model to a ``Network``.

The model is put in order, its shapes are made static, and what does not depend on the inputs is folded: nodes
with constant inputs run before deployment, do not exist at run time, and cost nothing. Every node that is left
becomes a layer, a vector operation, or several of both (see ``workloads.onnx_operators``); a node that is not
understood is an error, never a gap. ``Network.model`` is the folded model: its nodes are the operations of the
graph, and each trained weight is a plain initialiser that its layer's node reads directly, so a quantiser can
overwrite it. Slots of a binding that are −1 belong to operands inside a node (the state of an LSTM).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import networkx as nx
import onnx
import onnx.checker
from onnx import helper
from pydantic import ValidationError

from simulator.errors import NetworkError, Problem
from workloads.network import Network
from workloads.onnx_constants import Constants, is_standard
from workloads.onnx_operators import lower, refusal
from workloads.onnx_operators.fusion import mark_fused
from workloads.onnx_operators.view import ModelView, Step
from workloads.onnx_read import first_line, put_in_order, read_model
from workloads.onnx_shapes import TensorType, fix_inputs, resolve


def load_onnx(
    path: str | Path,
    *,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    dimension_values: Mapping[str, int] | None = None,
    name: str | None = None,
) -> Network:
    """Read a network from an ONNX file.

    Args:
        path: the file; external data are looked for beside it.
        input_shapes: input name → full shape, for inputs with dynamic dimensions.
        dimension_values: name of a dynamic dimension → extent, wherever it stands.
        name: what to call the network; by default the file's name without its suffix.

    Raises:
        NetworkError: the file is missing, cut short or no ONNX file, or ``import_model`` refuses its graph.
    """
    path = Path(path)
    model = read_model(path)
    return import_model(model, name=name or path.stem, input_shapes=input_shapes, dimension_values=dimension_values,
                        source=str(path))


def import_model(
    model: onnx.ModelProto,
    *,
    name: str,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    dimension_values: Mapping[str, int] | None = None,
    source: str = "",
    keep_model: bool = True,
) -> Network:
    """Turn an ONNX model into a network. The model given is not changed.

    Args:
        model: any ONNX model; names, order, folded weights and dynamic shapes are dealt with.
        name: what to call the network.
        input_shapes: input name → full shape, for inputs with dynamic dimensions.
        dimension_values: name of a dynamic dimension → extent, wherever it stands.
        source: where the model comes from, for reports and error messages.
        keep_model: False leaves ``Network.model`` and its bindings out (the weights are not trained, so nobody
            may measure an accuracy), and computes no constant that only weights need.

    Raises:
        NetworkError: one problem each for operators that are not understood, inputs without static shapes, and
            nodes whose operands do not fit; or the graph is empty, has a cycle, or contradicts itself.
    """
    where = source or name
    ordered = put_in_order(model, where)
    constants = Constants(ordered)
    running = [node for node in ordered.graph.node if not all(out in constants.names for out in node.output if out)]
    _check_operators(ordered, running, where)
    fix_inputs(ordered, input_shapes or {}, dimension_values or {}, where)
    types = resolve(ordered, constants, where)
    if not running:
        raise NetworkError(Problem("the graph is empty: everything in it is constant", where=where))
    for node in running:
        # Two layers behind two copies of one weight share it.
        for slot, tensor in enumerate(node.input):
            node.input[slot] = constants.root(tensor)
    view = ModelView(types, constants, frozenset(node.name for node in running))
    steps = _lower_all(running, view, where)
    outputs = {value.name for value in ordered.graph.output}
    graph = _build_graph(running, steps, view, outputs)
    if not keep_model:
        return Network(name, graph, source=source)
    bindings = {
        step.op.name: step.binding for group in steps for step in group if step.binding is not None
    }
    return Network(name, graph, _folded_model(ordered, running, types, constants), bindings, source)


def _check_operators(model: onnx.ModelProto, running: list[onnx.NodeProto], where: str) -> None:
    """Raise ``NetworkError`` for all nodes that no rule lowers, and for those that break their operator's schema."""
    problems = [problem for node in running if (problem := refusal(node, where))]
    refused = {problem.path for problem in problems}
    context = onnx.checker.C.CheckerContext()
    context.ir_version = max(model.ir_version, 4)
    context.opset_imports = {"" if is_standard(entry.domain) else entry.domain: entry.version
                             for entry in model.opset_import}
    for node in model.graph.node:
        path = f"{node.name} ({node.op_type})"
        if path in refused or not is_standard(node.domain) or not onnx.defs.has(node.op_type):
            continue
        try:
            onnx.checker.check_node(node, context)
        except onnx.checker.ValidationError as error:
            problems.append(Problem(f"breaks the ONNX standard: {first_line(error)}", where, path))
    if problems:
        raise NetworkError(problems)


def _lower_all(running: list[onnx.NodeProto], view: ModelView, where: str) -> list[tuple[Step, ...]]:
    """Lower every node; raise one ``NetworkError`` for all that fail."""
    steps: list[tuple[Step, ...]] = []
    problems: list[Problem] = []
    for node in running:
        try:
            steps.append(lower(node, view))
        except NetworkError as error:
            problems += [Problem(problem.rule, where, problem.path, problem.value) for problem in error.problems]
        except (ValueError, LookupError, TypeError, ZeroDivisionError) as error:
            # Only operands that no schema forbids get here: an empty tensor, a group count that does not divide.
            shapes = ", ".join(str(list(view.shape(tensor))) for tensor in node.input if tensor in view.types)
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
            rule = f"its operands do not fit together (shapes {shapes}): {reason}"
            problems.append(Problem(rule, where, f"{node.name} ({node.op_type})"))
    if problems:
        raise NetworkError(problems)
    return steps


def _build_graph(
    running: list[onnx.NodeProto], steps: list[tuple[Step, ...]], view: ModelView, outputs: set[str]
) -> nx.DiGraph:
    """Connect the operations along the tensors that they pass on."""
    graph: nx.DiGraph = nx.DiGraph()
    producer: dict[str, str] = {}
    fusable: set[str] = set()
    for node, group in zip(running, steps, strict=True):
        for step in group:
            computed = dict.fromkeys(name for name in step.tensors if name and not view.is_constant(name))
            graph.add_node(step.op.name, op=step.op)
            graph.add_edges_from((before, step.op.name) for before in step.after)
            graph.add_edges_from((producer[tensor], step.op.name) for tensor in computed if tensor in producer)
            if step.fusable and len(computed) + len(step.after) == 1:
                fusable.add(step.op.name)
        producer.update((tensor, group[-1].op.name) for tensor in node.output if tensor)
    exposed = {producer[tensor] for tensor in outputs if tensor in producer}
    mark_fused(graph, fusable, exposed)
    return graph


def _folded_model(
    ordered: onnx.ModelProto, running: list[onnx.NodeProto], types: Mapping[str, TensorType], constants: Constants
) -> onnx.ModelProto:
    """Return the model of the running nodes alone, with all constants as initialisers and all shapes written."""
    # Before version 4 initialisers had to be inputs too.
    folded = onnx.ModelProto(ir_version=max(ordered.ir_version, 4))
    folded.opset_import.extend(ordered.opset_import)
    folded.producer_name = "bitmosaic"
    graph = folded.graph
    graph.name = ordered.graph.name or "network"
    graph.node.extend(running)
    graph.input.extend(ordered.graph.input)
    for value in ordered.graph.output:
        kind = types[value.name]
        graph.output.append(helper.make_tensor_value_info(value.name, kind.element, kind.shape))
    read = dict.fromkeys(tensor for node in running for tensor in node.input if tensor)
    read.update(dict.fromkeys(value.name for value in ordered.graph.output))
    graph.initializer.extend(constants.tensor(tensor) for tensor in read if tensor in constants.names)
    listed = {value.name for value in ordered.graph.output}
    for node in running:
        for tensor in node.output:
            if tensor in types and tensor not in listed:
                kind = types[tensor]
                graph.value_info.append(helper.make_tensor_value_info(tensor, kind.element, kind.shape))
    return folded
