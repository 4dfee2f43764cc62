"""Bit Fusion's array and its simulator's rules, BitMoD's DRAM rule: worked by hand, and against plain loops.

The authors' tables of Bit Fusion carry no licence, so none of their rows is here: every number below follows from
the stated rules. The tables themselves are compared by ``python -m benchmarks.reference``.
"""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.reference.comparison import compare
from benchmarks.reference.rtl import bit_fusion_array
from simulator.counting_rules import bit_fusion_simulator as rules
from simulator.counting_rules.bitmod import BUFFER_BITS, dram_counts
from simulator.errors import MappingError, PrecisionError

WIDTHS = st.sampled_from([2, 3, 4, 5, 8])


@given(
    st.tuples(*[st.integers(1, 8)] * 2), WIDTHS, WIDTHS, st.integers(1, 5), st.integers(1, 90), st.integers(1, 20)
)
def test_array_cycles_follow_the_stated_formula(shape, inputs, weights, vectors, reduced, outputs):
    rows, columns = shape
    rounded = [1 << (bits - 1).bit_length() for bits in (inputs, weights)]
    products = (8 // rounded[0]) * (8 // rounded[1])
    chunks = -(-reduced // (rows * products))
    feed = -(-outputs // columns) * vectors * chunks
    row = {
        "N": rows, "M": columns, "pmax": 8, "pmin": 2, "a_bits": inputs, "w_bits": weights, "P": vectors,
        "K": reduced, "OC": outputs, "products_per_fu_per_cycle": products, "k_chunks": chunks, "feed_cycles": feed,
        "first_valid_cycle": chunks + rows, "last_valid_cycle": feed + rows + columns - 1,
        "total_cycles": feed + rows + columns, "outputs_match": 1,
    }
    comparison = compare([{name: str(value) for name, value in row.items()}], bit_fusion_array)
    assert comparison.is_exact, comparison.mismatches


def machine(**changes):
    given_or_default = {
        "rows": 4, "columns": 8, "max_bits": 8, "min_bits": 2, "dram_bits_per_cycle": 64,
        "buffer_bits": {"weight": 4096, "input": 8192, "output": 16384}, **changes,
    }
    return rules.Machine(**given_or_default)


def tiling(order="OC>IC>B>OH>OW", trips=None, **extent):
    return rules.Tiling(
        extent={loop: extent.get(loop, 1) for loop in rules.LOOPS},
        trips={loop: (trips or {}).get(loop, 1) for loop in rules.LOOPS},
        order=tuple(order.split(">")),
    )


def test_a_layer_counted_by_hand():
    """3×3 kernel, stride 1, 4-bit weights and inputs: four products a unit, 16 channels across the rows."""
    work = rules.Work(kernel=3, stride=1, input_bits=4, weight_bits=4, im2col=False)
    tile = tiling(OW=2, OH=2, IC=16, OC=5, trips={"IC": 2, "OW": 3})
    assert rules.products_per_unit(machine(), work) == 4
    # ⌈9·16 / 16⌉·16·5·4; (2+2)·(2+2)·16·4; 2·2·⌈5/8⌉·8·32
    assert rules.tile_bits(machine(), work, tile) == {"weight": 2880, "input": 1024, "output": 1024}
    with pytest.raises(MappingError, match="weight: a tile takes 2880 bits, half the buffer is 2048"):
        rules.count(machine(), work, tile)
    roomy = machine(buffer_bits={"weight": 5760, "input": 8192, "output": 16384})
    counts = rules.count(roomy, work, tile)
    # 6 tiles of 2·2·9·⌈5/8⌉·⌈16/16⌉ cycles.
    assert counts.compute_cycles == 216
    # Innermost OW (3), then IC (2). Weights: 2880, ·2 = 5760 does not fit 2880. Inputs: 1024·3 = 3072, ·2 = 6144 does
    # not fit 4096. Outputs: 1024·3 = 3072 and do not depend on IC.
    assert (counts.dram_read_bits, counts.dram_write_bits) == (5760 + 6144 + 3072, 3072)
    # First: 2880 + 3072 + 3072 = 9024 bits, 141 cycles; last: 3072 bits, 48 cycles; the rest hides.
    assert counts.stall_cycles == 141 + 48
    assert counts.total_cycles == 216 + 189
    products, results = 6 * 4 * 9 * 16 * 5, 6 * 4 * 5 * 32
    assert counts.buffer_read_bits == {"weight": products * 4, "input": products * 4, "output": 3072 + results}
    assert counts.buffer_write_bits == {"weight": 5760, "input": 6144, "output": 3072 + results}
    energy = rules.PAPER_ENERGY
    parts = (energy.core_pj(counts), energy.buffers_pj(counts), energy.dram_pj(counts))
    assert energy.total_pj(counts) == pytest.approx(sum(parts))
    assert parts[0] == pytest.approx(216 * 235.104)
    assert parts[2] == 15 * (5760 + 6144 + 2 * 3072)


def test_transfers_that_do_not_hide_stall():
    work = rules.Work(kernel=1, stride=1, input_bits=8, weight_bits=8, im2col=False)
    tile = tiling(order="IC>OC>B>OH>OW", IC=4, OC=8, trips={"IC": 4, "OC": 4})
    counts = rules.count(machine(dram_bits_per_cycle=1, buffer_bits={"weight": 512, "input": 512, "output": 512}),
                         work, tile)
    # Weights 256, then ·16; inputs 32·4; outputs 256, ·4 exceeds 256, so ·4 again.
    assert (counts.dram_read_bits, counts.dram_write_bits) == (4096 + 128 + 4096, 4096)
    first, last = 256 + 128 + 256, 256
    assert counts.total_cycles == 8320 + 4096
    assert counts.stall_cycles == (12416 - first - last - counts.compute_cycles) + first + last


def test_one_bit_operands_compute_as_two_bits_and_move_as_one():
    one, two = (rules.Work(kernel=1, stride=1, input_bits=8, weight_bits=bits, im2col=False) for bits in (1, 2))
    tile = tiling(IC=4, OC=8)
    counts = [rules.count(machine(), work, tile) for work in (one, two)]
    assert counts[0].compute_cycles == counts[1].compute_cycles
    assert 2 * counts[0].buffer_write_bits["weight"] == counts[1].buffer_write_bits["weight"]


def test_first_convolutions_spread_their_taps_over_the_rows():
    plain, im2col = (
        rules.Work(kernel=3, stride=2, input_bits=8, weight_bits=8, im2col=flag) for flag in (False, True)
    )
    tile = tiling(IC=3, OC=8, OW=2, OH=2)
    cycles = [rules.count(machine(), work, tile).compute_cycles for work in (plain, im2col)]
    assert cycles == [4 * 9 * 1, 4 * math.ceil(27 / 4)]
    assert rules.tile_bits(machine(), plain, tile)["input"] == 5 * 5 * 3 * 8
    assert rules.tile_bits(machine(), im2col, tile)["input"] == 4 * 9 * 3 * 8


def test_what_the_rules_do_not_know_is_refused():
    work = rules.Work(kernel=1, stride=1, input_bits=16, weight_bits=8, im2col=False)
    with pytest.raises(PrecisionError, match="at most 8 bits"):
        rules.count(machine(), work, tiling())
    with pytest.raises(MappingError, match="five loops"):
        tiling(order="OC>IC>B>OH")
    with pytest.raises(MappingError, match=r"trips\.OC=0"):
        tiling(trips={"OC": 0})


@given(st.permutations(rules.LOOPS), st.lists(st.integers(1, 4), min_size=5, max_size=5))
def test_streams_equal_a_walk_over_the_loops_where_nothing_stays(order, numbers):
    """With buffers of exactly two tiles, a stream moves once for each change of any loop from its innermost one out."""
    work = rules.Work(kernel=1, stride=1, input_bits=8, weight_bits=8, im2col=False)
    trips = dict(zip(rules.LOOPS, numbers, strict=True))
    tile = tiling(order=">".join(order), IC=4, OC=8, trips=trips)
    bits = rules.tile_bits(machine(), work, tile)
    tight = machine(buffer_bits={operand: 2 * size for operand, size in bits.items()})
    counts = rules.count(tight, work, tile)
    for operand, key in (("weight", "weight"), ("input", "input")):
        moving = [loop for loop in order if loop in rules.DEPENDS_ON[operand] and trips[loop] > 1]
        # Loops inside the innermost that changes the tile leave it in place.
        outside = order[: order.index(moving[-1]) + 1] if moving else ()
        assert counts.buffer_write_bits[key] == bits[operand] * math.prod(trips[loop] for loop in outside)


def test_bitmod_rereads_what_moves_less():
    small, large = Fraction(BUFFER_BITS), Fraction(3 * BUFFER_BITS)
    assert dram_counts(small, 8 * large, 0).weight_reads == 1
    both = dram_counts(large, 2 * small, 0)
    # Weights twice (6 + 2 buffers) or inputs three times (3 + 6).
    assert (both.weight_reads, both.input_reads, both.cycles) == (2, 1, 8 * BUFFER_BITS // 256)
    assert dram_counts(Fraction(1), Fraction(1), 1).cycles == 3
