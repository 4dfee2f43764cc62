"""How kernels are compiled that only kernels call."""

from __future__ import annotations

from functools import partial

import numba

# Without what would take such a kernel's arguments from Python: for the walks, whose arguments are tuples of dozens of
# arrays, that is as much code as the kernels themselves. Called from Python, it ends in an error of Numba's.
inner = partial(numba.njit, cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
