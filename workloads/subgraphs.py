"""Sequential sub-graphs of a network (AMP, arXiv:2505.13060): regions that run one after the other.

AMP measures what a precision gains for a whole sub-graph: gains add between sub-graphs that follow each other, not
between layers that lie side by side. The cuts are the operations that every path through the network passes: those that
dominate its end, and so post-dominate its beginning. The layers from behind one cut up to and including the next are a
region.

Two things would hide the cuts. A residual connection is a path around the layers that it skips: where an addition reads
both a result and what that result was computed from, the shorter way is taken away, and the addition belongs to the
region that it closes. And what depends on no layer (masks, tables of positions), or leads to none, is no path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx

from simulator.errors import BitmosaicError, Problem, closest
from simulator.layer import VectorOp
from workloads.network import Network

MOST_CONFIGURATIONS = 2**10
RESIDUAL_OPERATORS = ("Add", "Sum")
_BEGIN, _END = "\0begin", "\0end"  # No operation is called so.


@dataclass(frozen=True)
class SubGraph:
    """Layers between two cuts of a network, whose configurations are costed together.

    Attributes:
        name: that of its layer, or of its first and last one.
        layers: names, in program order.
        configurations: combinations of these layers' choices.
        part: which part of a region this is, counted from 1.
        parts: parts that the region was split into because it has too many configurations; 1: it is whole.
    """

    name: str
    layers: tuple[str, ...]
    configurations: int
    part: int = 1
    parts: int = 1


def partition(
    network: Network, choices: Mapping[str, int] | int = 2, *, most_configurations: int = MOST_CONFIGURATIONS
) -> tuple[SubGraph, ...]:
    """Cut a network into sequential sub-graphs, in program order; every layer is in one.

    ``choices``: how many precisions a layer can choose from, of each layer or of all alike. A region with more than
    ``most_configurations`` is split into parts of consecutive layers with about equally many, as few parts as keep to
    the limit so, and its parts say so (``SubGraph.parts``). Raises ``BitmosaicError`` for numbers that are missing, of
    no layer or below 1, and where a layer alone has too many.

    >>> from workloads.published_shapes import published_network
    >>> for region in partition(published_network("llama_3_8b_prefill")):
    ...     print(region.configurations, *(name.removeprefix("attention.") for name in region.layers))
    32 query key value qk av
    2 output
    4 mlp.gate mlp.up
    2 mlp.down
    """
    counts = _counts(network, choices, most_configurations)
    found = []
    for region in _regions(network):
        parts = _parts(region, counts, most_configurations)
        for number, layers in enumerate(parts, start=1):
            name = layers[0] if len(layers) == 1 else f"{layers[0]} … {layers[-1]}"
            found.append(SubGraph(name, layers, math.prod(counts[each] for each in layers), number, len(parts)))
    return tuple(found)


def _counts(network: Network, choices: Mapping[str, int] | int, most: int) -> dict[str, int]:
    names = [layer.name for layer in network.layers]
    given = dict.fromkeys(names, choices) if isinstance(choices, int) else dict(choices)
    problems = [
        Problem("no such layer", where=network.name, path=f"choices.{name}", did_you_mean=closest(name, names))
        for name in given if name not in names
    ]
    for name in names:
        count = given.get(name, 0)
        if not 1 <= count <= most:
            problems.append(Problem("must be at least 1, and no more than a sub-graph may have configurations",
                                    where=network.name, path=f"choices.{name}", value=str(count),
                                    allowed=(f"1 … {most}",)))
    if problems:
        raise BitmosaicError(problems)
    return given


def _regions(network: Network) -> list[tuple[str, ...]]:
    """Layers of each region, in program order."""
    order = [operation.name for operation in network.operations]
    layers = {layer.name for layer in network.layers}
    if not layers:
        return []
    graph = _without_residuals(network, _paths(network.graph, layers))
    cuts = set(_dominators(nx.immediate_dominators(graph, _BEGIN), _END))
    # What comes before a cut on some path comes before it in program order too: all paths pass the cut.
    regions: list[list[str]] = [[]]
    for name in order:
        if name in layers:
            regions[-1].append(name)
        if name in cuts:
            regions.append([])
    return [tuple(region) for region in regions if region]


def _paths(graph: nx.DiGraph, layers: set[str]) -> nx.DiGraph:
    """Layers and what lies between layers, from one beginning to one end."""
    begun: set[str] = set()
    for name in nx.topological_sort(graph):
        if name in layers or any(before in begun for before in graph.predecessors(name)):
            begun.add(name)
    ended: set[str] = set()
    for name in reversed(list(nx.topological_sort(graph))):
        if name in layers or any(behind in ended for behind in graph.successors(name)):
            ended.add(name)
    paths = nx.DiGraph(graph.subgraph(begun & ended))
    first = [name for name in paths if paths.in_degree(name) == 0]
    last = [name for name in paths if paths.out_degree(name) == 0]
    paths.add_edges_from((_BEGIN, name) for name in first)
    paths.add_edges_from((name, _END) for name in last)
    return paths


def _without_residuals(network: Network, graph: nx.DiGraph) -> nx.DiGraph:
    """Take away edges into an addition from operations that dominate another one of its operands."""
    while True:
        dominators = nx.immediate_dominators(graph, _BEGIN)
        skipping = []
        for name in graph:
            operation = network.graph.nodes[name]["op"] if name in network.graph else None
            if not isinstance(operation, VectorOp) or operation.operator not in RESIDUAL_OPERATORS:
                continue
            operands = list(graph.predecessors(name))
            above = {operand: _dominators(dominators, operand) for operand in operands}
            skipping += [
                (operand, name) for operand in operands if any(operand in above[each] for each in operands)
            ]
        if not skipping:
            return graph
        graph.remove_edges_from(skipping)


def _dominators(immediate: Mapping[str, str], name: str) -> list[str]:
    """Operations, other than itself, that every path to an operation passes."""
    found = []
    while name in immediate and immediate[name] not in (None, name):
        name = immediate[name]
        found.append(name)
    return found


def _parts(region: tuple[str, ...], counts: Mapping[str, int], most: int) -> list[tuple[str, ...]]:
    """Consecutive parts with at most so many configurations each, about equally many."""
    for number in range(1, len(region) + 1):
        # Equal shares of the logarithm; a layer is in the share that its middle lies in.
        sizes = [math.log(counts[name]) for name in region]
        share = sum(sizes) / number
        parts: list[list[str]] = [[] for _ in range(number)]
        passed = 0.0
        for name, size in zip(region, sizes, strict=True):
            middle = passed + size / 2
            parts[min(number - 1, int(middle / share + 1e-9)) if share > 0 else 0].append(name)
            passed += size
        if all(math.prod(counts[name] for name in part) <= most for part in parts):
            return [tuple(part) for part in parts if part]
    return [(name,) for name in region]
