"""The best tiling of a layer under the Bit Fusion simulator's counting rules, by enumeration: a proof in its space.

Two spaces. ``powers_of_two`` is that of the authors' search: batches and square output tiles of 1, 2, 4 …, input
channels in powers of two times the array's rows, output channels times its columns, each also whole. ``every_split``
adds every split of each loop into any number of tiles (the smallest tile that makes so many), rows and columns of the
output apart. Both try every order of the five loops. A larger tile that makes as many tiles is not tried, unless it is
one of the authors': it only pads, and can shorten nothing but what these rules count as loaded before the first step.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simulator.counting_rules import bit_fusion_simulator as rules
from simulator.errors import ConfigurationError, InfeasibleError, Problem
from simulator.kernels import bit_fusion_tiling as kernel
from simulator.layer import OPERANDS

Space = Literal["powers_of_two", "every_split"]
SPACES: tuple[Space, ...] = ("powers_of_two", "every_split")


@dataclass(frozen=True)
class BestTiling:
    """The tiling of fewest cycles and, of those, of least energy; no other one of the space is better.

    Attributes:
        tiling, counts, energy_pj: the tiling and what it costs under ``rules.count``.
        tiles: that fit their buffers. costed: tilings whose cost was computed; a bound left out the others.
        cpu_seconds: of the search.
    """

    tiling: rules.Tiling
    counts: rules.Counts
    energy_pj: float
    tiles: int
    costed: int
    cpu_seconds: float


def tile_sizes(machine: rules.Machine, loop: rules.Loop, whole: int, space: Space) -> list[int]:
    """Return the sizes of a tile along one loop, ascending.

    >>> machine = rules.Machine(16, 32, 8, 2, 192, rules.PAPER_BUFFER_BITS)
    >>> tile_sizes(machine, "OC", 96, "powers_of_two"), tile_sizes(machine, "OW", 7, "every_split")
    ([32, 64, 96], [1, 2, 3, 4, 7])
    """
    unit = {"IC": machine.rows, "OC": machine.columns}.get(loop, 1)
    sizes = {unit << power for power in range(whole.bit_length()) if unit << power < whole} | {whole}
    if space == "every_split":
        sizes |= {-(-whole // trips) for trips in range(1, whole + 1)}
    return sorted(sizes)


def best_tiling(
    machine: rules.Machine, work: rules.Work, whole: Mapping[rules.Loop, int], energy: rules.EnergyTable,
    space: Space = "every_split",
) -> BestTiling:
    """Return the best tiling of a layer, whose loops have the extents ``whole``.

    Raises ``ConfigurationError`` for a space that is not one, ``InfeasibleError`` where no tile fits half of its
    buffer.
    """
    if space not in SPACES:
        raise ConfigurationError(Problem("not a space", path="space", value=space, allowed=SPACES))
    began = time.process_time()
    sizes = [tile_sizes(machine, loop, whole[loop], space) for loop in rules.LOOPS]
    padded = np.zeros((len(sizes), max(map(len, sizes))), dtype=np.int64)
    for row, of_loop in zip(padded, sizes, strict=True):
        row[: len(of_loop)] = of_loop
    orders = list(itertools.permutations(range(len(rules.LOOPS))))
    found = kernel.best_tiling(kernel.TilingInput(
        whole=np.array([whole[loop] for loop in rules.LOOPS]), sizes=padded,
        lengths=np.array([len(of_loop) for of_loop in sizes]), square=int(space == "powers_of_two"),
        orders=np.array(orders), depends=np.array([
            [loop in rules.DEPENDS_ON[operand] for loop in rules.LOOPS] for operand in OPERANDS
        ], dtype=np.int64),
        half=np.array([machine.buffer_bits[operand] // 2 for operand in OPERANDS]),
        kernel=work.kernel, stride=work.stride, im2col=int(work.im2col), input_bits=work.input_bits,
        weight_bits=work.weight_bits, columns=machine.columns,
        across=machine.rows * rules.products_per_unit(machine, work), bandwidth=machine.dram_bits_per_cycle,
        energy=np.array([
            energy.core_pj_per_cycle, energy.dram_pj_per_bit,
            *(energy.buffer_read_pj_per_bit[operand] for operand in OPERANDS),
            *(energy.buffer_write_pj_per_bit[operand] for operand in OPERANDS),
        ]),
    ))
    tile, order, cycles, _, tiles, costed = found
    if order < 0:
        raise InfeasibleError(Problem("no tile fits half of its buffer", where=f"work={work}, whole={dict(whole)}"))
    extent = {loop: int(size) for loop, size in zip(rules.LOOPS, tile, strict=True)}
    tiling = rules.Tiling(
        extent=extent, trips={loop: -(-whole[loop] // extent[loop]) for loop in rules.LOOPS},
        order=tuple(rules.LOOPS[loop] for loop in reversed(orders[order])),
    )
    counts = rules.count(machine, work, tiling)
    assert counts.total_cycles == cycles
    return BestTiling(tiling, counts, energy.total_pj(counts), tiles, costed, time.process_time() - began)
