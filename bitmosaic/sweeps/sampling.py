"""Sampled search: Optuna draws hardware points, a generation at a time, and learns from what those before cost.

A search has no state of its own. The sampler is seeded once and told the points' costs in the order of their drawing,
so the records in a results folder, in whatever order they came about, give back the same draws (``drawn_so_far``): a
killed search goes on as if nothing had happened. Needs the extra ``sampling``.
"""

from __future__ import annotations

import importlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from bitmosaic.sweeps.description import Sampling
from bitmosaic.sweeps.points import HardwarePoint
from bitmosaic.sweeps.results import SweepRecord
from bitmosaic.sweeps.space import Space
from bitmosaic.sweeps.tasks import Expansion, SweepTask, tasks_of
from simulator.errors import MissingPackageError, Problem

Costs = tuple[float, ...]


class Records(Protocol):
    """Records by the keys of their tasks: ``RecordFile``, a mapping."""

    def get(self, key: str, /) -> SweepRecord | None:
        """The record of a task, or None."""


class Draws:
    """Draws choices from a space; tell it what each cost before it draws the next generation.

    Raises ``MissingPackageError`` without the extra.
    """

    def __init__(self, space: Space, sampling: Sampling) -> None:
        self._optuna = optuna_package()
        self._open: list[Any] = []
        distributions = self._optuna.distributions
        self._parameters = {
            parameter.name: distributions.IntDistribution(0, parameter.choice_count - 1) if parameter.is_ordered
            else distributions.CategoricalDistribution(tuple(range(parameter.choice_count)))
            for parameter in space.parameters
        }
        with _silent(self._optuna):
            self._study = self._optuna.create_study(
                directions=["minimize"] * len(sampling.minimise) + ["maximize"] * len(sampling.maximise),
                sampler=_sampler(self._optuna, sampling),
            )

    def ask(self, count: int) -> list[dict[str, int]]:
        """Draw ``count`` choices: parameter → number."""
        with _silent(self._optuna):
            self._open = [self._study.ask(self._parameters) for _ in range(count)]
        return [dict(trial.params) for trial in self._open]

    def tell(self, costs: Iterable[Costs | None]) -> None:
        """Say what each of the choices cost, in their order; None: there is no such point, or it has no costs."""
        failed = self._optuna.trial.TrialState.FAIL
        with _silent(self._optuna):
            for trial, values in zip(self._open, costs, strict=True):
                if values is None:
                    self._study.tell(trial, state=failed)
                else:
                    self._study.tell(trial, values)


class Draw(NamedTuple):
    """A point that was drawn, or why there is none (a limit's name, ``NOT_BUILT``), and its tasks."""

    point: HardwarePoint | str
    tasks: tuple[SweepTask, ...] = ()


