"""How much of a network can be narrow: measured score by the share of the weights in the narrow precision.

    python -m benchmarks.shares [NETWORK] [--menu int4:fp32,int8:fp32] [--shares 0.3,0.5,…] [--methods taylor,…]
                                [--seeds N] [--clipping max-abs|least-error] [--quantiser rtn] [--lines N]
                                [--output DIR]

At every share each sensitivity method chooses which layers hold it: the assignment of least harm, proven, with at least
that share of the weights in the first precision of the menu and the rest in the last one. Beside them the trivial
choices: largest layers first, and random orders, one for each seed. Every assignment is measured on the task's
evaluation data, which share no example with the calibration data that harms come from.

Written are ``shares.csv`` (a row a choice and share, with a 95 % interval of the score), ``shares.md`` and
``shares.png``. Harms and scores are kept in ``DIR`` (default ``results/shares/NETWORK``) as they are measured: after
Ctrl-C the same command goes on, and further shares, methods or seeds measure what is new.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.quantisers import task_of
from benchmarks.sensitivity import CLIPPINGS, in_order, least_harm, weight_counts
from bitmosaic.commands.parts import INTERRUPTED, shown_progress, words
from bitmosaic.explorations.accuracy_book import AccuracyBook
from bitmosaic.explorations.folder import write_file
from bitmosaic.explorations.identity import content_key, network_identity
from bitmosaic.explorations.store import sole_writer
from bitmosaic.progress import Progress
from bitmosaic.views.plots import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, new_figure, save_figure, tidy
from simulator.errors import BitmosaicError, ConfigurationError, Problem
from simulator.precision import LayerPrecision
from workloads import Network, open_network
from workloads.sensitivity import METHODS, Sensitivity
from workloads.weight_quantisers import QUANTISERS

LARGEST, RANDOM = "largest first", "random"
SHARES = "0.3,0.5,0.6,0.65,0.7,0.8,0.9"
_NORMAL = 1.959964  # standard deviations around the mean that hold 95 % of a normal distribution
_STYLES = {
    "taylor": (BLUE, "o"), "perturbation": (GREEN, "^"), "hessian_trace": (SKY, "s"), "weight_error": (ORANGE, "D"),
    "bit_entropy": (VERMILION, "v"), "value_entropy": (PURPLE, "P"),
    LARGEST: ("#555555", "x"), RANDOM: ("#999999", "+"),
}


def interval(score: float, count: int) -> tuple[float, float]:
    """95 % interval of a share of ``count`` examples (Wilson, J. Am. Stat. Assoc. 22, 1927, 209)."""
    square = _NORMAL**2 / count
    middle = (score + square / 2) / (1 + square)
    half = _NORMAL / (1 + square) * float(np.sqrt(score * (1 - score) / count + square / (4 * count)))
    return max(0.0, middle - half), min(1.0, middle + half)


def candidates(
    network: Network, harms: Mapping[str, Sensitivity], narrow: LayerPrecision, wide: LayerPrecision,
    shares: Sequence[float], seeds: int,
) -> list[tuple[str, int | None, float, dict[str, LayerPrecision]]]:
    """Every choice: name, seed of a random one, share asked for, assignment. In the order of the shares."""
    layers = [layer for layer, binding in network.bindings.items() if binding.weight is not None]
    counts = weight_counts(network, layers)
    largest = sorted(layers, key=lambda layer: -counts[layer])
    orders = [[layers[i] for i in np.random.default_rng(seed).permutation(len(layers))] for seed in range(seeds)]
    found: list[tuple[str, int | None, float, dict[str, LayerPrecision]]] = []
    for share in shares:
        found += [(name, None, share, least_harm(network, each, narrow, wide, share)) for name, each in harms.items()]
        found.append((LARGEST, None, share, in_order(network, largest, narrow, wide, share)))
        found += [(RANDOM, seed, share, in_order(network, order, narrow, wide, share))
                  for seed, order in enumerate(orders)]
    return found


def measured(
    network: Network, book: AccuracyBook, menu: Sequence[LayerPrecision], methods: Sequence[str],
    shares: Sequence[float], seeds: int, progress: Progress,
) -> pd.DataFrame:
    """A row a choice and share, behind rows of FP32 and of both precisions for all layers.

    Columns: chosen_by, seed, share_asked, share_held (both of the weights), metric, score, low, high (95 %), examples,
    and the task's further figures.
    """
    narrow, wide = menu[0], menu[-1]
    layers = tuple(layer for layer, binding in network.bindings.items() if binding.weight is not None)
    counts = weight_counts(network, layers)
    harms = {}
    for method in methods:
        progress.say(f"harms by {method}")
        table = book.harms((narrow, wide), method, progress)  # type: ignore[arg-type]
        values = np.array([[table[layer, each.label] for each in (narrow, wide)] for layer in layers])
        if not np.isfinite(values).all():
            raise ConfigurationError(Problem("has no finite harm in some layer: outputs were not finite", path=method))
        harms[method] = Sensitivity(method, layers, (narrow, wide), values)
    ends = [("FP32", None, 0.0, {}), (wide.label, None, 0.0, dict.fromkeys(layers, wide)),
            (narrow.label, None, 1.0, dict.fromkeys(layers, narrow))]
    every = [*ends, *candidates(network, harms, narrow, wide, shares, seeds)]
    rows = []
    for done, (name, seed, share, assignment) in enumerate(every):
        progress.update("scores", done, len(every))
        accuracy = book.measure(assignment)
        held = sum(counts[layer] for layer, each in assignment.items() if each == narrow) / sum(counts.values())
        low, high = interval(accuracy.value, accuracy.count)
        rows.append({
            "chosen_by": name, "seed": seed, "share_asked": share, "share_held": held, "metric": accuracy.metric,
            "score": accuracy.value, "low": low, "high": high, "examples": accuracy.count, **accuracy.extra,
        })
    progress.update("scores", len(every), len(every))
    return pd.DataFrame(rows).astype({"seed": "Int64"})


def table(frame: pd.DataFrame) -> str:
    """Scores as Markdown: a row a choice, a column a share; of random choices the least … the most."""
    chosen = frame.iloc[3:]
    shares = sorted(chosen["share_asked"].unique())
    lines = [
        ", ".join(f"{row.chosen_by} {100 * row.score:.1f} %" for row in frame.iloc[:3].itertuples())
        + f" ({frame['metric'].iloc[0]}, {frame['examples'].iloc[0]} examples)",
        "",
        "| chosen by | " + " | ".join(f"{100 * share:g} %" for share in shares) + " |",
        "| --- |" + " --- |" * len(shares),
    ]
    for name, own in chosen.groupby("chosen_by", sort=False):
        cells = []
        for share in shares:
            scores = 100 * own.loc[own["share_asked"] == share, "score"]
            ends = [f"{scores.min():.1f}", f"{scores.max():.1f}"]
            cells.append(" … ".join(dict.fromkeys(ends)))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure_of(frame: pd.DataFrame, title: str) -> Figure:
    """Score by the share of the weights that is narrow in truth (a choice holds whole layers, so it can exceed what was
    asked for); the interval of the first method as a band."""
    figure = new_figure(8.0, 5.0)
    axes = figure.subplots()
    tidy(axes)
    fp32, wide, narrow = (frame.iloc[i] for i in range(3))
    axes.axhline(100 * fp32["score"], color=BLACK, linestyle=":", linewidth=1.0, label="FP32")
    chosen = frame.iloc[3:]
    for number, (name, own) in enumerate(chosen.groupby("chosen_by", sort=False)):
        colour, marker = _STYLES[str(name)]
        if name == RANDOM:
            axes.scatter(100 * own["share_held"], 100 * own["score"], color=colour, marker=marker, s=34, label=name)
            continue
        whole = pd.concat([frame.iloc[[1]], own, frame.iloc[[2]]]).sort_values("share_held")
        x, y = 100 * whole["share_held"], 100 * whole["score"]
        axes.plot(x, y, color=colour, marker=marker, markersize=4.5, linewidth=1.4, label=name,
                  linestyle="--" if name == LARGEST else "-", zorder=4 if number == 0 else 3)
        if number == 0:
            axes.fill_between(x, 100 * whole["low"], 100 * whole["high"], color=colour, alpha=0.12, linewidth=0)
    axes.scatter([0, 100], [100 * wide["score"], 100 * narrow["score"]], color=BLACK, marker="s", s=22, zorder=5,
                 label="uniform")
    axes.set(title=title, xlabel=f"weights in {narrow['chosen_by']} (%), the rest in {wide['chosen_by']}",
             ylabel=f"{fp32['metric']} (%)", xlim=(-2, 102), ylim=(-2, 102))
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    return figure


def problems_of(options: argparse.Namespace, shares: Sequence[float]) -> list[Problem]:
    """What is wrong with the options."""
    found = [Problem("must lie between 0 and 1", path="--shares", value=str(each)) for each in shares
             if not 0 <= each <= 1]
    found += [Problem("is no sensitivity method", path="--methods", value=each, allowed=tuple(METHODS))
              for each in words(options.methods) if each not in METHODS]
    if len(words(options.menu)) != 2:
        found.append(Problem("must be two precisions, the narrow one first", path="--menu", value=options.menu))
    if options.seeds < 0 or options.lines < 0:
        found.append(Problem("must not be negative", path="--seeds, --lines"))
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, and write table, rows and plot."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shares", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="pp_ocrv6")
    parser.add_argument("--menu", default="int4:fp32,int8:fp32", help="narrow, wide (default: %(default)s)")
    parser.add_argument("--shares", default=SHARES, help="of the weights, 0 to 1 (default: %(default)s)")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="random orders (default: %(default)s)")
    parser.add_argument("--quantiser", choices=QUANTISERS, default="rtn", help="of weights (default: %(default)s)")
    parser.add_argument("--clipping", choices=tuple(CLIPPINGS), default="least-error",
                        help="scales of weights: all values fit, or least squared error (default: %(default)s)")
    parser.add_argument("--lines", type=int, default=0, metavar="N",
                        help="evaluate on at most N files, lines, or texts of a module (default: the task's number)")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    began = time.process_time()
    try:
        try:
            shares = sorted({float(each) for each in words(options.shares)})
        except ValueError as error:
            raise ConfigurationError(Problem("must be numbers", path="--shares", value=options.shares)) from error
        if problems := problems_of(options, shares):
            raise ConfigurationError(problems)
        menu = [LayerPrecision.parse(each) for each in words(options.menu)]
        network = open_network(options.network)
        task = task_of(network, options.lines)
        folder = options.output or Path("results/shares") / network.name
        subject = content_key("shares", {"network": network_identity(network), "task": task.name,
                                         "lines": options.lines})
        with sole_writer(folder), shown_progress() as progress:
            book = AccuracyBook(network, task, subject, folder, options.quantiser, CLIPPINGS[options.clipping])
            frame = measured(network, book, menu, words(options.methods), shares, options.seeds, progress)
    except BitmosaicError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted: what was measured is kept; the same command goes on.", file=sys.stderr)
        return INTERRUPTED
    text = table(frame)
    write_file(folder / "shares.md", text.encode())
    write_file(folder / "shares.csv", frame.to_csv(index=False, lineterminator="\n").encode())
    how = f"{network.name}: weights {options.quantiser}, {options.clipping} scales"
    save_figure(figure_of(frame, how), folder, "shares")
    print(text)
    print(f"Table, rows and plot: {folder}; {time.process_time() - began:.0f} CPU seconds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
