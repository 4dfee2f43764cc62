"""The PP-OCRv6 task: read rendered lines of text, scored by exact match and character error rate.

Lines are drawn from a word list, digits and punctuation with a fixed seed, and rendered dark on light grey with the
DejaVu fonts that matplotlib brings, at slightly different sizes and offsets and with a little noise, into images of
48 rows and 320 columns. Calibration and evaluation lines are different ones. Images go in as the network was trained:
three equal channels, (value / 255 − 0.5) / 0.5. Out come probabilities of 18 710 classes for each of 40 columns;
decoding is greedy CTC (Graves et al., ICML 2006, §3.2): the most probable class of each column, repeats merged, blanks
(class 0) dropped.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from simulator.errors import MissingPackageError, NetworkError, Problem
from workloads.tasks.task import Feed, Run, TaskScore, batches

HEIGHT, WIDTH = 48, 320
EVALUATION_COUNT, CALIBRATION_COUNT = 100, 16
BATCH = 20
SEED = 20241
_FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf", "DejaVuSans-Oblique.ttf")
_WORDS = (
    "account", "address", "amount", "battery", "bridge", "button", "camera", "carbon", "centre", "channel",
    "circuit", "city", "cloud", "copper", "current", "delta", "device", "door", "driver", "energy", "engine",
    "entry", "factory", "field", "filter", "flight", "garden", "glass", "green", "handle", "harbour", "house",
    "index", "invoice", "island", "journey", "kernel", "key", "ladder", "layer", "letter", "light", "limit",
    "machine", "market", "matrix", "memory", "meter", "mirror", "motor", "needle", "network", "north", "number",
    "office", "orange", "order", "paper", "parcel", "pepper", "planet", "platform", "power", "price", "print",
    "project", "quality", "quartz", "radio", "report", "river", "road", "sample", "screen", "server", "silver",
    "signal", "speed", "station", "street", "switch", "system", "table", "thread", "ticket", "timber", "total",
    "tower", "train", "tunnel", "unit", "valley", "vector", "vehicle", "voltage", "water", "weight", "window",
    "winter",
)


def random_lines(count: int, rng: np.random.Generator) -> list[str]:
    """Different lines of 5 to 18 characters: words in three spellings, numbers, prices, codes, times."""
    lines: dict[str, None] = {}
    while len(lines) < count:
        first, second = (_WORDS[index] for index in rng.integers(0, len(_WORDS), 2))
        number = int(rng.integers(10, 10_000))
        code = f"{first[:2].upper()}-{number:04d}/{int(rng.integers(10, 100))}"
        time = f"{int(rng.integers(0, 24)):02d}:{int(rng.integers(0, 60)):02d}"
        choices = (
            f"{first} {second}", f"{first.title()} {number}", f"{first.upper()} {second[:3].upper()}",
            f"{first}: {number / 100:.2f}", code, f"{first.title()}, {time}", f"{first}-{second}", f"{number}% {first}",
        )
        line = choices[int(rng.integers(0, len(choices)))]
        if len(line) <= 18:
            lines[line] = None
    return list(lines)


def render(lines: Sequence[str], rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw lines as the network's input, float32 [n, 3, 48, 320] in −1 … 1; text too wide is set smaller."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont  # comes with matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    images = np.empty((len(lines), 1, HEIGHT, WIDTH), np.float32)
    for row, line in enumerate(lines):
        file = str(folder / _FONTS[int(rng.integers(0, len(_FONTS)))])
        size = int(rng.integers(26, 35))
        paper, ink = int(rng.integers(215, 256)), int(rng.integers(0, 60))
        image = Image.new("L", (WIDTH, HEIGHT), paper)
        draw = ImageDraw.Draw(image)
        font = ImageFont.truetype(file, size)
        while draw.textlength(line, font) > WIDTH - 16:
            size -= 1
            font = ImageFont.truetype(file, size)
        x, y = 8 + int(rng.integers(0, 8)) // 2, HEIGHT // 2 + int(rng.integers(-2, 3))
        draw.text((x, y), line, fill=ink, font=font, anchor="lm")
        noise = rng.normal(0, 4, (HEIGHT, WIDTH))
        images[row, 0] = np.clip(np.asarray(image, np.float32) + noise, 0, 255)
    return np.repeat((images / 255 - 0.5) / 0.5, 3, axis=1).astype(np.float32)


def read_characters(path: Path | None = None) -> tuple[str, ...]:
    """Character of each class: blank, those listed in the ONNX file's metadata, space.

    Raises ``MissingPackageError`` without rapidocr, ``NetworkError`` for a file without the list.
    """
    path = model_path() if path is None else path
    properties = {item.key: item.value for item in onnx.load(str(path)).metadata_props}
    if "character" not in properties:
        raise NetworkError(Problem("holds no list of characters", where=str(path), path="metadata"))
    return ("", *properties["character"].splitlines(), " ")


def model_path() -> Path:
    """The recognition network in the rapidocr package. Raises ``MissingPackageError`` without it."""
    spec = importlib.util.find_spec("rapidocr")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(path for folder in folders for path in Path(folder).glob("models/PP-OCRv6_rec*.onnx"))
    if not found:
        raise MissingPackageError("rapidocr 3.10 or later is needed: pip install --no-deps rapidocr")
    return found[-1]


def decode(probabilities: NDArray[np.float32], characters: Sequence[str]) -> list[str]:
    """Greedy CTC decoding of [n, columns, classes]."""
    lines = []
    for classes in probabilities.argmax(axis=2):
        changed = np.concatenate(([True], classes[1:] != classes[:-1]))
        lines.append("".join(characters[index] for index in classes[changed & (classes > 0)]))
    return lines


def edit_distance(first: str, second: str) -> int:
    """Fewest insertions, deletions and replacements that turn one text into the other (Levenshtein)."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


class PpOcrTask:
    """Evaluation and calibration lines, none of them in both.

    Raises ``MissingPackageError`` without rapidocr when it first decodes.
    """

    name = "pp_ocrv6"
    metric = "exact match"

    def __init__(
        self, input_name: str = "x", evaluation_count: int = EVALUATION_COUNT,
        calibration_count: int = CALIBRATION_COUNT,
    ) -> None:
        self.input_name = input_name
        self.evaluation_count = evaluation_count
        self.calibration_count = calibration_count

    @cached_property
    def _data(self) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
        # All lines are drawn together, so no line stands on both sides.
        lines = random_lines(self.evaluation_count + self.calibration_count, np.random.default_rng([SEED, 0]))
        images = render(lines, np.random.default_rng([SEED, 1]))
        split = self.evaluation_count
        return lines[:split], images[:split], images[split:]

    @cached_property
    def _characters(self) -> tuple[str, ...]:
        return read_characters()

    def calibration_feeds(self) -> Sequence[Feed]:
        """One batch of all calibration images."""
        return [{self.input_name: self._data[2]}]

    def evaluate(self, run: Run) -> TaskScore:
        """Share of lines read without any mistake; extra: ``character error rate``, edits a character."""
        lines, images, _ = self._data
        read: list[str] = []
        for feed in batches({self.input_name: images}, BATCH):
            read += decode(run(feed)[0], self._characters)
        exact = sum(text == line for text, line in zip(read, lines, strict=True))
        edits = sum(edit_distance(text, line) for text, line in zip(read, lines, strict=True))
        rate = edits / sum(map(len, lines))
        return TaskScore(exact / len(lines), len(lines), {"character error rate": rate})
