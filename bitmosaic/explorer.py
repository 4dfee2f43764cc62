"""The main job: from a trained network and an accelerator to Pareto fronts of cost against measured accuracy.

In order: FP32 and the uniform baselines (mapped, simulated, measured), sensitivities, then assignments of least harm
under latency and energy budgets, each simulated as a network and measured. Every step's result is written when it is
there: an interrupted run leaves tables and plots of what it has, and the same call later goes on from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from bitmosaic._version import __version__
from bitmosaic.accuracy_book import AccuracyBook
from bitmosaic.exploration import MAPPINGS_FILE, POINTS_FILE, Exploration, load_exploration
from bitmosaic.folder import check_folder, default_folder, write_inputs, write_outputs
from bitmosaic.identity import Json, accelerator_identity, content_key, file_sha256, network_identity
from bitmosaic.mapping_book import MappingBook
from bitmosaic.menu import check_fits, check_quantiser, default_menu, read_menu
from bitmosaic.network_points import NetworkPoints
from bitmosaic.progress import Progress, Silent
from bitmosaic.proposals import least_harm
from bitmosaic.records import SENSITIVITY_METHODS, PointRecord, SensitivityMethod, Settings
from bitmosaic.store import RecordFile, sole_writer
from hw_configs import open_machine
from mapper.cache import MODEL_VERSION
from mapper.solution import OBJECTIVES, Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, NetworkError, Problem
from simulator.precision import LayerPrecision
from simulator.tiled import single_tile
from workloads import Network, open_network
from workloads.sensitivity import default_method
from workloads.tasks import Task, find_task
from workloads.tasks.user_inputs import UserInputsTask
from workloads.weight_quantisers import QUANTISERS, Quantiser

DEFAULT_POINTS = 10
DEFAULT_BUDGET = SearchBudget(cpu_seconds=2.0)


class ExplorationInterrupted(KeyboardInterrupt):
    """Ctrl-C during an exploration, after tables and plots of what there is were written: ``exploration``."""

    def __init__(self, exploration: Exploration) -> None:
        super().__init__("interrupted")
        self.exploration = exploration


def explore(
    network: Network | str | Path = "digits_cnn",
    accelerator: Accelerator | str | Path = "bit_fusion",
    *,
    menu: Sequence[str] | None = None,
    objective: Objective = "edp",
    sensitivity: SensitivityMethod | Literal["auto"] = "auto",
    quantiser: Quantiser = "rtn",
    points: int = DEFAULT_POINTS,
    inputs: str | Path | None = None,
    task: Task | None = None,
    results: str | Path | None = None,
    budget: SearchBudget = DEFAULT_BUDGET,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Exploration:
    """Find precision assignments that trade accuracy for latency and energy, and score each of them.

    Args:
        network: a network, a built-in network's name, or the path of an ONNX file.
        accelerator: an accelerator, a preset's name, or the path of a YAML file.
        menu: precisions to choose from, e.g. ``["w8a8", "w4a8"]``; by default five or six that fit the machine.
            The baseline, ``w8a8`` or on machines without integers ``bf16``, is always among them.
        objective: what mappings are searched for: ``latency`` (cycles), ``energy`` (pJ), ``edp`` (pJ·cycles).
        sensitivity: how a layer's harm is rated: ``taylor`` (first order), ``perturbation`` (measured),
            ``weight_error``, ``hessian_trace``, ``bit_entropy`` or ``value_entropy``; ``auto`` takes ``taylor``, or
            ``perturbation`` where an operator of the network has no gradient here.
        quantiser: of the weights, in ratings and in measurements: ``rtn`` (to nearest), ``gptq``, ``gptq_act``, or
            ``dpq`` for a menu of weights that are expanded to floating point.
        points: budgets for which an assignment is sought on each of the two fronts, at least 2.
        inputs: ``.npz`` of arrays to run a network of your own on; accuracy is then agreement with FP32.
        task: data and metric; by default the built-in one of the network. Without data the cost alone is explored.
        results: folder for records, tables and plots; by default ``results/<network>-<accelerator>``.
        budget: CPU seconds and proven gap at which the search for one mapping may stop.
        workers: processes for the search; None: one a core.
        progress: told what is done; by default nobody is.

    Raises:
        BitmosaicError: anything wrong with what was given, with a message for each mistake.
        ExplorationInterrupted: Ctrl-C; what was done is in the folder and in the exception's ``exploration``.
    """
    network = network if isinstance(network, Network) else open_network(network)
    machine = open_machine(accelerator) if isinstance(accelerator, str | Path) else accelerator
    accelerator = single_tile(machine, "explore")
    _check(objective, sensitivity, quantiser, points)
    if accelerator.processing_element.depends_on_values:
        rule = "explore takes no machine whose time depends on values yet; simulate does"
        raise ConfigurationError(Problem(rule, where=f"accelerator {accelerator.name}", path="processing_element"))
    if inputs is not None and network.model is None:
        raise NetworkError(Problem("has no trained weights to run inputs on: leave inputs out", where=network.name))
    precisions = default_menu(accelerator) if menu is None else read_menu(menu, accelerator)
    check_quantiser(quantiser, precisions)
    user_task = task is not None
    if task is None and network.model is not None:
        task = find_task(network) if inputs is None else UserInputsTask(network, inputs)
    folder = default_folder(network, accelerator) if results is None else Path(results)
    check_folder(folder)
    progress = progress or Silent()
    if not (folder / MAPPINGS_FILE).exists():
        check_fits(precisions, accelerator, progress)
    data = None if inputs is None else file_sha256(Path(inputs))
    if user_task and task is not None:
        data = _fingerprint(task)
    subject = content_key(
        "subject", {"network": network_identity(network), "task": task.name if task else None, "data": data}
    )
    context = content_key("context", {
        "subject": subject, "model": MODEL_VERSION,
        "accelerator": accelerator_identity(accelerator), "clock_mhz": accelerator.clock_mhz,
        "objective": objective, "budget": budget.model_dump(mode="json"),
        **({} if quantiser == "rtn" else {"quantiser": quantiser}),
    })
    method, note = _sensitivity(network, sensitivity)
    with sole_writer(folder):
        book = AccuracyBook(network, task, subject, folder, quantiser) if task else None
        settings = Settings(
            network=network.name, network_source=network.source, accelerator=accelerator.name,
            task=task.name if task else None, metric=task.metric if task else None,
            menu=tuple(precision.label for precision in precisions), objective=objective, sensitivity=method,
            sensitivity_note=note, quantiser=quantiser, points=points, cpu_seconds_per_layer=budget.cpu_seconds,
            target_gap=budget.target_gap, context=context,
            subject=subject, fp32_key=book.key({}) if book else None, versions=_versions(),
        )
        write_inputs(folder, network, accelerator, settings, None if inputs is None else Path(inputs))
        run = NetworkPoints(
            network=network, accelerator=accelerator, context=context, accuracy=book,
            mappings=MappingBook(accelerator, objective, budget, folder, workers),
            records=RecordFile(folder / POINTS_FILE, PointRecord), progress=progress, baseline=precisions[0],
        )
        try:
            _score_all(run, book, precisions, method, points)
        except KeyboardInterrupt:
            # Baselines whose layers are all mapped take no time any more.
            ready = [each for each in run.baselines(precisions) if run.mappings.has(run.jobs(each.assignment))]
            run.score("baselines", ready)
            exploration = load_exploration(folder)
            write_outputs(exploration)
            raise ExplorationInterrupted(exploration) from None
        exploration = load_exploration(folder)
        write_outputs(exploration)
        return exploration


def _check(objective: str, sensitivity: str, quantiser: str, points: int) -> None:
    problems = []
    known = {
        "objective": (objective, OBJECTIVES), "sensitivity": (sensitivity, ("auto", *SENSITIVITY_METHODS)),
        "quantiser": (quantiser, QUANTISERS),
    }
    for name, (value, allowed) in known.items():
        if value not in allowed:
            problems.append(Problem("is not known", path=name, value=repr(value), allowed=tuple(allowed)))
    if points < 2:
        problems.append(Problem("must be at least 2: the ends belong to a front", path="points", value=str(points)))
    if problems:
        raise ConfigurationError(problems)


def _sensitivity(
    network: Network, asked: SensitivityMethod | Literal["auto"]
) -> tuple[SensitivityMethod, str]:
    """The method to rate with, and why it is not the default one where that was asked for."""
    if asked != "auto":
        return asked, ""
    if network.model is None or not network.bindings:
        return "taylor", ""  # nothing will be rated
    method, why = default_method(network)
    return ("taylor", "") if method == "taylor" else ("perturbation", why)


def _versions() -> dict[str, str]:
    return {"bitmosaic": __version__, **{name: version(name) for name in ("numpy", "ortools", "onnxruntime")}}


def _fingerprint(task: Task) -> str:
    """Hash of a user's own calibration data."""
    feeds: Json = [
        {name: [str(array.dtype), list(array.shape), array.tobytes().hex()] for name, array in feed.items()}
        for feed in task.calibration_feeds()
    ]
    return content_key("data", feeds)


def _score_all(
    run: NetworkPoints, accuracy: AccuracyBook | None, menu: tuple[LayerPrecision, ...], method: SensitivityMethod,
    points: int,
) -> None:
    if accuracy is None:
        reason = "no trained weights" if run.network.model is None else "no data were given to measure accuracy on"
        run.progress.say(f"{run.network.name}: cost only ({reason})")
    else:
        fp32 = accuracy.measure({})
        run.progress.say(f"{run.network.name} in FP32: {fp32.metric} {100 * fp32.value:.2f} % on {fp32.count} examples")
    baselines = run.baselines(menu)
    run.map(baselines)
    run.score("baselines", baselines)
    if accuracy is None:
        return
    harms = accuracy.harms(menu, method, run.progress)
    mixed = least_harm(run, menu, harms, points)
    run.map(mixed)
    run.score("network points", mixed)
