"""Cost of a layer that stays in floating point beside an integer machine, in closed form (SEADA, arXiv 2606.27884).

SEADA's abstract names analytical models for floating-point layers, to estimate what mixed precision is worth as a
whole; it gives no formula. Ours is a roofline with every stored operand moved once:

    cycles = max(⌈MACs / (macs_per_cycle · utilization)⌉, ⌈bits / bandwidth⌉)
    energy = MACs · energy_pj_per_mac + bits moved · pJ a bit of the DRAM + conversions + leakage · cycles

A *conversion* stands at each border between integers and floating point: one for each input that an integer layer
wrote, and one for each output that is written in integers. Nothing is mapped: buffers, ragged edges and waits are left
out, so that costs are low estimates, not what the engines count for a machine that has such a unit (the tile ``float``
of ``four_tiles``).
"""

from __future__ import annotations

import math

from simulator.accelerator import LEAKAGE, Accelerator
from simulator.errors import PrecisionError, Problem
from simulator.floating_point_unit import FLOATING_POINT_UNIT, FloatingPointUnit
from simulator.layer import Frozen, Layer
from simulator.output_stage import CONVERSION
from simulator.precision import LayerPrecision

__all__ = ["FloatingLayerCost", "FloatingPointUnit", "floating_layer_cost"]

class FloatingLayerCost(Frozen):
    """What the closed form gives.

    Attributes:
        latency_cycles: the longer one of the next two.
        compute_cycles: products at the unit's rate.
        transfer_cycles: all bits at the DRAM's bandwidth.
        read_bits, written_bits: of weights and inputs, and of outputs, each once.
        energy_pj: by component: ``floating_point_unit``, the DRAM's name, ``conversion``, and ``leakage`` where the
            machine describes it.
    """

    layer: str
    latency_cycles: int
    compute_cycles: int
    transfer_cycles: int
    read_bits: int
    written_bits: int
    energy_pj: dict[str, float]

    @property
    def moved_bits(self) -> int:
        """Bits of weights, inputs and outputs, each once."""
        return self.read_bits + self.written_bits

    @property
    def total_energy_pj(self) -> float:
        """Energy of all components."""
        return math.fsum(self.energy_pj.values())


def floating_layer_cost(
    layer: Layer,
    precision: LayerPrecision,
    accelerator: Accelerator,
    unit: FloatingPointUnit,
    *,
    reads_integers: bool = False,
    stored_input_bits: int | None = None,
) -> FloatingLayerCost:
    """Cost of one layer on a unit that shares the machine's clock and DRAM (module docstring).

    ``reads_integers``: whether the layer before wrote integers; ``stored_input_bits``: how wide its numbers lie in
    DRAM, None for as wide as ``precision.input``. Whether integers are written is what
    ``precision.output`` says. Raises ``PrecisionError`` for a precision whose operands are not in floating point.
    """
    problems = [
        Problem("must be a floating-point format: other layers are mapped", where=f"layer {layer.name}", path=path,
                value=str(number_format))
        for path, number_format in (("precision.weight", precision.weight), ("precision.input", precision.input))
        if number_format.is_integer
    ]
    if problems:
        raise PrecisionError(problems)
    dram = accelerator.dram
    rows, columns = layer.stored_input_size
    inputs = layer.extent("G") * layer.extent("N") * layer.extent("C") * rows * columns
    read = layer.weight_count * precision.weight.bits + inputs * (stored_input_bits or precision.input.bits)
    written = layer.output_count * precision.output.bits
    compute = math.ceil(layer.macs / (unit.macs_per_cycle * unit.utilization))
    transfer = math.ceil((read + written) / dram.bandwidth_bits_per_cycle)
    cycles = max(compute, transfer)
    conversions = (inputs if reads_integers else 0) + (layer.output_count if precision.output.is_integer else 0)
    energy = {
        FLOATING_POINT_UNIT: layer.macs * unit.energy_pj_per_mac,
        dram.name: read * dram.read_energy_pj_per_bit + written * dram.write_energy_pj_per_bit,
        CONVERSION: conversions * unit.conversion_energy_pj,
    }
    if accelerator.leakage_pj_per_cycle is not None:
        energy[LEAKAGE] = cycles * accelerator.leakage_pj_per_cycle
    return FloatingLayerCost(
        layer=layer.name, latency_cycles=cycles, compute_cycles=compute, transfer_cycles=transfer,
        read_bits=read, written_bits=written, energy_pj=energy,
    )
