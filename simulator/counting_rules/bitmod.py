"""DRAM cycles as the BitMoD simulator counts them (Chen et al., HPCA 2025): two on-chip buffers decide refetches.

Own code, from the stated rules: a matrix product reads its weights and inputs and writes its outputs in 16 bits,
over 256 bits a cycle, each operand rounded up to whole cycles. Where neither operand fits its buffer, one of them
is read again for each buffer-load of the other, whichever moves less. Widths may be fractions: scales are counted
as a part of each weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

BUFFER_BITS = 512 * 1024 * 8
DRAM_BITS_PER_CYCLE = 256
OUTPUT_BITS = 16


@dataclass(frozen=True)
class DramCounts:
    """Cycles at DRAM, and how often weights and inputs are read."""

    cycles: int
    weight_reads: int
    input_reads: int


def dram_counts(weight_bits: Fraction, input_bits: Fraction, output_count: int) -> DramCounts:
    """Count one matrix product, whose weights and inputs take so many bits in all."""
    weight_reads = input_reads = 1
    if weight_bits > BUFFER_BITS and input_bits > BUFFER_BITS:
        again_weight, again_input = math.ceil(input_bits / BUFFER_BITS), math.ceil(weight_bits / BUFFER_BITS)
        if weight_bits * again_weight + input_bits <= weight_bits + input_bits * again_input:
            weight_reads = again_weight
        else:
            input_reads = again_input
    streams = (weight_bits * weight_reads, input_bits * input_reads, Fraction(output_count * OUTPUT_BITS))
    return DramCounts(
        cycles=sum(math.ceil(bits / DRAM_BITS_PER_CYCLE) for bits in streams),
        weight_reads=weight_reads,
        input_reads=input_reads,
    )
