"""First incumbents: what descents on the closed form lead to, simulated.

The closed form does not see what every event costs beside its own work. So some descents put a price on events, and
the simulator then tells which was right. On machines with one level of buffers these come only where a proof needs
them: a search that may leave a gap is mostly done before (``enumeration``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from mapper.cost_model import CostModel
from mapper.descent import Candidate, descend, pass_count
from mapper.incumbent import Incumbent
from mapper.solution import NO_LIMITS
from simulator.plan import grid_timing

DESCENT_STARTS = 6  # random ones, with several levels of buffers
FLAT_STARTS = 1  # with one, where the search itself soon finds better
EVENT_PRICES = (0.0, 0.5, 2.0)  # in multiples of what a pass and a request wait for


def start(models: list[CostModel], incumbent: Incumbent, deadline: float) -> None:
    """Find a good incumbent by descents. Past ``deadline`` (``time.process_time``) nothing more is simulated.

    A mapping of millions of passes takes a good part of a second to simulate, so there may be no time for all.
    """
    if not incumbent.devices.descents:
        return
    prices = _event_prices(incumbent)
    if models[0].variant.levels > 1:
        _start_deep(models, incumbent, deadline, prices)
    else:
        _start_flat(models, incumbent, deadline, prices[:1])


def start_again(models: Sequence[CostModel], incumbent: Incumbent, deadline: float) -> None:
    """Descents of other prices of events, for what is still open, on machines with one level of buffers."""
    if incumbent.devices.descents and not incumbent.hinted and models and models[0].variant.levels == 1:
        _start_flat(models, incumbent, deadline, _event_prices(incumbent)[1:])


def _start_flat(
    models: Sequence[CostModel], incumbent: Incumbent, deadline: float, prices: Sequence[float]
) -> None:
    for price in prices:
        ends = [_descents(model, incumbent, price, FLAT_STARTS) for model in models]
        order = sorted((place for place, own in enumerate(ends) if own), key=lambda place: ends[place][0].cost)
        if price == 0:
            for place in order:
                incumbent.promise[id(models[place])] = ends[place][0].cost
        for place in order:
            if not incumbent.is_empty and time.process_time() > deadline:
                return
            incumbent.consider_all(models[place], ends[place])
            if price == 0 and not incumbent.is_empty:
                break  # the search itself soon simulates the cheapest of each of the others


def _descents(model: CostModel, incumbent: Incumbent, price: float, starts: int) -> list[Candidate]:
    return descend(model, incumbent.objective, starts=starts, event_price_cycles=price, limits=incumbent.limits)


def _event_prices(incumbent: Incumbent) -> list[float]:
    """What an event costs in the descents, in cycles: nothing where time does not count."""
    accelerator = incumbent.accelerator
    price = grid_timing(accelerator).tail_cycles + accelerator.dram.latency_cycles + 1
    takes_time = incumbent.objective != "energy" or bool(accelerator.leakage_pj_per_cycle)
    factors = EVENT_PRICES if takes_time or incumbent.limits != NO_LIMITS else (0.0,)
    return [float(factor * price) for factor in factors]


def _start_deep(models: list[CostModel], incumbent: Incumbent, deadline: float, prices: list[float]) -> None:
    """The same with several levels of buffers, where variants are many and simulating takes long: cheapest first.

    One with few passes comes before all, so that there is an incumbent soon.
    """
    for number, price in enumerate(prices):
        until = deadline - (deadline - time.process_time()) * (1 - 1 / (len(prices) - number))
        ends = [
            (candidate.cost, place, candidate)
            for place, model in enumerate(models)
            for candidate in _descents(model, incumbent, price, DESCENT_STARTS)
        ]
        ends.sort(key=lambda end: end[:2])
        if incumbent.is_empty and ends:
            ends.insert(0, min(ends, key=lambda end: pass_count(models[end[1]], end[2])))
        for cost, place, candidate in ends:
            if not incumbent.is_empty and (time.process_time() > until or cost >= incumbent.target()):
                break
            incumbent.consider(models[place], candidate)


__all__ = ["start", "start_again"]
