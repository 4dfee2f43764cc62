"""Plots of mapped layers on one machine: the roofline, and how evenly the grid is used; with the frames they draw.

As in ``plots``, figures are without global state, readable in grey and by colour-blind readers. The stacked breakdown
of cycles and energy is ``plots.plot_breakdown``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bitmosaic.explorations.baseline_cost import UniformRun
from bitmosaic.views.frames import point_frame
from bitmosaic.views.plots import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    OUTLINE,
    PURPLE,
    SKY,
    VERMILION,
    new_figure,
    plot_breakdown,
    save_figure,
    shortened,
    tidy,
)
from mapper.solution import MappingSolution
from simulator.accelerator import Accelerator
from simulator.activity import active_steps, step_count
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.tiled import tiles_of

_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
_MARKERS = "osD^vP"
_DASHES = ("-", "--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 3)))
_MOST_NAMES = 12
_MOST_NUMBERS = 128
_FONT = 7.5


def roofline_frame(solutions: Iterable[MappingSolution], accelerator: Accelerator) -> pd.DataFrame:
    """One row a mapped layer: how much it computes for each byte that passes the DRAM channel, and how fast.

    Columns: ``layer``, ``precision``, ``macs``, ``dram_bytes`` (read and written, parameters included),
    ``macs_per_dram_byte``, ``total_cycles``, ``macs_per_cycle`` (achieved), ``peak_macs_per_cycle`` (of the whole grid
    at this precision; where time depends on values, at the best ones), ``bandwidth_bytes_per_cycle``,
    ``roof_macs_per_cycle`` (the smaller of the peak and of what the bandwidth feeds: no layer is above), ``limit``
    (``compute`` or ``bandwidth``, whichever is the smaller).

    The model is from Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
    architectures", Communications of the ACM 52(4), 2009, with cycles for seconds and MACs for operations.

    >>> import bitmosaic
    >>> machine = bitmosaic.open_accelerator("bit_fusion")
    >>> layer = bitmosaic.Layer(name="fc", dims={"K": 32, "C": 32})
    >>> solution = bitmosaic.map_layer(layer, bitmosaic.LayerPrecision(), machine)
    >>> row = roofline_frame([solution], machine).iloc[0]
    >>> row["limit"], bool(row["macs_per_cycle"] <= row["roof_macs_per_cycle"])
    ('bandwidth', True)
    """
    bandwidth = accelerator.dram.bandwidth_bits_per_cycle / 8
    rows = []
    for solution in solutions:
        result = solution.result
        moved = sum(result.moved_bits(accelerator.dram.name)) / 8
        peak = peak_products_per_cycle(accelerator, solution.precision) * accelerator.grid.pe_count
        fed = bandwidth * result.macs / moved
        rows.append({
            "layer": solution.layer.name, "precision": solution.precision.label, "macs": result.macs,
            "dram_bytes": moved, "macs_per_dram_byte": result.macs / moved, "total_cycles": result.total_cycles,
            "macs_per_cycle": result.macs / result.total_cycles, "peak_macs_per_cycle": peak,
            "bandwidth_bytes_per_cycle": bandwidth, "roof_macs_per_cycle": min(peak, fed),
            "limit": "compute" if peak <= fed else "bandwidth",
        })
    return pd.DataFrame(rows, columns=_ROOFLINE_COLUMNS)


def peak_products_per_cycle(accelerator: Accelerator, precision: LayerPrecision) -> float:
    """Products that one processing element can finish in a cycle, at best: of split channels in the narrow part."""
    element = accelerator.processing_element
    return max(element.lanes(part) / element.fewest_cycles_per_step(part) for part in precision.parts)


_ROOFLINE_COLUMNS = [
    "layer", "precision", "macs", "dram_bytes", "macs_per_dram_byte", "total_cycles", "macs_per_cycle",
    "peak_macs_per_cycle", "bandwidth_bytes_per_cycle", "roof_macs_per_cycle", "limit",
]


def grid_frame(solutions: Iterable[MappingSolution], accelerator: Accelerator) -> pd.DataFrame:
    """One row a PE of the grid: how long it works while the grid computes, over all the mappings given.

    Columns: one for each axis of the grid (the PE's index along it), ``active_cycles`` (those in which it works on at
    least one product), ``compute_cycles`` (those in which the grid takes steps: the same in every row),
    ``active_percent``. Exact, in closed form; waits, fill and drain are in neither count. Where the time of a step
    depends on values, or on the channels of a layer that is split, every step counts the layer's mean, and cycles are
    rounded.

    >>> import bitmosaic
    >>> machine = bitmosaic.open_accelerator("bit_fusion")
    >>> layer = bitmosaic.Layer(name="fc", dims={"K": 8, "C": 64})
    >>> solution = bitmosaic.map_layer(layer, bitmosaic.LayerPrecision(), machine)
    >>> frame = grid_frame([solution], machine)
    >>> list(frame.columns[:2]), int(frame["active_cycles"].sum()) == solution.result.active_pe_cycles
    (['rows', 'columns'], True)
    """
    axes = accelerator.grid.axes
    shape = tuple(axis.size for axis in axes)
    active, total = np.zeros(shape, dtype=np.int64), 0
    for solution in solutions:
        plan = Plan(solution.layer, solution.precision, accelerator, solution.mapping)
        mean = solution.result.mean_step_cycles
        cycles = plan.step_cycles if mean is None else mean
        active += np.rint(active_steps(plan) * cycles).astype(np.int64)
        total += round(step_count(plan) * cycles)
    frame = pd.DataFrame({axis.name: place.ravel() for axis, place in zip(axes, np.indices(shape), strict=True)})
    frame["active_cycles"] = active.ravel()
    frame["compute_cycles"] = total
    frame["active_percent"] = 100.0 * active.ravel() / max(1, total)
    return frame


def plot_utilization(frame: pd.DataFrame, title: str = "") -> Figure:
    """Draw a ``grid_frame`` as a map of the grid: the share of its computing cycles in which each PE works, percent.

    The first axis runs down; of more than two, the others run to the right, the last one fastest. Lighter is busier.
    """
    axes_names = list(frame.columns[: frame.columns.get_loc("active_cycles")])
    sizes = [int(frame[name].max()) + 1 for name in axes_names]
    rows, columns = (1, sizes[0]) if len(sizes) == 1 else (sizes[0], math.prod(sizes[1:]))
    share = frame.sort_values(axes_names)["active_percent"].to_numpy().reshape(rows, columns)
    # Long grids are drawn long, between the limits of a page.
    height = min(7.0, max(1.2, 5.6 * rows / columns))
    width = min(5.6, max(1.2, height * columns / rows))
    figure = new_figure(width + 1.6, height + 1.0)
    axes = figure.subplots()
    picture = axes.imshow(share, vmin=0.0, vmax=100.0, cmap="cividis", interpolation="nearest")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    if rows == 1:
        axes.set_yticks([])
    if rows * columns <= _MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(share):
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=_FONT,
                      color="black" if value > 55.0 else "white")
    else:
        # Borders of PEs, so that rows of equal PEs can be counted.
        axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axes.tick_params(which="minor", length=0)
        if max(rows, columns) <= 64:
            axes.grid(which="minor", color="white", linewidth=0.3, alpha=0.5)
    across = axes_names if rows == 1 else axes_names[1:]
    axes.set_xlabel(f"PE along {' × '.join(across)}")
    if rows > 1:
        axes.set_ylabel(f"PE along {axes_names[0]}")
    bar = figure.colorbar(picture, ax=axes, shrink=0.9, pad=0.03)
    bar.set_label("PE works (% of computing cycles)")
    heading = f"mean {share.mean():.1f} %, least {share.min():.1f} %, most {share.max():.1f} %"
    axes.set_title(f"{title}\n{heading}" if title else heading, fontsize=10)
    return figure


def plot_roofline(frame: pd.DataFrame, title: str = "") -> Figure:
    """Draw a ``roofline_frame``: MACs a DRAM byte to the right, MACs a cycle upwards, both logarithmic.

    The slanted line is what the bandwidth feeds, a level line the grid's peak at one precision; markers and dashes tell
    precisions apart. Of more than 12 layers the 12 that take the most cycles are named; equal layers are one marker.

    Raises ``ValueError`` where the frame has no rows.
    """
    if frame.empty:
        raise ValueError("frame: has no rows, and a roofline needs a layer")
    figure = new_figure(7.2, 4.8)
    axes = figure.subplots()
    tidy(axes)
    axes.set_xscale("log")
    axes.set_yscale("log")
    bandwidth = float(frame["bandwidth_bytes_per_cycle"].iloc[0])
    peaks = frame.groupby("precision", sort=False)["peak_macs_per_cycle"].first().sort_values(ascending=False)
    left = min(float(frame["macs_per_dram_byte"].min()), float(peaks.min()) / bandwidth) / 2.5
    right = max(float(frame["macs_per_dram_byte"].max()), float(peaks.max()) / bandwidth) * 4.0
    highest = float(peaks.max()) / bandwidth
    axes.plot([left, highest], [left * bandwidth, highest * bandwidth], color=BLACK, linewidth=1.4,
              label=f"DRAM, {bandwidth:g} bytes a cycle")
    for number, (precision, peak) in enumerate(peaks.items()):
        style = number % len(_COLOURS)
        axes.plot([peak / bandwidth, right], [peak, peak], color=_COLOURS[style], linestyle=_DASHES[style],
                  linewidth=1.4, label=f"peak at {precision}, {peak:,.5g} MACs a cycle")
        points = frame[frame["precision"] == precision]
        axes.scatter(points["macs_per_dram_byte"], points["macs_per_cycle"], marker=_MARKERS[style], s=36,
                     color=_COLOURS[style], edgecolors="black", linewidths=0.6, zorder=4,
                     label=f"layers in {precision}")
    axes.set_xlim(left, right)
    axes.set_ylim(float(min(frame["macs_per_cycle"].min(), left * bandwidth)) / 1.6, float(peaks.max()) * 2.2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.set_xlabel("Operational intensity (MACs per DRAM byte)")
    axes.set_ylabel("Throughput (MACs per cycle)")
    axes.set_title(title, fontsize=11)
    # Roofs in the left column, layers in the right one.
    figure.legend(handles=[*axes.lines, *axes.collections], loc="outside lower center", ncols=2, fontsize=8,
                  frameon=False)
    figure.draw_without_rendering()  # settles the layout, in which the names then look for room
    _name_layers(axes, frame)
    return figure


def _name_layers(axes: Axes, frame: pd.DataFrame) -> None:
    """Write the layers' names beside their markers, where no other name or marker is; else leave a name out."""
    same = frame.groupby(["macs_per_dram_byte", "macs_per_cycle"], sort=False)
    groups = same.agg(layer=("layer", "first"), count=("layer", "size"), cycles=("total_cycles", "sum")).reset_index()
    chosen = groups.nlargest(_MOST_NAMES, "cycles", keep="first")
    to_points = 72.0 / axes.get_figure().dpi  # type: ignore[union-attr]
    markers = axes.transData.transform(groups[["macs_per_dram_byte", "macs_per_cycle"]].to_numpy()) * to_points
    frame_box = axes.get_window_extent()
    low, high = np.array([frame_box.p0, frame_box.p1]) * to_points
    taken = [(x - 3.5, y - 3.5, x + 3.5, y + 3.5) for x, y in markers]
    for place, row in zip(chosen.index, chosen.itertuples(), strict=True):
        text = shortened(str(row.layer), 22) + (f" ×{row.count}" if row.count > 1 else "")
        width, height = 0.56 * _FONT * len(text), 1.1 * _FONT
        x, y = markers[place]
        offsets: Sequence[tuple[float, float]] = (
            (6.0, -height / 2), (-6.0 - width, -height / 2), (-width / 2, 6.0), (-width / 2, -6.0 - height),
            (5.0, 4.0), (5.0, -4.0 - height), (-5.0 - width, 4.0), (-5.0 - width, -4.0 - height),
        )
        for right, up in offsets:
            box = (x + right, y + up, x + right + width, y + up + height)
            inside = box[0] >= low[0] and box[1] >= low[1] and box[2] <= high[0] and box[3] <= high[1]
            if inside and not any(_overlap(box, other) for other in taken):
                axes.annotate(text, (row.macs_per_dram_byte, row.macs_per_cycle), xytext=(right, up),
                              textcoords="offset points", fontsize=_FONT, zorder=5, path_effects=OUTLINE)
                taken.append(box)
                break


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def write_plots(run: UniformRun, folder: str | Path) -> tuple[Path, ...]:
    """Draw a run's breakdown, roofline and utilisation of the grid. Returns the files, PNG and SVG of each.

    On several tiles the roofline has a peak for each precision and tile, and each tile that ran a layer has a picture
    of its grid. Layers in closed form, on a floating-point unit, stand in the breakdown alone, and a network without
    layers on a grid has nothing else. Equal runs give equal files.
    """
    solutions = list(run.simulated_solutions().values())
    title = f"{run.network.name} on {run.accelerator.name}, {run.label}"
    figures = {"breakdown": plot_breakdown(point_frame(run.point()), title)}
    tiles = {
        name: (tile, [solution for solution in solutions if solution.tile == name])
        for name, tile in tiles_of(run.accelerator).items()
    }
    used = {name: (tile, own) for name, (tile, own) in tiles.items() if own}
    if used:
        roofs = []
        for name, (tile, own) in used.items():
            frame = roofline_frame(own, tile)
            roofs.append(frame if name is None else frame.assign(precision=frame["precision"] + f" on {name}"))
        figures["roofline"] = plot_roofline(pd.concat(roofs, ignore_index=True), title)
    for name, (tile, own) in used.items():
        suffix = "" if name is None else f"_{name}"
        own_title = title if name is None else f"{title}: tile {name}"
        figures[f"utilization{suffix}"] = plot_utilization(grid_frame(own, tile), own_title)
    return tuple(path for name, figure in figures.items() for path in save_figure(figure, Path(folder), name))
