"""``bitmosaic export``: a quantised network as ONNX, or as QONNX with its arbitrary widths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from bitmosaic.commands.parts import DEFAULT_QUANTISER, QUANTISERS, layer_precisions_of, shapes_of
from simulator.errors import ConfigurationError, NetworkError, PrecisionError, Problem, closest

if TYPE_CHECKING:
    import onnx

    from bitmosaic.explorations.assignment_file import AssignmentFile
    from simulator.precision import LayerPrecision
    from workloads.network import Network
    from workloads.tasks import Task
    from workloads.tasks.task import Feed, Run


@click.command("export", short_help="Write a quantised network as ONNX or QONNX.")
@click.argument("network")
@click.option("--precision", default="w8a8", show_default=True, metavar="W8A8",
              help="The precision of every layer with trained weights; fp32 leaves them as they are.")
@click.option("--layer-precision", "layer_precisions", multiple=True, metavar="PATTERN=PRECISION",
              help="The precision of the layers whose names fit the pattern (with * and ?) instead; may be given "
                   "several times, the first that fits a layer counts.")
@click.option("--assignment", "assignment_file", type=click.Path(path_type=Path), metavar="FILE",
              help="Read the precision of every layer from FILE, as `bitmosaic explore` writes them; the quantiser "
                   "too, where --quantiser is not given.")
@click.option("--quantiser", type=click.Choice(QUANTISERS), default=DEFAULT_QUANTISER, show_default=True,
              help="How weights are rounded (docs/quantisers.md).")
@click.option("--scheme", type=click.Choice(["affine", "symmetric"]), default="affine", show_default=True,
              help="Integer activations with a zero point, or without.")
@click.option("--to", "target", type=click.Choice(["onnx", "qonnx"]), default="onnx", show_default=True,
              help="onnx: QuantizeLinear and DequantizeLinear; qonnx: Quant nodes of any width.")
@click.option("--fusible", is_flag=True,
              help="Of onnx: let the runtime join 8-bit layers into integer kernels, which round in other places.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True, metavar="FILE",
              help="The file to write; one that is there is replaced.")
@click.option("--inputs", type=click.Path(path_type=Path), metavar="FILE.npz",
              help="Inputs of a network of your own, to calibrate activations on.")
@click.option("--shape", "shapes", multiple=True, metavar="NAME=DIMS",
              help="The shape of an input that is dynamic in the ONNX file, e.g. x=1,3,48,320.")
def export(
    network: str, precision: str, layer_precisions: tuple[str, ...], assignment_file: Path | None, quantiser: str,
    scheme: str, target: str, fusible: bool, out: Path, inputs: Path | None, shapes: tuple[str, ...],
) -> None:
    """Quantise NETWORK, a built-in one with trained weights or an ONNX file, and write it.

    ONNX is then run in onnxruntime on the calibration data, and compared with the outputs whose accuracy
    `bitmosaic explore` measures.
    """
    from simulator.precision import LayerPrecision
    from workloads import open_network
    from workloads.accuracy import AccuracyEvaluator
    from workloads.export_onnx import export_onnx
    from workloads.export_qonnx import export_qonnx
    from workloads.tasks import find_task
    from workloads.tasks.user_inputs import UserInputsTask

    if fusible and target != "onnx":
        raise ConfigurationError(Problem("is of --to onnx alone", path="--fusible"))
    wanted = LayerPrecision.parse(precision)
    single = {
        pattern: LayerPrecision.parse(text) for pattern, text in layer_precisions_of(layer_precisions).items()
    }
    opened = open_network(network, input_shapes=shapes_of(shapes))
    task = find_task(opened) if inputs is None else UserInputsTask(opened, inputs)
    if task is None:
        rule = "needs data to calibrate on: give some of its inputs with --inputs FILE.npz"
        raise NetworkError(Problem(rule if opened.model else "has published shapes only: there is nothing to quantise",
                                   where=opened.name))
    if assignment_file is None:
        chosen = assignment(opened, wanted, single)
    else:
        found = read_assignment(assignment_file, opened, click.get_current_context())
        if found.flexiq is not None:
            lowered_channels(found, opened, task, target, click.get_current_context(), out)
            return
        chosen, quantiser = from_file(found, opened, click.get_current_context())
    check_whole(chosen, opened)
    evaluator = AccuracyEvaluator(
        opened, task, quantiser=quantiser, scheme=scheme,  # type: ignore[arg-type]
    )
    if target == "onnx":
        model = export_onnx(evaluator.calibrated, chosen, fusible=fusible)
    else:
        model = export_qonnx(evaluator.calibrated, chosen)
    _write(out, model)
    click.echo(f"{out}: {opened.name}, {len(chosen)} layers quantised, {out.stat().st_size / 1e6:.3g} MB; "
               "how each one is stored is in the metadata bitmosaic.layers")
    for layer in sorted(set(evaluator.moments.missing) & set(chosen)):
        click.echo(f"rounded to nearest all the same, as its inputs cannot be recorded: {layer}", err=True)
    if target == "onnx":
        click.echo(checked(evaluator.runner(chosen), evaluator.calibration_feeds, model))
    else:
        click.echo("Not run here: onnxruntime has no Quant nodes; the package qonnx runs them.")


def assignment(
    network: Network, wanted: LayerPrecision, single: Mapping[str, LayerPrecision]
) -> dict[str, LayerPrecision]:
    """Layer → precision: the first pattern that fits its name, else the precision of all trained layers.

    Products of two activations stay in FP32 unless a pattern fits them. Raises ``ConfigurationError`` for patterns
    that fit no layer.
    """
    from bitmosaic.explorations.baseline_cost import pattern_fits

    names = tuple(network.bindings)
    problems = [
        Problem("fits no layer", where=network.name, path="--layer-precision", value=repr(pattern),
                did_you_mean=closest(pattern, names))
        for pattern in single if not any(pattern_fits(name, pattern) for name in names)
    ]
    if problems:
        raise ConfigurationError(problems)
    found = {}
    for name in names:
        fitting = [precision for pattern, precision in single.items() if pattern_fits(name, pattern)]
        if fitting or network.bindings[name].weight is not None:
            found[name] = fitting[0] if fitting else wanted
    return {name: precision for name, precision in found.items() if precision.label != "fp32"}


def read_assignment(path: Path, network: Network, context: click.Context) -> AssignmentFile:
    """Read an assignment. Raises ``ConfigurationError`` for its mistakes, and for options that name precisions too."""
    from bitmosaic.explorations.assignment_file import load_assignment
    from bitmosaic.explorations.simulate_assignment import check_alone

    check_alone(context)
    return load_assignment(path, network)


def from_file(
    found: AssignmentFile, network: Network, context: click.Context
) -> tuple[dict[str, LayerPrecision], str]:
    """Layer → precision as an assignment's file says, and the quantiser: the command line's, else the file's.

    Products of two activations have their precision too, as they have it when accuracy is measured.
    """
    is_given = context.get_parameter_source("quantiser") == ParameterSource.COMMANDLINE
    chosen = {
        layer: precision for layer, precision in found.precisions.items()
        if layer in network.bindings and precision.label != "fp32"
    }
    return chosen, context.params["quantiser"] if is_given else found.quantiser


def lowered_channels(
    found: AssignmentFile, network: Network, task: Task, target: str, context: click.Context, out: Path
) -> None:
    """Write the network of an assignment whose channels FlexiQ selected, run it, and say how it compares.

    Raises ``ConfigurationError`` for options that it leaves no room for, ``PrecisionError`` for other precisions.
    """
    import numpy as np

    from workloads.export_flexiq import export_flexiq
    from workloads.flexiq_model import FlexiqSession

    flexiq = found.flexiq
    assert flexiq is not None
    check_flexiq(found, network, target, context)
    session = FlexiqSession(network, tuple(task.calibration_feeds()), extraction=flexiq.extraction)
    channels = {layer: np.isin(np.arange(len(own.order)), own.narrow) for layer, own in flexiq.layers.items()}
    model = export_flexiq(session, channels)
    _write(out, model)
    lowered = sum(mask.any() for mask in channels.values())
    click.echo(f"{out}: {network.name}, {len(session.layers)} layers quantised, {lowered} of them with input channels "
               f"in 4 bits, {out.stat().st_size / 1e6:.3g} MB; which ones is in the metadata bitmosaic.layers")
    click.echo(checked(session.runner(channels), session.feeds, model))


def check_flexiq(found: AssignmentFile, network: Network, target: str, context: click.Context) -> None:
    """Raise for what contradicts an assignment of FlexiQ: options on the command line, and precisions but ``w8a8``."""
    from simulator.precision import LayerPrecision

    given = {
        name: context.params[name] for name in ("quantiser", "scheme", "fusible")
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE
    }
    own = "contradicts the assignment, whose channels FlexiQ lowers: "
    problems = []
    if target != "onnx":
        problems.append(Problem(f"{own}a Quant node cannot round codes a second time as FlexiQ does; ONNX can say it",
                                path="--to", value=target, allowed=("onnx",)))
    if "quantiser" in given:
        problems.append(Problem(f"{own}its weights are rounded to nearest", path="--quantiser",
                                value=given["quantiser"]))
    if given.get("scheme") == "affine":
        problems.append(Problem(f"{own}its activations have no zero point", path="--scheme", value="affine",
                                allowed=("symmetric",)))
    if given.get("fusible"):
        problems.append(Problem(f"{own}it has no integer kernels", path="--fusible"))
    if problems:
        raise ConfigurationError(problems)
    wide = LayerPrecision.parse("w8a8")
    narrow = LayerPrecision.parse("w8a8/w4a4@1").narrow
    wrong = [
        Problem("must be w8a8 with channels in w4a4, beside the file's field flexiq", where=network.name,
                path=f"layer {layer.name}", value=found.precisions[layer.name].label)
        for layer in network.trained_layers
        if found.precisions[layer.name].wide != wide
        or (found.precisions[layer.name].split is not None and found.precisions[layer.name].narrow != narrow)
    ]
    if wrong:
        raise PrecisionError(wrong)


def check_whole(chosen: Mapping[str, LayerPrecision], network: Network) -> None:
    """Raise ``PrecisionError`` with every layer that is split by channel."""
    problems = [
        Problem("layers split by channel are not exported without a file of explore that says which channels are "
                "narrow (its field flexiq): a precision says how many",
                where=network.name, path=f"layer {layer}", value=precision.label)
        for layer, precision in chosen.items() if precision.split is not None
    ]
    if problems:
        raise PrecisionError(problems)


def checked(expected: Run, feeds: Iterable[Feed], model: onnx.ModelProto) -> str:
    """Run a written model, and say how far its outputs are from those that accuracies are measured with."""
    import numpy as np

    from workloads.calibration import open_session

    session = open_session(model)

    def run(feed: Mapping[str, Any]) -> list[Any]:
        return list(session.run(None, dict(feed)))

    largest, size, count = 0.0, 0.0, 0
    for feed in feeds:
        for output, right in zip(run(feed), expected(feed), strict=True):
            if np.issubdtype(right.dtype, np.floating) and right.size:
                largest = max(largest, float(np.abs(output - right).max()))
                size = max(size, float(np.abs(right).max()))
            count += int(right.size)
    share = f", {100 * largest / size:.2g} % of the largest output" if size and largest else ""
    same = "none differs" if not largest else f"they differ by {largest:.3g} at most{share}"
    return f"Run in onnxruntime and compared with what accuracy is measured with: of {count:,} outputs {same}."


def _write(path: Path, model: onnx.ModelProto) -> None:
    """All of the file, or nothing."""
    content = model.SerializeToString()
    draft = path.with_name(f"{path.name}.part")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
