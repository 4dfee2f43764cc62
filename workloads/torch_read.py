"""Reading the tensors of a state dict that PyTorch saved before 1.6: without PyTorch, without running what is in it.

Such a file is five pickles (a magic number, the format's version, facts on the machine, the objects, the keys of the
storages) and then, for each key, a count of 8 bytes and the values. A pickle can name any function to be called: here
only ordered dictionaries, the types of storages and the one function that makes a tensor of a storage are known, and
none of them is PyTorch's own. Anything else is refused. (Layout: torch/serialization.py, ``_legacy_save``.)
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from simulator.errors import NetworkError, Problem

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
}


@dataclass(frozen=True)
class _StorageType:
    """Stands for a class such as ``torch.FloatStorage``."""

    dtype: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage: places count values, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], requires_grad: bool, hooks: Any,
    *more: Any,
) -> _Tensor:
    """What the file's ``torch._utils._rebuild_tensor_v2`` becomes."""
    sizes = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or len(shape) != len(strides) or not all(
        type(size) is int and size >= 0 for size in sizes
    ):
        raise pickle.UnpicklingError("holds a tensor that is no view of a storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    **{("torch", name): _StorageType(dtype) for name, dtype in _TYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Knows what ``_KNOWN`` lists, and nothing else."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"names {module}.{name}, which is not read")
        known: Callable[..., Any] = _KNOWN[module, name]
        return known

    def persistent_load(self, identity: Any) -> _Storage:
        kind, storage_type, key, _, count, view = identity
        if kind != "storage" or not isinstance(storage_type, _StorageType) or view is not None:
            raise pickle.UnpicklingError("holds something else than whole storages")
        return _Storage(str(key), storage_type.dtype, int(count))


def read_state_dict(path: Path) -> dict[str, NDArray[Any]]:
    """Tensors by name.

    Raises ``NetworkError`` where the file is missing, cut short, of another format, or names anything beside tensors.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise _error(path, f"is refused: {error}") from error
    except NetworkError:
        raise
    except Exception as error:  # whatever a broken pickle makes of its own operations
        raise _error(path, "is no state dict of PyTorch before 1.6, or was cut short") from error


def _read(file: BinaryIO, path: Path) -> dict[str, NDArray[Any]]:
    if _Unpickler(file).load() != _MAGIC or _Unpickler(file).load() != _VERSION:
        raise _error(path, "is no state dict of PyTorch before 1.6")
    if not _Unpickler(file).load().get("little_endian"):
        raise _error(path, "was written on a machine of another byte order")
    found, keys = _Unpickler(file).load(), _Unpickler(file).load()
    if not isinstance(found, dict) or not all(isinstance(tensor, _Tensor) for tensor in found.values()):
        raise _error(path, "holds something else than a dictionary of tensors")
    storages = {tensor.storage.key: tensor.storage for tensor in found.values()}
    values = {}
    for key in keys:
        storage = storages[key]
        count, size = int.from_bytes(file.read(8), "little"), np.dtype(storage.dtype).itemsize
        content = file.read(size * storage.count) if count == storage.count else b""
        if count != storage.count or len(content) != size * count:
            raise _error(path, "was cut short: a storage lacks values")
        values[key] = np.frombuffer(content, storage.dtype)
    return {str(name): _view(tensor, values[tensor.storage.key], path, str(name)) for name, tensor in found.items()}


def _view(tensor: _Tensor, values: NDArray[Any], path: Path, name: str) -> NDArray[Any]:
    reach = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))
    if 0 not in tensor.shape and reach >= len(values):
        raise _error(path, "lies outside its storage", f"tensor {name!r}")
    strides = [step * values.itemsize for step in tensor.strides]
    view = np.lib.stride_tricks.as_strided(values[tensor.offset :], tensor.shape, strides, writeable=False)
    return np.ascontiguousarray(view).reshape(tensor.shape)


def _error(path: Path, rule: str, tensor: str = "") -> NetworkError:
    return NetworkError(Problem(rule, where=str(path), path=tensor))
