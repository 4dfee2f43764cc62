"""How good a sensitivity method is: its harms beside the measured ones, and sums of harms beside joint ones.

Measured is perturbation: one layer quantised, all others in FP32. Joint is the error with all layers quantised at once,
which additive harms are to foretell.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.precision import LayerPrecision
from workloads.accuracy import AccuracyEvaluator, uniform
from workloads.network import Network
from workloads.sensitivity import Progress, Sensitivity, estimate, spearman

# Methods whose harm is a squared output, so that it can be divided by the measured one.
IN_OUTPUT_UNITS = frozenset(("taylor", "hessian_trace", "perturbation"))


@dataclass(frozen=True)
class Comparison:
    """One method in one precision, over all layers.

    Attributes:
        method: name of the estimator.
        precision: label.
        rank_correlation: Spearman's, of its harms with the measured ones; NaN where one side is constant.
        ratio: median of harm / measured harm; NaN for methods in other units.
        lowest_ratio, highest_ratio: smallest and largest of these.
        additivity: measured joint error with all layers in the precision / sum of the harms; NaN as ``ratio``.
        cpu_seconds: of the method, for the whole menu (all threads).
    """

    method: str
    precision: str
    rank_correlation: float
    ratio: float
    lowest_ratio: float
    highest_ratio: float
    additivity: float
    cpu_seconds: float


def compare(
    network: Network,
    evaluator: AccuracyEvaluator,
    menu: Sequence[LayerPrecision],
    methods: Sequence[str],
    *,
    progress: Progress | None = None,
) -> tuple[Comparison, ...]:
    """Rate a network with each method and by measurement, and compare; the measurement itself is the last method.

    ``progress`` is told of the measurement's entries, which take longest. Raises as ``estimate`` does.
    """
    tables: list[tuple[Sensitivity, float]] = []
    for method in (*(name for name in methods if name != "perturbation"), "perturbation"):
        began = time.process_time()
        table = estimate(
            network, evaluator, menu, method=method, progress=progress if method == "perturbation" else None
        )
        tables.append((table, time.process_time() - began))
    measured = tables[-1][0]
    joint = [evaluator.output_mse(uniform(network, precision)) for precision in menu]
    return tuple(
        _compare(table, measured, column, joint[column], seconds)
        for column in range(len(menu)) for table, seconds in tables
    )


def _compare(
    table: Sensitivity, measured: Sensitivity, column: int, joint: float, cpu_seconds: float
) -> Comparison:
    harms, right = table.harm[:, column], measured.harm[:, column]
    ratios, additivity = np.array([np.nan]), float("nan")
    if table.method in IN_OUTPUT_UNITS:
        usable = np.isfinite(right) & (right > 0)
        ratios = harms[usable] / right[usable] if usable.any() else ratios
        additivity = joint / float(harms.sum()) if harms.sum() > 0 else float("nan")
    correlation = spearman(harms, right) if len(harms) > 1 else float("nan")
    return Comparison(
        table.method, table.menu[column].label, correlation, float(np.median(ratios)), float(ratios.min()),
        float(ratios.max()), additivity, cpu_seconds,
    )
