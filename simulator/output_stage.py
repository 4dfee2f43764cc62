"""What finished sums pass on their way out: scales are multiplied in, and the number takes the output's format.

It works behind the grid and takes no time here, only energy.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from simulator.layer import Frozen, Layer
from simulator.precision import LayerPrecision

CONVERSION, SCALING = "conversion", "scaling"
ConversionField = Literal["requantisation_energy_pj", "float_conversion_energy_pj"]
CONVERSION_FIELDS: tuple[ConversionField, ...] = get_args(ConversionField)
Amount = Annotated[float, Field(ge=0)]


class OutputStage(Frozen):
    """Energy of conversions and of scales; what is None is not modelled.

    Attributes:
        requantisation_energy_pj: one finished output rounded from the accumulator's format to another one of its
            kind: integer to integer, or floating point to floating point.
        float_conversion_energy_pj: one finished output turned from integer to floating point or back.
        scale_energy_pj: one multiplication by a scale (``LayerPrecision.scales_per_output`` for each output).
        area_um2, leakage_mw: of the whole stage.
    """

    requantisation_energy_pj: Amount | None = None
    float_conversion_energy_pj: Amount | None = None
    scale_energy_pj: Amount | None = None
    area_um2: Amount | None = None
    leakage_mw: Amount | None = None

    @staticmethod
    def conversion(precision: LayerPrecision) -> ConversionField:
        """The field that holds the energy of a precision's conversion."""
        same_kind = precision.accumulator.is_integer == precision.output.is_integer
        return "requantisation_energy_pj" if same_kind else "float_conversion_energy_pj"

    def conversion_energy_pj(self, precision: LayerPrecision) -> float | None:
        """Energy of one output's conversion, 0 where its format stays as it is; None: not modelled."""
        if precision.accumulator == precision.output:
            return 0.0
        energy: float | None = getattr(self, self.conversion(precision))
        return energy

    def energy_pj(self, layer: Layer, precision: LayerPrecision) -> dict[str, float]:
        """Energy of a layer in pJ by component, ``conversion`` and ``scaling``; those not modelled are left out."""
        energy = {}
        conversion = self.conversion_energy_pj(precision)
        if conversion is not None:
            energy[CONVERSION] = layer.output_count * conversion
        if self.scale_energy_pj is not None:
            energy[SCALING] = layer.output_count * precision.scales_per_output(layer) * self.scale_energy_pj
        return energy
