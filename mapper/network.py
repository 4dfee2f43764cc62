"""Map many layers: equal work once, on all cores, reusing what was solved before; and the cost of a whole network."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from mapper.cache import MappingCache, problem_key
from mapper.constraints import NO_WISHES, Wishes
from mapper.search import map_layer
from mapper.solution import MappingSolution, Objective, SearchBudget
from mapper.worker_pool import solve_in_workers
from simulator.accelerator import Accelerator
from simulator.engine import simulate, simulate_vector_op
from simulator.errors import InfeasibleError, MappingError, Problem
from simulator.layer import Layer, VectorOp
from simulator.precision import LayerPrecision
from simulator.result import LayerResult, NetworkResult, VectorResult
from simulator.tiled import Machine, machine_confidence, machine_not_modelled, tiles_of
from simulator.values import ValueProvider
from workloads.network import Network

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class MappingJob:
    """One layer at one precision, to be mapped."""

    layer: Layer
    precision: LayerPrecision


Task = tuple[MappingJob, Accelerator]
"""A job, and the machine or the tile that it is to be mapped on."""


def _solve(
    task: Task, objective: Objective, budget: SearchBudget, wishes: Wishes
) -> MappingSolution | InfeasibleError:
    job, accelerator = task
    try:
        return map_layer(
            job.layer, job.precision, accelerator, objective, budget=budget, constraints=wishes.constraints,
            latency_limit_cycles=wishes.latency_limit_cycles, energy_limit_pj=wishes.energy_limit_pj,
        )
    except InfeasibleError as error:
        return error


def _solved_alone(
    pending: Mapping[str, Task], cache: MappingCache | None, objective: Objective, budget: SearchBudget, wishes: Wishes
) -> Iterator[tuple[str, MappingSolution | InfeasibleError]]:
    """Solve tasks one after the other; what another process is solving into the same cache comes last, from there."""
    left = dict(pending)
    for patient in (False, True):
        for key, task in list(left.items()):
            with nullcontext(True) if cache is None else cache.claim(key, wait=patient) as is_ours:
                if not is_ours:
                    continue
                known = cache.get(key) if cache else None
                yield key, _solve(task, objective, budget, wishes) if known is None else known
                del left[key]


def _layer_by_layer(pending: Mapping[str, Task]) -> dict[str, Task]:
    """Tasks with those of a layer on a machine side by side: its precisions share what ``build_models`` keeps of it."""
    first: dict[tuple[Layer, int], int] = {}

    def place(task: Task) -> int:
        job, accelerator = task
        return first.setdefault((job.layer.model_copy(update={"name": ""}), id(accelerator)), len(first))

    return dict(sorted(pending.items(), key=lambda item: place(item[1])))


Found = TypeVar("Found", MappingSolution, MappingSolution | InfeasibleError)


def renamed(solution: Found, layer: Layer) -> Found:
    """The same solution for an equal layer of another name."""
    if isinstance(solution, InfeasibleError) or solution.layer == layer:
        return solution
    result = solution.result.model_copy(update={"layer": layer.name})
    return solution.model_copy(update={"layer": layer, "result": result})


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
    """Map every job on one machine or tile: ``solve_tasks``. Raises what ``map_layer`` raises."""
    found = solve_tasks(
        [(job, accelerator) for job in jobs], objective, budget=budget, wishes=wishes, cache=cache, workers=workers,
        progress=progress,
    )
    return [solution for solution in found if isinstance(solution, MappingSolution)]


def solve_tasks(
    tasks: Sequence[Task],
    objective: Objective,
    *,
    budget: SearchBudget | None = None,
    wishes: Wishes = NO_WISHES,
    cache: MappingCache | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    keep_infeasible: bool = False,
) -> list[MappingSolution | InfeasibleError]:
    """Solve every task; equal ones are solved once, solved ones come from the cache. Results are in the tasks' order.

    ``workers`` processes share the work (None: the cores there are). ``progress(done, total)`` counts distinct
    problems. What is solved is in the cache at once, so an interrupted call loses only what was in flight.
    ``wishes`` hold for every job. Raises what ``map_layer`` raises, ``SearchInterrupted`` with the searches of all
    processes; with ``keep_infeasible`` the error of a task that fits in no way is its result.
    """
    budget = budget or SearchBudget()
    keys = [problem_key(job.layer, job.precision, accelerator, objective, budget, wishes) for job, accelerator in tasks]
    solved: dict[str, MappingSolution | InfeasibleError] = {}
    pending: dict[str, Task] = {}
    for key, task in zip(keys, tasks, strict=True):
        if key in solved or key in pending:
            continue
        known = cache.get(key) if cache else None
        if known is None:
            pending[key] = task
        else:
            solved[key] = known
    pending = _layer_by_layer(pending)
    total = len(solved) + len(pending)

    def finish(key: str, solution: MappingSolution | InfeasibleError) -> None:
        if isinstance(solution, InfeasibleError) and not keep_infeasible:
            raise solution
        solved[key] = solution
        if cache and isinstance(solution, MappingSolution):
            cache.put(key, solution)
        if progress:
            progress(len(solved), total)

    if progress:
        progress(len(solved), total)
    count = min(workers or os.cpu_count() or 1, len(pending))
    if count <= 1:
        for key, solution in _solved_alone(pending, cache, objective, budget, wishes):
            finish(key, solution)
    else:
        solve = partial(_solve, objective=objective, budget=budget, wishes=wishes)
        solve_in_workers(solve, pending, count, finish)
    return [renamed(solved[key], job.layer) for key, (job, _) in zip(keys, tasks, strict=True)]


def network_precisions(
    network: Network, assignment: Mapping[str, LayerPrecision]
) -> dict[str, LayerPrecision]:
    """Set each layer's output format to what the operations behind it read.

    A layer whose results go to layers only (drained element-wise operations in between do not count) writes the widest
    of their input formats; where a vector operation reads them from memory, it writes its own output format.
    """
    found = {}
    for layer in network.layers:
        read_by = reading_layers(network, layer.name)
        found[layer.name] = written_for(assignment[layer.name], [assignment[name] for name in read_by])
    return found


def written_for(precision: LayerPrecision, readers: Sequence[LayerPrecision]) -> LayerPrecision:
    """The precision of a layer that writes for ``readers``: the widest of their input formats; its own without any."""
    if not readers:
        return precision
    widest = max((reader.input for reader in readers), key=lambda number_format: number_format.bits)
    return precision.model_copy(update={"output": widest})


def reading_layers(network: Network, name: str) -> tuple[str, ...]:
    """Layers for which a layer writes its results; none where a vector operation, or nothing, reads them."""
    readers = _readers(network, name)
    if not all(isinstance(reader, Layer) for reader in readers):
        return ()
    return tuple(dict.fromkeys(reader.name for reader in readers))


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
    accelerator: Machine,
    assignment: Mapping[str, LayerPrecision],
    solutions: Mapping[str, MappingSolution],
    values: ValueProvider | None = None,
    closed_forms: Mapping[str, LayerResult] | None = None,
) -> NetworkResult:
    """Cost of one inference: every layer under its mapping, every vector operation, one after the other.

    On a machine of several tiles each layer runs on the tile of its solution, and vector operations on the tile that
    ``vector_tiles`` names. ``assignment`` and ``solutions`` have an entry for each layer's name. A solution's mapping
    is simulated at the precision of the assignment. ``values``: gives the codes of each layer's operands, for a machine
    whose time depends on them. ``closed_forms``: layer → its cost, of layers that no grid runs and that have no
    solution, on a machine of one tile. Raises ``MappingError`` where a mapping does not fit its precision, or is for no
    tile of the machine, ``ConfigurationError`` where values are needed and missing.
    """
    tiles = tiles_of(accelerator)
    given = closed_forms or {}
    placed = {layer.name: None if layer.name in given else solutions[layer.name].tile for layer in network.layers}
    _check_placement(accelerator, placed)
    placed |= vector_tiles(network, placed, next(iter(tiles)))
    known: dict[tuple[Layer, LayerPrecision, str, str | None], LayerResult] = {}
    operations: list[LayerResult | VectorResult] = []
    for operation in network.operations:
        name = placed[operation.name]
        tile = tiles[name]
        if isinstance(operation, VectorOp):
            operations.append(simulate_vector_op(operation, tile).model_copy(update={"tile": name}))
            continue
        if operation.name in given:
            operations.append(given[operation.name])
            continue
        by_value = tile.processing_element.depends_on_values
        solution = solutions[operation.name]
        precision = assignment[operation.name]
        if solution.precision == precision and not by_value:
            operations.append(renamed(solution, operation).result)
            continue
        key = operation.model_copy(update={"name": ""}), precision, solution.mapping.model_dump_json(), name
        if key not in known:
            own = values.values(operation, precision) if by_value and values is not None else None
            known[key] = simulate(operation, precision, tile, solution.mapping, values=own)
        operations.append(known[key].model_copy(update={"layer": operation.name, "tile": name}))
        if by_value and values is not None and not values.draws_everything:
            del known[key]
    ran: dict[str | None, set[LayerPrecision]] = {name: set() for name in tiles if name in placed.values()}
    for layer in network.layers:
        if layer.name not in given:
            ran[placed[layer.name]].add(assignment[layer.name])
    return NetworkResult(
        network=network.name,
        accelerator=accelerator.name,
        clock_mhz=accelerator.clock_mhz,
        operations=tuple(operations),
        confidence=machine_confidence(accelerator, ran),
        not_modelled=machine_not_modelled(accelerator),
    )


def _check_placement(machine: Machine, placed: Mapping[str, str | None]) -> None:
    """Raise ``MappingError`` where a solution is for a tile that the machine has not, or for none where it has some."""
    allowed = tiles_of(machine)
    problems = [
        Problem("the solution is for no tile of this machine", where=f"layer {layer}", path="tile", value=str(tile),
                allowed=tuple(str(name) for name in allowed))
        for layer, tile in placed.items() if tile not in allowed
    ]
    if problems:
        raise MappingError(problems)


def vector_tiles(
    network: Network, placed: Mapping[str, str | None], otherwise: str | None
) -> dict[str, str | None]:
    """Vector operation's name → the tile that runs it, given the tiles of the layers.

    It is that of the operation before it whose result it reads, where there are several of the last one in program
    order: results are in the format of their tile, and what is fused drains from there. One that reads the network's
    inputs alone runs on the first layer's tile, and in a network without layers on ``otherwise``.
    """
    first = placed[network.layers[0].name] if network.layers else otherwise
    order: dict[str, int] = {}
    tiles = dict(placed)
    for number, operation in enumerate(network.operations):
        order[operation.name] = number
        if isinstance(operation, VectorOp):
            before = max(network.graph.predecessors(operation.name), key=order.__getitem__, default=None)
            tiles[operation.name] = first if before is None else tiles[before]
    return {name: tile for name, tile in tiles.items() if name not in placed}
