"""What a sweep's folder holds: one record a task in the tasks' order, whatever order they end in.

``results.jsonl`` has the records and nothing that differs between runs: no times, no machine. A task that ends before
one that stands ahead of it is kept in ``early.jsonl`` meanwhile, so that a killed sweep loses nothing but what was in
flight. ``runs.jsonl`` says what each run did and how long it took; ``failures.txt`` has tracebacks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from bitmosaic.explorations.identity import canonical_json
from bitmosaic.explorations.records import Accuracy
from bitmosaic.explorations.store import Record, RecordFile
from bitmosaic.sweeps.local_pool import Outcome, Status
from bitmosaic.sweeps.tasks import SweepTask, network_name
from simulator.errors import ConfigurationError, Problem
from simulator.layer import Frozen
from simulator.provenance import Confidence

RESULTS_FILE, EARLY_FILE, SWEEP_FILE = "results.jsonl", "early.jsonl", "sweep.yaml"
RUNS_FILE, FAILURES_FILE = "runs.jsonl", "failures.txt"
FAILED: tuple[Status, ...] = ("failed", "timed_out", "killed")


class SweepResult(Frozen):
    """Cost of one inference of a network on a hardware point.

    Attributes:
        energy_by_component_pj: component → pJ; they add up to ``energy_pj``.
        macs: multiply-accumulates of all layers.
        area_mm2: of the machine; None where that of any part is not modelled.
        worst_gap: largest proven gap of any layer's mapping, a fraction.
        unproven_layers: layers whose search ran out of its budget before it reached the gap that was asked for.
        confidence: component of energy → how far its numbers can be trusted; None: not stated.
        not_modelled: what costs energy and is left out of the machine's description, in words.
        accuracy: of the network in the task's precisions, on any machine; None: the sweep measures none.
    """

    total_cycles: int
    latency_ms: float
    energy_pj: float
    energy_by_component_pj: dict[str, float]
    macs: int
    area_mm2: float | None
    worst_gap: float
    unproven_layers: int
    confidence: dict[str, Confidence | None]
    not_modelled: tuple[str, ...]
    accuracy: Accuracy | None = None

    @property
    def accuracy_percent(self) -> float | None:
        """The accuracy in percent, where it is measured."""
        return None if self.accuracy is None else 100.0 * self.accuracy.value

    @model_serializer(mode="wrap")
    def _without_what_is_not_measured(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialise(self)
        if self.accuracy is None:
            del content["accuracy"]  # records of sweeps that measure none are those of earlier releases
        return content


class SweepRecord(Record):
    """What became of a task.

    Attributes:
        key: the task's.
        hardware, fields, network, precision, objective: which task it was, in words (``HardwarePoint``).
        status: ``done``; ``infeasible``: it cannot be done on this machine, and ``errors`` say why; ``failed``: it
            raised ``errors``; ``timed_out``: it was given up; ``killed``: its worker ended under it.
        result: where it is done, else None.
    """

    hardware: str
    fields: dict[str, Any]
    network: str
    precision: str
    objective: str
    status: Status
    errors: tuple[str, ...] = ()
    result: SweepResult | None = None

    @property
    def is_failed(self) -> bool:
        """Whether the task came to no answer, and may come to one when it is tried again."""
        return self.status in FAILED


def record_of(task: SweepTask, outcome: Outcome, accuracy: Accuracy | None = None) -> SweepRecord:
    """The record of a task that ended, with the accuracy of its network in its precisions where that is known."""
    result = None if outcome.value is None else SweepResult.model_validate_json(json.dumps(outcome.value["result"]))
    if result is not None and accuracy is not None:
        result = result.model_copy(update={"accuracy": accuracy})
    return SweepRecord(
        key=task.key, hardware=task.point.hardware, fields=task.point.fields, network=network_name(task.network),
        precision=task.precision, objective=task.objective, status=outcome.status, errors=outcome.errors, result=result,
    )


def read_results(folder: Path) -> RecordFile[SweepRecord]:
    """The records of a sweep's folder. Raises ``ConfigurationError`` where there is none, or it is damaged."""
    path = folder / RESULTS_FILE
    if not path.is_file():
        rule = f"is no results folder of a sweep: it has no {RESULTS_FILE}"
        raise ConfigurationError(Problem(rule, where=str(folder)))
    return read_records(folder)


