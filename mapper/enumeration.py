"""Proof by enumeration: simulate every choice whose closed-form cost lies below what is to be beaten.

The closed form is a lower bound of the simulated cost. So once all choices below the target were simulated, none of
the space costs less. Choices come cheapest first, in growing batches: where time ends before, the closed-form cost of
the first choice that was not simulated is the bound.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapper.cost_model import CostModel
from mapper.descent import kernel_input, may_double
from mapper.devices import EVERY_DEVICE, SearchDevices
from mapper.incumbent import Incumbent
from mapper.interruptible import interruptible
from mapper.posynomial import build_subproblem, surviving_rows
from mapper.solution import Objective, ProofInterrupted
from mapper.starts import start_again
from simulator.kernels import choice_cost, enumerate_choices, least_cost
from simulator.layer import OPERANDS

BATCHES = (1 << 6, 1 << 11, 1 << 15, 1 << 18)  # choices simulated a variant, at most
NODES_PER_SECOND = 200_000  # of the branch and bound, roughly; a limit for it follows from the time left
# Of a variant, until its cheapest choice is known: few at first, and more once the others have improved the incumbent.
FIRST_NODES, MORE_NODES = 20_000, 6
RELAXED_NODES = 10_000  # for the least energy of a variant, at least (``relaxed_bound``)
CHUNKS = (8, 256)  # choices simulated between two looks at the clock: at first, and at most

_Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64], float, bool]


@dataclass
class _Variant:
    """State of one variant. No choice below ``floor`` is left to simulate; ``known``: its cheapest choice is known."""

    model: CostModel
    kernel: choice_cost.CostInput
    floor: float = 0.0
    known: bool = False


def _lowest(model: CostModel, objective: Objective, below: float) -> float:
    """A lower bound of a variant, ``below`` at most: each row against the best of all other blocks, term by term."""
    doubled = tuple(operand for operand, may in zip(OPERANDS, may_double(model), strict=True) if may)
    relaxed = build_subproblem(model, doubled, objective, relaxed=True)
    rows, lowest = surviving_rows(relaxed, below, dominated=True)
    return below if rows is None else min(below, max(0.0, lowest))


def relaxed_bound(model: CostModel, incumbent: Incumbent, seconds: float = 0.0) -> float:
    """A lower bound of what a variant that was not searched through could give below the incumbent.

    The energy-delay product is at least the least energy, which is found soon, times a bound of the latency: of the two
    objectives apart more is known than of their product. ``seconds``: how long that energy may be looked for.
    """
    lowest = _lowest(model, incumbent.objective, incumbent.target())
    if incumbent.objective == "edp":
        latency = _lowest(model, "latency", np.inf)
        below = incumbent.target() / latency if latency > 0 else np.inf
        nodes = max(RELAXED_NODES, int(seconds * NODES_PER_SECOND))
        _, _, _, energy, _ = _enumerate(kernel_input(model, "energy"), below, 1, nodes, undominated=True)
        lowest = max(lowest, latency * min(energy, below))
    return min(incumbent.proven(), lowest)


def prove_by_enumeration(
    models: list[CostModel], incumbent: Incumbent, give_up: float, deadline: float
) -> tuple[float, list[CostModel], float]:
    """Simulate what could beat the incumbent, until nothing can or ``deadline`` (``time.process_time``).

    A variant of which even the cheapest choices are not known at ``give_up`` is left to others. Returns the lower
    bound over the variants that were searched, the variants that were left, and what is known to bound these.
    """
    variants = [_Variant(model, _kernel_input(model, incumbent)) for model in models]
    try:
        _search(variants, incumbent, give_up, deadline)
    except KeyboardInterrupt:
        # What was known of the variants before still holds.
        floors = [v.floor if v.known else max(v.floor, least_cost(v.kernel)) for v in variants]
        raise ProofInterrupted(min([incumbent.proven(), *floors])) from None
    open_floors = [v.floor for v in variants if v.known and v.floor < incumbent.target() * (1 - 1e-12)]
    left = [v for v in variants if not v.known]
    return min([incumbent.proven(), *open_floors]), [v.model for v in left], min((v.floor for v in left), default=0.0)


def least_floor(models: list[CostModel], incumbent: Incumbent) -> float:
    """A lower bound of what any mapping costs, found without a search."""
    return min((least_cost(_kernel_input(model, incumbent)) for model in models), default=math.inf)


def _kernel_input(model: CostModel, incumbent: Incumbent) -> choice_cost.CostInput:
    return kernel_input(model, incumbent.objective, limits=incumbent.limits)


def _search(variants: list[_Variant], incumbent: Incumbent, give_up: float, deadline: float) -> None:
    """Raise the floors of variants, and improve the incumbent, until nothing is left or time is over."""
    _find_all(variants, incumbent, give_up)
    _extend_all(variants, incumbent, give_up, deadline)


def _find_all(variants: list[_Variant], incumbent: Incumbent, give_up: float) -> None:
    """Find the least closed-form cost of all variants where it is not known, with more and more nodes.

    The most promising come first: what they find spares the others work.
    """
    unknown = sorted((v for v in variants if not v.known), key=lambda v: incumbent.promise.get(id(v.model), math.inf))
    nodes = FIRST_NODES
    while unknown and time.process_time() < give_up:
        for variant in unknown:
            left = give_up - time.process_time()
            if left > 0:
                _find_cheapest(variant, incumbent, min(nodes, max(1000, int(left * NODES_PER_SECOND))))
        unknown = [variant for variant in unknown if not variant.known]
        nodes *= MORE_NODES


def _extend_all(variants: list[_Variant], incumbent: Incumbent, give_up: float, deadline: float) -> None:
    """Simulate the choices of all variants whose cheapest is known, in growing batches."""
    for number, most in enumerate(BATCHES if incumbent.devices.batches else BATCHES[-1:]):
        if number == 1:
            # What the cheapest few have not closed is worth further descents.
            open_ones = [variant.model for variant in variants if variant.floor < incumbent.target()]
            start_again(open_ones, incumbent, give_up)
        still = sorted((v for v in variants if v.known and v.floor < incumbent.target()), key=lambda v: v.floor)
        for place, variant in enumerate(still):
            left = deadline - time.process_time()
            if left > 0 and variant.floor < incumbent.target():
                _extend(variant, incumbent, most, left / (len(still) - place) ** 0.5, deadline)


def _enumerate(
    kernel: choice_cost.CostInput, below: float, most: int, nodes: int, *, undominated: bool = False,
    devices: SearchDevices = EVERY_DEVICE,
) -> _Found:
    """``enumerate_choices``, in a thread of its own: Ctrl-C stops it at once."""
    stop = np.zeros(1, dtype=np.int64)
    return interruptible(
        lambda: enumerate_choices(
            kernel, below, most, nodes, undominated, stop, survivors=devices.survivors, clustered=devices.clusters
        ),
        lambda: stop.fill(1),
    )


def _find_cheapest(variant: _Variant, incumbent: Incumbent, nodes: int) -> None:
    """Find the least closed-form cost of a variant, if below the target, and simulate it."""
    devices = incumbent.devices
    rows, masks, _, floor, known = _enumerate(
        variant.kernel, incumbent.target(), 1, nodes, undominated=devices.undominated, devices=devices
    )
    variant.floor, variant.known = max(variant.floor, floor), known
    incumbent.consider_many(variant.model, rows, masks)


def _extend(variant: _Variant, incumbent: Incumbent, most: int, seconds: float, deadline: float) -> None:
    """Enumerate and simulate the ``most`` cheapest choices of a variant below the target."""
    nodes = max(1000, int(seconds * NODES_PER_SECOND))
    rows, masks, costs, floor, _ = _enumerate(
        variant.kernel, incumbent.target(), most, nodes, devices=incumbent.devices
    )
    order = np.argsort(costs, kind="stable")
    order = order[costs[order] >= variant.floor]  # the cheaper ones were simulated before
    begin, size = 0, CHUNKS[0]
    while begin < len(order):
        chunk = order[begin : begin + size]
        begin, size = begin + size, min(2 * size, CHUNKS[1])
        if time.process_time() > deadline or costs[chunk[0]] >= incumbent.target():
            floor = min(floor, float(costs[chunk[0]]))
            break
        simulated = incumbent.consider_many(variant.model, rows[chunk], masks[chunk], deadline)
        if not simulated.all():
            floor = min(floor, float(costs[chunk][~simulated].min()))
            if variant.model.variant.levels == 1:
                break
            # With several levels the first ones in line often have the most passes; what follows may still be better.
    variant.floor = max(variant.floor, floor)
