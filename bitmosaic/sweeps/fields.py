"""Fields of a hardware description by their places, and machines in which some of them are given anew.

A place is dotted, entries of a list by their names, as in ``sources``: ``grid.axes.rows.size``. Two short forms stand
for longer ones: ``grid.rows`` for the size of that axis, ``buffers.weight.size_bits`` for a field of the one buffer
that keeps the operand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from hw_configs.loader import SCHEMA, SCHEMA_VERSION, TILED_SCHEMA, VERSION_FIELD
from hw_configs.model_reader import model_of
from hw_configs.technology_tables import PowerLaw, open_technology
from hw_configs.yaml_reader import Document, Place
from simulator.accelerator import Accelerator
from simulator.errors import Problem, closest
from simulator.layer import OPERANDS
from simulator.provenance import covers, entry_name, places, unknown_sources
from simulator.tiled import Machine

SCALED_BY = "45nm"  # the technology table whose SRAM fit says how a buffer's numbers follow its size
_SCALED = ("read_energy_pj_per_bit", "write_energy_pj_per_bit", "area_um2", "leakage_mw")
_NOT_FIELDS = ("name", "description", "sources")


class Field(NamedTuple):
    """A place of a description, in full, and the keys and indices that lead to it."""

    path: str
    place: Place


def plain_description(machine: Machine) -> dict[str, Any]:
    """A machine as the plain data of its file, defaults included."""
    return machine.model_dump(mode="json")


def find_field(description: Mapping[str, Any], path: str) -> Field | Problem:
    """Find a field by its place; what is wrong with the place is a ``Problem`` without a line.

    >>> from hw_configs import open_accelerator
    >>> bit_fusion = plain_description(open_accelerator("bit_fusion"))
    >>> find_field(bit_fusion, "grid.rows")
    Field(path='grid.axes.rows.size', place=('grid', 'axes', 0, 'size'))
    >>> find_field(bit_fusion, "buffers.weight.size_bits").path
    'memories.weight_buffer.size_bits'
    """
    full = _in_full(description, path)
    if isinstance(full, Problem):
        return full
    place: list[str | int] = []
    here: Any = description
    for part in full.split("."):
        if isinstance(here, list) and here and all(isinstance(item, dict) for item in here):
            named = {entry_name(item, index): index for index, item in enumerate(here)}
        else:
            named = {key: key for key in here if place or key not in _NOT_FIELDS} if isinstance(here, dict) else {}
        if part not in named:
            rule = "no such field of this machine" if named else "no such field: what stands before it has none"
            return Problem(rule, path=path, allowed=tuple(named), did_you_mean=closest(full, _all_paths(description)))
        place.append(named[part])
        here = here[named[part]]
    return Field(full, tuple(place))


def _all_paths(description: Mapping[str, Any]) -> list[str]:
    """Every place of a description, and the short forms of axes."""
    axes = [f"grid.{axis['name']}" for axis in description.get("grid", {}).get("axes", ())]
    kept = {key: value for key, value in description.items() if key not in _NOT_FIELDS}
    return [*(path for path, _ in places(kept)), *axes]


def _in_full(description: Mapping[str, Any], path: str) -> str | Problem:
    first, _, rest = path.partition(".")
    if first == "grid" and "grid" in description:
        axes = [axis["name"] for axis in description["grid"]["axes"]]
        if rest in axes and rest not in description["grid"]:
            return f"grid.axes.{rest}.size"
    operand, _, field = rest.partition(".")
    if first == "buffers" and "memories" in description:
        if operand not in OPERANDS or not field:
            return Problem("must be buffers.OPERAND.FIELD", path=path, allowed=tuple(OPERANDS),
                           did_you_mean=closest(operand, OPERANDS))
        keeping = [
            memory["name"] for memory in description["memories"]
            if memory["kind"] == "buffer" and operand in memory["keeps"]
        ]
        if len(keeping) != 1:
            allowed = tuple(f"memories.{name}.{field}" for name in keeping)
            return Problem(f"{len(keeping)} buffers keep the {operand}: name one", path=path, allowed=allowed)
        return f"memories.{keeping[0]}.{field}"
    return path


def with_fields(
    machine: Machine, values: Mapping[Field, Any], *, scale_buffers: bool, name: str, lines: Mapping[str, int]
) -> tuple[Machine | None, list[Problem]]:
    """A machine with some fields given anew, or None and what is wrong with it.

    A number given anew is ``assumed`` in the machine's sources, one that follows a buffer's size ``scaled``.
    ``name`` and ``lines`` (full path → line; under ``""`` that of the machine) are for the messages.
    """
    data = plain_description(machine)
    old = plain_description(machine)
    given = {field.path for field in values}
    for field, value in values.items():
        _put(data, field.place, value)
        _state(data, field.path, "assumed", f"given by the sweep in place of what {machine.name} has")
    for field, value in values.items():
        if scale_buffers and field.path.endswith(".size_bits"):
            for path, place, number in _scaled(old, field, value):
                if path not in given:
                    _put(data, place, number)
                    _state(data, path, "scaled", f"{machine.name}'s, by the exponent of the SRAM fit of {SCALED_BY}")
    without = {key: value for key, value in data.items() if key != "sources"}
    for key in unknown_sources(without, data["sources"]):
        del data["sources"][key]  # it was of a part that the sweep replaced
    document = Document(name, {VERSION_FIELD: SCHEMA_VERSION, **data}, {(): lines.get("", 1)})
    document.lines |= {field.place: lines[field.path] for field in values if field.path in lines}
    found, problems = model_of(document, SCHEMA if isinstance(machine, Accelerator) else TILED_SCHEMA)
    assert found is None or isinstance(found, Machine)
    return found, problems


def _put(data: dict[str, Any], place: Place, value: Any) -> None:
    here: Any = data
    for part in place[:-1]:
        here = here[part]
    here[place[-1]] = value


def _state(data: dict[str, Any], path: str, confidence: str, source: str) -> None:
    """Say where a number is from, in place of what was said of it and of what is in it."""
    sources = data["sources"]
    for key in [key for key in sources if covers(path, key)]:
        del sources[key]
    sources[path] = {"confidence": confidence, "source": source}


def _scaled(old: Mapping[str, Any], field: Field, size_bits: Any) -> Iterator[tuple[str, Place, float]]:
    """What follows a buffer's size: path, place and new number. Registers, and what is not a size, change nothing."""
    buffer: Any = old
    for part in field.place[:-1]:
        buffer = buffer[part]
    if buffer.get("kind") != "buffer" or isinstance(size_bits, bool) or not isinstance(size_bits, int):
        return
    if size_bits < 1 or size_bits == buffer["size_bits"]:
        return
    for name in _SCALED:
        if buffer[name]:
            ratio = (size_bits / buffer["size_bits"]) ** _exponents()[name]
            # Six digits are more than the fit is worth, and the same on every machine.
            path = f"{field.path.removesuffix('size_bits')}{name}"
            yield path, (*field.place[:-1], name), float(f"{buffer[name] * ratio:.6g}")


@cache
def _exponents() -> dict[str, float]:
    fit = open_technology(SCALED_BY).sram_fit
    assert fit is not None
    laws: dict[str, PowerLaw] = {name: getattr(fit, name) for name in _SCALED}
    return {name: law.size_exponent for name, law in laws.items()}
