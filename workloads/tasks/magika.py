"""The magika task: labelled accuracy of the file-type network on files whose type is known.

The files are those that the Python installation brings (standard library, NumPy, matplotlib, networkx, onnx, this
environment's compiled modules), labelled by their suffix, and small ones made in memory with Python's own writers
(archives, databases, images, sound). So the task runs on any machine, but what it holds follows the installed
versions: ``TaskScore.count`` says how many files it was. Half of the files are for calibration, half for evaluation.

Features are those of magika 1.0 (its configuration ``config.min.json`` names all sizes): of the first 4096 bytes,
after leading white space, the first 1024; of the last 4096, before trailing white space, the last 1024; short ends are
filled with token 256. Scored is the network itself: the label with the highest probability, before magika's
thresholds and its renaming of unsure labels.
"""

from __future__ import annotations

import importlib.metadata
import json
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulator.errors import MissingPackageError, NetworkError, Problem
from workloads.tasks.made_files import made_files
from workloads.tasks.task import Feed, Run, TaskScore, batches

BATCH = 16
SEED = 20240
# Suffix → the labels that are right for it. A header may be C or C++, and pip's launchers are Windows programs.
LABELS: dict[str, tuple[str, ...]] = {
    ".c": ("c",), ".cc": ("cpp",), ".cpp": ("cpp",), ".css": ("css",), ".csv": ("csv",), ".exe": ("pebin",),
    ".f90": ("fortran",), ".gif": ("gif",), ".h": ("c", "cpp"), ".hpp": ("cpp",), ".html": ("html",),
    ".jpg": ("jpeg",), ".js": ("javascript",), ".json": ("json",), ".lua": ("lua",), ".md": ("markdown",),
    ".npy": ("npy",), ".npz": ("npz",), ".onnx": ("onnx",), ".pdf": ("pdf",), ".pem": ("pem",), ".png": ("png",),
    ".proto": ("proto",), ".py": ("python",), ".pyc": ("pythonbytecode",), ".pyi": ("python",),
    ".so": ("elf", "macho"), ".svg": ("svg",), ".toml": ("toml",), ".ttf": ("ttf",), ".wav": ("wav",),
    ".whl": ("zip",), ".xml": ("xml",),
}
PACKAGES = ("numpy", "matplotlib", "networkx", "onnx", "onnxruntime", "numba", "pandas", "pip")
MOST_OF_A_KIND = 24  # so that Python files do not outnumber all others


@dataclass(frozen=True)
class Features:
    """What of magika's configuration decides the input: sizes in bytes, and the token that fills short files."""

    begin_size: int
    end_size: int
    block_size: int
    padding_token: int
    shortest: int
    labels: tuple[str, ...]


def read_features(folder: Path | None = None) -> Features:
    """Read the configuration of magika's standard model.

    Raises ``MissingPackageError`` without magika, ``NetworkError`` for a version whose features are other ones.
    """
    path = (magika_folder() if folder is None else folder) / "config.min.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings["mid_size"] or settings["use_inputs_at_offsets"]:
        raise NetworkError(Problem("features from the middle of a file are not understood", where=str(path)))
    return Features(
        settings["beg_size"], settings["end_size"], settings["block_size"], settings["padding_token"],
        settings["min_file_size_for_dl"], tuple(settings["target_labels_space"]),
    )


def magika_folder() -> Path:
    """Folder of the newest standard model in the magika package (``model.onnx`` and its configuration).

    Raises ``MissingPackageError`` without magika.
    """
    try:
        files = importlib.metadata.files("magika") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingPackageError("magika is needed for its network: pip install 'bitmosaic[networks]'") from error
    models = sorted(Path(str(file.locate())).parent for file in files if file.name == "config.min.json")
    if not models:
        raise MissingPackageError("magika holds no model: pip install --force-reinstall 'magika>=1.0'")
    return models[-1]


