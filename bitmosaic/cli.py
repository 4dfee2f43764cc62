"""The command line: ``bitmosaic explore``, ``map``, ``simulate``, ``validate``, ``hardware``, ``networks``, ``redraw``;
``compare``, ``convert``, ``export``, ``report`` and ``sweep`` have files of their own.

Whatever a user gets wrong is one message on standard error and exit code 2, never a traceback; Ctrl-C is exit code
130. Commands import what they need when they run, so that help is instant.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from bitmosaic._version import __version__
from bitmosaic.commands.compare import compare
from bitmosaic.commands.convert import convert
from bitmosaic.commands.export import export
from bitmosaic.commands.parts import (
    GAP,
    HARDWARE,
    INTERRUPTED,
    OBJECTIVE,
    POINT_COUNT,
    QUANTISERS,
    SECONDS,
    SHAPE,
    WORKERS,
    changed_budget,
    display,
    flexiq_options,
    layer_menus_of,
    layer_precisions_of,
    listing,
    open_named,
    seada_options,
    shapes_of,
    shown_progress,
    words,
)
from bitmosaic.commands.report import report
from bitmosaic.commands.sweep import sweep
from simulator.errors import BitmosaicError

if TYPE_CHECKING:
    from bitmosaic.explorations.baseline_cost import UniformRun
    from bitmosaic.explorations.exploration import Exploration, Point

USER_ERROR = 2


class _Group(click.Group):
    """A group of commands whose errors are messages and exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; translate what it raises."""
        try:
            return super().invoke(ctx)
        except BitmosaicError as error:
            for problem in error.problems:
                click.echo(f"error: {problem}", err=True)
            ctx.exit(USER_ERROR)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # click ends quietly where nobody reads on
            click.echo(f"error: {error.filename or 'input/output'}: {error.strerror or error}", err=True)
            ctx.exit(USER_ERROR)
        except (KeyboardInterrupt, SystemError) as error:
            # Ctrl-C while a compiled kernel runs comes out as a SystemError that it caused.
            cause: BaseException | None = error
            while isinstance(cause, SystemError):
                cause = cause.__cause__
            if not isinstance(cause, KeyboardInterrupt):
                raise
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="bitmosaic %(version)s")
def main() -> None:
    """Choose the precision of each layer of a network for an accelerator, and prove what it costs."""


@main.command()
@click.argument("network", default="digits_cnn")
@HARDWARE
@click.option("--menu", metavar="W8A8,W4A8,…",
              help="Precisions to choose from, weight and activation bits each; by default a set for the machine.")
@OBJECTIVE
@click.option("--sensitivity", default="auto", show_default=True, type=click.Choice([
    "auto", "taylor", "perturbation", "weight_error", "hessian_trace", "bit_entropy", "value_entropy",
]), help="How the harm of a precision to a layer is rated before assignment; auto: taylor where gradients exist, "
         "else perturbation.")
@click.option("--gradients", default="own", show_default=True, type=click.Choice(["own", "torch"]),
              help="Where taylor and hessian_trace get their gradients; torch: pip install 'bitmosaic[torch]'.")
@click.option("--quantiser", type=click.Choice(QUANTISERS),
              help="How weights are quantised: to nearest, with scales of least error (the default) or of the largest "
                   "weight, by GPTQ (also with reordering), or by DPQ (W4A8).")
@click.option("--method", type=click.Choice(["amp", "seada", "dpq", "flexiq", "measured"]),
              help="A published method by its name: how harm is rated, how weights are quantised, and who chooses. "
                   "Options that contradict it are refused.")
@flexiq_options
@seada_options
@click.option("--measure-harm/--no-measure-harm", default=None,
              help="Measure the harm of each layer and precision too, and say how well the method ranks them; one run "
                   "each. By default where entropies rate, as in --method seada.")
@click.option("--keep-first-last", metavar="W8A8",
              help="A precision of the menu that the first and the last trained layer keep.")
@click.option("--layer-menu", "layer_menus", multiple=True, metavar="PATTERN=W8A8,W4A8",
              help="The precisions of the menu that layers whose names fit the pattern (with * and ?) choose from in "
                   "mixed assignments; may be given several times, the first that fits a layer counts.")
@click.option("--tie", "tied", multiple=True, metavar="PATTERN",
              help="All layers whose names fit the pattern have one precision in mixed assignments; may be given "
                   "several times.")
@click.option("--weight-memory-limit", type=click.FloatRange(min=0, min_open=True), metavar="KIB",
              help="The most memory that the weights of an assignment may take, in KiB, without scales.")
@click.option("--latency-limit", type=click.FloatRange(min=0, min_open=True), metavar="MS",
              help="The most that one inference of the chosen point may take; the most accurate such point is chosen.")
@click.option("--energy-limit", type=click.FloatRange(min=0, min_open=True), metavar="UJ",
              help="Likewise its energy, in µJ.")
@click.option("--accuracy-at-least", type=click.FloatRange(min=0, max=100), metavar="PERCENT",
              help="The accuracy that the chosen point is to reach; an error that names the best where none does.")
@click.option("--minimise", type=click.Choice(["latency", "energy", "memory"]), default="latency", show_default=True,
              help="What the chosen point costs least of among those that reach the accuracy; memory, of the weights, "
                   "proposes assignments for it too.")
@click.option("--points", type=POINT_COUNT, default=10, show_default=True, metavar="N|all",
              help="Budgets for which an assignment is sought, on each of the two fronts; all: every assignment of "
                   "both fronts of harm and cost, each measured.")
@SHAPE
@click.option("--inputs", type=click.Path(path_type=Path), metavar="FILE.npz",
              help="Inputs to run a network of your own on; accuracy is then agreement with FP32.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="The results folder; by default results/NETWORK-HARDWARE.")
@SECONDS
@GAP
@WORKERS
def explore(
    network: str, hardware: str, menu: str | None, objective: str, sensitivity: str, gradients: str,
    quantiser: str | None, method: str | None, flexiq_selection: str | None, flexiq_extraction: str | None,
    flexiq_width: int | None, seada_codes: str | None, seada_score: str | None, seada_weight: str | None,
    measure_harm: bool | None, keep_first_last: str | None, layer_menus: tuple[str, ...], tied: tuple[str, ...],
    weight_memory_limit: float | None, latency_limit: float | None, energy_limit: float | None,
    accuracy_at_least: float | None, minimise: str, points: Any,
    shapes: tuple[str, ...], inputs: Path | None, output: Path | None, seconds_per_layer: float | None,
    gap: float | None, workers: int | None,
) -> None:
    """Find the latency–accuracy and energy–accuracy fronts of NETWORK.

    NETWORK is a built-in network (see `bitmosaic networks`) or an ONNX file; the default, digits_cnn, needs no
    download. The results folder receives records, tables, plots and the exact inputs. The same command goes on where
    an interrupted one stopped, and repeats nothing.
    """
    from bitmosaic.explorations import explorer as job

    opened = open_named(network, shapes)
    with shown_progress() as progress:
        try:
            exploration = job.explore(
                opened, hardware, menu=None if menu is None else words(menu), objective=objective,  # type: ignore[arg-type]
                sensitivity=sensitivity, gradients=gradients,  # type: ignore[arg-type]
                quantiser=quantiser, method=method,  # type: ignore[arg-type]
                flexiq_selection=flexiq_selection, flexiq_extraction=flexiq_extraction,  # type: ignore[arg-type]
                flexiq_width=flexiq_width, seada_codes=seada_codes, seada_score=seada_score,  # type: ignore[arg-type]
                seada_weight=seada_weight,  # type: ignore[arg-type]
                measure_harm=measure_harm, keep_first_last=keep_first_last,
                layer_menus=layer_menus_of(layer_menus), tied=tied,
                weight_memory_limit_kib=weight_memory_limit,
                latency_limit_ms=latency_limit, energy_limit_uj=energy_limit,
                accuracy_at_least=None if accuracy_at_least is None else accuracy_at_least / 100,
                minimise=minimise, points=points, inputs=inputs, results=output,  # type: ignore[arg-type]
                budget=changed_budget(job.DEFAULT_BUDGET, seconds_per_layer, gap), workers=workers, progress=progress,
            )
        except job.ExplorationInterrupted as interrupt:
            exploration, interrupted = interrupt.exploration, True
        else:
            interrupted = False
    _show(exploration, None)
    if interrupted:
        count = len(exploration.points)
        kept = f"{count} point{'s' * (count > 1)} kept, drawn and listed" if count else "what was found so far is kept"
        click.echo(f"Interrupted: {kept} in {exploration.folder}; the same command goes on from there.", err=True)
        click.get_current_context().exit(INTERRUPTED)


@main.command(short_help="Draw tables and plots of a results folder again.")
@click.argument("results", type=click.Path(path_type=Path))
@click.option("--point", metavar="LABEL", help="The point to show layer by layer; by default the chosen one.")
def redraw(results: Path, point: str | None) -> None:
    """Draw the tables and plots of the folder RESULTS again, from its records alone."""
    from bitmosaic.explorations.exploration import load_exploration
    from bitmosaic.explorations.folder import write_outputs

    exploration = load_exploration(results)
    shown = None if point is None else exploration.point(point)
    write_outputs(exploration, shown)
    _show(exploration, shown)


@main.command(short_help="Show the cost of NETWORK in one precision.")
@click.argument("network")
@HARDWARE
@click.option("--precision", default="w8a8", show_default=True, metavar="W8A8",
              help="The precision of every layer: weight and activation bits; w8a8/w4a4@0.5 has half of the input "
                   "channels in w4a4.")
@click.option("--layer-precision", "layer_precisions", multiple=True, metavar="PATTERN=PRECISION",
              help="The precision of the layers whose names fit the pattern (with * and ?) instead; may be given "
                   "several times, the first that fits a layer counts.")
@click.option("--assignment", type=click.Path(path_type=Path), metavar="FILE",
              help="Read the precision of every layer from FILE, as `bitmosaic explore` writes them; hardware, "
                   "objective and time of the search too, where their options are not given.")
@OBJECTIVE
@SHAPE
@click.option("--trace", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write what happens in each cycle as a trace for Perfetto or Chrome, gzipped unless FILE ends in "
                   ".json.")
@click.option("--trace-slices", type=click.IntRange(min=0), default=1_000_000, show_default=True, metavar="N",
              help="The most slices that the trace may have; what does not fit is counted, and the trace says where.")
@click.option("--trace-layer", "trace_layers", multiple=True, metavar="NAME",
              help="Trace this layer alone; may be given several times. By default the whole network.")
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Write plots as PNG and SVG: roofline, breakdown by layer, utilisation of the grid.")
@click.option("--values", type=click.Choice(["auto", "statistical"]), default="auto", show_default=True,
              help="Where time depends on values: auto records them where the network has weights and data, and draws "
                   "them else; statistical draws them all.")
@click.option("--example", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="The calibration example of which activations are recorded, counted from 0.")
@SECONDS
@GAP
@WORKERS
def simulate(
    network: str, hardware: str, precision: str, layer_precisions: tuple[str, ...], assignment: Path | None,
    objective: str, shapes: tuple[str, ...], trace: Path | None, trace_slices: int, trace_layers: tuple[str, ...],
    plots: Path | None, values: str, example: int, seconds_per_layer: float | None, gap: float | None,
    workers: int | None,
) -> None:
    """Map and simulate NETWORK in one precision, or in several, and show its cost layer by layer.

    On a machine of several tiles each layer runs on the tile that costs least, one tile at a time.
    """
    from bitmosaic.explorations.baseline_cost import mixed_run, uniform_run
    from bitmosaic.explorations.explorer import DEFAULT_BUDGET
    from bitmosaic.views.text_tables import (
        energy_note,
        energy_table,
        layers_table,
        mappings_table,
        offers_table,
        tiles_note,
        value_note,
    )
    from simulator.precision import LayerPrecision

    wanted = LayerPrecision.parse(precision)
    single: dict[str, Any] = layer_precisions_of(layer_precisions)
    opened = open_named(network, shapes)
    budget, machine = DEFAULT_BUDGET, cast("Any", hardware)
    if assignment is not None:
        from bitmosaic.explorations.simulate_assignment import asked_for

        single, machine, objective, budget = asked_for(assignment, opened, click.get_current_context(), budget)
    with shown_progress() as progress:
        settings: dict[str, Any] = {
            "objective": objective, "budget": changed_budget(budget, seconds_per_layer, gap), "workers": workers,
            "progress": progress, "values": values, "example": example,
        }
        if assignment is not None:
            run = mixed_run(opened, machine, single, **settings)
        elif single:
            run = mixed_run(opened, hardware, {**single, "*": single.get("*", wanted)}, **settings)
        else:
            run = uniform_run(opened, hardware, wanted, **settings)
    point = run.point()
    display(layers_table(point, objective))  # type: ignore[arg-type]
    if note := tiles_note(point):
        display(offers_table(point, objective))  # type: ignore[arg-type]
        click.echo(note)
    display(energy_table(point))
    click.echo(energy_note(point))
    display(mappings_table(point))
    record = point.record
    click.echo(
        f"{opened.name} in {point.label}: {record.total_cycles:,} cycles, {record.latency_ms:.4g} ms, "
        f"{record.energy_uj:.4g} µJ, worst gap {100 * record.worst_gap:.1f} %"
    )
    if note := value_note(point):
        click.echo(note)
        for found in sorted(run.value_notes):
            click.echo(f"Values: {found}")
    if trace is not None:
        _write_trace(run, trace, trace_slices, trace_layers)
    if plots is not None:
        from bitmosaic.views.layer_plots import write_plots

        click.echo(f"Plots: {', '.join(str(path) for path in write_plots(run, plots) if path.suffix == '.png')}")


def _write_trace(run: UniformRun, path: Path, most: int, layers: tuple[str, ...]) -> None:
    from bitmosaic.views.timeline import write_trace

    summary = write_trace(run, path, most, layers=layers)
    click.echo(f"Trace: {path}, {summary.slices:,} slices; open it at https://ui.perfetto.dev")
    if summary.left_out:
        worst = max(summary.left_out, key=lambda name: summary.left_out[name])
        click.echo(
            f"The trace leaves out {sum(summary.left_out.values()):,} slices at the ends of {len(summary.left_out)} "
            f"layers, most of them ({summary.left_out[worst]:,}) of {worst}; --trace-slices "
            f"{summary.slices + sum(summary.left_out.values())} keeps all.", err=True,
        )


@main.command("map", short_help="Map a layer or a network, with proofs, and show the loop nests.")
@click.argument("subject", metavar="LAYER|NETWORK")
@HARDWARE
@click.option("--precision", default="w8a8", show_default=True, metavar="W8A8",
              help="The precision of every layer, as of `bitmosaic simulate`.")
@OBJECTIVE
@click.option("--constraints", type=click.Path(path_type=Path), metavar="FILE",
              help="Constraints on the mappings, in YAML: factors, tiles, orders, what is held, what bypasses.")
@click.option("--latency-limit", type=click.IntRange(min=1), metavar="CYCLES",
              help="Of the objectives energy and edp: the most cycles that the layer may take.")
@click.option("--energy-limit", type=click.FloatRange(min=0, min_open=True), metavar="PJ",
              help="Of the objectives latency and edp: the most energy that the layer may take, leakage included.")
@click.option("--front", is_flag=True, help="Find every mapping that none beats in latency and energy both.")
@click.option("--from", "mapping_file", type=click.Path(path_type=Path), metavar="FILE",
              help="Search for nothing: check the mapping in this file against layer and machine, and simulate it.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Write each mapping as YAML, to be edited and read back with --from.")
@SHAPE
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
              help="CPU time after which a search stops; its gap is then reported.")
@GAP
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
              help="Processes that search. Ctrl-C shows the best mappings of the searches under way too.")
def map_(
    subject: str, hardware: str, precision: str, objective: str, constraints: Path | None, latency_limit: int | None,
    energy_limit: float | None, front: bool, mapping_file: Path | None, out: Path | None, shapes: tuple[str, ...],
    seconds: float | None, gap: float | None, workers: int,
) -> None:
    """Find the best mapping of a layer, or of each layer of a network, and say how much better any other could be.

    A layer is NAME:K=64,C=64,P=56,Q=56,R=3,S=3 (loops left out are 1; also stride=2, dilation=, padding=, input=56x56,
    bias), NETWORK:LAYER, or a YAML file. A network is one of `bitmosaic networks` or an ONNX file.
    """
    from bitmosaic import mapping_run as job
    from mapper.solution import SearchBudget

    request = job.open_request(
        subject, hardware, precision, objective, shapes_of(shapes), constraints,  # type: ignore[arg-type]
        latency_limit, energy_limit, changed_budget(SearchBudget(), seconds, gap), out,
    )
    interrupted = False
    if mapping_file is not None:
        job.simulate_file(request, mapping_file, display, front=front)
    elif front:
        interrupted = job.show_front(request, display)
    else:
        with shown_progress() as progress:
            found = job.search(request, workers, progress)
        interrupted = found.interrupted
        job.show(request, found, display)
    if interrupted:
        click.echo("Interrupted: bounds and gaps are those that were reached.", err=True)
        click.get_current_context().exit(INTERRUPTED)


@main.command(short_help="Check hardware descriptions in YAML.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def validate(files: tuple[Path, ...]) -> None:
    """Check hardware descriptions in YAML, and name every mistake in each of the FILES."""
    from hw_configs import validate_file

    wrong = 0
    for path in files:
        problems = validate_file(path)
        for problem in problems:
            click.echo(f"error: {problem}", err=True)
        if not problems:
            click.echo(f"{path}: valid")
        wrong += bool(problems)
    if wrong:
        click.get_current_context().exit(USER_ERROR)


@main.command(short_help="List the accelerators, or show one: area, energies, sources.")
@click.argument("name", required=False, metavar="[NAME|FILE]")
def hardware(name: str | None) -> None:
    """List the accelerators that come with Bitmosaic.

    With a preset's NAME or a YAML FILE, show its area, its leakage and its energies, where the numbers are from, and
    what is not modelled.
    """
    from hw_configs import list_presets, open_machine

    if name is not None:
        from bitmosaic.views.hardware_report import hardware_tables

        accelerator = open_machine(name)
        click.echo(accelerator.description)
        display(hardware_tables(accelerator))
        return
    display(listing(("name", "description"), [(preset.name, preset.description) for preset in list_presets()]))


@main.command(short_help="List the networks that come with Bitmosaic.")
def networks() -> None:
    """List the networks that come with Bitmosaic, and what each of them needs."""
    from workloads import list_networks

    rows = []
    for info in list_networks():
        measured = f"cost and {info.metric}" if info.metric else "cost only"
        rows.append((info.name, measured, info.requires or "—", info.summary))
    display(listing(("name", "measures", "needs package", "description"), rows))


def _show(exploration: Exploration, point: Point | None) -> None:
    from bitmosaic.views.text_tables import summary

    display(summary(exploration, point))
    click.echo(f"Records, tables and plots: {exploration.folder}")


for command in (compare, convert, export, report, sweep):
    main.add_command(command)
