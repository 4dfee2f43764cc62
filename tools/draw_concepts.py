"""Draws docs/images/concepts.svg: a machine, a loop nest, and a simulated time line of its first passes.

    python tools/draw_concepts.py

The machine is the preset bit_fusion, the layer linear1 of digits_cnn; the time line
is read from the trace of its simulation.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import bitmosaic

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "concepts.svg"
FIRST_CYCLES = 260
BLUE, ORANGE, GREY, SKY, GREEN = "#0072B2", "#E69F00", "#BBBBBB", "#D6ECF8", "#009E73"
TRACKS = ("DRAM channel", "grid")


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str = SKY) -> None:
    """A part of the machine."""
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="#444444", linewidth=0.8))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=7)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Where data go."""
    axes.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "<->", "color": "#444444", "linewidth": 0.8})


def draw_machine(axes: Axes, machine: bitmosaic.Accelerator) -> None:
    """Memories from the left, the grid and the vector unit."""
    box(axes, 0, 2, 1.6, 6, machine.dram.name.upper(), "#EEEEEE")
    places = {"weight": (4.0, 8.2), "input": (2.4, 4.6), "output": (4.0, 1.0)}
    for buffer in machine.buffers:
        x, y = places[buffer.keeps[0]]
        box(axes, x, y, 1.5, 1.1, f"{buffer.name.replace('_', chr(10))}")
        arrow(axes, (1.6, min(max(y + 0.5, 2.2), 7.8)), (x, y + 0.5))
    for row in range(5):
        for column in range(6):
            name = "PE" if (row, column) == (4, 0) else ""
            box(axes, 4.6 + 0.62 * column, 3.0 + 0.88 * row, 0.5, 0.74, name, "white")
    arrow(axes, (5.2, 8.2), (5.2, 7.4))
    arrow(axes, (3.9, 5.2), (4.55, 5.2))
    arrow(axes, (5.2, 2.1), (5.2, 2.95))
    box(axes, 6.3, 1.0, 1.9, 1.1, "vector unit")
    arrow(axes, (5.5, 1.55), (6.3, 1.55))
    axes.set_xlim(-0.2, 8.6)
    axes.set_ylim(0.5, 10)


def draw_nest(axes: Axes, text: str) -> None:
    """The mapping as ``nest_text`` prints it."""
    axes.text(0, 1, text, family="monospace", fontsize=6.2, va="top", linespacing=1.35)


def draw_time(axes: Axes, trace: Path) -> None:
    """The first cycles of the channel and of the grid."""
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    threads = {event["tid"]: event["args"]["name"] for event in events if event.get("name") == "thread_name"}
    for event in events:
        if event["ph"] != "X" or threads.get(event["tid"]) not in TRACKS or event["ts"] >= FIRST_CYCLES:
            continue
        place = TRACKS.index(threads[event["tid"]])
        name = event["name"]
        colour = BLUE if name == "compute" else GREY if name.startswith("wait") else ORANGE if "load" in name else GREEN
        length = min(event["dur"], FIRST_CYCLES - event["ts"])
        axes.barh(place, length, left=event["ts"], height=0.6, color=colour, edgecolor="white", linewidth=0.4)
        if length > 22:
            shown = name.replace("load ", "").replace("write ", "")
            axes.text(event["ts"] + length / 2, place, shown, ha="center", va="center", fontsize=6,
                      color="white" if colour == BLUE else "black")
    axes.set_yticks(range(len(TRACKS)), TRACKS, fontsize=7)
    axes.set_xlim(0, FIRST_CYCLES)
    axes.set_xlabel("cycle (orange: loads, green: writes, blue: compute, grey: waits)", fontsize=7)
    axes.tick_params(axis="x", labelsize=6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def main() -> None:
    """Map, simulate, draw."""
    matplotlib.rcParams["svg.hashsalt"] = "bitmosaic"
    matplotlib.rcParams["svg.fonttype"] = "none"
    machine = bitmosaic.open_accelerator("bit_fusion")
    budget = bitmosaic.SearchBudget(cpu_seconds=1.0, target_gap=0.3)
    run = bitmosaic.uniform_run("digits_cnn", machine, "w8a8", budget=budget, workers=1)
    layer = next(each for each in run.network.layers if each.name == "linear1")
    figure = Figure(figsize=(10.0, 5.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(3.2, 1))
    top, nest, time_line = (figure.add_subplot(place) for place in (grid[0, 0], grid[0, 1], grid[1, :]))
    draw_machine(top, machine)
    draw_nest(nest, bitmosaic.nest_text(layer, run.precisions[layer.name], machine, run.solutions[layer.name].mapping))
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        bitmosaic.write_trace(run, trace, layers=[layer.name])
        draw_time(time_line, trace)
    for axes, title in ((top, "The machine"), (nest, "The nest"), (time_line, "The cycle")):
        axes.set_title(title, fontsize=9, loc="left")
    for axes in (top, nest):
        axes.axis("off")
    figure.savefig(PICTURE, metadata={"Date": None})
    print(f"{PICTURE}: written", file=sys.stderr)


if __name__ == "__main__":
    main()
