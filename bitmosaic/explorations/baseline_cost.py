"""The cost of a network in given precisions, one throughout or one for each layer: mapped, simulated, not measured.

Layers in the format of a machine's floating-point unit, where its grid does not run that, are not mapped: they cost
what ``floating_layers`` gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from bitmosaic.explorations.exploration import Point
from bitmosaic.explorations.floating_layers import (
    border_precisions,
    closed_form_row,
    floating_results,
    problems_on,
    unit_precision,
)
from bitmosaic.explorations.menu import for_layer
from bitmosaic.explorations.records import LayerRow, PointRecord, layer_row, vector_rows
from bitmosaic.progress import Progress, chosen_progress
from hw_configs import open_machine
from mapper.cache import MappingCache
from mapper.network import MappingJob, map_many, network_precisions, simulate_network
from mapper.placement import map_network
from mapper.solution import MappingSolution, Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, PrecisionError, Problem, closest
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.result import LayerResult, NetworkResult
from simulator.shown import Shown
from simulator.tiled import Machine, tiles_of
from simulator.values import LayerValues
from workloads import Network, open_network
from workloads.layer_values import ValueChoice, ValueRecorder
from workloads.tasks import find_task

MIXED = "mixed"


@dataclass(frozen=True)
class UniformRun(Shown):
    """A network in given precisions, mapped and simulated: what the traces and plots of layers look at.

    Attributes:
        network, accelerator: what ran, and where.
        label: short name of the precision, ``w4a8``; ``mixed`` where layers differ (``mixed_run``).
        assignment: layer → the precision asked for.
        precisions: layer → the precision simulated: with the output format that its readers take.
        solutions: layer → its mapping, with the proof; layers of ``closed_forms`` have none.
        result: cost of one inference.
        values: gives the codes of each layer's operands, where the machine's time depends on them; else None.
        closed_forms: layer → its row, of those that run on the machine's floating-point unit.
    """

    network: Network
    accelerator: Machine
    label: str
    assignment: dict[str, LayerPrecision]
    precisions: dict[str, LayerPrecision]
    solutions: dict[str, MappingSolution]
    result: NetworkResult
    values: ValueRecorder | None = None
    closed_forms: Mapping[str, LayerRow] = field(default_factory=dict)

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
        """Layer → its mapping laid out for the engines, on its tile; layers in closed form have none."""
        tiles = tiles_of(self.accelerator)
        return {
            layer.name: Plan(layer, self.precisions[layer.name], tiles[solution.tile], solution.mapping)
            for layer in self.network.layers if layer.name in self.solutions
            for solution in [self.solutions[layer.name]]
        }

    def point(self) -> Point:
        """The run as a network point without accuracy, as the tables and plots take it."""
        result, assignment, is_mixed = self.result, self.assignment, self.label == MIXED
        record = PointRecord(
            key="", context="", origin="given" if is_mixed else "uniform", uniform=None if is_mixed else self.label,
            assignment={name: each.label for name, each in assignment.items()}, total_cycles=result.total_cycles,
            latency_ms=result.latency_ms, energy_pj=result.total_energy_pj, accuracy=None,
            layers=tuple(
                self.closed_forms[row.layer] if row.layer in self.closed_forms
                else layer_row(row, assignment[row.layer].label, self.solutions[row.layer], self.accelerator.dram.name)
                for row in result.layers
            ),
            vector=vector_rows(result), confidence=result.confidence, not_modelled=result.not_modelled,
        )
        return Point(self.label, record)


def uniform_run(
    network: Network | str | Path,
    accelerator: Machine | str | Path,
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

    Arguments as of ``explore``; the accelerator may have several tiles. On a machine whose time depends on values,
    these are by default (``auto``) recorded from the calibration example of number ``example``, where the network has
    trained weights and data, and drawn where it has not; ``statistical`` draws them all. Results say which
    (``LayerResult.value_source``).

    Raises ``PrecisionError`` where neither the processing element (of several tiles none) nor a floating-point unit
    can run the precision, ``InfeasibleError`` where a layer fits in no way.
    """
    network = network if isinstance(network, Network) else open_network(network)
    precision = precision if isinstance(precision, LayerPrecision) else LayerPrecision.parse(precision)
    return _run(
        network, accelerator, precision.label, {layer.name: precision for layer in network.layers}, objective, budget,
        workers, progress, values, example,
    )


