"""Solved mappings on disk, found by the content of their problem.

One file a problem, named by the SHA-256 of everything that can change the answer: the layer (not its name), the
precision, the machine (not its description), the objective, the budget, and the version of the model.
Files are written whole or not at all, so that several processes can share a folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

from pydantic import ValidationError

from mapper.constraints import NO_WISHES, Wishes
from mapper.solution import MappingSolution, Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.cache_folder import cache_folder
from simulator.layer import Layer
from simulator.precision import LayerPrecision

MODEL_VERSION = 6  # raise it whenever the meaning of a cycle, a picojoule, the search space or a proof changes


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal content gives equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def problem_key(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, objective: Objective, budget: SearchBudget,
    wishes: Wishes = NO_WISHES,
) -> str:
    """SHA-256 of a mapping problem, in hexadecimal."""
    content: dict[str, object] = {
        "model": MODEL_VERSION,
        "layer": layer.model_dump(mode="json", exclude={"name"}),
        "precision": precision.model_dump(mode="json"),
        "machine": accelerator.model_dump(mode="json", exclude={"name", "description", "sources", "vector_unit"}),
        "leakage_pj_per_cycle": accelerator.leakage_pj_per_cycle,
        "objective": objective,
        "budget": budget.model_dump(mode="json"),
    }
    if wishes != NO_WISHES:
        constraints = wishes.constraints.model_dump(mode="json", exclude_defaults=True)
        content["wishes"] = {**wishes._asdict(), "constraints": constraints}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


class MappingCache:
    """A folder of solved mappings. An unreadable entry counts as absent and is solved again."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_folder("mappings")

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> MappingSolution | None:
        """Return the solution of a problem, or None."""
        try:
            return MappingSolution.model_validate_json(self._path(key).read_bytes())
        except (OSError, ValidationError):
            return None

    def put(self, key: str, solution: MappingSolution) -> None:
        """Keep a solution."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(solution.model_dump_json())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
