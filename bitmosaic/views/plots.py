"""The plots: fronts of cost against measured accuracy, cost of the baselines, and where cycles and energy go.

Each function draws the frame of the same name in ``frames`` on a Matplotlib ``Figure`` of its own, without any
global state, so it works in notebooks, in scripts and without a display. Colours are Okabe and Ito's, which
colour-blind readers can tell apart; markers and hatches carry the same information in grey.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import EngFormatter
from PIL import Image  # comes with matplotlib

from bitmosaic.explorations.exploration import CostAxis, Exploration, Point
from bitmosaic.views.frames import cycle_parts, energy_parts, front_frame, layers_frame, points_frame

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000",
)
_FILLS = (BLUE, SKY, ORANGE, YELLOW, GREEN, PURPLE, VERMILION, "#999999")
_HATCHES = ("", "//", "..", "\\\\", "xx", "--", "++", "oo")
_AXIS_TITLE: dict[CostAxis, str] = {
    "latency": "Latency of one inference", "energy": "Energy of one inference", "memory": "Memory of the weights",
}
_MAX_ROWS = 40
# White around text, so that a line behind it does not strike it out.
OUTLINE = (Stroke(linewidth=2.5, foreground="white"), Normal())
PNG_DPI = 160
SHOWN_DPI = 90


class ShownFigure(Figure):
    """A figure that notebooks show by themselves: no pyplot and no backend to choose."""

    def _repr_png_(self) -> bytes:
        """The picture that a notebook shows, in 256 colours: a saved notebook stays small."""
        drawn, small = BytesIO(), BytesIO()
        self.savefig(drawn, format="png", dpi=SHOWN_DPI)
        # Maximum coverage: a median cut would merge the colours of small areas, such as those of the legend.
        picture = Image.open(drawn).convert("RGB").quantize(256, method=Image.Quantize.MAXCOVERAGE)
        picture.save(small, format="PNG", optimize=True)
        return small.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """A figure of that many inches, without pyplot."""
    figure = ShownFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> None:
    """A light grid behind, and no frame above and to the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def scaled_axis(values: pd.Series, axis: CostAxis) -> tuple[float, str]:
    """Factor and unit in which the values of a cost axis (ms, µJ or KiB) have readable numbers."""
    if axis == "memory":
        return 1.0, f"{_AXIS_TITLE[axis]} (KiB)"
    largest = float(values.max()) if len(values) else 1.0
    units = {"latency": ("ns", "µs", "ms", "s"), "energy": ("pJ", "nJ", "µJ", "mJ", "J")}[axis]
    place = 2
    factor = 1.0
    while largest * factor >= 1000.0 and place + 1 < len(units):
        place, factor = place + 1, factor / 1000.0
    while 0.0 < largest * factor < 1.0 and place > 0:
        place, factor = place - 1, factor * 1000.0
    return factor, f"{_AXIS_TITLE[axis]} ({units[place]})"


