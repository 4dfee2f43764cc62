"""How long a pass occupies the grid (docs/simulator.md, "The grid's time"), for the walks."""

from __future__ import annotations

from simulator.kernels.channels import narrow_steps
from simulator.kernels.compiled import inner
from simulator.kernels.loop_nest import C


@inner()
def _paced(w, t):
    """Cycles for which a fold with ``t`` cycles of steps holds the grid, and those to the start of the next one."""
    paced = max(t, w.drain_cycles) if w.overlap else t + w.tail_cycles
    return paced, max(paced, w.load_cycles) if w.preload else w.load_cycles + paced


@inner()
def occupation(w, begin, length):
    """Cycles that one pass holds the grid. ``begin``, ``length``: the part of the nest that it covers.

    Returns (occupied, folds, compute cycles, those of the last fold, cycles from one fold to the next, whether folds
    differ, how many of the occupied cycles the results need not wait for).
    """
    folds = 1
    steps = 1
    for d in range(8):
        if d != C:
            count = -(-length[d] // w.unroll[d])
            if w.folds_on and not w.streamed[d]:
                folds *= count
            else:
                steps *= count
    along_c = -(-length[C] // w.unroll[C])
    narrow = narrow_steps(w.split, begin[C], length[C], w.unroll[C])
    narrow_folds = 0
    narrow_t = steps * w.split.narrow_step_cycles
    if w.folds_on and not w.streamed[C]:
        # Folds of narrow places come before the others, so the last one is narrow only where all are.
        t = steps * w.step_cycles if narrow < along_c else narrow_t
        narrow_folds = folds * narrow if narrow < along_c else 0
        folds *= along_c
    else:
        t = steps * (along_c - narrow) * w.step_cycles + narrow_t * narrow
    paced, period = _paced(w, t)
    narrow_period = _paced(w, narrow_t)[1]
    occupied = w.load_cycles + (folds - narrow_folds - 1) * period + narrow_folds * narrow_period + paced
    compute = (folds - narrow_folds) * t + narrow_folds * narrow_t
    return occupied, folds, compute, t, period, narrow_folds > 0, paced - t if w.overlap else 0
