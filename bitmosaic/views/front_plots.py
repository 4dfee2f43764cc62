"""Plots of fronts with any number of objectives, of what several runs attain, of hardware fields, of precisions.

Each function draws a frame of ``front_frames`` (or any frame with such columns), in the manner of ``plots``: no global
state, readable in grey and by colour-blind readers. Labels of axes come from column names: ``latency_ms`` reads
"latency (ms)".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Normalize
from matplotlib.figure import Figure

from bitmosaic.views.front_frames import Objectives, attainment_frame, mark_front
from bitmosaic.views.plots import BLUE, GREEN, ORANGE, OUTLINE, PURPLE, SKY, VERMILION, new_figure, shortened, tidy
from simulator.errors import ConfigurationError, Problem, closest

_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_MARKERS = "osD^vP"
_DASHES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 3)))
_UNITS = {
    "ms": "ms", "us": "µs", "uj": "µJ", "pj": "pJ", "mm2": "mm²", "um2": "µm²", "percent": "%", "cycles": "cycles",
    "bits": "bits", "bytes": "bytes", "mhz": "MHz", "seconds": "s",
}
_FADED = "#888888"
_MOST_TEXTS = 600
_MOST_STEPS = 8


def axis_label(column: str) -> str:
    """A column's name as an axis reads: its unit, where the name ends in one, in brackets.

    >>> axis_label("energy_uj"), axis_label("grid.rows"), axis_label("latency_cycles")
    ('energy (µJ)', 'grid.rows', 'latency (cycles)')
    """
    stem, _, unit = column.rpartition("_")
    return f"{stem.replace('_', ' ')} ({_UNITS[unit]})" if stem and unit in _UNITS else column.replace("_", " ")


def plot_pareto(frame: pd.DataFrame, objectives: Objectives, by: str | None = None, title: str = "") -> Figure:
    """Draw points in every pair of objectives; those that another point beats in *all* objectives are faded.

    ``by``: a column whose values get markers of their own, and with two objectives a front line each. An axis whose
    values span more than a factor of 50 is logarithmic. Raises ``ConfigurationError`` for fewer than two objectives,
    and as ``losses``.
    """
    if len(objectives) < 2:
        raise ConfigurationError(
            Problem("must name two columns at least", path="objectives", value=f"{len(objectives)} column")
        )
    marked = mark_front(frame, objectives)
    pairs = list(combinations(objectives, 2))
    across = min(3, len(pairs))
    down = -(-len(pairs) // across)
    figure = new_figure(1.2 + 4.4 * across, 0.8 + 3.7 * down)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    groups = list(marked.groupby(by, sort=False)) if by is not None else [("", marked)]
    for axes, (x, y) in zip(panels, pairs, strict=False):
        tidy(axes)
        for number, (name, group) in enumerate(groups):
            colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
            beaten, front = group[~group["on_front"]], group[group["on_front"]]
            axes.scatter(beaten[x], beaten[y], s=16, marker=marker, color=_FADED if by is None else colour, alpha=0.25,
                         linewidths=0, label=f"{name} dominated".strip() if by is None else None)
            axes.scatter(front[x], front[y], s=36, marker=marker, color=colour, edgecolors="black", linewidths=0.6,
                         zorder=4, label=f"{name}, on the front of all" if by is not None else "on the front")
            if len(objectives) == 2:
                own = group if by is None else mark_front(group.drop(columns="on_front"), objectives)
                _front_line(axes, own[own["on_front"]], x, y, objectives, colour, _DASHES[number % len(_DASHES)])
        axes.set_xlabel(_with_arrow(x, objectives))
        axes.set_ylabel(_with_arrow(y, objectives))
        for column, scale in ((x, axes.set_xscale), (y, axes.set_yscale)):
            if _spans_decades(marked[column]):
                scale("log")
    for axes in panels[len(pairs):]:
        axes.set_visible(False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1 + across, fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _with_arrow(column: str, objectives: Objectives) -> str:
    return f"{axis_label(column)}, {'less' if objectives[column] == 'min' else 'more'} is better"


def _spans_decades(values: pd.Series) -> bool:
    known = values[np.isfinite(values)]
    return bool(len(known) and known.min() > 0 and known.max() > 50 * known.min())


def _front_line(
    axes: Axes, front: pd.DataFrame, x: str, y: str, objectives: Objectives, colour: str, dash: object
) -> None:
    """The border of what the front dominates: from each point on, its value holds until the next one."""
    if front.empty:
        return
    ordered = front.sort_values(x)
    where: Literal["post", "pre"] = "post" if objectives[x] == "min" else "pre"
    axes.step(ordered[x], ordered[y], where=where, color=colour, linestyle=dash, linewidth=1.3, zorder=2)


def plot_attainment(frame: pd.DataFrame, objectives: Objectives, by: str, title: str = "") -> Figure:
    """Draw the surfaces attained by at least one, by half and by all of the runs (values of ``by``).

    Of one run it is the front. Arguments and errors as of ``attainment_frame``.
    """
    surfaces = attainment_frame(frame, objectives, by)
    x, y = objectives
    count = int(surfaces["of_runs"].max()) if len(surfaces) else 0
    levels = {1: "by one run at least", (count + 1) // 2: "by half of the runs", count: "by every run"}
    figure = new_figure(6.4, 4.4)
    axes = figure.subplots()
    tidy(axes)
    axes.scatter(frame[x], frame[y], s=12, color=_FADED, alpha=0.4, linewidths=0, label="points of all runs")
    for number, (runs, name) in enumerate(sorted(levels.items())):
        surface = surfaces[surfaces["runs"] == runs]
        label = "attained" if count <= 1 else f"attained {name} ({runs} of {count})"
        if len(surface):
            style = number % len(_COLOURS)
            _front_line(axes, surface, x, y, objectives, _COLOURS[style], _DASHES[style])
            axes.lines[-1].set_label(label)
    axes.set_xlabel(_with_arrow(x, objectives))
    axes.set_ylabel(_with_arrow(y, objectives))
    for column, scale in ((x, axes.set_xscale), (y, axes.set_yscale)):
        if _spans_decades(frame[column]):
            scale("log")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    axes.set_title(title, fontsize=11)
    return figure


def plot_parallel(
    frame: pd.DataFrame, fields: Sequence[str], objectives: Objectives, title: str = ""
) -> Figure:
    """Draw parallel coordinates: a line a point, through an axis for each field and then for each objective.

    Points on the front of all objectives are coloured by the first objective, dark for the best; the others are faded.
    Axes of objectives point up for the better value. Fields of text, or of at most eight numbers, are categories in
    equal steps; another axis that spans more than a factor of 50 is logarithmic.

    Raises ``ConfigurationError`` for a field that is no column, and as ``losses``.
    """
    marked = mark_front(frame, objectives)
    columns = [str(column) for column in frame.columns]
    problems = [
        Problem("no such column", path="fields", value=repr(field), allowed=tuple(columns),
                did_you_mean=closest(field, columns))
        for field in fields if field not in frame.columns
    ]
    if problems:
        raise ConfigurationError(problems)
    names = [*fields, *objectives]
    figure = new_figure(1.6 + 1.5 * len(names), 4.2)
    axes = figure.subplots()
    heights = np.column_stack([_draw_axis(axes, place, marked[name], name, objectives)
                               for place, name in enumerate(names)])
    first = next(iter(objectives))
    values = marked[first].to_numpy(dtype=np.float64)
    front = marked["on_front"].to_numpy()
    shade = Normalize(*_limits(values[front]))
    colours = colormaps["cividis"]
    for row in np.flatnonzero(~front):
        axes.plot(range(len(names)), heights[row], color=_FADED, linewidth=0.6, alpha=0.25, zorder=1)
    for row in np.flatnonzero(front):
        worth = shade(values[row])
        worth = worth if objectives[first] == "min" else 1.0 - worth
        axes.plot(range(len(names)), heights[row], color=colours(0.9 * float(worth)), linewidth=1.5, zorder=3)
    axes.set_xticks(range(len(names)), [axis_label(name).replace(" (", "\n(") for name in names], fontsize=8)
    axes.set_yticks([])
    axes.set_ylim(-0.08, 1.08)
    axes.set_xlim(-0.3, len(names) - 0.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(title or f"front points dark where {axis_label(first)} is best; dominated ones faded", fontsize=10)
    return figure


def _limits(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)


def _draw_axis(
    axes: Axes, place: int, values: pd.Series, name: str, objectives: Objectives
) -> npt.NDArray[np.float64]:
    """Draw one upright axis with its values written beside it. Returns each row's height on it, 0 … 1."""
    axes.axvline(place, color="#444444", linewidth=0.8, zorder=2)
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if not is_number or (name not in objectives and values.nunique() <= _MOST_STEPS):
        numbers, categories = pd.factorize(values, sort=True)
        heights = (numbers + 0.5) / max(1, len(categories))
        marks = [
            ((number + 0.5) / len(categories), f"{category:,.6g}" if is_number else str(category))
            for number, category in enumerate(categories)
        ]
    else:
        plain = values.to_numpy(dtype=np.float64)
        is_log = _spans_decades(values)
        scaled = np.log(plain) if is_log else plain
        low, high = _limits(scaled)
        heights = (scaled - low) / (high - low) if high > low else np.full(len(scaled), 0.5)
        different = np.unique(plain[np.isfinite(plain)])
        shown = different if len(different) <= 6 else np.quantile(different, [0.0, 0.5, 1.0], method="nearest")
        shown_scaled = np.log(shown) if is_log else shown
        marks = [
            ((at - low) / (high - low) if high > low else 0.5, f"{value:,.4g}")
            for at, value in zip(shown_scaled, shown, strict=True)
        ]
        if objectives.get(name) == "min":
            heights = 1.0 - heights
            marks = [(1.0 - at, text) for at, text in marks]
    for at, text in marks:
        axes.annotate(shortened(text, 18), (place, at), xytext=(4, 0), textcoords="offset points", fontsize=7.5,
                      va="center", zorder=5, path_effects=OUTLINE)
    return np.asarray(heights, dtype=np.float64)


