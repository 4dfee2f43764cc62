"""From a hierarchy of memories to an accelerator of ours: what coincides, with a note of all that does not.

The outermost memory becomes the DRAM, memories that the whole array shares become buffers, those that stand at every
multiplier registers. An axis along which only the outputs' register is shared becomes the lanes of a PE: the products
of all its positions add up into one register there, as those of our lanes do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import ValidationError

from bitmosaic.interchange.design import Design
from simulator.accelerator import (
    LANES,
    Accelerator,
    Axis,
    Buffer,
    Dram,
    Grid,
    MulticastPassing,
    RegisterFile,
    VectorUnit,
)
from simulator.counting_rules.loop_nest import READS, Machine, Memory, Port
from simulator.errors import ConfigurationError, Problem
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Operand
from simulator.precision import LayerPrecision
from simulator.processing_elements import FixedElement
from simulator.provenance import Source

ASSUMED_CLOCK_MHZ = 1000.0
UNLIMITED_BITS_PER_CYCLE = 1 << 40
UNLIMITED_BITS = 1 << 50
REDUCED: tuple[Dim, ...] = ("C", "R", "S")


@dataclass(frozen=True)
class Structure:
    """What the parts of a machine become here.

    Attributes:
        lanes: the axes that become lanes of a PE; grid: the others.
    """

    lanes: tuple[str, ...]
    grid: tuple[str, ...]

    def place(self, axis: str) -> str:
        """Where loops along an axis lie here. An axis of the lanes' name has another one."""
        return LANES if axis in self.lanes else f"{axis}_axis" if axis == LANES else axis


def structure_of(machine: Machine) -> Structure:
    """Say which axes are lanes. Raises ``ConfigurationError`` for memories that a part of the array shares."""
    problems = []
    lanes: tuple[str, ...] = ()
    inside = [memory for memory in machine.memories if memory.replicated_along]
    for memory in inside:
        shared = tuple(axis for axis in machine.axes if axis not in memory.replicated_along)
        if not shared:
            continue
        if memory.keeps != ("output",):
            problems.append(Problem(
                f"is shared along {', '.join(shared)} and stands at each position of "
                f"{', '.join(memory.replicated_along)}: only outputs may be kept so, as sums of the lanes of a PE",
                path=f"memories.{memory.name}.keeps", value=", ".join(memory.keeps), allowed=("output",)))
        elif lanes and lanes != shared:
            problems.append(Problem(f"is shared along {', '.join(shared)}, another one along {', '.join(lanes)}",
                                    path=f"memories.{memory.name}"))
        lanes = shared
    if problems:
        raise ConfigurationError(problems)
    return Structure(lanes, tuple(axis for axis in machine.axes if axis not in lanes))


