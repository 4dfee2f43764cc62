"""Processing elements: one file a kind, one interface (``base``)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from simulator.processing_elements.base import PrecisionEnergy, ProcessingElementBase
from simulator.processing_elements.bit_fusion import BitFusionElement
from simulator.processing_elements.bit_serial import BitSerialElement
from simulator.processing_elements.bit_sparse import BitSparseElement
from simulator.processing_elements.dual_precision import DualPrecisionElement
from simulator.processing_elements.fixed import FixedElement
from simulator.processing_elements.floating_point import FloatingPointElement

ProcessingElement = Annotated[
    FixedElement | BitFusionElement | BitSerialElement | BitSparseElement | FloatingPointElement
    | DualPrecisionElement,
    Field(discriminator="kind"),
]

__all__ = [
    "BitFusionElement", "BitSerialElement", "BitSparseElement", "DualPrecisionElement", "FixedElement",
    "FloatingPointElement", "PrecisionEnergy",
    "ProcessingElement", "ProcessingElementBase",
]
