"""``bitmosaic map``: mappings of a layer or a network's layers, searched for or read from a file, shown and written."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from bitmosaic.explorations.menu import for_layer, problems_of
from bitmosaic.layer_spec import find_layers
from bitmosaic.mapping_files import check_mapping, dump_mapping, load_constraints, load_mapping
from bitmosaic.progress import Progress
from bitmosaic.views.text_tables import OBJECTIVE_UNIT, new_table, number_text
from hw_configs import open_accelerator
from mapper.cache import MappingCache, problem_key
from mapper.constraints import MappingConstraints, Wishes
from mapper.front import FrontInterrupted, MappingFront, map_front
from mapper.network import MappingJob, map_many, network_precisions, renamed
from mapper.planned_steps import planned_machine, planned_step_cycles
from mapper.solution import MappingSolution, Objective, SearchBudget, SearchInterrupted, objective_cost
from simulator.accelerator import Accelerator
from simulator.engine import simulate
from simulator.errors import ConfigurationError, PrecisionError, Problem
from simulator.layer import Layer
from simulator.nest_text import nest_text
from simulator.precision import LayerPrecision
from simulator.result import LayerResult

Show = Callable[[RenderableType], None]


@dataclass(frozen=True)
class MappingRequest:
    """What is to be mapped, and how.

    Attributes:
        subject, hardware: as the user named them, for the commands that files mention.
        precisions: layer → the precision that it is mapped in, with the output format that its readers take.
        out: the folder for mappings in YAML; None: none are written.
    """

    subject: str
    hardware: str
    precision: str
    layers: tuple[Layer, ...]
    precisions: dict[str, LayerPrecision]
    accelerator: Accelerator
    objective: Objective
    wishes: Wishes
    budget: SearchBudget
    out: Path | None

    def file_of(self, layer: Layer) -> str:
        """The name of a layer's file; layers whose names look alike there are numbered."""
        name = _file_name(layer.name)
        alike = [each.name for each in self.layers if _file_name(each.name) == name]
        return f"{name}.yaml" if len(alike) == 1 else f"{name}-{alike.index(layer.name) + 1}.yaml"

    def only_layer(self, option: str) -> Layer:
        """The one layer that an option needs. Raises ``ConfigurationError`` where there are more."""
        if len(self.layers) != 1:
            raise ConfigurationError(
                Problem(f"is for one layer, and {self.subject} has {len(self.layers)}; name one as NETWORK:LAYER",
                        path=option, allowed=tuple(layer.name for layer in self.layers))
            )
        return self.layers[0]


@dataclass(frozen=True)
class MappingsFound:
    """Layers with their solutions; after Ctrl-C those that there were, the last of them perhaps unfinished."""

    solutions: dict[str, MappingSolution]
    interrupted: bool


def open_request(
    subject: str, hardware: str, precision: str, objective: Objective,
    input_shapes: Mapping[str, tuple[int, ...]] | None, constraints: Path | None, latency_limit_cycles: int | None,
    energy_limit_pj: float | None, budget: SearchBudget, out: Path | None,
) -> MappingRequest:
    """Open all that a search needs. Raises a ``BitmosaicError`` where something of it is wrong."""
    accelerator = open_accelerator(hardware)
    wanted = LayerPrecision.parse(precision)
    problems = problems_of(wanted, accelerator)
    if problems:
        raise PrecisionError(problems)
    narrowed = MappingConstraints() if constraints is None else load_constraints(constraints)
    network, layers = find_layers(subject, input_shapes)
    if network is None:
        precisions = {layer.name: for_layer(layer, wanted) for layer in layers}
    else:
        precisions = network_precisions(network, {layer.name: for_layer(layer, wanted) for layer in network.layers})
    return MappingRequest(
        subject, hardware, precision, layers, precisions, accelerator, objective,
        Wishes(narrowed, latency_limit_cycles, energy_limit_pj), budget, out,
    )


class _FilingCache(MappingCache):
    """The user's cache; what is found in it or put into it is remembered, and written for every layer it is of."""

    def __init__(self, request: MappingRequest) -> None:
        super().__init__()
        self.request = request
        self.solutions: dict[str, MappingSolution] = {}
        self.layers: dict[str, list[Layer]] = {}
        for layer in request.layers:
            key = problem_key(layer, request.precisions[layer.name], request.accelerator, request.objective,
                              request.budget, request.wishes)
            self.layers.setdefault(key, []).append(layer)

    def get(self, key: str) -> MappingSolution | None:
        """Return the solution of a problem, or None."""
        solution = super().get(key)
        if solution is not None:
            self._file(key, solution)
        return solution

    def put(self, key: str, solution: MappingSolution) -> None:
        """Keep a solution."""
        super().put(key, solution)
        self._file(key, solution)

    def _file(self, key: str, solution: MappingSolution) -> None:
        for layer in self.layers[key]:
            self.solutions[layer.name] = renamed(solution, layer)
            write(self.request, self.solutions[layer.name])


