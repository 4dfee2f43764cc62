"""One task of a sweep, done in a worker: map the network's layers, simulate, and put the result into plain data."""

from __future__ import annotations

from typing import Any

from bitmosaic.explorations.identity import Json
from bitmosaic.sweeps.points import has_values
from bitmosaic.sweeps.tasks import SweepTask, fingerprint, opened_network
from mapper.cache import MappingCache
from mapper.incumbent import PROOF_TOLERANCE
from mapper.network import network_precisions, simulate_network
from mapper.placement import map_network
from mapper.solution import MappingSolution
from simulator.errors import ConfigurationError, Problem
from workloads.layer_values import ValueRecorder
from workloads.tasks import find_task


class CountingCache(MappingCache):
    """The user's cache, which many workers share; it counts what was searched for, and the CPU seconds of that."""

    def __init__(self) -> None:
        super().__init__()
        self.searches = 0
        self.search_seconds = 0.0

    def put(self, key: str, solution: MappingSolution) -> None:
        """Keep a solution."""
        super().put(key, solution)
        self.searches += 1
        self.search_seconds += solution.solve_seconds


def evaluate(task: SweepTask) -> dict[str, Any]:
    """Map and simulate a task. Returns its ``result``, as of ``SweepResult``, and ``statistics`` of the work.

    Raises ``InfeasibleError`` where a layer fits in no way, ``PrecisionError`` where no PE runs a precision, and
    ``ConfigurationError`` where the network is not the one that the task was made for.
    """
    point, machine = task.point, task.point.machine
    by_value = has_values(machine)
    if fingerprint(task.network, by_value) != task.fingerprint:
        raise ConfigurationError(Problem("has changed since the sweep began", where=task.network))
    network = opened_network(task.network)
    cache = CountingCache()
    solutions = map_network(
        network, machine, task.asked, task.objective, budget=task.budget, cache=cache, workers=1
    )
    values = ValueRecorder(network, find_task(network), example=0, choice="auto") if by_value else None
    result = simulate_network(network, machine, network_precisions(network, task.asked), solutions, values)
    energy: dict[str, float] = {}
    for operation in result.operations:
        for component, energy_pj in operation.energy_pj.items():
            energy[component] = energy.get(component, 0.0) + energy_pj
    gaps = [solutions[layer.name].gap for layer in network.layers]
    found: Json = {
        "total_cycles": result.total_cycles,
        "latency_ms": result.latency_ms,
        "energy_pj": result.total_energy_pj,
        "energy_by_component_pj": dict(energy),
        "macs": sum(layer.macs for layer in result.layers),
        "area_mm2": point.area_mm2,
        "worst_gap": max(gaps, default=0.0),
        "unproven_layers": sum(gap > task.budget.target_gap + 2 * PROOF_TOLERANCE for gap in gaps),
        "confidence": {**result.confidence},
        "not_modelled": list(result.not_modelled),
    }
    return {
        "result": found,
        "statistics": {"searches": cache.searches, "search_seconds": cache.search_seconds},
    }
