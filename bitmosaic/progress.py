"""Progress with rate and time left: a bar on a terminal and in a notebook, a plain line now and then anywhere else.

Long work reports to a ``Progress``; what it looks like is decided here alone.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from html import escape
from types import TracebackType
from typing import Any, Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

LINE_SECONDS = 5.0
BAR_SECONDS = 0.2  # between two changes of a notebook's bars
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


class _Stage:
    """What a bar knows of its stage. Items done when it began say nothing of its rate."""

    def __init__(self, done: int, now: float) -> None:
        self.first, self.done, self.total, self.began, self.seconds = done, done, 0, now, 0.0

    def text(self) -> str:
        count = f"{self.done}/{self.total}"
        if self.done >= self.total:
            return f"{count} done in {self.seconds:.1f} s"
        return f"{count}, {time_left(self.done - self.first, self.total - self.first, self.seconds)}"


class NotebookProgress:
    """A bar a stage in the output of a notebook's cell, with count, rate and time left; lines stand below the bars.

    ``show`` draws the HTML: called with ``(html, text)`` it puts a new output there, and returns what changes that
    output in the same way. By default it is IPython's ``display``.
    """

    def __init__(
        self, show: Callable[[str, str], Callable[[str, str], None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._show, self._clock = show or _display, clock
        self._change: Callable[[str, str], None] | None = None
        self._stages: dict[str, _Stage] = {}
        self._lines: list[str] = []
        self._last = -BAR_SECONDS

    def update(self, stage: str, done: int, total: int) -> None:
        """Move the stage's bar."""
        now = self._clock()
        known = self._stages.get(stage)
        is_new = known is None or (known.done >= known.total and done < total)
        if known is None or is_new:
            known = self._stages[stage] = _Stage(done, now)
        known.done, known.total, known.seconds = done, total, now - known.began
        if is_new or done >= total or now - self._last >= BAR_SECONDS:
            self._draw(now)

    def say(self, text: str) -> None:
        """Add a line below the bars."""
        self._lines.append(text)
        self._draw(self._clock())

    def _draw(self, now: float) -> None:
        self._last = now
        rows = "".join(
            f'<tr><td style="text-align: left">{escape(name)}</td>'
            f'<td><progress value="{stage.done}" max="{max(stage.total, 1)}"></progress></td>'
            f'<td style="text-align: left">{escape(stage.text())}</td></tr>'
            for name, stage in self._stages.items()
        )
        html = f"<table><tbody>{rows}</tbody></table>" + "".join(f"<div>{escape(line)}</div>" for line in self._lines)
        text = "\n".join([*(f"{name}: {stage.text()}" for name, stage in self._stages.items()), *self._lines])
        if self._change is None:
            self._change = self._show(html, text)
        else:
            self._change(html, text)


def _display(html: str, text: str) -> Callable[[str, str], None]:
    from IPython.display import display

    handle: Any = display({"text/html": html, "text/plain": text}, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def change(html: str, text: str) -> None:
        handle.update({"text/html": html, "text/plain": text}, raw=True)

    return change


def in_notebook() -> bool:
    """Whether the code runs in a kernel of a notebook, where outputs are displayed and changed."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def chosen_progress(progress: Progress | None) -> Progress:
    """The progress that was asked for; where none was, bars in a notebook, and elsewhere silence."""
    if progress is not None:
        return progress
    return NotebookProgress() if in_notebook() else Silent()
