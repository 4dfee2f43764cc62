"""A machine as the search over loop nests sees it: its blocks, and its costs as linear forms of what they move."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.counting_rules.loop_nest import Flow, Machine, Memory
from simulator.errors import ConfigurationError, Problem
from simulator.layer import OPERANDS, RELEVANT_DIMS, Layer, Operand
from simulator.precision import LayerPrecision

# Quantities of the lower block: bits that the shared memory moves for each operand, the same at all PEs, what PEs that
# share an output count of it, and the temporal steps.
QUANTITIES = 8
SHARED, AT_PES, SHARING = 0, 3, 6
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Blocks:
    """The memories of a machine by their part in the search."""

    outermost: Memory
    shared: Memory | None
    local: Memory | None

    @classmethod
    def of(cls, machine: Machine) -> Blocks:
        """Tell the memories apart. Raises ``ConfigurationError`` for a machine that the search does not know."""
        outermost, *inner = machine.memories
        shared = [memory for memory in inner if not memory.replicated_along]
        local = [memory for memory in inner if memory.replicated_along]
        problems = []
        if outermost.replicated_along or set(outermost.keeps) != set(OPERANDS) or outermost.size_bits is not None:
            problems.append("the outermost memory must be one, keep all operands, and hold them")
        if len(shared) > 1 or len(local) > 1 or [*shared, *local] != inner:
            problems.append("the search knows one memory outside the array, and one inside each PE")
        for memory in local:
            if set(memory.replicated_along) != set(machine.axes):
                problems.append(f"{memory.name} must be in every PE")
            if any(port.bits_per_cycle is not None for port in memory.ports):
                problems.append(f"{memory.name} must have unlimited bandwidth")
        if any(port.word_bits != 1 for memory in machine.memories for port in memory.ports):
            problems.append("words must have one bit")
        if problems:
            raise ConfigurationError([Problem(text, where=machine.name) for text in problems])
        return cls(outermost, shared[0] if shared else None, local[0] if local else None)


class Costs:
    """Energy and port cycles as linear forms: of the upper block's traffic, of the lower block's quantities."""

    def __init__(self, layer: Layer, precision: LayerPrecision, machine: Machine) -> None:
        self.ports = [(memory.name, port.name) for memory in machine.memories for port in memory.ports
                      if port.bits_per_cycle is not None]
        self.upper = np.zeros((1 + len(self.ports), len(OPERANDS)))
        self.lower = np.zeros((1 + len(self.ports), QUANTITIES))
        self.constant = np.zeros(1 + len(self.ports))
        self.constant[0] = layer.macs * machine.mac_energy_pj
        for number, operand in enumerate(OPERANDS):
            width = precision.stored_bits(operand)
            size = width * math.prod(layer.extent(dim) for dim in RELEVANT_DIMS[operand])
            memories: list[Memory | None] = [*machine.levels(operand), None]
            for outer, inner in itertools.pairwise(memories):
                assert outer is not None
                self._link(layer, number, operand, width, size, outer, inner)

    def _link(
        self, layer: Layer, number: int, operand: Operand, width: int, size: int, outer: Memory, inner: Memory | None
    ) -> None:
        """Add what passes between a memory and the next one inside (at last the MACs)."""
        first_of_all = operand == "output"
        for memory, inwards, outwards in ((outer, "to_inner", "from_inner"), (inner, "from_outer", "to_outer")):
            if memory is None:
                continue
            flows: list[tuple[Flow, bool]] = [(inwards, first_of_all)]  # type: ignore[list-item]
            if operand == "output":
                flows.append((outwards, False))  # type: ignore[arg-type]
            for flow, skips_first in flows:
                rates = self._rates(memory, operand, flow)
                if memory.replicated_along and memory is outer:
                    self.constant += rates * width * layer.macs
                elif memory.replicated_along:
                    self.lower[:, AT_PES + number] += rates * width
                elif inner is not None and not inner.replicated_along:
                    self.upper[:, number] += rates * width
                else:
                    self.lower[:, SHARED + number] += rates * width
                if skips_first and memory.replicated_along:
                    self.lower[:, SHARING] -= rates * size
                elif skips_first:
                    self.constant -= rates * size

    def _rates(self, memory: Memory, operand: Operand, flow: Flow) -> Floats:
        """Energy of one bit of a flow, and what it takes of each port."""
        rates = np.zeros(1 + len(self.ports))
        rates[0] = memory.energy_pj(flow)
        port = memory.port_of(operand, flow)
        if port.bits_per_cycle is not None:
            rates[1 + self.ports.index((memory.name, port.name))] = 1 / port.bits_per_cycle
        return rates