def accelerator_of(design: Design, precision: LayerPrecision) -> tuple[Accelerator, tuple[str, ...]]:
    """Return the accelerator of a design, and what was lost or assumed, a sentence each.

    ``precision`` decides the width of the multipliers: as wide as the wider operand, at least 8 bits.
    Raises ``ConfigurationError`` with everything that cannot be described.
    """
    machine = design.machine
    assert machine is not None
    structure = structure_of(machine)
    notes: list[str] = []
    problems: list[Problem] = []
    memories: list[Dram | Buffer | RegisterFile] = []
    for number, memory in enumerate(machine.memories):
        try:
            if number == 0:
                memories.append(_dram(memory, notes))
            elif memory.replicated_along:
                memories.append(_registers(memory, structure, machine, notes))
            else:
                memories.append(_buffer(memory, machine, notes))
        except ConfigurationError as error:
            problems += error.problems
        except ValidationError as error:
            problems += _of_model(error, f"memories.{memory.name}")
    for operand in OPERANDS:
        if not any(isinstance(memory, Buffer) and operand in memory.keeps for memory in memories):
            if not any(isinstance(memory, RegisterFile) and operand in memory.keeps for memory in memories):
                problems.append(Problem("no memory on the chip keeps it, and what passes the buffers by must have a "
                                        "register", path=f"memories.{operand}"))
            memories.insert(_first_registers(memories), bypassed(operand))
            notes.append(f"No buffer keeps the {operand}: the buffer {bypassed(operand).name} of one bit is there to "
                         "be bypassed, on its way from DRAM straight to the registers.")
    if set(machine.memories[0].keeps) != set(OPERANDS):
        problems.append(Problem("the outermost memory must keep all operands", path=f"memories.{memories[0].name}.keeps"
                                if memories else "memories", value=", ".join(machine.memories[0].keeps),
                                allowed=("weight", "input", "output")))
    if problems:
        raise ConfigurationError(problems)
    lane_count = math.prod(machine.axes[axis] for axis in structure.lanes)
    if lane_count > 1:
        notes.append(f"The {lane_count} positions along {', '.join(structure.lanes)} are the lanes of a PE: they add "
                     "up into one register, and a PE costs the energy of all in each cycle in which one works.")
    if not machine.axes:
        notes.append("There is one multiplier: a grid of one PE.")
    clock = design.clock_mhz
    if clock is None:
        clock = ASSUMED_CLOCK_MHZ
        notes.append(f"{design.tool} counts cycles: the clock of {clock:g} MHz is assumed.")
    notes.append("The vector unit is assumed, and costs nothing: a layer alone does not use it.")
    notes.append("Operands reach all PEs in the same cycle (multicast), in no time of their own.")
    operand_bits = max(8, precision.weight.bits, precision.input.bits)
    sources = {
        "everything": Source(confidence="extracted", source=f"{design.tool} description {machine.name}"),
        "clock_mhz": Source(confidence="assumed" if design.clock_mhz is None else "extracted",
                            source=f"not in {design.tool}'s description" if design.clock_mhz is None
                            else f"{design.tool} description {machine.name}"),
        "vector_unit": Source(confidence="assumed", source=f"{design.tool} describes none"),
    }
    if not design.energies_known:
        sources["everything"] = Source(confidence="extracted", source=f"{design.tool} description {machine.name}; its "
                                       "energies are not in it, and 0 here")
    try:
        axes = tuple(
            Axis(name=structure.place(axis), size=machine.axes[axis], unroll=_unroll(machine, axis))
            for axis in structure.grid
        ) or (Axis(name="array", size=1, unroll=DIMS),)
        accelerator = Accelerator(
            name=machine.name, description=f"{machine.name}, from {design.tool}", clock_mhz=clock,
            memories=tuple(memories), grid=Grid(axes=axes, passing=MulticastPassing()),
            processing_element=FixedElement(operand_bits=operand_bits, lane_count=lane_count,
                                            energy_pj_per_cycle=machine.mac_energy_pj * lane_count),
            vector_unit=VectorUnit(lanes=1, energy_pj_per_operation=0.0), sources=sources,
        )
    except ValidationError as error:
        raise ConfigurationError(_of_model(error, machine.name)) from error
    return accelerator, tuple(dict.fromkeys(notes))


def _of_model(error: ValidationError, place: str) -> list[Problem]:
    """What the data model refuses, in our words."""
    return [
        Problem(str(entry["msg"]).removeprefix("Value error, "), path=".".join([place, *map(str, entry["loc"])]))
        for entry in error.errors(include_url=False)
    ]


def bypassed(operand: Operand) -> Buffer:
    """A buffer too small for anything: an operand that no buffer keeps has one to pass by."""
    return Buffer(name=f"{operand}_bypassed", keeps=(operand,), size_bits=1, read_energy_pj_per_bit=0.0,
                  write_energy_pj_per_bit=0.0, double_buffer=False, may_bypass=(operand,))


def _first_registers(memories: list[Dram | Buffer | RegisterFile]) -> int:
    """Where buffers end in a list of memories."""
    return next((place for place, memory in enumerate(memories) if isinstance(memory, RegisterFile)), len(memories))


def _unroll(machine: Machine, axis: str) -> tuple[Dim, ...]:
    """What may lie along an axis: where an operand must be reused, only what it does not depend on."""
    operand = machine.must_reuse.get(axis)
    return tuple(dim for dim in DIMS if operand is None or dim not in RELEVANT_DIMS[operand])


def _per_bit(memory: Memory, port: Port, energy_pj: float, notes: list[str]) -> float:
    if port.word_bits > 1:
        notes.append("Energies of whole words are spread over their bits: a last word that is not full costs what it "
                     "holds here, and all of it there.")
    return energy_pj / port.word_bits


