"""The pool of processes: calls that fail, hang, or kill their worker cost themselves and nothing else."""

from __future__ import annotations

import math
import operator
import os
import sys
import time
from pathlib import Path

import pytest

from bitmosaic.sweeps.local_pool import Call, LocalPool, Outcome


def _ended(calls: list[Call], pool: LocalPool) -> list[Outcome]:
    found = dict(pool.outcomes(calls))
    assert sorted(found) == list(range(len(calls)))
    return [found[number] for number in range(len(calls))]


def test_every_way_to_end() -> None:
    calls: list[Call] = [
        (math.sqrt, (4.0,)), (os.abort, ()), (operator.truediv, (1, 0)), (time.sleep, (60,)), (os._exit, (3,)),
        (sys.exit, (2,)), (open, (os.devnull,)), (os.getpid, ()), (math.sqrt, (9.0,)),
    ]
    good, abort, zero, hung, left, asked, closed, pid, last = _ended(calls, LocalPool(2, seconds=1.0))
    assert (good.status, good.value, last.value) == ("done", 2.0, 3.0) and good.errors == ()
    assert (abort.status, abort.errors) == ("killed", ("the worker was killed by SIGABRT",))
    assert (zero.status, zero.errors) == ("failed", ("ZeroDivisionError: division by zero",))
    assert "Traceback" in zero.detail
    assert (hung.status, hung.errors) == ("timed_out", ("was given up after 1 s",))
    assert (left.status, left.errors) == ("killed", ("the worker ended with exit code 3",))
    assert (asked.status, asked.errors) == ("failed", ("SystemExit: 2",))
    assert closed.status == "failed" and "pickle" in closed.errors[0]
    assert pid.value != os.getpid()


def test_cores_are_shared_out_among_workers() -> None:
    (found,) = _ended([(os.getenv, ("OMP_NUM_THREADS",))], LocalPool(workers=len(os.sched_getaffinity(0))))
    assert found.value == "1"


def test_closing_ends_the_workers() -> None:
    outcomes = LocalPool(2).outcomes([(os.getpid, ()), (time.sleep, (60,))])
    _, first = next(outcomes)
    began = time.monotonic()
    outcomes.close()
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.kill(first.value, 0)


def test_workers_that_never_become_ready_are_an_error() -> None:
    with pytest.raises(RuntimeError, match="before they are ready"):
        list(LocalPool(1, prepare="no_such_module").outcomes([(os.getpid, ())]))


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        for _, outcome in LocalPool(1).outcomes([(os.getpid, ()), (time.sleep, (60,))]):
            (tmp_path / "new").write_text(str(outcome.value))
            (tmp_path / "new").rename(tmp_path / "pid")
        os._exit(0)
    while not (tmp_path / "pid").exists():
        time.sleep(0.05)
    worker = int((tmp_path / "pid").read_text())
    os.kill(child, 9)
    os.waitpid(child, 0)
    for _ in range(600):
        status = Path(f"/proc/{worker}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the worker lives on")
