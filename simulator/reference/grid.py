"""What both kinds of grid share: the state of a PE, its arithmetic, and the side where results arrive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import numpy as np

from simulator.layer import Operand
from simulator.precision import LayerPrecision
from simulator.processing_elements import ProcessingElementBase
from simulator.reference.geometry import Element, Position
from simulator.reference.memories import IntArray, Memories, Values
from simulator.reference.program import Event, Fold, PeWork, Step

Activity = Literal["compute", "fill_drain"]
Token = TypeVar("Token")


class DelayLine(Generic[Token]):
    """Registers in a row: what is put in comes out ``length`` cycles later."""

    def __init__(self, length: int) -> None:
        self._places: deque[Token | None] = deque([None] * length)

    def advance(self, token: Token | None) -> Token | None:
        """Pass one cycle: put in ``token`` (or nothing), take out what has come to the end."""
        self._places.append(token)
        return self._places.popleft()


@dataclass
class PeState:
    """Registers of one PE.

    Attributes:
        held: the elements that it holds of each operand, with their values.
        behind: the next stationary elements, where they load behind the ones in use.
        accumulators: partial sums.
        step, cycles_left: the step it is in the middle of.
    """

    held: dict[Operand, Values] = field(default_factory=dict)
    behind: Values | None = None
    accumulators: Values = field(default_factory=dict)
    step: Step | None = None
    cycles_left: int = 0

    def receive(self, operand: Operand, mine: frozenset[Element], payload: Values) -> None:
        """Replace what the registers hold of an operand."""
        self.held[operand] = {element: payload[element] for element in mine}

    def operands_of(self, work: PeWork) -> tuple[list[int], list[int]]:
        """Read the operands of all lanes out of the PE's own registers; padding is zero."""
        weights, inputs = self.held["weight"], self.held["input"]
        return (
            [weights[element] for element in work.weights],
            [0 if element is None else inputs[element] for element in work.inputs],
        )

    def take_accumulators(self) -> Values:
        """Empty the accumulators."""
        taken, self.accumulators = self.accumulators, {}
        return taken


