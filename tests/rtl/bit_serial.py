"""RTL of a bit-serial dot-product unit: parallel lanes, one or both operands a digit at a time.

With one serial operand every lane multiplies a whole word with a digit (Stripes streams the inputs, UNPU the
weights); with two, a digit with a digit, in a loop over the input's digits inside a loop over the weight's (Loom).
The sum over the lanes is shifted to its digits' places and accumulated. Digits come lowest first. The highest
digit of a signed operand is a two's-complement number itself, and so the only one that can count negative.

The unit takes whole operands at its ports, keeps them until it has gone through their digits, and decodes the
widths that it is told into numbers of digits: how long a step takes is decided in here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyrtl

from tests.rtl.wiring import accumulate, held, output, shifted, signed_sum

OperandName = Literal["weight", "input"]
SIZE_BITS = 6


@dataclass(frozen=True)
class SerialUnit:
    """What is fixed when the unit is built.

    Attributes:
        serial: operands that go digit by digit.
        lanes: products in parallel.
        digit_bits: bits of a digit.
        operand_bits: widest operand.
        power_of_two_widths: the control only knows widths of ``least_bits`` times 1, 2, 4, …
        least_bits: narrowest width that the control knows.
        pipeline: registers between the adder tree and the accumulator.
        accumulator_bits: width of the sum.
    """

    serial: tuple[OperandName, ...]
    lanes: int
    digit_bits: int
    operand_bits: int = 16
    power_of_two_widths: bool = False
    least_bits: int = 1
    pipeline: int = 0
    accumulator_bits: int = 48

    @property
    def digit_places(self) -> int:
        """Digits of the widest operand."""
        return -(-self.widths()[-1] // self.digit_bits)

    @property
    def word_bits(self) -> int:
        """Width of an operand at the ports: whole digits."""
        return self.digit_places * self.digit_bits

    def widths(self) -> list[int]:
        """Widths that the control knows, ascending."""
        if not self.power_of_two_widths:
            return list(range(self.least_bits, max(self.least_bits, self.operand_bits) + 1))
        known = [self.least_bits]
        while known[-1] < self.operand_bits:
            known.append(2 * known[-1])
        return known

    def build(self) -> pyrtl.Block:
        """Build the circuit (ports: ``bench.run_dot_products``).

        Operands stand at ``weights`` and ``inputs``, a word each lane, extended to ``word_bits`` by their sign;
        ``weight_bits``, ``input_bits``, ``weight_signed`` and ``input_signed`` say what they are.
        """
        block = pyrtl.Block()
        with pyrtl.set_working_block(block):
            self._build()
        return block

    def _build(self) -> None:
        start, opens, closes = (pyrtl.Input(1, name) for name in ("start", "opens", "closes"))
        in_step = pyrtl.Register(1)
        working = start | in_step
        # Inside a step the ports may show anything: what counts is what was taken in its first cycle.
        closing = held(closes, in_step)
        words = {
            name: held(pyrtl.Input(self.lanes * self.word_bits, f"{name}s"), in_step)
            for name in ("weight", "input")
        }
        place: dict[str, pyrtl.WireVector] = {}
        at_top: dict[str, pyrtl.WireVector] = {}
        carry = working
        # The input's digits are the inner loop: its counter runs always, the weight's when that one wraps.
        for name in ("input", "weight"):
            place[name], at_top[name] = self._counter(name, carry) if name in self.serial else _parallel()
            carry = carry & at_top[name]
        is_last = at_top["input"] & at_top["weight"]
        in_step.next <<= working & ~is_last

        factors = {name: self._factors(name, words[name], place[name], at_top[name]) for name in words}
        lanes = zip(factors["weight"], factors["input"], strict=True)
        tree = signed_sum(pyrtl.signed_mult(weight, operand) for weight, operand in lanes)
        term = self._to_place(tree, place["weight"], place["input"])

        output("ready", working & is_last)
        accumulate(
            term, arrives=working, begins=start & ~in_step & opens, ends=working & is_last & closing,
            pipeline=self.pipeline,
        )

    def _counter(self, name: str, advance: pyrtl.WireVector) -> tuple[pyrtl.WireVector, pyrtl.WireVector]:
        """Count digits: (place of the present one, whether it is the highest)."""
        widths = self.widths()
        highest = [
            next(-(-width // self.digit_bits) - 1 for width in widths if width >= min(bits, widths[-1]))
            for bits in range(1 << SIZE_BITS)
        ]
        decoder = pyrtl.RomBlock(SIZE_BITS, SIZE_BITS, romdata=highest, asynchronous=True)
        place = pyrtl.Register(SIZE_BITS)
        is_top = place == decoder[pyrtl.Input(SIZE_BITS, f"{name}_bits")]
        following = pyrtl.select(is_top, pyrtl.Const(0, SIZE_BITS), (place + 1)[:SIZE_BITS])
        place.next <<= pyrtl.select(advance, following, place)
        return place, is_top

    def _factors(
        self, name: str, words: pyrtl.WireVector, place: pyrtl.WireVector, is_top: pyrtl.WireVector
    ) -> list[pyrtl.WireVector]:
        """What each lane multiplies in this cycle, one bit wider than the digit (or word), so that it has a sign."""
        is_signed = pyrtl.Input(1, f"{name}_signed")
        factors = []
        for lane in range(self.lanes):
            word = words[lane * self.word_bits : (lane + 1) * self.word_bits]
            if name in self.serial:
                starts = range(0, self.word_bits, self.digit_bits)
                digits = [word[start : start + self.digit_bits] for start in starts]
                word = pyrtl.mux(place, *digits, default=pyrtl.Const(0, self.digit_bits))
            factors.append(pyrtl.concat(is_signed & is_top & word[-1], word))
        return factors

    def _to_place(
        self, tree: pyrtl.WireVector, weight_place: pyrtl.WireVector, input_place: pyrtl.WireVector
    ) -> pyrtl.WireVector:
        wide = tree.sign_extended(self.accumulator_bits)
        places = len(self.serial) * (self.digit_places - 1) + 1
        moved = [shifted(wide, i * self.digit_bits)[: self.accumulator_bits] for i in range(places)]
        where = weight_place + input_place
        return pyrtl.mux(where, *moved, default=pyrtl.Const(0, self.accumulator_bits))


def _parallel() -> tuple[pyrtl.WireVector, pyrtl.WireVector]:
    """Place and mark of an operand that has a single digit: itself."""
    return pyrtl.Const(0, SIZE_BITS), pyrtl.Const(1, 1)
