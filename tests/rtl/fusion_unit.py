"""RTL of a Fusion Unit (Sharma et al., Bit Fusion, ISCA 2018): sixteen BitBricks that join for wide operands.

A BitBrick multiplies two bits of a weight with two bits of an input; each of the two has a sign bit beside it,
set where the brick sits at the top of a signed operand. A brick has four coordinates of one bit, a high and a low
one for the weight and the same for the input. An 8-bit weight spreads over both of its coordinates (which half of
it, which half of that half), a 4-bit one over the low one alone, and a 2-bit one sits in a single brick; coordinates
that no operand spreads over number the *lanes*, products that are worked on side by side. The tree adds the four
bricks that differ in the low coordinates, then the four sums that differ in the high ones. Where an operand spreads
over a coordinate the tree shifts the upper half to its place, and where the coordinate numbers lanes it just adds.

Operands of more than 8 bits come in two bytes, in time: the unit is an 8-bit unit for each pair of bytes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pyrtl

from tests.rtl.wiring import accumulate, held, output, shifted, signed_sum

BRICK_BITS = 2
BYTE = 8
BRICKS = 16
# Either operand needs so many bits a cycle: sixteen bricks, each with digits of its own, or fewer.
CYCLE_BITS = BRICKS * BRICK_BITS
# With 16-bit operands there are at most four lanes, each with two bytes.
WORD_BITS = 2 * CYCLE_BITS
SIZE_BITS = 5
ACCUMULATOR_BITS = 48


@dataclass(frozen=True)
class Width:
    """How the unit treats an operand, decoded from its bits. One-bit wires.

    ``spans_low``: 4 bits or more, spread over the low coordinate; ``spans_high``: 8 or more, also over the high
    one; ``in_time``: 16, in two bytes.
    """

    spans_low: pyrtl.WireVector
    spans_high: pyrtl.WireVector
    in_time: pyrtl.WireVector


def slot_bits(bits: int) -> int:
    """Distance of two operands at the port: their width, rounded up to one that the unit knows."""
    return next(known for known in (2, 4, 8, 16) if bits <= known)


def lanes(weight_bits: int, input_bits: int) -> int:
    """Products side by side: the bricks over the bricks that one product takes in a cycle."""
    bricks = 1
    for bits in (weight_bits, input_bits):
        bricks *= min(slot_bits(bits), BYTE) // BRICK_BITS
    return BRICKS // bricks


def build(pipeline: int = 0) -> pyrtl.Block:
    """Build the circuit, with ``pipeline`` registers between tree and accumulator (ports: ``bench.run_dot_products``).

    Operands stand at ``weights`` and ``inputs`` side by side, each in a slot of ``slot_bits``, extended to it by
    its sign; ``weight_bits``, ``input_bits``, ``weight_signed`` and ``input_signed`` say what they are.
    """
    block = pyrtl.Block()
    with pyrtl.set_working_block(block):
        _build(pipeline)
    return block


def _build(pipeline: int) -> None:
    start, opens, closes = (pyrtl.Input(1, name) for name in ("start", "opens", "closes"))
    in_step = pyrtl.Register(1)
    working = start | in_step
    closing = held(closes, in_step)
    width = {name: _decode(pyrtl.Input(SIZE_BITS, f"{name}_bits")) for name in ("weight", "input")}
    words = {name: held(pyrtl.Input(WORD_BITS, f"{name}s"), in_step) for name in width}

    # Which byte of each operand is worked on: the input's bytes are the inner loop.
    byte = {name: pyrtl.Register(1) for name in width}
    at_top = {name: byte[name] == width[name].in_time for name in width}
    byte["input"].next <<= working & ~at_top["input"]
    next_weight_byte = pyrtl.select(at_top["input"], ~at_top["weight"], byte["weight"])
    byte["weight"].next <<= working & next_weight_byte
    is_last = at_top["weight"] & at_top["input"]
    in_step.next <<= working & ~is_last

    is_signed = {name: pyrtl.Input(1, f"{name}_signed") & at_top[name] for name in width}
    cycle_words = {name: _byte_of_each(words[name], byte[name], width[name].in_time) for name in width}
    product = _tree(cycle_words, width, is_signed)
    bytes_up = byte["weight"] + byte["input"]
    wide = product.sign_extended(ACCUMULATOR_BITS)
    term = pyrtl.mux(
        bytes_up, *(shifted(wide, count * BYTE)[:ACCUMULATOR_BITS] for count in range(3)),
        default=pyrtl.Const(0, ACCUMULATOR_BITS),
    )

    output("ready", working & is_last)
    accumulate(
        term, arrives=working, begins=start & ~in_step & opens, ends=working & is_last & closing, pipeline=pipeline
    )


def _decode(bits: pyrtl.WireVector) -> Width:
    return Width(spans_low=bits > BRICK_BITS, spans_high=bits > 2 * BRICK_BITS, in_time=bits > BYTE)


def _byte_of_each(
    word: pyrtl.WireVector, byte: pyrtl.WireVector, in_time: pyrtl.WireVector
) -> pyrtl.WireVector:
    """Pick what the bricks see: the lower or upper byte of each 16-bit slot, or else the word as it stands."""
    slots = [word[start : start + 2 * BYTE] for start in range(0, WORD_BITS, 2 * BYTE)]
    picked = pyrtl.concat_list([pyrtl.select(byte, slot[BYTE:], slot[:BYTE]) for slot in slots])
    return pyrtl.select(in_time, picked, word[:CYCLE_BITS])


def _tree(
    words: dict[str, pyrtl.WireVector], width: dict[str, Width], is_signed: dict[str, pyrtl.WireVector]
) -> pyrtl.WireVector:
    """Add the bricks' products, each half of an operand at its place."""

    def joined(low: pyrtl.WireVector, high: pyrtl.WireVector, spans: pyrtl.WireVector, places: int) -> pyrtl.WireVector:
        lifted = high.sign_extended(len(high) + places)
        return signed_sum((low, pyrtl.select(spans, shifted(high, places), lifted)))

    quads = {}
    for highs in itertools.product((0, 1), repeat=2):
        brick = {lows: _brick(highs, lows, words, width, is_signed) for lows in itertools.product((0, 1), repeat=2)}
        of_weight = [joined(brick[0, i], brick[1, i], width["weight"].spans_low, BRICK_BITS) for i in (0, 1)]
        quads[highs] = joined(*of_weight, width["input"].spans_low, BRICK_BITS)
    of_weight = [joined(quads[0, i], quads[1, i], width["weight"].spans_high, 2 * BRICK_BITS) for i in (0, 1)]
    return joined(*of_weight, width["input"].spans_high, 2 * BRICK_BITS)


