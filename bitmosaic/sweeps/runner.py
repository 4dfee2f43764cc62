"""Run a sweep into its folder, go on where a killed one stopped, and put folders together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from bitmosaic._version import __version__
from bitmosaic.explorations.store import RecordFile, sole_writer
from bitmosaic.progress import Progress, chosen_progress
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
    read_results,
    record_of,
    write_results,
)
from bitmosaic.sweeps.tasks import Expansion, SweepTask, expand
from simulator.errors import ConfigurationError, Problem

PREPARE = "bitmosaic.sweeps.evaluate"


class Pool(Protocol):
    """What makes many calls at once: ``LocalPool``, ``DaskPool``. Closing the iterator ends all that is under way."""

    def outcomes(self, calls: Sequence[Call]) -> Generator[tuple[int, Outcome], None, None]:
        """Number of each call and what became of it, in the order in which they end."""


@dataclass(frozen=True)
class SweepStatus:
    """How far a sweep is.

    Attributes:
        task_count, point_count, left_out: as of ``Expansion``.
        counts: status → tasks of the sweep that have it.
        others: records of tasks that are not, or no longer, of the sweep.
    """

    task_count: int
    point_count: int
    left_out: dict[str, int]
    counts: dict[Status, int]
    others: int = 0

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

    Raises ``ConfigurationError`` where another run writes to the folder, or what is in it is no sweep's.
    ``KeyboardInterrupt`` passes through; what has ended by then is kept.
    """
    progress = chosen_progress(progress)
    tasks = shard_of(expansion.tasks, shard)
    with sole_writer(folder):
        _write_description(folder, expansion.description)
        writer = ResultsWriter(folder, tasks, retry_failed)
        for path in writer.torn_files:
            progress.say(f"{path}: the last line was torn when a run ended; it is cut off and its task done again")
        todo = writer.todo
        if todo:
            _run(todo, len(tasks) - len(todo), folder, writer, pool, progress)
    return sweep_status(expansion, folder, tasks)


def _run(
    todo: Sequence[SweepTask], done: int, folder: Path, writer: ResultsWriter, pool: Pool, progress: Progress
) -> None:
    total = done + len(todo)
    spent = {"cpu_seconds": 0.0, "search_seconds": 0.0, "searches": 0.0}
    statuses: Counter[str] = Counter()
    started, began, own = datetime.now(UTC), time.monotonic(), time.process_time()
    progress.update("sweep", done, total)
    try:
        with closing(pool.outcomes([(evaluate, (task,)) for task in todo])) as outcomes:
            for number, outcome in outcomes:
                task = todo[number]
                writer.add(record_of(task, outcome))
                done += 1
                statuses[outcome.status] += 1
                spent["cpu_seconds"] += outcome.cpu_seconds
                for name, amount in outcome.value["statistics"].items() if outcome.value else ():
                    spent[name] += amount
                if outcome.status in FAILED:
                    progress.say(f"{outcome.status.replace('_', ' ')}: {task.label}: {'; '.join(outcome.errors)}")
                    _note_failure(folder, task, outcome)
                progress.update("sweep", done, total)
    finally:
        append_line(folder / RUNS_FILE, {
            "version": __version__, "started": started.isoformat(timespec="seconds"),
            "wall_seconds": round(time.monotonic() - began, 3),
            "cpu_seconds": round(spent["cpu_seconds"], 3), "search_cpu_seconds": round(spent["search_seconds"], 3),
            "searches": int(spent["searches"]),
            "sweep_cpu_seconds": round(time.process_time() - own, 3),
            "tasks": len(todo), "ended": dict(statuses),
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
    counted = expansion.tasks if tasks is None else tuple(tasks)
    path = folder / RESULTS_FILE
    records = RecordFile(path, SweepRecord, last_counts=True)
    found = [record for task in counted if (record := records.get(task.key)) is not None]
    keys = {task.key for task in expansion.tasks}
    return SweepStatus(
        len(counted), expansion.point_count, expansion.left_out, dict(Counter(record.status for record in found)),
        sum(record.key not in keys for record in records),
    )


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
            order = dict.fromkeys([*(task.key for task in expand(files[0]).tasks if task.key in records), *records])
        write_results(target, [records[key] for key in order])
    return len(order)


def _all_records(folder: Path) -> list[SweepRecord]:
    """A folder's records, those that wait for their place too."""
    return [*read_results(folder), *RecordFile(folder / EARLY_FILE, SweepRecord, last_counts=True)]
