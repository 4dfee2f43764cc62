"""The cost of a network in one precision throughout: every layer mapped, the whole simulated, nothing measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bitmosaic.exploration import Point
from bitmosaic.menu import for_layer, problems_of
from bitmosaic.progress import Progress, Silent
from bitmosaic.records import PointRecord, layer_row, vector_rows
from hw_configs import open_accelerator
from mapper.cache import MappingCache
from mapper.network import MappingJob, map_many, network_precisions, simulate_network
from mapper.solution import MappingSolution, Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.errors import PrecisionError
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.result import NetworkResult
from simulator.values import LayerValues
from workloads import Network, open_network
from workloads.layer_values import ValueChoice, ValueRecorder
from workloads.tasks import find_task


@dataclass(frozen=True)
class UniformRun:
    """A network in one precision throughout, mapped and simulated: what the traces and plots of layers look at.

    Attributes:
        network, accelerator: what ran, and where.
        label: short name of the precision, ``w4a8``.
        assignment: layer → the precision asked for.
        precisions: layer → the precision simulated: with the output format that its readers take.
        solutions: layer → its mapping, with the proof.
        result: cost of one inference.
        values: gives the codes of each layer's operands, where the machine's time depends on them; else None.
    """

    network: Network
    accelerator: Accelerator
    label: str
    assignment: dict[str, LayerPrecision]
    precisions: dict[str, LayerPrecision]
    solutions: dict[str, MappingSolution]
    result: NetworkResult
    values: ValueRecorder | None = None

    def layer_values(self, layer: str) -> LayerValues | None:
        """Codes of a layer's operands, made anew; None where the machine's time does not depend on them."""
        if self.values is None:
            return None
        found = next(each for each in self.network.layers if each.name == layer)
        return self.values.values(found, self.precisions[layer])

    @property
    def value_notes(self) -> frozenset[str]:
        """In words, what the values of the layers were; empty where time does not depend on them."""
        return frozenset() if self.values is None else frozenset(self.values.notes)

    def simulated_solutions(self) -> dict[str, MappingSolution]:
        """Layer → its mapping, with the result of this run: where time depends on values, the search had another."""
        results = {row.layer: row for row in self.result.layers}
        return {
            name: solution.model_copy(update={"result": results[name]}) for name, solution in self.solutions.items()
        }

    def plans(self) -> dict[str, Plan]:
        """Layer → its mapping laid out for the engines."""
        return {
            layer.name: Plan(layer, self.precisions[layer.name], self.accelerator, self.solutions[layer.name].mapping)
            for layer in self.network.layers
        }

    def point(self) -> Point:
        """The run as a network point without accuracy, as the tables and plots take it."""
        result, assignment = self.result, self.assignment
        record = PointRecord(
            key="", context="", origin="uniform", uniform=self.label,
            assignment={name: each.label for name, each in assignment.items()}, total_cycles=result.total_cycles,
            latency_ms=result.latency_ms, energy_pj=result.total_energy_pj, accuracy=None,
            layers=tuple(
                layer_row(row, assignment[row.layer].label, self.solutions[row.layer]) for row in result.layers
            ),
            vector=vector_rows(result), confidence=result.confidence, not_modelled=result.not_modelled,
        )
        return Point(self.label, record)


def uniform_run(
    network: Network | str | Path,
    accelerator: Accelerator | str | Path,
    precision: LayerPrecision | str = "w8a8",
    *,
    objective: Objective = "edp",
    budget: SearchBudget | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    values: ValueChoice = "auto",
    example: int = 0,
) -> UniformRun:
    """Map every layer in one precision and simulate the network, vector operations included.

    Arguments as of ``explore``. On a machine whose time depends on values, these are by default (``auto``) recorded
    from the calibration example of number ``example``, where the network has trained weights and data, and drawn where
    it has not; ``statistical`` draws them all. Results say which (``LayerResult.value_source``).

    Raises ``PrecisionError`` where the processing element cannot run the precision,
    ``InfeasibleError`` where a layer fits in no way.
    """
    network = network if isinstance(network, Network) else open_network(network)
    accelerator = accelerator if isinstance(accelerator, Accelerator) else open_accelerator(accelerator)
    precision = precision if isinstance(precision, LayerPrecision) else LayerPrecision.parse(precision)
    problems = problems_of(precision, accelerator)
    if problems:
        raise PrecisionError(problems)
    progress = progress or Silent()
    assignment = {layer.name: for_layer(layer, precision) for layer in network.layers}
    exact = network_precisions(network, assignment)
    found = map_many(
        [MappingJob(layer=layer, precision=exact[layer.name]) for layer in network.layers],
        accelerator=accelerator, objective=objective, budget=budget or SearchBudget(), cache=MappingCache(),
        workers=workers, progress=lambda done, total: progress.update("mapping", done, total),
    )
    solutions = {layer.name: solution for layer, solution in zip(network.layers, found, strict=True)}
    recorder = None
    if accelerator.processing_element.depends_on_values:
        recorder = ValueRecorder(network, find_task(network), example=example, choice=values)
    result = simulate_network(network, accelerator, exact, solutions, recorder)
    return UniformRun(network, accelerator, precision.label, assignment, exact, solutions, result, recorder)


def uniform_cost(
    network: Network | str | Path,
    accelerator: Accelerator | str | Path,
    precision: LayerPrecision | str = "w8a8",
    *,
    objective: Objective = "edp",
    budget: SearchBudget | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Point:
    """The cost of ``uniform_run`` alone, as a point.

    The point's record has latency (cycles, ms), energy (pJ), and a row a layer; its accuracy is None, as nothing is
    measured. Arguments and errors as of ``uniform_run``.
    """
    run = uniform_run(
        network, accelerator, precision, objective=objective, budget=budget, workers=workers, progress=progress
    )
    return run.point()
