"""Which tensors of an ONNX graph are constant, and what they hold.

A node whose inputs are all constant runs once, before the network is deployed; it does not exist at run time
and costs nothing. ``Shape`` and ``Size`` count as constant too, since every shape is static by the time an
operation is lowered. Values are computed only when somebody asks: the zoo's shape-only models describe half a
gigabyte of weights in a few kilobytes, and nobody needs to see them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from simulator.errors import NetworkError, Problem
from workloads.onnx_read import first_line

Array = np.ndarray[Any, np.dtype[Any]]

# Their value is not a function of their inputs.
RANDOM = frozenset((
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
))
_COPIES = frozenset(("Identity", "Dropout"))


def is_standard(domain: str) -> bool:
    """Whether a node's domain is that of the ONNX standard."""
    return domain in ("", "ai.onnx")


class Constants:
    """The constant tensors of a graph whose nodes stand in topological order.

    Attributes:
        names: every tensor that is known before the network runs.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._opsets = {entry.domain: entry.version for entry in model.opset_import}
        self._ir_version = model.ir_version
        self._initialisers: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producers: dict[str, onnx.NodeProto] = {}
        self._arrays: dict[str, Array] = {}
        self._roots: dict[str, str] = {}
        self._known: set[str] = set()
        self.names: set[str] = set(self._initialisers)
        for node in model.graph.node:
            if not self._folds(node):
                continue
            for position, output in enumerate(node.output):
                if output:
                    self.names.add(output)
                    self._producers[output] = node
                    if node.op_type in _COPIES and position == 0:
                        self._roots[output] = self.root(node.input[0])

    def _folds(self, node: onnx.NodeProto) -> bool:
        if not is_standard(node.domain) or node.op_type in RANDOM:
            return False
        if node.op_type in ("Shape", "Size"):
            return True
        return all(name in self.names for name in node.input if name)

    def root(self, name: str) -> str:
        """Return the constant that ``name`` is a copy of: two layers behind two Identities share one weight."""
        return self._roots.get(name, name)

    def set(self, name: str, array: Array) -> None:
        """Record a value found elsewhere: the shape of a tensor."""
        self._arrays[name] = array

    def is_known(self, name: str) -> bool:
        """Whether the value needs no more shapes: no unresolved ``Shape`` stands above it."""
        if name in self._arrays or name in self._initialisers or name in self._known:
            return True
        producer = self._producers.get(name)
        if producer is None or producer.op_type in ("Shape", "Size"):
            return False
        if not all(self.is_known(tensor) for tensor in producer.input if tensor):
            return False
        self._known.add(name)
        return True

    def array(self, name: str) -> Array:
        """Return the value of a constant.

        Raises ``NetworkError`` where its node cannot be evaluated.
        """
        if name not in self._arrays:
            if name in self._initialisers:
                self._arrays[name] = numpy_helper.to_array(self._initialisers[name])
            elif name in self._roots:
                self._arrays[name] = self.array(self._roots[name])
            else:
                self._evaluate(self._producers[name])
        return self._arrays[name]

    def tensor(self, name: str) -> onnx.TensorProto:
        """Return a constant as an initialiser of the same name."""
        if name in self._initialisers:
            return self._initialisers[name]
        return numpy_helper.from_array(np.asarray(self.array(name)), name)

    def _evaluate(self, node: onnx.NodeProto) -> None:
        feeds = {name: self.array(name) for name in node.input if name}
        try:
            values = _run_reference(node, feeds, self._opsets)
        except Exception:
            # The reference evaluator lacks some operators and types that onnxruntime has.
            values = _run_onnxruntime(node, feeds, self._opsets, self._ir_version)
        for name, value in zip(node.output, values, strict=False):
            if name:
                self._arrays[name] = np.asarray(value)


def _run_reference(node: onnx.NodeProto, feeds: Mapping[str, Array], opsets: dict[str, int]) -> list[Any]:
    from onnx.reference import ReferenceEvaluator

    return list(ReferenceEvaluator(node, opsets=opsets).run(None, dict(feeds)))


def _run_onnxruntime(
    node: onnx.NodeProto, feeds: Mapping[str, Array], opsets: Mapping[str, int], ir_version: int
) -> list[Any]:
    import onnxruntime

    names = [name for name in node.output if name]
    graph = onnx.helper.make_graph(
        [node], "constant", [], [onnx.ValueInfoProto(name=name) for name in names],
        [numpy_helper.from_array(array, name) for name, array in feeds.items()],
    )
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=max(ir_version, 4))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = dict(zip(names, session.run(names, {}), strict=True))
    except Exception as error:
        rule = f"a constant cannot be computed: {first_line(error)}"
        raise NetworkError(Problem(rule, path=f"{node.name} ({node.op_type})")) from error
    return [found.get(name) for name in node.output]
