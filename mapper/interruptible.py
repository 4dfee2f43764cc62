"""Work in compiled code that Ctrl-C can stop.

Python hears of a signal between two of its own instructions only, in the main thread. A kernel or a solver that runs
there would be deaf to Ctrl-C until it ends; in a thread of its own it leaves the main thread free to hear.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
WAIT_SECONDS = 0.2
_told: list[None] = []  # an entry, where another process tells this one of Ctrl-C


def heard(kernel: Callable[..., Result], *arguments: object) -> Result:
    """Call a short kernel, and hear of Ctrl-C when it has ended.

    In the main thread Numba would hand out its result with the interrupt pending, which Python calls a ``SystemError``.
    """
    return interruptible(lambda: kernel(*arguments), lambda: None)


def interruptible(work: Callable[[], Result], stop: Callable[[], object]) -> Result:
    """Return what ``work`` returns, or raise what it raises.

    At a ``KeyboardInterrupt`` meanwhile, ``stop`` is called, which must make ``work`` end soon; the interrupt is raised
    when it has. Outside the main thread, where no signal arrives, and in processes that are deaf to Ctrl-C, ``work``
    simply runs.
    """
    if threading.current_thread() is not threading.main_thread() or _is_deaf():
        return work()
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="interruptible")
    thread.start()
    try:
        while thread.is_alive():
            # Not for ever: a signal that another thread received does not wake one that waits.
            thread.join(WAIT_SECONDS)
    except KeyboardInterrupt:
        stop()
        thread.join()
        raise
    if errors:
        raise errors[0]
    return results[0]


def told_of_ctrl_c() -> None:
    """Say that this process, deaf to Ctrl-C itself, is told of it by another one: ``_thread.interrupt_main`` is called
    in it, which works like the signal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _told.append(None)


def _is_deaf() -> bool:
    """Whether this process ignores Ctrl-C, as workers do whose parent hears it for them."""
    if _told:
        return False
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return True
    return hasattr(signal, "pthread_sigmask") and signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