def search(request: MappingRequest, workers: int, progress: Progress) -> MappingsFound:
    """Find the mappings. Each is written as soon as it is there; Ctrl-C ends the search, and keeps what there is."""
    cache = _FilingCache(request)
    jobs = [MappingJob(layer, request.precisions[layer.name]) for layer in request.layers]
    interrupted = False
    try:
        map_many(
            jobs, request.accelerator, request.objective, budget=request.budget, wishes=request.wishes, cache=cache,
            workers=workers, progress=lambda done, total: progress.update("mapping", done, total),
        )
    except SearchInterrupted as interrupt:
        for solution in interrupt.solutions:
            cache.solutions[solution.layer.name] = solution
            write(request, solution)
        interrupted = True
    except KeyboardInterrupt:
        if not cache.solutions:
            raise
        interrupted = True
    found = {layer.name: cache.solutions[layer.name] for layer in request.layers if layer.name in cache.solutions}
    return MappingsFound(found, interrupted)


def simulate_file(request: MappingRequest, path: Path, show: Show, *, front: bool = False) -> LayerResult:
    """Simulate the mapping in a file, and show its nest and cost.

    Raises ``ConfigurationError`` where the file is wrong, or something of a search is asked for beside it,
    ``MappingError`` where its mapping does not fit.
    """
    layer = request.only_layer("--from")
    wishes = request.wishes
    given = {
        "--out": None if request.out is None else repr(str(request.out)), "--front": "" if front else None,
        "--latency-limit": wishes.latency_limit_cycles, "--energy-limit": wishes.energy_limit_pj,
        "--constraints": "" if wishes.constraints != MappingConstraints() else None,
    }
    problems = [
        Problem("the mapping is given: nothing is searched for, limited, or written (not together with --from)",
                path=option, value=str(value))
        for option, value in given.items() if value is not None
    ]
    if problems:
        raise ConfigurationError(problems)
    precision = request.precisions[layer.name]
    machine = planned_machine(request.accelerator, precision)
    mapping = load_mapping(path)
    check_mapping(path, mapping, layer, precision, machine)
    result = simulate(layer, precision, machine, mapping)
    show(Text(nest_text(layer, precision, machine, mapping)))
    show(Text(f"\n{_cost_line(result)}\n{cost_text(objective_cost(result, request.objective), request.objective)}, "
              "simulated; nothing was searched for"))
    if machine != request.accelerator:
        cycles = planned_step_cycles(machine, precision)
        show(Text(f"Time depends on values here: every step is taken at {cycles} cycles, as in a search"))
    return result


def show(request: MappingRequest, found: MappingsFound, show_one: Show) -> None:
    """Show what was found: a table, the space, and of one layer its loop nest."""
    unit = OBJECTIVE_UNIT[request.objective]
    if len(request.layers) == 1:
        for solution in found.solutions.values():
            machine = planned_machine(request.accelerator, solution.precision)
            show_one(Text(nest_text(solution.layer, solution.precision, machine, solution.mapping) + "\n"))
            show_one(Text(solution_text(solution)))
    else:
        where = f"in {request.precision} on {request.accelerator.name}"
        table = new_table(f"{request.subject} {where}: {request.objective}")
        table.add_column("layer", overflow="fold")
        for heading in (f"cost ({unit})", f"bound ({unit})", "gap (%)", "cycles", "energy (nJ)", "seconds"):
            table.add_column(heading, justify="right")
        table.add_column("status")
        table.add_column("mapping", overflow="fold")
        for name, solution in found.solutions.items():
            table.add_row(
                name, number_text(solution.cost), number_text(solution.lower_bound), f"{100 * solution.gap:.4g}",
                f"{solution.result.total_cycles:,}", number_text(solution.result.total_energy_pj / 1e3),
                f"{solution.solve_seconds:.1f}", solution.status, solution.mapping.describe(),
            )
        missing = len(request.layers) - len(found.solutions)
        notes = [f"{missing} of {len(request.layers)} layers were not mapped"] if missing else []
        spaces = sorted({solution.space for solution in found.solutions.values()})
        notes += sorted({terms_text(each.model_version, each.result) for each in found.solutions.values()})
        show_one(Group(table, *(Text(note) for note in [*notes, *(f"Space: {space}" for space in spaces)])))
    if request.out is not None and found.solutions:
        show_one(Text(f"Mappings: {request.out}"))


