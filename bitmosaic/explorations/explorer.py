"""The main job: from a trained network and an accelerator to Pareto fronts of cost against measured accuracy.

In order: FP32 and the uniform baselines (mapped, simulated, measured), sensitivities, then assignments of least harm
under latency and energy budgets, each simulated as a network and measured. Every step's result is written when it is
there: an interrupted run leaves tables and plots of what it has, and the same call later goes on from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

from bitmosaic._version import __version__
from bitmosaic.explorations.accuracy_book import AccuracyBook
from bitmosaic.explorations.exploration import Exploration, load_exploration
from bitmosaic.explorations.folder import check_folder, default_folder, write_inputs, write_outputs
from bitmosaic.explorations.job import Job, find_data, open_subject, settings_problems
from bitmosaic.explorations.layer_rules import layer_rules
from bitmosaic.explorations.limits import check_cost_only, check_memory, check_reached, kept_layers, limit_problems
from bitmosaic.explorations.methods import METHOD_NAMES, MethodPlan, flexiq_variant, seada_reading
from bitmosaic.explorations.methods import plan as make_plan
from bitmosaic.explorations.network_points import NetworkPoints
from bitmosaic.explorations.proposals import propose
from bitmosaic.explorations.records import (
    BITS_A_KIB,
    SENSITIVITY_METHODS,
    FlexiqSelection,
    MethodName,
    Minimised,
    PointCount,
    SensitivityMethod,
    Settings,
)
from bitmosaic.explorations.store import sole_writer
from bitmosaic.progress import Progress, chosen_progress
from mapper.solution import Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, Problem
from workloads import Network
from workloads.entropy import BitCode, EntropyScore, EntropyWeight
from workloads.flexiq import Extraction
from workloads.gradients import GRADIENTS
from workloads.tasks import Task
from workloads.vector_jacobian import Gradients
from workloads.weight_quantisers import DEFAULT_QUANTISER, QUANTISERS, Quantiser

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
    gradients: Gradients = "own",
    quantiser: Quantiser | None = None,
    method: MethodName | None = None,
    flexiq_selection: FlexiqSelection | None = None,
    flexiq_extraction: Extraction | None = None,
    flexiq_width: int | None = None,
    seada_codes: BitCode | None = None,
    seada_score: EntropyScore | None = None,
    seada_weight: EntropyWeight | None = None,
    measure_harm: bool | None = None,
    keep_first_last: str | None = None,
    layer_menus: Mapping[str, Sequence[str]] | None = None,
    tied: Sequence[str] = (),
    weight_memory_limit_kib: float | None = None,
    latency_limit_ms: float | None = None,
    energy_limit_uj: float | None = None,
    accuracy_at_least: float | None = None,
    minimise: Minimised = "latency",
    points: PointCount = DEFAULT_POINTS,
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
        gradients: where ``taylor`` and ``hessian_trace`` get theirs: ``own`` rules, or ``torch`` (the extra ``torch``).
        quantiser: of the weights, in ratings and in measurements: ``rtn_least_error`` (to nearest, with scales of
            least error: the default), ``rtn`` (with scales that hold the largest), ``gptq``, ``gptq_act``, or ``dpq``
            for a menu of weights that are expanded to floating point.
        method: a named bundle of these, ``amp``, ``seada``, ``dpq``, ``flexiq`` or ``measured``
            (``bitmosaic.explorations.methods``); arguments that contradict it are refused.
        flexiq_selection: with the method flexiq: ``greedy`` (the default), or ``evolutionary``, which measures up to
            306 selections by the distance of the calibration data's outputs to the 8-bit network's.
        flexiq_extraction: with the same: effective bits of activations are ``static`` (the default), from the
            calibration data, or ``dynamic``, from each example's tensor.
        flexiq_width: with the same: input channels that are lowered together, at least 1; by default as many as the
            grid takes in one step of 4 bits. Layers that have no more are lowered as a whole or not at all.
        seada_codes: with the method seada: entropies of bits of ``sign_magnitude`` (the default) or
            ``twos_complement``.
        seada_score: with the same: entropies of ``operands`` (the default), or of a layer their ``max`` or ``mean``.
        seada_weight: with the same: bits lost count for each of an operand's ``elements`` (the default), of the
            layer's ``parameters`` or ``macs``, or ``one`` time.
        measure_harm: whether harm is measured too, one run a layer and precision, to say how well ratings rank it; by
            default where entropies rate.
        keep_first_last: a precision of the menu that the first and the last trained layer have in every assignment
            but the uniform ones.
        layer_menus: pattern of layers' names (``*``, ``?``, ``[…]``) → precisions of the menu, to choose from for the
            layers that it fits in every assignment but the uniform ones; the first pattern that fits counts.
        tied: patterns; in the same assignments all layers that one of them fits have one precision.
        weight_memory_limit_kib: most memory of trained weights (without scales, in KiB) of the same assignments.
        latency_limit_ms, energy_limit_uj: most that one inference of the chosen point may take, baselines too: the most
            accurate such point is chosen, or with ``accuracy_at_least`` the cheapest such that reaches it.
        accuracy_at_least: 0 … 1; the chosen point is the cheapest that reaches it.
        minimise: what the chosen point costs least of, ``latency``, ``energy`` or ``memory`` of its weights; with
            ``memory`` assignments are sought on the front of harm and memory too.
        points: budgets for which an assignment is sought on each of the two fronts, at least 2; or ``all``: every
            assignment of both fronts of harm and cost (at most ``program_front.MOST_POINTS`` each), each measured.
        inputs: ``.npz`` of arrays to run a network of your own on; accuracy is then agreement with FP32.
        task: data and metric; by default the built-in one of the network. Without data the cost alone is explored.
        results: folder for records, tables and plots; by default ``results/<network>-<accelerator>``.
        budget: CPU seconds and proven gap at which the search for one mapping may stop.
        workers: processes for the search; None: one a core.
        progress: told what is done; by default bars in a notebook, and elsewhere nobody.

    Raises:
        InfeasibleError: no assignment fits into ``weight_memory_limit_kib``; or no point reaches ``accuracy_at_least``,
            with the best there is: then everything is in the results folder all the same.
        BitmosaicError: anything wrong with what was given, with a message for each mistake.
        ExplorationInterrupted: Ctrl-C; what was done is in the folder and in the exception's ``exploration``.
    """
    network, accelerator = open_subject(network, accelerator, "explore")
    problems = settings_problems(objective, points, {
        "sensitivity": (sensitivity, ("auto", *SENSITIVITY_METHODS)),
        "quantiser": (quantiser or DEFAULT_QUANTISER, QUANTISERS),
        "gradients": (gradients, GRADIENTS), "method": (method or "amp", METHOD_NAMES),
        "minimise": (minimise, get_args(Minimised)),
    })
    variant, wrong = flexiq_variant(
        method == "flexiq", accelerator, flexiq_selection, flexiq_extraction, flexiq_width
    )
    problems += wrong
    reading, wrong = seada_reading(method == "seada", seada_codes, seada_score, seada_weight)
    problems += wrong
    limits = {
        "weight_memory_limit_kib": weight_memory_limit_kib, "latency_limit_ms": latency_limit_ms,
        "energy_limit_uj": energy_limit_uj,
    }
    problems += limit_problems(limits, accuracy_at_least)
    if minimise == "memory" and method == "flexiq":
        rule = "contradicts the method flexiq, whose weights take the same memory at every ratio"
        problems.append(Problem(rule, path="minimise", value=minimise))
    if problems:
        raise ConfigurationError(problems)
    asked = {
        "method": method, "sensitivity": sensitivity, "gradients": gradients, "quantiser": quantiser,
        "measure_harm": measure_harm, "keep_first_last": keep_first_last, "layer_menus": layer_menus or None,
        "tied": tied or None, **limits, "accuracy_at_least": accuracy_at_least,
    }
    if network.model is None:
        check_cost_only(network, {**asked, "inputs": inputs, "task": None if task is None else task.name})
    task, data = find_data(network, inputs, task)
    if task is None:
        check_cost_only(network, asked)
    plan = make_plan(
        network, accelerator, method, menu, sensitivity, quantiser, variant, gradients, reading, measure_harm
    )
    kept = kept_layers(network, plan, keep_first_last)
    rules = layer_rules(network, plan, kept, layer_menus or {}, tied)
    folder = default_folder(network, accelerator) if results is None else Path(results)
    check_folder(folder)
    job = Job(network, accelerator, task, data, objective, budget, folder, workers, chosen_progress(progress))
    bits_limit = None if weight_memory_limit_kib is None else int(weight_memory_limit_kib * BITS_A_KIB)
    if task is not None and weight_memory_limit_kib is not None:
        check_memory(network, plan, rules, weight_memory_limit_kib)
    job.check_fits(plan)
    with sole_writer(folder):
        settings = _settings(job, plan, points).model_copy(update={
            "kept": {layer: precision.label for layer, precision in kept.items()}, "weight_bits_limit": bits_limit,
            "layer_menus": {} if not layer_menus else {
                layer: tuple(each.label for each in menu) for layer, menu in rules.menus.items() if layer not in kept
            },
            "tied": rules.tied, "latency_limit_ms": latency_limit_ms, "energy_limit_uj": energy_limit_uj,
            "accuracy_at_least": accuracy_at_least, "minimise": minimise,
        })
        write_inputs(folder, network, accelerator, settings, None if inputs is None else Path(inputs))
        run = job.points(plan, rules, bits_limit)
        try:
            _score_all(run, job.book(plan.quantiser, plan.gradients), plan, settings)
        except KeyboardInterrupt:
            # Baselines whose layers are all mapped take no time any more.
            ready = [each for each in run.baselines(plan.menu) if run.mappings.has(run.jobs(each.assignment))]
            run.score("baselines", ready)
            exploration = load_exploration(folder)
            write_outputs(exploration)
            raise ExplorationInterrupted(exploration) from None
        exploration = load_exploration(folder)
        write_outputs(exploration)
    check_reached(exploration)
    return exploration


