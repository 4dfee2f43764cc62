"""AMP's integer program (arXiv:2505.13060): one configuration for each sequential sub-graph, most gain, bounded harm.

``max Σ c(j, p)·x(j, p)`` over one configuration p of each sub-graph j, so that ``Σ d(j, p)·x(j, p)`` keeps a budget:
c is what a configuration gains over all layers in their first choice, d the sum of its layers' harms. Here costs are
minimised, which is the same.

What layers of a sub-graph cost together is, in this simulator, the sum of what each costs with its output in the format
that the others read. Layers run one after the other and nothing overlaps, so nothing else is joint: a producer's
conversions are. Where a layer is read in another sub-graph, its conversions are terms between the two.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from mapper.assignment import Assignment, Quantity, assign
from mapper.assignment_options import TABLE_ENTRIES, Choice, Conversion, unbeaten
from mapper.conversions import CostOf, MappedCosts, Menu, network_choices, weight_bits
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, Problem
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from workloads.network import Network
from workloads.subgraphs import SubGraph, partition

Gain = Literal["latency", "energy", "macs", "memory"]
GAINS: tuple[Gain, ...] = ("latency", "energy", "macs", "memory")
_SEPARATOR = ", "


@dataclass(frozen=True)
class SubGraphChoices:
    """Configurations of a network's sub-graphs, as ``assign`` and ``assignment_front`` take them.

    Attributes:
        subgraphs: in program order, by name.
        choices: sub-graph's name → its configurations; a label names the layers' labels in order.
        conversions: between sub-graphs.
        baseline_cost: Σ cost where every layer has the first precision of its menu.
    """

    subgraphs: dict[str, SubGraph]
    choices: dict[str, list[Choice]]
    conversions: tuple[Conversion, ...]
    baseline_cost: float

    @property
    def notes(self) -> tuple[str, ...]:
        """What was split, in words."""
        return tuple(
            f"{each.name}: part {each.part} of {each.parts} of a sub-graph with too many configurations"
            for each in self.subgraphs.values() if each.parts > 1
        )

    def undominated(self) -> dict[str, int]:
        """Sub-graph's name → its configurations that no other one of it matches in cost, harm and memory."""
        return {name: len(unbeaten(row)) for name, row in self.choices.items()}

    def by_layer(self, assignment: Assignment) -> Assignment:
        """An assignment of configurations with the labels of layers in place of sub-graphs."""
        labels = {
            layer: label for name, chosen in assignment.labels.items()
            for layer, label in zip(self.subgraphs[name].layers, chosen.split(_SEPARATOR), strict=True)
        }
        return replace(assignment, labels=labels)


@dataclass(frozen=True)
class ConfiguredSubGraph:
    """A sub-graph in its configuration: labels by layer, what it gains over the baseline, and its harm."""

    subgraph: SubGraph
    labels: dict[str, str]
    gain: float
    harm: float


@dataclass(frozen=True)
class SubGraphAssignment:
    """A configuration for each sub-graph, with its certificate.

    Attributes:
        assignment: labels by layer, sums over the whole network, status, bound and gap.
        subgraphs: each in its configuration. Their gains are without the conversions between sub-graphs.
        gain: baseline's cost − cost, of the whole network.
        notes: what was split.
    """

    assignment: Assignment
    subgraphs: tuple[ConfiguredSubGraph, ...]
    gain: float
    notes: tuple[str, ...]


def gain_cost(gain: Gain, *, costs: MappedCosts | None = None, accelerator: Accelerator | None = None) -> CostOf:
    """What a layer costs, so that less of it is a gain.

    ``latency`` (cycles) and ``energy`` (pJ): simulated, of ``costs``. ``macs``: AMP's theoretical time, cycles of the
    layer's products on a full grid of ``accelerator`` at the rate of its PEs in the precision. ``memory``: bits of
    weights. Raises ``ConfigurationError`` where what a gain needs is missing.
    """
    if gain in ("latency", "energy") and costs is not None:
        return costs.latency_cycles if gain == "latency" else costs.energy_pj
    if gain == "memory":
        return lambda layer, precision: float(weight_bits(layer, precision))
    if gain == "macs" and accelerator is not None:
        element, count = accelerator.processing_element, accelerator.grid.pe_count

        def full_grid_cycles(layer: Layer, precision: LayerPrecision) -> float:
            return layer.macs * element.cycles_per_step(precision) / (element.lanes(precision) * count)

        return full_grid_cycles
    if gain not in GAINS:
        raise ConfigurationError(Problem("is not known", path="gain", value=repr(gain), allowed=GAINS))
    needed = "accelerator" if gain == "macs" else "costs"
    raise ConfigurationError(Problem(f"gain {gain} needs it", path=needed, value="none"))