def tokens(content: bytes, features: Features) -> NDArray[np.int32] | None:
    """Tokens of one file, int32 [begin + end]; None where it has too few bytes for the network to be asked."""
    begin = content[: features.block_size].lstrip()[: features.begin_size]
    end = content[-features.block_size :].rstrip()[-features.end_size :]
    if len(content) < features.shortest or len(begin) < features.shortest:
        return None
    row = np.full(features.begin_size + features.end_size, features.padding_token, np.int32)
    row[: len(begin)] = np.frombuffer(begin, np.uint8)
    if end:
        row[-len(end) :] = np.frombuffer(end, np.uint8)
    return row


def known_files() -> Iterator[tuple[str, tuple[str, ...], bytes]]:
    """Name, right labels and content of each file: at most ``MOST_OF_A_KIND`` of a suffix, drawn with a fixed seed."""
    kinds: dict[str, list[tuple[str, Path]]] = {}
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    # Only the top level and a few sub-packages: what lies deeper are test cases, broken on purpose.
    packages = ("json", "email", "http", "asyncio", "xml/dom", "idlelib/Icons")
    for folder in (stdlib, *(stdlib / package for package in packages)):
        for path in folder.glob("*"):
            if path.suffix in LABELS:
                kinds.setdefault(path.suffix, []).append((str(path.relative_to(stdlib)), path))
    for package in PACKAGES:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            # Licences are plain text whatever their suffix says.
            if file.suffix in LABELS and "tests" not in file.parts and file.stem != "LICENSE":
                kinds.setdefault(file.suffix, []).append((f"{package}: {file}", Path(str(file.locate()))))
    rng = np.random.default_rng(SEED)
    for suffix in sorted(kinds):
        found = sorted(kinds[suffix])
        for index in np.sort(rng.permutation(len(found))[:MOST_OF_A_KIND]):
            name, path = found[index]
            try:
                content = path.read_bytes()
            except OSError:  # listed by the package, but not there (a stripped installation)
                continue
            yield name, LABELS[suffix], content
    for name, label, content in made_files():
        yield name, (label,), content


class MagikaTask:
    """Files of known type; one token row each.

    ``most`` takes at most so many files in all (0: all), evenly out of the list. Raises ``MissingPackageError`` without
    magika when data are read.
    """

    name = "magika"
    metric = "accuracy"

    def __init__(self, input_name: str = "bytes", most: int = 0) -> None:
        self.input_name = input_name
        self.most = most

    @cached_property
    def _files(self) -> tuple[Features, NDArray[np.int32], list[frozenset[int]]]:
        features = read_features()
        rows, right, seen = [], [], set()
        for _, labels, content in known_files():
            row = tokens(content, features)
            # The same content twice could stand on both sides of the split.
            if row is None or row.tobytes() in seen:
                continue
            seen.add(row.tobytes())
            rows.append(row)
            right.append(frozenset(features.labels.index(label) for label in labels))
        if 0 < self.most < len(rows):
            kept = [index * len(rows) // self.most for index in range(self.most)]
            rows, right = [rows[index] for index in kept], [right[index] for index in kept]
        return features, np.stack(rows), right

    def _part(self, odd: int) -> tuple[NDArray[np.int32], list[frozenset[int]]]:
        """Every second file: the order is by kind, so both parts hold all kinds."""
        _, rows, right = self._files
        return rows[odd::2], right[odd::2]

    def calibration_feeds(self) -> Sequence[Feed]:
        """Batches of 16 files: every fourth file, none of them evaluated on."""
        rows, _ = self._part(1)
        return batches({self.input_name: rows[::2]}, BATCH)

    def evaluate(self, run: Run) -> TaskScore:
        """Share of files whose most probable label is right."""
        rows, right = self._part(0)
        guesses = np.concatenate(
            [run(feed)[0].argmax(axis=-1) for feed in batches({self.input_name: rows}, BATCH)]
        )
        hits = sum(int(guess) in labels for guess, labels in zip(guesses, right, strict=True))
        return TaskScore(hits / len(right), len(right))
