"""Sensitivity methods beside measured harm, on trained networks: ``python -m benchmarks.sensitivity [NETWORK]…``.

For each network and precision: Spearman's rank correlation with perturbation over the layers, harm / measured harm,
and the measured joint error / sum of harms. Then, with ``--share``, what a precision assignment made from each method's
harms is worth: that share of the weights in the first precision of the menu, the rest in the last one, least harm.
Beside them the trivial choices: largest layers first, and random ones (``benchmarks.shares`` draws the curve over the
shares). ``--quantiser`` and ``--clipping`` are those of all methods: harms are rated, and scores measured, with them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from mapper.assignment import Choice, assign
from simulator.precision import LayerPrecision
from workloads import Network, open_network
from workloads.accuracy import AccuracyEvaluator
from workloads.quantisation import LEAST_ERROR, MAX_ABS
from workloads.sensitivity import METHODS, Sensitivity, estimate
from workloads.sensitivity_comparison import compare
from workloads.tasks import find_task
from workloads.weight_quantisers import QUANTISERS, Quantiser

SEED = 20245
CLIPPINGS = {"max-abs": MAX_ABS, "least-error": LEAST_ERROR}


def comparison_table(
    network: Network, evaluator: AccuracyEvaluator, menu: list[LayerPrecision], methods: list[str]
) -> Table:
    """The figures of ``compare`` as a table."""
    table = Table(title=f"{network.name}: {sum(b.weight is not None for b in network.bindings.values())} layers")
    for heading in ("precision", "method", "rank correlation", "harm / measured", "lowest … highest",
                    "joint / sum of harms", "CPU s"):
        table.add_column(heading)
    for row in compare(network, evaluator, menu, methods):
        has_ratio = not np.isnan(row.ratio)
        table.add_row(
            row.precision, row.method, f"{row.rank_correlation:.3f}", f"{row.ratio:.3f}" if has_ratio else "",
            f"{row.lowest_ratio:.2f} … {row.highest_ratio:.2f}" if has_ratio else "",
            f"{row.additivity:.3g}" if has_ratio else "", f"{row.cpu_seconds:.1f}",
        )
    return table


def least_harm(
    network: Network, table: Sensitivity, narrow: LayerPrecision, wide: LayerPrecision, share: float
) -> dict[str, LayerPrecision]:
    """The assignment of least harm with at least ``share`` of the weights in ``narrow``, proven by CP-SAT."""
    counts = weight_counts(network, table.layers)
    choices = {
        layer: (
            Choice("wide", cost=float(counts[layer]), harm=table.of(layer, wide)),
            Choice("narrow", cost=0.0, harm=table.of(layer, narrow)),
        )
        for layer in table.layers
    }
    found = assign(choices, minimise="harm", cost_budget=(1 - share) * sum(counts.values()))
    return {layer: narrow if label == "narrow" else wide for layer, label in found.labels.items()}


def in_order(
    network: Network, layers: list[str], narrow: LayerPrecision, wide: LayerPrecision, share: float
) -> dict[str, LayerPrecision]:
    """``narrow`` for layers in their order, until they hold ``share`` of the weights."""
    counts = weight_counts(network, layers)
    assignment, held = {}, 0
    for layer in layers:
        assignment[layer] = narrow if held < share * sum(counts.values()) else wide
        held += counts[layer]
    return assignment


def weight_counts(network: Network, layers: Sequence[str]) -> Mapping[str, int]:
    """Weights of each layer, scales and biases left out."""
    counts = {layer.name: layer.weight_count for layer in network.trained_layers}
    return {layer: counts[layer] for layer in layers}


def assignment_table(
    network: Network, evaluator: AccuracyEvaluator, menu: list[LayerPrecision], harms: Mapping[str, Sensitivity],
    share: float,
) -> Table:
    """Measured score of an assignment from each method."""
    narrow, wide = menu[0], menu[-1]
    table = Table(title=f"{network.name}: {100 * share:.0f} % of the weights in {narrow.label}, else {wide.label}")
    for heading in ("chosen by", evaluator.task.metric, "weights in narrow layers (%)", "output error"):
        table.add_column(heading)
    candidates = {method: least_harm(network, each, narrow, wide, share) for method, each in harms.items()}
    layers = [layer for layer, binding in network.bindings.items() if binding.weight is not None]
    counts = weight_counts(network, layers)
    largest = sorted(layers, key=lambda layer: -counts[layer])
    candidates["largest first"] = in_order(network, largest, narrow, wide, share)
    shuffled = [layers[index] for index in np.random.default_rng(SEED).permutation(len(layers))]
    candidates["random"] = in_order(network, shuffled, narrow, wide, share)
    table.add_row("FP32", f"{100 * evaluator.fp32().value:.1f} %", "", "")
    for name, assignment in candidates.items():
        held = sum(counts[layer] for layer, precision in assignment.items() if precision == narrow)
        score = evaluator.measure(assignment).value
        table.add_row(
            name, f"{100 * score:.1f} %", f"{100 * held / sum(counts.values()):.1f}",
            f"{evaluator.output_mse(assignment):.3g}",
        )
    return table


@click.command()
@click.argument("networks", nargs=-1)
@click.option("--menu", default="w4a8,w8a8", show_default=True, help="Precisions, narrowest first.")
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--share", "shares", type=click.FloatRange(0, 1), multiple=True,
              help="Also choose that share of the weights to be narrow; may be given several times.")
@click.option("--quantiser", type=click.Choice(QUANTISERS), default="rtn", show_default=True)
@click.option("--clipping", type=click.Choice(list(CLIPPINGS)), default="least-error", show_default=True,
              help="Scales of weights: all values fit, or least squared error.")
@click.option("--group", type=click.IntRange(min=1), help="Weights that share a scale in the first precision.")
@click.option("--compare/--no-compare", "compares", default=True, help="Rank correlations and ratios, layer by layer.")
@click.option("--threads", default=1, show_default=True, help="Of onnxruntime.")
def main(
    networks: tuple[str, ...], menu: str, methods: str, shares: tuple[float, ...], quantiser: Quantiser, clipping: str,
    group: int | None, compares: bool, threads: int,
) -> None:
    """Compare sensitivity methods with measurement on NETWORKS (default: digits_cnn)."""
    console = Console(width=140)
    precisions = [LayerPrecision.parse(text) for text in menu.split(",")]
    if group is not None:
        precisions[0] = precisions[0].model_copy(update={"weight_group": group})
    for name in networks or ("digits_cnn",):
        began = time.process_time()
        network = open_network(name)
        task = find_task(network)
        if task is None:
            raise click.UsageError(f"{name} has no data to measure on")
        evaluator = AccuracyEvaluator(
            network, task, quantiser=quantiser, clipping=CLIPPINGS[clipping], threads=threads
        )
        if compares:
            console.print(comparison_table(network, evaluator, precisions, methods.split(",")))
        harms = {}
        if shares:
            ends = precisions[0], precisions[-1]
            harms = {each: estimate(network, evaluator, ends, method=each) for each in methods.split(",")}
        for share in sorted(shares):
            console.print(assignment_table(network, evaluator, precisions, harms, share))
        console.print(f"{name}: {time.process_time() - began:.0f} CPU seconds")


if __name__ == "__main__":
    main()
