"""Number formats: what one value of a tensor is stored as.

A format is an integer of any width from 1 to 32 bits, signed (``int4``) or not (``uint8``), or one of six
floating-point formats. What their codes stand for is in ``floating``; nothing here computes.

FP8 with four exponent bits exists with two ranges: ``fp8_e4m3`` has no infinities and reaches 448 (Micikevicius et
al., "FP8 Formats for Deep Learning", arXiv:2209.05433, the OCP format), ``fp8_e4m3_ieee`` keeps its top exponent for
infinities and NaN, as IEEE 754 does, and reaches 240.
"""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from simulator.errors import PrecisionError, Problem, closest

FloatName = Literal["fp8_e4m3", "fp8_e4m3_ieee", "fp8_e5m2", "fp16", "bf16", "fp32"]
FLOAT_BITS: dict[str, int] = dict(zip(get_args(FloatName), (8, 8, 8, 16, 16, 32), strict=True))
_INTEGER = re.compile(r"(u?)int([1-9][0-9]?)")
MAX_INTEGER_BITS = 32


class Format(str):
    """The name of a number format, checked: ``int1`` … ``int32``, ``uint1`` … ``uint32``, or a float.

    A ``Format`` is its name, so it prints, compares, hashes and serialises as plain text.

    >>> Format("int4").bits, Format("uint8").is_signed, Format("bf16").is_integer
    (4, False, False)

    Raises ``PrecisionError`` for any other text.
    """

    __slots__ = ()

    def __new__(cls, name: str) -> Format:
        """Check the name. Raises ``PrecisionError`` where it is no format."""
        match = _INTEGER.fullmatch(name)
        if name not in FLOAT_BITS and not (match and int(match[2]) <= MAX_INTEGER_BITS):
            known = [*FLOAT_BITS, "int2", "int4", "int8", "int16", "int32", "uint4", "uint8"]
            raise PrecisionError(
                Problem(
                    "no such number format",
                    path="format",
                    value=repr(name),
                    allowed=("int1 … int32", "uint1 … uint32", *FLOAT_BITS),
                    did_you_mean=closest(name, known),
                )
            )
        return super().__new__(cls, name)

    @property
    def bits(self) -> int:
        """Width of one value in bits."""
        return FLOAT_BITS[self] if self in FLOAT_BITS else int(self.split("int")[1])

    @property
    def is_integer(self) -> bool:
        """Whether this is an integer format."""
        return self not in FLOAT_BITS

    @property
    def is_signed(self) -> bool:
        """Whether values can be negative (floating-point formats always can)."""
        return not self.startswith("u")

    @property
    def integer_range(self) -> tuple[int, int]:
        """Smallest and largest value of an integer format."""
        if not self.is_integer:
            raise PrecisionError(Problem("has no integer range", path="format", value=repr(str(self))))
        if self.is_signed:
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Let Pydantic models hold formats: text in, ``Format`` out, text when serialised."""

        def parse(text: str) -> Format:
            try:
                return cls(text)
            except PrecisionError as error:
                raise ValueError(str(error)) from error

        return core_schema.no_info_after_validator_function(
            parse, core_schema.str_schema(), serialization=core_schema.to_string_ser_schema()
        )


def shortened(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of formats for a message: widths of integers as a range, formats in floating point one by one.

    >>> shortened(("int1", "int2", "int3", "int4", "int5"))
    ('int1 … int5',)
    """
    return (f"{names[0]} … {names[-1]}",) if len(names) > 4 and names[0].startswith("int") else names
