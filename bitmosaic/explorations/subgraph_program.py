"""AMP's integer program on an exploration's own mappings: least harm over sequential sub-graphs, conversions counted.

The other program adds up what layers cost by themselves, each written in its own format. This one costs the
configurations of whole sub-graphs, with every layer's output in the format that the layers behind it read. So a
proposal's cost is what simulating the network says of it, less the vector operations, which cost the same in all of
them (``mapper.conversions``, ``mapper.subgraph_assignment``). For that, layers are mapped in all formats that they may
come to write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitmosaic.explorations.assignment_proof import AssignmentProof
from bitmosaic.explorations.exploration import CostAxis
from bitmosaic.explorations.menu import for_layer
from bitmosaic.explorations.network_points import NetworkPoints
from bitmosaic.explorations.program_front import program_front
from bitmosaic.explorations.records import PointCount
from mapper.assignment import Assignment
from mapper.conversions import CostOf, network_jobs
from mapper.subgraph_assignment import SubGraphChoices, subgraph_choices
from simulator.errors import ConfigurationError
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from workloads.network import Network
from workloads.subgraphs import MOST_CONFIGURATIONS, SubGraph, partition

_WORST_HARM = 1e30  # of what is offered though the outputs were not finite


@dataclass(frozen=True)
class SubGraphProposal:
    """An assignment by layer, the axis of its front, and what the program takes it to cost there.

    ``cost``: cycles or pJ of all layers together, conversions included, vector operations left out.
    """

    precisions: dict[str, LayerPrecision]
    axis: CostAxis
    cost: float
    harm: float
    proof: AssignmentProof


def layer_menus(
    run: NetworkPoints, menu: Sequence[LayerPrecision], harms: Mapping[tuple[str, str], float]
) -> tuple[dict[str, list[LayerPrecision]], dict[tuple[str, str], float]]:
    """Layer → what it chooses from, for every layer of the network; and harms, all of them finite.

    A rated layer has its menu, less what made outputs infinite (``LayerRules.offers``); any other layer what it runs in
    whatever is chosen.
    """
    fixed = run.mixed({})
    offers = run.rules.offers(menu, harms)
    menus: dict[str, list[LayerPrecision]] = {}
    finite: dict[tuple[str, str], float] = {}
    for layer in run.network.layers:
        offered = [fixed[layer.name]]
        if layer.name in offers:
            offered = [for_layer(layer, each) for each in offers[layer.name]]
        menus[layer.name] = offered
        if layer.name in offers:
            finite |= {
                (layer.name, each.label): min(harms.get((layer.name, each.label), math.inf), _WORST_HARM)
                for each in offered
            }
    return menus, finite


def subgraph_problem(
    network: Network, menus: Mapping[str, Sequence[LayerPrecision]], cost: CostOf,
    harms: Mapping[tuple[str, str], float], singly: bool = False,
) -> SubGraphChoices:
    """Configurations of the sub-graphs; of smaller ones where conversions between them are too many for a table.

    The optimum is the same for any cut. ``singly``: a layer each, so that layers can be tied by their labels. Raises
    ``ConfigurationError`` where a layer is read by so many others that even its own conversions are too many.
    """
    counts = {name: len(row) for name, row in menus.items()}
    most = MOST_CONFIGURATIONS
    while not singly and most > max(counts.values(), default=1):
        try:
            return subgraph_choices(network, menus, cost, harms, partition(network, counts, most_configurations=most))
        except ConfigurationError as error:
            if {problem.path for problem in error.problems} != {"subgraphs"}:
                raise
            most //= 4
    single = [SubGraph(name, (name,), count) for name, count in counts.items()]
    return subgraph_choices(network, menus, cost, harms, single)


def least_harm_by_subgraphs(
    run: NetworkPoints, menu: Sequence[LayerPrecision], harms: Mapping[tuple[str, str], float], points: PointCount
) -> list[SubGraphProposal]:
    """Least total harm under budgets of cost, ``points`` on each front (``all``: all of it); layers are mapped as far
    as that needs."""
    menus, finite = layer_menus(run, menu, harms)
    run.mappings.solve(network_jobs(run.network, menus), run.progress)
    found = []
    for axis in ("latency", "energy"):
        problem = subgraph_problem(run.network, menus, _cost_of(run, axis), finite, singly=bool(run.rules.tied))
        if axis == "latency":
            for note in problem.notes:
                run.progress.say(note)
        front = program_front(run, axis, problem.choices, points, problem.conversions)
        found += [_proposal(problem.by_layer(each), menus, axis) for each in front]
    return found


def _proposal(
    assignment: Assignment, menus: Mapping[str, Sequence[LayerPrecision]], axis: CostAxis
) -> SubGraphProposal:
    chosen = {
        layer: next(each for each in menus[layer] if each.label == label) for layer, label in assignment.labels.items()
    }
    return SubGraphProposal(chosen, axis, assignment.cost, assignment.harm, AssignmentProof.of(assignment))


def _cost_of(run: NetworkPoints, axis: CostAxis) -> CostOf:
    """Cycles or pJ of a mapped layer, looked up once: finding a record by its problem takes far longer."""
    known: dict[tuple[str, LayerPrecision], float] = {}

    def cost(layer: Layer, precision: LayerPrecision) -> float:
        key = layer.name, precision
        if key not in known:
            result = run.mappings.solution(layer, precision).result
            known[key] = float(result.total_cycles) if axis == "latency" else result.total_energy_pj
        return known[key]

    return cost