def plot_precisions(frame: pd.DataFrame, title: str = "") -> Figure:
    """Draw a ``precision_frame`` as a map: layers down, points across, weight bits as shade and precisions as text.

    Darker is narrower. The text is left out of maps of more than 600 fields.
    """
    if frame.empty:
        raise ConfigurationError(Problem("has no rows, and a map needs a layer and a point", path="frame"))
    points = list(dict.fromkeys(frame["point"]))
    layers = list(dict.fromkeys(frame["layer"]))
    place = frame.set_index(["layer", "point"])
    bits = place["weight_bits"].unstack("point").reindex(index=layers, columns=points)
    labels = place["precision"].unstack("point").reindex(index=layers, columns=points)
    widths = np.unique(frame["weight_bits"])
    edges = np.concatenate([[widths[0] - 0.5], (widths[1:] + widths[:-1]) / 2, [widths[-1] + 0.5]])
    figure = new_figure(min(14.0, 3.2 + 0.62 * len(points)), min(16.0, 1.4 + 0.22 * len(layers)))
    axes = figure.subplots()
    shades = colormaps["cividis"].resampled(max(2, len(widths)))
    norm = BoundaryNorm(edges, shades.N) if len(widths) > 1 else Normalize(edges[0], edges[1])
    picture = axes.imshow(bits.to_numpy(), cmap=shades, norm=norm, aspect="auto", interpolation="nearest")
    if bits.size <= _MOST_TEXTS:
        middle = (widths[0] + widths[-1]) / 2
        for (row, column), text in np.ndenumerate(labels.to_numpy()):
            if isinstance(text, str):
                dark = bits.iat[row, column] <= middle and len(widths) > 1
                axes.text(column, row, text, ha="center", va="center", fontsize=6.5,
                          color="white" if dark else "black")
    axes.set_xticks(range(len(points)), points, fontsize=8, rotation=0 if len(points) <= 12 else 90)
    axes.set_yticks(range(len(layers)), [shortened(layer) for layer in layers], fontsize=7.5)
    axes.tick_params(length=0)
    axes.set_xlabel("point")
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, pad=0.02, ticks=widths)
    bar.ax.set_yticklabels([f"{width:g}" for width in widths])
    bar.set_label("weight bits")
    axes.set_title(title, fontsize=11)
    return figure
