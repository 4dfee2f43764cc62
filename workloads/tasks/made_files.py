"""Small files of known type, made in memory with Python's own writers and Pillow (a dependency of matplotlib).

For the types that a Python installation does not bring as files: archives, databases, images, sound, notebooks. All
content comes from one seeded generator.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import tarfile
import wave
import zipfile
from collections.abc import Callable, Iterator

import numpy as np

COPIES = 4  # of each type: two for evaluation, two for calibration
_WORDS = (
    "alpha", "bridge", "copper", "delta", "engine", "forest", "garden", "harbour", "island", "journey", "kettle",
    "ladder", "mountain", "needle", "orange", "pepper", "quarry", "river", "silver", "timber", "umbrella", "valley",
    "window", "yellow", "zebra", "anchor", "basket", "candle", "dragon", "emerald",
)


def made_files() -> Iterator[tuple[str, str, bytes]]:
    """Name, magika's label, and content of each file; the same on every call."""
    makers: dict[str, Callable[[np.random.Generator], bytes]] = {
        "zip": _zip, "tar": _tar, "gzip": lambda rng: gzip.compress(_text(rng), mtime=0),
        "bzip": lambda rng: bz2.compress(_text(rng)), "xz": lambda rng: lzma.compress(_text(rng)),
        "sqlite": _database, "npy": _npy, "npz": _npz, "wav": _sound, "pickle": _pickle, "csv": _table,
        "json": _json, "ipynb": _notebook, "png": _image("PNG"), "jpeg": _image("JPEG"), "gif": _image("GIF"),
        "bmp": _image("BMP"), "tiff": _image("TIFF"), "webp": _image("WEBP"), "ico": _image("ICO"),
        "ics": _calendar, "html": _page, "xml": _markup, "ini": _settings,
    }
    for label, make in makers.items():
        for copy in range(COPIES):
            # A generator for each file: adding a type does not change the others.
            rng = np.random.default_rng([copy, *label.encode()])
            yield f"made: {copy}.{label}", label, make(rng)


def _words(rng: np.random.Generator, count: int) -> list[str]:
    return [_WORDS[index] for index in rng.integers(0, len(_WORDS), count)]


def _text(rng: np.random.Generator) -> bytes:
    return "\n".join(" ".join(_words(rng, 9)) for _ in range(60)).encode()


def _zip(rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for word in dict.fromkeys(_words(rng, 5)):
            archive.writestr(zipfile.ZipInfo(f"{word}.txt"), _text(rng))
    return out.getvalue()


def _tar(rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for word in _words(rng, 4):
            content = _text(rng)
            info = tarfile.TarInfo(f"{word}.txt")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _database(rng: np.random.Generator) -> bytes:
    with sqlite3.connect(":memory:") as database:
        database.execute("CREATE TABLE stock (id INTEGER PRIMARY KEY, item TEXT NOT NULL, amount REAL)")
        rows = zip(_words(rng, 300), rng.normal(100, 20, 300).tolist(), strict=True)
        database.executemany("INSERT INTO stock (item, amount) VALUES (?, ?)", rows)
        database.commit()
        content: bytes = database.serialize()
    database.close()
    return content


def _npy(rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    np.save(out, rng.standard_normal((int(rng.integers(8, 40)), 16)))
    return out.getvalue()


def _npz(rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, first=rng.standard_normal(200), second=rng.integers(0, 9, 300))
    return out.getvalue()


def _sound(rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        tone = 8000 * np.sin(np.arange(8000) * rng.uniform(0.05, 0.3)) + rng.normal(0, 200, 8000)
        sound.writeframes(tone.astype("<i2").tobytes())
    return out.getvalue()


def _pickle(rng: np.random.Generator) -> bytes:
    return pickle.dumps({word: rng.random(6).tolist() for word in _words(rng, 40)}, protocol=4)


def _table(rng: np.random.Generator) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["id", *_words(rng, 3)])
    writer.writerows([row, *(round(value, 3) for value in rng.normal(0, 10, 3).tolist())] for row in range(80))
    return out.getvalue().encode()


def _json(rng: np.random.Generator) -> bytes:
    items = [{"id": row, "name": word, "tags": _words(rng, 3)} for row, word in enumerate(_words(rng, 30))]
    return json.dumps({"version": 1, "items": items}, indent=2).encode()


def _notebook(rng: np.random.Generator) -> bytes:
    cells = [
        {"cell_type": "code", "execution_count": row, "metadata": {}, "outputs": [],
         "source": [f"{word} = {row}\n", f"print({word} * 2)"]}
        for row, word in enumerate(_words(rng, 8))
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return json.dumps(
        {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}, indent=1
    ).encode()


def _image(kind: str) -> Callable[[np.random.Generator], bytes]:
    def make(rng: np.random.Generator) -> bytes:
        from PIL import Image  # comes with matplotlib

        size = 48 if kind == "ICO" else int(rng.integers(60, 120))
        rows, columns = np.mgrid[0:size, 0:size]
        waves = [np.sin(rows * a + columns * b) for a, b in rng.uniform(0.02, 0.2, (3, 2))]
        pixels = (127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, kind)
        return out.getvalue()

    return make


def _calendar(rng: np.random.Generator) -> bytes:
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//bitmosaic//EN"]
    for word in _words(rng, 6):
        lines += ["BEGIN:VEVENT", f"UID:{word}@example.org", f"DTSTART:202403{int(rng.integers(10, 28))}T090000Z",
                  f"SUMMARY:{word} meeting", "END:VEVENT"]
    return "\r\n".join([*lines, "END:VCALENDAR", ""]).encode()


def _page(rng: np.random.Generator) -> bytes:
    items = "\n".join(f"    <li><a href='/{word}'>{word.title()}</a></li>" for word in _words(rng, 20))
    title = " ".join(_words(rng, 3))
    return (
        f"<!DOCTYPE html>\n<html lang='en'>\n<head>\n  <meta charset='utf-8'>\n  <title>{title}</title>\n</head>\n"
        f"<body>\n  <h1>{title}</h1>\n  <ul>\n{items}\n  </ul>\n</body>\n</html>\n"
    ).encode()


def _markup(rng: np.random.Generator) -> bytes:
    rows = "\n".join(f'  <item id="{row}"><name>{word}</name></item>' for row, word in enumerate(_words(rng, 25)))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<stock>\n{rows}\n</stock>\n'.encode()


def _settings(rng: np.random.Generator) -> bytes:
    lines = []
    for section in dict.fromkeys(_words(rng, 5)):
        keys = dict.fromkeys(_words(rng, 4))
        lines += [f"[{section}]", *(f"{key} = {int(rng.integers(0, 100))}" for key in keys), ""]
    return "\n".join(lines).encode()
