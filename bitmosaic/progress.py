"""Progress with rate and time left: a bar on a terminal, a plain line now and then anywhere else.

Long work reports to a ``Progress``; what it looks like is decided here alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

LINE_SECONDS = 5.0
RATE_SECONDS = 600.0  # long enough to hold several items of the slowest stage


class Progress(Protocol):
    """Receives what long work has done so far."""

    def update(self, stage: str, done: int, total: int) -> None:
        """Say that ``done`` of ``total`` items of a stage are finished."""

    def say(self, text: str) -> None:
        """Say something about the work in one line."""


class Silent:
    """Progress that shows nothing."""

    def update(self, stage: str, done: int, total: int) -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""


def time_left(done: int, total: int, seconds: float) -> str:
    """Rate and time left as text.

    >>> time_left(10, 40, 20.0)
    '0.5/s, 60 s left'
    """
    if done == 0 or seconds <= 0:
        return "no rate yet"
    rate = done / seconds
    left = (total - done) / rate
    text = f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min"
    return f"{rate:.3g}/s, {text} left"


class PlainProgress:
    """A line at the start and the end of each stage, and at most one every five seconds between them.

    Items that are done when a stage begins (they were found in a cache) say nothing about its rate.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self._stage = ""
        self._began = 0.0
        self._last = 0.0
        self._finished = False
        self._first = 0

    def update(self, stage: str, done: int, total: int) -> None:
        """Print a line if it is time for one."""
        now = self._clock()
        if stage != self._stage or (self._finished and done < total):
            self._stage, self._began, self._last, self._finished = stage, now, now, False
            self._first = done
            if done < total:
                self.say(f"{stage}: {total - done} to do" + (f", {done} are done already" if done else ""))
                return
        if done == total and not self._finished:
            self._finished = True
            self.say(f"{stage}: {done}/{total} done in {now - self._began:.1f} s")
        elif done < total and now - self._last >= LINE_SECONDS:
            self._last = now
            pace = time_left(done - self._first, total - self._first, now - self._began)
            self.say(f"{stage}: {done}/{total}, {pace}")

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=self._stream, flush=True)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Items a second, without those that were done when the stage began."""
        rate = task.finished_speed or task.speed
        return Text(f"{rate:.3g}/s" if rate else "")


class TerminalProgress:
    """A bar a stage, with count, rate and time left; as a context manager it leaves the terminal in order."""

    def __init__(self, console: Console) -> None:
        self._rich = RichProgress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _RateColumn(),
            TimeRemainingColumn(elapsed_when_finished=True), console=console,
            speed_estimate_period=RATE_SECONDS,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> TerminalProgress:
        self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rich.stop()

    def update(self, stage: str, done: int, total: int) -> None:
        """Move the stage's bar."""
        if stage not in self._tasks:
            self._tasks[stage] = self._rich.add_task(stage, total=total)
        elif done == 0:
            self._rich.reset(self._tasks[stage], total=total)
        self._rich.update(self._tasks[stage], completed=done, total=total)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._rich.console.print(text, highlight=False, markup=False)
