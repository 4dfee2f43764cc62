"""How long a step is taken to last in the search for a mapping, where values decide it and are not known yet."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from simulator.accelerator import Accelerator, Axis
from simulator.layer import RELEVANT_DIMS, Operand
from simulator.precision import LayerPrecision
from simulator.processing_elements import BitSparseElement
from workloads.layer_values import draw_codes

SAMPLED_STEPS = 64


def planned_step_cycles(accelerator: Accelerator, precision: LayerPrecision) -> int:
    """Cycles of a step of a full grid, in the mean over drawn values, as a whole number.

    Values are those of ``workloads.layer_values.DEFAULT_DISTRIBUTION``. PEs along an axis on which only dimensions lie
    that do not matter to an operand share its values. Where time does not depend on values: ``cycles_per_step``.
    """
    element = accelerator.processing_element
    if not isinstance(element, BitSparseElement) or not element.depends_on_values:
        return element.cycles_per_step(precision)
    return _mean_step_cycles(element, accelerator.grid.axes, precision)


def planned_machine(accelerator: Accelerator, precision: LayerPrecision) -> Accelerator:
    """The machine as the search takes it: every step at ``planned_step_cycles``."""
    element = accelerator.processing_element
    if not element.depends_on_values:
        return accelerator
    planned = element.with_steps_of(planned_step_cycles(accelerator, precision), precision)
    return accelerator.model_copy(update={"processing_element": planned})


@lru_cache(maxsize=256)
def _mean_step_cycles(element: BitSparseElement, axes: tuple[Axis, ...], precision: LayerPrecision) -> int:
    lanes = element.lanes(precision)
    rng = np.random.default_rng(0)
    # Along an axis that matters to no operand of which bits are skipped all PEs do the same.
    matters = {operand: [bool(RELEVANT_DIMS[operand] & set(axis.unroll)) for axis in axes]
               for operand in element.skipped_operands}
    kept = [axis.size if any(each[place] for each in matters.values()) else 1 for place, axis in enumerate(axes)]

    def codes(operand: Operand) -> npt.NDArray[np.int64]:
        whole = (SAMPLED_STEPS, *kept, lanes)
        if operand not in matters:
            return np.zeros(whole, dtype=np.int64).reshape(SAMPLED_STEPS, -1, lanes)
        number_format = precision.weight if operand == "weight" else precision.input
        own = [size if its_own else 1 for size, its_own in zip(kept, matters[operand], strict=True)]
        drawn = draw_codes(rng, number_format, operand, (SAMPLED_STEPS, *own, lanes)).astype(np.int64)
        return np.broadcast_to(drawn, whole).reshape(SAMPLED_STEPS, -1, lanes)

    pairs = zip(codes("weight"), codes("input"), strict=True)
    return round(float(np.mean([element.grid_step_cycles(weights, inputs, precision) for weights, inputs in pairs])))
