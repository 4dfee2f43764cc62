"""What every processing element has in common.

A processing element (PE) performs one *step* on ``lanes`` products: it multiplies that many weight and input
pairs, adds them up and accumulates. How many lanes it has and how many cycles a step takes depends on the
precision; that is all the timing engines know of it. ``dot`` computes the step's value from bits, the way the
unit's circuit does, so that a mistake in the arithmetic shows as a wrong number; ``add`` and ``finish`` say how sums
are added up and in what form they leave.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from simulator.errors import PrecisionError, Problem
from simulator.floating import Reals
from simulator.formats import Format
from simulator.layer import Frozen, Operand
from simulator.precision import LayerPrecision

IntArray = npt.NDArray[np.int64]
BOTH: tuple[Operand, Operand] = ("weight", "input")
"""What a product is made of."""


class PrecisionEnergy(Frozen):
    """Energy of one PE in a cycle in which it works on operands of two formats.

    An integer format stands for its width, signed or not.
    """

    weight: Format
    input: Format
    energy_pj_per_cycle: float = Field(ge=0)

    @property
    def name(self) -> str:
        """How the entry is called in ``sources``."""
        return f"{self.weight}_{self.input}"

    @property
    def is_integer(self) -> bool:
        """Whether both formats are integers."""
        return self.weight.is_integer and self.input.is_integer


def _same(one: Format, other: Format) -> bool:
    return one.bits == other.bits if one.is_integer and other.is_integer else one == other


class ProcessingElementBase(Frozen):
    """Parameters and behaviour shared by all kinds.

    Attributes:
        energy_pj_per_cycle: energy of one PE in a cycle in which it works, at any precision that
            ``energy_by_precision`` does not cover.
        energy_by_precision: energy at single precisions. Between them a pair of integers costs what the cheapest entry
            costs that is at least as wide in both operands.
        area_um2, leakage_mw: of one PE; None: not modelled.
        pipeline_cycles: registers between a PE's operands and its accumulated result; shows once, at the end.
    """

    energy_pj_per_cycle: float = Field(ge=0)
    pipeline_cycles: int = Field(default=0, ge=0)
    energy_by_precision: tuple[PrecisionEnergy, ...] = ()
    area_um2: float | None = Field(default=None, ge=0)
    leakage_mw: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _check_energies(self) -> Self:
        for place, entry in enumerate(self.energy_by_precision):
            for earlier in self.energy_by_precision[:place]:
                if _same(entry.weight, earlier.weight) and _same(entry.input, earlier.input):
                    raise ValueError(f"energy_by_precision={entry.name}: stands there twice")
        return self

    def energy_entry(self, precision: LayerPrecision) -> tuple[PrecisionEnergy | None, bool]:
        """The entry of ``energy_by_precision`` that holds, and whether for these very formats; None: no entry does."""
        weight, activation = precision.weight, precision.input
        for entry in self.energy_by_precision:
            if _same(entry.weight, weight) and _same(entry.input, activation):
                return entry, True
        if weight.is_integer and activation.is_integer:
            wider = [
                entry for entry in self.energy_by_precision
                if entry.is_integer and entry.weight.bits >= weight.bits and entry.input.bits >= activation.bits
            ]
            if wider:
                return min(wider, key=lambda entry: entry.energy_pj_per_cycle), False
        return None, False

    def energy_pj_per_cycle_at(self, precision: LayerPrecision) -> float:
        """Energy in pJ of one PE in a cycle in which it works at a precision."""
        entry, _ = self.energy_entry(precision)
        return self.energy_pj_per_cycle if entry is None else entry.energy_pj_per_cycle

    @abstractmethod
    def lanes(self, precision: LayerPrecision) -> int:
        """Products that one PE adds up in one step."""

    @abstractmethod
    def cycles_per_step(self, precision: LayerPrecision) -> int:
        """Cycles that one step takes."""

    @property
    def depends_on_values(self) -> bool:
        """Whether the time of a step depends on its operands; ``cycles_per_step`` is then the most it takes."""
        return False

    def with_steps_of(self, cycles: int, precision: LayerPrecision) -> Self:
        """This element as it would be if every step took so many cycles at a precision, whatever the values.

        ``cycles`` lies between ``fewest_cycles_per_step`` and ``cycles_per_step``. Where these are equal, nothing
        changes.
        """
        return self

    def fewest_cycles_per_step(self, precision: LayerPrecision) -> int:
        """Cycles that one step takes at least, whatever its operands."""
        return self.cycles_per_step(precision)

    def grid_step_cycles(self, weights: IntArray, inputs: IntArray, precision: LayerPrecision) -> int:
        """Cycles of one step of the grid. ``weights`` and ``inputs``: codes, shape (PEs at work, lanes)."""
        return self.cycles_per_step(precision)

    @abstractmethod
    def dot(self, weights: IntArray, inputs: IntArray, precision: LayerPrecision) -> IntArray:
        """Sum of products over the last axis, computed the way the circuit does.

        ``weights`` and ``inputs`` have equal shapes ``(…, products)`` and hold codes in range of their formats.
        """

    @abstractmethod
    def add(self, sums: list[int], values: list[int], precision: LayerPrecision) -> list[int]:
        """Add up pairwise what ``dot`` and ``add`` gave. Both lists have the same length."""

    @abstractmethod
    def finish(self, sums: list[int], precision: LayerPrecision) -> list[int]:
        """Return finished sums as the engine hands them out."""

    @abstractmethod
    def problems(self, precision: LayerPrecision) -> list[Problem]:
        """Say what of a precision this PE cannot run; empty if nothing."""

    def expansion_energy_pj(self, precision: LayerPrecision) -> float | None:
        """Energy of expanding one weight as it comes to the grid; None where that is not done, or not modelled."""
        return None

    def expand(self, codes: IntArray, scales: Reals, zeros: IntArray, precision: LayerPrecision) -> IntArray:
        """Codes of ``precision.expanded_weight`` for stored weights, each with the scale and zero point of its group.

        All arrays have the same shape. ``problems`` refuses precisions that expand where a kind cannot do it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not expand weights")

    def check(self, precision: LayerPrecision) -> None:
        """Raise ``PrecisionError`` with every problem of ``precision``."""
        problems = self.all_problems(precision)
        if problems:
            raise PrecisionError(problems)

    def all_problems(self, precision: LayerPrecision) -> list[Problem]:
        """``problems`` of all parts of a precision, and whether layers may be split by channel at all."""
        found = self.problems(precision)
        if precision.split is not None:
            if self.depends_on_values:
                found.append(Problem("layers split by channel are not described where time depends on values",
                                     path="precision.split", value=precision.split.label))
            found += [replace(problem, path=problem.path.replace("precision.", "precision.split."))
                      for problem in self.problems(precision.narrow) if problem.path != "precision.accumulator"]
        return found


