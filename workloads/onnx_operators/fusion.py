"""Which vector operations run on the drain path of the layer before them.

Results that leave the array can be scaled, offset, clipped and looked up on their way to memory. So elementwise
work that reads one computed tensor is fused, as long as that tensor comes from a layer or from another fused
operation, and nobody else reads it: neither a second operation nor the user, as an output of the network.
"""

from __future__ import annotations

from collections.abc import Set

import networkx as nx

from simulator.layer import Layer, VectorOp


def mark_fused(graph: nx.DiGraph, fusable: Set[str], exposed: Set[str]) -> None:
    """Set ``fused`` on the vector operations of a graph, in place.

    Args:
        graph: operations, as in ``Network.graph``.
        fusable: names of elementwise operations and views whose operands are one computed tensor and small
            constants.
        exposed: names of operations whose result is an output of the network.
    """
    for name in nx.topological_sort(graph):
        op = graph.nodes[name]["op"]
        if name not in fusable or not isinstance(op, VectorOp) or graph.in_degree(name) != 1:
            continue
        (source,) = graph.predecessors(name)
        before = graph.nodes[source]["op"]
        drains = isinstance(before, Layer) or before.fused
        if drains and graph.out_degree(source) == 1 and source not in exposed:
            graph.nodes[name]["op"] = op.model_copy(update={"fused": True})
