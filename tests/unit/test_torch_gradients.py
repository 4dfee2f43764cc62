"""Gradients by torch: equal to our own, operator by operator and through networks; clear errors with it and without.

What needs torch is skipped where it is not installed. The operators that we have no rules for are held to central
differences of onnxruntime.
"""

import importlib.util

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from bitmosaic.cli import main
from bitmosaic.explorations.accuracy_book import AccuracyBook
from bitmosaic.explorations.exploration import SENSITIVITY_FILE, rated_harms
from bitmosaic.explorations.methods import plan
from bitmosaic.explorations.records import HarmRecord
from bitmosaic.explorations.store import RecordFile
from bitmosaic.progress import Silent
from hw_configs import open_machine
from simulator.errors import ConfigurationError, MissingPackageError, NetworkError
from simulator.precision import LayerPrecision
from workloads import gradients as gradients_module
from workloads.accuracy import AccuracyEvaluator
from workloads.calibration import open_session, trained_model, with_free_batch
from workloads.gradients import GRADIENTS, TorchPass, open_pass
from workloads.onnx_import import import_model
from workloads.onnx_read import put_in_order
from workloads.reverse_pass import ReversePass, input_sites, weight_slots
from workloads.sensitivity import default_method, estimate
from workloads.tasks import find_task
from workloads.tasks.user_inputs import UserInputsTask
from workloads.torch_operators import OPERATORS
from workloads.vector_jacobian import RULES

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed (pip install 'bitmosaic[torch]')"
)
RNG = np.random.default_rng(23)
STEP = 2.0**-7  # single precision: smaller ones are lost in rounding


def normal(*shape):
    values = RNG.standard_normal(shape).astype(np.float32)
    return values + np.float32(0.05) * np.sign(values)  # away from kinks at 0


def positive(*shape):
    return np.abs(normal(*shape)) + np.float32(0.2)


def whole(*values):
    return np.array(values, np.int64)


