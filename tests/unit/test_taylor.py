"""The first-order sensitivity: exact where it can be, near the measured harm on a trained network, refused by name."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from simulator.errors import NetworkError
from simulator.formats import Format
from simulator.precision import LayerPrecision
from workloads.accuracy import AccuracyEvaluator
from workloads.calibration import calibrate
from workloads.fake_quantised_model import Calibrated
from workloads.onnx_import import import_model
from workloads.quantisation import activation_parameters, quantise, quantise_activation
from workloads.sensitivity import default_method, estimate, spearman
from workloads.tasks import find_task
from workloads.taylor import squared_gradients

MENU = tuple(LayerPrecision.parse(text) for text in ("w8a8", "w6a6", "w4a4"))
RNG = np.random.default_rng(11)
WEIGHT = RNG.standard_normal((3, 5)).astype(np.float32)
INPUTS = RNG.standard_normal((6, 5)).astype(np.float32)


def small_network(*nodes, weight=WEIGHT):
    graph = helper.make_graph(
        list(nodes), "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])], [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return import_model(model, name="small", input_shapes={"x": (1, 5)})


def linear():
    return small_network(helper.make_node("Gemm", ["x", "w"], ["y"], name="linear", transB=1))


def turned():
    """The same product with its weight behind two nodes that the import may leave in place."""
    return small_network(
        helper.make_node("Identity", ["w"], ["same"], name="same"),
        helper.make_node("Transpose", ["same"], ["turned"], name="turned", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "turned"], ["y"], name="linear"),
    )


@pytest.mark.parametrize("build", [linear, turned])
def test_a_linear_layer_is_exact(build):
    """y = W·x: ‖∂y/∂W_ij‖² is x_j² whatever the signs, with one example a pass; ‖∂y/∂x_j‖² is Σ_i W_ij² in the mean."""
    network = build()
    feeds = [{"x": INPUTS}]
    calibrated = Calibrated(network, calibrate(network, feeds))
    found = squared_gradients(
        calibrated, feeds, ["linear"], [Format("int4"), Format("fp32")], one_by_one=True, projections=400
    )
    assert (found.count, found.projections) == (18, 400)
    after = quantise(WEIGHT, "int3").values
    errors = np.square((after - WEIGHT).astype(np.float64))
    stored = WEIGHT if network.bindings["linear"].weight == "w" else WEIGHT.T
    after = after if stored is WEIGHT else after.T
    squares = np.square(INPUTS.astype(np.float64)).sum(axis=0)
    assert found.weight_harm("linear", after) == pytest.approx((errors * squares).sum() / 18, rel=1e-6)
    trace = np.tile(squares, (3, 1)).mean() / 18
    assert found.trace_harm("linear", after) == pytest.approx(trace * errors.sum(), rel=1e-6)
    tensor = next(iter(calibrated.ranges))
    span = calibrated.ranges[tensor]
    moved = quantise_activation(INPUTS, activation_parameters(span.low, span.high, "int4")).values - INPUTS
    expected = (np.square(moved.astype(np.float64)) * np.square(WEIGHT).sum(axis=0)).sum() / 18
    assert found.input["linear", Format("int4")] == pytest.approx(expected, rel=0.1)
    assert found.input["linear", Format("fp32")] == 0


def test_examples_of_one_pass_do_not_mix():
    """Signs of examples are independent: the mean over projections is that of single examples."""
    network, feeds = linear(), [{"x": INPUTS}]
    calibrated = Calibrated(network, calibrate(network, feeds))
    single, together = (
        squared_gradients(calibrated, feeds, ["linear"], [], one_by_one=one_by_one, projections=500).weight["linear"]
        for one_by_one in (True, False)
    )
    np.testing.assert_allclose(together.mean(), single.mean(), rtol=0.05)


def test_predicts_the_measured_harm(digits, evaluator):
    predicted = estimate(digits, evaluator, MENU)
    measured = estimate(digits, evaluator, MENU, method="perturbation")
    assert predicted.method == "taylor"
    assert spearman(predicted.harm, measured.harm) > 0.95
    ratio = predicted.harm / measured.harm
    assert 0.8 < np.median(ratio) < 1.25 and (ratio > 0.5).all() and (ratio < 2).all()


def test_gradients_are_remembered_and_the_same_every_time(digits, evaluator):
    tables = []
    for source in (evaluator, AccuracyEvaluator(digits, find_task(digits), threads=1)):
        calls = []

        def progress(done, total, calls=calls):
            calls.append((done, total))

        for method in ("taylor", "taylor", "hessian_trace"):
            tables.append(estimate(digits, source, MENU, method=method, progress=progress))
        # 128 examples, four at once; the first evaluator has run them before.
        assert calls == ([] if source is evaluator else [(done, 32) for done in range(1, 33)])
    np.testing.assert_array_equal(tables[0].harm, tables[3].harm)
    np.testing.assert_array_equal(tables[1].harm, tables[4].harm)
    np.testing.assert_array_equal(tables[2].harm, tables[5].harm)
    narrow = (LayerPrecision.parse("w4a5"),)
    assert (estimate(digits, evaluator, narrow).harm > 0).all()  # another input format is another run


def test_an_operator_without_a_rule_is_named():
    network = small_network(
        helper.make_node("Gemm", ["x", "w"], ["product"], name="linear", transB=1),
        helper.make_node("Sin", ["product"], ["y"], name="wave"),
    )
    method, why = default_method(network)
    assert method == "perturbation" and "'wave'" in why and "'Sin'" in why
    calibrated = Calibrated(network, calibrate(network, [{"x": INPUTS}]))
    with pytest.raises(NetworkError, match=r"node 'wave': no vector–Jacobian product of operator 'Sin'"):
        squared_gradients(calibrated, [{"x": INPUTS}], ["linear"], [])


def test_what_lies_in_front_of_the_layers_needs_no_rule():
    network = small_network(
        helper.make_node("Sin", ["x"], ["wave"], name="wave"),
        helper.make_node("Gemm", ["wave", "w"], ["y"], name="linear", transB=1),
    )
    assert default_method(network) == ("taylor", "")


def test_a_gradient_that_is_not_finite_is_named():
    """√ has no slope at 0."""
    network = small_network(
        helper.make_node("Gemm", ["x", "w"], ["product"], name="linear", transB=1),
        helper.make_node("Sqrt", ["product"], ["y"], name="root"), weight=np.zeros((3, 5), np.float32),
    )
    feeds = [{"x": INPUTS}]
    with pytest.raises(NetworkError, match=r"root \(Sqrt\): gradient: is not finite"):
        squared_gradients(Calibrated(network, calibrate(network, feeds)), feeds, ["linear"], [])
