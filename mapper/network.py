"""Map many layers: equal work once, on all cores, reusing what was solved before; and the cost of a whole network."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context

from mapper.cache import MappingCache, problem_key
from mapper.constraints import NO_WISHES, Wishes
from mapper.search import map_layer
from mapper.solution import MappingSolution, Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.engine import simulate, simulate_vector_op
from simulator.layer import Layer, VectorOp
from simulator.precision import LayerPrecision
from simulator.provenance import network_confidence, not_modelled
from simulator.result import LayerResult, NetworkResult, VectorResult
from simulator.values import ValueProvider
from workloads.network import Network

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class MappingJob:
    """One layer at one precision, to be mapped."""

    layer: Layer
    precision: LayerPrecision


def _solve(
    job: MappingJob, accelerator: Accelerator, objective: Objective, budget: SearchBudget, wishes: Wishes
) -> MappingSolution:
    return map_layer(
        job.layer, job.precision, accelerator, objective, budget=budget, constraints=wishes.constraints,
        latency_limit_cycles=wishes.latency_limit_cycles, energy_limit_pj=wishes.energy_limit_pj,
    )


def renamed(solution: MappingSolution, layer: Layer) -> MappingSolution:
    """The same solution for an equal layer of another name."""
    if solution.layer == layer:
        return solution
    result = solution.result.model_copy(update={"layer": layer.name})
    return solution.model_copy(update={"layer": layer, "result": result})


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Keep Ctrl-C for the parent: workers that start inside are born deaf to it, and end when the pool does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def map_many(
    jobs: Sequence[MappingJob],
    accelerator: Accelerator,
    objective: Objective = "latency",
    *,
    budget: SearchBudget | None = None,
    wishes: Wishes = NO_WISHES,
    cache: MappingCache | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[MappingSolution]:
    """Map every job; equal ones are solved once, solved ones come from the cache. Results are in the jobs' order.

    ``workers`` processes share the work (None: the cores there are). ``progress(done, total)`` counts distinct
    problems. What is solved is in the cache at once, so an interrupted call loses only what was in flight.
    ``wishes`` hold for every job. Raises what ``map_layer`` raises, ``SearchInterrupted`` only where one process works.
    """
    budget = budget or SearchBudget()
    keys = [problem_key(job.layer, job.precision, accelerator, objective, budget, wishes) for job in jobs]
    solved: dict[str, MappingSolution] = {}
    pending: dict[str, MappingJob] = {}
    for key, job in zip(keys, jobs, strict=True):
        if key in solved or key in pending:
            continue
        known = cache.get(key) if cache else None
        if known is None:
            pending[key] = job
        else:
            solved[key] = known
    total = len(solved) + len(pending)

    def finish(key: str, solution: MappingSolution) -> None:
        solved[key] = solution
        if cache:
            cache.put(key, solution)
        if progress:
            progress(len(solved), total)

    if progress:
        progress(len(solved), total)
    count = min(workers or os.cpu_count() or 1, len(pending))
    if count <= 1:
        for key, job in pending.items():
            finish(key, _solve(job, accelerator, objective, budget, wishes))
    else:
        # Spawned, not forked: the parent may run threads (onnxruntime, CP-SAT) that do not survive a fork.
        pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"))
        try:
            with _ctrl_c_held_back():
                futures: dict[Future[MappingSolution], str] = {
                    pool.submit(_solve, job, accelerator, objective, budget, wishes): key
                    for key, job in pending.items()
                }
            waiting = set(futures)
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    finish(futures[future], future.result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return [renamed(solved[key], job.layer) for key, job in zip(keys, jobs, strict=True)]


def network_precisions(
    network: Network, assignment: Mapping[str, LayerPrecision]
) -> dict[str, LayerPrecision]:
    """Set each layer's output format to what the operations behind it read.

    A layer whose results go to layers only (drained element-wise operations in between do not count) writes the widest
    of their input formats; where a vector operation reads them from memory, it writes its own output format.
    """
    found = {}
    for layer in network.layers:
        precision = assignment[layer.name]
        readers = _readers(network, layer.name)
        if readers and all(isinstance(reader, Layer) for reader in readers):
            widest = max((assignment[reader.name].input for reader in readers), key=lambda f: f.bits)
            precision = precision.model_copy(update={"output": widest})
        found[layer.name] = precision
    return found


def _readers(network: Network, name: str) -> list[Layer | VectorOp]:
    """Operations that read a result from memory, looking through drained ones and views."""
    found: list[Layer | VectorOp] = []
    for successor in network.graph.successors(name):
        operation = network.graph.nodes[successor]["op"]
        moves_nothing = isinstance(operation, VectorOp) and (operation.fused or operation.processed_count == 0)
        found += _readers(network, successor) if moves_nothing else [operation]
    return found


def simulate_network(
    network: Network,
    accelerator: Accelerator,
    assignment: Mapping[str, LayerPrecision],
    solutions: Mapping[str, MappingSolution],
    values: ValueProvider | None = None,
) -> NetworkResult:
    """Cost of one inference: every layer under its mapping, every vector operation, one after the other.

    ``assignment`` and ``solutions`` have an entry for each layer's name. A solution's mapping is simulated at the
    precision of the assignment. ``values``: gives the codes of each layer's operands, for a machine whose time depends
    on them. Raises ``MappingError`` where a mapping does not fit its precision, ``ConfigurationError`` where values are
    needed and missing.
    """
    by_value = accelerator.processing_element.depends_on_values
    known: dict[tuple[Layer, LayerPrecision, str], LayerResult] = {}
    operations: list[LayerResult | VectorResult] = []
    for operation in network.operations:
        if isinstance(operation, Layer):
            solution = solutions[operation.name]
            precision = assignment[operation.name]
            if solution.precision == precision and not by_value:
                operations.append(renamed(solution, operation).result)
                continue
            key = operation.model_copy(update={"name": ""}), precision, solution.mapping.model_dump_json()
            if key not in known:
                own = values.values(operation, precision) if by_value and values is not None else None
                known[key] = simulate(operation, precision, accelerator, solution.mapping, values=own)
            operations.append(known[key].model_copy(update={"layer": operation.name}))
            if by_value and values is not None and not values.draws_everything:
                del known[key]
        else:
            operations.append(simulate_vector_op(operation, accelerator))
    return NetworkResult(
        network=network.name,
        accelerator=accelerator.name,
        clock_mhz=accelerator.clock_mhz,
        operations=tuple(operations),
        confidence=network_confidence(accelerator, {assignment[layer.name] for layer in network.layers}),
        not_modelled=not_modelled(accelerator),
    )
