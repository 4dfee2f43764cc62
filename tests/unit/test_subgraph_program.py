"""AMP's program in an exploration: what it takes a proposal to cost is what the simulated network costs, and least."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import networkx as nx
import pytest

from bitmosaic.explorations.accuracy_book import Assignment
from bitmosaic.explorations.exploration import CostAxis
from bitmosaic.explorations.layer_rules import LayerRules
from bitmosaic.explorations.mapping_book import MappingBook
from bitmosaic.explorations.menu import for_layer
from bitmosaic.explorations.network_points import NetworkPoints, Proposal
from bitmosaic.explorations.proposals import least_harm
from bitmosaic.explorations.records import Accuracy, PointRecord
from bitmosaic.explorations.store import RecordFile
from bitmosaic.explorations.subgraph_program import layer_menus, least_harm_by_subgraphs, subgraph_problem
from bitmosaic.progress import Silent
from hw_configs import open_accelerator
from mapper.solution import SearchBudget
from simulator.layer import Layer, VectorKind, VectorOp
from simulator.precision import LayerPrecision
from workloads import Network

MENU = tuple(LayerPrecision.parse(text) for text in ("w8a8", "w4a8", "w4a4"))
UNRATED = "scores"
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def network() -> Network:
    """Two layers read one, a product of two activations reads both, a layer reads that; a vector operation is last."""
    graph: nx.DiGraph = nx.DiGraph()
    operations = [
        Layer(name="first", dims={"P": 12, "C": 20, "K": 24}), Layer(name="query", dims={"P": 12, "C": 24, "K": 16}),
        Layer(name="key", dims={"P": 12, "C": 24, "K": 16}),
        Layer(name=UNRATED, dims={"P": 12, "C": 16, "K": 12}, weight_is_activation=True),
        Layer(name="last", dims={"P": 12, "C": 12, "K": 30}),
        VectorOp(name="softmax", operator="Softmax", kind=VectorKind.ELEMENTWISE, input_count=360, output_count=360,
                 processed_count=360),
    ]
    for operation in operations:
        graph.add_node(operation.name, op=operation)
    graph.add_edges_from([("first", "query"), ("first", "key"), ("query", UNRATED), ("key", UNRATED),
                          (UNRATED, "last"), ("last", "softmax")])
    return Network("head", graph)


@pytest.fixture(scope="module")
def harms(network: Network) -> dict[tuple[str, str], float]:
    """Of the trained layers; one choice made the outputs infinite."""
    found = {
        (layer.name, precision.label): harm * (1 + 0.37 * number)
        for number, layer in enumerate(network.trained_layers)
        for precision, harm in zip(MENU, (0.0, 1.0, 2.5), strict=True)
    }
    return {**found, ("key", "w4a8"): float("inf")}


class Nothing:
    """Measures nothing: every assignment scores alike."""

    def measure(self, assignment: Assignment) -> Accuracy:
        return Accuracy(metric="none", value=1.0, count=1)


@pytest.fixture(scope="module")
def run(network: Network, own_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkPoints]:
    """The points of the network on a machine whose outputs cost by their formats."""
    folder: Path = tmp_path_factory.mktemp("run")
    machine = open_accelerator("flexiq_like")
    mappings = MappingBook(machine, "edp", SearchBudget(cpu_seconds=0.1, target_gap=0.5), folder, 1)
    yield NetworkPoints(
        network=network, accelerator=machine, context="test", accuracy=Nothing(), mappings=mappings,
        records=RecordFile(folder / "points.jsonl", PointRecord), progress=Silent(), baseline=MENU[0],
    )


def simulated(run: NetworkPoints, chosen: dict[str, LayerPrecision], axis: CostAxis) -> float:
    """Cycles or pJ of the layers in a point as it is scored, vector operations left out."""
    proposal = Proposal(run.mixed(chosen), axis)
    run.map([proposal])
    run.score("points", [proposal])
    record = run.records.get(run.key(proposal.assignment))
    assert record is not None
    if axis == "latency":
        return record.total_cycles - sum(row.total_cycles for row in record.vector)
    return record.energy_pj - sum(row.total_energy_pj for row in record.vector)


RULES = {
    "none": LayerRules(),
    "menus and ties": LayerRules({"last": (MENU[1], MENU[2])}, (("first", "query"),)),
    "a menu without the baseline in a tie": LayerRules({"key": MENU[1:], "last": MENU[1:]}, (("key", "last"),)),
}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("axis", ["latency", "energy"])
def test_what_is_proposed_costs_what_is_simulated_and_nothing_costs_less(
    run: NetworkPoints, harms: dict[tuple[str, str], float], axis: CostAxis, rules: str
) -> None:
    run = replace(run, rules=RULES[rules])
    proposals = [each for each in least_harm_by_subgraphs(run, MENU, harms, 5) if each.axis == axis]
    assert len(proposals) >= 3
    menus, finite = layer_menus(run, MENU, harms)
    offered = {layer: [each.label for each in menu] for layer, menu in menus.items()}
    # What makes outputs infinite is out, for tied layers too, but for the first of a menu.
    assert offered["key"] == (["w4a8", "w4a4"] if "key" in run.rules.menus else ["w8a8", "w4a4"])
    assert offered["last"] == (["w4a8", "w4a4"] if "last" in run.rules.menus else ["w8a8", "w4a8", "w4a4"])
    assert len(offered[UNRATED]) == 1
    every = []
    for picked in itertools.product(*menus.values()):
        chosen = dict(zip(menus, picked, strict=True))
        if any(len({chosen[layer] for layer in group}) > 1 for group in run.rules.tied):
            continue
        harm = sum(finite.get((layer, each.label), 0.0) for layer, each in chosen.items())
        every.append((simulated(run, chosen, axis), harm))
    for proposal in proposals:
        assert all(len({proposal.precisions[layer] for layer in group}) == 1 for group in run.rules.tied)
        assert proposal.cost == pytest.approx(simulated(run, proposal.precisions, axis), rel=1e-12)
        # Undominated: nothing that costs as little does less harm, and nothing as harmless costs less.
        assert not [1 for cost, harm in every if cost <= proposal.cost * (1 - 1e-12) and harm <= proposal.harm + 1e-12]
        assert not [1 for cost, harm in every if cost <= proposal.cost * (1 + 1e-12) and harm < proposal.harm - 1e-12]


def test_layers_by_themselves_are_another_cost(run: NetworkPoints, harms: dict[tuple[str, str], float]) -> None:
    """The other program is off where neighbours differ, so that this one's agreement says something."""
    run.map(run.baselines(MENU))
    found = least_harm(run, MENU, harms, 5)
    alone = run.choices(MENU, harms, "energy")
    differences = []
    for proposal in found:
        cost = sum(
            next(each.cost for each in alone[layer] if each.label == precision.label)
            for layer, precision in proposal.assignment.items() if layer in alone
        )
        cost += run.mappings.solution(*next(
            job for job in run.jobs(run.uniform(MENU[0])) if job[0].name == UNRATED
        )).result.total_energy_pj
        differences.append(abs(cost / simulated(run, proposal.assignment, "energy") - 1))
    assert max(differences) > 1e-4


