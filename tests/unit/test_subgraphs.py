"""Sequential sub-graphs: where networks are cut, and the assignment of one configuration to each."""

import itertools
import math

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_configs import open_accelerator
from mapper import assignment_options
from mapper.assignment import assignment_front
from mapper.network import network_precisions
from mapper.subgraph_assignment import assign_subgraphs, gain_cost, subgraph_choices
from simulator.errors import BitmosaicError, ConfigurationError, NetworkError
from simulator.layer import Layer, VectorKind, VectorOp
from simulator.precision import LayerPrecision
from workloads import Network
from workloads.published_shapes import published_network
from workloads.stacked import stacked
from workloads.subgraphs import partition

W8, MIXED, W4 = (LayerPrecision.parse(text) for text in ("w8a8", "w4a8", "w4a4"))
LLAMA = (("query", "key", "value", "qk", "av"), ("output",), ("gate", "up"), ("down",))


def layer(name, size=4):
    return Layer(name=name, dims={"P": 5, "C": size, "K": size})


def vector(name, operator, fused=False):
    return VectorOp(name=name, operator=operator, kind=VectorKind.ELEMENTWISE, input_count=20, output_count=20,
                    processed_count=20, fused=fused)


def network_of(operations, edges):
    graph = nx.DiGraph()
    for operation in operations:
        graph.add_node(operation.name, op=operation)
    graph.add_edges_from(edges)
    return Network("net", graph)


def regions(network):
    return [each.layers for each in partition(network, 1)]


@pytest.mark.parametrize("name", ["llama_3_8b_prefill", "llama_3_8b_decode"])
def test_a_llama_block_has_the_sub_graphs_of_amp(name):
    found = partition(published_network(name), 2)
    assert [tuple(each.split(".")[-1] for each in region.layers) for region in found] == list(LLAMA)
    assert [region.configurations for region in found] == [32, 2, 4, 2]
    assert all(region.parts == 1 for region in found)


def test_blocks_with_residuals_from_one_to_the_next_are_cut_alike():
    network = stacked(published_network("llama_3_8b_decode"), 3, ["attention.add"])
    found = [tuple(each.split(".")[-1] for each in region.layers) for region in partition(network)]
    assert found == 3 * list(LLAMA)
    with pytest.raises(NetworkError, match=r"reads_input=attention\.ad: is no operation"):
        stacked(published_network("llama_3_8b_decode"), 2, ["attention.ad"])


def test_branches_that_an_addition_closes_are_one_region_and_what_it_skips_is_not():
    found = regions(published_network("resnet18"))
    assert found[:3] == [("conv1",), ("layer1.0.conv1",), ("layer1.0.conv2",)]
    assert ("layer2.0.conv1", "layer2.0.conv2", "layer2.0.downsample") in found
    # A product skips nothing: what it gates is one region with the gate.
    gated = network_of([layer("a"), layer("b"), layer("c"), vector("m", "Mul"), layer("d")],
                       [("a", "b"), ("b", "c"), ("c", "m"), ("a", "m"), ("m", "d")])
    assert regions(gated) == [("a",), ("b", "c"), ("d",)]


def test_masks_and_side_outputs_are_no_paths():
    network = network_of(
        [vector("mask", "Cast"), layer("a"), vector("m1", "Where"), layer("b"), vector("m2", "Where"), layer("c"),
         vector("cache", "Identity")],
        [("mask", "m1"), ("mask", "m2"), ("a", "m1"), ("m1", "b"), ("b", "m2"), ("m2", "c"), ("a", "cache")],
    )
    assert regions(network) == [("a",), ("b",), ("c",)]
    assert regions(network_of([vector("only", "Relu")], [])) == []


def test_large_regions_are_split_and_say_so():
    found = partition(published_network("llama_3_8b_prefill"), 5)
    assert [(each.part, each.parts, each.configurations) for each in found[:2]] == [(1, 2, 25), (2, 2, 125)]
    assert [each for region in found[:2] for each in region.layers] == [f"attention.{name}" for name in LLAMA[0]]
    assert all(each.parts == 1 for each in found[2:])
    sizes = dict.fromkeys((each.name for each in published_network("llama_3_8b_prefill").layers), 2)
    few = partition(published_network("llama_3_8b_prefill"), sizes, most_configurations=4)
    assert max(each.configurations for each in few) == 4
    assert [(each.part, each.parts) for each in few] == [(1, 3), (2, 3), (3, 3), (1, 1), (1, 1), (1, 1)]


def test_numbers_of_choices_that_do_not_fit_are_refused():
    with pytest.raises(BitmosaicError, match=r"choices\.conv9: no such layer.*(?s:.*)choices\.conv1=0: must be"):
        partition(published_network("resnet18"), {"conv9": 2})


@st.composite
def acyclic(draw):
    """Layers and products of several results, each reading some of those before it."""
    count = draw(st.integers(1, 9))
    operations = [layer(f"o{i}") if draw(st.integers(0, 3)) else vector(f"o{i}", "Mul") for i in range(count)]
    edges = [
        (f"o{before}", f"o{i}") for i in range(1, count)
        for before in draw(st.lists(st.integers(max(0, i - 3), i - 1), max_size=2, unique=True))
    ]
    return network_of(operations, edges)


