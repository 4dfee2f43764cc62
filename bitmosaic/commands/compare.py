"""``bitmosaic compare``: methods and trivial baselines for one network and machine, in one table and one plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bitmosaic.commands.parts import (
    INTEGER_QUANTISERS,
    INTERRUPTED,
    POINT_COUNT,
    changed_budget,
    display,
    flexiq_options,
    open_named,
    shown_progress,
    words,
)


@click.command(short_help="Compare methods and baselines on one network and machine.")
@click.argument("network", default="digits_cnn")
@click.option("--hardware", default="bit_fusion", show_default=True, metavar="NAME|FILE",
              help="The accelerator: a preset (see `bitmosaic hardware`) or a YAML file.")
@click.option("--methods", metavar="AMP,SEADA,…",
              help="Methods to compare, of amp, seada, dpq, flexiq and measured; by default all that the machine "
                   "takes.")
@click.option("--menu", metavar="W8A8,W4A8,…", help="Precisions to choose from; by default a set for the machine.")
@click.option("--objective", type=click.Choice(["edp", "latency", "energy"]), default="edp", show_default=True,
              help="What the mapping of each layer is searched for; edp is energy times latency.")
@click.option("--quantiser", type=click.Choice(INTEGER_QUANTISERS),
              help="How weights are quantised by baselines and by methods that leave it open; by default "
                   "rtn_least_error.")
@flexiq_options
@click.option("--gradients", default="own", show_default=True, type=click.Choice(["own", "torch"]),
              help="Where ratings that read gradients get theirs; torch: pip install 'bitmosaic[torch]'.")
@click.option("--measure-harm/--no-measure-harm", default=None,
              help="Measure the harm of every layer and precision too, and say how well each method rates it: a run "
                   "each. By default for methods that rate by entropies, as seada.")
@click.option("--points", type=POINT_COUNT, default=6, show_default=True, metavar="N|all",
              help="Budgets for which a method seeks an assignment, on each of its two fronts; all: all of them.")
@click.option("--seeds", type=click.IntRange(min=0), default=3, show_default=True, metavar="N",
              help="Random orders of layers.")
@click.option("--shape", "shapes", multiple=True, metavar="NAME=DIMS",
              help="The shape of an input that is dynamic in the ONNX file, e.g. x=1,3,48,320. May be given several "
                   "times.")
@click.option("--inputs", type=click.Path(path_type=Path), metavar="FILE.npz",
              help="Inputs to run a network of your own on; accuracy is then agreement with FP32.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="The results folder; by default results/NETWORK-HARDWARE-comparison.")
@click.option("--seconds-per-layer", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="CPU time after which the search for one mapping stops.")
@click.option("--gap", type=click.FloatRange(min=0, max=1), metavar="FRACTION",
              help="The proven gap at which the search for one mapping stops.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N",
              help="Processes that search for mappings; by default one for each core.")
def compare(
    network: str, hardware: str, methods: str | None, menu: str | None, objective: str, quantiser: str | None,
    flexiq_selection: str | None, flexiq_extraction: str | None, flexiq_width: int | None, gradients: str,
    measure_harm: bool | None, points: Any, seeds: int, shapes: tuple[str, ...], inputs: Path | None,
    output: Path | None,
    seconds_per_layer: float | None, gap: float | None, workers: int | None,
) -> None:
    """Run published methods and trivial baselines on NETWORK, and show them side by side.

    Baselines are uniform precisions, the layers of most weights first, and layers in random orders. The results folder
    receives comparison.csv, comparison.txt and plots/comparison.png. The same command goes on where an interrupted one
    stopped; nothing is measured twice.
    """
    from bitmosaic.explorations import comparison as job
    from bitmosaic.explorations.comparison_report import comparison_summary, write_comparison
    from bitmosaic.explorations.explorer import DEFAULT_BUDGET

    opened = open_named(network, shapes)
    with shown_progress() as progress:
        try:
            found = job.compare(
                opened, hardware, methods=None if methods is None else words(methods),  # type: ignore[arg-type]
                menu=None if menu is None else words(menu), objective=objective,  # type: ignore[arg-type]
                flexiq_selection=flexiq_selection, flexiq_extraction=flexiq_extraction,  # type: ignore[arg-type]
                flexiq_width=flexiq_width, gradients=gradients, quantiser=quantiser,  # type: ignore[arg-type]
                measure_harm=measure_harm, points=points, seeds=seeds, inputs=inputs, results=output,
                budget=changed_budget(DEFAULT_BUDGET, seconds_per_layer, gap), workers=workers, progress=progress,
            )
        except job.ComparisonInterrupted as interrupt:
            click.echo(f"Interrupted: what was scored is in {interrupt.folder}; the same command goes on from there.",
                       err=True)
            click.get_current_context().exit(INTERRUPTED)
    display(comparison_summary(found))
    write_comparison(found)
    click.echo(f"Records, table and plot: {found.folder}")
