"""Run a sweep into its folder, go on where a killed one stopped, and put folders together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, Self

from bitmosaic._version import __version__
from bitmosaic.explorations.store import RecordFile, sole_writer
from bitmosaic.progress import Progress, chosen_progress
from bitmosaic.sweeps.accuracy import Accuracies, measure_policies
from bitmosaic.sweeps.description import SweepDescription, dump_sweep
from bitmosaic.sweeps.evaluate import evaluate
from bitmosaic.sweeps.local_pool import Call, LocalPool, Outcome, Status
from bitmosaic.sweeps.results import (
    EARLY_FILE,
    FAILED,
    FAILURES_FILE,
    RESULTS_FILE,
    RUNS_FILE,
    SWEEP_FILE,
    ResultsWriter,
    SweepRecord,
    append_line,
    merged,
    read_records,
    read_results,
    record_of,
    write_results,
)
from bitmosaic.sweeps.sampling import Search, drawn_so_far, optuna_package, replay
from bitmosaic.sweeps.tasks import Expansion, SweepTask, expand, opened_network
from simulator.errors import ConfigurationError, Problem

PREPARE = "bitmosaic.sweeps.evaluate"


class Pool(Protocol):
    """What makes many calls at once: ``LocalPool``, ``DaskPool``. Closing the iterator ends all that is under way."""

    def outcomes(self, calls: Sequence[Call]) -> Generator[tuple[int, Outcome], None, None]:
        """Number of each call and what became of it, in the order in which they end."""


@dataclass(frozen=True)
class Drawn:
    """What a sampled sweep has drawn, in points.

    Attributes:
        drawn, planned: so far, and in all.
        repeated: of those drawn, points that had been drawn before.
        costless: of those drawn, points of which a task ended without a result: the sampler learns nothing of them.
    """

    drawn: int
    planned: int
    repeated: int
    costless: int

    @classmethod
    def of(cls, search: Search) -> Self:
        """What a search has drawn."""
        return cls(search.draw_count, search.sampling.points, search.repeated_count, search.costless_count)


@dataclass(frozen=True)
class SweepStatus:
    """How far a sweep is.

    Attributes:
        task_count, point_count, left_out: as of ``Expansion``.
        counts: status → tasks of the sweep that have it.
        others: records of tasks that are not, or no longer, of the sweep.
        drawn: where the sweep samples, what was drawn; tasks and points are those drawn so far.
    """

    task_count: int
    point_count: int
    left_out: dict[str, int]
    counts: dict[Status, int]
    others: int = 0
    drawn: Drawn | None = None

    @property
    def left(self) -> int:
        """Tasks without a record."""
        return self.task_count - sum(self.counts.values())

    @property
    def failed(self) -> int:
        """Tasks that came to no answer."""
        return sum(self.counts.get(status, 0) for status in FAILED)


def local_pool(description: SweepDescription, workers: int | None = None) -> LocalPool:
    """Processes of this machine, with the sweep's time limit."""
    return LocalPool(workers, description.task_seconds, PREPARE)


def shard_of(tasks: Sequence[SweepTask], shard: tuple[int, int] | None) -> tuple[SweepTask, ...]:
    """The tasks of one of several shares, ``(2, 4)`` being the second of four: every fourth one.

    >>> shard_of("abcdefg", (2, 3))
    ('b', 'e')
    """
    if shard is None:
        return tuple(tasks)
    number, count = shard
    if not 1 <= number <= count:
        raise ConfigurationError(Problem("must be I/N with 1 ≤ I ≤ N", path="shard", value=f"{number}/{count}"))
    return tuple(tasks[number - 1 :: count])


