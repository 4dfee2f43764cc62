"""Mappings of layers that are split by channel: those of the two parts, fitted to the split and simulated with it.

The search costs one precision. A split layer is therefore mapped as if it were whole, once in the precision of each
part; both mappings are rewritten to count places along C, with several extents of the tile along C, and the cheapest
that is valid, by simulation, is taken. Nothing is proven but a plain lower bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from mapper.cache import MODEL_VERSION
from mapper.solution import MappingSolution, Objective, SearchBudget, objective_cost
from simulator.accelerator import LANES, Accelerator
from simulator.channel_split import ChannelPlaces
from simulator.counts import dram_traffic, moves_of
from simulator.errors import InfeasibleError, MappingError, Problem
from simulator.fast import simulate_fast
from simulator.layer import Dim, Layer
from simulator.mapping import Mapping, MappingLevel
from simulator.plan import Plan, channel_places
from simulator.precision import LayerPrecision
from simulator.result import LayerResult

SPACE = (
    "no space searched for the split: mappings found for each part's precision alone, tile along C refitted, the "
    "cheapest when simulated; the bound is compulsory traffic and products at their full rate"
)
TILES_ALONG_C = (1, 2, 3, 4, 6, 8, 12, 16)
MOST_EVENTS = 1 << 20
Search = Callable[..., MappingSolution]


def map_split_layer(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, objective: Objective, budget: SearchBudget,
    search: Search,
) -> MappingSolution:
    """Map a layer that is split by channel (module docstring). ``search``: maps a whole layer, as ``map_layer`` does.

    Where none of the channels are narrow, the solution is that of the wide precision, with its proof. Raises
    ``InfeasibleError`` where no mapping of either part can be fitted.
    """
    began = time.process_time()
    places = channel_places(layer, precision, accelerator)
    if places.narrow_channels == 0:
        whole = search(layer, precision.wide, accelerator, objective, budget=budget)
        return whole.model_copy(update={"precision": precision})
    half = budget.model_copy(update={"cpu_seconds": budget.cpu_seconds / 2})
    best: tuple[float, Mapping, LayerResult] | None = None
    proposals = 0
    problems: list[Problem] = []
    for part, together in zip(precision.parts, (1, places.channels_per_place), strict=True):
        try:
            found = search(layer, part, accelerator, objective, budget=half).mapping
        except InfeasibleError as error:
            problems += error.problems
            continue
        for mapping in fitted(found, places, together):
            try:
                plan = Plan(layer, precision, accelerator, mapping)
            except MappingError as error:
                problems += error.problems
                continue
            if best is not None and plan.event_count > MOST_EVENTS:
                continue
            result = simulate_fast(plan)
            proposals += 1
            cost = objective_cost(result, objective)
            if best is None or cost < best[0]:
                best = cost, mapping, result
    if best is None:
        where = f"layer {layer.name} in {precision.label}"
        raise InfeasibleError([Problem("no mapping of either part fits both", where=where), *problems[:4]])
    cost, mapping, result = best
    bound = min(cost, plain_bound(Plan(layer, precision, accelerator, mapping), objective))
    return MappingSolution(
        layer=layer, precision=precision, objective=objective, status="optimal" if bound == cost else "feasible",
        mapping=mapping, result=result, cost=cost, lower_bound=bound, gap=1.0 - bound / cost if cost > 0 else 0.0,
        solve_seconds=time.process_time() - began, proposals=proposals, space=SPACE,
        model_version=MODEL_VERSION,
    )


def fitted(mapping: Mapping, places: ChannelPlaces, together: int) -> Iterator[Mapping]:
    """A whole layer's mapping, counting places along C: with its own tile along C, and with whole parts of C.

    ``together``: channels on a lane at once in the precision that it was made for, that share a place here.
    """
    spatial = {axis: dict(unrolled) for axis, unrolled in mapping.spatial.items()}
    if "C" in spatial.get(LANES, {}):
        spatial[LANES]["C"] = -(-spatial[LANES]["C"] // together)
    held = mapping.level("register").tile.get("C", 1)
    for unrolled in spatial.values():
        held *= unrolled.get("C", 1)
    own = -(-mapping.level("buffer").tile.get("C", 1) // together)
    tiles = [own, held]
    for count in TILES_ALONG_C:
        part = -(-places.count // count)
        tiles.append(-(-part // held) * held)
    seen: set[int] = set()
    for tile in tiles:
        extent = min(tile, places.count)
        if extent not in seen:
            seen.add(extent)
            levels = [_with_channels(level, extent) for level in mapping.levels]
            yield mapping.model_copy(update={"spatial": spatial, "levels": tuple(levels)})


def _with_channels(level: MappingLevel, extent: int) -> MappingLevel:
    """A level with a loop over C, innermost where it had none, and at the buffer a tile of so many places."""
    if level.level == "register":
        return level
    order: tuple[Dim, ...] = level.order if "C" in level.order else (*level.order, "C")
    tile: dict[Dim, int] = {**level.tile, "C": extent} if level.level == "buffer" else level.tile
    return level.model_copy(update={"order": order, "tile": tile})


def plain_bound(plan: Plan, objective: Objective) -> float:
    """What any mapping of the layer costs at least: weights, parameters and outputs move once, products run at their
    full rate on all lanes. In cycles, pJ or pJ·cycles."""
    accelerator, element, dram = plan.accelerator, plan.accelerator.processing_element, plan.accelerator.dram
    needed = sum(count * element.cycles_per_step(part) / element.lanes(part) for part, count in plan.products())
    moved = dram_traffic(plan, moves_of(plan))
    outputs = int(moved.final_write_bits)
    read = plan.fill_bits("weight", 1) + int(moved.parameter_read_bits)
    cycles = max(needed / accelerator.grid.pe_count, (read + outputs) / dram.bandwidth_bits_per_cycle)
    cycles = float(-(-cycles // 1))
    energy = read * dram.read_energy_pj_per_bit + outputs * dram.write_energy_pj_per_bit
    energy += cycles * (accelerator.leakage_pj_per_cycle or 0.0)
    return {"latency": cycles, "energy": energy, "edp": energy * cycles}[objective]
