"""Many calls at once in processes of this machine, which may fail, hang or die without taking the others along.

A worker is a Python process of its own (``worker.py``) at the other end of a socket. One that dies, or does not answer
in time, costs the call that it was at, and another one takes its place.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, NamedTuple

Status = Literal["done", "infeasible", "failed", "timed_out", "killed"]
Call = tuple[Callable[..., Any], tuple[Any, ...]]
MOST_STILLBORN = 3  # workers in a row that end before they are ready: then something is wrong with all of them
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Outcome(NamedTuple):
    """What became of a call: its value where it is ``done``, else what went wrong, one line a mistake.

    ``detail`` is a traceback, for people. ``cpu_seconds`` are the worker's; 0 where it did not live to tell.
    """

    status: Status
    value: Any = None
    errors: tuple[str, ...] = ()
    detail: str = ""
    cpu_seconds: float = 0.0


class _Worker:
    """A process, the connection to it, and the call that it is at."""

    def __init__(self, threads: int, prepare: str) -> None:
        ours, theirs = socket.socketpair()
        environment = os.environ | dict.fromkeys(_THREADS, str(threads))
        environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bitmosaic.sweeps.worker", str(theirs.fileno()), prepare],
                # What a worker prints is no output of the sweep. Ctrl-C in the terminal is for the sweep alone.
                stdin=subprocess.DEVNULL, stdout=sys.__stderr__, pass_fds=(theirs.fileno(),), env=environment,
                start_new_session=True,
            )
        self.connection = Connection(ours.detach())
        self.ready = False
        self.number: int | None = None
        self.deadline = float("inf")

    def give(self, number: int, call: Call, seconds: float | None) -> None:
        """Hand a call over. A worker that has died meanwhile is noticed when its answer is waited for."""
        self.number = number
        self.deadline = float("inf") if seconds is None else time.monotonic() + seconds
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(call)

    def end(self) -> int:
        """Stop the process, whatever it does. Returns how it ended."""
        self.connection.close()
        if self.process.poll() is None:
            self.process.kill()
        return self.process.wait()

    def how_it_died(self) -> str:
        """In words, how the process ended by itself."""
        try:
            code = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "the worker closed its connection"
        finally:
            self.connection.close()
        if code >= 0:
            return f"the worker ended with exit code {code}"
        return f"the worker was killed by {signal.Signals(-code).name}"


class LocalPool:
    """Processes of this machine.

    Args:
        workers: how many; None: one a core.
        seconds: wall time after which a call is given up and its worker killed; None: never.
        prepare: module that a worker imports before its first call, so that the time limit does not count it.

    The cores are shared out: a worker's libraries use no more threads than its share.
    """

    def __init__(self, workers: int | None = None, seconds: float | None = None, prepare: str = "") -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.workers = workers or cores
        self.seconds = seconds
        self._threads = max(1, cores // self.workers)
        self._prepare = prepare

    def outcomes(self, calls: Sequence[Call]) -> Generator[tuple[int, Outcome], None, None]:
        """Make every call; gives the number of each and what became of it, in the order in which they end.

        When the iterator is closed, or Ctrl-C comes, all workers are ended at once. Raises ``RuntimeError`` where
        workers cannot be started.
        """
        waiting = deque(enumerate(calls))
        workers = [self._new() for _ in range(min(self.workers, len(calls)))]
        stillborn = 0
        try:
            while workers:
                for number, outcome, worker in self._heard(workers):
                    if outcome is not None and number is not None:
                        yield number, outcome
                    if worker.process.poll() is None and worker.ready and worker.number is None:
                        stillborn = 0
                        if waiting:
                            worker.give(*waiting.popleft(), self.seconds)
                        else:
                            worker.end()
                            workers.remove(worker)
                    elif worker.connection.closed:
                        stillborn = 0 if worker.ready else stillborn + 1
                        if stillborn >= MOST_STILLBORN:
                            raise RuntimeError("workers end before they are ready; see what they say above")
                        workers.remove(worker)
                        if len(workers) < len(waiting) + sum(other.number is not None for other in workers):
                            workers.append(self._new())
        finally:
            for worker in workers:
                worker.end()

    def _new(self) -> _Worker:
        return _Worker(self._threads, self._prepare)

    def _heard(self, workers: list[_Worker]) -> Iterator[tuple[int | None, Outcome | None, _Worker]]:
        """Wait until a worker has something to say, or is late: the call's number, its outcome, the worker."""
        soonest = min(worker.deadline for worker in workers)
        patience = None if soonest == float("inf") else max(0.0, soonest - time.monotonic())
        by_connection = {worker.connection: worker for worker in workers}
        for connection in wait(list(by_connection), patience):
            worker = by_connection[connection]  # type: ignore[index]
            number = worker.number
            try:
                message = worker.connection.recv()
            except (EOFError, ConnectionResetError, pickle.UnpicklingError):
                reason = worker.how_it_died()
                worker.end()
                worker.number = None
                yield number, None if number is None else Outcome("killed", errors=(reason,)), worker
                continue
            worker.number, worker.deadline, worker.ready = None, float("inf"), True
            yield number, None if number is None else Outcome(*message), worker
        for worker in list(workers):
            if worker.number is not None and time.monotonic() >= worker.deadline:
                number, worker.number = worker.number, None
                worker.end()
                error = f"was given up after {self.seconds:g} s"
                yield number, Outcome("timed_out", errors=(error,)), worker
