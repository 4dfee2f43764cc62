"""Technology tables: energies, areas and leakage at one node, each number with its source (``technology/*.yaml``).

A source of a machine may name a number of a table, ``table: 45nm.fixed_8_bit_pe_area_um2``, and a ``factor``; the
loader then holds the machine's number to their product, so that nothing is scaled in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from hw_configs.model_reader import Schema, read_model
from hw_configs.yaml_reader import value_text
from simulator.errors import ConfigurationError, Problem, closest
from simulator.layer import Frozen
from simulator.provenance import CONFIDENCES, Source, number_values
from simulator.tiled import Machine

TABLES = Path(__file__).parent / "technology"
UNITS = {
    "_energy_pj_per_cycle": "pJ a cycle", "_energy_pj_per_bit": "pJ a bit", "_energy_pj_per_bit_mm": "pJ a bit and mm",
    "_energy_pj": "pJ", "_area_um2": "µm²", "_leakage_mw": "mW", "_leakage_mw_per_um2": "mW a µm²",
}
# Machines write numbers with three digits or more.
ROUNDING = 2e-3


class TechnologyNumber(Source):
    """A number with its source.

    Attributes:
        value: in the unit that the number's name ends with.
    """

    value: float = Field(ge=0)


class PowerLaw(Frozen):
    """``at_1_kib · KiB^size_exponent · (width_bits / 64)^width_exponent``.

    Attributes:
        at_1_kib: value of 1 KiB that is 64 bits wide, in the unit of the quantity.
        size_exponent: of the size in KiB.
        width_exponent: of the width over 64 bits.
        largest_residual: largest relative deviation from the values that it was fitted to.
    """

    at_1_kib: float = Field(gt=0)
    size_exponent: float
    width_exponent: float
    largest_residual: float = Field(ge=0)


class SramFit(Frozen):
    """SRAM of one bank and one port, fitted between two sizes.

    Attributes:
        smallest_kib, largest_kib: sizes between which the fit holds, KiB.
        read_energy_pj_per_bit, write_energy_pj_per_bit: of each bit read or written.
        area_um2: of the whole memory.
        leakage_mw: of the whole memory.
    """

    smallest_kib: int = Field(ge=1)
    largest_kib: int = Field(ge=1)
    read_energy_pj_per_bit: PowerLaw
    write_energy_pj_per_bit: PowerLaw
    area_um2: PowerLaw
    leakage_mw: PowerLaw


SramQuantity = Literal["read_energy_pj_per_bit", "write_energy_pj_per_bit", "area_um2", "leakage_mw"]


class Technology(Frozen):
    """One node: numbers by name, and a fit for SRAM where there is one.

    Attributes:
        name: what sources call the table, ``45nm``.
        description: one line.
        node_nm: feature size.
        numbers: name, which ends with its unit, → number.
        sram_fit: energies, area and leakage of SRAM by size and width; null: none is known.
    """

    name: str
    description: str
    node_nm: int = Field(ge=1)
    numbers: dict[str, TechnologyNumber] = Field(min_length=1)
    sram_fit: SramFit | None = None

    @model_validator(mode="after")
    def _check(self) -> Technology:
        for name in self.numbers:
            if not name.endswith(tuple(UNITS)):
                raise ValueError(f"numbers.{name}: the name must end with its unit, one of {', '.join(UNITS)}")
        return self

    def unit(self, number: str) -> str:
        """Unit of a number, from its name."""
        return UNITS[max((suffix for suffix in UNITS if number.endswith(suffix)), key=len)]

    def sram(self, quantity: SramQuantity, size_bits: int, width_bits: int = 64) -> float:
        """One quantity of an SRAM by the fit: pJ a bit, µm² or mW.

        Raises ``ConfigurationError`` where the node has no fit, or the size lies outside what was fitted: beyond it
        the law does not hold, and a memory is built of banks.
        """
        if self.sram_fit is None:
            raise ConfigurationError(Problem("has no SRAM fit", where=f"technology {self.name}"))
        kib = size_bits / 8192
        if not self.sram_fit.smallest_kib <= kib <= self.sram_fit.largest_kib:
            raise ConfigurationError(
                Problem(f"the fit holds from {self.sram_fit.smallest_kib} to {self.sram_fit.largest_kib} KiB",
                        where=f"technology {self.name}", path="size_bits", value=str(size_bits))
            )
        law: PowerLaw = getattr(self.sram_fit, quantity)
        return float(law.at_1_kib * kib**law.size_exponent * (width_bits / 64) ** law.width_exponent)


SCHEMA = Schema(Technology, "bitmosaic_technology_version", 1)


def list_technologies() -> tuple[str, ...]:
    """Names of the technology tables."""
    return tuple(sorted(file.stem for file in TABLES.glob("*.yaml")))


@cache
def open_technology(name: str) -> Technology:
    """Load a technology table by its name. Raises ``ConfigurationError`` where there is none, or it is wrong."""
    names = list_technologies()
    if name not in names:
        raise ConfigurationError(
            Problem("no such technology", path="technology", value=value_text(name), allowed=names,
                    did_you_mean=closest(name, names))
        )
    technology, problems = read_model(TABLES / f"{name}.yaml", SCHEMA)
    if technology is None:
        raise ConfigurationError(problems)
    assert isinstance(technology, Technology)
    return technology


def table_problems(accelerator: Machine) -> dict[str, str]:
    """Sources of a machine whose number is not the one of the table that they name: key → rule, in words."""
    values = number_values(accelerator.model_dump(mode="json", exclude={"sources"}))
    found = {}
    for key, source in accelerator.sources.items():
        rule = "" if source.table is None else _table_problem(key, source, values)
        if rule:
            found[key] = rule
    return found


def _table_problem(key: str, source: Source, values: Mapping[str, float]) -> str:
    technology, _, name = str(source.table).partition(".")
    if technology not in list_technologies():
        return f"table={source.table}: no such technology (allowed: {', '.join(list_technologies())})"
    numbers = open_technology(technology).numbers
    if name not in numbers:
        near = closest(name, list(numbers))
        hint = f" (did you mean {near!r}?)" if near else ""
        return f"table={source.table}: {technology} has no such number{hint}"
    if key not in values:
        return f"table={source.table}: is for one number, and this is a group or not modelled"
    wanted = numbers[name].value * source.factor
    if not math.isclose(values[key], wanted, rel_tol=ROUNDING):
        return f"table={source.table}: the machine has {values[key]:g}, the table times the factor gives {wanted:g}"
    strongest = "scaled" if source.factor != 1 else numbers[name].confidence
    weaker = max(strongest, numbers[name].confidence, key=CONFIDENCES.index)
    if CONFIDENCES.index(source.confidence) < CONFIDENCES.index(weaker):
        return f"confidence={source.confidence}: a number of {source.table} by this factor is {weaker} at best"
    return ""
