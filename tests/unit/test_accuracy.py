"""Fake quantisation against NumPy, the fast session against rebuilt models, and measured accuracy."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from simulator.errors import NetworkError, PrecisionError
from simulator.formats import Format
from simulator.precision import LayerPrecision
from workloads.accuracy import AccuracyEvaluator, uniform
from workloads.calibration import ValueRange, calibrate, can_batch, with_free_batch
from workloads.fake_quantised_model import Calibrated, QuantisedSession, fake_quantised_model, quantised_weight
from workloads.network import LayerBinding, Network
from workloads.onnx_import import import_model
from workloads.quantisation import activation_parameters, quantise, quantise_activation
from workloads.tasks import find_task
from workloads.tasks.task import TaskScore

FP32 = Format("fp32")


def build(nodes, inputs, outputs, weights, name="small", opset=13):
    graph = helper.make_graph(
        nodes, name,
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in inputs.items()],
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs.items()],
        [numpy_helper.from_array(value, key) for key, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


def run_model(model, feed):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, dict(feed))


def scaling_network():
    """``y = x · 1``, so that the output is the quantised input."""
    model = build([helper.make_node("MatMul", ["x", "one"], ["y"], name="scale")], {"x": ["n", 1]}, {"y": ["n", 1]},
                  {"one": np.ones((1, 1), np.float32)})
    return import_model(model, name="scaling", input_shapes={"x": (1, 1)})


@pytest.mark.parametrize("format", ["int1", "int2", "int4", "uint4", "int8", "uint8", "int9", "uint12", "int16",
                                    "fp8_e4m3", "fp8_e5m2", "fp16", "bf16", "fp32"])
@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
def test_graph_rounds_as_numpy_does(format, scheme):
    network = scaling_network()
    rng = np.random.default_rng(1)
    powers = np.ldexp(1.0, np.arange(-30, 6))
    ties = np.outer(powers, [1, -1, 1.0625, 1.1875, 1.3125, 1 - 2**-24]).ravel()
    x = np.concatenate([rng.normal(0, 3, 500), [0.0, -0.0, 1e30, -1e30, 1e-38], ties]).astype(np.float32)
    calibrated = Calibrated(network, {"x": ValueRange(-4.0, 9.0)}, scheme)
    assignment = {network.layers[0].name: LayerPrecision(weight=FP32, input=Format(format))}
    feed = {"x": x[:, None]}
    expected = x
    if format != "fp32":
        expected = quantise_activation(x, activation_parameters(-4.0, 9.0, format, scheme)).values
    for output in (QuantisedSession(calibrated).runner(assignment)(feed),
                   run_model(fake_quantised_model(calibrated, assignment), feed)):
        np.testing.assert_array_equal(output[0][:, 0], expected)


MIXED = {
    "conv1": LayerPrecision.parse("w8a8"), "conv2": LayerPrecision.parse("w4a6"),
    "depthwise": LayerPrecision(weight=Format("fp8_e4m3"), input=Format("fp8_e5m2")),
    "pointwise": LayerPrecision(weight=Format("int4"), input=Format("int12"), weight_group=8),
    "linear1": LayerPrecision(weight=Format("int3"), input=FP32, weight_group=0),
}


@pytest.mark.parametrize("assignment", [{}, {"linear2": LayerPrecision.parse("w2a2")}, MIXED])
def test_shared_session_equals_rebuilt_model(digits, evaluator, assignment):
    feed = find_task(digits).calibration_feeds()[0]
    model = fake_quantised_model(evaluator.calibrated, assignment)
    onnx.checker.check_model(model)
    (rebuilt,), (fast,) = run_model(model, feed), evaluator.runner(assignment)(feed)
    # Both round the same numbers, up to the last bit of FP32 sums, which can move a value over a rounding edge.
    scale = np.abs(rebuilt).max()
    assert np.abs(rebuilt - fast).mean() < 1e-4 * scale and np.abs(rebuilt - fast).max() < 0.02 * scale
    assert (rebuilt.argmax(axis=1) == fast.argmax(axis=1)).all()


def test_digits_accuracy_falls_with_the_width_of_weights(digits, evaluator):
    values = {text: evaluator.measure(uniform(digits, LayerPrecision.parse(text))).value
              for text in ("w8a8", "w4a8", "w2a8")}
    fp32 = evaluator.fp32()
    assert (fp32.metric, fp32.count) == ("accuracy", 400)
    assert values["w8a8"] >= fp32.value - 0.01
    assert fp32.value - 0.06 < values["w4a8"] < fp32.value
    assert values["w2a8"] < 0.5


def test_finer_scales_help(digits, evaluator):
    errors = [evaluator.output_mse(uniform(digits, LayerPrecision(weight=Format("int4"), weight_group=group)))
              for group in (0, -1, 16)]
    assert errors[0] > errors[1] > errors[2] > 0
    assert evaluator.output_mse({}) == 0


def test_measured_once(digits):
    class Counting:
        name, metric, calls = "counting", "accuracy", 0

        def calibration_feeds(self):
            return find_task(digits).calibration_feeds()

        def evaluate(self, run):
            self.calls += 1
            return TaskScore(1.0, 1, {"more": 2.0})

    task = Counting()
    evaluator = AccuracyEvaluator(digits, task)
    first = evaluator.measure({"conv1": LayerPrecision()})
    # Accumulator and output formats change costs only.
    again = evaluator.measure({"conv1": LayerPrecision(accumulator=Format("int24"), output=Format("int4"))})
    assert again is first and task.calls == 1 and first.extra == {"more": 2.0} and first.cpu_seconds >= 0


def test_unknown_layer_and_format(evaluator):
    with pytest.raises(NetworkError, match="did you mean 'conv1'"):
        evaluator.measure({"conv_1": LayerPrecision()})
    with pytest.raises(PrecisionError, match="at most 16 bits"):
        evaluator.measure({"conv1": LayerPrecision(input=Format("int32"))})


def test_shapes_only_network_has_no_accuracy(digits):
    with pytest.raises(NetworkError, match="no accuracy"):
        calibrate(Network("shapes", digits.graph), [])


@pytest.mark.parametrize("feed, message", [
    ({"image": np.zeros((2, 1, 8, 9), np.float32)}, r"image=2×1×8×9: must have the shape any×1×8×8"),
    ({"image": np.full((2, 1, 8, 8), np.nan, np.float32)}, "NaN"),
    ({"imgae": np.zeros((2, 1, 8, 8), np.float32)}, "is missing"),
    ({"image": np.zeros((0, 1, 8, 8), np.float32)}, "holds no example"),
])
def test_bad_calibration_data(digits, feed, message):
    with pytest.raises(NetworkError, match=message):
        calibrate(digits, [feed])


class WideDigits:
    """The digits task, with its numbers in another type."""

    name, metric = "wide digits", "accuracy"

    def __init__(self, digits, dtype):
        self.task, self.dtype = find_task(digits), dtype

    def calibration_feeds(self):
        return [{"image": feed["image"].astype(self.dtype)} for feed in self.task.calibration_feeds()]

    def evaluate(self, run):
        return self.task.evaluate(lambda feed: run({"image": feed["image"].astype(self.dtype)}))


def test_data_of_another_width_are_those_of_the_inputs(digits, evaluator):
    wide = AccuracyEvaluator(digits, WideDigits(digits, np.float64), threads=1)
    assert {feed["image"].dtype for feed in wide.calibration_feeds} == {np.dtype(np.float32)}
    assignment = uniform(digits, LayerPrecision.parse("w4a4"))
    assert wide.measure(assignment).value == evaluator.measure(assignment).value
    assert wide.output_mse(assignment) == evaluator.output_mse(assignment)
    ranges = calibrate(digits, WideDigits(digits, np.float64).calibration_feeds())
    assert ranges == evaluator.calibrated.ranges
    with pytest.raises(NetworkError, match=r"calibration data of 'wide digits': image=complex128: must be float32"):
        AccuracyEvaluator(digits, WideDigits(digits, np.complex128))


def test_no_calibration_data(digits):
    with pytest.raises(NetworkError, match="no calibration data"):
        calibrate(digits, [])


def test_ranges_and_percentiles():
    network = scaling_network()
    values = np.linspace(-1, 3, 4001, dtype=np.float32)[:, None]
    feeds = [{"x": values[:2000]}, {"x": values[2000:]}]
    assert calibrate(network, feeds)["x"] == ValueRange(-1.0, 3.0)
    cut = calibrate(network, feeds, percentile=99)["x"]
    assert cut.low == pytest.approx(-0.96, abs=0.002) and cut.high == pytest.approx(2.96, abs=0.002)
    with pytest.raises(ValueError, match="percentile=40"):
        calibrate(network, feeds, percentile=40)


def hand_bound(model, bindings):
    import networkx as nx

    return Network("hand", nx.DiGraph(), model, bindings)


def test_layers_that_share_a_weight_are_quantised_apart():
    rng = np.random.default_rng(2)
    weight = rng.normal(size=(4, 4)).astype(np.float32)
    model = build(
        [helper.make_node("Identity", ["w"], ["same"], name="copy"),
         helper.make_node("Transpose", ["same"], ["turned"], name="turn", perm=[1, 0]),
         helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
         helper.make_node("MatMul", ["h", "turned"], ["y"], name="second")],
        {"x": ["n", 4]}, {"y": ["n", 4]}, {"w": weight},
    )
    network = hand_bound(model, {"first": LayerBinding("first", "w", (1,), (0,)),
                                 "second": LayerBinding("second", "w", (0,), (1,))})
    x = rng.normal(size=(5, 4)).astype(np.float32)
    calibrated = Calibrated(network, {})
    assignment = {"first": LayerPrecision(weight=Format("int2"), input=FP32),
                  "second": LayerPrecision(weight=Format("int5"), input=FP32)}
    expected = (x @ quantise(weight, "int2", channel_axes=(1,), group=-1).values
                @ quantise(weight, "int5", channel_axes=(0,), group=-1).values.T)
    for output in (QuantisedSession(calibrated).runner(assignment)({"x": x}),
                   run_model(fake_quantised_model(calibrated, assignment), {"x": x})):
        np.testing.assert_allclose(output[0], expected, rtol=1e-5, atol=1e-6)


def test_both_operands_of_an_attention_product_are_quantised():
    model = build([helper.make_node("MatMul", ["a", "b"], ["y"], name="scores")],
                  {"a": [1, 3, 4], "b": [1, 4, 2]}, {"y": [1, 3, 2]}, {})
    network = hand_bound(model, {"scores": LayerBinding("scores", None)})
    rng = np.random.default_rng(3)
    feed = {"a": rng.normal(size=(1, 3, 4)).astype(np.float32), "b": rng.normal(size=(1, 4, 2)).astype(np.float32)}
    calibrated = Calibrated(network, calibrate(network, [feed]))
    precision = LayerPrecision(weight=Format("int3"), input=Format("int5"))
    a, b = (
        quantise_activation(x, activation_parameters(float(x.min()), float(x.max()), format)).values
        for x, format in ((feed["a"], "int5"), (feed["b"], "int3"))
    )
    assert quantised_weight(network, "scores", precision) is None
    for output in (QuantisedSession(calibrated).runner({"scores": precision})(feed),
                   run_model(fake_quantised_model(calibrated, {"scores": precision}), feed)):
        np.testing.assert_allclose(output[0], a @ b, rtol=1e-5, atol=1e-6)


def reshaping_network(shape):
    """Reshape to a constant shape, as an import at batch 1 leaves it, then a product."""
    width = shape[-1]
    model = build(
        [helper.make_node("Reshape", ["x", "shape"], ["r"], name="reshape"),
         helper.make_node("MatMul", ["r", "w"], ["y"], name="product")],
        {"x": [1, 2, 6]}, {"y": [*shape[:-1], 3]},
        {"shape": np.array(shape, np.int64),
         "w": np.random.default_rng(4).normal(size=(width, 3)).astype(np.float32)},
    )
    return import_model(model, name="reshaping")


def test_batch_of_an_import_is_set_free():
    network = reshaping_network([1, 12])
    feed = {"x": np.random.default_rng(5).normal(size=(4, 2, 6)).astype(np.float32)}
    assert can_batch(network, feed)
    assert run_model(with_free_batch(network.model), feed)[0].shape == (4, 3)


def test_networks_that_cannot_batch_run_one_by_one():
    network = reshaping_network([6, 2])  # the batch disappears into the rows: 4 examples do not fit
    data = np.random.default_rng(6).normal(size=(4, 2, 6)).astype(np.float32)
    assert not can_batch(network, {"x": data})

    class Shapes:
        name, metric = "shapes", "agreement with FP32"

        def calibration_feeds(self):
            return [{"x": data}]

        def evaluate(self, run):
            return TaskScore(float(run({"x": data})[0].shape == (24, 3)), 4)

    evaluator = AccuracyEvaluator(network, Shapes())
    assert evaluator.fp32().value == 1.0
    assert evaluator.output_mse(uniform(network, LayerPrecision.parse("w4a4"))) > 0


def test_old_opsets_are_refused():
    model = build([helper.make_node("MatMul", ["x", "w"], ["y"], name="m")], {"x": [1, 2]}, {"y": [1, 2]},
                  {"w": np.eye(2, dtype=np.float32)}, opset=9)
    network = hand_bound(model, {"m": LayerBinding("m", "w", (1,), (0,))})
    with pytest.raises(NetworkError, match="opset=9"):
        QuantisedSession(Calibrated(network, {}))


def test_uncalibrated_range_is_named():
    with pytest.raises(NetworkError, match="'x': was not calibrated"):
        fake_quantised_model(Calibrated(scaling_network(), {}), {"scale": LayerPrecision()})