def show_front(request: MappingRequest, show_one: Show) -> bool:
    """Find and show a layer's front of latency and energy, write its mappings. Returns whether it was interrupted."""
    layer = request.only_layer("--front")
    limits = {"--latency-limit": request.wishes.latency_limit_cycles, "--energy-limit": request.wishes.energy_limit_pj}
    for option, value in limits.items():
        if value is not None:
            raise ConfigurationError(Problem("a front has every limit in it", path=option, value=str(value)))
    interrupted = False
    try:
        front = map_front(layer, request.precisions[layer.name], request.accelerator, budget=request.budget,
                          constraints=request.wishes.constraints)
    except FrontInterrupted as interrupt:
        front, interrupted = interrupt.front, True
    table = new_table(f"{layer.name} in {request.precision} on {request.accelerator.name}: latency and energy")
    table.add_column("point", justify="right")
    for heading in ("cycles", "bound (cycles)", "energy (pJ)", "bound (pJ)", "gap (%)"):
        table.add_column(heading, justify="right")
    table.add_column("mapping", overflow="fold")
    for number, point in enumerate(front.points, start=1):
        table.add_row(
            str(number), f"{point.latency_cycles:,}", f"{point.latency_lower_bound_cycles:,.0f}",
            f"{point.energy_pj:,.1f}", f"{point.energy_lower_bound_pj:,.1f}", f"{100 * point.gap:.2f}",
            point.mapping.describe(),
        )
    show_one(table)
    show_one(Text(f"{'All points, proven' if front.complete else 'Not complete, or not proven'}; "
                  f"{front.solve_seconds:.1f} CPU seconds\n"
                  f"{terms_text(front.model_version, front.points[0].result)}\nSpace: {front.space}"))
    _write_front(request, front)
    return interrupted


def _write_front(request: MappingRequest, front: MappingFront) -> None:
    if request.out is None:
        return
    request.out.mkdir(parents=True, exist_ok=True)
    machine = planned_machine(request.accelerator, front.precision)
    for number, point in enumerate(front.points, start=1):
        name = f"{_file_name(front.layer.name)}-{number}.yaml"
        comment = f"{nest_text(front.layer, front.precision, machine, point.mapping)}\n\n{_cost_line(point.result)}"
        (request.out / name).write_text(dump_mapping(point.mapping, comment), encoding="utf-8")


def write(request: MappingRequest, solution: MappingSolution) -> None:
    """Write a solution's mapping to the request's folder, with its nest, its proof and how to simulate it again."""
    if request.out is None:
        return
    layer = solution.layer
    path = request.out / request.file_of(layer)
    subject = request.subject
    if len(request.layers) > 1:
        subject = f"{request.subject}:{layer.name}"
    command = shlex.join([
        "bitmosaic", "map", subject, "--hardware", request.hardware, "--precision", request.precision, "--objective",
        request.objective, "--from", str(path),
    ])
    machine = planned_machine(request.accelerator, solution.precision)
    nest = nest_text(layer, solution.precision, machine, solution.mapping)
    comment = f"{nest}\n\n{solution_text(solution)}\n\nEdit what is below, and simulate it:\n{command}"
    request.out.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_mapping(solution.mapping, comment), encoding="utf-8")


def solution_text(solution: MappingSolution) -> str:
    """Cost, bound, gap, status and space of a solution, some lines."""
    objective = solution.objective
    limits = [
        text for text, limit in (
            (f"within {solution.latency_limit_cycles:,} cycles" if solution.latency_limit_cycles else "",
             solution.latency_limit_cycles),
            (f"within {solution.energy_limit_pj:,.6g} pJ" if solution.energy_limit_pj else "",
             solution.energy_limit_pj),
        ) if limit
    ]
    return "\n".join([
        _cost_line(solution.result),
        ", ".join([cost_text(solution.cost, objective), *limits,
                   f"no mapping of the space costs less than {number_text(solution.lower_bound)}: {solution.status}",
                   f"gap {100 * solution.gap:.4g} %"]),
        f"{solution.proposals:,} mappings simulated, {solution.solve_seconds:.1f} CPU seconds",
        terms_text(solution.model_version, solution.result),
        f"Space: {solution.space}",
    ])


def terms_text(model_version: int | None, result: LayerResult) -> str:
    """What a certificate is of, beside its space: the version of the model and the engine that counted."""
    version = "of an unknown version" if model_version is None else f"version {model_version}"
    return f"Model of machines and proofs: {version}; costs by the {result.engine} engine"


def cost_text(cost: float, objective: Objective) -> str:
    """A cost with the objective's name and unit."""
    return f"{objective} {number_text(cost)} {OBJECTIVE_UNIT[objective]}"


def _cost_line(result: LayerResult) -> str:
    parts = (
        f"{result.compute_cycles:,} compute, {result.fill_drain_cycles:,} fill and drain, "
        f"{sum(result.stall_cycles.values()):,} waiting"
    )
    return f"{result.total_cycles:,} cycles ({parts}), {number_text(result.total_energy_pj)} pJ"


def _file_name(layer: str) -> str:
    """A layer's name as the name of a file."""
    return re.sub(r"[^\w.-]+", "_", layer).strip("._") or "layer"
