"""A systolic array: operands and partial sums hop from PE to PE, one register after the other.

Rows are the first axis, columns the second. Two streams of tokens run through the array: one enters at the left
edge and hops to the right, the other enters at the top and hops down. Both reach PE (i, j) in the same cycle,
``i · hop + j · step`` cycles after they entered, for the edges delay row i and column j. What they carry depends on
what is stationary:

========== ================== =========================================== ====================
stationary to the right       down                                        results
========== ================== =========================================== ====================
none       inputs             weights                                     down, then out
weight     inputs             the weights of the next fold, row by row    down, then out
input      weights            the inputs of the next fold, row by row     down, then out
output     inputs             weights                                     kept until the fold ends
========== ================== =========================================== ====================

``hop`` is ``partial_sum_hop_cycles``, and 1 where the outputs are stationary; ``step`` is 1. Along a multicast axis
there are no registers, and ``hop`` or ``step`` is 0. Where that is the rows, stationary elements are not brought in
before, but come with the fold's first step; and results do not hop down: an adder tree takes those of a column.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from simulator.accelerator import Grid as GridDescription
from simulator.accelerator import SystolicPassing
from simulator.layer import Operand
from simulator.processing_elements import ProcessingElementBase
from simulator.reference.geometry import Position
from simulator.reference.grid import Activity, DelayLine, Grid, PeState
from simulator.reference.memories import Memories, Values
from simulator.reference.program import Fetch, Fold, Step

Token = TypeVar("Token")


class Stream(Generic[Token]):
    """Registers along an edge, from which lines of PEs branch off. Tokens hop one register a cycle."""

    def __init__(self, lines: int, edge_hop: int, places: int, hop: int) -> None:
        self._edge_hop, self._hop = edge_hop, hop
        self._edge: deque[Token | None] = _registers((lines - 1) * edge_hop + 1)
        self._lines: list[deque[Token | None]] = [_registers((places - 1) * hop + 1) for _ in range(lines)]

    def advance(self, token: Token | None) -> None:
        """Let every token hop, and a new one enter."""
        self._edge.appendleft(token)
        for number, line in enumerate(self._lines):
            line.appendleft(self._edge[number * self._edge_hop])

    def at(self, line: int, place: int) -> Token | None:
        """Token that a PE sees in this cycle."""
        return self._lines[line][place * self._hop]


def _registers(count: int) -> deque[Token | None]:
    return deque([None] * count, maxlen=count)


@dataclass(frozen=True, eq=False)
class StepToken:
    """A step on its way through the array, with the operands that travel in this direction."""

    step: Step
    payload: dict[Operand, Values]


@dataclass(frozen=True, eq=False)
class LoadToken:
    """What the PEs of one row will hold of the stationary operand."""

    row: int
    fetch: Fetch
    payload: Values


class SystolicGrid(Grid):
    """Rows × columns of PEs, used or not: tokens pass them all."""

    def __init__(
        self, element: ProcessingElementBase, memories: Memories, description: GridDescription
    ) -> None:
        passing = description.passing
        assert isinstance(passing, SystolicPassing)
        self.rows, self.columns = (axis.size for axis in description.axes)
        places = [(row, column) for row in range(self.rows) for column in range(self.columns)]
        super().__init__(element, memories, list[Position](places))
        self.stationary = passing.stationary
        self.overlaps = passing.fold_overlap or self.stationary is None
        self.preloads = passing.stationary_preload
        self.hops_down, self.hops_right = (kind == "systolic" for kind in description.axis_passings)
        self.hop = 0
        if self.hops_down:
            self.hop = 1 if self.stationary == "output" else passing.partial_sum_hop_cycles
        self._right: Stream[StepToken] = Stream(self.rows, self.hop, self.columns, int(self.hops_right))
        self._down: Stream[StepToken | LoadToken] = Stream(self.columns, int(self.hops_right), self.rows, self.hop)
        self._below: dict[Position, deque[tuple[Step, Values] | None]] = {
            place: _registers(self.hop) for place in places
        }
        pipeline = passing.pipeline_cycles + element.pipeline_cycles + description.adder_tree_cycles
        drain = self.rows if passing.drains_outputs and self.stationary == "output" else 0
        self._drain = drain
        self._exit: DelayLine[list[tuple[Step, Values]]] = DelayLine(pipeline + drain)
        self._arrived: dict[Step, list[Values]] = defaultdict(list)
        self._in_flight = 0

    # ------------------------------------------------------------------ one pass

    def _prepare(self) -> None:
        needs_load = self.memories.program.loads_stationary
        self._loads_started = self._loads_done = 0 if needs_load else len(self._folds)
        self._folds_started = self._folds_released = 0
        self._loading: tuple[Fold, Values] | None = None
        self._load_row = 0
        self._fold: Fold | None = None
        self._clock = self._step_number = self._step_clock = 0
        self._draining = 0

    def cycle(self) -> Activity | None:
        """Pass one cycle."""
        if not self.occupied and not self._in_flight:
            return None
        activity: Activity | None = None
        right: StepToken | None = None
        down: StepToken | LoadToken | None = None
        drained = False
        if self.occupied:
            if self._draining:
                self._draining -= 1
                drained = self._draining == 0
            self._start_fold()
            self._start_load()
            activity = "fill_drain"
            if self._fold is not None:
                activity = "compute"
                right, down = self._enter_step(self._fold)
            if self._loading is not None:
                assert down is None
                down = self._enter_row(*self._loading)
        self._right.advance(right)
        self._down.advance(down)
        self._receive()
        self._pass_results()
        self._folds_released += drained
        if self._folds_released == len(self._folds):
            self.occupied = False
        return activity

    def _start_fold(self) -> None:
        """Start the next fold as soon as its stationary operand is loaded and the fold before is through.

        Results leave by one chain of registers a column, so a fold is not through before that chain has taken those
        of the fold before: one result a row.
        """
        number = self._folds_started
        if self._fold is None and number < self._loads_done and number == self._folds_released:
            self._fold, self._clock = self._folds[number], 0
            self._step_number = self._step_clock = 0
            self._folds_started += 1

    def _start_load(self) -> None:
        """Start to load for the next fold: when the fold before has started (preload), or is through."""
        number = self._loads_started
        if self._loading is None and number < len(self._folds):
            before = self._folds_started if self.preloads else self._folds_released
            if before >= number:
                fold = self._folds[number]
                assert fold.stationary is not None and self.stationary is not None
                values = self.memories.fetch(self.stationary, fold.steps[0].event, fold.stationary)
                self._loading, self._load_row = (fold, values), 0
                self._loads_started += 1

    def _enter_row(self, fold: Fold, values: Values) -> LoadToken:
        """Let the stationary elements of one row enter at the top."""
        assert fold.stationary is not None
        token = LoadToken(self._load_row, fold.stationary, values)
        self._load_row += 1
        if self._load_row == self.rows:
            self._loading = None
            self._loads_done += 1
        return token

    def _enter_step(self, fold: Fold) -> tuple[StepToken | None, StepToken | None]:
        """Let a step enter at the edges, once the one before has had its cycles."""
        right = down = None
        step = fold.steps[self._step_number]
        if self._step_clock == 0:
            payload = self._payload(step)
            # Where stationary elements are loaded, the downward wires carry those of the next fold.
            from_top: set[Operand] = {"input" if self.stationary == "input" else "weight"}
            if self.memories.program.loads_stationary:
                from_top = set()
            right = StepToken(step, {name: payload[name] for name in payload if name not in from_top})
            if from_top:
                down = StepToken(step, {name: payload[name] for name in payload if name in from_top})
            self._in_flight += step.closes or self.stationary != "output"
        self._clock += 1
        self._step_clock += 1
        if self._step_clock == self.step_cycles(step):
            self._step_number, self._step_clock = self._step_number + 1, 0
        if self._step_number == len(fold.steps):
            self._fold = None
            if self.overlaps:
                self._draining = max(0, self._drain - self._clock)
                self._folds_released += self._draining == 0
        return right, down

    # ------------------------------------------------------------------ in the array

    def _receive(self) -> None:
        """Let each PE take what it sees: a step begins, and stationary elements are kept for the next fold."""
        for position, state in self.pes.items():
            row, column = position
            token, from_top = self._right.at(row, column), self._down.at(column, row)
            if token is not None:
                payload = token.payload
                if isinstance(from_top, StepToken):
                    assert from_top.step is token.step, "the operands of a step do not meet"
                    payload = payload | from_top.payload
                if token.step.fold_first and self.memories.program.loads_stationary:
                    assert self.stationary is not None
                    assert state.behind is not None, "a fold starts before its stationary elements are there"
                    state.held[self.stationary], state.behind = state.behind, None
                self._begin(state, position, token.step, payload)
            if isinstance(from_top, LoadToken) and from_top.row == row:
                self._keep(position, state, from_top)

    def _keep(self, position: Position, state: PeState, token: LoadToken) -> None:
        """Store stationary elements: behind those in use, or over them, in which case no step may need them."""
        assert state.behind is None
        assert self.preloads or state.step is None
        mine = token.fetch.by_pe.get(position, frozenset())
        state.behind = {element: token.payload[element] for element in mine}

    def _pass_results(self) -> None:
        """Pass a cycle in the PEs, and move results one register on."""
        ended = self._work_a_cycle()
        if self.stationary == "output":
            leaving = self._leave_from_accumulators(ended)
        elif self.hops_down:
            leaving = self._leave_at_bottom(ended)
        else:
            leaving = self._leave_through_trees(ended)
        for step, values in self._exit.advance(leaving) or []:
            self._collect(step, values)

    def _leave_from_accumulators(self, ended: dict[Position, tuple[Step, Values]]) -> list[tuple[Step, Values]]:
        leaving = []
        for position, (step, values) in ended.items():
            state = self.pes[position]
            self._add(state.accumulators, values)
            if position == (self.rows - 1, self.columns - 1):
                self.memories.note_products(step)
            if step.closes:
                leaving.append((step, state.take_accumulators()))
        return leaving

    def _leave_at_bottom(self, ended: dict[Position, tuple[Step, Values]]) -> list[tuple[Step, Values]]:
        """Add each PE's sum to what comes from above, and hand it down."""
        outgoing: dict[Position, tuple[Step, Values]] = {}
        for (row, column), (step, values) in ended.items():
            sums = dict(values)
            if row > 0:
                above = self._below[row - 1, column][-1]
                assert above is not None and above[0] is step, "a partial sum is late or early"
                self._add(sums, above[1])
            outgoing[row, column] = (step, sums)
        leaving = []
        for position, line in self._below.items():
            line.appendleft(outgoing.get(position))
            if position[0] == self.rows - 1 and line[-1] is not None:
                leaving.append(line[-1])
        return leaving

    def _leave_through_trees(self, ended: dict[Position, tuple[Step, Values]]) -> list[tuple[Step, Values]]:
        """Add up the sums of each column that ends a step: for each output those of neighbours, until one is left."""
        leaving = []
        for column in range(self.columns):
            of_rows = [ended[row, column] for row in range(self.rows) if (row, column) in ended]
            if not of_rows:
                continue
            assert len(of_rows) == self.rows, "the rows of a column are not in the same step"
            sums: Values = {}
            for output in dict.fromkeys(output for _, values in of_rows for output in values):
                terms = [{output: values[output]} for _, values in of_rows if output in values]
                while len(terms) > 1:
                    for first, second in zip(terms[::2], terms[1::2], strict=False):
                        self._add(first, second)
                    terms = terms[::2]
                sums |= terms[0]
            leaving.append((of_rows[0][0], sums))
        return leaving

    def _collect(self, step: Step, values: Values) -> None:
        """Take what leaves the array; a step's results are there when the last part of them is."""
        parts = self.rows * self.columns if self.stationary == "output" else self.columns
        arrived = self._arrived[step]
        arrived.append(values)
        if len(arrived) < parts:
            return
        del self._arrived[step]
        self._in_flight -= 1
        if self.stationary == "output":
            # A visit's sums leave the PEs all at once, with its last step.
            self._arrive(step, arrived, opens=True)
        else:
            self.memories.note_products(step)
            self._arrive(step, arrived, opens=step.opens)
        if step.fold_last and not self.overlaps:
            self._folds_released += 1
