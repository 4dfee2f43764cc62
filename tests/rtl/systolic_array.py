"""RTL of a small systolic array with its edge skew and its sequencer, weight- or output-stationary.

The work is cut into folds: what the array does between two changes of what it holds. One vector enters at the left
edge a cycle, its element for row i later by what a token takes from row to row, so that operands meet.

Weight-stationary: the weights of a fold enter at the top, one row a cycle, each row with its number, and every PE
keeps what comes with its own; then the inputs stream through, and partial sums hop down and out of the bottom.
Weights arrive either over those in use, or behind them (``preload``), and then change places as the first vector
passes.

Output-stationary: inputs enter at the left and weights at the top, and each PE adds up its own output. Finished outputs
either have a port each, or ``drains``: when the lowest PE of a column has finished, the whole column moves into
a chain and leaves at the bottom, lowest row first, one value a cycle.

Along a multicast axis there are no registers: what hops elsewhere is there in every PE at once. Where the rows are
multicast and the weights stationary, all weights of a fold come with its first vector, and an adder tree with one
register behind it takes the products of a column.

The sequencer starts each load and each fold as soon as the array lets it. With ``overlap`` that is directly behind
the one before; without, when the last result of the fold before has come out. Nothing here knows a formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import pyrtl

from tests.rtl.wiring import delayed, output

FOLD_BITS = 5
STEP_BITS = 5


@dataclass(frozen=True)
class Token:
    """What hops from PE to PE with an operand: is it there, is it the first or the last of its fold."""

    valid: pyrtl.WireVector
    first: pyrtl.WireVector
    last: pyrtl.WireVector
    data: pyrtl.WireVector

    def later(self, cycles: int) -> Token:
        """Return the token behind registers."""
        return Token(*(delayed(wire, cycles) for wire in (self.valid, self.first, self.last, self.data)))


@dataclass(frozen=True)
class Load:
    """A weight on its way down, with the number of the row that it is for."""

    valid: pyrtl.WireVector
    row: pyrtl.WireVector
    data: pyrtl.WireVector

    def later(self, cycles: int) -> Load:
        """Return the weight behind registers."""
        return Load(*(delayed(wire, cycles) for wire in (self.valid, self.row, self.data)))


@dataclass(frozen=True)
class Circuit:
    """A built array.

    Ports: ``folds`` and ``steps`` (vectors in a fold) are held at the inputs from cycle 0 on, in which the first
    operand enters. ``valid_*`` and ``value_*`` are the results: of each column, or of each PE where outputs
    have ports of their own.

    The memories beside the array: ``left[fold, step]`` holds the elements that enter the rows, the first row's
    lowest; ``top`` those that enter the columns, at ``[fold, step]``, or ``[fold, row]`` for stationary weights, of
    which all rows lie at ``[fold, 0]``, the first one lowest, where the rows are multicast.
    """

    block: pyrtl.Block
    left: pyrtl.MemBlock
    top: pyrtl.MemBlock


@dataclass(frozen=True)
class SystolicArray:
    """What is fixed when the array is built.

    Attributes:
        rows, columns: its size.
        stationary: what stays in the PEs.
        overlap: a fold follows directly behind the one before.
        preload: weights load behind those in use.
        hop: registers that a partial sum passes in each row.
        rows_multicast, columns_multicast: there are no registers along that axis.
        tree_registers: further ones in the adder trees of multicast rows.
        drains: outputs leave through the columns' ends.
        exit_registers: registers between the array and the result ports.
        operand_bits, sum_bits: widths; operands are signed.
    """

    rows: int
    columns: int
    stationary: Literal["weight", "output"]
    overlap: bool = False
    preload: bool = False
    hop: int = 1
    rows_multicast: bool = False
    columns_multicast: bool = False
    tree_registers: int = 0
    drains: bool = False
    exit_registers: int = 0
    operand_bits: int = 8
    sum_bits: int = 32

    @property
    def row_hop(self) -> int:
        """Registers from row to row."""
        return 0 if self.rows_multicast else self.hop

    @property
    def column_hop(self) -> int:
        """Registers from column to column."""
        return 0 if self.columns_multicast else 1

    @property
    def weights_come_at_once(self) -> bool:
        """Whether stationary weights are not loaded row by row."""
        return self.rows_multicast and self.stationary == "weight"

    def build(self) -> Circuit:
        """Build the circuit."""
        block = pyrtl.Block()
        with pyrtl.set_working_block(block):
            builder = _WeightStationary(self) if self.stationary == "weight" else _OutputStationary(self)
            builder.build()
        return Circuit(block, builder.left, builder.top)


def address(fold: int, step: int) -> int:
    """Place of an entry in a circuit's memories."""
    return (fold << STEP_BITS) + step


