"""From a row of each block back to a mapping that people and the simulator read."""

from __future__ import annotations

from mapper.cost_terms import CostModel
from mapper.descent import Candidate
from mapper.variants import IRRELEVANT, Variant
from simulator.accelerator import LANES, Accelerator
from simulator.layer import OPERANDS, Dim, Operand
from simulator.mapping import Mapping, MappingLevel


def _order(innermost: Operand | None, second: Operand | None) -> tuple[Dim, ...]:
    """Loop order, outermost first: groups outside, the dimensions irrelevant to ``innermost`` inside."""
    inside_out: list[Operand] = [operand for operand in (innermost, second) if operand is not None]
    inside_out += [operand for operand in OPERANDS if operand not in inside_out]
    order: list[Dim] = ["G"]
    for operand in reversed(inside_out):
        order += [dim for dim in IRRELEVANT[operand] if dim != "G"]
    return tuple(order)


def dram_orders(variant: Variant) -> tuple[tuple[Dim, ...], ...]:
    """Orders of the DRAM loops that a variant stands for: they differ outside the held loops, which the closed-form
    cost does not see and the simulator does."""
    seconds = [second for second in OPERANDS if second != variant.held_by_dram]
    if variant.second_by_dram is not None:
        seconds = [variant.second_by_dram]
    return tuple(_order(variant.held_by_dram, second) for second in seconds)


def buffer_order(variant: Variant) -> tuple[Dim, ...]:
    """Order of the buffer loops of a variant."""
    return _order(variant.held_by_registers, None)


def build_mapping(model: CostModel, candidate: Candidate, accelerator: Accelerator) -> tuple[Mapping, ...]:
    """Return the mappings that a candidate stands for, one for each of ``dram_orders``."""
    names = [*(axis.name for axis in accelerator.grid.axes), LANES]
    spatial: dict[str, dict[Dim, int]] = {name: {} for name in names}
    register: dict[Dim, int] = {}
    tile: dict[Dim, int] = {}
    for block, row in zip(model.blocks, candidate.rows, strict=True):
        for choice in block.choices:
            tile[choice.dim] = int(choice.buffer_tile[row])
            register[choice.dim] = int(choice.register_tile[row])
            for name, factor in zip(names, choice.axis_factors[row], strict=True):
                if factor > 1:
                    spatial[name][choice.dim] = int(factor)
    variant = model.variant
    return tuple(
        Mapping(
            spatial={name: dims for name, dims in spatial.items() if dims},
            levels=(
                MappingLevel(level="dram", order=order),
                MappingLevel(level="buffer", tile=tile, order=buffer_order(variant)),
                MappingLevel(level="register", tile=register),
            ),
            bypass=(variant.bypass,) if variant.bypass else (),
            double_buffer=candidate.double_buffer,
        )
        for order in dram_orders(variant)
    )