def _settings(job: Job, plan: MethodPlan, points: PointCount) -> Settings:
    task, book = job.task, job.book(plan.quantiser, plan.gradients)
    return Settings(
        network=job.network.name, network_source=job.network.source, accelerator=job.accelerator.name,
        task=task.name if task else None, metric=task.metric if task else None,
        menu=tuple(precision.label for precision in plan.menu), objective=job.objective,
        sensitivity=plan.sensitivity, sensitivity_note=plan.note, gradients=plan.gradients, quantiser=plan.quantiser,
        method=plan.method,
        floating=plan.floating.label if plan.floating else None,
        flexiq=plan.flexiq if plan.selection == "channels" else None,
        seada=plan.seada if plan.selection == "entropy" else None,
        points=points, cpu_seconds_per_layer=job.budget.cpu_seconds, target_gap=job.budget.target_gap,
        context=job.context(plan), subject=job.subject, fp32_key=book.key({}) if book else None, versions=_versions(),
    )


def _versions() -> dict[str, str]:
    return {"bitmosaic": __version__, **{name: version(name) for name in ("numpy", "ortools", "onnxruntime")}}


def _score_all(
    run: NetworkPoints, accuracy: AccuracyBook | None, plan: MethodPlan, settings: Settings
) -> None:
    if accuracy is None:
        reason = "no trained weights" if run.network.model is None else "no data were given to measure accuracy on"
        run.progress.say(f"{run.network.name}: cost only ({reason})")
    else:
        fp32 = accuracy.measure({})
        run.progress.say(f"{run.network.name} in FP32: {fp32.metric} {100 * fp32.value:.2f} % on {fp32.count} examples")
    baselines = run.baselines(plan.menu)
    run.map(baselines)
    run.score("baselines", baselines)
    if accuracy is None:
        return
    mixed = propose(run, accuracy, plan, settings.points, settings.minimise)
    run.map(mixed)
    run.score("network points", mixed)
    if plan.measures_harm:
        accuracy.harms(plan.menu, "perturbation", run.progress)
