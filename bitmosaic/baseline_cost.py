"""The cost of a network in one precision throughout: every layer mapped, the whole simulated, nothing measured."""

from __future__ import annotations

from pathlib import Path

from bitmosaic.exploration import Point
from bitmosaic.menu import for_layer, problems_of
from bitmosaic.progress import Progress, Silent
from bitmosaic.records import PointRecord, layer_row, vector_rows
from hw_configs import open_accelerator
from mapper.cache import MappingCache
from mapper.network import MappingJob, map_many, network_precisions, simulate_network
from mapper.solution import Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.errors import PrecisionError
from simulator.precision import LayerPrecision
from workloads import Network, open_network


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
    """Map every layer in one precision and simulate the network, vector operations included.

    Arguments as of ``explore``. The point's record has latency (cycles, ms), energy (pJ), and a row a layer; its
    accuracy is None, as nothing is measured.

    Raises ``PrecisionError`` where the processing element cannot run the precision, ``InfeasibleError`` where a layer
    fits in no way.
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
    result = simulate_network(network, accelerator, exact, solutions)
    record = PointRecord(
        key="", context="", origin="uniform", uniform=precision.label,
        assignment={name: each.label for name, each in assignment.items()},
        total_cycles=result.total_cycles, latency_ms=result.latency_ms, energy_pj=result.total_energy_pj, accuracy=None,
        layers=tuple(layer_row(row, assignment[row.layer].label, solutions[row.layer]) for row in result.layers),
        vector=vector_rows(result),
    )
    return Point(precision.label, record)