class _Counter:
    """A register that counts up by a wire's value."""

    def __init__(self, bits: int) -> None:
        self.value = pyrtl.Register(bits)

    def add(self, amount: pyrtl.WireVector) -> None:
        self.value.next <<= (self.value + amount)[: len(self.value)]

    def cycle_through(self, moves: pyrtl.WireVector, is_last: pyrtl.WireVector) -> None:
        zero = pyrtl.Const(0, len(self.value))
        self.value.next <<= pyrtl.select(moves & ~is_last, (self.value + 1)[: len(self.value)],
                                         pyrtl.select(moves, zero, self.value))


class _Array:
    """Sequencer of the streamed operands, edges, and what the two kinds of array share."""

    def __init__(self, shape: SystolicArray) -> None:
        self.shape = shape
        bits = shape.operand_bits
        self.folds, self.steps = pyrtl.Input(FOLD_BITS + 1, "folds"), pyrtl.Input(STEP_BITS + 1, "steps")
        self.left = pyrtl.MemBlock(shape.rows * bits, FOLD_BITS + STEP_BITS, "left", asynchronous=True)
        at_once = shape.rows if shape.weights_come_at_once else 1
        self.top = pyrtl.MemBlock(at_once * shape.columns * bits, FOLD_BITS + STEP_BITS, "top", asynchronous=True)
        # Folds whose vectors have all entered; folds whose results have all come out, the present cycle's included.
        self.entered, self._completed = _Counter(FOLD_BITS + 1), _Counter(FOLD_BITS + 1)
        self.last_result = pyrtl.WireVector(1)
        self.completed = (self._completed.value + self.last_result)[: FOLD_BITS + 1]
        self._completed.add(self.last_result)

    @cached_property
    def begun(self) -> pyrtl.WireVector:
        """Folds whose first vector has entered, the present cycle's included."""
        return (self.entered.value + self.entering)[: FOLD_BITS + 1]

    def sequence_steps(self, may_begin: pyrtl.WireVector) -> Token:
        """Let the vectors of fold after fold enter. Returns the token without its data."""
        in_fold, step = pyrtl.Register(1), _Counter(STEP_BITS + 1)
        is_free = may_begin & (self.entered.value < self.folds)
        if not self.shape.overlap:
            is_free = is_free & (self.completed == self.entered.value)
        self.entering = in_fold | is_free
        is_last = step.value + 1 == self.steps
        in_fold.next <<= self.entering & ~is_last
        step.cycle_through(self.entering, is_last)
        self.entered.add(self.entering & is_last)
        self.step_address = pyrtl.concat(self.entered.value[:FOLD_BITS], step.value[:STEP_BITS])
        return Token(self.entering, self.entering & ~in_fold, self.entering & is_last, pyrtl.Const(0, 1))

    def elements(self, word: pyrtl.WireVector, count: int) -> list[pyrtl.WireVector]:
        """Cut what a memory gives into the elements of the rows or columns."""
        bits = self.shape.operand_bits
        return [word[i * bits : (i + 1) * bits] for i in range(count)]

    def at_rows(self, control: Token, row_hop: int) -> list[Token]:
        """Tokens at the first PE of each row: the skew of the left edge."""
        data = self.elements(self.left[self.step_address], self.shape.rows)
        return [
            Token(control.valid, control.first, control.last, element).later(row * row_hop)
            for row, element in enumerate(data)
        ]

    def product(self, left: pyrtl.WireVector, right: pyrtl.WireVector) -> pyrtl.WireVector:
        """A PE's multiplier."""
        return pyrtl.signed_mult(left, right).sign_extended(self.shape.sum_bits)

    def plus(self, left: pyrtl.WireVector, right: pyrtl.WireVector) -> pyrtl.WireVector:
        """A PE's adder."""
        return (left + right)[: self.shape.sum_bits]

    def result(self, name: str, valid: pyrtl.WireVector, value: pyrtl.WireVector) -> pyrtl.WireVector:
        """Lead a result out. Returns the wire that says it is there."""
        at_port = delayed(valid, self.shape.exit_registers)
        output(f"valid_{name}", at_port)
        output(f"value_{name}", delayed(value, self.shape.exit_registers))
        return at_port