@given(acyclic())
def test_cuts_are_the_operations_without_which_there_is_no_path(network):
    names = {each.name for each in network.layers}
    above = {name: nx.ancestors(network.graph, name) | {name} for name in network.graph}
    below = {name: nx.descendants(network.graph, name) | {name} for name in network.graph}
    on_paths = [name for name in network.graph if names & above[name] and names & below[name]]
    graph = nx.DiGraph(network.graph.subgraph(on_paths))
    begins = [name for name in graph if not list(graph.predecessors(name))]
    ends = [name for name in graph if not list(graph.successors(name))]

    def is_cut(name):
        left = nx.DiGraph(graph.subgraph(set(graph) - {name}))
        left.add_nodes_from(["begin", "end"])
        left.add_edges_from(("begin", each) for each in begins if each != name)
        left.add_edges_from((each, "end") for each in ends if each != name)
        return not nx.has_path(left, "begin", "end")

    cuts = [name for name in graph if is_cut(name)]
    # A layer's region: how many cuts come before it.
    expected = {name: sum(cut in above[name] - {name} for cut in cuts) for name in names}
    found = {name: number for number, region in enumerate(partition(network, 1)) for name in region.layers}
    assert list(found) == [each.name for each in network.layers]
    for one, other in itertools.combinations(names, 2):
        assert (found[one] == found[other]) == (expected[one] == expected[other])


def priced(one, precision):
    """A cost that depends on all formats, and on the output's not by itself."""
    work = sum(map(ord, one.name)) % 7 + 3
    return float(work * precision.weight.bits * precision.input.bits + (work % 3) * 31 * (
        precision.output.bits ^ precision.input.bits) + work * precision.output.bits)


@pytest.mark.parametrize("joined", [0, assignment_options.JOINED_OPTIONS])
def test_the_program_over_configurations_equals_every_assignment(joined, monkeypatch):
    monkeypatch.setattr(assignment_options, "JOINED_OPTIONS", joined)
    # A residual block with a downsampled branch between two layers: conversions inside the block and out of it.
    network = network_of(
        [layer("stem"), layer("one"), layer("two"), layer("side"), vector("add", "Add"), layer("more"), layer("last")],
        [("stem", "one"), ("one", "two"), ("stem", "side"), ("two", "add"), ("side", "add"), ("add", "more"),
         ("more", "last")],
    )
    menu = {each.name: (W8, MIXED, W4) if each.name in ("one", "two") else (W8, W4) for each in network.layers}
    names = list(menu)
    harms = {
        (name, each.label): (i + 2) * (16 - each.weight.bits - each.input.bits) / 3.0
        for i, name in enumerate(names) for each in menu[name]
    }
    problem = subgraph_choices(network, menu, priced, harms)
    assert [each.layers for each in problem.subgraphs.values()] == [
        ("stem",), ("one", "two", "side"), ("more",), ("last",)
    ]
    assert all(count <= len(problem.choices[name]) for name, count in problem.undominated().items())
    every = {}
    for picked in itertools.product(*menu.values()):
        exact = network_precisions(network, dict(zip(names, picked, strict=True)))
        every[tuple(each.label for each in picked)] = (
            sum(priced(each, exact[each.name]) for each in network.layers),
            math.fsum(harms[name, each.label] for name, each in zip(names, picked, strict=True)),
        )
    assert problem.baseline_cost == every[("w8a8",) * len(names)][0]
    for budget in (0.0, 10.0, 30.0, 60.0, 200.0):
        found = assign_subgraphs(problem, harm_budget=budget)
        best = min(cost for cost, harm in every.values() if harm <= budget)
        assert (found.assignment.status, found.assignment.cost) == ("optimal", best)
        assert every[tuple(found.assignment.labels[name] for name in names)][0] == best
        assert found.gain == problem.baseline_cost - best
        assert math.fsum(each.harm for each in found.subgraphs) == pytest.approx(found.assignment.harm)
    front = assignment_front(problem.choices, conversions=problem.conversions)
    pairs = set(every.values())
    expected = sorted(p for p in pairs if not any(a <= p[0] and b <= p[1] and (a, b) != p for a, b in pairs))
    assert [(point.cost, point.harm) for point in front] == [pytest.approx(pair) for pair in expected]
    assert set(problem.by_layer(front[0]).labels) == set(names)


def test_gains_of_multiplications_and_memory_need_no_mapping():
    network = published_network("llama_3_8b_decode")
    menu = {each.name: (W8, W4) for each in network.layers}
    harms = {(name, each.label): 0.0 if each == W8 else 1.0 for name, row in menu.items() for each in row}
    # Bit Fusion's PE does a w4a4 product on a quarter of what w8a8 takes.
    macs = gain_cost("macs", accelerator=open_accelerator("bit_fusion"))
    found = assign_subgraphs(subgraph_choices(network, menu, macs, harms), harm_budget=9.0)
    assert found.gain == pytest.approx(0.75 * sum(macs(each, W8) for each in network.layers))
    memory = subgraph_choices(network, menu, gain_cost("memory"), harms)
    found = assign_subgraphs(memory, harm_budget=1.0)
    widest = max(network.trained_layers, key=lambda each: each.weight_count)
    assert found.gain == 4 * widest.weight_count
    assert [each.gain for each in found.subgraphs if each.gain] == [found.gain]
    assert found.assignment.weight_bits == 8 * network.weight_count - found.gain
    with pytest.raises(ConfigurationError, match="gain latency needs it"):
        gain_cost("latency")
    with pytest.raises(ConfigurationError, match="is not known"):
        gain_cost("speed")


def test_what_was_split_is_told():
    network = published_network("llama_3_8b_decode")
    menu = {each.name: (W8, MIXED, W4, *map(LayerPrecision.parse, ("w2a8", "w2a4"))) for each in network.layers}
    harms = {(name, each.label): 0.0 for name, row in menu.items() for each in row}
    problem = subgraph_choices(network, menu, gain_cost("memory"), harms)
    assert problem.notes == (
        "attention.query … attention.key: part 1 of 2 of a sub-graph with too many configurations",
        "attention.value … attention.av: part 2 of 2 of a sub-graph with too many configurations",
    )
    assert assign_subgraphs(problem).notes == problem.notes
