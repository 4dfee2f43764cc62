"""Many calls at once on the workers of a Dask scheduler: one that runs already, or one whose workers are batch jobs.

The scheduler's workers make each call in a process of their own (``local_pool.Child``), so that the time limit and what
becomes of a call that fails, hangs or dies are those of ``LocalPool``. When a scheduler's worker itself is lost, its
calls go to another one. Needs the extra ``distributed``.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Generator, Sequence
from typing import Any, Literal

from bitmosaic._version import __version__
from bitmosaic.sweeps.local_pool import Call, Child, Outcome
from mapper.cache import MODEL_VERSION
from simulator.errors import ConfigurationError, MissingPackageError, Problem

BatchSystem = Literal["slurm", "lsf", "sge"]
_CLUSTERS: dict[BatchSystem, str] = {"slurm": "SLURMCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
_thread = threading.local()


class DaskPool:
    """Workers of a ``dask.distributed`` scheduler.

    Args:
        scheduler: its address (``tcp://host:8786``), a cluster, or a client.
        seconds, prepare: as of ``LocalPool``.

    Raises ``ConfigurationError`` where no scheduler answers there, ``MissingPackageError`` without the extra.
    """

    def __init__(self, scheduler: Any, seconds: float | None = None, prepare: str = "") -> None:
        distributed = _package("distributed")
        if isinstance(scheduler, distributed.Client):
            self.client = scheduler
        else:
            try:
                self.client = distributed.Client(scheduler, set_as_default=False)
            except (OSError, ValueError) as error:
                raise ConfigurationError(
                    Problem(f"no scheduler answers: {error}", path="scheduler", value=str(scheduler))
                ) from error
        self.seconds = seconds
        self.prepare = prepare

    def outcomes(self, calls: Sequence[Call]) -> Generator[tuple[int, Outcome], None, None]:
        """As of ``LocalPool``. Raises ``ConnectionError`` where the scheduler is lost."""
        distributed = _package("distributed")
        same = self.seconds, self.prepare, (__version__, MODEL_VERSION)
        numbers = {
            self.client.submit(call_on_worker, call, *same, pure=False): number for number, call in enumerate(calls)
        }
        try:
            for future in distributed.as_completed(list(numbers), loop=self.client.loop):
                # Let go of what is here: a worker that dies later must not have it done again.
                yield numbers.pop(future), _outcome(future)
        finally:
            self.client.cancel(list(numbers))


def call_on_worker(call: Call, seconds: float | None, prepare: str, versions: tuple[str, int]) -> tuple[Any, ...]:
    """Make a call in the process that belongs to this thread of a scheduler's worker; gives an ``Outcome``'s fields."""
    if versions != (__version__, MODEL_VERSION):
        error = f"the scheduler's worker has bitmosaic {__version__}, model {MODEL_VERSION}, and not {versions}"
        return tuple(Outcome("failed", errors=(error,)))
    settings, child = getattr(_thread, "child", (None, None))
    if child is None or settings != (seconds, prepare):
        if child is not None:
            child.close()
        child = Child(seconds, prepare)
        _thread.child = (seconds, prepare), child
    found: Outcome = child.call(call)
    return tuple(found)


def _outcome(future: Any) -> Outcome:
    if future.status == "finished":
        return Outcome(*future.result())
    if future.status != "error":
        raise ConnectionError(f"the Dask scheduler dropped a task ({future.status})")
    error = future.exception()
    status: Literal["killed", "failed"] = "killed" if type(error).__name__ == "KilledWorker" else "failed"
    # Which workers died is different in every run.
    line = "the scheduler's workers died under it" if status == "killed" else f"{type(error).__name__}: {error}"
    return Outcome(status, errors=(line,), detail=str(error))


def batch_cluster(system: BatchSystem, jobs: int, /, **settings: Any) -> Any:
    """A Dask cluster whose workers are jobs of SLURM, LSF or SGE, by dask-jobqueue.

    ``settings`` (queue, cores, memory, walltime, …) are dask-jobqueue's; those left out come from its configuration
    file, ``~/.config/dask/jobqueue.yaml``. Close the cluster when done. Raises ``ConfigurationError`` where a setting
    is missing or wrong, ``MissingPackageError`` without the extra.
    """
    package = _package("dask_jobqueue")
    try:
        cluster = getattr(package, _CLUSTERS[system])(**settings)
        cluster.scale(jobs=jobs)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise ConfigurationError(
            Problem(f"{' '.join(str(error).split())}; see dask-jobqueue on its configuration file", path="executor",
                    value=system)
        ) from error
    return cluster


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackageError(
            Problem("is needed to run sweeps on other machines: pip install 'bitmosaic[distributed]'",
                    path="package", value=name.replace("_", "-"))
        ) from error
