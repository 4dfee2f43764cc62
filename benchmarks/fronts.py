"""One network's fronts on several machines: latency, energy and measured accuracy, and whether precision pays there.

    python -m benchmarks.fronts [NETWORK] [--machines bit_fusion,loom,gaudi_like,tpu_like] [--methods amp,dpq]
                                [--quantiser gptq] [--points N] [--seeds N] [--seconds-per-layer S]
                                [--gap FRACTION] [--menu w8a8,w4a8] [--workers N] [--output DIR]

Each machine gets a ``bitmosaic.compare`` of its own: uniform precisions, largest layers first, random orders, and the
methods that the machine takes. ``tpu_like`` is the machine where narrow operands save traffic and no cycle of the grid:
a fixed array of 8-bit multipliers. Printed, and written to ``fronts.md``, is what the baseline of each machine (every
layer in w8a8, or bf16) costs, what the cheapest points within 1 % (absolute) of FP32 cost, or of the baseline where
that is worse, and who proposed them; ``fronts.csv`` has every point, ``fronts.png`` all of them over the baseline's
cost, one column a machine.

Small by default: few points, and little time to search for a mapping. What is measured serves all machines. After
Ctrl-C the same command goes on; what is done is in ``DIR/MACHINE`` (default ``results/fronts/NETWORK``).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bitmosaic.commands.parts import shown_progress, words
from bitmosaic.explorations.comparison import RANDOM, Comparison, ComparisonInterrupted, Family, compare
from bitmosaic.explorations.comparison_report import AXES, comparison_frame
from bitmosaic.explorations.exploration import (
    ACCURACY_FILE,
    DEFAULT_ACCURACY_LOSS,
    ENTROPY_FILE,
    SENSITIVITY_FILE,
    CostAxis,
    Point,
)
from bitmosaic.explorations.folder import INPUTS, write_file
from bitmosaic.explorations.methods import METHODS, plan
from bitmosaic.explorations.records import MethodName
from bitmosaic.progress import Progress
from bitmosaic.views.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, new_figure, save_figure, tidy
from hw_configs import open_accelerator
from mapper.solution import SearchBudget
from simulator.accelerator import Accelerator
from simulator.errors import BitmosaicError
from workloads import Network, open_network
from workloads.weight_quantisers import DEFAULT_QUANTISER, FOR_INTEGERS

MACHINES = "bit_fusion,loom,gaudi_like,tpu_like"
INTERRUPTED = 130
_STYLES = {
    "uniform": (BLACK, "s"), "largest first": ("#777777", "v"), RANDOM: ("#999999", "x"), "amp": (BLUE, "o"),
    "measured": (GREEN, "^"), "seada": (ORANGE, "D"), "dpq": (PURPLE, "P"), "flexiq": (VERMILION, "*"),
}
_SHOWN_LOSS = 12.0  # percentage points below the best that the plot shows: what is lost further down is lost


def taken(network: Network, machine: Accelerator, methods: Sequence[str]) -> tuple[list[MethodName], dict[str, str]]:
    """Of the methods those that the machine takes, and of the others why it does not."""
    found: list[MethodName] = []
    left: dict[str, str] = {}
    for name in methods:
        try:
            plan(network, machine, name, None, "auto", None)  # type: ignore[arg-type]
            found.append(METHODS[name].name)  # type: ignore[index]
        except BitmosaicError as error:
            left[name] = error.problems[0].rule
    return found, left


def baseline(found: Comparison) -> Point:
    """Every layer in the first precision of the menu."""
    return next(point for point in found.families[0].points if point.record.uniform == found.settings.menu[0])


def cheapest(found: Comparison, axis: CostAxis) -> tuple[Family, Point] | None:
    """The cheapest point within 1 % of FP32 of all families, and the first of them that proposed it.

    Where the baseline is less accurate than FP32, within 1 % of the baseline.
    """
    lost = max(0.0, found.settings.fp32 - baseline(found).record.accuracy_percent / 100)
    good = [
        (family, point) for family in found.families
        for point in [found.cheapest(family, axis, lost + DEFAULT_ACCURACY_LOSS)] if point is not None
    ]
    return min(good, key=lambda pair: pair[1].cost(axis), default=None)


def table(found: dict[str, Comparison]) -> str:
    """The figures as Markdown, a row a machine."""
    first = next(iter(found.values())).settings
    lines = [
        f"{first.network}, {first.metric} on {first.examples} examples, FP32 {100 * first.fp32:.2f} %. Mappings: "
        f"{first.objective}.",
        "",
        f"| machine | baseline | cycles | µJ | {first.metric} | fastest within 1 % | × faster | {first.metric} "
        f"| proposed by | least energy within 1 % | × less | {first.metric} | proposed by |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for machine, each in found.items():
        base = baseline(each)
        cells = [
            machine, each.settings.menu[0], f"{base.record.total_cycles:,}", f"{base.record.energy_uj:.4g}",
            f"{base.record.accuracy_percent:.2f} %",
        ]
        for axis in AXES:
            best = cheapest(each, axis)
            if best is None:
                cells += ["none", "", "", ""]
                continue
            family, point = best
            cost = f"{point.record.total_cycles:,}" if axis == "latency" else f"{point.record.energy_uj:.4g} µJ"
            cells += [cost, f"{base.cost(axis) / point.cost(axis):.2f}", f"{point.record.accuracy_percent:.2f} %",
                      family.name if point.record.uniform is None else f"uniform {point.record.uniform}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure_of(found: dict[str, Comparison]) -> Figure:
    """Accuracy over cost / the baseline's cost, a column a machine: 1 is the baseline, further left is a gain."""
    first = next(iter(found.values())).settings
    figure = new_figure(3.4 * len(found), 6.4)
    rows = figure.subplots(2, len(found), sharey=True, sharex="row", squeeze=False)
    best = max(point.record.accuracy_percent for each in found.values() for family in each.families
               for point in family.points)
    for axis, panels in zip(AXES, rows, strict=True):
        for axes, (machine, each) in zip(panels, found.items(), strict=True):
            _draw(axes, each, axis)
            axes.set_ylim(best - _SHOWN_LOSS, max(best, 100 * each.settings.fp32) + 0.6)
            axes.set_xlabel(f"{axis} / that of {each.settings.menu[0]}")
            if axis == AXES[0]:
                axes.set_title(machine, fontsize=10)
        panels[0].set_ylabel(f"{first.metric} (%)")
        # One scale for all: a machine on which precision gains nothing shows so, its points stand at 1.
        panels[0].set_xlim(min(panels[0].get_xlim()[0], 0.9), max(panels[0].get_xlim()[1], 1.05))
    named: dict[str, object] = {}
    for axes in rows[0]:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=7, fontsize=8, frameon=False)
    figure.suptitle(f"{first.network}: what precision is worth on each machine", fontsize=11)
    return figure


