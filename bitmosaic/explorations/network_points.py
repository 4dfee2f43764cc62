"""Network points: a network under an assignment of precisions, mapped, simulated, measured, and written down once.

What ``explore`` and ``compare`` share. A *proposal* is an assignment and what proposed it; a *point* is its record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bitmosaic.explorations.accuracy_book import Assignment
from bitmosaic.explorations.assignment_proof import AssignmentProof
from bitmosaic.explorations.exploration import CostAxis
from bitmosaic.explorations.floating_layers import border_precisions, closed_form, closed_form_row, floating_results
from bitmosaic.explorations.identity import Json, content_key
from bitmosaic.explorations.layer_rules import LayerRules
from bitmosaic.explorations.mapping_book import Job, MappingBook
from bitmosaic.explorations.menu import for_layer
from bitmosaic.explorations.records import Accuracy, Origin, PointRecord, layer_row, vector_rows
from bitmosaic.explorations.store import RecordFile
from bitmosaic.progress import Progress
from mapper.assignment import Choice
from mapper.network import network_precisions, simulate_network
from simulator.accelerator import Accelerator
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from workloads import Network


@dataclass(frozen=True)
class Proposal:
    """An assignment (layer → precision, of all layers), what proposed it, and of a uniform baseline its precision.

    ``value``: the threshold or ratio of the origin, where it has one. ``proof``: of an integer program's.
    ``selection``: key of the record of the channels that are narrow at that ratio.
    """

    assignment: dict[str, LayerPrecision]
    origin: Origin
    uniform: str | None = None
    value: float | None = None
    proof: AssignmentProof | None = None
    selection: str | None = None


class Measurer(Protocol):
    """Gives the accuracy of an assignment of trained layers: ``AccuracyBook``, or that of split layers."""

    def measure(self, assignment: Assignment) -> Accuracy:
        """Score the network under an assignment; measured once for a results folder."""
        ...


@dataclass(frozen=True)
class NetworkPoints:
    """The points of one context: network, machine, objective, budget and quantiser.

    Attributes:
        accuracy: measures assignments; None where there is a cost only.
        baseline: what products of two activations run in, and what is offered to a layer in any case.
        rules: what single layers are offered in proposals that mix precisions, and which are tied.
        weight_bits_limit: most stored bits of trained weights, in the same proposals; None: no limit.
        floating: what layers may stay in beside the grid, on the machine's floating-point unit; None: nothing.
    """

    network: Network
    accelerator: Accelerator
    context: str
    accuracy: Measurer | None
    mappings: MappingBook
    records: RecordFile[PointRecord]
    progress: Progress
    baseline: LayerPrecision
    rules: LayerRules = field(default_factory=LayerRules)
    weight_bits_limit: int | None = None
    floating: LayerPrecision | None = None

    def uniform(self, precision: LayerPrecision) -> dict[str, LayerPrecision]:
        """Every layer in one precision; products of two activations in the activations' format."""
        return {layer.name: for_layer(layer, precision) for layer in self.network.layers}

    def baselines(self, menu: Sequence[LayerPrecision]) -> list[Proposal]:
        """Every precision of the menu, uniformly."""
        return [Proposal(self.uniform(precision), "uniform", precision.label) for precision in menu]

    def mixed(self, chosen: Mapping[str, LayerPrecision]) -> dict[str, LayerPrecision]:
        """Layers as chosen, in what they are offered; what is left out, products of two activations above all, in the
        first of its menu, the baseline as a rule."""
        found = {}
        for layer in self.network.layers:
            offered = self.rules.of(layer.name, (for_layer(layer, self.baseline),))
            asked = chosen.get(layer.name, offered[0])
            found[layer.name] = asked if layer.name not in self.rules.menus or asked in offered else offered[0]
        return found

    def weight_bits(self, assignment: Assignment) -> int:
        """Stored bits of all trained weights, without scales. Narrow channels are stored in their wide format."""
        return sum(layer.weight_count * assignment[layer.name].weight.bits for layer in self.network.trained_layers)

    def key(self, assignment: Assignment) -> str:
        """Key of a network point."""
        formats: Json = {name: precision.model_dump(mode="json") for name, precision in assignment.items()}
        return content_key("point", {"context": self.context, "assignment": formats})

    def jobs(self, assignment: Assignment) -> list[Job]:
        """Layers that the grid runs with their precisions, outputs in the formats that are read."""
        precisions = self.exact(assignment)
        return [
            (layer, precisions[layer.name]) for layer in self.network.layers
            if not self.is_floating(precisions[layer.name])
        ]

    def is_floating(self, precision: LayerPrecision) -> bool:
        """Whether a layer in a precision runs on the floating-point unit, and is not mapped."""
        return self.floating is not None and precision.input == self.floating.input

    def exact(self, assignment: Assignment) -> dict[str, LayerPrecision]:
        """Each layer's precision with the output format that it writes."""
        if self.floating is None:
            return network_precisions(self.network, assignment)
        return border_precisions(self.network, assignment, self.floating)

    def choices(
        self, menu: Sequence[LayerPrecision], harms: Mapping[tuple[str, str], float], axis: CostAxis
    ) -> dict[str, list[Choice]]:
        """What each rated layer can run in: its cost on one axis (cycles, pJ, or bits), harm, and bits of its weights.

        A precision in which outputs were not finite (infinite harm) is left out, but for the first of a layer's menu
        (``LayerRules.offers``). The layers are mapped, where that is the cost.
        """
        offers = self.rules.offers(menu, harms)
        choices: dict[str, list[Choice]] = {layer.name: [] for layer in self.network.layers if layer.name in offers}
        for precision in menu:
            uniform = self.exact(self.uniform(precision))
            for layer in self.network.layers:
                exact = uniform[layer.name]
                harm = harms.get((layer.name, precision.label), math.inf)
                if precision not in offers.get(layer.name, ()):
                    continue
                bits = layer.weight_count * precision.weight.bits
                cost = float(bits) if axis == "memory" else self._cost(layer, exact, axis)
                choices[layer.name].append(Choice(precision.label, cost, min(harm, 1e30), bits))
        return choices

    def _cost(self, layer: Layer, exact: LayerPrecision, axis: CostAxis) -> float:
        """Cycles or pJ of a layer that is mapped."""
        result = (
            closed_form(layer, exact, self.accelerator) if self.is_floating(exact)
            else self.mappings.solution(layer, exact).result
        )
        return float(result.total_cycles) if axis == "latency" else result.total_energy_pj

    def map(self, proposals: Iterable[Proposal]) -> None:
        """Map the layers of the points that are not in the folder yet."""
        new = [each.assignment for each in proposals if self.key(each.assignment) not in self.records]
        self.mappings.solve([job for assignment in new for job in self.jobs(assignment)], self.progress)

    def score(self, stage: str, proposals: Iterable[Proposal]) -> None:
        """Simulate and measure the points that are not in the folder yet; their layers are mapped."""
        new = {self.key(proposal.assignment): proposal for proposal in proposals}
        new = {key: proposal for key, proposal in new.items() if key not in self.records}
        for number, (key, proposal) in enumerate(new.items()):
            self.progress.update(stage, number, len(new))
            self.records.append(self._point(key, proposal))
        if new:
            self.progress.update(stage, len(new), len(new))

    def _point(self, key: str, proposal: Proposal) -> PointRecord:
        assignment = proposal.assignment
        jobs = self.jobs(assignment)
        solutions = {layer.name: self.mappings.solution(layer, precision) for layer, precision in jobs}
        exact = self.exact(assignment)
        floating = (
            {} if self.floating is None
            else floating_results(self.network, exact, self.accelerator, self.floating)
        )
        result = simulate_network(self.network, self.accelerator, exact, solutions, closed_forms=floating)
        accuracy = None
        if self.accuracy is not None:
            bound = {name: precision for name, precision in assignment.items() if name in self.network.bindings}
            accuracy = self.accuracy.measure(bound)
        return PointRecord(
            key=key, context=self.context, origin=proposal.origin, origin_value=proposal.value,
            uniform=proposal.uniform, selection=proposal.selection,
            assignment={name: precision.label for name, precision in assignment.items()},
            precisions={
                name: precision for name, precision in assignment.items()
                if LayerPrecision.parse(precision.label) != precision
            },
            weight_bits=self.weight_bits(assignment), proof=proposal.proof,
            total_cycles=result.total_cycles, latency_ms=result.latency_ms, energy_pj=result.total_energy_pj,
            accuracy=accuracy,
            layers=tuple(
                closed_form_row(layer, assignment[layer.layer].label, self.mappings.objective)
                if layer.layer in floating
                else layer_row(layer, assignment[layer.layer].label, solutions[layer.layer], self.accelerator.dram.name)
                for layer in result.layers
            ),
            vector=vector_rows(result), confidence=result.confidence, not_modelled=result.not_modelled,
        )