def run_sweep(
    expansion: Expansion,
    folder: Path,
    pool: Pool,
    *,
    retry_failed: bool = False,
    shard: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> SweepStatus:
    """Do the tasks that have no record yet; with ``retry_failed`` also those that failed.

    Raises ``ConfigurationError`` where another run writes to the folder, what is in it is no sweep's, or a sampled
    sweep is to be shared; ``MissingPackageError`` where one is to be run without the extra. ``KeyboardInterrupt``
    passes through; what has ended by then is kept.
    """
    progress = chosen_progress(progress)
    if shard is not None and expansion.space is not None:
        rule = "a sampled sweep has no shares: which points it draws depends on what all those before cost"
        raise ConfigurationError(Problem(rule, path="shard", value="{}/{}".format(*shard)))
    if expansion.space is not None:
        optuna_package()
    tasks = shard_of(expansion.tasks, shard)
    with sole_writer(folder):
        _write_description(folder, expansion.description)
        search = None
        if expansion.space is not None:
            search = replay(expansion, read_records(folder), retry_failed=retry_failed)
            tasks = tuple(search.tasks.values())
        writer = ResultsWriter(folder, tasks, retry_failed)
        for path in writer.torn_files:
            progress.say(f"{path}: the last line was torn when a run ended; it is cut off and its task done again")
        accuracies: Accuracies = {}
        if expansion.description.accuracy and (writer.todo or (search is not None and search.generation)):
            networks = {name: opened_network(name) for name in expansion.description.networks}
            accuracies = measure_policies(networks, expansion.policies, folder, progress)
        if search is not None:
            _run_search(search, folder, writer, pool, progress, accuracies)
        elif writer.todo:
            with _Run(folder, writer, pool, progress, len(tasks) - len(writer.todo), accuracies) as run:
                run.do(writer.todo, len(tasks))
    return sweep_status(expansion, folder, tasks) if search is None else _status_of(search.drawn(), folder, search)


def _run_search(
    search: Search, folder: Path, writer: ResultsWriter, pool: Pool, progress: Progress, accuracies: Accuracies
) -> None:
    """Do what is left of a generation, tell the sampler, and go on with the next one."""
    if not search.generation:
        return
    with _Run(folder, writer, pool, progress, len(search.tasks) - len(writer.todo), accuracies) as run:
        while True:
            if writer.todo:
                run.do(writer.todo, search.most_tasks)
            search.learn(writer)
            if search.is_drawn:
                return
            writer.extend(search.draw())


class _Run:
    """What one run of a sweep does; when it ends, however it ends, a line of ``runs.jsonl`` says what that was."""

    def __init__(
        self, folder: Path, writer: ResultsWriter, pool: Pool, progress: Progress, done: int, accuracies: Accuracies
    ) -> None:
        self._folder, self._writer, self._pool, self._progress = folder, writer, pool, progress
        self._done, self._accuracies = done, accuracies
        self._asked = 0
        self._spent = {"cpu_seconds": 0.0, "search_seconds": 0.0, "searches": 0.0}
        self._statuses: Counter[str] = Counter()
        self._started, self._began, self._own = datetime.now(UTC), time.monotonic(), time.process_time()

    def __enter__(self) -> Self:
        return self

    def do(self, todo: Sequence[SweepTask], total: int) -> None:
        """Do tasks; ``total``: how many the sweep has, as far as is known."""
        self._asked += len(todo)
        self._progress.update("sweep", self._done, total)
        with closing(self._pool.outcomes([(evaluate, (task,)) for task in todo])) as outcomes:
            for number, outcome in outcomes:
                task = todo[number]
                self._writer.add(record_of(task, outcome, self._accuracies.get((task.network, task.precision))))
                self._done += 1
                self._statuses[outcome.status] += 1
                self._spent["cpu_seconds"] += outcome.cpu_seconds
                for name, amount in outcome.value["statistics"].items() if outcome.value else ():
                    self._spent[name] += amount
                if outcome.status in FAILED:
                    words = f"{outcome.status.replace('_', ' ')}: {task.label}: {'; '.join(outcome.errors)}"
                    self._progress.say(words)
                    _note_failure(self._folder, task, outcome)
                self._progress.update("sweep", self._done, total)

    def __exit__(self, *_: object) -> None:
        spent = self._spent
        append_line(self._folder / RUNS_FILE, {
            "version": __version__, "started": self._started.isoformat(timespec="seconds"),
            "wall_seconds": round(time.monotonic() - self._began, 3),
            "cpu_seconds": round(spent["cpu_seconds"], 3), "search_cpu_seconds": round(spent["search_seconds"], 3),
            "searches": int(spent["searches"]),
            "sweep_cpu_seconds": round(time.process_time() - self._own, 3),
            "tasks": self._asked, "ended": dict(self._statuses),
        })


def _note_failure(folder: Path, task: SweepTask, outcome: Outcome) -> None:
    with (folder / FAILURES_FILE).open("a", encoding="utf-8") as file:
        text = outcome.detail or "\n".join(outcome.errors)
        file.write(f"{task.label}\n{task.key}\n{outcome.status}\n{text.rstrip()}\n\n")


def _write_description(folder: Path, description: SweepDescription) -> None:
    path, text = folder / SWEEP_FILE, dump_sweep(description)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def sweep_status(expansion: Expansion, folder: Path, tasks: Sequence[SweepTask] | None = None) -> SweepStatus:
    """How far a sweep is, from its folder; ``tasks``: those that count, by default all."""
    if expansion.space is None:
        return _status_of(expansion, folder, tasks=tasks)
    search = replay(expansion, read_records(folder))
    return _status_of(search.drawn(), folder, search)


def _status_of(
    expansion: Expansion, folder: Path, search: Search | None = None, tasks: Sequence[SweepTask] | None = None
) -> SweepStatus:
    records = read_records(folder)
    counted = expansion.tasks if tasks is None else tuple(tasks)
    found = [record for task in counted if (record := records.get(task.key)) is not None]
    keys = {task.key for task in expansion.tasks}
    return SweepStatus(
        len(counted), expansion.point_count, expansion.left_out, dict(Counter(record.status for record in found)),
        sum(record.key not in keys for record in records), None if search is None else Drawn.of(search),
    )


def open_expansion(folder: Path) -> Expansion:
    """The sweep of a folder; one that samples has the tasks drawn so far.

    Raises ``ConfigurationError`` where there is none, ``MissingPackageError`` where it samples without the extra.
    """
    path = folder / SWEEP_FILE
    if not path.is_file():
        raise ConfigurationError(Problem(f"is no results folder of a sweep: it has no {SWEEP_FILE}", where=str(folder)))
    return drawn_so_far(expand(path), read_records(folder))


def open_status(folder: Path) -> SweepStatus:
    """How far the sweep of a folder is. Raises ``ConfigurationError`` where there is none."""
    path = folder / SWEEP_FILE
    if not path.is_file():
        raise ConfigurationError(Problem(f"is no results folder of a sweep: it has no {SWEEP_FILE}", where=str(folder)))
    return sweep_status(expand(path), folder)


def merge_sweeps(sources: Sequence[Path], target: Path) -> int:
    """Put the records of several folders into one, which may be one of them. Returns how many there are.

    Where all are of the same sweep, they stand in the order of its tasks: shares of a sweep give the same bytes as the
    whole. Raises ``ConfigurationError`` where two folders answer a task differently.
    """
    with sole_writer(target):
        folders = [*dict.fromkeys([*sources, *([target] if (target / RESULTS_FILE).exists() else [])])]
        records = merged([(folder, _all_records(folder)) for folder in folders])
        files = [folder / SWEEP_FILE for folder in folders if (folder / SWEEP_FILE).is_file()]
        order = dict.fromkeys(records)
        if len({file.read_bytes() for file in files}) == 1:
            if files[0] != target / SWEEP_FILE:
                (target / SWEEP_FILE).write_bytes(files[0].read_bytes())
            tasks = drawn_so_far(expand(files[0]), records).tasks
            order = dict.fromkeys([*(task.key for task in tasks if task.key in records), *records])
        write_results(target, [records[key] for key in order])
    return len(order)


def _all_records(folder: Path) -> list[SweepRecord]:
    """A folder's records, those that wait for their place too."""
    return [*read_results(folder), *RecordFile(folder / EARLY_FILE, SweepRecord, last_counts=True)]
