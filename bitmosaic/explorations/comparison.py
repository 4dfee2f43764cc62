"""Methods and trivial baselines side by side: what each proposes for a network on a machine, simulated and measured.

A *family* is what one of them proposed: a method's points, the uniform precisions, the layers of most weights first,
or the layers in a random order. All families share the records of one results folder, so that nothing is mapped or
measured twice, and a comparison goes on where it was interrupted. ``load_comparison`` reads the folder alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from bitmosaic._version import __version__
from bitmosaic.explorations.exploration import (
    COMPARISON_FILE,
    FAMILIES_FILE,
    POINTS_FILE,
    SENSITIVITY_FILE,
    CostAxis,
    Point,
    rated_harms,
)
from bitmosaic.explorations.exploration import pareto_front as front_of
from bitmosaic.explorations.explorer import DEFAULT_BUDGET
from bitmosaic.explorations.folder import check_folder, default_folder, write_file, write_subject
from bitmosaic.explorations.identity import Json, content_key
from bitmosaic.explorations.job import Job, find_data, open_subject, settings_problems
from bitmosaic.explorations.methods import METHOD_NAMES, METHODS, MethodPlan, check_method, flexiq_variant
from bitmosaic.explorations.methods import plan as make_plan
from bitmosaic.explorations.network_points import NetworkPoints, Proposal
from bitmosaic.explorations.proposals import at_random, largest_first, propose
from bitmosaic.explorations.rank_correlation import rank_correlations
from bitmosaic.explorations.records import (
    BY_GRADIENTS,
    ComparisonSettings,
    FamilyRecord,
    FlexiqSelection,
    FlexiqVariant,
    HarmRecord,
    MethodName,
    PointCount,
    PointRecord,
    Ratings,
)
from bitmosaic.explorations.store import RecordFile, sole_writer
from bitmosaic.progress import Progress, chosen_progress
from mapper.solution import Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.errors import BitmosaicError, ConfigurationError, NetworkError, Problem
from simulator.shown import Shown
from workloads import Network
from workloads.flexiq import Extraction
from workloads.gradients import check_gradients
from workloads.tasks import Task
from workloads.vector_jacobian import Gradients
from workloads.weight_quantisers import DEFAULT_QUANTISER, QUANTISERS, Quantiser

UNIFORM, LARGEST_FIRST, RANDOM = "uniform", "largest first", "random"
DEFAULT_POINTS, DEFAULT_SEEDS = 6, 3


@dataclass(frozen=True)
class Family:
    """The points of one method or baseline; those of several orders drawn at random are one family each."""

    name: str
    quantiser: str
    points: tuple[Point, ...]

    @property
    def kind(self) -> str:
        """The name without the seed: what shares a colour."""
        return RANDOM if self.name.startswith(f"{RANDOM} ") else self.name


@dataclass(frozen=True)
class Comparison(Shown):
    """Families of points of one network on one machine, as they stand in a results folder.

    ``correlations``: method → precision → rank correlation over the layers of its ratings with measured harm
    (``rank_correlations``, empty where these are too few), of the methods that rate layers otherwise than by measuring,
    where harm was measured.
    """

    folder: Path
    settings: ComparisonSettings
    families: tuple[Family, ...]
    correlations: dict[str, dict[str, float | None]] = field(default_factory=dict)

    @property
    def points(self) -> tuple[Point, ...]:
        """The points of all families, each once."""
        return tuple({point.record.key: point for family in self.families for point in family.points}.values())

    def front(self, axis: CostAxis) -> frozenset[str]:
        """Keys of the points that none of any family beats in cost and accuracy both; of equal ones all."""
        points = [point for family in self.families for point in family.points]
        best = {(each.cost(axis), each.record.accuracy_percent) for each in front_of(points, axis)}
        return frozenset(
            each.record.key for each in points if (each.cost(axis), each.record.accuracy_percent) in best
        )

    def cheapest(self, family: Family, axis: CostAxis, accuracy_loss: float) -> Point | None:
        """A family's cheapest point within an absolute loss (0 … 1) of FP32; None where it has none."""
        floor = 100.0 * (self.settings.fp32 - accuracy_loss) - 1e-9
        good = [point for point in family.points if point.record.accuracy_percent >= floor]
        return min(good, key=lambda point: point.cost(axis), default=None)


