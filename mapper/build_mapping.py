"""From a row of each block back to the mappings that people and the simulator read.

A choice of the closed form stands for several mappings: they differ in the order of loops outside the held ones, and in
what is held twice in a buffer behind which another one keeps the operand too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from mapper.cost_model import Capacity, CostModel
from mapper.descent import Candidate
from mapper.variants import IRRELEVANT, Variant
from simulator.accelerator import LANES, Accelerator
from simulator.layer import OPERANDS, Dim, Operand
from simulator.mapping import Mapping, MappingLevel

Doubling = tuple[tuple[Operand, ...], ...]
"""For each level of buffers, the operands that are held twice there."""


def _order(innermost: Operand | None, second: Operand | None) -> tuple[Dim, ...]:
    """Loop order, outermost first: groups outside, the dimensions irrelevant to ``innermost`` inside."""
    inside_out: list[Operand] = [operand for operand in (innermost, second) if operand is not None]
    inside_out += [operand for operand in OPERANDS if operand not in inside_out]
    order: list[Dim] = ["G"]
    for operand in reversed(inside_out):
        order += [dim for dim in IRRELEVANT[operand] if dim != "G"]
    return tuple(order)


def outer_orders(variant: Variant) -> tuple[tuple[tuple[Dim, ...], ...], ...]:
    """Orders of the loops of DRAM and of all levels of buffers but the innermost that a variant stands for.

    They differ outside the held loops, which the closed-form cost does not see and the simulator does.
    """
    seconds = variant.second or (None,) * variant.levels
    each = [
        [_order(held, second) for second in OPERANDS if second != held and only in (None, second)]
        for held, only in zip(variant.held, seconds, strict=True)
    ]
    return tuple(itertools.product(*each))


def buffer_order(variant: Variant) -> tuple[Dim, ...]:
    """Order of the loops of a variant in the innermost buffer."""
    return _order(variant.held_by_registers, None)


def doublings(model: CostModel, candidate: Candidate) -> tuple[Doubling, ...]:
    """What is held twice in buffers that are not an operand's only one, beside ``candidate.double_buffer``.

    Partial sums that come ahead change the order of transfers, so outputs are held twice or not; weights and inputs
    wherever there is room: not in a set that fits in another one.
    """
    by_level: list[list[tuple[Operand, ...]]] = [
        [tuple(operand for at, operand in model.always_ahead if at == level)]
        for level in range(1, model.variant.levels + 1)
    ]
    for capacity in model.capacities:
        if capacity.ahead:
            sets = list(_held_twice(capacity, candidate))
            options = by_level[capacity.level - 1]
            by_level[capacity.level - 1] = [(*others, *chosen) for others in options for chosen in sets]
    return tuple(itertools.product(*by_level))


def _held_twice(capacity: Capacity, candidate: Candidate) -> Iterator[tuple[Operand, ...]]:
    """Sets of operands that one buffer may hold twice (``doublings``)."""
    need = {operand: term.at(candidate.rows) for operand, term in capacity.tiles.items()}
    room = capacity.size_bits * (1 + 1e-12) - sum(need.values())
    room -= sum(need[operand] for operand in capacity.doubled if operand in candidate.double_buffer)
    inward: list[Operand] = [operand for operand in OPERANDS if operand in capacity.ahead and operand != "output"]
    some = False
    outputs: tuple[tuple[Operand, ...], ...] = ((), ("output",)) if "output" in capacity.ahead else ((),)
    for output in outputs:
        left = room - sum(need[operand] for operand in output)
        if left < 0:
            continue
        fitting: list[tuple[Operand, ...]] = []
        for count in range(len(inward), -1, -1):
            for chosen in itertools.combinations(inward, count):
                larger = any(set(chosen) <= set(other) for other in fitting)
                if not larger and sum(need[operand] for operand in chosen) <= left:
                    fitting.append(chosen)
        for chosen in fitting:
            some = True
            yield (*chosen, *output)
    if not some:
        yield ()  # the candidate does not fit at all: the simulator says so


def build_mapping(model: CostModel, candidate: Candidate, accelerator: Accelerator) -> tuple[Mapping, ...]:
    """Return the mappings that a candidate stands for: one for each of ``outer_orders`` and ``doublings``.

    With one level of buffers these are the orders alone, in their order.
    """
    names = [*(axis.name for axis in accelerator.grid.axes), LANES]
    spatial: dict[str, dict[Dim, int]] = {name: {} for name in names}
    register: dict[Dim, int] = {}
    tiles: list[dict[Dim, int]] = [{} for _ in range(model.variant.levels)]
    for block, row in zip(model.blocks, candidate.rows, strict=True):
        for choice in block.choices:
            for tile, extent in zip(tiles, choice.buffer_tiles[row], strict=True):
                tile[choice.dim] = int(extent)
            register[choice.dim] = int(choice.register_tile[row])
            for name, factor in zip(names, choice.axis_factors[row], strict=True):
                if factor > 1:
                    spatial[name][choice.dim] = int(factor)
    variant = model.variant
    past = [
        tuple(
            buffered for buffered in OPERANDS if buffered != variant.bypass
            and level not in variant.places_of(buffered)
            and any(accelerator.level_of(buffer) == level for buffer in accelerator.buffers_of(buffered))
        )
        for level in range(1, variant.levels + 1)
    ]
    found = []
    for (dram, *inside), twice in itertools.product(outer_orders(variant), doublings(model, candidate)):
        buffers = [
            MappingLevel(level="buffer", tile=tile, order=order, bypass=passed, double_buffer=held_twice)
            for tile, order, passed, held_twice in zip(
                tiles, (*inside, buffer_order(variant)), past, twice, strict=True
            )
        ]
        found.append(
            Mapping(
                spatial={name: dims for name, dims in spatial.items() if dims},
                levels=(
                    MappingLevel(level="dram", order=dram), *buffers, MappingLevel(level="register", tile=register)
                ),
                bypass=(variant.bypass,) if variant.bypass else (),
                double_buffer=candidate.double_buffer,
            )
        )
    return tuple(found)
