"""Reading a safetensors file: a JSON header of names, types, shapes and places, then the bytes of the tensors.

The format (github.com/huggingface/safetensors, README "Format"): 8 bytes, the header's length as a little-endian
number; the header; the data, which the header's ``data_offsets`` count from their begin. Nothing in it is executed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import NetworkError, Problem

_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Tensors by name, read-only.

    Raises ``NetworkError`` where the file is missing, cut short or no safetensors file, or holds a type that is not
    understood.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, _LONGEST_HEADER):
                raise _error(path, "is no safetensors file, or was cut short")
            header = json.loads(file.read(length))
            data = file.read()
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise _error(path, "is no safetensors file: its header is no JSON") from error
    if not isinstance(header, dict):
        raise _error(path, "is no safetensors file: its header names no tensors")
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            kind, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as error:
            raise _error(path, "has no dtype, shape or data_offsets", f"tensor {name!r}") from error
        if kind not in _TYPES:
            raise _error(path, f"has type {kind}, which is not understood", f"tensor {name!r}")
        dtype = np.dtype(_TYPES[kind])
        if not 0 <= start <= end <= len(data) or end - start != math.prod(shape) * dtype.itemsize:
            raise _error(path, "lies outside the file, or does not fill its place", f"tensor {name!r}")
        tensors[name] = np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)
    return tensors


def _error(path: Path, rule: str, tensor: str = "") -> NetworkError:
    return NetworkError(Problem(rule, where=str(path), path=tensor))
