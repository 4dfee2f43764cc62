"""A start from a mapping of the same layer in another precision.

A mapping that is good in one precision is nearly good in the next: what changes is how many bits a tile takes, and on
some elements how many lanes there are. So it is simulated as it is, where it fits, and the rows nearest to it are where
descents begin. Whatever that leads to is only a first incumbent: the proof is of this precision.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mapper.cost_model import CostModel
from mapper.descent import descend_from
from mapper.dimension_choices import DimChoices
from mapper.incumbent import Incumbent
from mapper.solution import MappingSolution
from simulator.accelerator import LANES, Accelerator
from simulator.errors import MappingError
from simulator.mapping import Mapping as TilingMapping
from simulator.precision import LayerPrecision

Floats = npt.NDArray[np.float64]


def nearest(solved: Mapping[LayerPrecision, MappingSolution], precision: LayerPrecision) -> TilingMapping | None:
    """The mapping found in the precision nearest to another, by the ratios of their bits; None where none was."""

    def distance(other: LayerPrecision) -> float:
        pairs = ((other.weight, precision.weight), (other.input, precision.input), (other.output, precision.output))
        return sum(abs(math.log2(one.bits / two.bits)) for one, two in pairs)

    return solved[min(solved, key=distance)].mapping if solved else None


def nearest_rows(model: CostModel, mapping: TilingMapping, accelerator: Accelerator) -> npt.NDArray[np.int64] | None:
    """Row of each block that is nearest to a mapping's tiles and unrolling, and fits the axes with those before it.

    Near is where the numbers' ratios are small. None where nothing fits the axes so, or the mapping is for another
    number of levels.
    """
    tiles = [level.tile for level in mapping.buffer_levels]
    if len(tiles) != model.variant.levels:
        return None
    spatial = [mapping.spatial.get(name, {}) for name in (*(axis.name for axis in accelerator.grid.axes), LANES)]
    register = mapping.level("register").tile

    def distance(choice: DimChoices) -> Floats:
        numbers = np.column_stack([choice.axis_factors, choice.register_tile, choice.buffer_tiles])
        wanted = [unrolled.get(choice.dim, 1) for unrolled in spatial]
        wanted += [register.get(choice.dim, 1), *(tile.get(choice.dim, 1) for tile in tiles)]
        found: Floats = np.abs(np.log(numbers / np.array(wanted))).sum(axis=1)
        return found

    room = np.array(model.axis_sizes, dtype=np.int64)
    rows = []
    for block in model.blocks:
        far = np.sum([distance(choice) for choice in block.choices], axis=0)
        far[(block.axis_use > room).any(axis=1)] = np.inf
        row = int(np.argmin(far))
        if not np.isfinite(far[row]):
            return None
        rows.append(row)
        room = room // block.axis_use[row]
    return np.array(rows, dtype=np.int64)


def start_from(models: Sequence[CostModel], incumbent: Incumbent, hint: TilingMapping, deadline: float) -> None:
    """Simulate a hint where it fits, and where descents from it lead; past ``deadline`` only if nothing is known."""
    # It may not fit: other precisions have other widths, other lanes, and other room in registers.
    with contextlib.suppress(MappingError):
        incumbent.offer(hint)
    for model in models:
        first = nearest_rows(model, hint, incumbent.accelerator)
        if first is None or (not incumbent.is_empty and time.process_time() > deadline):
            continue
        ends = descend_from(model, incumbent.objective, first, incumbent.limits)
        incumbent.consider_all(model, [end for end in ends if end.cost < incumbent.target()], deadline)