def _draw(axes: Axes, found: Comparison, axis: CostAxis) -> None:
    tidy(axes)
    base = baseline(found).cost(axis)
    axes.axvline(1.0, color="#bbbbbb", linewidth=1.0, zorder=0)
    axes.axhline(100 * found.settings.fp32, color=BLACK, linestyle="--", linewidth=1.0, label="FP32")
    front = found.front(axis)
    every = [point for family in found.families for point in family.points]
    steps = sorted({(point.cost(axis) / base, point.record.accuracy_percent) for point in every
                    if point.record.key in front})
    cost, accuracy = zip(*steps, strict=True)
    last = max(point.cost(axis) for point in every) / base
    axes.step([*cost, last], [*accuracy, accuracy[-1]], where="post", color=SKY, linewidth=2.0, label="front of all")
    drawn: set[str] = set()
    for family in found.families:
        colour, marker = _STYLES[family.kind]
        axes.scatter(
            [point.cost(axis) / base for point in family.points],
            [point.record.accuracy_percent for point in family.points], color=colour, marker=marker, s=26, alpha=0.8,
            linewidths=1.0, label=None if family.kind in drawn else family.kind, zorder=3,
        )
        drawn.add(family.kind)


def frame_of(found: dict[str, Comparison]) -> pd.DataFrame:
    """Every point of every machine, with its costs over the baseline's."""
    frames = []
    for machine, each in found.items():
        frame, base = comparison_frame(each), baseline(each)
        frame.insert(0, "machine", machine)
        frame["latency_over_baseline"] = frame["latency_ms"] / base.cost("latency")
        frame["energy_over_baseline"] = frame["energy_uj"] / base.cost("energy")
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def share_measurements(before: Path, folder: Path) -> None:
    """Begin a machine's folder with what was measured for the one before: accuracies and harms are the network's.

    Records are found by what they are of, so that nothing wrong can be taken. A folder with results is left as it is.
    """
    if folder.exists():
        return
    draft = folder.with_name(f"{folder.name}.draft")
    (draft / INPUTS).mkdir(parents=True, exist_ok=True)
    for name in (ACCURACY_FILE, SENSITIVITY_FILE, ENTROPY_FILE):
        if (before / name).exists():
            shutil.copyfile(before / name, draft / name)
    draft.rename(folder)


