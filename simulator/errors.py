"""The one error root of Bitmosaic, and how a message is put together.

Every mistake a user can make ends in a ``BitmosaicError``. Its message follows one form, so that a reader
always finds the same things in the same place::

    file:line: path: name=value: rule (allowed: a, b, c; did you mean 'b'?)

Mistakes are collected as ``Problem`` and raised together: a user who made five mistakes reads five lines.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake in what the user gave.

    ``where`` is ``file:line`` or a name, ``path`` the dotted place inside it, ``value`` what stood there.
    """

    rule: str
    where: str = ""
    path: str = ""
    value: str = ""
    allowed: tuple[str, ...] = ()
    did_you_mean: str = ""

    def __str__(self) -> str:
        subject = self.path
        if self.value:
            subject = f"{self.path}={self.value}" if self.path else self.value
        head = ": ".join(part for part in (self.where, subject, self.rule) if part)
        notes = []
        if self.allowed:
            notes.append("allowed: " + ", ".join(self.allowed))
        if self.did_you_mean:
            notes.append(f"did you mean {self.did_you_mean!r}?")
        return f"{head} ({'; '.join(notes)})" if notes else head


class BitmosaicError(Exception):
    """Root of all errors that a user can cause. ``problems`` holds each mistake on its own."""

    def __init__(self, problems: str | Problem | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        if isinstance(problems, Problem):
            problems = (problems,)
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ConfigurationError(BitmosaicError):
    """A hardware description, or another settings file, is wrong."""


class NetworkError(BitmosaicError):
    """A network cannot be read, or holds something that is not understood."""


class PrecisionError(BitmosaicError):
    """A format is not known, or the processing element cannot run it."""


class MappingError(BitmosaicError):
    """A mapping does not fit its layer or its machine."""


class InfeasibleError(BitmosaicError):
    """No mapping exists: the message names the memory, its demand and capacity, and what would make it fit."""


class MissingPackageError(BitmosaicError):
    """An optional package is needed; the message says which one and how to install it."""


def closest(word: str, choices: Sequence[str]) -> str:
    """Return the choice that looks most like ``word``, or an empty string where none is near.

    >>> closest("bit_fusoin", ["bit_fusion", "stripes"])
    'bit_fusion'
    """
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return near[0] if near else ""
