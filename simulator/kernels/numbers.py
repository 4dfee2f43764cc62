"""Numbers that name things (operands, ports, kinds of transfers) in a type of their own: not literals.

Numba types a plain constant as a literal, and compiles whatever takes it as an argument once more for each.
"""

from __future__ import annotations

import numpy as np


def named_numbers(begin: int, end: int) -> tuple[int, ...]:
    """The numbers from ``begin`` to before ``end``, as NumPy's int64."""
    return tuple(np.arange(begin, end))