def read_records(folder: Path) -> RecordFile[SweepRecord]:
    """The records of a folder; none where there is no results file yet. Raises ``ConfigurationError`` as above."""
    return RecordFile(folder / RESULTS_FILE, SweepRecord, last_counts=True)


class ResultsWriter:
    """Writes records in the order of the tasks that are to be done. Hold the folder (``sole_writer``) meanwhile.

    Args:
        folder: the results folder.
        tasks: all tasks of the sweep, in their order.
        retry_failed: whether tasks that failed are to be done again.
    """

    def __init__(self, folder: Path, tasks: Sequence[SweepTask], retry_failed: bool) -> None:
        self._records = read_records(folder)
        self._early = RecordFile(folder / EARLY_FILE, SweepRecord, last_counts=True)
        self.torn_files = tuple(file.path for file in (self._records, self._early) if file.is_torn)
        self._retry_failed = retry_failed
        self._order: list[str] = []
        self._ended: dict[str, SweepRecord] = {}
        self._next = 0
        self.todo = self._without_record(tasks)
        """Tasks without a record, and failed ones that are to be done again."""
        keys = {task.key for task in tasks}
        for record in self._early:
            if record.key not in keys and record.key not in self._records:
                self._records.append(record)  # of tasks that the sweep had before it was changed
        self._advance()

    def _without_record(self, tasks: Sequence[SweepTask]) -> tuple[SweepTask, ...]:
        todo = []
        for task in tasks:
            known, early = self._records.get(task.key), self._early.get(task.key)
            if early is not None and early != known:
                self._order.append(task.key)
                self._ended[task.key] = early
            elif known is None or (self._retry_failed and known.is_failed):
                self._order.append(task.key)
                todo.append(task)
        return tuple(todo)

    def extend(self, tasks: Sequence[SweepTask]) -> None:
        """Go on with tasks that come behind the others, all of which have ended; ``todo`` is of them alone."""
        if self._next < len(self._order):
            raise ValueError("tasks before these have not ended")
        # The file is gone by now, and with it a torn line that would have been cut off.
        self._early = RecordFile(self._early.path, SweepRecord, last_counts=True)
        self.todo = self._without_record(tasks)
        self._advance()

    def get(self, key: str) -> SweepRecord | None:
        """The record of a task, where it has its place in the results."""
        return self._records.get(key)

    def add(self, record: SweepRecord) -> None:
        """Keep a record at once; it moves to its place when all before it are there."""
        self._ended[record.key] = record
        if self._order[self._next] != record.key:
            self._early.append(record)
        self._advance()

    def _advance(self) -> None:
        while self._next < len(self._order) and self._order[self._next] in self._ended:
            self._records.append(self._ended.pop(self._order[self._next]))
            self._next += 1
        if self._next == len(self._order):
            self._early.path.unlink(missing_ok=True)

    def __iter__(self) -> Iterator[SweepRecord]:
        return iter(self._records)


def write_results(folder: Path, records: Iterable[SweepRecord]) -> None:
    """Write a results file anew, whole or not at all."""
    temporary = folder / (RESULTS_FILE + ".tmp")
    with temporary.open("wb") as file:
        for record in records:
            file.write(canonical_json(record.model_dump(mode="json")).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / RESULTS_FILE)


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Add a line of JSON to a file of what runs did."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, ensure_ascii=False) + "\n")


def merged(sources: Iterable[tuple[Path, Iterable[SweepRecord]]]) -> dict[str, SweepRecord]:
    """Records of several folders by key, in the order of their first; one that is done counts before one that failed.

    Raises ``ConfigurationError`` where two folders answer the same task differently: one of them is damaged, or its
    searches ran out of time at other places.
    """
    found: dict[str, tuple[Path, SweepRecord]] = {}
    problems = []
    for folder, records in sources:
        for record in records:
            there = found.get(record.key)
            if there is None or (there[1].is_failed and not record.is_failed):
                found[record.key] = (folder, record)
            elif not record.is_failed and record.result != there[1].result:
                problems.append(
                    Problem(f"has another result than {there[0]} for the same task", where=str(folder), path=record.key)
                )
    if problems:
        raise ConfigurationError(problems)
    return {key: record for key, (_, record) in found.items()}
