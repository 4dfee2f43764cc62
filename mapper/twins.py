"""Choices that are one to a search: those whose time is the same to the cycle, and those that are the same mapping.

The time of a pass often depends neither on the order of the loops inside it nor on register tiles. A search for nothing
but latency then looks at one choice of each such kind, and ``thriftiest`` afterwards picks the best of the kind. And
many orders of loops are one where loops make a single trip: each is simulated once. (On machines with several levels of
buffers ``Incumbent`` compares the mappings themselves.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mapper.build_mapping import build_mapping, outer_orders
from mapper.candidates import Block
from mapper.cost_model import CostModel
from mapper.descent import Candidate, kernel_input
from simulator.accelerator import Accelerator
from simulator.kernels import enumerate_choices, non_dominated_of_each
from simulator.layer import DIMS, Dim
from simulator.mapping import Mapping

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


MOST_NOTED = 1 << 20  # choices of ``Simulated``
MOST_NODES = 100_000  # of a search for the thriftiest of a kind


def is_timed_by_passes(model: CostModel, accelerator: Accelerator) -> bool:
    """Whether time depends on nothing but the buffer tiles, the unrolling, the order of the DRAM loops, and what is
    double-buffered: with one level of buffers of unlimited ports, where nothing bypasses."""
    limited = any(
        port is not None for buffer in accelerator.buffers
        for port in (buffer.read_bandwidth_bits_per_cycle, buffer.write_bandwidth_bits_per_cycle)
    )
    return model.variant.levels == 1 and model.variant.bypass is None and not limited


def distinct_in_time(
    models: Sequence[CostModel], accelerator: Accelerator, *, constrained: bool
) -> list[CostModel]:
    """Models for a search of nothing but latency: one choice of each kind that takes the same time.

    Of models that differ in the order of the buffer's loops alone one stays, the one with all rows: what a stationary
    operand asks of that order leaves fewer to some. (All stay that are ``constrained``, whose rows may be any.) Of rows
    with the same tiles and unrolling, those stay that no other one matches or beats in what it takes of axes and
    registers.
    """
    found: dict[object, CostModel] = {}
    for number, model in enumerate(models):
        variant = model.variant
        kind: object = number
        if not constrained and is_timed_by_passes(model, accelerator):
            kind = variant.held, variant.places
        known = found.get(kind)
        if known is None or variant.single_trip < known.variant.single_trip:
            found[kind] = model
        elif not known.variant.single_trip <= variant.single_trip:
            found[number] = model
    reduced: dict[int, tuple[Block, ...]] = {}
    distinct = []
    for model in found.values():
        if not is_timed_by_passes(model, accelerator):
            distinct.append(model)
            continue
        kept = [_one_of_each_kind(block) for block in model.blocks]
        # Models that shared their blocks still do (``Simulated``).
        blocks = reduced.setdefault(id(model.blocks), tuple(each.block for each in kept))
        distinct.append(model.of_blocks(blocks, [each.factor for each in kept]))
    return distinct


class _OneOfEachKind:
    """Rows of a block that no other row of the same tiles and unrolling matches or beats in axes and registers.

    Found once for each block, as are their parts of factors: precisions and variants that share blocks share these.
    """

    def __init__(self, block: Block) -> None:
        room = [block.columns[name] for name in block.columns if name.startswith(("register_", "input_register"))]
        _, kind = np.unique(block.kinds, axis=0, return_inverse=True)
        kept = non_dominated_of_each(np.column_stack([block.axis_use, *room]), kind.ravel())
        self.rows = np.flatnonzero(kept)
        self.block = block.take(self.rows)
        self._factors: dict[int, tuple[Ints, Ints]] = {}  # with the whole one, so that no other gets its id

    def factor(self, whole: Ints) -> Ints:
        """What a factor of the block is for these rows: the same array each time."""
        known = self._factors.get(id(whole))
        if known is None:
            known = self._factors[id(whole)] = whole, whole[self.rows]
        return known[1]


def _one_of_each_kind(block: Block) -> _OneOfEachKind:
    known = block.found.get("one of each kind")
    if not isinstance(known, _OneOfEachKind):
        known = block.found["one of each kind"] = _OneOfEachKind(block)
    return known


def thriftiest(models: Sequence[CostModel], chosen: Mapping, accelerator: Accelerator) -> list[Mapping]:
    """Mappings of the same tiles, unrolling, DRAM order and double buffering as one, each of least energy in one of the
    models: they take the same time where ``is_timed_by_passes``. None of a mapping in which something bypasses."""
    found = []
    for model in models if not chosen.bypass else ():
        if not is_timed_by_passes(model, accelerator):
            continue
        orders = [order for order, in outer_orders(model.variant)]
        if chosen.level("dram").order not in orders:
            continue
        rows = [np.flatnonzero(_is_of_kind(block, chosen)) for block in model.blocks]
        if not all(len(own) for own in rows):
            continue
        of_kind = model.take(rows)
        best, _, _, _, _ = enumerate_choices(kernel_input(of_kind, "energy"), np.inf, 1, MOST_NODES)
        if len(best):
            candidate = Candidate(tuple(best[0].tolist()), chosen.double_buffer, 0.0)
            found.append(build_mapping(of_kind, candidate, accelerator)[orders.index(chosen.level("dram").order)])
    return found


def _is_of_kind(block: Block, chosen: Mapping) -> Bools:
    tile = chosen.level("buffer").tile
    wanted = [number for choice in block.choices for number in (tile.get(choice.dim, 1), chosen.unrolled(choice.dim))]
    found: Bools = (block.kinds == np.array(wanted)).all(axis=1)
    return found


def looping(model: CostModel, rows: Ints) -> dict[Dim, Bools]:
    """Of choices (choices, blocks), with one level of buffers: where the DRAM loop of each dimension runs."""
    return {
        choice.dim: choice.buffer_tile[chosen] < choice.extent
        for block, chosen in zip(model.blocks, rows.T, strict=True) for choice in block.choices
    }


def sequences(order: tuple[Dim, ...], loops: dict[Dim, Bools]) -> Ints:
    """A number for the loops that run in each choice, in their order: equal ones are the same loops."""
    found = np.zeros(len(next(iter(loops.values()))), dtype=np.int64)
    for dim in order:
        found = np.where(loops[dim], found * (len(DIMS) + 1) + DIMS.index(dim) + 1, found)
    return found


class Simulated:
    """Choices that were simulated, so that none is again under another order of loops that do not run.

    Nor as that of another variant, if only cycles count: variants differ in the energy that they say of a mapping, and
    only that of one, which knows all that is held, is the mapping's.
    """

    def __init__(self, *, only_cycles: bool) -> None:
        self._only_cycles = only_cycles
        self._groups: dict[object, tuple[int, tuple[Block, ...]]] = {}
        self._keys: set[bytes] = set()

    def keys(self, model: CostModel, rows: Ints, masks: Ints, sequence: Ints) -> list[bytes]:
        """What each choice is: its rows, among those of its blocks, what is double-buffered, and the DRAM loops."""
        variant = model.variant
        if self._only_cycles:
            variant = replace(variant, held=(), finished_to=0, second=())
        group = id(model.blocks), variant
        number, _ = self._groups.setdefault(group, (len(self._groups), model.blocks))  # keeps the blocks, and their id
        table = np.column_stack([rows, masks, sequence, np.full(len(rows), number)]).astype(np.int32)
        return [row.tobytes() for row in table]

    def are_new(self, keys: list[bytes]) -> Bools:
        """Which of some choices were not noted."""
        return np.array([key not in self._keys for key in keys], dtype=np.bool_)

    def note(self, keys: list[bytes]) -> None:
        """Note choices, as long as there is room: those beyond are simulated again."""
        if len(self._keys) < MOST_NOTED:
            self._keys.update(keys)
