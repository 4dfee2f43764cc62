"""Processes that search for mappings, and that a parent can ask to stop: each then gives the best it has.

Ctrl-C goes to all processes of a terminal at once. The workers are deaf to it, so that the parent alone decides: it
sets an event, on which a thread in each worker interrupts the search under way as the signal would. A search that is
interrupted raises ``SearchInterrupted`` with its best mapping, bound and gap, which the worker hands back.
"""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from typing import NamedTuple, TypeVar

from mapper.interruptible import told_of_ctrl_c
from mapper.solution import MappingSolution, SearchInterrupted

Task = TypeVar("Task")
Answer = TypeVar("Answer")


class Stopped(NamedTuple):
    """What a worker gives of a search that it was asked to stop: the best so far, None where there was nothing yet."""

    solution: MappingSolution | None


class _Worker:
    """The search of this process, and whether it was asked to stop."""

    def __init__(self, stop: Event) -> None:
        self.stop = stop
        self.lock = threading.Lock()
        self.is_busy = False
        threading.Thread(target=self._watch, name="ctrl-c of the parent", daemon=True).start()

    def _watch(self) -> None:
        self.stop.wait()
        with self.lock:
            if self.is_busy:
                _thread.interrupt_main()

    def run(self, solve: Callable[[Task], Answer], task: Task) -> Answer | Stopped:
        """``solve(task)``, or what there is of it when the parent asks to stop."""
        answer: Answer | Stopped = Stopped(None)
        try:
            with self.lock:
                self.is_busy = not self.stop.is_set()
            if not self.is_busy:
                return answer
            answer = solve(task)
            with self.lock:  # from here on nobody interrupts; an interrupt that is under way arrives before the end
                self.is_busy = False
            threading.Event().wait(0)
        except SearchInterrupted as interrupt:
            answer = Stopped(interrupt.solution)
        except KeyboardInterrupt:
            pass
        return answer


_worker: list[_Worker] = []  # of this process; a list, because it is made when the process starts


def _begin(stop: Event) -> None:
    told_of_ctrl_c()
    _worker.append(_Worker(stop))


def _run(solve: Callable[[Task], Answer], task: Task) -> Answer | Stopped:
    return _worker[-1].run(solve, task)


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Keep Ctrl-C for the parent: workers that start inside are born deaf to it, and end when the pool does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def solve_in_workers(
    solve: Callable[[Task], Answer], tasks: Mapping[str, Task], count: int, finish: Callable[[str, Answer], None]
) -> None:
    """Call ``solve`` for each task in ``count`` processes, and ``finish`` with its key and answer as they come.

    Raises what ``solve`` and ``finish`` raise. At Ctrl-C what is under way is asked to stop; what ends by then is
    finished too, and ``SearchInterrupted`` is raised with the best of what does not, or ``KeyboardInterrupt`` where
    there is nothing. A second Ctrl-C waits for nothing.
    """
    # Spawned, not forked: the parent may run threads (onnxruntime, CP-SAT) that do not survive a fork.
    context = get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(stop,))
    try:
        with _ctrl_c_held_back():
            futures: dict[Future[Answer | Stopped], str] = {
                pool.submit(_run, solve, task): key for key, task in tasks.items()
            }
        waiting = set(futures)  # until their answers are finished
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    answer = future.result()
                    assert not isinstance(answer, Stopped)
                    finish(futures[future], answer)
                    waiting.remove(future)
        except KeyboardInterrupt:
            stop.set()
            best = []
            for future in wait([future for future in waiting if not future.cancel()]).done:
                last = _answer(future)
                if not isinstance(last, Stopped):
                    finish(futures[future], last)
                elif last.solution is not None:
                    best.append(last.solution)
            if best:
                raise SearchInterrupted(*best) from None
            raise
    finally:
        stop.set()  # where an error ends the call, nobody waits for what is under way
        pool.shutdown(wait=False, cancel_futures=True)


def _answer(future: Future[Answer | Stopped]) -> Answer | Stopped:
    """What a worker gave; nothing where it had not begun, or where it broke."""
    if future.cancelled():
        return Stopped(None)
    try:
        return future.result()
    except BrokenProcessPool:
        return Stopped(None)