class IntegerElementBase(ProcessingElementBase):
    """What the kinds that compute with integers have in common: their sums are exact."""

    @abstractmethod
    def allowed_bits(self, operand: Operand) -> tuple[int, ...]:
        """Integer widths that the PE takes for ``weight`` or ``input``."""

    def digit_planes(self, codes: IntArray, operand: Operand, precision: LayerPrecision) -> tuple[IntArray, int]:
        """Split an operand as the circuit takes it: digits, lowest first, and the bits of a digit.

        Returns an array of shape ``(digits, *codes.shape)`` with ``codes == Σ digit[i] << (i · digit_bits)``.
        """
        return codes[np.newaxis], 0

    def add(self, sums: list[int], values: list[int], precision: LayerPrecision) -> list[int]:
        """Add whole numbers pairwise, exactly."""
        return [one + other for one, other in zip(sums, values, strict=True)]

    def finish(self, sums: list[int], precision: LayerPrecision) -> list[int]:
        """Return the sums as they are: scales, which are no part of a layer here, decide the output's codes."""
        return sums

    def problems(self, precision: LayerPrecision) -> list[Problem]:
        """Say what of a precision this PE cannot run; empty if nothing."""
        found = []
        pairs: tuple[tuple[Operand, Format], ...] = (("weight", precision.weight), ("input", precision.input))
        for operand, number_format in pairs:
            allowed = self.allowed_bits(operand)
            if not number_format.is_integer or number_format.bits not in allowed:
                found.append(
                    Problem(
                        "the processing element cannot run this format",
                        path=f"precision.{operand}",
                        value=str(number_format),
                        allowed=tuple(f"int{bits}" for bits in allowed),
                    )
                )
        if not precision.accumulator.is_integer:
            found.append(
                Problem("integer processing elements accumulate integers", path="precision.accumulator",
                        value=str(precision.accumulator), allowed=("int32",))
            )
        return found


def next_power_of_two(value: int) -> int:
    """Smallest power of two that is at least ``value``.

    >>> [next_power_of_two(bits) for bits in (1, 3, 8)]
    [1, 4, 8]
    """
    return 1 << (value - 1).bit_length()


def signed_digits(codes: IntArray, digit_bits: int, digits: int, is_signed: bool) -> IntArray:
    """Split integers into base-2^digit_bits digits, lowest first; the top digit carries the sign.

    Returns an array of shape ``(digits, *codes.shape)`` with ``codes == Σ digit[i] << (i·digit_bits)``.
    """
    parts = []
    rest = codes
    for position in range(digits):
        if position == digits - 1 and is_signed:
            parts.append(rest)
        else:
            parts.append(rest & ((1 << digit_bits) - 1))
            rest = rest >> digit_bits
    return np.stack(parts)