SQUARE, IMAGE = normal(3, 4), normal(2, 4, 5, 6)
BETWEEN = np.float32(0.8) * np.tanh(SQUARE)  # inside −1 … 1
KERNEL = normal(4, 2, 3, 2)
UNARY = {
    **dict.fromkeys((
        "Abs", "Asinh", "Atan", "Cos", "Cosh", "Erf", "Exp", "Neg", "Relu", "Sigmoid", "Sin", "Sinh", "Tanh",
        "Identity", "HardSwish", "Mish", "Softplus", "Softsign", "Elu", "Celu", "Selu", "HardSigmoid", "LeakyRelu",
        "ThresholdedRelu",
    ), SQUARE),
    **dict.fromkeys(("Acos", "Asin", "Atanh", "Tan"), BETWEEN), "Acosh": 1 + positive(3, 4),
    **dict.fromkeys(("Log", "Sqrt", "Reciprocal"), positive(3, 4)),
}
# Operator, inputs, slots whose gradient is compared, attributes (``opset``: other than 20; ``outputs``: other than 1).
CASES = [
    *((operator, [x], [0], {}) for operator, x in UNARY.items()),
    *((operator, [normal(2, 3, 4), positive(3, 1)], [0, 1], {}) for operator in ("Add", "Sub", "Mul", "Div")),
    *((operator, [normal(3, 4), normal(4), normal(3, 1)], [0, 1, 2], {}) for operator in ("Sum", "Mean", "Max", "Min")),
    *((f"Reduce{kind}", [positive(2, 3, 4), whole(0, -1)], [0], {"keepdims": kept})
      for kind in ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
      for kept in (0, 1)),
    ("ReduceMean", [SQUARE], [0], {"opset": 13, "axes": [1]}),
    ("ReduceSum", [SQUARE, whole()], [0], {"noop_with_empty_axes": 1}),
    ("ReduceSum", [SQUARE], [0], {}),
    ("Dropout", [SQUARE], [0], {}),
    ("Clip", [SQUARE, np.float32(-0.5), np.float32(0.5)], [0], {}),
    ("Clip", [SQUARE, None, np.float32(0.5)], [0], {}),
    ("Clip", [SQUARE], [0], {"opset": 6, "min": -0.25}),
    ("PRelu", [SQUARE, normal(4)], [0, 1], {}),
    ("Gelu", [SQUARE], [0], {}),
    ("Gelu", [SQUARE], [0], {"approximate": "tanh"}),
    ("Pow", [positive(3, 4), normal(4)], [0, 1], {}),
    ("Pow", [SQUARE, whole(2)], [0], {}),
    ("Where", [SQUARE > 0, SQUARE, normal(4)], [1, 2], {}),
    ("Cast", [SQUARE], [0], {"to": TensorProto.FLOAT}),
    ("Reshape", [SQUARE, whole(2, -1)], [0], {}),
    ("Flatten", [IMAGE], [0], {"axis": 2}),
    ("Squeeze", [normal(3, 1, 2), whole(1)], [0], {}),
    ("Unsqueeze", [SQUARE, whole(0, 3)], [0], {}),
    ("Expand", [normal(3, 1), whole(2, 1, 4)], [0], {}),
    ("Transpose", [normal(2, 3, 4)], [0], {"perm": [2, 0, 1]}),
    ("Transpose", [normal(2, 3, 4)], [0], {}),
    ("Concat", [SQUARE, normal(3, 2)], [0, 1], {"axis": -1}),
    ("Split", [normal(5, 2), whole(2, 3)], [0], {"axis": 0, "outputs": 2}),
    ("Split", [normal(5, 2)], [0], {"axis": 0, "outputs": 2, "num_outputs": 2}),
    ("Slice", [normal(5, 6), whole(4, 1), whole(-(2**31), 2**31), whole(0, 1), whole(-2, 2)], [0], {}),
    ("Slice", [normal(5, 6), whole(-3), whole(-1)], [0], {}),
    ("Slice", [normal(5, 6)], [0], {"opset": 9, "starts": [1], "ends": [9], "axes": [1]}),
    ("Gather", [normal(4, 3), np.array([[0, -1], [2, 0]])], [0], {"axis": 0}),
    ("Gather", [normal(4, 3), np.array(1)], [0], {"axis": 1}),
    ("GatherElements", [normal(4, 3), np.array([[0, -1], [2, 0]])], [0], {"axis": 0}),
    ("Pad", [SQUARE, whole(1, 0, 0, 2)], [0], {}),
    ("Pad", [SQUARE, whole(1, -1), np.float32(3), whole(-1)], [0], {}),
    ("Pad", [normal(2, 3, 4), whole(1, 0, 1, 2), None, whole(1, 2)], [0], {"mode": "reflect"}),
    ("Pad", [normal(2, 3, 4), whole(0, 0, 1, 0, 0, 2)], [0], {"mode": "edge"}),
    ("Tile", [SQUARE, whole(2, 1)], [0], {}),
    *(("DepthToSpace", [normal(1, 8, 2, 3)], [0], {"blocksize": 2, "mode": mode}) for mode in ("DCR", "CRD")),
    ("SpaceToDepth", [normal(1, 2, 4, 6)], [0], {"blocksize": 2}),
    *((operator, [normal(2, 3, 4)], [0], {"axis": 1, "opset": opset})
      for operator in ("Softmax", "LogSoftmax") for opset in (11, 20)),
    ("LayerNormalization", [normal(2, 3, 4), normal(3, 4), normal(3, 4)], [0, 1, 2], {"axis": 1, "epsilon": 0.1}),
    ("LayerNormalization", [normal(2, 3, 4), normal(4)], [0, 1], {}),
    ("BatchNormalization", [IMAGE, normal(4), normal(4), normal(4), positive(4)], [0], {"epsilon": 0.1}),
    ("InstanceNormalization", [IMAGE, normal(4), normal(4)], [0, 1, 2], {"epsilon": 0.1}),
    ("LpNormalization", [SQUARE], [0], {"axis": 1, "p": 2}),
    ("LRN", [IMAGE], [0], {"size": 3, "alpha": 0.5}),
    ("CumSum", [SQUARE, np.array(1)], [0], {}),
    ("CumSum", [SQUARE, np.array(1)], [0], {"reverse": 1, "exclusive": 1}),
    ("GlobalAveragePool", [IMAGE], [0], {}),
    ("GlobalMaxPool", [IMAGE], [0], {}),
    ("MatMul", [normal(2, 3, 4), normal(4, 2)], [0, 1], {}),
    ("MatMul", [normal(4), normal(2, 4, 3)], [0, 1], {}),
    ("Gemm", [normal(4, 3), normal(2, 4), normal(2)], [0, 1, 2], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Einsum", [normal(2, 3, 4), normal(2, 4, 3)], [0, 1], {"equation": "bij,bjk->bik"}),
    ("Conv", [IMAGE, KERNEL, normal(4)], [0, 1, 2], {"group": 2, "strides": [2, 1], "pads": [0, 1, 2, 0]}),
    ("Conv", [IMAGE, KERNEL], [0, 1], {"group": 2, "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("Conv", [IMAGE, KERNEL], [0, 1], {"group": 2, "strides": [2, 3], "auto_pad": "SAME_LOWER"}),
    ("Conv", [normal(1, 2, 7), normal(3, 2, 2)], [0, 1], {"dilations": [3], "auto_pad": "VALID"}),
    ("ConvTranspose", [IMAGE, KERNEL, normal(4)], [0, 1, 2],
     {"group": 2, "strides": [2, 3], "pads": [1, 0, 2, 1], "output_padding": [1, 2]}),
    ("MaxPool", [IMAGE], [0], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1}),
    ("MaxPool", [IMAGE], [0], {"kernel_shape": [2, 2], "dilations": [2, 1]}),
    *(("AveragePool", [IMAGE], [0],
       {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 0, 1], "ceil_mode": 1, "count_include_pad": counts})
      for counts in (0, 1)),
    *(("AveragePool", [IMAGE], [0],
       {"kernel_shape": [2, 2], "strides": [2, 1], "auto_pad": "SAME_UPPER", "count_include_pad": counts})
      for counts in (0, 1)),
]


def one_node(operator, inputs, opset=20, outputs=1, **attributes):
    """A model of one node, with floating-point inputs given and all others constant; and what it is to be fed."""
    names = [f"x{slot}" if array is not None else "" for slot, array in enumerate(inputs)]
    feed, constants = {}, []
    for name, array in zip(names, inputs, strict=True):
        if name and np.issubdtype(array.dtype, np.floating):
            feed[name] = np.asarray(array)
        elif name:
            constants.append(numpy_helper.from_array(array, name))
    found = [f"y{place}" for place in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(operator, names, found, name="node", **attributes)], "one",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in feed.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in found], constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), feed