def mixed_run(
    network: Network | str | Path,
    accelerator: Machine | str | Path,
    precisions: Mapping[str, LayerPrecision | str],
    *,
    objective: Objective = "edp",
    budget: SearchBudget | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    values: ValueChoice = "auto",
    example: int = 0,
) -> UniformRun:
    """Map and simulate a network with a precision for each layer; other arguments and errors as of ``uniform_run``.

    ``precisions``: layer's name, or a pattern of names with ``*``, ``?`` and ``[…]``, → precision. The first entry that
    fits a layer counts: ``{"*.scores": "bf16", "*": "w4a4"}``. Raises ``ConfigurationError`` for a layer that no entry
    fits and an entry that fits no layer.
    """
    network = network if isinstance(network, Network) else open_network(network)
    asked = {
        name: each if isinstance(each, LayerPrecision) else LayerPrecision.parse(each)
        for name, each in precisions.items()
    }
    return _run(
        network, accelerator, MIXED, precisions_by_layer(network, asked), objective, budget, workers, progress, values,
        example,
    )


def pattern_fits(name: str, pattern: str) -> bool:
    """Whether a pattern of layers' names stands for a name: it is the name, or fits with ``*``, ``?``, ``[…]``."""
    return name == pattern or fnmatchcase(name, pattern)


def precisions_by_layer(network: Network, asked: Mapping[str, LayerPrecision]) -> dict[str, LayerPrecision]:
    """Layer → the precision of the first entry that fits its name, for entries and errors as of ``mixed_run``."""
    names = [layer.name for layer in network.layers]
    problems = [
        Problem("fits no layer", where=network.name, path="precisions", value=repr(pattern),
                did_you_mean=closest(pattern, names))
        for pattern in asked if not any(pattern_fits(name, pattern) for name in names)
    ]
    found = {}
    for name in names:
        fitting = [pattern for pattern in asked if pattern_fits(name, pattern)]
        if fitting:
            found[name] = asked[fitting[0]]
        else:
            problems.append(Problem("has no precision", where=network.name, path=f"layer {name}"))
    if problems:
        raise ConfigurationError(problems)
    return found


def _run(
    network: Network, accelerator: Machine | str | Path, label: str, asked: Mapping[str, LayerPrecision],
    objective: Objective, budget: SearchBudget | None, workers: int | None, progress: Progress | None,
    values: ValueChoice, example: int,
) -> UniformRun:
    machine = open_machine(accelerator) if isinstance(accelerator, str | Path) else accelerator
    floating = None
    if isinstance(machine, Accelerator):
        problems = [
            problem for precision in dict.fromkeys(asked.values()) for problem in problems_on(precision, machine)
        ]
        if problems:
            raise PrecisionError(problems)
        floating = unit_precision(machine)
    told = chosen_progress(progress)
    budget = budget or SearchBudget()
    assignment = {layer.name: for_layer(layer, asked[layer.name]) for layer in network.layers}
    closed: dict[str, LayerResult] = {}
    settings: dict[str, Any] = {
        "budget": budget, "cache": MappingCache(), "workers": workers,
        "progress": lambda done, total: told.update("mapping", done, total),
    }
    if floating is None or not isinstance(machine, Accelerator):
        exact = network_precisions(network, assignment)
        solutions = map_network(network, machine, assignment, objective, **settings)
    else:
        exact = border_precisions(network, assignment, floating)
        closed = floating_results(network, exact, machine, floating)
        jobs = [MappingJob(layer, exact[layer.name]) for layer in network.layers if layer.name not in closed]
        found = map_many(jobs, machine, objective, **settings)
        solutions = {job.layer.name: solution for job, solution in zip(jobs, found, strict=True)}
    recorder = None
    if any(tile.processing_element.depends_on_values for tile in tiles_of(machine).values()):
        recorder = ValueRecorder(network, find_task(network), example=example, choice=values)
    result = simulate_network(network, machine, exact, solutions, recorder, closed_forms=closed)
    rows = {name: closed_form_row(each, assignment[name].label, objective) for name, each in closed.items()}
    return UniformRun(network, machine, label, assignment, exact, solutions, result, recorder, rows)


def uniform_cost(
    network: Network | str | Path,
    accelerator: Machine | str | Path,
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