class _WeightStationary(_Array):
    def build(self) -> None:
        shape = self.shape
        if shape.weights_come_at_once:
            self._build_with_trees()
            return
        loaded = _Counter(FOLD_BITS + 1)
        control = self.sequence_steps(may_begin=self.entered.value < loaded.value)
        loads = self._sequence_loads(loaded)
        rows = self.at_rows(control, shape.hop)
        for column in range(shape.columns):
            load = loads[column].later(column * shape.column_hop)
            total: pyrtl.WireVector = pyrtl.Const(0, shape.sum_bits)
            for row in range(shape.rows):
                token = rows[row]
                weight = self._weight(load, row, token)
                total = delayed(self.plus(total, self.product(token.data, weight)), shape.hop)
                load = load.later(shape.hop)
                rows[row] = token.later(shape.column_hop)
            # `token` is that of the lowest row: its sum is the column's, and leaves behind the last registers.
            there = self.result(str(column), delayed(token.valid, shape.hop), total)
            ended = delayed(token.last, shape.hop + shape.exit_registers)
        self.last_result <<= there & ended

    def _build_with_trees(self) -> None:
        shape = self.shape
        rows = self.at_rows(self.sequence_steps(may_begin=pyrtl.Const(1, 1)), shape.row_hop)
        weights = self.elements(self.top[self.step_address], shape.rows * shape.columns)
        for column in range(shape.columns):
            terms = []
            for row in range(shape.rows):
                token, kept = rows[row], pyrtl.Register(shape.operand_bits)
                fresh = delayed(weights[row * shape.columns + column], column * shape.column_hop)
                used = pyrtl.select(token.valid & token.first, fresh, kept)
                kept.next <<= used
                terms.append(self.product(token.data, used))
                rows[row] = token.later(shape.column_hop)
            while len(terms) > 1:
                odd = terms[-1:] if len(terms) % 2 else []
                terms = [self.plus(*pair) for pair in zip(terms[::2], terms[1::2], strict=False)] + odd
            registers = 1 + shape.tree_registers
            there = self.result(str(column), delayed(token.valid, registers), delayed(terms[0], registers))
            ended = delayed(token.last, registers + shape.exit_registers)
        self.last_result <<= there & ended

    def _sequence_loads(self, loaded: _Counter) -> list[Load]:
        """Let the weights of fold after fold enter, row by row. Returns what enters the columns."""
        shape = self.shape
        loading, row = pyrtl.Register(1), _Counter(STEP_BITS)
        if shape.preload:
            # The place behind is free once the fold before has moved out of it: its first vector has entered.
            ready = self.begun
        elif shape.overlap:
            # What overwrites a PE's weight runs behind the last vector that needs it.
            ready = self.entered.value
        else:
            ready = self.completed
        active = loading | ((loaded.value < self.folds) & (ready >= loaded.value))
        is_last = row.value == shape.rows - 1
        loading.next <<= active & ~is_last
        row.cycle_through(active, is_last)
        loaded.add(active & is_last)
        word = self.top[pyrtl.concat(loaded.value[:FOLD_BITS], row.value)]
        return [Load(active, row.value, element) for element in self.elements(word, shape.columns)]

    def _weight(self, load: Load, row: int, token: Token) -> pyrtl.WireVector:
        """Weight registers of a PE. Returns what it multiplies with in this cycle."""
        mine = load.valid & (load.row == row)
        kept = pyrtl.Register(self.shape.operand_bits)
        if not self.shape.preload:
            kept.next <<= pyrtl.select(mine, load.data, kept)
            return kept
        behind = pyrtl.Register(self.shape.operand_bits)
        behind.next <<= pyrtl.select(mine, load.data, behind)
        used = pyrtl.select(token.valid & token.first, behind, kept)
        kept.next <<= used
        return used