def subgraph_choices(
    network: Network, menu: Menu, cost: CostOf, harms: Mapping[tuple[str, str], float],
    subgraphs: Sequence[SubGraph] | None = None,
) -> SubGraphChoices:
    """Cost every configuration of every sub-graph. Arguments, and errors, as of ``network_choices`` and ``partition``.

    ``subgraphs``: None for those of ``partition``, of the choices that are left when infinite harms are out.
    """
    choices, conversions = network_choices(network, menu, cost, harms)
    if subgraphs is None:
        subgraphs = partition(network, {name: len(row) for name, row in choices.items()})
    home = {layer: each.name for each in subgraphs for layer in each.layers}
    found = {
        each.name: _configurations(
            each, choices, [c for c in conversions if all(home[layer] == each.name for layer in c.layers)]
        )
        for each in subgraphs
    }
    baseline = sum((Fraction(row[0].cost) for row in choices.values()), Fraction(0))
    first = {name: row[0].label for name, row in choices.items()}
    baseline += sum(
        (Fraction(each.costs.get(tuple(first[layer] for layer in each.layers), 0)) for each in conversions), Fraction(0)
    )
    by_name = {each.name: each for each in subgraphs}
    between = tuple(
        _lifted(each, by_name, home, found) for each in conversions if len({home[layer] for layer in each.layers}) > 1
    )
    return SubGraphChoices(by_name, found, between, float(baseline))


def assign_subgraphs(
    problem: SubGraphChoices,
    *,
    minimise: Quantity = "cost",
    harm_budget: float | None = None,
    cost_budget: float | None = None,
    weight_bits_budget: int | None = None,
    time_limit_seconds: float = 10.0,
) -> SubGraphAssignment:
    """Most gain (least cost) under a bound on the harm, AMP's τ²·E[L²], or the reverse; arguments as of ``assign``.

    Configurations that another one of their sub-graph beats in every case are left out before the search.
    """
    found = assign(
        problem.choices, minimise=minimise, harm_budget=harm_budget, cost_budget=cost_budget,
        weight_bits_budget=weight_bits_budget, conversions=problem.conversions, time_limit_seconds=time_limit_seconds,
    )
    by_layer = problem.by_layer(found)
    configured = []
    for name, row in problem.choices.items():
        chosen = next(each for each in row if each.label == found.labels[name])
        subgraph = problem.subgraphs[name]
        labels = {layer: by_layer.labels[layer] for layer in subgraph.layers}
        # Configurations are in the order of the menus: the first is that of first choices.
        configured.append(ConfiguredSubGraph(subgraph, labels, row[0].cost - chosen.cost, chosen.harm))
    return SubGraphAssignment(by_layer, tuple(configured), problem.baseline_cost - found.cost, problem.notes)


def _configurations(
    subgraph: SubGraph, choices: Mapping[str, Sequence[Choice]], inside: Sequence[Conversion]
) -> list[Choice]:
    """Every configuration of a sub-graph as one choice, with the conversions between its layers."""
    found = []
    for picked in itertools.product(*(choices[layer] for layer in subgraph.layers)):
        labels = {layer: each.label for layer, each in zip(subgraph.layers, picked, strict=True)}
        cost = sum((Fraction(each.cost) for each in picked), Fraction(0))
        cost += sum(
            (Fraction(each.costs.get(tuple(labels[layer] for layer in each.layers), 0)) for each in inside), Fraction(0)
        )
        found.append(Choice(
            _SEPARATOR.join(labels.values()), float(cost), math.fsum(each.harm for each in picked),
            sum(each.weight_bits for each in picked),
        ))
    return found


def _lifted(
    conversion: Conversion, subgraphs: Mapping[str, SubGraph], home: Mapping[str, str],
    choices: Mapping[str, Sequence[Choice]],
) -> Conversion:
    """A conversion between layers as one between the configurations of their sub-graphs."""
    names = tuple(dict.fromkeys(home[layer] for layer in conversion.layers))
    entries = math.prod(len(choices[name]) for name in names)
    if entries > TABLE_ENTRIES:
        rule = f"{' and '.join(names)} have {entries} configurations together; at most {TABLE_ENTRIES}"
        raise ConfigurationError(Problem(rule, path="subgraphs"))
    places = [(names.index(home[layer]), subgraphs[home[layer]].layers.index(layer)) for layer in conversion.layers]
    costs: dict[tuple[str, ...], float | Fraction] = {}
    for picked in itertools.product(*(choices[name] for name in names)):
        labels = [each.label.split(_SEPARATOR) for each in picked]
        cost = conversion.costs.get(tuple(labels[name][place] for name, place in places))
        if cost:
            costs[tuple(each.label for each in picked)] = cost
    return Conversion(names, costs)
