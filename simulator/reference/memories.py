"""What is where: the elements in each buffer and register file, what DRAM holds of the output, bits counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from simulator.accelerator import Accelerator
from simulator.layer import OPERANDS, REDUCTION_DIMS, Layer, Operand
from simulator.precision import LayerPrecision
from simulator.reference.geometry import Element, Position
from simulator.reference.program import Fetch, Program, Request, Run, Step
from simulator.result import Traffic, TrafficOperand
from simulator.scales import GroupScales

IntArray = npt.NDArray[np.int64]
Values = dict[Element, int]


@dataclass
class Slot:
    """Room for one tile. ``values`` fills when the tile arrives, or for a fresh output as results come."""

    run: Run
    values: Values = field(default_factory=dict)


class Memories:
    """Every memory of the machine with what it holds, and the count of the bits that moved."""

    def __init__(
        self,
        program: Program,
        precision: LayerPrecision,
        accelerator: Accelerator,
        weights: IntArray,
        inputs: IntArray,
        scales: GroupScales | None,
    ) -> None:
        self.program = program
        self.precision = precision
        self.accelerator = accelerator
        self.layer: Layer = program.layer
        self._dram: dict[Operand, IntArray] = {"weight": weights, "input": inputs}
        self._scales = None if scales is None else scales.by_weight(self.layer, precision.weight_group)
        self.expanded_weights = 0
        self._spilled: Values = {}
        self.finished: Values = {}
        self._products: Counter[Element] = Counter()
        self._slots: dict[Operand, dict[int, Slot]] = {operand: {} for operand in OPERANDS}
        self._in_registers: Counter[tuple[Position, Operand]] = Counter()
        self._read: Counter[tuple[str, TrafficOperand]] = Counter()
        self._written: Counter[tuple[str, TrafficOperand]] = Counter()
        self._visited: set[Element] = set()

    # ------------------------------------------------------------------ DRAM side

    def request_bits(self, request: Request) -> int:
        """Bits that a request moves over the DRAM channel."""
        if request.run is None:
            return self.precision.parameter_bits(self.layer)
        if request.kind == "write_back" and self._is_finished(request.run):
            return len(request.run.elements) * self.precision.output.bits
        return len(request.run.elements) * self.precision.stored_bits(request.run.operand)

    def _is_finished(self, run: Run) -> bool:
        """Whether all products of all outputs of a tile have been added; never only of some."""
        needed = 1
        for dim in REDUCTION_DIMS:
            needed *= self.layer.extent(dim)
        counts = {self._products[element] for element in run.elements}
        assert len(counts) == 1 and max(counts) <= needed, f"unequal reduction within a tile: {counts}"
        return counts == {needed}

    def allocate(self, run: Run) -> None:
        """Take room for a tile: in its buffer, or for a bypassing operand in the registers of every PE."""
        slots = self._slots[run.operand]
        assert run.number not in slots and len(slots) < self.program.copies(run.operand)
        slots[run.number] = Slot(run)
        if run.operand in self.program.bypass:
            self._hold_bypassing(run, 1)
            return
        buffer = self.accelerator.buffer_of(run.operand)
        used = sum(
            len(slot.run.elements) * self.precision.stored_bits(operand)
            for operand in buffer.keeps
            if operand not in self.program.bypass
            for slot in self._slots[operand].values()
        )
        assert used <= buffer.size_bits, f"{buffer.name}: {used} bits in {buffer.size_bits}"

    def release(self, run: Run) -> None:
        """Give up the room of a tile."""
        del self._slots[run.operand][run.number]
        if run.operand in self.program.bypass:
            self._hold_bypassing(run, -1)

    def load(self, request: Request) -> None:
        """Finish a request that brings something on chip."""
        bits = self.request_bits(request)
        run = request.run
        if run is None:
            self._read[self.accelerator.dram.name, "parameters"] += bits
            return
        slot = self._slots[run.operand][run.number]
        self._read[self.accelerator.dram.name, run.operand] += bits
        if run.operand not in self.program.bypass:
            self._written[self.accelerator.buffer_of(run.operand).name, run.operand] += bits
        if run.operand == "output":
            slot.values = {element: self._spilled.pop(element) for element in run.elements}
        else:
            slot.values = {element: int(self._dram[run.operand][element]) for element in run.elements}
            if run.operand in self.program.bypass:
                slot.values = self._as_registers_hold(run.operand, slot.values)

    def write_back(self, request: Request) -> None:
        """Finish a write: the tile leaves the chip, as finished outputs or as partial sums."""
        run = request.run
        assert run is not None
        values = self._slots["output"][run.number].values
        assert values.keys() == run.elements
        if "output" not in self.program.bypass:
            bits = len(values) * self.precision.stored_bits("output")
            self._read[self.accelerator.buffer_of("output").name, "output"] += bits
        self._written[self.accelerator.dram.name, "output"] += self.request_bits(request)
        destination = self.finished if self._is_finished(run) else self._spilled
        assert not destination.keys() & values.keys(), "an output was written over before it was read back"
        if destination is self.finished:
            sums = self.accelerator.processing_element.finish(list(values.values()), self.precision)
            values = dict(zip(values, sums, strict=True))
        destination.update(values)
        self.release(run)

    # ------------------------------------------------------------------ grid side

    def fetch(self, operand: Operand, event: int, fetch: Fetch) -> Values:
        """Hand to the grid the elements it asks for; they must be resident."""
        run = self.program.run(operand, event)
        resident = self._slots[operand][run.number].values
        missing = fetch.wanted - resident.keys()
        assert not missing, f"event {event} fetches {operand} {sorted(missing)[:3]}, which is not resident"
        if operand not in self.program.bypass:
            bits = len(fetch.wanted) * self.precision.stored_bits(operand)
            self._read[self.accelerator.buffer_of(operand).name, operand] += bits
            self.hold(operand, fetch)
            return self._as_registers_hold(operand, {element: resident[element] for element in fetch.wanted})
        return {element: resident[element] for element in fetch.wanted}

    def _as_registers_hold(self, operand: Operand, values: Values) -> Values:
        """Expand stored weights on their way to the grid, where the precision says so."""
        if operand != "weight" or self._scales is None or not values:
            return values
        self.expanded_weights += len(values)
        places = tuple(np.array(list(values)).T)
        codes = np.array(list(values.values()), dtype=np.int64)
        scales, zeros = self._scales
        expanded = self.accelerator.processing_element.expand(codes, scales[places], zeros[places], self.precision)
        return {element: int(code) for element, code in zip(values, expanded, strict=True)}

    def hold(self, operand: Operand, fetch: Fetch) -> None:
        """Replace what the register files hold of an operand that does not bypass its buffer."""
        if operand in self.program.kept and operand not in self.program.bypass:
            for position, mine in fetch.by_pe.items():
                self._in_registers[position, operand] = len(mine) * self.precision.register_bits(operand)
            self._check_registers(fetch.by_pe)

    def _hold_bypassing(self, run: Run, sign: int) -> None:
        layout = self.program.layout
        for position in layout.place:
            mine = layout.pe_elements(self.layer, run.operand, position, run.box)
            bits = len(mine) * self.precision.register_bits(run.operand)
            self._in_registers[position, run.operand] += sign * bits
        self._check_registers(layout.place)

    def _check_registers(self, positions: Iterable[Position]) -> None:
        for file in self.accelerator.register_files:
            for position in positions:
                used = sum(self._in_registers[position, operand] for operand in file.keeps)
                assert used <= file.size_bits, f"{file.name} of {position}: {used} bits in {file.size_bits}"

    def read_back(self, step: Step) -> Values:
        """Open a visit to some outputs: read their partial sums, unless nothing was ever added to them."""
        outputs = step.outputs.wanted
        slot = self._output_slot(step)
        if not outputs & self._visited:
            self._visited |= outputs
            return dict.fromkeys(outputs, 0)
        assert outputs <= self._visited, "a visit mixes outputs seen before and new ones"
        if "output" not in self.program.bypass:
            bits = len(outputs) * self.precision.stored_bits("output")
            self._read[self.accelerator.buffer_of("output").name, "output"] += bits
        return {element: slot.values[element] for element in outputs}

    def write(self, step: Step, values: Values) -> None:
        """Close a visit: put the partial sums where they are kept."""
        slot = self._output_slot(step)
        assert values.keys() == step.outputs.wanted and values.keys() <= slot.run.elements
        if "output" not in self.program.bypass:
            bits = len(values) * self.precision.stored_bits("output")
            self._written[self.accelerator.buffer_of("output").name, "output"] += bits
        slot.values.update(values)

    def _output_slot(self, step: Step) -> Slot:
        return self._slots["output"][self.program.run("output", step.event).number]

    def note_products(self, step: Step) -> None:
        """Count the products that a step added to each output, and what they read in the register files."""
        for work in step.work.values():
            products = len(work.weights)
            self._products[work.output] += products
            operands: tuple[Operand, ...] = ("weight", "input")
            for operand in operands:
                file = self.accelerator.registers_of(operand)
                if file is not None:
                    self._read[file.name, operand] += products * self.precision.register_bits(operand)
            file = self.accelerator.registers_of("output")
            if file is not None:
                self._read[file.name, "output"] += self.precision.stored_bits("output")
                self._written[file.name, "output"] += self.precision.stored_bits("output")

    # ------------------------------------------------------------------ result

    def traffic(self) -> tuple[Traffic, ...]:
        """Bits moved, a row for each memory and operand that it keeps."""
        rows = []
        for memory in self.accelerator.memories:
            keeps: tuple[TrafficOperand, ...] = (
                (*OPERANDS, "parameters") if memory.kind == "dram" else memory.keeps
            )
            for operand in keeps:
                moved = self._read[memory.name, operand], self._written[memory.name, operand]
                rows.append(
                    Traffic(memory=memory.name, operand=operand, read_bits=moved[0], write_bits=moved[1])
                )
        return tuple(rows)