def _brick(
    highs: tuple[int, int], lows: tuple[int, int], words: dict[str, pyrtl.WireVector], width: dict[str, Width],
    is_signed: dict[str, pyrtl.WireVector],
) -> pyrtl.WireVector:
    """Multiply two bits by two bits. ``highs`` and ``lows`` are the brick's coordinates of weight and input."""
    factors = []
    for own, name in enumerate(("weight", "input")):
        other = "input" if name == "weight" else "weight"
        # Where the digit stands at the port depends on both widths.
        digit = _by_width(width[name], [
            _by_width(width[other], [_digit_at(words[name], highs, lows, own, mine, theirs) for theirs in range(3)])
            for mine in range(3)
        ])
        # A brick is at the top of its operand where it holds the upper half at each level that the operand spans.
        is_top = (~width[name].spans_low | lows[own]) & (~width[name].spans_high | highs[own])
        factors.append(pyrtl.concat(is_signed[name] & is_top & digit[-1], digit))
    return pyrtl.signed_mult(*factors)


def _digit_at(
    word: pyrtl.WireVector, highs: tuple[int, int], lows: tuple[int, int], own: int, mine: int, theirs: int
) -> pyrtl.WireVector:
    """Pick a brick's two bits of operand ``own`` (0 weight, 1 input) from the port.

    ``mine`` and ``theirs`` are the levels of this operand and of the other one: 0, 1, 2 for 2, 4, 8 bits.
    """
    lane, digit = 0, 0
    for operand in (0, 1):
        level = mine if operand == own else theirs
        for coordinate, is_spanned in ((highs[operand], level == 2), (lows[operand], level >= 1)):
            if not is_spanned:
                lane = 2 * lane + coordinate
            elif operand == own:
                digit = 2 * digit + coordinate
    start = ((lane << mine) + digit) * BRICK_BITS
    return word[start : start + BRICK_BITS]


def _by_width(width: Width, wires: list[pyrtl.WireVector]) -> pyrtl.WireVector:
    """Choose among the wires for 2, 4 and 8 bits."""
    return pyrtl.select(width.spans_high, wires[2], pyrtl.select(width.spans_low, wires[1], wires[0]))
