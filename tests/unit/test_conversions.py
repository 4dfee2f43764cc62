"""Costs of a network's choices and of neighbours: the sum is what the simulator says of every assignment."""

import itertools
import math

import networkx as nx
import pytest

from hw_configs import open_accelerator
from mapper.assignment import assign
from mapper.conversions import MappedCosts, cost_of, network_choices, network_jobs
from mapper.network import network_precisions, reading_layers, simulate_network
from mapper.solution import SearchBudget
from simulator.errors import ConfigurationError
from simulator.layer import Layer, VectorKind, VectorOp
from simulator.precision import LayerPrecision
from workloads import Network

W8, W4, MIXED = (LayerPrecision.parse(text) for text in ("w8a8", "w4a4", "w4a8"))
HARM = {"w8a8": 0.0, "w4a8": 1.0, "w4a4": 3.0}


def layer(name: str, inputs: int, outputs: int) -> Layer:
    return Layer(name=name, dims={"P": 12, "C": inputs, "K": outputs})


def drained(name: str, count: int) -> VectorOp:
    return VectorOp(name=name, operator="Relu", kind=VectorKind.ELEMENTWISE, input_count=count, output_count=count,
                    processed_count=count, fused=True)


@pytest.fixture(scope="module")
def network() -> Network:
    """A fire module: a layer that two others read behind its activation, then a vector operation and a last layer."""
    graph: nx.DiGraph = nx.DiGraph()
    joined = VectorOp(name="concat", operator="Concat", kind=VectorKind.MOVEMENT, input_count=12 * 72,
                      output_count=12 * 72, processed_count=12 * 72)
    operations = [layer("first", 20, 24), layer("squeeze", 24, 16), drained("relu", 12 * 16), layer("left", 16, 32),
                  layer("right", 16, 40), joined, layer("last", 72, 9)]
    for operation in operations:
        graph.add_node(operation.name, op=operation)
    graph.add_edges_from([("first", "squeeze"), ("squeeze", "relu"), ("relu", "left"), ("relu", "right"),
                          ("left", "concat"), ("right", "concat"), ("concat", "last")])
    return Network("fire", graph)


@pytest.fixture(scope="module")
def menu(network):
    """Three choices, for two layers two, and for the last layer one."""
    rows = {"first": (W8, MIXED, W4), "squeeze": (W8, MIXED, W4), "last": (W8,)}
    return {each.name: rows.get(each.name, (W8, W4)) for each in network.layers}


@pytest.fixture(scope="module")
def costs(network, menu):
    """Every layer mapped in all that it may come to."""
    found = MappedCosts(open_accelerator("flexiq_like"), budget=SearchBudget(cpu_seconds=0.1, target_gap=0.5),
                        workers=1)
    found.solve(network_jobs(network, menu))
    return found


@pytest.fixture(scope="module")
def simulated(network, menu, costs):
    """Labels of an assignment → the layers' results in a simulation of the whole network, for every assignment."""
    mapped = set(costs._solutions)
    found = {}
    for picked in itertools.product(*menu.values()):
        exact = network_precisions(network, dict(zip(menu, picked, strict=True)))
        solutions = {each.name: costs.solution(each, exact[each.name]) for each in network.layers}
        result = simulate_network(network, open_accelerator("flexiq_like"), exact, solutions)
        found[tuple(each.label for each in picked)] = result.layers
    assert set(costs._solutions) == mapped, "a job was not named before"
    return found


def test_who_writes_for_whom(network):
    assert {each.name: reading_layers(network, each.name) for each in network.layers} == {
        "first": ("squeeze",), "squeeze": ("left", "right"), "left": (), "right": (), "last": (),
    }


@pytest.mark.parametrize("axis", ["latency", "energy"])
def test_optima_are_those_of_simulating_every_assignment(network, menu, costs, simulated, axis):
    harms = {(name, each.label): HARM[each.label] for name, row in menu.items() for each in row if name != "last"}
    choices, conversions = network_choices(network, menu, cost_of(costs, axis), harms)
    assert conversions, "the formats that are read make no difference here"
    every = {
        labels: (
            math.fsum(row.total_cycles if axis == "latency" else row.total_energy_pj for row in rows),
            sum(HARM[label] for label in labels),
        )
        for labels, rows in simulated.items()
    }
    for budget in (0.0, 2.0, 5.0, 8.0, 12.0):
        found = assign(choices, minimise="cost", harm_budget=budget, conversions=conversions)
        best = min(cost for cost, harm in every.values() if harm <= budget)
        assert found.status == "optimal"
        assert found.cost == pytest.approx(best, rel=1e-12)
        assert found.cost == pytest.approx(every[tuple(found.labels[name] for name in menu)][0], rel=1e-12)
    # Layers by themselves, each written in its own format, are not what the network costs.
    alone = sum(cost_of(costs, axis)(each, W4 if each.name == "first" else W8) for each in network.layers)
    assert alone != pytest.approx(every["w4a4", "w8a8", "w8a8", "w8a8", "w8a8"][0], rel=1e-12)


def test_infinite_harm_leaves_a_choice_out(network, menu, costs):
    harms = {(name, each.label): HARM[each.label] for name, row in menu.items() for each in row}
    harms["squeeze", "w8a8"] = math.inf
    choices, conversions = network_choices(network, menu, costs.latency_cycles, harms)
    assert [choice.label for choice in choices["squeeze"]] == ["w4a8", "w4a4"]
    assert assign(choices, minimise="harm", conversions=conversions).labels["squeeze"] == "w4a8"


@pytest.mark.parametrize(
    ("menu", "message"),
    [
        ({"first": (W8,)}, "menu.squeeze: has no precision"),
        ({"frist": (W8,)}, "menu.frist: no such layer.*did you mean 'first'"),
        ({"first": (W8, W8)}, "menu.first=.*labels must differ"),
    ],
)
def test_menus_that_do_not_fit_are_refused(network, menu, message):
    with pytest.raises(ConfigurationError, match=f"(?s){message}"):
        network_jobs(network, menu)


def test_missing_harms_are_named(network, menu, costs):
    with pytest.raises(ConfigurationError, match=r"harms.first=w8a8, w4a8, w4a4: choices have no harm"):
        network_choices(network, menu, costs.latency_cycles, {})