class _OutputStationary(_Array):
    def build(self) -> None:
        shape = self.shape
        begins = pyrtl.WireVector(1)
        control = self.sequence_steps(may_begin=self._chain_is_free(begins))
        begins <<= control.first
        rows = self.at_rows(control, shape.row_hop)
        for column, element in enumerate(self.elements(self.top[self.step_address], shape.columns)):
            down, finished = delayed(element, column * shape.column_hop), []
            for row in range(shape.rows):
                token = rows[row]
                finished.append(self._finished(token, down))
                down = delayed(down, shape.row_hop)
                rows[row] = token.later(shape.column_hop)
            if shape.drains:
                last_result = self._chain(column, finished)
            else:
                for row, (there, value) in enumerate(finished):
                    last_result = self.result(f"{row}_{column}", there, value)
        self.last_result <<= last_result

    def _finished(self, token: Token, down: pyrtl.WireVector) -> tuple[pyrtl.WireVector, pyrtl.WireVector]:
        """Accumulator of a PE. Returns whether its output was finished in the last cycle, and the output."""
        total, kept = pyrtl.Register(self.shape.sum_bits), pyrtl.Register(self.shape.sum_bits)
        before = pyrtl.select(token.first, pyrtl.Const(0, self.shape.sum_bits), total)
        after = self.plus(before, self.product(token.data, down))
        total.next <<= pyrtl.select(token.valid, after, total)
        # The next fold may come directly behind, so the finished output has a register of its own.
        kept.next <<= pyrtl.select(token.last, after, kept)
        return delayed(token.last, 1), kept

    def _chain(self, column: int, finished: list[tuple[pyrtl.WireVector, pyrtl.WireVector]]) -> pyrtl.WireVector:
        """Lead a column's outputs out at the bottom. Returns whether the last of them, the top one's, is there."""
        capture = finished[-1][0]
        there: pyrtl.WireVector = pyrtl.Const(0, 1)
        is_top: pyrtl.WireVector = pyrtl.Const(0, 1)
        value: pyrtl.WireVector = pyrtl.Const(0, self.shape.sum_bits)
        for row, (_, own) in enumerate(finished):
            there = delayed(there | capture, 1)
            is_top = delayed(capture if row == 0 else is_top & ~capture, 1)
            value = delayed(pyrtl.select(capture, own, value), 1)
        self.result(str(column), there, value)
        return delayed(there & is_top, self.shape.exit_registers)

    def _chain_is_free(self, begins: pyrtl.WireVector) -> pyrtl.WireVector:
        """Whether a fold may begin: its outputs must not catch up with those in the chains, a row a cycle."""
        if not self.shape.drains:
            return pyrtl.Const(1, 1)
        pause = pyrtl.Register(STEP_BITS + 1)
        is_free = pause == 0
        counted = pyrtl.select(is_free, pause, (pause - 1)[: STEP_BITS + 1])
        pause.next <<= pyrtl.select(begins, pyrtl.Const(self.shape.rows - 1, STEP_BITS + 1), counted)
        return is_free
