"""The main job: from a trained network and an accelerator to Pareto fronts of cost against measured accuracy.

In order: FP32 and the uniform baselines (mapped, simulated, measured), sensitivities, then assignments of least harm
under latency and energy budgets, each simulated as a network and measured. Every step's result is written when it is
there: an interrupted run leaves tables and plots of what it has, and the same call later goes on from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from bitmosaic._version import __version__
from bitmosaic.accuracy_book import AccuracyBook, Assignment
from bitmosaic.exploration import MAPPINGS_FILE, POINTS_FILE, CostAxis, Exploration, load_exploration
from bitmosaic.folder import check_folder, default_folder, write_inputs, write_outputs
from bitmosaic.identity import Json, accelerator_identity, content_key, file_sha256, network_identity
from bitmosaic.mapping_book import MappingBook
from bitmosaic.menu import BASELINE, check_fits, default_menu, for_layer, read_menu
from bitmosaic.progress import Progress, Silent
from bitmosaic.records import (
    SENSITIVITY_METHODS,
    Origin,
    PointRecord,
    SensitivityMethod,
    Settings,
    layer_row,
    vector_rows,
)
from bitmosaic.store import RecordFile, sole_writer
from hw_configs import open_machine
from mapper.assignment import Choice, assignment_front
from mapper.cache import MODEL_VERSION
from mapper.network import network_precisions, simulate_network
from mapper.solution import OBJECTIVES, Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, NetworkError, Problem
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from simulator.tiled import single_tile
from workloads import Network, open_network
from workloads.sensitivity import default_method
from workloads.tasks import Task, find_task
from workloads.tasks.user_inputs import UserInputsTask

DEFAULT_POINTS = 10
DEFAULT_BUDGET = SearchBudget(cpu_seconds=2.0)
AXES: tuple[CostAxis, ...] = ("latency", "energy")


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
            ``w8a8``, the baseline, is always among them.
        objective: what mappings are searched for: ``latency`` (cycles), ``energy`` (pJ), ``edp`` (pJ·cycles).
        sensitivity: how a layer's harm is rated: ``taylor`` (first order), ``perturbation`` (measured),
            ``weight_error``, ``hessian_trace``, ``bit_entropy`` or ``value_entropy``; ``auto`` takes ``taylor``, or
            ``perturbation`` where an operator of the network has no gradient here.
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
    _check(objective, sensitivity, points)
    if accelerator.processing_element.depends_on_values:
        rule = "explore takes no machine whose time depends on values yet; simulate does"
        raise ConfigurationError(Problem(rule, where=f"accelerator {accelerator.name}", path="processing_element"))
    if inputs is not None and network.model is None:
        raise NetworkError(Problem("has no trained weights to run inputs on: leave inputs out", where=network.name))
    precisions = default_menu(accelerator) if menu is None else read_menu(menu, accelerator)
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
    })
    method, note = _sensitivity(network, sensitivity)
    with sole_writer(folder):
        book = AccuracyBook(network, task, subject, folder) if task else None
        settings = Settings(
            network=network.name, network_source=network.source, accelerator=accelerator.name,
            task=task.name if task else None, metric=task.metric if task else None,
            menu=tuple(precision.label for precision in precisions), objective=objective, sensitivity=method,
            sensitivity_note=note, points=points, cpu_seconds_per_layer=budget.cpu_seconds,
            target_gap=budget.target_gap, context=context,
            subject=subject, fp32_key=book.key({}) if book else None, versions=_versions(),
        )
        write_inputs(folder, network, accelerator, settings, None if inputs is None else Path(inputs))
        run = _Run(
            network=network, accelerator=accelerator, context=context, accuracy=book,
            mappings=MappingBook(accelerator, objective, budget, folder, workers),
            records=RecordFile(folder / POINTS_FILE, PointRecord), progress=progress,
        )
        try:
            _score_all(run, precisions, method, points)
        except KeyboardInterrupt:
            # Baselines whose layers are all mapped take no time any more.
            ready = [each for each in _baselines(run, precisions) if run.mappings.has(_jobs(run, each[0]))]
            _score(run, "baselines", ready)
            exploration = load_exploration(folder)
            write_outputs(exploration)
            raise ExplorationInterrupted(exploration) from None
        exploration = load_exploration(folder)
        write_outputs(exploration)
        return exploration


def _check(objective: str, sensitivity: str, points: int) -> None:
    problems = []
    known = {"objective": (objective, OBJECTIVES), "sensitivity": (sensitivity, ("auto", *SENSITIVITY_METHODS))}
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


# An assignment, what proposed it, and the precision of a uniform baseline.
_Proposal = tuple[Assignment, Origin, str | None]


@dataclass(frozen=True)
class _Run:
    """What every step of an exploration works with."""

    network: Network
    accelerator: Accelerator
    context: str
    accuracy: AccuracyBook | None
    mappings: MappingBook
    records: RecordFile[PointRecord]
    progress: Progress

    def uniform(self, precision: LayerPrecision) -> dict[str, LayerPrecision]:
        """Every layer in one precision; products of two activations in the activations' format."""
        return {layer.name: for_layer(layer, precision) for layer in self.network.layers}

    def point_key(self, assignment: Assignment) -> str:
        """Key of a network point."""
        formats: Json = {name: precision.model_dump(mode="json") for name, precision in assignment.items()}
        return content_key("point", {"context": self.context, "assignment": formats})

    def mixed(self, labels: Mapping[str, str], menu: Sequence[LayerPrecision]) -> dict[str, LayerPrecision]:
        """Trained layers as assigned, products of two activations in the baseline."""
        by_label = {precision.label: precision for precision in menu}
        return {
            layer.name: by_label[labels[layer.name]] if layer.name in labels else for_layer(layer, BASELINE)
            for layer in self.network.layers
        }