def test_what_is_kept_and_how_much_memory_there_is_bind(
    run: NetworkPoints, network: Network, harms: dict[tuple[str, str], float]
) -> None:
    limit = 6 * sum(layer.weight_count for layer in network.trained_layers)
    bound = NetworkPoints(**{**run.__dict__, "rules": LayerRules({"first": (MENU[2],)}), "weight_bits_limit": limit})
    proposals = least_harm_by_subgraphs(bound, MENU, harms, 4)
    assert proposals
    for proposal in proposals:
        assert proposal.precisions["first"] == MENU[2]
        assert bound.weight_bits(bound.mixed(proposal.precisions)) <= limit


def test_a_chain_of_many_choices_is_cut_finer_and_stays_the_same(run: NetworkPoints) -> None:
    """Two sub-graphs of 2^9 configurations with conversions between them: their table would be too large."""
    graph: nx.DiGraph = nx.DiGraph()
    names = ["begin", *(f"{side}{number}" for side in "ab" for number in range(4))]
    for name in names:
        graph.add_node(name, op=Layer(name=name, dims={"P": 3, "C": 8, "K": 8}))
    graph.add_edges_from(("begin", f"a{number}") for number in range(4))
    graph.add_edges_from((f"a{first}", f"b{second}") for first in range(4) for second in range(2))
    network = Network("net", graph)
    menus = {name: [for_layer(graph.nodes[name]["op"], each) for each in MENU] for name in names}

    def cost(layer: Layer, precision: LayerPrecision) -> float:
        return precision.weight.bits * precision.input.bits + 3.0 * precision.output.bits

    harms = {(name, each.label): float(8 - each.input.bits) for name in names for each in MENU}
    problem = subgraph_problem(network, menus, cost, harms)
    assert max(each.configurations for each in problem.subgraphs.values()) < 3**8
    first = {name: ", ".join("w8a8" for _ in each.layers) for name, each in problem.subgraphs.items()}
    assert all(row[0].label == first[name] for name, row in problem.choices.items())
    assert problem.baseline_cost == sum(64 + 24.0 for _ in names)
