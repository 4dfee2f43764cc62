"""``floating_point``: a multiply–accumulate unit for floating-point operands; ``floating_base`` has its arithmetic."""

from __future__ import annotations

from typing import Literal

from simulator.processing_elements.floating_base import FloatingElementBase


class FloatingPointElement(FloatingElementBase):
    """A floating-point multiply–accumulate unit."""

    kind: Literal["floating_point"] = "floating_point"
