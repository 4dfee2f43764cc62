"""A comparison as frames, as a table, as a plot, and as the files of its results folder."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bitmosaic.explorations.assignment_proof import proofs_text
from bitmosaic.explorations.comparison import RANDOM, Comparison, Family
from bitmosaic.explorations.exploration import DEFAULT_ACCURACY_LOSS, CostAxis, Point
from bitmosaic.explorations.folder import PLOTS, write_file
from bitmosaic.explorations.rank_correlation import correlations_text
from bitmosaic.views.plots import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    new_figure,
    save_figure,
    scaled_axis,
    tidy,
)
from bitmosaic.views.text_tables import REPORT_WIDTH, new_table, number_text, readable

# Colour and marker: the markers alone tell the families apart in grey.
_STYLES = {
    "uniform": (BLACK, "s"), "largest first": ("#777777", "v"), RANDOM: ("#999999", "x"), "amp": (BLUE, "o"),
    "measured": (GREEN, "^"), "seada": (ORANGE, "D"), "dpq": (PURPLE, "P"), "flexiq": (VERMILION, "*"),
}
_FADED, _CLEAR = 0.28, 0.95
# Percentage points: what is a cliff, and what is close.
_CLIFF, _CLOSE = 15.0, 6.0
AXES: tuple[CostAxis, ...] = ("latency", "energy")


def comparison_frame(comparison: Comparison) -> pd.DataFrame:
    """One row a point of each family, in their order; what several propose stands once for each.

    Columns: ``family``, ``point``, ``origin``, ``origin_value`` (threshold, ratio or share of the weights),
    ``quantiser``, ``latency_cycles``, ``latency_ms``, ``energy_uj``, ``accuracy_percent``, ``examples``,
    ``latency_front`` and ``energy_front`` (whether no point of any family is better), ``precisions``.
    """
    fronts = {axis: comparison.front(axis) for axis in AXES}
    rows = []
    for family in comparison.families:
        for point in family.points:
            record = point.record
            rows.append({
                "family": family.name, "point": point.label, "origin": record.origin,
                "origin_value": record.origin_value, "quantiser": family.quantiser,
                "latency_cycles": record.total_cycles, "latency_ms": record.latency_ms, "energy_uj": record.energy_uj,
                "accuracy_percent": record.accuracy_percent,
                "examples": record.accuracy.count if record.accuracy else 0,
                "latency_front": record.key in fronts["latency"], "energy_front": record.key in fronts["energy"],
                "precisions": " ".join(f"{layer}={label}" for layer, label in record.assignment.items()),
            })
    return pd.DataFrame(rows, columns=_COLUMNS)


_COLUMNS = [
    "family", "point", "origin", "origin_value", "quantiser", "latency_cycles", "latency_ms", "energy_uj",
    "accuracy_percent", "examples", "latency_front", "energy_front", "precisions",
]


def comparison_table(comparison: Comparison) -> Table:
    """A row a family: its points, those on the fronts of all, and the cheapest within 1 % of FP32."""
    settings = comparison.settings
    table = new_table(f"{settings.network} on {settings.accelerator}: methods and baselines")
    table.add_column("family")
    table.add_column("weights")
    loss = f"within {100 * DEFAULT_ACCURACY_LOSS:.0f} %"
    metric = f"{settings.metric} (%)"
    for heading in ("points", "on latency front", "on energy front", f"fastest {loss} (cycles)", metric,
                    f"least energy {loss} (µJ)", metric):
        table.add_column(heading, justify="right")
    fronts = {axis: comparison.front(axis) for axis in AXES}
    for family in comparison.families:
        counts = [str(sum(point.record.key in fronts[axis] for point in family.points)) for axis in AXES]
        cells: list[str] = []
        for axis in AXES:
            found = comparison.cheapest(family, axis, DEFAULT_ACCURACY_LOSS)
            cells += ["none", _best(family)] if found is None else [
                f"{found.record.total_cycles:,}" if axis == "latency" else number_text(found.record.energy_uj),
                f"{found.record.accuracy_percent:.2f}",
            ]
        table.add_row(family.name, family.quantiser, str(len(family.points)), *counts, *cells)
    return readable(table)


def _best(family: Family) -> str:
    scores = [point.record.accuracy_percent for point in family.points]
    return f"at most {max(scores):.2f}" if scores else ""


def comparison_summary(comparison: Comparison) -> RenderableType:
    """The table, and what to know of it."""
    settings = comparison.settings
    notes = [
        f"FP32 {settings.metric}: {100 * settings.fp32:.2f} % on {settings.examples} examples. Fronts are those of all "
        "families together; a point that several propose counts for each.",
        *(f"Left out: {name}, {reason}." for name, reason in settings.skipped.items()),
        *(
            f"{name} rates layers by {ratings.sensitivity}; rank correlation with measured harm over layers: "
            f"{correlations_text(comparison.correlations.get(name))}."
            for name, ratings in settings.ratings.items() if ratings.sensitivity != "perturbation"
        ),
    ]
    if proofs := proofs_text(point.record.proof for point in comparison.points):
        notes.append(f"Assignments by integer program: {proofs} (least harm within their budgets, not accuracy).")
    return Group(comparison_table(comparison), *map(Text, notes))


def plot_comparison(comparison: Comparison) -> Figure:
    """Draw latency and energy against measured accuracy, all families in one plot; what any point beats is faded.

    The step line is the front of all. Each family has its marker, so that the plot can be read in grey; where points of
    several lie on each other, those of later ones are smaller. Where accuracies fall off a cliff, a second row shows
    what is close to FP32.
    """
    settings = comparison.settings
    scores = [point.record.accuracy_percent for family in comparison.families for point in family.points]
    top = max(scores, default=0.0)
    falls = top - min(scores, default=0.0) > _CLIFF
    figure = new_figure(11.0, 8.4 if falls else 4.8)
    rows = figure.subplots(2 if falls else 1, 2, sharey="row", squeeze=False)
    metric = f"{settings.metric[:1].upper()}{settings.metric[1:]} (%)"
    for number, panels in enumerate(rows):
        for axes, axis in zip(panels, AXES, strict=True):
            _draw(axes, comparison, axis, top - _CLOSE if number else None)
        panels[0].set_ylabel(f"{metric}, close up" if number else metric)
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.suptitle(f"{settings.network} on {settings.accelerator}: methods and baselines", fontsize=11)
    return figure


def _draw(axes: Axes, comparison: Comparison, axis: CostAxis, lowest: float | None) -> None:
    """One panel; ``lowest``: the lowest accuracy that it shows, in percent, None for all."""
    tidy(axes)
    every = [point for family in comparison.families for point in family.points]
    factor, title = scaled_axis(pd.Series([point.cost(axis) for point in every]), axis)
    front = comparison.front(axis)
    best = sorted({(point.cost(axis) * factor, point.record.accuracy_percent) for point in every
                   if point.record.key in front})
    if best:
        cost, accuracy = zip(*best, strict=True)
        last = max(point.cost(axis) for point in every) * factor
        axes.step([*cost, last], [*accuracy, accuracy[-1]], where="post", color=SKY, linewidth=2.0, zorder=1,
                  label="front of all")
    fp32 = 100.0 * comparison.settings.fp32
    axes.axhline(fp32, color=BLACK, linestyle="--", linewidth=1.0, zorder=1, label=f"FP32 ({fp32:.1f} %)")
    drawn: set[str] = set()
    for number, family in enumerate(comparison.families):
        colour, marker = _STYLES[family.kind]
        clear = max(30, 110 - 9 * number)
        groups: tuple[list[Point], list[Point]] = ([], [])
        for point in family.points:
            groups[point.record.key in front].append(point)
        # The legend's marker is a clear one, whatever the first point is.
        label = family.kind if family.kind not in drawn else None
        drawn.add(family.kind)
        axes.scatter([np.nan], [np.nan], color=colour, marker=marker, s=44, label=label)
        for points, alpha, size, order in ((groups[0], _FADED, 26, 2), (groups[1], _CLEAR, clear, 3)):
            if points:
                axes.scatter([point.cost(axis) * factor for point in points],
                             [point.record.accuracy_percent for point in points], color=colour, marker=marker,
                             alpha=alpha, s=size, linewidths=1.2 if marker == "x" else 0.7, zorder=order)
    axes.set_xlabel(title)
    if lowest is not None:
        costs = [point.cost(axis) * factor for point in every if point.record.accuracy_percent >= lowest]
        margin = 0.05 * (max(costs) - min(costs)) or 0.05 * max(costs)
        axes.set_xlim(min(costs) - margin, max(costs) + margin)
        axes.set_ylim(lowest, max(fp32, *(point.record.accuracy_percent for point in every)) + 0.05 * _CLOSE)


def write_comparison(comparison: Comparison) -> tuple[Path, ...]:
    """Write ``comparison.csv``, ``comparison.txt`` and ``plots/comparison``; returns the files."""
    folder = comparison.folder
    stream = StringIO()
    console = Console(file=stream, width=REPORT_WIDTH, color_system=None, force_terminal=False, force_jupyter=False)
    console.print(comparison_summary(comparison))
    table = comparison_frame(comparison).to_csv(index=False, lineterminator="\n")
    return (
        write_file(folder / "comparison.txt", stream.getvalue().encode()),
        write_file(folder / "comparison.csv", table.encode()),
        *save_figure(plot_comparison(comparison), folder / PLOTS, "comparison"),
    )
