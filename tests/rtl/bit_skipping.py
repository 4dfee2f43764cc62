"""RTL of a dot-product unit that sends only some of the bits of its inputs: what is left to send decides when it ends.

Each lane keeps the bits that it has yet to send, multiplies its weight by the one that it sends in this cycle (a power
of two) and adds it to the others'. Which bits go in a cycle is wired in:

- ``zero_bits``: the lowest set bit of each lane;
- ``two_stage``: the same, of the lanes whose bit lies less than ``reach`` places above the lowest one of all;
- ``zero_columns``: the lowest place at which any lane has a bit, of all lanes;
- ``leading_bits``: the next place, from the lowest up to the highest that any lane needs. In two's complement the last
  one sent carries the sign.

The unit takes whole operands at its ports and holds no count of cycles: a step ends when nothing is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyrtl

from tests.rtl.wiring import accumulate, held, output, signed_sum

Mode = Literal["zero_bits", "two_stage", "zero_columns", "leading_bits"]


@dataclass(frozen=True)
class SkippingUnit:
    """What is fixed when the unit is built.

    Attributes:
        mode: which bits are sent.
        lanes: products in parallel.
        magnitude: whether inputs are kept as absolute value and sign, else in two's complement.
        reach: ``two_stage``: places that a lane's own shifter reaches.
        operand_bits: width of weights and inputs.
        pipeline: registers between the adder tree and the accumulator.
        accumulator_bits: width of the sum.
    """

    mode: Mode
    lanes: int
    magnitude: bool
    reach: int = 1
    operand_bits: int = 8
    pipeline: int = 0
    accumulator_bits: int = 40

    def build(self) -> pyrtl.Block:
        """Build the circuit (ports: ``bench.run_dot_products``); ``weight_signed``, ``input_signed`` say what codes
        are."""
        block = pyrtl.Block()
        with pyrtl.set_working_block(block):
            self._build()
        return block

    def _build(self) -> None:
        bits = self.operand_bits
        start, opens, closes = (pyrtl.Input(1, name) for name in ("start", "opens", "closes"))
        weight_signed, input_signed = (pyrtl.Input(1, f"{name}_signed") for name in ("weight", "input"))
        in_step = pyrtl.Register(1)
        working = start | in_step
        # Inside a step the ports may show anything: what counts is what was taken in its first cycle.
        closing = held(closes, in_step)
        weights = _lanes(held(pyrtl.Input(self.lanes * bits, "weights"), in_step), bits)
        inputs = _lanes(held(pyrtl.Input(self.lanes * bits, "inputs"), in_step), bits)
        negative = [word[-1] & input_signed for word in inputs]
        if self.magnitude:
            pairs = zip(inputs, negative, strict=True)
            patterns = [pyrtl.select(sign, (~word + 1)[:bits], word) for word, sign in pairs]
        else:
            patterns = inputs

        is_top = None
        if self.mode == "leading_bits":
            # All lanes go through the same places: one register says which are left.
            left, kept = _remaining(self._places(patterns, negative, input_signed), in_step)
            now = _lowest(left)
            rest = [left & ~now]
            kept.next <<= rest[0]
            sent = [pattern & now for pattern in patterns]
            is_top = (rest[0] == 0) & input_signed
        else:
            lefts, registers = zip(*(_remaining(pattern, in_step) for pattern in patterns), strict=True)
            sent = self._choose(list(lefts))
            rest = [left & ~bit for left, bit in zip(lefts, sent, strict=True)]
            for register, following in zip(registers, rest, strict=True):
                register.next <<= following
        is_last = ~pyrtl.or_all_bits(pyrtl.concat_list(rest))
        in_step.next <<= working & ~is_last

        terms = []
        for lane in range(self.lanes):
            weight = pyrtl.concat(weights[lane][-1] & weight_signed, weights[lane])
            product = pyrtl.signed_mult(weight, pyrtl.concat(pyrtl.Const(0, 1), sent[lane]))
            if self.magnitude:
                turned = negative[lane]
            elif is_top is not None:
                turned = is_top
            else:
                turned = sent[lane][-1] & input_signed
            minus = (~product.sign_extended(len(product) + 1) + 1)[: len(product) + 1]
            terms.append(pyrtl.select(turned, minus, product.sign_extended(len(product) + 1)))
        term = signed_sum(terms).sign_extended(self.accumulator_bits)
        output("ready", working & is_last)
        accumulate(
            term, arrives=working, begins=start & ~in_step & opens, ends=working & is_last & closing,
            pipeline=self.pipeline,
        )

    def _choose(self, lefts: list[pyrtl.WireVector]) -> list[pyrtl.WireVector]:
        """What each lane sends of what it has left."""
        together = lefts[0]
        for left in lefts[1:]:
            together = together | left
        first = _lowest(together)
        if self.mode == "zero_columns":
            return [left & first for left in lefts]
        own = [_lowest(left) for left in lefts]
        if self.mode == "zero_bits":
            return own
        window = first
        for place in range(1, min(self.reach, self.operand_bits)):
            window = window | pyrtl.concat(first, pyrtl.Const(0, place))[: self.operand_bits]
        return [bit & window for bit in own]

    def _places(
        self, patterns: list[pyrtl.WireVector], negative: list[pyrtl.WireVector], is_signed: pyrtl.WireVector
    ) -> pyrtl.WireVector:
        """Places from the lowest to the highest that any lane needs, the lowest at least."""
        bits = self.operand_bits
        needed = pyrtl.Const(0, bits)
        for pattern, sign in zip(patterns, negative, strict=True):
            turned = pattern if self.magnitude else pyrtl.select(sign, ~pattern, pattern)
            needed = needed | turned
        below = [pyrtl.or_all_bits(needed[place:]) for place in range(bits)]
        filled = pyrtl.concat_list(below)
        if not self.magnitude:
            with_sign = pyrtl.concat(filled[:-1], pyrtl.Const(1, 1))
            filled = pyrtl.select(is_signed, with_sign, filled)
        return filled | 1


def _lanes(words: pyrtl.WireVector, bits: int) -> list[pyrtl.WireVector]:
    return [words[start : start + bits] for start in range(0, len(words), bits)]


def _remaining(
    pattern: pyrtl.WireVector, in_step: pyrtl.WireVector
) -> tuple[pyrtl.WireVector, pyrtl.Register]:
    """A pattern in the first cycle of a step, later what a register holds of it; and that register."""
    kept = pyrtl.Register(len(pattern))
    return pyrtl.select(in_step, kept, pattern), kept


def _lowest(word: pyrtl.WireVector) -> pyrtl.WireVector:
    """The lowest set bit alone."""
    return word & (~word + 1)[: len(word)]
