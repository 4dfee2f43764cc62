"""The mappings of an exploration: from the results folder, else searched for and written there.

Equal layers are solved once. Each solution is written to the folder, and to the user's cache, as soon as it is there:
an interrupted exploration loses only the searches in flight.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bitmosaic.explorations.exploration import MAPPINGS_FILE
from bitmosaic.explorations.records import MappingRecord
from bitmosaic.explorations.store import RecordFile
from bitmosaic.progress import Progress
from mapper.cache import MappingCache, problem_key
from mapper.network import MappingJob, map_many
from mapper.solution import MappingSolution, Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.layer import Layer
from simulator.precision import LayerPrecision

Job = tuple[Layer, LayerPrecision]


class _RecordingCache(MappingCache):
    """The user's cache; what is found in it or put into it is recorded in the results folder too."""

    def __init__(self, records: RecordFile[MappingRecord]) -> None:
        super().__init__()
        self._records = records

    def get(self, key: str) -> MappingSolution | None:
        """Return the solution of a problem, or None."""
        solution = super().get(key)
        if solution is not None:
            self._records.append(MappingRecord(key=key, solution=solution))
        return solution

    def put(self, key: str, solution: MappingSolution) -> None:
        """Keep a solution."""
        super().put(key, solution)
        self._records.append(MappingRecord(key=key, solution=solution))


class MappingBook:
    """Solutions by layer and precision for one accelerator, ``objective`` and budget."""

    def __init__(
        self,
        accelerator: Accelerator,
        objective: Objective,
        budget: SearchBudget,
        folder: Path,
        workers: int | None,
    ) -> None:
        self._accelerator = accelerator
        self.objective: Objective = objective
        self._budget = budget
        self._workers = workers
        self._records = RecordFile(folder / MAPPINGS_FILE, MappingRecord)

    def _key(self, job: Job) -> str:
        return problem_key(*job, self._accelerator, self.objective, self._budget)

    def has(self, jobs: Iterable[Job]) -> bool:
        """Whether all jobs are solved."""
        return all(self._key(job) in self._records for job in jobs)

    def solve(self, jobs: Iterable[Job], progress: Progress) -> None:
        """Find the mappings that are missing. Raises ``InfeasibleError`` where there is none."""
        missing = {key: job for key, job in ((self._key(job), job) for job in jobs) if key not in self._records}
        if not missing:
            return
        map_many(
            [MappingJob(layer, precision) for layer, precision in missing.values()], self._accelerator,
            self.objective, budget=self._budget, cache=_RecordingCache(self._records), workers=self._workers,
            progress=lambda done, total: progress.update("mapping", done, total),
        )

    def solution(self, layer: Layer, precision: LayerPrecision) -> MappingSolution:
        """Return the mapping of a layer in a precision that was solved."""
        record = self._records.get(self._key((layer, precision)))
        assert record is not None, f"{layer.name} in {precision.label} was not mapped"
        return record.solution
