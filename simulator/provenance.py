"""Where the numbers of a machine are from, and how far what is computed from them can be trusted.

``Accelerator.sources`` names places of the description, dotted, entries of a list by their names:
``memories.dram.read_energy_pj_per_bit``, or a group, ``memories.dram``. The longest name that covers a number is
its source. A sum is trusted as far as the weakest of its numbers.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field, model_validator

from simulator.layer import Frozen
from simulator.output_stage import CONVERSION_FIELDS

if TYPE_CHECKING:
    from simulator.accelerator import Accelerator
    from simulator.precision import LayerPrecision
    from simulator.tiled import Machine

Confidence = Literal["measured", "extracted", "scaled", "recalled", "assumed"]
CONFIDENCES: tuple[Confidence, ...] = get_args(Confidence)
"""Strongest first."""
EVERYTHING = "everything"
UNSTATED = "not stated"


class Source(Frozen):
    """Where a number, or a group of numbers, is from.

    Attributes:
        confidence: ``measured`` on silicon; ``extracted``: read from published data or the authors' tools; ``scaled``:
            computed from such a number by factors that ``source`` states; ``recalled`` from the paper without looking
            it up; ``assumed``: our choice.
        source: what was read, or why it was chosen.
        table: the number of a technology table that this one is, ``45nm.fixed_8_bit_pe_area_um2``, times ``factor``.
        factor: what it was scaled by; ``source`` says why.
    """

    confidence: Confidence
    source: str = Field(min_length=1)
    table: str | None = None
    factor: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Source:
        if self.table is None and self.factor != 1:
            raise ValueError(f"factor={self.factor:g}: is for numbers of a table")
        return self


def entry_name(entry: Mapping[str, Any], index: int) -> str:
    """How an entry of a list is called: by its name, or as a pair of formats; else by its number from 0."""
    if "name" in entry:
        return str(entry["name"])
    if "weight" in entry and "input" in entry:
        return f"{entry['weight']}_{entry['input']}"
    return str(index)


def number_values(description: Any) -> dict[str, float]:
    """Place → number, of every number of a description that is given as plain data."""
    return {path: float(value) for path, value in places(description) if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def places(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every place of a description, given as plain data, that is no group, and what stands there."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from places(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from places(item, f"{path}.{entry_name(item, index)}")
    else:
        yield path, value


def covers(key: str, path: str) -> bool:
    """Whether a name in ``sources`` stands for a place."""
    return key == EVERYTHING or path == key or path.startswith(key + ".")


class UnknownSources(ValueError):
    """Names in ``sources`` that stand for nothing: name → what is wrong, in words."""

    def __init__(self, rules: Mapping[str, str]) -> None:
        self.rules = dict(rules)
        super().__init__("; ".join(f"sources.{key}: {rule}" for key, rule in self.rules.items()))


def unknown_sources(description: Any, keys: Iterable[str]) -> dict[str, str]:
    """Names that stand for nothing in a description, and what is wrong with each, in words."""
    known = [path for path, _ in places(description)]
    groups = {".".join(path.split(".")[:depth]): None for path in known for depth in range(1, path.count(".") + 2)}
    found = {}
    for key in keys:
        if key == EVERYTHING or key in groups:
            continue
        near = difflib.get_close_matches(key, [EVERYTHING, *groups], n=1, cutoff=0.6)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        found[key] = f"names nothing in this description{hint}"
    return found


def source_of(sources: Mapping[str, Source], path: str) -> Source | None:
    """Source of a number: the longest name that covers it; None where none does."""
    names = [key for key in sources if covers(key, path)]
    # ``everything`` is the weakest claim, whatever its length.
    return sources[max(names, key=lambda key: (key != EVERYTHING, len(key)))] if names else None


def uncovered(accelerator: Machine) -> tuple[str, ...]:
    """Places of the numbers that a machine's description gives without a source.

    What it leaves at a field's default is no number of its own: nothing is modelled there that costs anything.
    """
    description = accelerator.model_dump(mode="json", exclude={"sources"}, exclude_unset=True)
    return tuple(path for path in number_values(description) if source_of(accelerator.sources, path) is None)


def weakest(confidences: Iterable[Confidence | None]) -> Confidence | None:
    """The least of some confidences; None, not stated, is less than any, and what nothing gives."""
    known: list[Confidence] = []
    for confidence in confidences:
        if confidence is None:
            return None
        known.append(confidence)
    return max(known, key=CONFIDENCES.index) if known else None


def confidence_of(accelerator: Machine, *paths: str) -> Confidence | None:
    """The weakest confidence of some numbers of a machine; None where one of them has no source."""
    found = [source_of(accelerator.sources, path) for path in paths]
    return weakest(None if source is None else source.confidence for source in found)


def energy_confidence(
    accelerator: Accelerator, precision: LayerPrecision | None = None
) -> dict[str, Confidence | None]:
    """Component of energy → confidence of its numbers; components that are not modelled are left out.

    Traffic and cycles are counted, so what counts is the energy that each is multiplied by. A processing element at a
    precision between two entries of its table is at most ``scaled``. Without a ``precision``, every entry counts.
    """
    element, wires, stage = accelerator.processing_element, accelerator.grid.interconnect, accelerator.output_stage
    found = {
        memory.name: confidence_of(
            accelerator, *(f"memories.{memory.name}.{way}_energy_pj_per_bit" for way in ("read", "write"))
        )
        for memory in accelerator.memories
    }
    plain, table = "processing_element.energy_pj_per_cycle", "processing_element.energy_by_precision"
    if precision is None:
        paths = [plain, *(f"{table}.{entry.name}" for entry in element.energy_by_precision)]
        found["processing_elements"] = confidence_of(accelerator, *paths)
    else:
        each: list[Confidence | None] = []
        for part in precision.parts:
            entry, is_exact = element.energy_entry(part)
            own = confidence_of(accelerator, plain if entry is None else f"{table}.{entry.name}.energy_pj_per_cycle")
            is_exact |= not element.energy_by_precision
            each.append(own if is_exact or own is None else weakest(("scaled", own)))
        found["processing_elements"] = weakest(each)
    if getattr(element, "expansion_energy_pj_per_weight", None) is not None:
        path = "processing_element.expansion_energy_pj_per_weight"
        found["weight_expansion"] = confidence_of(accelerator, path)
    if wires is not None:
        found["interconnect"] = confidence_of(accelerator, "grid.interconnect.energy_pj_per_bit_hop")
    if stage is not None:
        fields = CONVERSION_FIELDS if precision is None else (stage.conversion(precision),)
        conversions = [f"output_stage.{name}" for name in fields if getattr(stage, name) is not None]
        if conversions:
            found["conversion"] = confidence_of(accelerator, *conversions)
        if stage.scale_energy_pj is not None:
            found["scaling"] = confidence_of(accelerator, "output_stage.scale_energy_pj")
    found["vector_unit"] = confidence_of(accelerator, "vector_unit.energy_pj_per_operation")
    if accelerator.floating_point_unit is not None:
        path = "floating_point_unit"
        found[path] = confidence_of(accelerator, f"{path}.energy_pj_per_mac")
        border = confidence_of(accelerator, f"{path}.conversion_energy_pj")
        found["conversion"] = weakest((found["conversion"], border)) if "conversion" in found else border
    leaking = [f"{part.path}.{part.power}" for part in accelerator.parts if part.leakage_mw is not None]
    if leaking:
        found["leakage"] = confidence_of(accelerator, *leaking)
    return found


def network_confidence(
    accelerator: Accelerator, precisions: Iterable[LayerPrecision]
) -> dict[str, Confidence | None]:
    """``energy_confidence`` over several precisions: of each component the weakest."""
    single = [energy_confidence(accelerator, precision) for precision in precisions]
    single = single or [energy_confidence(accelerator)]
    components = {component: None for each in single for component in each}
    return {
        component: weakest(each[component] for each in single if component in each) for component in components
    }


def not_modelled(accelerator: Accelerator) -> tuple[str, ...]:
    """What costs energy in such a machine and is left out of this description, in words."""
    stage = accelerator.output_stage
    found = []
    if accelerator.grid.interconnect is None:
        found.append("hops between processing elements")
    if stage is None or stage.requantisation_energy_pj is None:
        found.append("requantisation")
    if stage is None or stage.float_conversion_energy_pj is None:
        found.append("conversion between integer and floating point")
    if stage is None or stage.scale_energy_pj is None:
        found.append("scales")
    if getattr(accelerator.processing_element, "expansion_energy_pj_per_weight", 0.0) is None:
        found.append("expansion of weights")
    silent = [part.name for part in accelerator.parts if part.leakage_mw is None]
    if len(silent) == len(accelerator.parts):
        found.append("leakage")
    elif silent:
        found.append(f"leakage of {', '.join(silent)}")
    return tuple(found)
