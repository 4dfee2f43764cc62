"""How well ratings of layers order what was measured of them, precision by precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

FEWEST_RANKED = 4  # values that a rank correlation is worth telling of


def rank_correlations(
    harms: Mapping[tuple[str, str], float], measured: Mapping[tuple[str, str], float], menu: Sequence[str]
) -> dict[str, float | None]:
    """Precision of the menu → Spearman's rank correlation over the layers, None where one side is all alike.

    ``harms``, ``measured``: (layer, precision) → harm; infinite where outputs were not finite, and then not ranked.
    Precisions with fewer than ``FEWEST_RANKED`` layers measured are left out.
    """
    from workloads.sensitivity import spearman  # onnxruntime takes long to load, and not every table needs it

    found: dict[str, float | None] = {}
    for precision in menu:
        pairs = [
            (harm, measured[layer, label]) for (layer, label), harm in harms.items()
            if label == precision and math.isfinite(measured.get((layer, label), math.inf))
        ]
        if len(pairs) >= FEWEST_RANKED:
            correlation = spearman(*zip(*pairs, strict=True))
            found[precision] = None if math.isnan(correlation) else correlation
    return found


def correlations_text(correlations: Mapping[str, float | None] | None) -> str:
    """``w4a8 0.43, w2a8 all alike``; None stands for harm that was not measured."""
    if correlations is None:
        return "not measured (--measure-harm)"
    if not correlations:
        return f"cannot be told of fewer than {FEWEST_RANKED} layers"
    return ", ".join(
        f"{precision} {'all alike' if correlation is None else f'{correlation:.2f}'}"
        for precision, correlation in correlations.items()
    )
