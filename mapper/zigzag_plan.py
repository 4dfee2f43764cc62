"""The plan of a nest as the kernel ``chains`` walks it: which place follows which, and what each adds to the sums.

Energy is one sum over the places. Latency is steps, and the worst port's stall, and what loads before and unloads
after: with the windows of transfers as long as their periods, which is the best that an order of loops can make of
them, the stall of a port is the larger of two sums over the places. What loads and unloads is a sum as well, once three
things are settled that depend on all of a nest, so that each combination of them is a ``Case`` of its own:

* which operands lie in the memory whole, so that their only transfer may go on during the computation;
* on which ports there is time left for that: there is some where the other flows take less than the bandwidth, which
  then is a limit of the case;
* whether weights or inputs load first.

The bound is then the largest of a few sums. What a nest costs is counted by ``counting_rules.zigzag``. It is more where
the order of loops shortens a window, or where there is some time left on a port, and not enough. A ``close`` plan knows
the first (all but second buffers that operands contend for), and bounds the second: with e cycles at the edges if
nothing hid on a port that the other flows take the share r of, all takes at least r · steps + e.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mapper.zigzag_places import Place, PlacedFlow, PlacedLayer, transfers_energy_pj
from simulator.counting_rules.loop_nest import Memory
from simulator.counting_rules.zigzag_flows import HALO_DIMS
from simulator.kernels import chains as kernel
from simulator.layer import OPERANDS, RELEVANT_DIMS, Operand

Floats = npt.NDArray[np.float64]
PortKey = tuple[str, str]
INPUTS: tuple[Operand, ...] = ("input", "weight")
EDGES = ("first edge", "second edge")


@dataclass(frozen=True)
class Case:
    """What is settled before a walk: ports on which single transfers hide, and the operand that loads first."""

    hiding: frozenset[PortKey]
    loads_first: Operand


@dataclass
class Step:
    """One step of the plan: a place, which of an operand's states it leaves and enters, and its prices by name."""

    place: Place
    leaves: int
    enters: int
    allowed: npt.NDArray[np.bool_]
    price: dict[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Steps, and sums over them that have limits, with the kernel's input.

    Attributes:
        objective: names of the sums of each form that bounds the cost, and what is added to them.
        limits: of the forms that only have one (room, rates of ports), which come after the objective's.
        given: the kernel's input. components: names of its sums.
    """

    steps: list[Step]
    objective: list[tuple[tuple[str, ...], float]]
    limits: list[float]
    given: kernel.ChainInput
    components: tuple[str, ...]


def energy_plan(problem: PlacedLayer) -> Plan:
    """Return the plan whose only form is energy in picojoules."""
    steps = _steps(problem, whole_apart=False)
    for step in steps:
        step.price["energy"] = transfers_energy_pj(step.place, problem.lattice)
    macs_pj = problem.layer.macs * problem.machine.mac_energy_pj
    return _plan(problem, steps, [(("energy",), macs_pj)], {})


def cases(problem: PlacedLayer) -> Iterator[Case]:
    """Every case of the latency."""
    ports = sorted({
        (flow.memory.name, flow.port) for places in problem.places.values() for place in places[1:]
        for flow in _link(place.flows, place.operand)
        # What arrives at the innermost memory is needed there at once.
        if flow.memory is not places[1].memory
        and flow.memory.port_of(flow.operand, flow.flow).bits_per_cycle is not None
    })
    for count in range(len(ports) + 1):
        for busy in itertools.combinations(ports, count):
            for first in INPUTS:
                yield Case(frozenset(ports) - frozenset(busy), first)


def latency_plan(problem: PlacedLayer, case: Case, close: bool = False) -> Plan:
    """Return the plan of one case, whose forms are cycles."""
    steps = _steps(problem, whole_apart=True)
    lattice = problem.lattice
    all_steps = int(lattice.steps[-1])
    ports: dict[PortKey, int] = {}
    for step in steps:
        for flow in step.place.flows:
            port = flow.memory.port_of(flow.operand, flow.flow)
            if port.bits_per_cycle is None:
                continue
            key = flow.memory.name, flow.port
            ports[key] = port.bits_per_cycle
            later = all_steps // lattice.steps - 1
            stall = np.maximum(0, flow.cycles - lattice.steps) * later
            if len(port.serves) > 1:
                _add(step, f"busy {key}", np.where(flow.moves, flow.cycles * later, 0))
            _add(step, f"alone {key}", np.where(flow.moves, stall, 0))
            if key in case.hiding and not (flow.operand == "output" and flow.flow in ("to_inner", "from_outer")):
                rate = np.where(flow.moves & (later > 0), flow.bits // lattice.steps, 0)
                _add(step, f"rate {key}", rate)
                if close:
                    _add(step, f"taken {key}", rate * all_steps / port.bits_per_cycle)
        _add_edges(problem, step, case, EDGES)
        for key in case.hiding if close else ():
            _add_edges(problem, step, Case(case.hiding - {key}, case.loads_first), _seen(key))
    objective: list[tuple[tuple[str, ...], float]] = []
    for edge in EDGES:
        objective.append(((edge,), float(all_steps)))
        for key in ports:
            objective += [((edge, f"busy {key}"), 0.0), ((edge, f"alone {key}"), float(all_steps))]
    if close:
        objective += [((edge, f"taken {key}"), 0.0) for key in case.hiding for edge in _seen(key)]
    limits = {f"rate {key}": float(ports[key] - 1) for key in case.hiding if key in ports}
    return _plan(problem, steps, objective, limits, close)


def _seen(key: PortKey) -> tuple[str, str]:
    """Names of what loads and unloads if nothing hid on a port."""
    return f"{EDGES[0]}, {key} seen", f"{EDGES[1]}, {key} seen"


def _add(step: Step, name: str, price: npt.NDArray[np.int64] | Floats) -> None:
    step.price[name] = step.price.get(name, 0.0) + price.astype(np.float64)


def _steps(problem: PlacedLayer, whole_apart: bool) -> list[Step]:
    """Steps of every operand. States: 0 nothing, 1 MACs, 2 the inner memory, 3 it too (whole outside it), last: all.

    ``whole_apart``: an operand that lies whole in its outer memory goes another way, as loading depends on it.
    """
    found = []
    points = np.arange(len(problem.lattice.steps))
    at_last = points == problem.lattice.last
    for operand in OPERANDS:
        macs, *kept = problem.places[operand]
        found.append(Step(macs, 0, 1, macs.allowed))
        if len(kept) == 1:
            found.append(Step(kept[0], 1, 2, kept[0].allowed))
        elif len(kept) == 2 and not whole_apart:
            found += [Step(kept[0], 1, 2, kept[0].allowed), Step(kept[1], 2, 3, kept[1].allowed)]
        elif len(kept) == 2:
            found += [
                Step(kept[0], 1, 2, kept[0].allowed & ~at_last), Step(kept[1], 2, 4, kept[1].allowed & ~at_last),
                Step(kept[0], 1, 3, kept[0].allowed), Step(kept[1], 3, 4, kept[1].allowed & at_last),
            ]
    return found


def _room(problem: PlacedLayer, step: Step) -> dict[str, float]:
    """Add what the step takes of a memory that several operands share; returns the memory's size by the sum's name."""
    memory = step.place.memory
    if memory is None or memory.size_bits is None or len(memory.keeps) == 1:
        return {}
    step.price[f"room {memory.name}"] = step.place.tile_bits.astype(np.float64)
    return {f"room {memory.name}": float(memory.size_bits)}


def _edge_cycles(flow: PlacedFlow, all_at_once: npt.NDArray[np.bool_], innermost_bits: npt.NDArray[np.int64],
                 case: Case) -> Floats:
    """Cycles of the first (or last) transfer that are not hidden in the computation."""
    cycles = flow.cycles.astype(np.float64)
    if (flow.memory.name, flow.port) not in case.hiding:
        return cycles
    bandwidth = flow.memory.port_of(flow.operand, flow.flow).bits_per_cycle
    assert bandwidth is not None
    needed = -(-innermost_bits // bandwidth)
    return np.where(all_at_once, np.minimum(cycles, needed), cycles)


def _link(flows: tuple[PlacedFlow, ...], operand: Operand) -> tuple[PlacedFlow, PlacedFlow]:
    """The two ends of what loads (weights, inputs) or unloads (outputs) at a place."""
    wanted = ("to_outer", "from_inner") if operand == "output" else ("from_outer", "to_inner")
    here, there = (next(flow for flow in flows if flow.flow == name) for name in wanted)
    return here, there


def _add_edges(problem: PlacedLayer, step: Step, case: Case, names: tuple[str, str]) -> None:
    """Add what loads and unloads. Where an operand lies whole in the outer memory, its inner place knows of both."""
    place = step.place
    if place.memory is None:
        return
    operand = place.operand
    _, *kept = problem.places[operand]
    last = np.arange(len(problem.lattice.steps)) == problem.lattice.last
    whole_outside = len(kept) == 2 and (step.leaves, step.enters) in ((1, 3), (3, 4))
    if whole_outside and step.leaves == 3:
        return
    links = []
    link = _link(place.flows, operand)
    half_shared = [_is_half_shared(_link(one.flows, operand)) for one in kept]
    # Of two links that share the port of one end, the tool keeps the outer one only.
    if not (place is kept[0] and len(kept) == 2 and all(half_shared)):
        links.append((link, np.maximum.reduce([_edge_cycles(flow, last, place.tile_bits, case) for flow in link])))
    if whole_outside:
        always = np.ones(len(last), dtype=np.bool_)
        link = _link(kept[1].flows, operand)
        links.append((link, np.maximum.reduce([
            _edge_cycles(_at_last(flow), always, place.tile_bits, case) for flow in link
        ])))
    for link, cycles in links:
        for name, there in zip(names, _on_ways(link, case), strict=True):
            if there:
                _add(step, name, cycles)


def _at_last(flow: PlacedFlow) -> PlacedFlow:
    """The flow as it is at the last point, at every point."""
    cycles = np.full(len(flow.cycles), flow.cycles[-1])
    return PlacedFlow(flow.memory, flow.operand, flow.flow, flow.port, flow.bits, flow.words, cycles, flow.copies,
                      flow.moves)


def _on_ways(link: tuple[PlacedFlow, PlacedFlow], case: Case) -> tuple[bool, bool]:
    """Say on which of the two ways to the first (from the last) step a link lies.

    Links on ports of one input alone run beside those of the other input. So loading takes the larger of two: all
    shared links and the second operand's own ones; all shared links of the first operand and its own ones.
    """
    operand = link[0].operand
    if operand == "output":
        return True, True
    shared = all(_serves_both(flow.memory, flow) for flow in link)
    first = operand == case.loads_first
    return shared or not first, first


def _is_half_shared(link: tuple[PlacedFlow, PlacedFlow]) -> bool:
    """Whether inputs and weights share the port of one end, and only of that one."""
    return link[0].operand != "output" and sum(_serves_both(flow.memory, flow) for flow in link) == 1


def _serves_both(memory: Memory, flow: PlacedFlow) -> bool:
    return {of for of, _ in memory.port_of(flow.operand, flow.flow).serves}.issuperset(INPUTS)


def _plan(
    problem: PlacedLayer, steps: list[Step], objective: list[tuple[tuple[str, ...], float]], limited: dict[str, float],
    close: bool = False,
) -> Plan:
    """Lay the plan out in arrays; sums that are zero everywhere, and what they are part of, are left out."""
    limited = dict(limited)
    for step in steps:
        limited |= _room(problem, step)
    points = len(problem.lattice.steps)
    named = {name for step in steps for name, price in step.price.items() if np.any(price[step.allowed])
             or (close and name.startswith("alone"))}
    wanted = {name for names, _ in objective for name in names} | set(limited)
    components = tuple(sorted(named & wanted)) or ("nothing",)
    price = np.zeros((len(steps), points, len(components)))
    for number, step in enumerate(steps):
        for column, name in enumerate(components):
            price[number, :, column] = step.price.get(name, 0.0)
        price[number, ~step.allowed] = math.inf
    kept_objective = list(dict.fromkeys(
        (tuple(name for name in names if name in components), constant) for names, constant in objective
    ))
    # A form whose names are a part of another one's, and whose constant is no larger, says nothing.
    kept_objective = [
        (names, constant) for names, constant in kept_objective
        if not any((set(names), constant) != (set(others), more) and set(names) <= set(others) and constant <= more
                   for others, more in kept_objective)
    ]
    kept_limits = {name: limit for name, limit in limited.items() if name in components}
    weight = np.zeros((len(kept_objective) + len(kept_limits), len(components)))
    for row, names in enumerate([*(names for names, _ in kept_objective), *((name,) for name in kept_limits)]):
        weight[row, [components.index(name) for name in names]] = 1.0
    start, step_of, leads_to = _transitions(steps)
    given = kernel.ChainInput(moves=problem.lattice.moves, start=start, step=step_of, leads_to=leads_to, price=price,
                              weight=weight, windows=int(close), **_windows(problem, steps, components))
    return Plan(steps, kept_objective, list(kept_limits.values()), given, components)


def _transitions(steps: list[Step]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the kernel's states, all operands' together: first step of each, the steps, and where they lead."""
    counts = [1 + max(step.enters for step in steps if step.place.operand == operand) for operand in OPERANDS]
    start, step_of, leads_to = [0], [], []
    for state in itertools.product(*(range(count) for count in counts)):
        for number, step in enumerate(steps):
            which = OPERANDS.index(step.place.operand)
            if state[which] != step.leaves:
                continue
            onward = list(state)
            onward[which] = step.enters
            step_of.append(number)
            leads_to.append((onward[0] * counts[1] + onward[1]) * counts[2] + onward[2])
        start.append(len(step_of))
    return np.array(start), np.array(step_of), np.array(leads_to)


def _windows(problem: PlacedLayer, steps: list[Step], components: tuple[str, ...]) -> dict[str, npt.NDArray[Any]]:
    """What the kernel needs to know of windows. In a shared memory, a tile above half of it has no second one."""
    lattice = problem.lattice
    dims = [lattice.dims[number] for number in lattice.move_dims]
    flows = max(len(step.place.flows) for step in steps)
    single_bits = np.full(len(steps), np.inf)
    cycles = np.zeros((len(steps), len(lattice.steps), flows), dtype=np.int64)
    late = np.full((len(steps), flows), -1)
    for number, step in enumerate(steps):
        if step.place.memory is not None and step.place.memory.size_bits is not None:
            single_bits[number] = step.place.memory.size_bits / 2
        for column, flow in enumerate(step.place.flows):
            name = f"alone {(flow.memory.name, flow.port)}"
            if name in components:
                late[number, column] = components.index(name)
                cycles[number, :, column] = np.where(flow.moves, flow.cycles, 0)
    last = {operand: max(step.enters for step in steps if step.place.operand == operand) for operand in OPERANDS}
    return {
        "inside": lattice.steps,
        "depends": np.array([[dim in RELEVANT_DIMS[operand] for dim in dims] or [False] for operand in OPERANDS],
                            dtype=np.int64),
        "wholly": np.array([
            [dim in RELEVANT_DIMS[operand] and not (operand == "input" and dim in HALO_DIMS) for dim in dims] or [False]
            for operand in OPERANDS
        ], dtype=np.int64),
        "keeps": np.array([-1 if step.place.memory is None else OPERANDS.index(step.place.operand) for step in steps]),
        "tile_bits": np.array([step.place.tile_bits for step in steps]), "single_bits": single_bits,
        "finishes": np.array([step.enters == last[step.place.operand] for step in steps], dtype=np.int64),
        "cycles": cycles, "late": late,
    }