class Grid(ABC):
    """A grid of PEs that is given one pass at a time.

    Attributes:
        occupied: whether a pass holds the grid.
        completed: events whose last result has arrived.
        active_pe_cycles: Σ over cycles of the PEs that work on at least one product.
        narrow_pe_cycles: how many of these are of PEs with products of narrow channels alone.
        steps_taken: steps that have entered the grid.
    """

    def __init__(
        self, element: ProcessingElementBase, memories: Memories, positions: list[Position]
    ) -> None:
        self.element = element
        self.memories = memories
        self.precision = memories.precision
        self.steps_taken = 0
        self.lanes = element.lanes(self.precision)
        self.parts = self.precision.parts
        self.pes = {position: PeState() for position in positions}
        self.occupied = False
        self.completed: set[int] = set()
        self.active_pe_cycles = self.narrow_pe_cycles = 0
        self._folds: list[Fold] = []
        self._duration: dict[Step, int] = {}
        self._sums: Values = {}

    def start(self, event: Event) -> None:
        """Begin a pass."""
        assert not self.occupied
        self.occupied = True
        self._folds = self.memories.program.folds(event)
        self._prepare()

    @abstractmethod
    def _prepare(self) -> None:
        """Reset what belongs to one pass."""

    @abstractmethod
    def cycle(self) -> Activity | None:
        """Pass one cycle; say what the grid spends it on, None where no pass occupies it."""

    def step_cycles(self, step: Step) -> int:
        """Cycles of a step: all PEs take those of the slowest, which is known when the step enters."""
        if len(self.parts) > 1:
            if step not in self._duration:
                has_wide = any(not self.memories.is_narrow(work) for work in step.work.values())
                self._duration[step] = self.element.cycles_per_step(self.parts[0 if has_wide else 1])
            return self._duration[step]
        if not self.element.depends_on_values:
            return self.element.cycles_per_step(self.precision)
        if step not in self._duration:
            codes = self.memories.lane_codes(step, self.lanes)
            self._duration[step] = self.element.grid_step_cycles(*codes, self.precision)
        return self._duration[step]

    def _payload(self, step: Step) -> dict[Operand, Values]:
        """Fetch what arrives with a step."""
        self.steps_taken += 1
        if step.opens:
            self.memories.hold("output", step.outputs)
        return {
            operand: self.memories.fetch(operand, step.event, fetch) for operand, fetch in step.fetches.items()
        }

    def _begin(self, state: PeState, position: Position, step: Step, payload: dict[Operand, Values]) -> None:
        """Let a PE begin a step: its registers take what came along."""
        assert state.step is None, f"PE {position} is given a step in the middle of another one"
        state.step, state.cycles_left = step, self.step_cycles(step)
        if position in self.memories.program.layout.place:
            for operand, fetch in step.fetches.items():
                if operand in payload:
                    state.receive(operand, fetch.by_pe[position], payload[operand])

    def _work_a_cycle(self) -> dict[Position, tuple[Step, Values]]:
        """Pass a cycle in every PE; return the sums of those that end a step: their outputs' values."""
        ended: dict[Position, tuple[Step, Values]] = {}
        busy: list[tuple[Position, PeWork, Step]] = []
        for position, state in self.pes.items():
            step = state.step
            if step is None:
                continue
            work = step.work.get(position)
            self.active_pe_cycles += work is not None
            self.narrow_pe_cycles += work is not None and self.memories.is_narrow(work)
            state.cycles_left -= 1
            if state.cycles_left == 0:
                state.step = None
                ended[position] = (step, {})
                if work is not None:
                    busy.append((position, work, step))
        if busy:
            self._multiply(busy, ended)
        return ended

    def _multiply(
        self, busy: list[tuple[Position, PeWork, Step]], ended: dict[Position, tuple[Step, Values]]
    ) -> None:
        """Compute the step's sum of each PE from bits. All PEs at once only because it is faster."""
        sums = self._part_sums(busy, 0, self.parts[0])
        if len(self.parts) > 1:
            sums = sums + self._part_sums(busy, 1, self.parts[1])
        for (position, work, step), value in zip(busy, sums, strict=True):
            ended[position] = (step, {work.output: int(value)})

    def _part_sums(
        self, busy: list[tuple[Position, PeWork, Step]], part: int, precision: LayerPrecision
    ) -> IntArray:
        """Sum of the products of one part of the channels in each PE: 0 the wide one, or all, 1 the narrow one."""
        lanes = self.element.lanes(precision)
        weights = np.zeros((len(busy), lanes), dtype=np.int64)
        inputs = np.zeros((len(busy), lanes), dtype=np.int64)
        for row, (position, work, _) in enumerate(busy):
            pairs = zip(work.weights, *self.pes[position].operands_of(work), strict=True)
            own = [(weight, value) for element, weight, value in pairs if self.memories.in_narrow(element) == part]
            assert len(own) <= lanes
            weights[row, : len(own)] = [weight for weight, _ in own]
            inputs[row, : len(own)] = [value for _, value in own]
        return self.element.dot(weights, inputs, precision)

    def _arrive(self, step: Step, results: list[Values], opens: bool) -> None:
        """Take a step's results where they are added up: in a visit, from its first results to its last."""
        if opens:
            assert not self._sums
            self._sums = self.memories.read_back(step)
        for values in results:
            self._add(self._sums, values)
        if step.closes:
            self.memories.write(step, self._sums)
            self._sums = {}
        if step.event_last:
            self.completed.add(step.event)

    def _add(self, sums: Values, values: Values) -> None:
        """Add values onto partial sums; where there is none yet, the value is taken as it is."""
        both = [element for element in values if element in sums]
        added = self.element.add(
            [sums[element] for element in both], [values[element] for element in both], self.precision
        )
        sums.update(values)
        sums.update(zip(both, added, strict=True))
