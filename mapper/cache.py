"""Solved mappings on disk, found by the content of their problem.

One file a problem, named by the SHA-256 of everything that can change the answer: the layer (not its name), the
precision, the machine (not its description), the objective, the budget, and the version of the model.
Files are written whole or not at all, so that several processes can share a folder; a process that solves a problem
claims it, so that another one waits for the answer and does not search for it too.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from mapper.constraints import NO_WISHES, Wishes
from mapper.solution import MappingSolution, Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.cache_folder import cache_folder
from simulator.layer import Layer
from simulator.precision import LayerPrecision

MODEL_VERSION = 9  # raise it whenever the meaning of a cycle, a picojoule, the search space or a proof changes

# What no mapping depends on; what these leak is in the key.
_NOT_MAPPED_TO = {"name", "description", "sources", "vector_unit", "floating_point_unit"}


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
        "machine": accelerator.model_dump(mode="json", exclude=_NOT_MAPPED_TO),
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
            found = MappingSolution.model_validate_json(self._path(key).read_bytes())
        except (OSError, ValidationError):
            return None
        # The version is in the key; what was put there before solutions had it is of no other.
        return found if found.model_version is not None else found.model_copy(update={"model_version": MODEL_VERSION})

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

    @contextmanager
    def claim(self, key: str, *, wait: bool) -> Iterator[bool]:
        """Hold a problem against the other processes that share the folder; it is let go when this one ends.

        Gives whether the problem is held: with ``wait`` always, else only where no other process holds it. A process
        may hold one problem at a time. Where the folder cannot be locked nothing is held against anybody.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / "claims", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            yield True
            return
        try:
            # One byte a problem in a file that stays empty: nothing is left behind, and network file systems know it.
            place = int(key[:15], 16)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
            except OSError as error:
                held = error.errno not in (errno.EACCES, errno.EAGAIN)
            else:
                held = True
            yield held
        finally:
            os.close(descriptor)