class ComparisonInterrupted(KeyboardInterrupt):
    """Ctrl-C during a comparison: what was done is in ``folder``, and the same call goes on from there."""

    def __init__(self, folder: Path) -> None:
        super().__init__("interrupted")
        self.folder = folder


def compare(
    network: Network | str | Path = "digits_cnn",
    accelerator: Accelerator | str | Path = "bit_fusion",
    *,
    methods: Sequence[MethodName] | None = None,
    menu: Sequence[str] | None = None,
    objective: Objective = "edp",
    quantiser: Quantiser | None = None,
    flexiq_selection: FlexiqSelection | None = None,
    flexiq_extraction: Extraction | None = None,
    flexiq_width: int | None = None,
    gradients: Gradients = "own",
    measure_harm: bool | None = None,
    points: PointCount = DEFAULT_POINTS,
    seeds: int = DEFAULT_SEEDS,
    inputs: str | Path | None = None,
    task: Task | None = None,
    results: str | Path | None = None,
    budget: SearchBudget = DEFAULT_BUDGET,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Run methods and baselines on one network and machine, and gather all their points.

    Args:
        methods: names of ``bitmosaic.explorations.methods``; None: all that the machine takes. One that is named and
            that the machine does not take is an error.
        menu: of the baselines and of methods that leave it open.
        quantiser: of weights, for baselines and for methods that leave it open; by default ``rtn_least_error``.
        flexiq_selection, flexiq_extraction, flexiq_width: of the method flexiq, as of ``explore``; refused where it
            does not run.
        gradients: of the methods that read them, as of ``explore``; ``torch`` is refused where none of them does.
        measure_harm: whether harm is measured too, one run a layer and precision, to say how well methods rate it; by
            default for those that rate by entropies. Where the method ``measured`` has measured it already, that is
            said in any case.
        points: budgets for each front of a method, or ``all``, as of ``explore``.
        seeds: random orders of layers.
        results: the folder, by default ``results/<network>-<accelerator>-comparison``.

    Other arguments as of ``explore``. Raises ``NetworkError`` where there is nothing to measure, what ``explore``
    raises, and ``ComparisonInterrupted`` at Ctrl-C.
    """
    network, accelerator = open_subject(network, accelerator, "compare")
    problems = settings_problems(objective, points, {"quantiser": (quantiser or DEFAULT_QUANTISER, QUANTISERS)})
    is_asked = methods is None or "flexiq" in methods
    variant, wrong = flexiq_variant(is_asked, accelerator, flexiq_selection, flexiq_extraction, flexiq_width)
    problems += wrong
    if seeds < 0:
        problems.append(Problem("must be at least 0", path="seeds", value=str(seeds)))
    if problems:
        raise ConfigurationError(problems)
    task, data = find_data(network, inputs, task)
    if task is None:
        reason = "no trained weights" if network.model is None else "no data to measure on: give --inputs"
        raise NetworkError(Problem(f"cannot be compared by accuracy: it has {reason}", where=network.name))
    plain = make_plan(network, accelerator, None, menu, "auto", quantiser)
    check_gradients(gradients)
    plans, skipped = _plans(network, accelerator, methods, menu, quantiser, variant, gradients, measure_harm)
    if measure_harm and not any(each.measures_harm for each in plans):
        rule = "is for methods that rate harm, and none of these does: " + ", ".join(str(each.method) for each in plans)
        raise ConfigurationError(Problem(rule, path="measure_harm", value="True"))
    if gradients != "own" and not any(each.gradients == gradients for each in plans):
        rule = "are read by none of the methods " + ", ".join(str(each.method) for each in plans)
        raise ConfigurationError(Problem(rule, path="gradients", value=gradients))
    given = {"flexiq_selection": flexiq_selection, "flexiq_extraction": flexiq_extraction,
             "flexiq_width": flexiq_width}
    if "flexiq" in skipped and any(given.values()):
        rule = f"is for the method flexiq, which is left out: {skipped['flexiq']}"
        raise ConfigurationError([Problem(rule, path=path, value=str(value)) for path, value in given.items() if value])
    folder = _default_folder(network, accelerator) if results is None else Path(results)
    check_folder(folder)
    job = Job(network, accelerator, task, data, objective, budget, folder, workers, chosen_progress(progress))
    for each in (plain, *plans):
        job.check_fits(each)
    with sole_writer(folder):
        write_subject(folder, network, accelerator, None if inputs is None else Path(inputs))
        try:
            _run(job, plain, plans, points, seeds, skipped)
        except KeyboardInterrupt:
            raise ComparisonInterrupted(folder) from None
    return load_comparison(folder)


def _default_folder(network: Network, accelerator: Accelerator) -> Path:
    """Not that of ``explore``, whose tables would show the baselines' points too."""
    folder = default_folder(network, accelerator)
    return folder.with_name(f"{folder.name}-comparison")


def _plans(
    network: Network, accelerator: Accelerator, methods: Sequence[MethodName] | None, menu: Sequence[str] | None,
    quantiser: Quantiser | None, variant: FlexiqVariant, gradients: Gradients, measure_harm: bool | None,
) -> tuple[list[MethodPlan], dict[str, str]]:
    """The plans of methods, and of those that nobody named why they cannot run here."""
    plans: list[MethodPlan] = []
    skipped: dict[str, str] = {}
    problems: list[Problem] = []
    for name in METHOD_NAMES if methods is None else dict.fromkeys(methods):
        try:
            check_method(name)
            method = METHODS[name]
            own_menu = None if method.selection == "channels" else menu
            own = quantiser if quantiser in method.quantisers else None
            read = gradients if BY_GRADIENTS.intersection(method.sensitivities[:1]) else "own"
            measured = measure_harm if method.sensitivities else None
            plans.append(make_plan(
                network, accelerator, name, own_menu, "auto", own, variant, read, measure_harm=measured
            ))
        except BitmosaicError as error:
            if methods is not None:
                problems += error.problems
            skipped[name] = str(error.problems[0])
    if problems:
        raise ConfigurationError(problems)
    return plans, skipped


def _run(
    job: Job, plain: MethodPlan, plans: Sequence[MethodPlan], points: PointCount, seeds: int, skipped: dict[str, str],
) -> None:
    book = job.book("rtn")
    assert book is not None and job.task is not None
    fp32 = book.measure({})
    job.progress.say(f"{job.network.name} in FP32: {fp32.metric} {100 * fp32.value:.2f} % on {fp32.count} examples")
    families = RecordFile(job.folder / FAMILIES_FILE, FamilyRecord)
    run = job.points(plain)
    keys = [_family(job, families, UNIFORM, plain, {}, lambda: run.baselines(plain.menu))]
    keys.append(_family(job, families, LARGEST_FIRST, plain, {}, lambda: largest_first(run, plain.menu)))
    for seed in range(seeds):
        def shuffled(seed: int = seed) -> list[Proposal]:
            return at_random(run, plain.menu, seed)

        keys.append(_family(job, families, f"{RANDOM} {seed}", plain, {"seed": seed}, shuffled))
    for plan in plans:
        assert plan.method is not None

        def proposed(plan: MethodPlan = plan) -> list[Proposal]:
            own, own_book = job.points(plan), job.book(plan.quantiser, plan.gradients)
            assert own_book is not None
            baselines = own.baselines(plan.menu)
            _score(own, "baselines", baselines)
            return [*baselines, *propose(own, own_book, plan, points)]

        asked: dict[str, Json] = {"points": points, "sensitivity": plan.sensitivity}
        if plan.gradients != "own":
            asked["gradients"] = plan.gradients
        if plan.selection == "subgraphs":
            asked["program"] = "subgraphs"  # families of before it was are others
        keys.append(_family(job, families, plan.method, plan, asked, proposed))
    rating = [plan for plan in plans if plan.selection != "channels"]
    for plan in plans:
        if not plan.measures_harm:
            continue
        own_book = job.book(plan.quantiser)
        assert own_book is not None
        own_book.harms(plan.menu, "perturbation", job.progress)
    settings = ComparisonSettings(
        network=job.network.name, accelerator=job.accelerator.name, metric=fp32.metric, examples=fp32.count,
        fp32=fp32.value, menu=tuple(each.label for each in plain.menu), objective=job.objective, points=points,
        seeds=seeds, families=tuple(keys), skipped=skipped, subject=job.subject,
        ratings={plan.method: _ratings(plan) for plan in rating if plan.method is not None},
        cpu_seconds_per_layer=job.budget.cpu_seconds, target_gap=job.budget.target_gap,
        versions={"bitmosaic": __version__, "onnxruntime": version("onnxruntime"), "ortools": version("ortools")},
    )
    write_file(job.folder / COMPARISON_FILE, (json.dumps(settings.model_dump(mode="json"), indent=2) + "\n").encode())


def _ratings(plan: MethodPlan) -> Ratings:
    return Ratings(
        sensitivity=plan.sensitivity, quantiser=plan.quantiser, menu=tuple(each.label for each in plan.menu),
        gradients=plan.gradients,
    )


def _family(
    job: Job, families: RecordFile[FamilyRecord], name: str, plan: MethodPlan, asked: dict[str, Json],
    proposed: Callable[[], list[Proposal]],
) -> str:
    """Score what a family proposes, unless it is written down already. Returns the record's key."""
    key = content_key("family", {
        "context": job.context(plan), "family": name, "menu": [each.label for each in plan.menu], **asked,
    })
    if key not in families:
        run, proposals = job.points(plan), proposed()
        _score(run, f"points of {name}", proposals)
        keys = dict.fromkeys(run.key(each.assignment) for each in proposals)
        quantiser = plan.flexiq.label if plan.selection == "channels" else plan.quantiser
        families.append(FamilyRecord(key=key, family=name, quantiser=quantiser, points=tuple(keys)))
    return key


def _score(run: NetworkPoints, stage: str, proposals: Sequence[Proposal]) -> None:
    run.map(proposals)
    run.score(stage, proposals)


def load_comparison(folder: str | Path) -> Comparison:
    """Read the comparison of a results folder. Raises ``ConfigurationError`` where there is none, or it is damaged."""
    folder = Path(folder)
    path = folder / COMPARISON_FILE
    try:
        settings = ComparisonSettings.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        rule = f"holds no comparison: it has no {COMPARISON_FILE}"
        raise ConfigurationError(Problem(rule, where=str(folder))) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(Problem(first["msg"], where=str(path), path=place)) from error
    records = RecordFile(folder / POINTS_FILE, PointRecord)
    found = RecordFile(folder / FAMILIES_FILE, FamilyRecord)
    families = []
    for key in settings.families:
        family = found.get(key)
        if family is None:
            raise ConfigurationError(Problem("lacks a family of the comparison; compare again",
                                             where=str(folder / FAMILIES_FILE), value=key))
        points = []
        for number, record in enumerate(map(records.get, family.points), start=1):
            if record is not None:
                points.append(Point(record.uniform or f"{family.family} {number}", record))
        families.append(Family(family.family, family.quantiser, tuple(points)))
    return Comparison(folder, settings, tuple(families), _correlations(folder, settings))


def _correlations(folder: Path, settings: ComparisonSettings) -> dict[str, dict[str, float | None]]:
    """How well each method rates layers, as far as it was measured."""
    records = RecordFile(folder / SENSITIVITY_FILE, HarmRecord)
    found = {}
    for method, ratings in settings.ratings.items():
        if ratings.sensitivity == "perturbation":
            continue
        own = rated_harms(records, settings.subject, ratings.sensitivity, ratings.quantiser, ratings.gradients)
        measured = rated_harms(records, settings.subject, "perturbation", ratings.quantiser)
        if measured:
            found[method] = rank_correlations(own, measured, ratings.menu)
    return found
