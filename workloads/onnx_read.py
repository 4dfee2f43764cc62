"""Reading an ONNX file, and putting its graph in order.

An ONNX file is taken as it comes: cut short, unordered, with unnamed nodes, with weights among the inputs, with
functions of its own. What leaves this file is a copy whose nodes have unique names, stand in topological order
and read only tensors that exist; or one ``NetworkError`` that names every mistake. Shapes are not looked at.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import networkx as nx
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from simulator.errors import NetworkError, Problem


def read_model(path: Path) -> onnx.ModelProto:
    """Read a model with its external data.

    Raises ``NetworkError`` where the file is missing, is no ONNX file, is cut short, or lacks external data.
    """
    where = str(path)
    if not path.exists():
        raise NetworkError(Problem("no such file", where=where))
    if path.is_dir():
        raise NetworkError(Problem("is a directory, not an ONNX file", where=where))
    if not path.is_file():
        raise NetworkError(Problem("is not a regular file", where=where))
    try:
        model = onnx.load(str(path))
    except DecodeError as error:
        raise NetworkError(Problem("is not an ONNX file, or was cut short", where=where)) from error
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise NetworkError(Problem(f"cannot be read: {first_line(error)}", where=where)) from error
    if not model.HasField("graph") or not model.opset_import:
        raise NetworkError(Problem("is not an ONNX file, or was cut short: it holds no graph", where=where))
    return model


def first_line(error: BaseException) -> str:
    """Return what an exception of another library says, without its stack of C++ files."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def put_in_order(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Return a copy with functions inlined, unique node names and topological node order.

    Initialisers that are also listed as graph inputs stay initialisers only.

    Raises ``NetworkError`` for an empty graph, for one without outputs, a tensor that nothing
    or that two nodes produce, and a cycle.
    """
    ordered = onnx.ModelProto()
    ordered.CopyFrom(model)
    if ordered.functions:
        ordered = onnx.inliner.inline_local_functions(ordered)
    graph = ordered.graph
    if not graph.node:
        raise NetworkError(Problem("the graph is empty: it has no nodes", where=where))
    if not graph.output:
        raise NetworkError(Problem("the graph has no outputs", where=where))
    if graph.sparse_initializer:
        raise NetworkError(Problem("sparse initialisers are not understood: store them densely", where=where))
    _name_nodes(graph)
    constant = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constant]
    del graph.input[:]
    graph.input.extend(inputs)
    nodes = _sorted_nodes(graph, where)
    del graph.node[:]
    graph.node.extend(nodes)
    return ordered


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give unnamed nodes ``Type_position``, and the second of two equal names the suffix ``_2``."""
    taken = Counter(node.name for node in graph.node if node.name)
    seen: set[str] = set()
    for position, node in enumerate(graph.node):
        name = node.name or f"{node.op_type}_{position}"
        if name in seen or (not node.name and name in taken):
            copy = 2
            while f"{name}_{copy}" in seen or f"{name}_{copy}" in taken:
                copy += 1
            name = f"{name}_{copy}"
        node.name = name
        seen.add(name)


def _sorted_nodes(graph: onnx.GraphProto, where: str) -> list[onnx.NodeProto]:
    """Return the nodes in topological order, ties by their place in the file."""
    given = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    producer: dict[str, onnx.NodeProto] = {}
    problems = []
    for node in graph.node:
        for output in filter(None, node.output):
            if output in producer or output in given:
                other = producer[output].name if output in producer else "an input or initialiser"
                problems.append(Problem(f"tensor {output!r} is also produced by {other}", where, node.name))
            producer[output] = node
    dependencies: nx.DiGraph = nx.DiGraph()
    position = {}
    for index, node in enumerate(graph.node):
        position[node.name] = index
        dependencies.add_node(node.name)
        for tensor in filter(None, node.input):
            if tensor in producer:
                dependencies.add_edge(producer[tensor].name, node.name)
            elif tensor not in given:
                rule = f"reads tensor {tensor!r}, which nothing produces (is the file complete?)"
                problems.append(Problem(rule, where, f"{node.name} ({node.op_type})"))
    for value in graph.output:
        if value.name not in producer and value.name not in given:
            problems.append(Problem(f"output {value.name!r} is produced by no node (is the file complete?)", where))
    if problems:
        raise NetworkError(problems)
    try:
        order = list(nx.lexicographical_topological_sort(dependencies, key=position.__getitem__))
    except nx.NetworkXUnfeasible:
        cycle = [edge[0] for edge in nx.find_cycle(dependencies)]
        path = " → ".join([*cycle, cycle[0]])
        raise NetworkError(Problem(f"the graph has a cycle: {path}", where=where)) from None
    by_name = {node.name: node for node in graph.node}
    return [onnx.NodeProto.FromString(by_name[name].SerializeToString()) for name in order]
