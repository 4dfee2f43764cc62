"""Buffers that hold the tiles of their operands at different places: cut into one buffer for each place.

ZigZag and AccelForge let a shared memory begin to keep each operand at its own place in the order of the loops. Here a
buffer holds one tile, of all dimensions, for all operands that it keeps. So the memory is cut: each part keeps the
operands whose places meet, on a level of its own, and takes of the capacity what the nest needs of it. The parts'
accesses cost what the whole memory's do; each has the memory's ports to itself, which is what is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitmosaic.interchange.nest_to_mapping import mapping_of, ranges_of
from bitmosaic.interchange.to_bitmosaic import UNLIMITED_BITS
from simulator.accelerator import Accelerator, Memory
from simulator.counting_rules.loop_nest import LoopNest, Machine, check
from simulator.errors import MappingError, Problem
from simulator.layer import OPERANDS, Layer, Operand
from simulator.mapping import Mapping
from simulator.plan import Plan
from simulator.precision import LayerPrecision


@dataclass(frozen=True)
class Split:
    """What a nest made of an accelerator whose buffers were cut, and the mapping on it."""

    accelerator: Accelerator
    mapping: Mapping
    notes: tuple[str, ...]


def split_to_fit(
    layer: Layer, precision: LayerPrecision, machine: Machine, accelerator: Accelerator, nest: LoopNest
) -> Split:
    """Cut the accelerator's buffers so that a nest can be said exactly, and return it with the nest's mapping.

    Raises ``MappingError`` where the nest is not one of the layer, or does not fit even so.
    """
    check(layer, machine, nest, ragged=True)
    levels = _levels(machine, accelerator, nest)
    names = {(operand, name): level for level, group in enumerate(levels, start=1) for operand, name in group}
    parts: dict[str, list[tuple[int, tuple[Operand, ...]]]] = {}
    for buffer in accelerator.buffers:
        for level in range(1, len(levels) + 1):
            kept = tuple(operand for operand in buffer.keeps if names.get((operand, buffer.name)) == level)
            if kept:
                parts.setdefault(buffer.name, []).append((level, kept))
    renamed = {
        (operand, name): name if len(found) == 1 else f"{name}_{'_'.join(kept)}"
        for name, found in parts.items() for _, kept in found for operand in kept
    }
    wide = _cut(accelerator, parts, renamed, {})
    new_machine = _cut_machine(machine, renamed)
    stores = {
        operand: tuple(
            store.model_copy(update={"memory": renamed.get((operand, store.memory), store.memory)}) for store in kept
        ) for operand, kept in nest.stores.items()
    }
    mapping, _ = mapping_of(layer, precision, new_machine, wide, nest.model_copy(update={"stores": stores}))
    single = mapping.model_copy(update={
        "levels": tuple(level.model_copy(update={"double_buffer": ()}) for level in mapping.levels)})
    plan = Plan(layer, precision, wide, single)
    return _with_sizes(plan, accelerator, parts, renamed)


def _levels(machine: Machine, accelerator: Accelerator, nest: LoopNest) -> list[list[tuple[Operand, str]]]:
    """Groups of (operand, buffer) whose tiles may lie at one place, outermost first; one operand once a group."""
    open_ranges = [found for level in ranges_of(machine, accelerator, nest)[:-1] for found in level]
    groups: list[list[tuple[Operand, str]]] = []
    while open_ranges:
        cut = min(found.last for found in open_ranges)
        group: dict[Operand, str] = {}
        rest = []
        for found in open_ranges:
            if found.first <= cut and found.operand not in group:
                group[found.operand] = found.memory
            else:
                rest.append(found)
        groups.append(list(group.items()))
        open_ranges = rest
    bypassed = [(operand, buffer.name) for buffer in accelerator.buffers for operand in buffer.keeps
                if buffer.size_bits == 1 and operand in buffer.may_bypass]
    return [[*groups[0], *bypassed], *groups[1:]] if groups else [bypassed]


def _cut(
    accelerator: Accelerator, parts: dict[str, list[tuple[int, tuple[Operand, ...]]]],
    renamed: dict[tuple[Operand, str], str], sizes: dict[str, int],
) -> Accelerator:
    """The accelerator with its buffers cut; parts without a size are without limit."""
    buffers = []
    for buffer in accelerator.buffers:
        for level, kept in parts[buffer.name]:
            name = renamed[kept[0], buffer.name]
            is_bypassed = buffer.size_bits == 1 and set(buffer.keeps) <= set(buffer.may_bypass)
            size = buffer.size_bits if is_bypassed else sizes.get(name, UNLIMITED_BITS)
            buffers.append((level, buffer.model_copy(update={
                "name": name, "keeps": kept, "level": level, "size_bits": size})))
    ordered: list[Memory] = [accelerator.dram, *(buffer for _, buffer in sorted(buffers, key=lambda each: each[0])),
                             *accelerator.register_files]
    return Accelerator.model_validate(
        {**dict(accelerator), "memories": tuple(ordered)})


def _cut_machine(machine: Machine, renamed: dict[tuple[Operand, str], str]) -> Machine:
    memories = []
    for memory in machine.memories:
        named = [(operand, renamed.get((operand, memory.name), memory.name)) for operand in memory.keeps]
        for name in dict.fromkeys(name for _, name in named):
            memories.append(memory.model_copy(update={
                "name": name, "keeps": tuple(operand for operand, own in named if own == name)}))
    return machine.model_copy(update={"memories": tuple(memories)})


def _with_sizes(
    plan: Plan, accelerator: Accelerator, parts: dict[str, list[tuple[int, tuple[Operand, ...]]]],
    renamed: dict[tuple[Operand, str], str],
) -> Split:
    """Give each part the room of its tiles, twice where all of it together leaves room; the rest to the outermost."""
    sizes: dict[str, int] = {}
    twice: dict[int, list[Operand]] = {}
    notes, problems = [], []
    for buffer in accelerator.buffers:
        found = parts[buffer.name]
        if buffer.size_bits == 1 and set(buffer.keeps) <= set(buffer.may_bypass):
            continue
        needs = {operand: (level, plan.largest_tile_bits(operand, level)) for level, kept in found for operand in kept}
        left = buffer.size_bits - sum(bits for _, bits in needs.values())
        if left < 0:
            each = ", ".join(f"{operand} {bits}" for operand, (_, bits) in needs.items())
            problems.append(Problem(f"needs {buffer.size_bits - left} bits ({each}) and has {buffer.size_bits}",
                                    path=buffer.name))
            continue
        room = {operand: bits for operand, (_, bits) in needs.items()}
        for operand in OPERANDS:
            if operand in needs and needs[operand][1] <= left:
                level, bits = needs[operand]
                left -= bits
                room[operand] += bits
                twice.setdefault(level, []).append(operand)
        for number, (_, kept) in enumerate(found):
            name = renamed[kept[0], buffer.name]
            sizes[name] = sum(room[operand] for operand in kept) + (left if number == 0 else 0)
        if len(found) > 1:
            names = ", ".join(f"{renamed[kept[0], buffer.name]} ({sizes[renamed[kept[0], buffer.name]]} bits)"
                              for _, kept in found)
            notes.append(f"{buffer.name} is cut into {names}, because its operands' tiles lie at different places. "
                         "Each part has the ports of the whole to itself; registers are filled anew at each pass over "
                         "an innermost tile.")
    if problems:
        raise MappingError(problems)
    levels = tuple(
        level.model_copy(update={"double_buffer": tuple(twice.get(number, ()))})
        for number, level in enumerate(plan.mapping.levels)
    )
    mapping = plan.mapping.model_copy(update={"levels": levels})
    cut = _cut(accelerator, parts, renamed, sizes)
    Plan(plan.layer, plan.precision, cut, mapping)
    held = ", ".join(f"{operand} (level {level})" for level, operands in sorted(twice.items()) for operand in operands)
    notes.append(f"Held twice, so that the next tile loads behind: {held or 'nothing; there is no room'}.")
    return Split(cut, mapping, tuple(notes))
