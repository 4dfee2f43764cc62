"""A unit beside the grid that runs layers in floating point, as SEADA (arXiv 2606.27884) has it: rates, not a circuit.

The engines know nothing of it; ``simulator.floating_layer`` gives the cost of a layer on it in closed form.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from simulator.formats import Format
from simulator.layer import Frozen

FLOATING_POINT_UNIT = "floating_point_unit"
Amount = Annotated[float, Field(ge=0)]


class FloatingPointUnit(Frozen):
    """A unit beside the grid that runs layers in floating point.

    Attributes:
        macs_per_cycle: multiply-accumulates that it finishes in a cycle at best.
        utilization: share of them that layers reach.
        energy_pj_per_mac: of one multiply-accumulate in the layers' format.
        conversion_energy_pj: of one number turned from integer to floating point or back.
        number_format: of weights and inputs: ``bf16``, ``fp16``, ``fp32``.
        area_um2, leakage_mw: of the whole unit; None: not modelled.
    """

    macs_per_cycle: float = Field(gt=0)
    utilization: float = Field(default=1.0, gt=0, le=1)
    energy_pj_per_mac: float = Field(ge=0)
    conversion_energy_pj: float = Field(ge=0)
    number_format: Format = Format("bf16")
    area_um2: Amount | None = None
    leakage_mw: Amount | None = None

    @field_validator("number_format")
    @classmethod
    def _check_format(cls, number_format: Format) -> Format:
        if number_format.is_integer or number_format.bits < 16:
            raise ValueError("must be bf16, fp16 or fp32: layers that stay in floating point are not quantised")
        return number_format
