"""The factors of a block's rows side by side, as the kernels read them, kept from one search to the next.

Variants, precisions, objectives and machines with the same grid ask for the same products of columns, in other
selections: these are laid out once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class FactorTable:
    """Columns of some rows, added when they are first asked for."""

    def __init__(self) -> None:
        self._kept: list[Ints] = []  # keeps them, so that no other array gets the id of one
        self._place: dict[int, int] = {}
        self._table: Floats = np.empty((0, 0))

    def columns(self, factors: Sequence[Ints | None], rows: int) -> Floats:
        """Arrays of shape (rows,) side by side, shape (rows, factors); None as 1."""
        places = self._place
        wanted = [id(factor) for factor in factors]
        if not places.keys() >= set(wanted):
            for factor in factors:
                if id(factor) not in places:
                    places[id(factor)] = len(self._kept)
                    self._kept.append(np.ones(rows, dtype=np.int64) if factor is None else factor)
            self._table = np.column_stack(self._kept).astype(np.float64)
        found: Floats = self._table.take([places[each] for each in wanted], axis=1)
        return found
