"""Which tile of a machine each layer runs on: the cheapest of those that can run it, with a proof over all of them.

Tiles take turns, so the layers of a network do not compete for them and each is placed on its own. It is mapped on
every tile whose processing element runs its precision; the cheapest mapping by simulated cost is taken, of equal ones
that of the tile named first. No mapping on any tile costs less than the smallest of the tiles' lower bounds: that is
the bound of the choice. It is optimal where the two meet: where no tile's bound lies below the cost that was taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mapper.cache import MappingCache
from mapper.incumbent import PROOF_TOLERANCE
from mapper.network import MappingJob, Progress, map_many, network_precisions, solve_tasks
from mapper.solution import MappingSolution, Objective, SearchBudget, TileOffer
from simulator.accelerator import Accelerator
from simulator.errors import InfeasibleError, PrecisionError, Problem
from simulator.formats import shortened
from simulator.precision import LayerPrecision
from simulator.tiled import Machine, TiledAccelerator
from workloads.network import Network


def map_network(
    network: Network,
    accelerator: Machine,
    assignment: Mapping[str, LayerPrecision],
    objective: Objective = "latency",
    *,
    budget: SearchBudget | None = None,
    cache: MappingCache | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, MappingSolution]:
    """Layer's name → its mapping, on a machine of several tiles with the tile that it runs on.

    ``assignment`` has a precision for each layer; outputs take the format that is read (``network_precisions``). Other
    arguments as of ``map_many``; the budget is for one layer on one tile. ``simulate_network`` gives the cost of the
    whole. Raises as ``map_many`` and ``place_many`` do.
    """
    exact = network_precisions(network, assignment)
    jobs = [MappingJob(layer=layer, precision=exact[layer.name]) for layer in network.layers]
    if isinstance(accelerator, TiledAccelerator):
        found = place_many(
            jobs, accelerator, objective, budget=budget, cache=cache, workers=workers, progress=progress
        )
    else:
        found = map_many(jobs, accelerator, objective, budget=budget, cache=cache, workers=workers, progress=progress)
    return {layer.name: solution for layer, solution in zip(network.layers, found, strict=True)}


def place_many(
    jobs: Sequence[MappingJob],
    machine: TiledAccelerator,
    objective: Objective = "latency",
    *,
    budget: SearchBudget | None = None,
    cache: MappingCache | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[MappingSolution]:
    """Map every job on every tile that can run it, and take the cheapest: one solution a job, in their order.

    Arguments as of ``map_many``; the budget is for one layer on one tile. Equal tiles are searched once.

    Raises ``PrecisionError`` where no tile runs a job's precision, and ``InfeasibleError`` where a job fits on none of
    those that do; either names every tile's reason.
    """
    tiles = {name: machine.tile(name) for name in machine.tile_names}
    precisions = dict.fromkeys(job.precision for job in jobs)
    refused = {precision: _refusals(tiles, precision) for precision in precisions}
    problems = []
    for precision, reasons in refused.items():
        if len(reasons) == len(tiles):
            names = [job.layer.name for job in jobs if job.precision == precision]
            problems += _nowhere(machine, names, precision, reasons)
    if problems:
        raise PrecisionError(problems)
    wanted = [
        (number, name) for number, job in enumerate(jobs) for name in tiles if name not in refused[job.precision]
    ]
    found = solve_tasks(
        [(jobs[number], tiles[name]) for number, name in wanted], objective, budget=budget, cache=cache,
        workers=workers, progress=progress, keep_infeasible=True,
    )
    mapped: list[dict[str, MappingSolution | InfeasibleError]] = [{} for _ in jobs]
    for (number, name), solution in zip(wanted, found, strict=True):
        mapped[number][name] = solution
    placed: list[MappingSolution] = []
    for job, outcomes in zip(jobs, mapped, strict=True):
        reasons = dict(refused[job.precision])
        reasons |= {name: str(error) for name, error in outcomes.items() if isinstance(error, InfeasibleError)}
        solutions = {name: each for name, each in outcomes.items() if isinstance(each, MappingSolution)}
        if not solutions:
            problems += _nowhere(machine, [job.layer.name], job.precision, reasons)
        else:
            placed.append(cheapest(solutions, reasons, machine.tile_names))
    if problems:
        raise InfeasibleError(problems)
    return placed


def cheapest(
    solutions: Mapping[str, MappingSolution], reasons: Mapping[str, str], tiles: Sequence[str]
) -> MappingSolution:
    """The solution of the cheapest tile, with the bound over all tiles and every tile's offer.

    ``solutions``: tile → its best mapping of the layer; ``reasons``: tile → why it cannot run it; each of ``tiles`` is
    in one of the two.
    """
    offers = []
    for tile in tiles:
        found = solutions.get(tile)
        if found is None:
            offers.append(TileOffer(tile=tile, reason=reasons[tile]))
        else:
            offers.append(
                TileOffer(tile=tile, cost=found.cost, lower_bound=found.lower_bound, status=found.status)
            )
    name = min((tile for tile in tiles if tile in solutions), key=lambda tile: solutions[tile].cost)
    chosen = solutions[name]
    lower_bound = min(solution.lower_bound for solution in solutions.values())
    gap = max(0.0, 1.0 - lower_bound / chosen.cost) if chosen.cost > 0 else 0.0
    return chosen.model_copy(update={
        "result": chosen.result.model_copy(update={"tile": name}),
        "status": "optimal" if gap <= 2 * PROOF_TOLERANCE else "feasible",
        "lower_bound": lower_bound,
        "gap": gap,
        "solve_seconds": sum(solution.solve_seconds for solution in solutions.values()),
        "proposals": sum(solution.proposals for solution in solutions.values()),
        "tile": name,
        "offers": tuple(offers),
    })


def _refusals(tiles: Mapping[str, Accelerator], precision: LayerPrecision) -> dict[str, str]:
    """Tile → why its processing element cannot run a precision on it; tiles that can are left out."""
    found = {}
    for name, tile in tiles.items():
        problems = tile.processing_element.all_problems(precision)
        if problems:
            found[name] = "; ".join(str(replace(problem, allowed=shortened(problem.allowed))) for problem in problems)
    return found


def _nowhere(
    machine: TiledAccelerator, layers: Sequence[str], precision: LayerPrecision, reasons: Mapping[str, str]
) -> list[Problem]:
    """That no tile runs some layers in a precision, and why: a problem for the machine, then one for each tile."""
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    where = f"layer {layers[0]}{more} in {precision.label}"
    return [
        Problem(f"no tile of {machine.name} can run it", where=where),
        *(Problem(reason, where=where, path=f"tile {tile}") for tile, reason in reasons.items()),
    ]
