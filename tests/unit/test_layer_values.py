"""Codes of a layer's operands: laid out as the nest reads them, recorded where they can be, drawn as stated else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from simulator.errors import ConfigurationError, NetworkError, PrecisionError
from simulator.formats import Format
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from simulator.values import LayerValues
from tests.properties.test_reference_values import numpy_outputs
from workloads import open_network
from workloads.calibration import activation_sites, open_session, trained_model, with_free_batch
from workloads.fake_quantised_model import trained_weight
from workloads.layer_values import (
    Distribution,
    ValueRecorder,
    arrange,
    statistical_values,
)
from workloads.network import Network
from workloads.onnx_import import import_model
from workloads.tasks import Task, find_task

W8A8 = LayerPrecision.parse("w8a8")


def products_of(network: Network, layer: Layer, feed: dict[str, npt.NDArray[np.float32]]) -> tuple[object, object]:
    """Sums of products of a layer from its arranged operands, and what onnxruntime computes at its node, sorted."""
    binding = network.bindings[layer.name]
    sites = {site.operand: site.tensor for site in activation_sites(network) if site.layer == layer.name}
    model = with_free_batch(trained_model(network))
    node = next(node for node in model.graph.node if node.name == binding.node)
    wanted = list(dict.fromkeys([*(t for t in sites.values() if t not in feed), node.output[0]]))
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(tensor) for tensor in wanted)
    # The bias is no part of the nest.
    if node.op_type in ("Conv", "Gemm", "ConvTranspose") and len(node.input) > 2:
        del node.input[2:]
    found = {**feed, **dict(zip(wanted, open_session(model).run(None, feed), strict=True))}
    weight = trained_weight(network, layer.name) if binding.weight is not None else found[sites["weight"]]
    weights = arrange(weight, binding.weight_loops, layer, "weight")
    inputs = arrange(found[sites["input"]], binding.input_loops, layer, "input")
    assert weights is not None and inputs is not None
    scale = 1 << 12  # numpy_outputs adds whole numbers
    whole = numpy_outputs(layer, np.rint(weights * scale).astype(np.int64), np.rint(inputs * scale).astype(np.int64))
    return np.sort(whole.ravel() / scale**2), np.sort(found[node.output[0]].ravel())


def test_digits_operands_give_what_onnxruntime_computes() -> None:
    network = open_network("digits_cnn")
    task = find_task(network)
    assert task is not None
    feed = {name: array[3:4] for name, array in task.calibration_feeds()[0].items()}
    for layer in network.layers:
        ours, theirs = products_of(network, layer, feed)
        np.testing.assert_allclose(ours, theirs, atol=2e-2)


def made(node: onnx.NodeProto, inputs: dict[str, tuple[int, ...]], weight: tuple[int, ...] | None) -> Network:
    """A network of one node; its trained weight, where it has one, is called ``w``."""
    rng = np.random.default_rng(1)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    constants = []
    if weight is not None:
        constants = [numpy_helper.from_array(rng.normal(size=weight).astype(np.float32), "w")]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "made", values, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return import_model(model, name="made")


@pytest.mark.parametrize(
    ("node", "inputs", "weight"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"], group=2, pads=[1, 0, 1, 0], strides=[2, 1]),
         {"x": (1, 4, 6, 5)}, (6, 2, 3, 2)),
        (helper.make_node("Conv", ["x", "w"], ["y"], dilations=[2]), {"x": (2, 3, 9)}, (4, 3, 3)),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": (2, 5, 7)}, (7, 4)),
        (helper.make_node("MatMul", ["w", "x"], ["y"]), {"x": (3, 7, 2)}, (4, 7)),
        (helper.make_node("MatMul", ["x", "z"], ["y"]), {"x": (2, 3, 5, 7), "z": (2, 3, 7, 4)}, None),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), {"x": (3, 7)}, (5, 7)),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), {"x": (7, 3)}, (7, 5)),
        (helper.make_node("Einsum", ["x", "w"], ["y"], equation="bthd,hde->bte"), {"x": (2, 3, 4, 5)}, (4, 5, 6)),
        (helper.make_node("Einsum", ["x", "z"], ["y"], equation="bthd,bshd->bhts"),
         {"x": (2, 3, 4, 5), "z": (2, 6, 4, 5)}, None),
    ],
    ids=["grouped", "one_direction", "matmul", "left", "batched", "gemm_transposed", "gemm_left", "einsum",
         "attention"],
)
def test_every_layout_gives_what_onnxruntime_computes(node, inputs, weight) -> None:  # type: ignore[no-untyped-def]
    network = made(node, inputs, weight)
    rng = np.random.default_rng(2)
    feed = {name: rng.normal(size=shape).astype(np.float32) for name, shape in inputs.items()}
    (layer,) = network.layers
    ours, theirs = products_of(network, layer, feed)
    np.testing.assert_allclose(ours, theirs, atol=2e-2)


def test_recorded_codes_are_quantised_weights_and_activations() -> None:
    network = open_network("digits_cnn")
    recorder = ValueRecorder(network, find_task(network))
    for layer in network.layers:
        values = recorder.values(layer, W8A8)
        assert values.source == "recorded" and "digits" in values.note
        values.check(layer, W8A8)
        assert abs(values.weights).max() == 127  # scales are those of the largest magnitude
        assert values.inputs.max() > 20
    after_relu = recorder.values(next(layer for layer in network.layers if layer.name == "conv2"), W8A8)
    assert after_relu.inputs.min() == 0  # no zero point: ReLU's zeros have no bits
    other = ValueRecorder(network, find_task(network), example=1)
    assert (other.values(network.layers[0], W8A8).inputs != recorder.values(network.layers[0], W8A8).inputs).any()


def test_data_of_another_width_give_the_same_codes() -> None:
    network = open_network("digits_cnn")
    task = find_task(network)
    assert task is not None
    feeds = [{name: array.astype(np.float64) for name, array in feed.items()} for feed in task.calibration_feeds()]
    wide = SimpleNamespace(name=task.name, metric=task.metric, calibration_feeds=lambda: feeds, evaluate=task.evaluate)
    first, second = (ValueRecorder(network, each, example=5) for each in (task, cast("Task", wide)))
    for layer in network.layers:
        np.testing.assert_array_equal(first.values(layer, W8A8).inputs, second.values(layer, W8A8).inputs)


def test_an_example_that_is_not_there_is_refused() -> None:
    network = open_network("digits_cnn")
    with pytest.raises(NetworkError, match=r"example=128: there are 128 calibration examples"):
        ValueRecorder(network, find_task(network), example=128)


def test_trained_weights_without_data_stand_beside_drawn_activations() -> None:
    network = open_network("digits_cnn")
    layer = network.layers[1]
    values = ValueRecorder(network, None).values(layer, W8A8)
    assert values.source == "statistical" and values.note.startswith("input drawn (normal")
    recorded = ValueRecorder(network, find_task(network)).values(layer, W8A8)
    np.testing.assert_array_equal(values.weights, recorded.weights)
    drawn = ValueRecorder(network, find_task(network), choice="statistical").values(layer, W8A8)
    assert (drawn.weights != recorded.weights).any() and drawn.note == Distribution().describe()


def test_shapes_alone_get_statistical_codes() -> None:
    network = open_network("resnet18")
    recorder = ValueRecorder(network, find_task(network))
    layer = network.layers[3]
    values = recorder.values(layer, W8A8)
    assert values.source == "statistical" and values.note == Distribution().describe()
    values.check(layer, W8A8)


@pytest.mark.parametrize("shape", ["normal", "laplace"])
@pytest.mark.parametrize("name", ["int8", "uint8", "int4", "int16"])
def test_statistical_codes_follow_their_distribution(shape: str, name: str) -> None:
    layer = Layer(name="fc", dims={"K": 200, "C": 200, "P": 100})
    precision = LayerPrecision(weight=Format(name), input=Format(name))
    distribution = Distribution(shape=shape, relative_deviation=0.2)  # type: ignore[arg-type]
    values = statistical_values(layer, precision, distribution)
    values.check(layer, precision)
    highest = precision.weight.integer_range[1]
    assert values.inputs.min() == 0 and 0.4 < (values.inputs == 0).mean() < 0.7
    if precision.weight.is_signed:
        assert values.weights.std() == pytest.approx(0.2 * highest, rel=0.1)
        assert abs(values.weights.mean()) < 0.01 * highest
    twin = statistical_values(layer.model_copy(update={"name": "other"}), precision, distribution)
    np.testing.assert_array_equal(twin.weights, values.weights)
    reseeded = Distribution(shape=shape, relative_deviation=0.2, seed=1)  # type: ignore[arg-type]
    other = statistical_values(layer, precision, reseeded)
    assert (other.weights != values.weights).any()


def test_floating_point_has_no_codes_to_draw() -> None:
    with pytest.raises(PrecisionError, match="has no codes to draw"):
        statistical_values(Layer(name="fc", dims={"K": 2}), LayerPrecision.parse("bf16"))


def test_values_that_do_not_fit_are_all_named() -> None:
    layer = Layer(name="fc", dims={"K": 2, "C": 3})
    values = LayerValues(np.full((1, 2, 3, 1, 1), 200), np.zeros((1, 3)), "recorded")
    with pytest.raises(ConfigurationError) as caught:
        values.check(layer, W8A8)
    assert [problem.path for problem in caught.value.problems] == ["weights", "inputs"]
    assert "-128 … 127" in str(caught.value)
