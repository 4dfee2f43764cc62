"""The built-in networks: each opens completely, and its work equals a count made without the import."""

from __future__ import annotations

import importlib.util
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx.shape_inference
import onnxruntime
import pytest

from simulator.errors import MissingPackageError, NetworkError
from simulator.layer import VectorOp
from workloads import import_model, library, list_networks, load_onnx, open_network
from workloads.onnx_read import read_model

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
SHAPES = [info.name for info in list_networks() if info.name.startswith("onnx_")]
PACKAGES = {"magika": "models/*/model.onnx", "rapidocr": "models/PP-OCRv6_rec*.onnx"}
TRAINED = {"digits_cnn": None, "magika": "magika", "pp_ocrv6": "rapidocr"}


def counted_macs(model: onnx.ModelProto) -> int:
    """MACs by one formula an operator, from the shapes that ONNX itself infers."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
              for value in (*inferred.input, *inferred.value_info, *inferred.output)}
    shapes.update({tensor.name: list(tensor.dims) for tensor in inferred.initializer})
    total = 0
    for node in inferred.node:
        if node.op_type == "Conv":
            total += prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
        elif node.op_type == "MatMul":
            total += prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        elif node.op_type == "Gemm":
            flags = {attribute.name: attribute.i for attribute in node.attribute}
            total += prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if flags.get("transA") else -1]
    return total


def package_model(package: str) -> onnx.ModelProto:
    spec = importlib.util.find_spec(package)
    if spec is None:
        pytest.skip(f"{package} is not installed")
    (path,) = Path(spec.submodule_search_locations[0]).glob(PACKAGES[package])
    return read_model(path)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


# In millions, as the literature has them for these variants.
KNOWN = {"onnx_alexnet": 655, "onnx_resnet50": 4089, "onnx_vgg19": 19632, "onnx_densenet121": 2834,
         "onnx_inception_v1": 1432, "onnx_inception_v2": 2019, "onnx_squeezenet": 349, "onnx_shufflenet": 125,
         "onnx_zfnet512": 1482}


@pytest.mark.parametrize("name", SHAPES)
def test_networks_of_the_onnx_wheel(name):
    network = open_network(name)
    (path,) = LIGHT.glob(f"light_*{name.removeprefix('onnx_')}.onnx")
    assert network.macs == counted_macs(onnx.load(path))
    assert round(network.macs / 1e6) == KNOWN[name]
    assert network.model is None and not network.bindings
    assert len(network.trained_layers) == len(network.layers) > 0


@pytest.mark.parametrize("name", TRAINED)
def test_trained_networks_are_bound_to_their_weights(name):
    if TRAINED[name]:
        package_model(TRAINED[name])
    network = open_network(name)
    assert network.macs == counted_macs(network.model)
    nodes = {node.name: node for node in network.model.graph.node}
    weights = {tensor.name: tensor for tensor in network.model.graph.initializer}
    assert set(network.bindings) == {layer.name for layer in network.layers}
    for layer in network.trained_layers:
        binding = network.bindings[layer.name]
        assert nodes[binding.node].input[binding.weight_slot] == binding.weight
        assert prod(weights[binding.weight].dims) == layer.weight_count
    onnx.checker.check_model(network.model, full_check=True)
    # Nothing is left out: every node of the folded model is an operation.
    assert set(nodes) == {op.name for op in network.operations}


@pytest.mark.parametrize(("package", "name", "layers", "weights"), [
    ("magika", "magika", 3, 781_376), ("rapidocr", "pp_ocrv6", 66, 5_232_744),
])
def test_folding_keeps_what_the_network_computes(package, name, layers, weights):
    model = package_model(package)
    network = open_network(name)
    assert len(network.trained_layers) == layers and network.weight_count == weights
    generator = np.random.default_rng(3)
    (value,) = network.model.graph.input
    shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    if name == "magika":
        data = generator.integers(0, 257, shape).astype(np.int32)
    else:
        data = generator.uniform(-1, 1, shape).astype(np.float32)
    for found, expected in zip(run(network.model, {value.name: data}), run(model, {value.name: data}), strict=True):
        assert found.shape == expected.shape
        assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_batches_and_other_widths():
    package_model("rapidocr")
    narrow = open_network("pp_ocrv6", input_shapes={"x": (1, 3, 48, 160)})
    assert narrow.macs < open_network("pp_ocrv6").macs / 1.9
    batch = open_network("digits_cnn", input_shapes=_batch("digits_cnn", 5))
    assert batch.macs == 5 * open_network("digits_cnn").macs
    assert [layer.name for layer in batch.layers] == [layer.name for layer in open_network("digits_cnn").layers]


def _batch(name: str, batch: int) -> dict[str, tuple[int, ...]]:
    (value,) = open_network(name).model.graph.input
    return {value.name: (batch, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]))}


def test_everything_listed_opens_and_is_described():
    for info in list_networks():
        assert info.summary and "\n" not in info.summary and info.kind in ("trained", "shapes")
        if info.requires and importlib.util.find_spec(info.requires) is None:
            continue
        if info.name == "onnx_vgg19":  # opened above
            continue
        network = open_network(info.name)
        assert network.name == info.name and network.source
        assert (network.model is not None) == (info.kind == "trained")
        assert any(isinstance(op, VectorOp) for op in network.operations)


def test_missing_packages_say_how_to_install_them(monkeypatch):
    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install 'bitmosaic\[networks\]'"):
        open_network("magika")
    with pytest.raises(MissingPackageError, match="pip install --no-deps rapidocr"):
        open_network("pp_ocrv6")


def test_a_release_without_the_file(monkeypatch, tmp_path):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(library.importlib.util, "find_spec", lambda name: Spec())
    with pytest.raises(MissingPackageError, match="holds no file models/PP-OCRv6_rec"):
        open_network("pp_ocrv6")


def test_unknown_names():
    with pytest.raises(NetworkError) as caught:
        open_network("resnet81")
    text = str(caught.value)
    assert "did you mean 'resnet18'" in text and ".onnx file" in text and "pp_ocrv6" in text
    with pytest.raises(NetworkError, match="no such file"):
        open_network("somewhere/net.onnx")
    with pytest.raises(NetworkError, match="cannot be changed"):
        open_network("resnet18", input_shapes={"x": (1, 3, 32, 32)})


def test_paths_open_files(tmp_path):
    path = tmp_path / "mine.onnx"
    onnx.save(open_network("digits_cnn").model, path)
    assert open_network(path).name == open_network(str(path)).name == load_onnx(path).name == "mine"
    model = onnx.load(path)
    assert import_model(model, name="again").macs == open_network("digits_cnn").macs
    with pytest.raises(NetworkError, match=r"mine\.onnx"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        open_network(path)
