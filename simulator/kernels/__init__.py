"""Numba kernels: functions over ints, floats and arrays; nothing here knows the data model.

Compiled code is cached in the user's cache folder, under a name made of every kernel's source and of Numba's
version: Numba itself does not notice when a function in *another* file changes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numba

from simulator.cache_folder import cache_folder


def _cache_folder() -> Path:
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return cache_folder("kernels") / digest.hexdigest()[:16]


_previous = numba.config.CACHE_DIR
numba.config.CACHE_DIR = str(_cache_folder())
try:
    from simulator.kernels import bit_fusion_tiling, chains, nest_front
    from simulator.kernels.batch import bound_batch, walk_batch
    from simulator.kernels.descent import random_descents
    from simulator.kernels.dominance import non_dominated, non_dominated_of_each
    from simulator.kernels.enumeration import compile_enumeration, enumerate_choices, least_cost
    from simulator.kernels.extents import nested_starts, touched_by_nests, touched_counts
    from simulator.kernels.functional import narrow_products, ordered_sums, patches, wide_products
    from simulator.kernels.plain_walk import ENDLESS, full_unless_plain, is_plain, plain_walk
    from simulator.kernels.split_rows import largest_tiles, step_cycles
    from simulator.kernels.tile_walk import full_walk, walk
    from simulator.kernels.tiling_cycles import tiling_cycles
    from simulator.kernels.value_steps import input_counts, pass_times, weight_counts
finally:
    numba.config.CACHE_DIR = _previous

__all__ = [
    "ENDLESS", "bit_fusion_tiling", "bound_batch", "chains", "compile_enumeration", "enumerate_choices",
    "full_unless_plain", "full_walk", "input_counts", "is_plain", "largest_tiles", "least_cost", "narrow_products",
    "nest_front", "nested_starts", "non_dominated", "non_dominated_of_each", "ordered_sums", "pass_times", "patches",
    "plain_walk", "random_descents", "step_cycles", "tiling_cycles", "touched_by_nests", "touched_counts", "walk",
    "walk_batch", "weight_counts", "wide_products",
]