def _score_all(run: _Run, menu: tuple[LayerPrecision, ...], method: SensitivityMethod, points: int) -> None:
    if run.accuracy is None:
        reason = "no trained weights" if run.network.model is None else "no data were given to measure accuracy on"
        run.progress.say(f"{run.network.name}: cost only ({reason})")
    else:
        fp32 = run.accuracy.measure({})
        run.progress.say(f"{run.network.name} in FP32: {fp32.metric} {100 * fp32.value:.2f} % on {fp32.count} examples")
    baselines = _baselines(run, menu)
    _map(run, baselines)
    _score(run, "baselines", baselines)
    if run.accuracy is None:
        return
    harms = run.accuracy.harms(menu, method, run.progress)
    proposals: dict[tuple[tuple[str, str], ...], CostAxis] = {}
    for axis in AXES:
        for found in assignment_front(_choices(run, menu, harms, axis), points=points):
            proposals.setdefault(tuple(found.labels.items()), axis)
    mixed: list[_Proposal] = [(run.mixed(dict(labels), menu), axis, None) for labels, axis in proposals.items()]
    _map(run, mixed)
    _score(run, "network points", mixed)


def _baselines(run: _Run, menu: Sequence[LayerPrecision]) -> list[_Proposal]:
    return [(run.uniform(precision), "uniform", precision.label) for precision in menu]


def _jobs(run: _Run, assignment: Assignment) -> list[tuple[Layer, LayerPrecision]]:
    precisions = network_precisions(run.network, assignment)
    return [(layer, precisions[layer.name]) for layer in run.network.layers]


def _choices(
    run: _Run, menu: Sequence[LayerPrecision], harms: Mapping[tuple[str, str], float], axis: CostAxis
) -> dict[str, list[Choice]]:
    """What each rated layer can run in: its cost on one axis (cycles or pJ), harm, and bits of its weights."""
    rated = {layer for layer, _ in harms}
    choices: dict[str, list[Choice]] = {layer.name: [] for layer in run.network.layers if layer.name in rated}
    for precision in menu:
        for layer, exact in _jobs(run, run.uniform(precision)):
            harm = harms.get((layer.name, precision.label), math.inf)
            if layer.name not in rated or (math.isinf(harm) and precision != BASELINE):
                continue
            result = run.mappings.solution(layer, exact).result
            cost = float(result.total_cycles) if axis == "latency" else result.total_energy_pj
            bits = layer.weight_count * precision.weight.bits
            choices[layer.name].append(Choice(precision.label, cost, min(harm, 1e30), bits))
    return choices


def _map(run: _Run, proposals: Sequence[_Proposal]) -> None:
    """Map the layers of the points that are not in the folder yet."""
    new = [assignment for assignment, _, _ in proposals if run.point_key(assignment) not in run.records]
    run.mappings.solve([job for assignment in new for job in _jobs(run, assignment)], run.progress)


def _score(run: _Run, stage: str, proposals: Sequence[_Proposal]) -> None:
    """Simulate and measure the points that are not in the folder yet; their layers are mapped."""
    new = {run.point_key(proposal[0]): proposal for proposal in proposals}
    new = {key: proposal for key, proposal in new.items() if key not in run.records}
    for number, (key, (assignment, origin, uniform)) in enumerate(new.items()):
        run.progress.update(stage, number, len(new))
        run.records.append(_point(run, key, assignment, origin, uniform))
    if new:
        run.progress.update(stage, len(new), len(new))


def _point(run: _Run, key: str, assignment: Assignment, origin: Origin, uniform: str | None) -> PointRecord:
    jobs = _jobs(run, assignment)
    solutions = {layer.name: run.mappings.solution(layer, precision) for layer, precision in jobs}
    exact = {layer.name: precision for layer, precision in jobs}
    result = simulate_network(run.network, run.accelerator, exact, solutions)
    accuracy = None
    if run.accuracy is not None:
        bound = {name: precision for name, precision in assignment.items() if name in run.network.bindings}
        accuracy = run.accuracy.measure(bound)
    return PointRecord(
        key=key, context=run.context, origin=origin, uniform=uniform,
        assignment={name: precision.label for name, precision in assignment.items()},
        total_cycles=result.total_cycles, latency_ms=result.latency_ms, energy_pj=result.total_energy_pj,
        accuracy=accuracy,
        layers=tuple(
            layer_row(layer, assignment[layer.layer].label, solutions[layer.layer]) for layer in result.layers
        ),
        vector=vector_rows(result), confidence=result.confidence, not_modelled=result.not_modelled,
    )