@dataclass
class Search:
    """A sampled search under way: what was drawn so far, generation after generation.

    Attributes:
        tasks: key → task of every point drawn, in the order of drawing; equal ones are one task.
        draw_count: points drawn, of ``sampling.points``.
        repeated_count: of them, those whose tasks had all been drawn before.
        costless_count: of them, those of which a task ended without a result.
        left_out: limit or ``NOT_BUILT`` → number of points drawn that are none for this reason.
        generation: the last one, whose costs have not been told.
    """

    expansion: Expansion
    tasks: dict[str, SweepTask] = field(default_factory=dict)
    draw_count: int = 0
    repeated_count: int = 0
    costless_count: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    generation: tuple[Draw, ...] = ()

    def __post_init__(self) -> None:
        self._draws = Draws(self._space, self.sampling)

    @property
    def sampling(self) -> Sampling:
        """How is drawn."""
        sampling = self.expansion.description.sampling
        assert sampling is not None
        return sampling

    @property
    def _space(self) -> Space:
        assert self.expansion.space is not None
        return self.expansion.space

    @property
    def is_drawn(self) -> bool:
        """Whether all points are drawn."""
        return self.draw_count == self.sampling.points

    @property
    def most_tasks(self) -> int:
        """Tasks drawn, and as many as those points can have that are not drawn yet."""
        description = self.expansion.description
        policies = len(description.networks) if self._space.precisions else len(self.expansion.policies)
        a_point = policies * len(description.objectives)
        return len(self.tasks) + a_point * (self.sampling.points - self.draw_count)

    @property
    def point_count(self) -> int:
        """Different points drawn, within the limits."""
        return self.draw_count - self.repeated_count - self.left_out.total()

    def draw(self) -> tuple[SweepTask, ...]:
        """Draw the next generation. Returns its tasks that no point before had."""
        count = min(self.sampling.generation, self.sampling.points - self.draw_count)
        generation = []
        fresh: dict[str, SweepTask] = {}
        for choices in self._draws.ask(count):
            point = self._space.point(choices)
            if isinstance(point, str):
                self.left_out[point] += 1
                generation.append(Draw(point))
                continue
            wanted = self._space.precision(choices)
            policies = {key: asked for key, asked in self.expansion.policies.items() if wanted in (None, key[1])}
            tasks = tuple(tasks_of(point, policies, self.expansion.description))
            new = {task.key: task for task in tasks if task.key not in self.tasks}
            self.repeated_count += not new
            fresh |= new
            self.tasks |= new
            generation.append(Draw(point, tasks))
        self.draw_count += count
        self.generation = tuple(generation)
        return tuple(fresh.values())

    def learn(self, records: Records) -> None:
        """Tell the sampler what the last generation cost. All its tasks must have records."""
        costs = [point_costs(draw, records, self.sampling) for draw in self.generation]
        self.costless_count += sum(
            cost is None and bool(draw.tasks) for cost, draw in zip(costs, self.generation, strict=True)
        )
        self._draws.tell(costs)
        self.generation = ()

    def drawn(self) -> Expansion:
        """The sweep with the tasks drawn so far."""
        return replace(
            self.expansion, tasks=tuple(self.tasks.values()), point_count=self.point_count, left_out=dict(self.left_out)
        )


def replay(expansion: Expansion, records: Records, *, retry_failed: bool = False) -> Search:
    """The search as the records know it: up to the first generation of which a task has none, or to the end.

    With ``retry_failed`` up to the first of which a task failed, too.
    """
    search = Search(expansion)
    while not search.is_drawn:
        found = [records.get(task.key) for task in search.draw()]
        if any(record is None or (retry_failed and record.is_failed) for record in found):
            break
        search.learn(records)
    return search


def drawn_so_far(expansion: Expansion, records: Records) -> Expansion:
    """A sampled sweep with the tasks of all points that its records have led to; another sweep as it is."""
    return expansion if expansion.space is None else replay(expansion, records).drawn()


def point_costs(draw: Draw, records: Records, sampling: Sampling) -> Costs | None:
    """What a point's tasks cost: geometric means, then of accuracies in percent the arithmetic one.

    None where it is no point, or not all of its tasks have all of them.
    """
    results = [record.result if (record := records.get(task.key)) else None for task in draw.tasks]
    found = []
    for name in (*sampling.minimise, *sampling.maximise):
        amounts = [None if result is None else getattr(result, name) for result in results]
        if not amounts or any(amount is None for amount in amounts):
            return None
        known = [float(amount) for amount in amounts if amount is not None]
        found.append(math.fsum(known) / len(known) if name == "accuracy_percent" else _geometric_mean(known))
    return tuple(found)


def _geometric_mean(amounts: list[float]) -> float:
    if min(amounts) <= 0.0:
        return 0.0
    return math.exp(math.fsum(math.log(amount) for amount in amounts) / len(amounts))


def _sampler(optuna: Any, sampling: Sampling) -> Any:
    samplers = optuna.samplers
    if sampling.sampler == "nsga2":
        return samplers.NSGAIISampler(population_size=sampling.generation, seed=sampling.seed)
    if sampling.sampler == "tpe":
        # Points of one generation are drawn before any is costed: the liar keeps them apart.
        return samplers.TPESampler(seed=sampling.seed, constant_liar=True)
    return samplers.RandomSampler(seed=sampling.seed)


@contextmanager
def _silent(optuna: Any) -> Iterator[None]:
    """Optuna says nothing meanwhile; afterwards it is as it was."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def optuna_package() -> Any:
    """The package that draws. Raises ``MissingPackageError`` without the extra."""
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise MissingPackageError(
            Problem("is needed for sampled sweeps: pip install 'bitmosaic[sampling]'", path="package", value="optuna")
        ) from error