@needs_torch
@pytest.mark.parametrize(("operator", "inputs", "slots", "attributes"), CASES)
def test_operators(operator, inputs, slots, attributes):
    model, feed = one_node(operator, inputs, **attributes)
    places = [("node", slot) for slot in slots]
    passes = TorchPass(model, places)
    run = passes.forward(feed)
    over = {name: np.random.default_rng(3).standard_normal(value.shape).astype(np.float32)
            for name, value in run.outputs.items()}
    found = passes.backward(run, over)
    # That torch's values are onnxruntime's is asked here too, and more strictly than by the pass itself.
    for name, value in run.outputs.items():
        np.testing.assert_allclose(run.made[name].detach().numpy(), value, rtol=1e-4, atol=1e-5)
    if operator in RULES and operator != "Pad":  # ours knows no other padding than constants, nor cropping
        own = ReversePass(model, places)
        expected = own.backward(own.forward(feed), over)
        for place in places:
            assert found[place].shape == expected[place].shape == inputs[place[1]].shape
            np.testing.assert_allclose(found[place], expected[place], rtol=1e-3, atol=1e-5)
        return
    session = open_session(model, 1)
    for place in places:
        name = f"x{place[1]}"
        direction = np.random.default_rng(4).choice(np.array([-1, 1], np.float32), feed[name].shape)
        ends = [session.run(None, {**feed, name: feed[name] + np.float32(sign * STEP) * direction}) for sign in (1, -1)]
        up, down = (
            sum((value * part).sum(dtype=np.float64) for value, part in zip(end, over.values(), strict=True))
            for end in ends
        )
        assert (found[place] * direction).sum() == pytest.approx((up - down) / (2 * STEP), rel=5e-3, abs=5e-3)


def test_every_operator_is_tried_and_none_of_ours_is_missing():
    assert {case[0] for case in CASES} == set(OPERATORS)
    assert RULES.keys() <= OPERATORS.keys()


@needs_torch
def test_digits_have_our_gradients(digits):
    model = with_free_batch(trained_model(digits))
    layers = list(digits.bindings)
    slots = [*weight_slots(digits, layers).values(),
             *((site.node, site.slot) for site in input_sites(digits, layers).values())]
    feed = {name: values[:8] for name, values in find_task(digits).calibration_feeds()[0].items()}
    found = []
    for source in ("own", "torch"):
        passes = open_pass(model, slots, source, threads=1)
        run = passes.forward(feed)
        rng = np.random.default_rng(1)
        over = {name: rng.standard_normal(value.shape).astype(value.dtype) for name, value in run.outputs.items()}
        # Twice along one graph, as projections do.
        first, second = passes.backward(run, over), passes.backward(run, over)
        assert all((first[slot] == second[slot]).all() for slot in slots)
        found.append(first)
    for slot in slots:
        own, by_torch = (each[slot] for each in found)
        assert own.dtype == by_torch.dtype == np.float32 and own.shape == by_torch.shape
        np.testing.assert_allclose(by_torch, own, rtol=1e-4, atol=1e-5 * np.abs(own).max())


