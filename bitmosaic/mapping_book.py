"""The mappings of an exploration: from the results folder, else searched for and written there.

Equal layers are solved once. Searches run in groups, and each group's solutions are written to the folder when it is
done; until then they are in the user's cache, so an interrupted exploration loses only what was in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitmosaic.exploration import MAPPINGS_FILE
from bitmosaic.progress import Progress
from bitmosaic.records import MappingRecord
from bitmosaic.store import RecordFile
from mapper.cache import MappingCache, problem_key
from mapper.network import MappingJob, map_many
from mapper.solution import MappingSolution, Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.layer import Layer
from simulator.precision import LayerPrecision


class MappingBook:
    """Solutions by layer and precision for one accelerator, objective and budget."""

    def __init__(
        self,
        accelerator: Accelerator,
        objective: Objective,
        budget: SearchBudget,
        folder: Path,
        workers: int | None,
    ) -> None:
        self._accelerator = accelerator
        self._objective: Objective = objective
        self._budget = budget
        self._workers = workers
        self._cache = MappingCache()
        self._records = RecordFile(folder / MAPPINGS_FILE, MappingRecord)

    def key(self, layer: Layer, precision: LayerPrecision) -> str:
        """Key of the best mapping of a layer, whatever its name, in a precision."""
        return problem_key(layer, precision, self._accelerator, self._objective, self._budget)

    def solve(self, groups: Sequence[Sequence[tuple[Layer, LayerPrecision]]], progress: Progress) -> None:
        """Find the mappings that are missing, group by group. Raises ``InfeasibleError`` where there is none."""
        missing: list[list[MappingJob]] = []
        keys: set[str] = set()
        for group in groups:
            jobs = []
            for layer, precision in group:
                key = self.key(layer, precision)
                if key not in self._records and key not in keys:
                    keys.add(key)
                    jobs.append(MappingJob(layer=layer, precision=precision))
            missing.append(jobs)
        total, before = len(keys), 0
        for jobs in missing:
            if not jobs:
                continue

            def report(done: int, count: int, before: int = before) -> None:
                progress.update("mapping", before + done, total)

            report(0, len(jobs))
            solutions = map_many(
                jobs, accelerator=self._accelerator, objective=self._objective, budget=self._budget,
                cache=self._cache, workers=self._workers, progress=report,
            )
            for job, solution in zip(jobs, solutions, strict=True):
                key = self.key(job.layer, job.precision)
                self._records.append(MappingRecord(key=key, solution=solution))
            before += len(jobs)
            progress.update("mapping", before, total)

    def solution(self, layer: Layer, precision: LayerPrecision) -> MappingSolution:
        """Return the mapping of a layer in a precision that was solved."""
        record = self._records.get(self.key(layer, precision))
        assert record is not None, f"{layer.name} in {precision.label} was not mapped"
        return record.solution
