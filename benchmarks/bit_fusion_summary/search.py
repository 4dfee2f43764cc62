"""The tiling that the Bit Fusion authors' search would choose: fewest cycles, and of those the least energy.

Tiles: batches 1, 2, 4, …; square output tiles 1, 2, 4, …; input channels in powers of two times the array's rows,
output channels times its columns, each also whole; every order of the five loops. The rules' ``count`` is evaluated
for all tiles of an order at once; the tests hold this to trying all with ``count`` itself.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt

from benchmarks.bit_fusion_summary.networks import Shape
from simulator.counting_rules import bit_fusion_simulator as rules
from simulator.errors import MappingError, Problem
from simulator.layer import OPERANDS, Operand

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def work_of(shape: Shape) -> rules.Work:
    """What all tiles of a layer share."""
    return rules.Work(
        kernel=shape.kernel, stride=shape.stride, input_bits=shape.input_bits, weight_bits=shape.weight_bits,
        im2col=shape.im2col,
    )


def candidate_tiles(machine: rules.Machine, shape: Shape, batch: int) -> Ints:
    """Extents in the order of ``rules.LOOPS``, shape (tiles, 5); also those that exceed their buffers."""

    def sizes(unit: int, whole: int) -> list[int]:
        return [*(unit << i for i in range(whole.bit_length()) if unit << i < whole), whole]

    inputs, outputs = sizes(machine.rows, shape.inputs), sizes(machine.columns, shape.outputs)
    found = [
        (b, o, o, ic, oc) for b in sizes(1, batch) for o in sizes(1, shape.output) for ic in inputs for oc in outputs
    ]
    return np.array(found, dtype=np.int64)


def best_tiling(machine: rules.Machine, energy: rules.EnergyTable, shape: Shape, batch: int) -> rules.Tiling:
    """The cheapest tiling of a layer. Raises ``MappingError`` where no tile fits."""
    tiles = candidate_tiles(machine, shape, batch)
    whole = np.array([batch, shape.output, shape.output, shape.inputs, shape.outputs])
    trips = -(-whole // tiles)
    bits = _tile_bits(machine, shape, tiles)
    fits = np.all([2 * bits[operand] <= machine.buffer_bits[operand] for operand in OPERANDS], axis=0)
    if not fits.any():
        raise MappingError(Problem("no tile fits half of its buffer", path="shape", value=str(shape)))
    tiles, trips, bits = tiles[fits], trips[fits], {operand: each[fits] for operand, each in bits.items()}
    best = (math.inf, math.inf)
    found: tuple[int, tuple[rules.Loop, ...]] | None = None
    for order in itertools.permutations(rules.LOOPS):
        cycles, energies = _costs(machine, energy, shape, tiles, trips, bits, order)
        place = int(np.lexsort((energies, cycles))[0])
        if (cycles[place], energies[place]) < best:
            best = float(cycles[place]), float(energies[place])
            found = place, order
    assert found is not None
    place, order = found
    return rules.Tiling(
        extent={loop: int(tiles[place, i]) for i, loop in enumerate(rules.LOOPS)},
        trips={loop: int(trips[place, i]) for i, loop in enumerate(rules.LOOPS)}, order=order,
    )


def _across(machine: rules.Machine, shape: Shape) -> int:
    """Reduced products that the rows of the array add up in a cycle."""
    return machine.rows * rules.products_per_unit(machine, work_of(shape))


def _tile_bits(machine: rules.Machine, shape: Shape, tiles: Ints) -> dict[Operand, Ints]:
    """``rules.tile_bits`` of many tiles."""
    b, ow, oh, ic, oc = tiles.T
    taps, across = shape.kernel**2, _across(machine, shape)
    if shape.im2col:
        inputs = oh * ow * taps * ic * b
    else:
        inputs = ((ow - 1) * shape.stride + shape.kernel) * ((oh - 1) * shape.stride + shape.kernel) * ic * b
    return {
        "weight": -(-taps * ic // across) * across * oc * shape.weight_bits,
        "input": inputs * shape.input_bits,
        "output": oh * ow * -(-oc // machine.columns) * machine.columns * b * rules.OUTPUT_BITS,
    }


def _streams(
    machine: rules.Machine, bits: Ints, operand: Operand, trips: Ints, order: tuple[rules.Loop, ...]
) -> tuple[Ints, Ints]:
    """Bits that an operand moves over the nest, and the most of it that half its buffer held, of many tiles."""
    moved, resident = bits.copy(), bits.copy()
    kept = np.ones(len(bits), dtype=np.bool_)
    for loop in reversed(order):
        multiplies = np.full(len(bits), loop in rules.DEPENDS_ON[operand]) | ~kept
        moved = np.where(multiplies, moved * trips[:, rules.LOOPS.index(loop)], moved)
        kept &= 2 * moved <= machine.buffer_bits[operand]
        resident = np.where(kept, moved, resident)
    return moved, resident


def _costs(
    machine: rules.Machine, energy: rules.EnergyTable, shape: Shape, tiles: Ints, trips: Ints,
    bits: dict[Operand, Ints], order: tuple[rules.Loop, ...],
) -> tuple[Ints, Floats]:
    """Cycles and energy in pJ of many tiles under one order, as ``rules.count`` has them."""
    b, ow, oh, ic, oc = tiles.T
    count, taps, across = trips.prod(axis=1), shape.kernel**2, _across(machine, shape)
    reduced = -(-taps * ic // across) if shape.im2col else taps * -(-ic // across)
    compute = count * b * oh * ow * -(-oc // machine.columns) * reduced
    streams = {operand: _streams(machine, bits[operand], operand, trips, order) for operand in OPERANDS}
    moved = {operand: stream[0] for operand, stream in streams.items()}
    first = sum((stream[1] for stream in streams.values()), np.zeros(len(tiles), dtype=np.int64))
    last = streams["output"][1]
    dram = moved["weight"] + moved["input"] + 2 * moved["output"]
    bandwidth = machine.dram_bits_per_cycle
    stall = np.maximum(0, -(-(dram - first - last) // bandwidth) - compute) + -(-first // bandwidth)
    stall += -(-last // bandwidth)

    products, results = count * b * ow * oh * taps * ic * oc, count * b * ow * oh * oc * rules.OUTPUT_BITS
    read = {
        "weight": products * shape.weight_bits, "input": products * shape.input_bits,
        "output": moved["output"] + results,
    }
    written = {"weight": moved["weight"], "input": moved["input"], "output": moved["output"] + results}
    total = compute * energy.core_pj_per_cycle + dram * energy.dram_pj_per_bit
    for operand in OPERANDS:
        total = total + read[operand] * energy.buffer_read_pj_per_bit[operand]
        total = total + written[operand] * energy.buffer_write_pj_per_bit[operand]
    return compute + stall, total