@pytest.fixture
def few_digits(digits, tmp_path):
    """Eight examples, as a user would give them."""
    examples = {name: values[:8] for name, values in find_task(digits).calibration_feeds()[0].items()}
    np.savez(tmp_path / "digits.npz", **examples)
    return UserInputsTask(digits, tmp_path / "digits.npz")


@needs_torch
def test_harms_are_ours_and_stand_apart_in_a_folder(digits, few_digits, tmp_path):
    menu = (LayerPrecision.parse("w4a8"), LayerPrecision.parse("w4a4"))
    own, by_torch = (AccuracyEvaluator(digits, few_digits, threads=1, gradients=each) for each in GRADIENTS)
    for method in ("taylor", "hessian_trace"):
        first, second = (estimate(digits, source, menu, method=method).harm for source in (own, by_torch))
        np.testing.assert_allclose(second, first, rtol=1e-4)
    books = [AccuracyBook(digits, few_digits, "subject", tmp_path, gradients=each) for each in GRADIENTS]
    for book, expected in zip(books, (own, by_torch), strict=True):
        rated = book.harms(menu, "taylor", Silent())
        table = estimate(digits, expected, menu)
        assert rated == pytest.approx(
            {(layer, each.label): table.of(layer, each) for layer in table.layers for each in menu}, rel=1e-4
        )
        book.harms(menu, "weight_error", Silent())
    records = list(RecordFile(tmp_path / SENSITIVITY_FILE, HarmRecord))
    # Ratings by gradients twice, what reads none once.
    count = len(table.layers) * len(menu)
    assert sorted((record.method, record.gradients) for record in records) == sorted(
        [("taylor", "own")] * count + [("taylor", "torch")] * count + [("weight_error", "own")] * count
    )
    for gradients in GRADIENTS:
        by_gradients = [record for record in records if (record.method, record.gradients) == ("taylor", gradients)]
        assert rated_harms(records, "subject", "taylor", "rtn", gradients) == {
            (record.layer, record.precision): record.harm for record in by_gradients
        }
        assert len(rated_harms(records, "subject", "weight_error", "rtn", gradients)) == count


def graph_of(*nodes, outputs=("y",), constants=None):
    graph = helper.make_graph(
        list(nodes), "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    return put_in_order(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "graph")


X = {"x": np.arange(1, 7, dtype=np.float32).reshape(2, 3)}
ONES = {"y": np.ones((2, 3), np.float32)}


@needs_torch
def test_uses_of_one_tensor_are_apart_and_what_nothing_depends_on_is_zero():
    model = graph_of(
        helper.make_node("Exp", ["x"], ["e"], name="exp"), helper.make_node("Mul", ["e", "e"], ["y"], name="square"),
        helper.make_node("Neg", ["x"], ["z"], name="other"), outputs=("y", "z"),
    )
    slots = [("square", 0), ("square", 1), ("exp", 0), ("other", 0)]
    for build in (ReversePass, TorchPass):
        passes = build(model, slots)
        found = passes.backward(passes.forward(X), ONES)
        np.testing.assert_allclose(found["square", 0], np.exp(X["x"]), rtol=1e-6)
        np.testing.assert_allclose(found["square", 1], np.exp(X["x"]), rtol=1e-6)
        np.testing.assert_allclose(found["exp", 0], 2 * np.exp(2 * X["x"]), rtol=1e-5)
        assert found["other", 0].shape == () and found["other", 0] == 0


@needs_torch
def test_a_shape_that_the_network_computes_is_onnxruntimes():
    model = graph_of(
        helper.make_node("Tanh", ["x"], ["t"], name="tanh"), helper.make_node("Shape", ["t"], ["s"], name="shape"),
        helper.make_node("Reshape", ["t", "s"], ["y"], name="reshape"),
    )
    passes = TorchPass(model, [("tanh", 0)])
    np.testing.assert_allclose(
        passes.backward(passes.forward(X), ONES)["tanh", 0], 1 - np.tanh(X["x"])**2, atol=1e-6
    )


@needs_torch
def test_errors_name_the_node(monkeypatch):
    root = graph_of(helper.make_node("Sub", ["x", "x"], ["zero"], name="nothing"),
                    helper.make_node("Sqrt", ["zero"], ["r"], name="root"),
                    helper.make_node("Mul", ["r", "x"], ["y"], name="scaled"))
    passes = TorchPass(root, [("nothing", 0)])
    with pytest.raises(NetworkError, match=r"root \(Sqrt\): gradient: is not finite"):
        passes.backward(passes.forward(X), ONES)
    deep = graph_of(helper.make_node("Unsqueeze", ["x", "axes"], ["wide"], name="wide"),
                    helper.make_node("Pad", ["wide", "pads"], ["y"], name="mirror", mode="reflect"),
                    constants={"axes": whole(0, 1, 2), "pads": whole(0, 0, 0, 1, 0, 0, 0, 0, 0, 1)})
    with pytest.raises(NetworkError, match=r"mirror \(Pad\): gradient: torch cannot run this form .*gradients='own'"):
        TorchPass(deep, [("wide", 0)]).forward(X)
    straight = graph_of(helper.make_node("Tanh", ["x"], ["t"], name="first"),
                        helper.make_node("Relu", ["t"], ["r"], name="second"),
                        helper.make_node("Neg", ["r"], ["y"], name="third"))
    monkeypatch.setitem(OPERATORS, "Relu", lambda torch, call: torch.sin(call.input(0)))
    with pytest.raises(NetworkError, match=r"second \(Relu\): gradient: torch's value is not onnxruntime's"):
        TorchPass(straight, [("first", 0)]).forward(X)


def ending_in(operator):
    model = graph_of(
        helper.make_node("Gemm", ["x", "w"], ["p"], name="linear"),
        helper.make_node(operator, ["p"], ["y"], name="end"),
        constants={"w": np.eye(3, dtype=np.float32)},
    )
    return import_model(model, name="small", input_shapes={"x": (2, 3)})


def test_which_operators_are_known_is_told_without_torch():
    """Hardmax has no gradient anywhere; the one of Sin is torch's alone, and our message says so."""
    assert default_method(ending_in("Sin"), "torch") == ("taylor", "")
    method, why = default_method(ending_in("Sin"))
    assert method == "perturbation"
    assert why.endswith("'Sin' is known: its gradient cannot be had, but by gradients='torch'")
    method, why = default_method(ending_in("Hardmax"), "torch")
    assert method == "perturbation" and "node 'end'" in why
    assert "operator 'Hardmax' is not known to gradients='torch'" in why
    assert "nor has gradients='own'" in why and "torch" not in default_method(ending_in("Hardmax"))[1]


@pytest.fixture
def without_torch(monkeypatch):
    real = importlib.import_module

    def missing(name):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name)

    monkeypatch.setattr(gradients_module.importlib, "import_module", missing)


