"""Networks from published shapes: totals by hand formula, and the same as an ONNX import of the same graph."""

from __future__ import annotations

import networkx as nx
import pytest

from simulator.errors import NetworkError
from simulator.layer import VectorOp
from workloads.published_shapes import PUBLISHED, published_network


def transformer_macs(tokens: int, width: int, hidden: int, blocks: int) -> int:
    """Four projections, two layers of the MLP, and two attention products of all heads together."""
    return blocks * (tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width)


def llama_macs(tokens: int, context: int) -> int:
    linear = 4096 * (4096 + 1024 + 1024 + 4096 + 3 * 14336)
    return tokens * (linear + 2 * context * 4096)


def resnet18_macs() -> int:
    total = 112**2 * 64 * 3 * 49 + 512 * 1000
    total += 4 * 56**2 * 64 * 64 * 9
    for size, width in ((28, 128), (14, 256), (7, 512)):
        total += size**2 * width * (width // 2 * 9 + 3 * width * 9 + width // 2)
    return total


# Published: torchvision's documentation gives 1.81 and 0.30 G for the two convolutional networks.
MACS = {
    "resnet18": resnet18_macs(),
    "mobilenet_v2": 300_774_272,
    "bert_base": transformer_macs(128, 768, 3072, 12) + 768**2,
    "vit_s": transformer_macs(197, 384, 1536, 12) + 196 * 768 * 384 + 384 * 1000,
    "llama_3_8b_prefill": llama_macs(2048, 2048),
    "llama_3_8b_decode": llama_macs(1, 2048),
}
# Trained weights without biases, norms and embeddings; the convolutional ones follow from torchvision's parameter
# counts (11 689 512 and 3 504 872) less batch norms and the bias of the classifier.
WEIGHTS = {
    "resnet18": 11_689_512 - 2 * 4800 - 1000,
    "mobilenet_v2": 3_504_872 - 2 * 17_056 - 1000,
    "bert_base": 12 * (4 * 768**2 + 2 * 768 * 3072) + 768**2,
    "vit_s": 12 * (4 * 384**2 + 2 * 384 * 1536) + 768 * 384 + 384 * 1000,
    "llama_3_8b_prefill": 218_103_808,
    "llama_3_8b_decode": 218_103_808,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_macs_and_weights(name):
    network = published_network(name)
    assert network.macs == MACS[name]
    assert network.weight_count == WEIGHTS[name]
    assert network.name == name and network.source


def test_totals_in_their_usual_form():
    giga = {name: round(macs / 1e9, 2) for name, macs in MACS.items()}
    assert giga == {"resnet18": 1.81, "mobilenet_v2": 0.3, "bert_base": 11.17, "vit_s": 4.6,
                    "llama_3_8b_prefill": 481.04, "llama_3_8b_decode": 0.23}


@pytest.mark.parametrize("name", PUBLISHED)
def test_graphs_are_whole(name):
    network = published_network(name)
    assert nx.is_directed_acyclic_graph(network.graph) and nx.is_weakly_connected(network.graph)
    assert len([n for n in network.graph if network.graph.out_degree(n) == 0]) == 1
    assert network.model is None and not network.bindings
    assert all(op.processed_count > 0 and op.output_count > 0 for op in network.operations if isinstance(op, VectorOp))


def test_grouped_query_attention():
    decode = {layer.name: layer for layer in published_network("llama_3_8b_decode").layers}
    scores, mixed = decode["attention.qk"], decode["attention.av"]
    assert scores.weight_is_activation and mixed.weight_is_activation
    assert tuple(scores.extent(dim) for dim in "GPKC") == (8, 4, 2048, 128)
    assert tuple(mixed.extent(dim) for dim in "GPKC") == (8, 4, 128, 2048)
    # Keys and values are fetched once for the four queries that share them.
    assert scores.weight_count == mixed.weight_count == 8 * 128 * 2048


def test_what_runs_on_the_drain_path():
    graph = published_network("resnet18").graph
    fused = {name for name in graph if isinstance(graph.nodes[name]["op"], VectorOp) and graph.nodes[name]["op"].fused}
    assert fused == {"relu1", *(f"layer{stage}.{block}.relu1" for stage in range(1, 5) for block in range(2))}
    graph = published_network("llama_3_8b_prefill").graph
    fused = {name for name in graph if isinstance(graph.nodes[name]["op"], VectorOp) and graph.nodes[name]["op"].fused}
    assert fused == {"attention.scale", "mlp.silu"}


def test_unknown_name():
    with pytest.raises(NetworkError, match="did you mean 'resnet18'"):
        published_network("resnet_18")
