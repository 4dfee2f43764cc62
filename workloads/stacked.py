"""A network of equal blocks, from the block that published shapes give."""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

from simulator.errors import NetworkError, Problem
from workloads.network import Network


def stacked(block: Network, copies: int, reads_input: Sequence[str] = ()) -> Network:
    """Put copies of a block one behind the other; operations are called ``0.NAME``, ``1.NAME``, …

    The block's last operation is read by the next copy's first ones (those that read nothing in the block), and by
    ``reads_input``: others of its operations that read the block's input, as residual additions do. Vector operations
    count what they read already, so nothing else changes. There is no model: a cost, and no accuracy. Raises
    ``NetworkError`` where the block has not one last operation, ``copies`` is below 1, or a name is unknown.

    >>> from workloads.published_shapes import published_network
    >>> stacked(published_network("llama_3_8b_decode"), 32, ["attention.add"]).macs // 10**6
    7516
    """
    ends = [name for name in block.graph if block.graph.out_degree(name) == 0]
    begins = [name for name in block.graph if block.graph.in_degree(name) == 0]
    problems = [Problem("is no operation of the block", where=block.name, path="reads_input", value=name)
                for name in reads_input if name not in block.graph]
    if copies < 1:
        problems.append(Problem("must be at least 1", path="copies", value=str(copies)))
    if len(ends) != 1:
        problems.append(Problem("a block must end in one operation", where=block.name, value=", ".join(ends)))
    if problems:
        raise NetworkError(problems)
    graph: nx.DiGraph = nx.DiGraph()
    for copy in range(copies):
        for name in block.graph:
            operation = block.graph.nodes[name]["op"]
            graph.add_node(f"{copy}.{name}", op=operation.model_copy(update={"name": f"{copy}.{name}"}))
        graph.add_edges_from((f"{copy}.{a}", f"{copy}.{b}") for a, b in block.graph.edges)
        if copy:
            last = f"{copy - 1}.{ends[0]}"
            graph.add_edges_from((last, f"{copy}.{name}") for name in (*begins, *reads_input))
    return Network(f"{block.name}_{copies}", graph, source=f"{copies} times: {block.source}")