def plot_front(exploration: Exploration, axis: CostAxis) -> Figure:
    """Draw one front: a cost against measured accuracy in percent.

    The cost: ``latency`` or ``energy`` of one inference, or ``memory`` of the weights.
    The front is a step line: at each cost, the best accuracy to be had for it. Dominated points are faded, uniform
    baselines are squares with their precision, and FP32 is a dashed line. Where accuracies fall off a cliff, a
    second panel shows the points close to FP32.
    """
    frame = front_frame(exploration, axis)
    fp32 = None if exploration.fp32 is None else 100.0 * exploration.fp32.value
    zoom = _zoom_range(frame, fp32)
    factor, title = scaled_axis(frame["cost"], axis)
    frame["cost"] *= factor
    figure = new_figure(10.0 if zoom else 6.4, 4.4)
    panels = figure.subplots(1, 2 if zoom else 1, squeeze=False)[0]
    chosen = exploration.chosen()
    for number, axes in enumerate(panels):
        is_zoom = number == 1 and zoom is not None
        visible = frame[frame["accuracy_percent"] >= zoom] if is_zoom else frame
        _draw_front(axes, frame, visible, fp32, chosen)
        axes.set_xlabel(title)
        if is_zoom and zoom is not None:
            top = max(float(frame["accuracy_percent"].max()), fp32 or 0.0)
            margin = 0.08 * (top - zoom)
            axes.set_ylim(zoom - margin, top + margin)
            axes.set_title("close to FP32", fontsize=10)
        uniform = visible[visible["uniform"] != ""]
        _label_uniform(axes, uniform if is_zoom or zoom is None else uniform[uniform["accuracy_percent"] < zoom])
    metric = exploration.settings.metric or "accuracy"
    panels[0].set_ylabel(f"{metric[:1].upper()}{metric[1:]} (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    settings = exploration.settings
    figure.suptitle(f"{settings.network} on {settings.accelerator}", fontsize=11)
    return figure


def _zoom_range(frame: pd.DataFrame, fp32: float | None) -> float | None:
    """Lowest accuracy of the second panel; None where one panel shows all."""
    if frame.empty:
        return None
    values = frame["accuracy_percent"]
    top = max(float(values.max()), fp32 or 0.0)
    if top - float(values.min()) < 15.0:
        return None
    near = values[values >= top - 5.0]
    return float(near.min()) if len(near) >= 4 and near.nunique() > 1 else None


def _draw_front(
    axes: Axes, frame: pd.DataFrame, visible: pd.DataFrame, fp32: float | None, chosen: Point | None
) -> None:
    tidy(axes)
    front = frame[frame["on_front"]]
    if len(front):
        cost = [*front["cost"], float(frame["cost"].max())]
        accuracy = [*front["accuracy_percent"], float(front["accuracy_percent"].iloc[-1])]
        axes.step(cost, accuracy, where="post", color=BLUE, linewidth=1.6, zorder=2, label="Pareto front")
    mixed = visible["uniform"] == ""
    groups = (
        (visible[mixed & ~visible["on_front"]], "o", 26, "#777777", 0.45, "none", "mixed precision, dominated"),
        (visible[mixed & visible["on_front"]], "o", 34, BLUE, 1.0, "white", "mixed precision, on the front"),
        (visible[~mixed], "s", 46, VERMILION, 1.0, "black", "uniform precision"),
    )
    for order, (points, marker, size, colour, alpha, edge, label) in enumerate(groups):
        if len(points):
            axes.scatter(points["cost"], points["accuracy_percent"], s=size, marker=marker, color=colour, alpha=alpha,
                         edgecolors=edge, linewidths=0.7, zorder=3 + order, label=label)
    if fp32 is not None:
        axes.axhline(fp32, color=BLACK, linestyle="--", linewidth=1.0, zorder=1, label=f"FP32 ({fp32:.1f} %)")
    row = visible[visible["point"] == chosen.label] if chosen is not None else visible.iloc[:0]
    if chosen is not None and len(row):
        axes.scatter(row["cost"], row["accuracy_percent"], s=150, facecolors="none", edgecolors=BLACK, linewidths=1.3,
                     zorder=6, label=f"chosen ({chosen.label})")
    if len(visible):
        low, high = float(visible["cost"].min()), float(visible["cost"].max())
        margin = 0.06 * (high - low) or 0.05 * high or 1.0
        axes.set_xlim(low - margin, high + 2.2 * margin)


def _label_uniform(axes: Axes, uniform: pd.DataFrame) -> None:
    """Write each baseline's precision below it to the right, where the front is not; never on one written before."""
    placed: list[tuple[float, float]] = []
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    # Room for the label of the lowest square.
    bottom -= 0.05 * (top - bottom)
    axes.set_ylim(bottom, top)
    for row in uniform.sort_values("cost").itertuples():
        x = (row.cost - low) / ((high - low) or 1.0)
        y = (row.accuracy_percent - bottom) / ((top - bottom) or 1.0) - 0.04
        drop = 0
        while any(abs(x - other) < 0.1 and abs(y - 0.045 * drop - height) < 0.045 for other, height in placed):
            drop += 1
        placed.append((x, y - 0.045 * drop))
        at_edge = y - 0.045 * drop < 0.01
        offset = (8, -3) if at_edge else (6, -12 - 10 * drop)
        axes.annotate(row.uniform, (row.cost, row.accuracy_percent), xytext=offset, textcoords="offset points",
                      fontsize=8, zorder=7, path_effects=OUTLINE)


def plot_costs(exploration: Exploration) -> Figure:
    """Draw latency (ms) against energy (µJ) of all points: what a cost-only network is compared by."""
    frame = points_frame(exploration)
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots()
    tidy(axes)
    horizontal, latency_title = scaled_axis(frame["latency_ms"], "latency")
    vertical, energy_title = scaled_axis(frame["energy_uj"], "energy")
    data = pd.DataFrame({"x": frame["latency_ms"] * horizontal, "y": frame["energy_uj"] * vertical,
                         "uniform": frame["uniform"]})
    mixed, uniform = data[data["uniform"] == ""], data[data["uniform"] != ""]
    if len(mixed):
        axes.scatter(mixed["x"], mixed["y"], s=30, color=BLUE, alpha=0.7, linewidths=0, label="mixed precision")
    axes.scatter(uniform["x"], uniform["y"], s=46, marker="s", color=VERMILION, edgecolors="black", linewidths=0.7,
                 label="uniform precision")
    for row in uniform.itertuples():
        axes.annotate(row.uniform, (row.x, row.y), xytext=(7, -11), textcoords="offset points", fontsize=8,
                      path_effects=OUTLINE)
    axes.margins(0.12)
    axes.set_xlabel(latency_title)
    axes.set_ylabel(energy_title)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    axes.set_title(f"{exploration.settings.network} on {exploration.settings.accelerator}", fontsize=11)
    return figure


def plot_layers(exploration: Exploration, point: Point) -> Figure:
    """Draw where the cycles and the energy of one point go, layer by layer, vector operations at the end.

    Of networks with more than 40 rows the costliest 40 are shown, in the network's order; the title says so.
    """
    settings = exploration.settings
    title = f"{settings.network} on {settings.accelerator}, point {point.label}"
    return plot_breakdown(layers_frame(exploration, point), title)


def plot_breakdown(frame: pd.DataFrame, title: str = "") -> Figure:
    """Draw where cycles go, by kind, and energy (µJ), by component: two stacked bars a row of a ``point_frame``.

    Of more than 40 rows the 40 with the most cycles are shown, in their order; the title says so.
    """
    cycles, energy = cycle_parts(frame), energy_parts(frame)
    precisions = dict(zip(frame["name"], frame["precision"], strict=True))
    takes_something = (cycles.sum(axis=1) > 0) | (energy.sum(axis=1) > 0)
    cycles, energy = cycles[takes_something], energy[takes_something]
    total = len(cycles)
    if total > _MAX_ROWS:
        keep = cycles.sum(axis=1).to_numpy().argsort(kind="stable")[::-1][:_MAX_ROWS]
        cycles, energy = cycles.iloc[sorted(keep)], energy.iloc[sorted(keep)]
    figure = new_figure(11.0, 1.7 + 0.24 * len(cycles))
    left, right = figure.subplots(1, 2, sharey=True)
    names = [f"{shortened(str(name))}  {precisions.get(str(name), '')}".rstrip() for name in cycles.index]
    _draw_bars(left, cycles, names)
    left.set_xlabel("Cycles")
    left.xaxis.set_major_formatter(EngFormatter())
    _draw_bars(right, energy, names)
    right.set_xlabel("Energy (µJ)")
    left.invert_yaxis()
    shown = "" if total <= _MAX_ROWS else f", the {_MAX_ROWS} slowest of {total} rows"
    figure.suptitle(f"{title}{shown}", fontsize=11)
    return figure


def shortened(name: str, limit: int = 34) -> str:
    """A name's end, where it is longer than ``limit`` characters."""
    return name if len(name) <= limit else "…" + name[1 - limit:]


def _draw_bars(axes: Axes, frame: pd.DataFrame, names: list[str]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    positions = range(len(frame))
    start = pd.Series(0.0, index=positions)
    for index, column in enumerate(frame.columns):
        values = frame[column].fillna(0.0).reset_index(drop=True)
        if not values.any():
            continue
        # Once all fills are used they come again, with the next hatch: no two parts look alike.
        rounds, style = divmod(index, len(_FILLS))
        hatch = _HATCHES[(style + rounds) % len(_HATCHES)]
        axes.barh(positions, values, left=start, height=0.72, color=_FILLS[style], hatch=hatch,
                  edgecolor="#222222", linewidth=0.4, label=column)
        start = start + values
    # Said outright: a last part of width 0 would pin the axis to the end of its bar.
    axes.set_xlim(0.0, 1.04 * float(start.max()) or 1.0)
    axes.set_ylim(-0.7, len(frame) - 0.3)
    axes.set_yticks(list(positions), names, fontsize=8)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def save_figure(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write a figure as ``name.png`` and ``name.svg``; equal figures give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(png, dpi=PNG_DPI, metadata={"Software": None})
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return png, svg
