"""Append-only JSON lines: one record a line, each under the key of what it was computed from.

A record is written whole and flushed at once, so a killed run loses only what was in flight. A last line without
its end is such a loss: it is ignored, and cut off before the next record is written. Reading changes no byte.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from bitmosaic.explorations.identity import canonical_json
from simulator.errors import ConfigurationError, Problem
from simulator.layer import Frozen


class Record(Frozen):
    """One line of a results file. ``key`` is the SHA-256 of everything that affects the record."""

    key: str


R = TypeVar("R", bound=Record)


class RecordFile(Generic[R]):
    """The records of one file, by key, in the order of the file.

    Of several records of one key the first counts; with ``last_counts`` the last, and ``append`` adds whatever differs
    from it. Raises ``ConfigurationError`` where a line (other than a torn last one) is not a record of this kind.
    """

    def __init__(self, path: Path, kind: type[R], *, last_counts: bool = False) -> None:
        self.path = path
        self._kind = kind
        self._last_counts = last_counts
        self._whole_bytes = 0
        self._torn = False
        self._records: dict[str, R] = {}
        self._read()

    def _read(self) -> None:
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        *lines, rest = content.split(b"\n")
        self._whole_bytes = len(content) - len(rest)
        self._torn = bool(rest)
        for number, line in enumerate(lines, start=1):
            try:
                record = self._kind.model_validate_json(line)
            except ValidationError as error:
                first = error.errors()[0]
                place = ".".join(str(part) for part in first["loc"])
                raise ConfigurationError(
                    Problem(f"is no record of this version: {first['msg']}; move the results folder away, "
                            "or name another with --output", where=f"{self.path}:{number}", path=place)
                ) from error
            if self._last_counts:
                self._records[record.key] = record
            else:
                self._records.setdefault(record.key, record)

    @property
    def is_torn(self) -> bool:
        """Whether the last line has no end: what is there of it does not count, and the next record takes its place."""
        return self._torn

    def get(self, key: str) -> R | None:
        """Return the record of a key, or None."""
        return self._records.get(key)

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[R]:
        return iter(self._records.values())

    def append(self, record: R) -> R:
        """Write a record behind the others and flush it; a key that is there already is left as it is.

        With ``last_counts`` only an equal record is.
        """
        present = self._records.get(record.key)
        if present is not None and (present == record or not self._last_counts):
            return present
        line = canonical_json(record.model_dump(mode="json")) + "\n"
        if self._torn:
            with self.path.open("r+b") as file:
                file.truncate(self._whole_bytes)
            self._torn = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._records[record.key] = record
        return record


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a results folder against other writers; it is let go when the process ends, however it ends.

    Raises ``ConfigurationError`` where another run writes there, or the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise _no_folder(folder, error.strerror) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        os.close(descriptor)
        raise _no_folder(folder, os.strerror(errno.EACCES))
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                Problem("another run is writing to this results folder; wait for it, or name another folder",
                        where=str(folder))
            ) from error
        yield
    finally:
        os.close(descriptor)


def _no_folder(folder: Path, reason: str | None) -> ConfigurationError:
    rule = f"cannot be used as results folder: {reason or 'it cannot be made'}; name another with --output"
    return ConfigurationError(Problem(rule, where=str(folder)))