def _sides(memory: Memory) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Ports that read, and ports that write."""
    reads = tuple(port for port in memory.ports if any(flow in READS for _, flow in port.serves))
    writes = tuple(port for port in memory.ports if any(flow not in READS for _, flow in port.serves))
    return reads, writes


def _energies(memory: Memory, notes: list[str]) -> tuple[float, float]:
    reads, writes = _sides(memory)
    found = []
    for ports, energy_pj in ((reads, memory.read_energy_pj), (writes, memory.write_energy_pj)):
        widths = {port.word_bits for port in ports}
        if len(widths) > 1:
            raise ConfigurationError(Problem("its ports have words of different widths, so its energy a bit is not one "
                                             "number", path=f"memories.{memory.name}.ports", value=str(sorted(widths))))
        found.append(_per_bit(memory, ports[0], energy_pj, notes) if ports else 0.0)
    return found[0], found[1]


def _total(ports: tuple[Port, ...]) -> int | None:
    widths = [port.bits_per_cycle for port in ports]
    known = [width for width in widths if width is not None]
    return sum(known) if len(known) == len(widths) and known else None


def _dram(memory: Memory, notes: list[str]) -> Dram:
    read_pj, write_pj = _energies(memory, notes)
    reads, writes = _sides(memory)
    bandwidth = _total(tuple({port.name: port for port in (*reads, *writes)}.values()))
    if len(memory.ports) > 1 and bandwidth is not None:
        bandwidth = max(_total(reads) or 1, _total(writes) or 1)
        notes.append(f"{memory.name} reads and writes through one channel here, of the bandwidth of its wider side.")
    if bandwidth is None:
        notes.append(f"{memory.name} has no limit of bandwidth: 2^40 bits a cycle.")
    if memory.size_bits is not None:
        notes.append(f"The size of {memory.name} is not checked: a DRAM holds everything here.")
    return Dram(name=memory.name, bandwidth_bits_per_cycle=bandwidth or UNLIMITED_BITS_PER_CYCLE,
                read_energy_pj_per_bit=read_pj, write_energy_pj_per_bit=write_pj)


def _buffer(memory: Memory, machine: Machine, notes: list[str]) -> Buffer:
    read_pj, write_pj = _energies(memory, notes)
    reads, writes = _sides(memory)
    both = [port for port in memory.ports if port in reads and port in writes]
    if both and len(memory.ports) > 1:
        raise ConfigurationError(Problem("a memory has one port for both directions, or ports for one direction each",
                                         path=f"memories.{memory.name}.ports",
                                         value=", ".join(port.name for port in memory.ports)))
    limits = {"read": _total(reads), "write": _total(writes)}
    shared = bool(both) and limits["read"] is not None
    if not both and (len(reads) > 1 or len(writes) > 1):
        notes.append(f"The ports of {memory.name} that read are one here, with their bandwidths added; likewise those "
                     "that write.")
    if memory.size_bits is None:
        notes.append(f"{memory.name} has no limit of size: 2^50 bits.")
    notes.append("A next tile loads behind the one in use only where the buffer has room for both.")
    return Buffer(
        name=memory.name, keeps=memory.keeps, size_bits=memory.size_bits or UNLIMITED_BITS,
        read_energy_pj_per_bit=read_pj, write_energy_pj_per_bit=write_pj,
        read_bandwidth_bits_per_cycle=limits["read"], write_bandwidth_bits_per_cycle=limits["write"],
        ports="shared" if shared else "separate",
    )


def _registers(memory: Memory, structure: Structure, machine: Machine, notes: list[str]) -> RegisterFile:
    read_pj, write_pj = _energies(memory, notes)
    if any(port.bits_per_cycle is not None for port in memory.ports):
        notes.append("Ports of registers have no limit of bandwidth, and filling registers costs neither time nor "
                     "energy apart.")
    else:
        notes.append("Filling registers costs neither time nor energy apart.")
    copies = math.prod(machine.axes[axis] for axis in structure.lanes if axis in memory.replicated_along)
    size = memory.size_bits or UNLIMITED_BITS
    return RegisterFile(name=memory.name, keeps=memory.keeps, size_bits=size * copies, read_energy_pj_per_bit=read_pj,
                        write_energy_pj_per_bit=write_pj)