def run(network: Network, options: argparse.Namespace, folder: Path, progress: Progress) -> dict[str, Comparison]:
    """Compare on each machine in turn; raises what ``compare`` raises."""
    found: dict[str, Comparison] = {}
    for name in words(options.machines):
        machine = open_accelerator(name)
        if found:
            share_measurements(list(found.values())[-1].folder, folder / name)
        methods, left = taken(network, machine, words(options.methods))
        for method, reason in left.items():
            progress.say(f"{name} does not take {method}: {reason}")
        menu = None if options.menu is None or name in words(options.own_menu) else words(options.menu)
        found[name] = compare(
            network, machine, methods=methods, menu=menu, quantiser=options.quantiser, points=options.points,
            seeds=options.seeds, results=folder / name, workers=options.workers, progress=progress,
            budget=SearchBudget(cpu_seconds=options.seconds_per_layer, target_gap=options.gap),
        )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Compare, print the table, and write table, points and plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fronts", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="digits_cnn")
    parser.add_argument("--machines", default=MACHINES, help="presets or YAML files (default: %(default)s)")
    parser.add_argument("--methods", default="amp,dpq", help="comma-separated (default: %(default)s)")
    parser.add_argument("--menu", help="of machines with integers; by default each machine's own")
    parser.add_argument("--own-menu", default="gaudi_like", metavar="MACHINES",
                        help="machines that --menu is not for (default: %(default)s)")
    parser.add_argument("--quantiser", choices=FOR_INTEGERS,
                        help=f"of weights, where a method leaves it open (default: {DEFAULT_QUANTISER})")
    parser.add_argument("--points", type=int, default=4, help="budgets on a method's fronts (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="random orders (default: %(default)s)")
    parser.add_argument("--seconds-per-layer", type=float, default=0.3, help="of search (default: %(default)s)")
    parser.add_argument("--gap", type=float, default=0.2, help="at which a search stops (default: %(default)s)")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    try:
        network = open_network(options.network)
        folder = options.output or Path("results/fronts") / network.name
        with shown_progress() as progress:
            found = run(network, options, folder, progress)
    except BitmosaicError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ComparisonInterrupted as interrupt:
        print(f"Interrupted: what was scored is in {interrupt.folder}; the same command goes on.", file=sys.stderr)
        return INTERRUPTED
    text = table(found)
    write_file(folder / "fronts.md", text.encode())
    write_file(folder / "fronts.csv", frame_of(found).to_csv(index=False, lineterminator="\n").encode())
    save_figure(figure_of(found), folder, "fronts")
    print(text)
    gaps = {name: max(point.record.worst_gap for family in each.families for point in family.points)
            for name, each in found.items()}
    print("Worst proven gap of a mapping: " + ", ".join(f"{name} {100 * gap:.0f} %" for name, gap in gaps.items()))
    print(f"Table, points and plot: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
