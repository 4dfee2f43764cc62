"""The counting rules of ZigZag 3.9.1: word accesses, energy, and its latency model of ports.

Own code, from the stated rules (``word_accesses``) and from the published method for latency (Mei et al., "A uniform
latency model for DNN accelerators with diverse architectures and dataflows", DATE 2022), with the choices that the
released tool makes where the paper leaves them open. Where they differ from ``docs/simulator.md``:

* A memory refills once per iteration of the loops above it, but the loops at the bottom of a level that an operand does
  not depend on belong to the next level inside, which holds still over them.
* A transfer is counted in words of the port, the last word in full; each copy of a memory counts its own.
* Partial sums are read back every time, the first one (of zeros) too, in full width while any loop of the reduction is
  left at this level or above, in the width of the finished output otherwise.
* Input tiles carry the halo of the whole tile; nothing of it is kept between tiles, nor shared by neighbouring PEs.
* Latency: steps, plus the stall of the worst port, plus loading before and unloading after. A port stalls by what its
  flows need beyond the windows in which their tiles may change, windows that overlap counted once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from simulator.counting_rules.loop_nest import FLOWS, LoopNest, Machine, check, check_precision
from simulator.counting_rules.zigzag_flows import (
    Transfer,
    double_buffered,
    levels_of,
    room_taken,
    steps_held_by_macs,
    transfer,
)
from simulator.counting_rules.zigzag_latency import FlowKey, edge_cycles, loading, port_stall, unloading
from simulator.errors import MappingError, Problem
from simulator.layer import OPERANDS, Layer, Operand
from simulator.precision import LayerPrecision


@dataclass(frozen=True)
class Cost:
    """What one layer costs.

    Attributes:
        words: accesses of all copies of a memory, for an operand, in a flow.
        energy_pj_by_level: of each operand at each memory.
        steps: temporal iterations.
        stall_cycles: of the worst port. loading_cycles, unloading_cycles: before the first and after the last step.
        port_stall_cycles: of each (memory, port); slack where negative.
        room: share of each memory's capacity that its tiles take.
        double_buffered: whether an operand's tile may change during the whole period at a memory.
        busiest_port_cycles: all transfers of the busiest port, one after the other.
    """

    words: dict[FlowKey, int]
    mac_energy_pj: float
    energy_pj_by_level: dict[tuple[Operand, str], float]
    steps: int
    stall_cycles: int
    loading_cycles: float
    unloading_cycles: float
    port_stall_cycles: dict[tuple[str, str], int]
    room: dict[str, float]
    double_buffered: dict[tuple[Operand, str], bool]
    busiest_port_cycles: int

    @property
    def memory_energy_pj(self) -> float:
        """Energy of all memories."""
        return math.fsum(self.energy_pj_by_level.values())

    @property
    def energy_pj(self) -> float:
        """Energy of memories and MACs."""
        return self.memory_energy_pj + self.mac_energy_pj

    @property
    def latency_cycles(self) -> float:
        """Steps, stall, loading and unloading."""
        return self.steps + self.stall_cycles + self.loading_cycles + self.unloading_cycles


def count(
    layer: Layer, precision: LayerPrecision, machine: Machine, nest: LoopNest,
    operand_order: Sequence[Operand] = ("output", "weight", "input"),
) -> Cost:
    """Cost of one layer at one mapping.

    ``operand_order`` is the order in which operands claim free room for a second buffer (in the tool: the order of the
    layer's equation). Raises ``MappingError`` for a mapping that does not fit, and ``PrecisionError`` for layers split
    by channel.
    """
    check_precision(precision)
    check(layer, machine, nest)
    levels = {operand: levels_of(layer, operand, machine, nest) for operand in OPERANDS}
    room = room_taken(machine, precision, levels)
    overflowing = [Problem(f"its tiles take {share:.3f} of it", path=name) for name, share in room.items() if share > 1]
    if overflowing:
        raise MappingError(overflowing)
    doubled = double_buffered(machine, precision, levels, operand_order)
    transfers: dict[FlowKey, Transfer] = {}
    words: dict[FlowKey, int] = {}
    for operand in OPERANDS:
        hold = steps_held_by_macs(operand, nest, levels[operand][0].above)
        for number, level in enumerate(levels[operand]):
            inside = levels[operand][number - 1] if number else None
            outermost = number == len(levels[operand]) - 1
            for flow in FLOWS:
                key = (level.memory.name, operand, flow)
                found = transfer(operand, flow, precision, nest, level, inside, hold, outermost, doubled)
                words[key] = 0 if found is None else found.words * found.periods * level.copies
                if found is not None:
                    transfers[key] = found
    by_port = {
        (memory.name, port.name): [
            transfers[memory.name, operand, flow] for operand, flow in sorted(port.serves)
            if (memory.name, operand, flow) in transfers
        ]
        for memory in machine.memories for port in memory.ports
    }
    port_stalls = {port: port_stall(shared) for port, shared in by_port.items()}
    stall = max(0, *port_stalls.values())
    edges = edge_cycles(machine, precision, transfers, levels, nest.steps + stall)
    return Cost(
        words=words,
        mac_energy_pj=layer.macs * machine.mac_energy_pj,
        energy_pj_by_level={
            (operand, level.memory.name): math.fsum(
                words[level.memory.name, operand, flow] * level.memory.energy_pj(flow) for flow in FLOWS
            )
            for operand in OPERANDS for level in levels[operand]
        },
        steps=nest.steps,
        stall_cycles=stall,
        loading_cycles=loading(machine, edges, levels),
        unloading_cycles=unloading(edges, levels),
        port_stall_cycles=port_stalls,
        room=room,
        double_buffered=doubled,
        busiest_port_cycles=max(sum(one.cycles * one.periods for one in shared) for shared in by_port.values()),
    )
