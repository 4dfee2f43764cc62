"""ZigZag's latency model: stalls of shared ports, and what loads before and unloads after the computation."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.counting_rules.loop_nest import FLOWS, Flow, Machine, Memory
from simulator.counting_rules.zigzag_flows import Level, Transfer, tile_bits
from simulator.layer import Operand
from simulator.precision import LayerPrecision

INPUTS: tuple[Operand, ...] = ("input", "weight")
OUTPUTS: tuple[Operand, ...] = ("output",)

FlowKey = tuple[str, Operand, Flow]


def port_stall(transfers: Sequence[Transfer]) -> int:
    """Stall of one port by the flows that share it: those that stall alone, and what does not fit the shared window."""
    if not transfers:
        return 0
    if len(transfers) == 1:
        return transfers[0].stall_cycles
    alone = sum(transfer.stall_cycles for transfer in transfers if transfer.stall_cycles > 0)
    slack = sum(transfer.stall_cycles for transfer in transfers if transfer.stall_cycles <= 0)
    windows = sum(transfer.window_cycles * (transfer.periods - 1) for transfer in transfers)
    return alone + max(0, slack + windows - union_of_windows(transfers))


def union_of_windows(transfers: Sequence[Transfer]) -> int:
    """Steps in which any of the flows may use the port. Each window opens at the start of its period."""
    for transfer in transfers:
        if transfer.window_cycles == transfer.period_cycles:
            return transfer.period_cycles * transfer.periods
    by_period = sorted(transfers, key=lambda transfer: transfer.period_cycles)
    longest = by_period[-1]
    return _covered(by_period, longest.period_cycles) * longest.periods


def _covered(by_period: Sequence[Transfer], steps: int) -> int:
    """Steps among the first so many in which a window is open. Each period is a multiple of those before it."""
    if not by_period:
        return 0
    *shorter, longest = by_period
    window = longest.window_cycles

    def within_one_period(until: int) -> int:
        if until <= window:
            return until
        return window + _covered(shorter, until) - _covered(shorter, window)

    whole, rest = divmod(steps, longest.period_cycles)
    return whole * within_one_period(longest.period_cycles) + within_one_period(rest)


def edge_cycles(
    machine: Machine, precision: LayerPrecision, transfers: dict[FlowKey, Transfer],
    levels: dict[Operand, list[Level]], computing_cycles: int,
) -> dict[FlowKey, float]:
    """Cycles of each flow's first (or last) transfer outside the computation.

    What moves only once need not be there before the first step, beyond the tile of the innermost memory: the rest
    moves during the computation, as far as the bandwidth that the port's other flows leave it allows.
    """
    found: dict[FlowKey, float] = {}
    for memory in machine.memories:
        for port in memory.ports:
            keys = [
                (memory.name, operand, flow) for operand in (*INPUTS, *OUTPUTS) for flow in FLOWS
                if (operand, flow) in port.serves and (memory.name, operand, flow) in transfers
                # Partial sums neither load nor unload.
                and not (operand == "output" and flow in ("to_inner", "from_outer"))
            ]
            once = [key for key in keys if transfers[key].periods == 1]
            busy = sum(transfers[key].bits // transfers[key].period_cycles for key in keys if key not in once)
            found |= {key: float(transfers[key].cycles) for key in keys}
            if port.bits_per_cycle is None:
                continue
            needed = [-(-tile_bits(key[1], precision, levels[key[1]][0]) // port.bits_per_cycle) for key in once]
            spare = max(0.0, (port.bits_per_cycle - busy) / port.bits_per_cycle * computing_cycles)
            found |= zip(once, _moved_into_computation([found[key] for key in once], needed, spare), strict=True)
    return found


def _moved_into_computation(cycles: Sequence[float], needed: Sequence[float], spare: float) -> list[float]:
    """Shorten transfers to what is needed of them, the longest first, by ``spare`` cycles in all."""
    left = list(cycles)
    for index in sorted(range(len(left)), key=lambda index: -left[index]):
        moved = max(0.0, min(left[index] - needed[index], spare))
        left[index] -= moved
        spare -= moved
    return left


def loading(machine: Machine, cycles: dict[FlowKey, float], levels: dict[Operand, list[Level]]) -> float:
    """Cycles until the first weights and inputs are in place.

    A link between two memories takes its slower end. Links on ports of one operand run beside those of the other;
    links on shared ports run one after the other, in the better of the two orders.
    """
    alone: dict[Operand, float] = {}
    half_shared: dict[Operand, float] = {}
    shared: dict[Operand, float] = {}
    for operand in INPUTS:
        alone[operand] = half_shared[operand] = shared[operand] = 0
        for inside, outside in zip(levels[operand], levels[operand][1:], strict=False):
            ends: tuple[tuple[Memory, Flow], ...] = ((inside.memory, "from_outer"), (outside.memory, "to_inner"))
            link = max(cycles[memory.name, operand, flow] for memory, flow in ends)
            sharing = sum(_serves_both_inputs(memory, operand, flow) for memory, flow in ends)
            if sharing == 0:
                alone[operand] += link
            elif sharing == 2:
                shared[operand] += link
            else:
                # The tool keeps the outermost such link only.
                half_shared[operand] = link
    return min(
        shared[first] + max(shared[second] + half_shared[second] + alone[second], half_shared[first] + alone[first])
        for first, second in (INPUTS, INPUTS[::-1])
    )


def _serves_both_inputs(memory: Memory, operand: Operand, flow: Flow) -> bool:
    return {of for of, _ in memory.port_of(operand, flow).serves}.issuperset(INPUTS)


def unloading(cycles: dict[FlowKey, float], levels: dict[Operand, list[Level]]) -> float:
    """Cycles until the last outputs are outside: all links one after the other, each as slow as its slower end."""
    return sum(
        max(cycles[inside.memory.name, "output", "to_outer"], cycles[outside.memory.name, "output", "from_inner"])
        for inside, outside in zip(levels["output"], levels["output"][1:], strict=False)
    )