@pytest.mark.usefixtures("without_torch")
def test_torch_that_is_not_installed(digits, tmp_path):
    message = r"package=torch: is needed for gradients='torch': pip install 'bitmosaic\[torch\]'; gradients='own' needs"
    with pytest.raises(MissingPackageError, match=message):
        AccuracyEvaluator(digits, find_task(digits), gradients="torch")
    with pytest.raises(MissingPackageError, match=message):
        open_pass(trained_model(digits), [], "torch")
    for command in ("explore", "compare"):
        found = CliRunner().invoke(main, [command, "--gradients", "torch", "--output", str(tmp_path / "new")])
        assert found.exit_code == 2 and "pip install 'bitmosaic[torch]'" in found.output
    assert not (tmp_path / "new").exists()


def test_a_wrong_name(digits):
    with pytest.raises(ConfigurationError, match=r"gradients='tortch': no such source of .*did you mean 'torch'"):
        AccuracyEvaluator(digits, find_task(digits), gradients="tortch")


@pytest.mark.parametrize(("method", "sensitivity", "rule"), [
    (None, "perturbation", "the sensitivity perturbation"), (None, "weight_error", "the sensitivity weight_error"),
    ("seada", "auto", "the method seada"), ("flexiq", "auto", "the method flexiq"),
    ("amp", "perturbation", "the method amp with the sensitivity perturbation"),
    ("measured", "auto", "the method measured"),
])
def test_gradients_that_nothing_reads(digits, method, sensitivity, rule):
    machine = open_machine("flexiq_like")
    with pytest.raises(ConfigurationError, match=rf"gradients=torch: are not read by {rule}$"):
        plan(digits, machine, method, None, sensitivity, None, gradients="torch")


@needs_torch
def test_a_plan_knows_where_its_gradients_come_from(digits):
    machine = open_machine("bit_fusion")
    for method in (None, "amp"):
        made = plan(digits, machine, method, None, "auto", None, gradients="torch")
        assert (made.gradients, made.sensitivity, made.note) == ("torch", "taylor", "")
    made = plan(ending_in("Hardmax"), machine, None, None, "auto", None, gradients="torch")
    assert made.sensitivity == "perturbation" and "'Hardmax'" in made.note
    assert plan(ending_in("Sin"), machine, None, None, "auto", None, gradients="torch").sensitivity == "taylor"
