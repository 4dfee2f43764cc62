"""``bit_sparse``: bit-serial products that skip what is zero, so that the time of a step depends on its operands.

Serial operands arrive bit by bit, as in ``bit_serial``. Of those named in ``skipped_operands`` only some bits are
sent; which ones is ``skipping``:

- ``zero_bits``: each lane sends the set bits of its own value (Bit-Pragmatic: Albericio et al., MICRO 2017; of both
  operands: Laconic, Sharify et al., arXiv:1805.04513). With ``first_stage_bits`` L the lanes of a group share a
  shifter: in a cycle a lane may send its next bit, lowest first, only where it lies less than 2^L places above the
  lowest bit that any lane of the group has yet to send (two-stage shifting, as in the authors' group's DNNsim).
- ``zero_columns``: the lanes of a group send the same bit places, those in which any of their values has a bit
  (bit-column-serial, BitWave: Shi et al., HPCA 2024).
- ``leading_bits``: the lanes of a group send as many low bits as the widest of their values has (Dynamic Stripes:
  Delmas et al., arXiv:1706.00504; Loom: Sharify et al., DAC 2018).
- ``none``: all bits of the format: a plain bit-serial unit.

A step takes as long as the slowest group of any PE of the grid (docs/simulator.md, "Steps that depend on values").
``sent`` is the one definition of what is sent when: ``dot`` adds it up, and ``grid_step_cycles`` counts its cycles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from simulator.formats import Format
from simulator.layer import Operand
from simulator.precision import LayerPrecision
from simulator.processing_elements.base import IntArray, IntegerElementBase

SerialOperand = Literal["weight", "input"]
Skipping = Literal["zero_bits", "zero_columns", "leading_bits", "none"]


class BitSparseElement(IntegerElementBase):
    """``lane_count`` products in as many cycles as their serial operands have bits that are not skipped.

    Attributes:
        serial_operands: which operands arrive bit by bit; where both do, each bit of one meets each bit of the other.
        skipped_operands: those of them of which bits are skipped; another serial one sends all bits of its format.
        skipping: which bits are skipped (see the module).
        encoding: ``twos_complement``, or ``sign_magnitude``: the bits of the absolute value, and a sign.
        sign_cycles: ``sign_magnitude``: 0, a sign goes along with the bits; 1, it is sent like a bit, where it is set
            (with shared columns or width: where any value of the group is negative).
        group_size: neighbouring lanes of a PE that share columns, a width or a shifter; None: all of them.
        first_stage_bits: ``zero_bits``: the lanes' own shifters reach 2^L places; None: any bit at any time.
        overlapped_cycles: cycles of each step that pass behind the step before it, and are not counted.
        min_step_cycles: the least that a step takes, also one of nothing but zeros.
        lane_count: products added up in one step.
        max_bits: widest operand.
    """

    kind: Literal["bit_sparse"] = "bit_sparse"
    serial_operands: tuple[SerialOperand, ...] = Field(min_length=1, max_length=2)
    skipped_operands: tuple[SerialOperand, ...] = Field(min_length=1, max_length=2)
    skipping: Skipping
    encoding: Literal["twos_complement", "sign_magnitude"] = "twos_complement"
    sign_cycles: int = Field(default=0, ge=0, le=1)
    group_size: int | None = Field(default=None, ge=1)
    first_stage_bits: int | None = Field(default=None, ge=0, le=4)
    overlapped_cycles: int = Field(default=0, ge=0)
    min_step_cycles: int = Field(default=1, ge=1)
    lane_count: int = Field(default=16, ge=1)
    max_bits: int = Field(default=16, ge=1, le=32)

    @model_validator(mode="after")
    def _check(self) -> BitSparseElement:
        for name, operands in (("serial", self.serial_operands), ("skipped", self.skipped_operands)):
            if len(set(operands)) != len(operands):
                raise ValueError(f"{name}_operands={list(operands)}: must not repeat")
        for operand in self.skipped_operands:
            if operand not in self.serial_operands:
                raise ValueError(f"skipped_operands={operand}: bits are skipped only of what arrives serially")
        if self.sign_cycles and self.encoding != "sign_magnitude":
            raise ValueError(f"sign_cycles={self.sign_cycles}: only sign_magnitude has a sign apart from its bits")
        if self.first_stage_bits is not None:
            wrong = f"first_stage_bits={self.first_stage_bits}: "
            if self.skipping != "zero_bits":
                raise ValueError(wrong + "only zero_bits shifts in two stages")
            if self.sign_cycles:
                raise ValueError(wrong + "needs sign_cycles 0, because a sign is not shifted")
        return self

    # ---- time -----------------------------------------------------------------------------------------------

    @property
    def depends_on_values(self) -> bool:
        """Whether the time of a step depends on its operands."""
        return self.skipping != "none"

    def with_steps_of(self, cycles: int, precision: LayerPrecision) -> BitSparseElement:
        """This element with all bits sent, and what that takes too long overlapped."""
        if not self.depends_on_values:
            return self
        everything = self.model_copy(update={"skipping": "none", "first_stage_bits": None, "overlapped_cycles": 0})
        overlapped = max(0, everything.cycles_per_step(precision) - cycles)
        return everything.model_copy(update={"overlapped_cycles": overlapped})

    def lanes(self, precision: LayerPrecision) -> int:
        """Return ``lane_count``, at any precision."""
        return self.lane_count

    @property
    def lanes_in_group(self) -> int:
        """Neighbouring lanes that are counted together; 1 where each lane goes its own way."""
        if self.skipping == "zero_bits" and self.first_stage_bits is None:
            return 1
        return min(self.group_size or self.lane_count, self.lane_count)

    def static_count(self, operand: SerialOperand, precision: LayerPrecision) -> int:
        """Cycles of a serial operand of which no bit is skipped: the bits of its format, and a sign sent apart."""
        number_format = precision.weight if operand == "weight" else precision.input
        return number_format.bits + (self.sign_cycles if number_format.is_signed else 0)

    def static_factor(self, precision: LayerPrecision) -> int:
        """Cycles that each counted bit takes: those of a serial operand of which no bits are skipped, else 1."""
        factor = 1
        for operand in self.serial_operands:
            if operand not in self.skipped_operands:
                factor *= self.static_count(operand, precision)
        return factor

    def clamped(self, cycles: int) -> int:
        """Cycles of a step from its count: less what overlaps, and at least the minimum."""
        return max(self.min_step_cycles, cycles - self.overlapped_cycles)

    def cycles_per_step(self, precision: LayerPrecision) -> int:
        """Cycles of a step in which no bit is skipped: no step takes more."""
        cycles = 1
        for operand in self.serial_operands:
            cycles *= self.static_count(operand, precision)
        return self.clamped(cycles)

    def fewest_cycles_per_step(self, precision: LayerPrecision) -> int:
        """Cycles of a step of nothing but zeros: no step takes fewer."""
        if not self.depends_on_values:
            return self.cycles_per_step(precision)
        return self.clamped(self.static_factor(precision) if self.skipping == "leading_bits" else 0)

    def grid_step_cycles(self, weights: IntArray, inputs: IntArray, precision: LayerPrecision) -> int:
        """Cycles of one step of the grid, by the definition.

        ``weights`` and ``inputs``: codes on the lanes of all PEs at work, shape (PEs, lanes); lanes without a product
        hold 0, which never takes longest.
        """
        counts = np.full((len(weights), 1), self.static_factor(precision), dtype=np.int64)
        for operand, codes, number_format in (
            ("weight", weights, precision.weight), ("input", inputs, precision.input),
        ):
            if operand in self.skipped_operands:
                counts = counts * self.sent(codes, number_format)[1]
        return self.clamped(int(counts.max(initial=0)))

    def allowed_bits(self, operand: Operand) -> tuple[int, ...]:
        """Every width up to ``max_bits``."""
        return tuple(range(1, self.max_bits + 1))

    # ---- values ---------------------------------------------------------------------------------------------

    def dot(self, weights: IntArray, inputs: IntArray, precision: LayerPrecision) -> IntArray:
        """Add up what the lanes send, cycle by cycle; an operand that is not serial is there as a whole."""
        planes: dict[str, list[IntArray]] = {}
        for operand, codes, number_format in (
            ("weight", weights, precision.weight), ("input", inputs, precision.input),
        ):
            if operand not in self.serial_operands:
                planes[operand] = [codes]
            elif operand in self.skipped_operands:
                planes[operand] = self.sent(codes, number_format)[0]
            else:
                planes[operand] = [bit for bit, _ in self._bits(codes, number_format)]
        total = np.zeros(weights.shape[:-1], dtype=np.int64)
        for weight in planes["weight"]:
            for value in planes["input"]:
                total += (weight * value).sum(axis=-1)
        return total

    def sent(self, codes: IntArray, number_format: Format) -> tuple[list[IntArray], IntArray]:
        """What the lanes send of one operand, and in how many cycles.

        ``codes`` has shape (…, lanes). Returns the value that each lane sends in each turn (its bit in its place, with
        its sign, or 0), each of the shape of ``codes``; and the cycles that each group takes, shape (…, groups).
        A turn in which a group sends nothing is no cycle of it.
        """
        negative = self._grouped(codes < 0).any(axis=-1)
        if self.skipping == "none":
            bits = [bit for bit, _ in self._bits(codes, number_format)]
            full = number_format.bits + (self.sign_cycles if number_format.is_signed else 0)
            return bits, np.full((*codes.shape[:-1], 1), full, dtype=np.int64)
        if self.skipping == "leading_bits":
            turns, counts = self._leading(codes, number_format)
        elif self.first_stage_bits is not None:
            turns, counts = self._shifted(codes, number_format)
        else:
            turns = [bit for bit, _ in self._bits(codes, number_format)]
            # Groups of one lane send their own bits; larger ones every place in which a lane has a bit.
            counts = np.zeros(self._grouped(codes).shape[:-1], dtype=np.int64)
            for bit in turns:
                counts += self._grouped(bit != 0).any(axis=-1)
        return turns, counts + self.sign_cycles * negative

    def _grouped(self, lanes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Cut the lanes into groups: shape (…, groups, lanes in a group), empty places filled with 0."""
        size = self.lanes_in_group
        missing = -lanes.shape[-1] % size
        filled = np.pad(lanes, [(0, 0)] * (lanes.ndim - 1) + [(0, missing)])
        return filled.reshape(*lanes.shape[:-1], -1, size)

    def _spread(self, groups: IntArray, lanes: int) -> IntArray:
        """Give each lane what is known of its group."""
        return np.repeat(groups, self.lanes_in_group, axis=-1)[..., :lanes]

    def _bits(self, codes: IntArray, number_format: Format) -> Iterator[tuple[IntArray, int]]:
        """Yield each bit of the codes in its place and with its sign, lowest first, and its place."""
        magnitude = self.encoding == "sign_magnitude"
        sign = np.where(codes < 0, -1, 1)
        held = np.abs(codes) if magnitude else codes
        for place in range(number_format.bits):
            bit = ((held >> place) & 1) << place
            if magnitude:
                yield bit * sign, place
            else:
                is_top = number_format.is_signed and place == number_format.bits - 1
                yield (-bit if is_top else bit), place

    def _leading(self, codes: IntArray, number_format: Format) -> tuple[list[IntArray], IntArray]:
        """Bits up to the width of the group; in two's complement the top one of these carries the sign."""
        magnitude = self.encoding == "sign_magnitude"
        signed = number_format.is_signed and not magnitude
        held = np.abs(codes) if magnitude else codes
        own = np.zeros(codes.shape, dtype=np.int64)
        for place in range(number_format.bits):
            own = np.where((np.where(held < 0, ~held, held) >> place) & 1 == 1, place + 1, own)
        width = np.maximum(1, self._grouped(own + (1 if signed else 0)).max(axis=-1))
        mine = self._spread(width, codes.shape[-1])
        sign = np.where(codes < 0, -1, 1) if magnitude else np.ones_like(codes)
        turns = []
        for place in range(number_format.bits):
            bit = (((held >> place) & 1) << place) * sign
            bit = np.where(signed & (place == mine - 1), -bit, bit)
            turns.append(np.where(place < mine, bit, 0))
        return turns, width

    def _shifted(self, codes: IntArray, number_format: Format) -> tuple[list[IntArray], IntArray]:
        """Two-stage shifting: in each cycle a lane sends its lowest bit if the lowest of its group is near enough."""
        assert self.first_stage_bits is not None
        reach = 1 << self.first_stage_bits
        nothing = np.int64(1) << 40
        left = np.abs(codes) if self.encoding == "sign_magnitude" else codes & ((1 << number_format.bits) - 1)
        top = 0 if self.encoding == "sign_magnitude" or not number_format.is_signed else 1 << (number_format.bits - 1)
        sign = np.where(codes < 0, -1, 1) if self.encoding == "sign_magnitude" else np.ones_like(codes)
        counts = np.zeros(self._grouped(codes).shape[:-1], dtype=np.int64)
        turns = []
        while (left != 0).any():
            bit = left & -left
            # Places that fill up a group stand for lanes without a value.
            candidates = self._grouped(bit)
            lowest = np.where(candidates == 0, nothing, candidates).min(axis=-1)
            now = np.where(bit < self._spread(lowest, codes.shape[-1]) << reach, bit, 0)
            left = left ^ now
            counts += self._grouped(now != 0).any(axis=-1)
            turns.append(np.where(now == top, -now, now) * sign)
        return turns, counts
