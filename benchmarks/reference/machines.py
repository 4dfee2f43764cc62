"""Bare machines for comparing compute cycles: a grid, its PEs, and memories that are never in the way.

The references below count what the grid does and nothing else, so buffers hold everything, and the cycles compared
are compute plus fill and drain; what the DRAM takes is left out.
"""

from __future__ import annotations

from simulator.accelerator import (
    Accelerator,
    Axis,
    Buffer,
    Dram,
    Grid,
    MulticastPassing,
    RegisterFile,
    SystolicPassing,
    VectorUnit,
)
from simulator.engine import simulate
from simulator.layer import OPERANDS, Dim, Layer, Operand
from simulator.mapping import Mapping, MappingLevel
from simulator.precision import LayerPrecision
from simulator.processing_elements import ProcessingElement
from simulator.result import LayerResult
from simulator.values import LayerValues

PLENTY_BITS = 2**50


def bare_machine(
    axes: tuple[Axis, ...],
    passing: MulticastPassing | SystolicPassing,
    element: ProcessingElement,
    registers_keep: Operand | None = None,
) -> Accelerator:
    """Return a machine whose buffers, one an operand and named after it, hold any layer."""
    memories: list[Dram | Buffer | RegisterFile] = [
        Dram(bandwidth_bits_per_cycle=PLENTY_BITS, read_energy_pj_per_bit=0.0, write_energy_pj_per_bit=0.0)
    ]
    memories += [
        Buffer(name=operand, keeps=(operand,), size_bits=PLENTY_BITS, read_energy_pj_per_bit=0.0,
               write_energy_pj_per_bit=0.0)
        for operand in OPERANDS
    ]
    if registers_keep is not None:
        memories.append(
            RegisterFile(name="registers", keeps=(registers_keep,), size_bits=PLENTY_BITS,
                         read_energy_pj_per_bit=0.0, write_energy_pj_per_bit=0.0)
        )
    return Accelerator(
        name="bare", description="a grid without memory limits", clock_mhz=1000.0, memories=tuple(memories),
        grid=Grid(axes=axes, passing=passing), processing_element=element,
        vector_unit=VectorUnit(lanes=1, energy_pj_per_operation=0.0),
    )


def one_pass(layer: Layer, spatial: dict[str, dict[Dim, int]], order: tuple[Dim, ...]) -> Mapping:
    """A layer as one buffer tile, walked in ``order`` (outermost first)."""
    return Mapping(
        spatial=spatial,
        levels=(
            MappingLevel(level="dram"),
            MappingLevel(level="buffer", tile=dict(layer.dims), order=order),
            MappingLevel(level="register"),
        ),
    )


def run_in_one_pass(
    layer: Layer, precision: LayerPrecision, machine: Accelerator, spatial: dict[str, dict[Dim, int]],
    order: tuple[Dim, ...], values: LayerValues | None = None,
) -> LayerResult:
    """Simulate a layer as one buffer tile, walked in ``order`` (outermost first)."""
    return simulate(layer, precision, machine, one_pass(layer, spatial, order), values=values)


def grid_cycles(result: LayerResult) -> int:
    """Cycles of the grid: compute, fill and drain; no waiting for memory."""
    return result.compute_cycles + result.fill_drain_cycles
