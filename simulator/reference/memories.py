"""What is where: the elements in each buffer and register file, what DRAM holds of the output, bits counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from simulator.accelerator import Accelerator, Buffer, RegisterFile
from simulator.layer import OPERANDS, REDUCTION_DIMS, Layer, Operand
from simulator.precision import LayerPrecision
from simulator.reference.geometry import Element, Position
from simulator.reference.program import Fetch, Fold, PeWork, Place, Program, Request, Run, Step
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
        split = precision.split
        self._narrow, self._narrow_channels = precision.narrow, 0 if split is None else split.channels(self.layer)
        self.narrow_products = 0
        self.expanded_weights = 0
        self._spilled: Values = {}
        self.finished: Values = {}
        self._products: Counter[Element] = Counter()
        self._slots: dict[Place, dict[int, Slot]] = {
            place: {} for operand in OPERANDS for place in program.places[operand]
        }
        self._in_registers: Counter[tuple[Position, Operand]] = Counter()
        self._read: Counter[tuple[str, TrafficOperand]] = Counter()
        self._written: Counter[tuple[str, TrafficOperand]] = Counter()
        self._visited: set[Element] = set()
        self.grid_bits: Counter[Operand] = Counter()  # between the edge of the grid and its PEs
        self.converted = self.scaled = 0

    # ------------------------------------------------------------------ parts of the channels

    def in_narrow(self, element: Element) -> bool:
        """Whether a weight or an input belongs to a narrow channel; channels stand third in both."""
        return element[2] < self._narrow_channels

    def is_narrow(self, work: PeWork) -> bool:
        """Whether all products of a PE in a step are of narrow channels."""
        return all(self.in_narrow(element) for element in work.weights)

    def _stored_bits(self, operand: Operand, elements: Collection[Element]) -> int:
        """Bits of elements as they are stored, each in the format of its channel; outputs as sums."""
        narrow = 0 if operand == "output" else sum(self.in_narrow(element) for element in elements)
        wide = len(elements) - narrow
        return wide * self.precision.stored_bits(operand) + narrow * self._narrow.stored_bits(operand)

    def _register_bits(self, operand: Operand, elements: Collection[Element]) -> int:
        """Bits of elements in the registers of the PEs."""
        if operand == "output" or self.precision.split is None:
            return len(elements) * self.precision.register_bits(operand)
        return self._stored_bits(operand, elements)

    # ------------------------------------------------------------------ transfers

    def request_bits(self, request: Request) -> int:
        """Bits that a request moves out of, or into, the outer of the two memories."""
        if request.run is None:
            return self.precision.parameter_bits(self.layer)
        return self._run_bits(request)

    def own_bits(self, request: Request) -> int:
        """Bits that a request moves into, or out of, the inner memory: the sums of what leaves finished."""
        assert request.run is not None
        leaves_grid = request.kind == "write_back" and self.program.is_innermost(request.run.place)
        if leaves_grid:
            return len(request.run.elements) * self.precision.stored_bits("output")
        return self._run_bits(request)

    def _run_bits(self, request: Request) -> int:
        assert request.run is not None
        if request.kind == "write_back" and request.run.finished:
            return len(request.run.elements) * self.precision.output.bits
        return self._stored_bits(request.run.operand, request.run.elements)

    def _check_finished(self, run: Run) -> None:
        """Whether a tile of outputs holds all products, or only some, is what the program says, and alike for all."""
        needed = 1
        for dim in REDUCTION_DIMS:
            needed *= self.layer.extent(dim)
        counts = {self._products[element] for element in run.elements}
        assert len(counts) == 1 and max(counts) <= needed, f"unequal reduction within a tile: {counts}"
        assert run.finished == (counts == {needed})

    def is_allocated(self, run: Run) -> bool:
        """Whether a tile has its room."""
        return run.number in self._slots[run.place]

    def allocate(self, run: Run) -> None:
        """Take room for a tile: in its buffer, or for a bypassing operand in the registers of every PE."""
        slots = self._slots[run.place]
        assert run.number not in slots and len(slots) < run.place.copies
        slots[run.number] = Slot(run)
        memory = run.place.memory
        if isinstance(memory, RegisterFile):
            self._hold_bypassing(run, 1)
            return
        used = sum(
            self._held_bits(place, slot.run.elements)
            for place, in_place in self._slots.items()
            if place.memory == memory
            for slot in in_place.values()
        )
        assert used <= memory.size_bits, f"{memory.name}: {used} bits in {memory.size_bits}"

    def _held_bits(self, place: Place, elements: Collection[Element]) -> int:
        """Bits of room for elements: for outputs that of sums, where any come there."""
        if place.operand == "output" and not self.program.holds_sums(place):
            return len(elements) * self.precision.output.bits
        return self._stored_bits(place.operand, elements)

    def release(self, run: Run) -> None:
        """Give up the room of a tile."""
        del self._slots[run.place][run.number]
        if isinstance(run.place.memory, RegisterFile):
            self._hold_bypassing(run, -1)

    def load(self, request: Request) -> None:
        """Finish a request that brings something further in."""
        bits = self.request_bits(request)
        run = request.run
        if run is None:
            self._read[self.accelerator.dram.name, "parameters"] += bits
            return
        parent = self.program.parent(run)
        outer = self.accelerator.dram.name if parent is None else parent.place.memory.name
        self._read[outer, run.operand] += bits
        if isinstance(run.place.memory, Buffer):
            self._written[run.place.memory.name, run.operand] += bits
        slot = self._slots[run.place][run.number]
        if run.operand in self.program.bypass:
            self.grid_bits[run.operand] += bits
        if run.operand == "output":
            source = self._spilled if parent is None else self._slots[parent.place][parent.number].values
            slot.values = {element: source.pop(element) for element in run.elements}
        elif parent is None:
            slot.values = {element: int(self._dram[run.operand][element]) for element in run.elements}
            if run.operand in self.program.bypass:
                slot.values = self._as_registers_hold(run.operand, slot.values)
        else:
            held = self._slots[parent.place][parent.number].values
            slot.values = {element: held[element] for element in run.elements}

    def write_back(self, request: Request) -> None:
        """Finish a write: the tile goes further out, as finished outputs or as partial sums."""
        run = request.run
        assert run is not None
        values = self._slots[run.place][run.number].values
        assert values.keys() == run.elements
        self._check_finished(run)
        if isinstance(run.place.memory, Buffer):
            self._read[run.place.memory.name, "output"] += self.own_bits(request)
        else:
            self.grid_bits["output"] += self.request_bits(request)
        parent = self.program.parent(run)
        outer = self.accelerator.dram.name if parent is None else parent.place.memory.name
        self._written[outer, "output"] += self.request_bits(request)
        if run.finished and self.program.is_innermost(run.place):
            sums = self.accelerator.processing_element.finish(list(values.values()), self.precision)
            values = dict(zip(values, sums, strict=True))
            self.converted += len(values)
            self.scaled += len(values) * len(self._scale_groups())
        if parent is not None:
            destination = self._slots[parent.place][parent.number].values
        else:
            destination = self.finished if run.finished else self._spilled
        assert not destination.keys() & values.keys(), "an output was written over before it was read back"
        destination.update(values)
        self.release(run)

    def _scale_groups(self) -> set[int]:
        """Numbers of the weight groups, each with a scale of its own, that meet in one output."""
        channels, rows, columns = (self.layer.extent(dim) for dim in ("C", "R", "S"))
        if self.precision.scale_bits == 0:
            return set()
        expands = self.precision.expanded_weight is not None
        if self.precision.weight_group <= 0 or self.layer.weight_is_activation or expands:
            return {0}
        return {
            ((channel * rows + row) * columns + column) // self.precision.weight_group
            for channel in range(channels) for row in range(rows) for column in range(columns)
        }

    # ------------------------------------------------------------------ grid side

    def fetch(self, operand: Operand, event: int, fetch: Fetch) -> Values:
        """Hand to the grid the elements it asks for; they must be resident."""
        run = self.program.run(operand, event)
        resident = self._slots[run.place][run.number].values
        missing = fetch.wanted - resident.keys()
        assert not missing, f"event {event} fetches {operand} {sorted(missing)[:3]}, which is not resident"
        if operand not in self.program.bypass:
            bits = self._stored_bits(operand, fetch.wanted)
            self._read[run.place.memory.name, operand] += bits
            self.grid_bits[operand] += bits
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
                self._in_registers[position, operand] = self._register_bits(operand, mine)
            self._check_registers(fetch.by_pe)

    def _hold_bypassing(self, run: Run, sign: int) -> None:
        layout = self.program.layout
        for position in layout.place:
            mine = layout.pe_elements(self.layer, run.operand, position, run.box)
            self._in_registers[position, run.operand] += sign * self._register_bits(run.operand, mine)
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
            self._read[slot.run.place.memory.name, "output"] += bits
        return {element: slot.values[element] for element in outputs}

    def write(self, step: Step, values: Values) -> None:
        """Close a visit: put the partial sums where they are kept."""
        slot = self._output_slot(step)
        assert values.keys() == step.outputs.wanted and values.keys() <= slot.run.elements
        if "output" not in self.program.bypass:
            bits = len(values) * self.precision.stored_bits("output")
            self._written[slot.run.place.memory.name, "output"] += bits
            self.grid_bits["output"] += bits
        slot.values.update(values)

    def _output_slot(self, step: Step) -> Slot:
        run = self.program.run("output", step.event)
        return self._slots[run.place][run.number]

    def pass_bits(self, folds: list[Fold], seen: set[Element]) -> Counter[tuple[Operand, Literal["read", "write"]]]:
        """Bits that a pass moves between each operand's buffer and the grid; nothing of bypassing operands.

        ``seen``: outputs that passes before it have visited; those of this one are added.
        """
        found: Counter[tuple[Operand, Literal["read", "write"]]] = Counter()
        for fold in folds:
            fetched = [(self.program.stationary, fold.stationary)] if fold.stationary else []
            for step in fold.steps:
                fetched += step.fetches.items()
                bits = len(step.outputs.wanted) * self.precision.stored_bits("output")
                if step.opens and step.outputs.wanted <= seen:
                    found["output", "read"] += bits
                seen |= step.outputs.wanted
                if step.closes:
                    found["output", "write"] += bits
            for operand, fetch in fetched:
                assert operand is not None
                found[operand, "read"] += self._stored_bits(operand, fetch.wanted)
        return Counter({key: bits for key, bits in found.items() if key[0] not in self.program.bypass})

    def lane_codes(self, step: Step, lanes: int) -> tuple[IntArray, IntArray]:
        """Codes on the lanes of the PEs at work in a step, weights and inputs, shapes (PEs, lanes); else 0."""
        weights = np.zeros((len(step.work), lanes), dtype=np.int64)
        inputs = np.zeros((len(step.work), lanes), dtype=np.int64)
        for row, work in enumerate(step.work.values()):
            for lane, element in enumerate(work.weights):
                weights[row, lane] = self._dram["weight"][element]
            for lane, place in enumerate(work.inputs):
                inputs[row, lane] = 0 if place is None else self._dram["input"][place]
        return weights, inputs

    def note_products(self, step: Step) -> None:
        """Count the products that a step added to each output, and what they read in the register files."""
        for work in step.work.values():
            products = len(work.weights)
            self._products[work.output] += products
            narrow = sum(self.in_narrow(element) for element in work.weights)
            self.narrow_products += narrow
            operands: tuple[Operand, ...] = ("weight", "input")
            for operand in operands:
                file = self.accelerator.registers_of(operand)
                if file is not None:
                    self._read[file.name, operand] += (products - narrow) * self.precision.register_bits(operand)
                    self._read[file.name, operand] += narrow * self._narrow.register_bits(operand)
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
