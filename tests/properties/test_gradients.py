"""Vector–Jacobian products against finite differences, operator by operator and through whole graphs.

The forward values come from ONNX's reference evaluator in double precision, so that central differences are good to
six digits or more; the rules run on the same values. What slides a window over its input is linear or nearly so, and
is held to onnxruntime itself, with steps so large that single precision serves.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from workloads.calibration import open_session
from workloads.onnx_read import put_in_order
from workloads.reverse_pass import ReversePass
from workloads.vector_jacobian import RULES, Call

STEP = 1e-5
OPSET = 17
# Many operators, each simple: a few examples of each find what is wrong.
some = settings(max_examples=max(8, settings.default.max_examples // 8))
seeds = st.integers(0, 2**32 - 1)
extents = st.integers(1, 4)


def check_node(
    operator, inputs, wanted, opset=OPSET, outputs=1, tolerance=2e-6, step=STEP, by_onnxruntime=False, formula=None,
    **attributes,
):
    """Compare ⟨gradient, direction⟩ with the central difference along a random direction, for each wanted slot.

    ``formula`` replaces the forward pass by a function of the inputs.
    """
    if by_onnxruntime:
        inputs = [array.astype(np.float32) for array in inputs]
    names = [f"x{slot}" if array is not None else "" for slot, array in enumerate(inputs)]
    given_names = [(name, array) for name, array in zip(names, inputs, strict=True) if name]
    node = helper.make_node(operator, names, [f"y{place}" for place in range(outputs)], name="node", **attributes)
    graph = helper.make_graph(
        [node], "one", [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
                        for name, array in given_names],
        [helper.make_tensor_value_info(f"y{place}", TensorProto.FLOAT if by_onnxruntime else TensorProto.DOUBLE, None)
         for place in range(outputs)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    evaluator = open_session(model, 1) if by_onnxruntime else ReferenceEvaluator(model)

    def run(changed):
        if formula is not None:
            return [formula(*changed)]
        return evaluator.run(None, {name: changed[names.index(name)] for name, _ in given_names})

    rng = np.random.default_rng(5)
    values = run(inputs)
    over = tuple(rng.standard_normal(value.shape) for value in values)
    stored = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    call = Call("node", operator, opset, stored, tuple(inputs), tuple(values), frozenset(wanted))
    found = RULES[operator](call, over)
    for slot in wanted:
        assert found[slot].shape == inputs[slot].shape
        direction = rng.choice([-1.0, 1.0], inputs[slot].shape).astype(inputs[slot].dtype)
        ends = []
        for sign in (1, -1):
            changed = list(inputs)
            changed[slot] = inputs[slot] + (sign * step * direction).astype(inputs[slot].dtype)
            ends.append(sum((value * part).sum() for value, part in zip(run(changed), over, strict=True)))
        assert (found[slot] * direction).sum() == pytest.approx(
            (ends[0] - ends[1]) / (2 * step), rel=tolerance, abs=tolerance * max(1, inputs[slot].size)
        )


@st.composite
def arrays(draw, min_dims=0, max_dims=4, positive=False):
    shape = tuple(draw(st.lists(extents, min_size=min_dims, max_size=max_dims)))
    values = np.random.default_rng(draw(seeds)).standard_normal(shape)
    # Away from kinks at 0, and from places where two values are equal: those have no finite difference.
    return np.abs(values) + 0.1 if positive else values + 0.01 * np.sign(values)


SMOOTH = ("Identity", "Sigmoid", "Tanh", "Softplus", "Exp", "Neg", "Relu", "Abs", "LeakyRelu", "Dropout")


@pytest.mark.parametrize("operator", SMOOTH)
@some
@given(arrays())
def test_functions_of_one_variable(operator, x):
    check_node(operator, [x], {0}, **({"alpha": 0.3} if operator == "LeakyRelu" else {}))


@pytest.mark.parametrize("operator", ["Sqrt", "Log", "Reciprocal"])
@some
@given(arrays(positive=True))
def test_functions_of_positive_values(operator, x):
    check_node(operator, [x], {0})


def erf(x):
    """ONNX's reference rounds this function to single precision."""
    return np.vectorize(math.erf, otypes=[np.float64])(x)


@some
@given(arrays())
def test_error_function_and_gelu(x):
    check_node("Erf", [x], {0}, formula=erf)
    x = np.concatenate([x.ravel(), [0.0, 1e-4, 30.0, -30.0]])
    check_node("Gelu", [x], {0}, opset=20, approximate="tanh")
    check_node("Gelu", [x], {0}, opset=20, formula=lambda x: x * (0.5 + 0.5 * erf(x / math.sqrt(2))))


@some
@given(arrays(), st.floats(0.1, 0.4), st.floats(0, 1))
def test_kinks_that_move(x, alpha, beta):
    """ONNX's alpha and beta are single precision, and so is the reference's result near them."""
    assume(x.size == 0 or min(np.abs(alpha * x + beta).min(), np.abs(alpha * x + beta - 1).min()) > 1e-3)
    check_node("HardSigmoid", [x], {0}, alpha=alpha, beta=beta)
    far = x[(np.abs(np.abs(x) - 3) > 1e-3) & (np.abs(np.abs(x) - 0.5) > 1e-3)]
    check_node("HardSwish", [4 * far], {0})
    check_node("Clip", [far, np.array(-0.5), np.array(0.5)], {0})


@st.composite
def two_that_broadcast(draw):
    shape = draw(st.lists(extents, max_size=4))
    rng = np.random.default_rng(draw(seeds))
    pair = []
    for _ in range(2):
        own = [1 if draw(st.booleans()) else extent for extent in shape][draw(st.integers(0, len(shape))):]
        pair.append(rng.standard_normal(own))
    return pair


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Where"])
@some
@given(two_that_broadcast(), seeds)
def test_functions_of_two_variables(operator, pair, seed):
    first, second = pair
    if operator == "Div":
        second = np.sign(second) * (np.abs(second) + 0.3)
    if operator in ("Max", "Min"):
        assume(np.abs(first - second).min() > 1e-3)
    if operator == "Where":
        shape = np.broadcast_shapes(first.shape, second.shape)
        chosen = np.random.default_rng(seed).integers(0, 2, shape) > 0
        check_node(operator, [chosen, first, second], {1, 2})
    else:
        check_node(operator, [first, second], {0, 1})


@some
@given(two_that_broadcast())
def test_powers(pair):
    first, second = pair
    check_node("Pow", [np.abs(first) + 0.3, second], {0, 1}, tolerance=1e-5)
    check_node("Pow", [first, np.array(2.0)], {0})


@some
@given(arrays(min_dims=1), st.data())
def test_what_only_moves(x, data):
    order = data.draw(st.permutations(range(x.ndim)))
    check_node("Transpose", [x], {0}, perm=order)
    check_node("Reshape", [x, np.array([-1])], {0})
    check_node("Flatten", [x], {0}, axis=data.draw(st.integers(0, x.ndim)))
    check_node("Unsqueeze", [x, np.array([0])], {0})
    check_node("Squeeze", [x[None], np.array([0])], {0})
    check_node("Expand", [x, np.array([3, *(1 for _ in x.shape)])], {0})
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    check_node("Concat", [x, 2 * x, x], {0, 1, 2}, axis=axis)
    index_shape = data.draw(st.lists(extents, max_size=2))
    picked = data.draw(st.lists(st.integers(-x.shape[axis], x.shape[axis] - 1), min_size=int(np.prod(index_shape)),
                                max_size=int(np.prod(index_shape))))
    check_node("Gather", [x, np.array(picked, np.int64).reshape(index_shape)], {0}, axis=axis)
    pads = data.draw(st.lists(st.integers(0, 2), min_size=2 * x.ndim, max_size=2 * x.ndim))
    check_node("Pad", [x, np.array(pads)], {0})


@some
@given(arrays(min_dims=1), st.data())
def test_slices(x, data):
    axes, starts, ends, steps = [], [], [], []
    for axis in data.draw(st.sets(st.integers(0, x.ndim - 1), min_size=1)):
        step = data.draw(st.sampled_from([1, 2, -1, -2]))
        low = data.draw(st.integers(0, x.shape[axis] - 1))
        high = data.draw(st.integers(low + 1, x.shape[axis]))
        axes.append(axis)
        steps.append(step)
        starts.append(low if step > 0 else high - 1)
        end = high if step > 0 else low - 1
        # "To the very end" is written as a number beyond it, downwards too.
        ends.append(-(2**31) if end < 0 else end)
        if step > 0 and data.draw(st.booleans()):
            starts[-1] -= x.shape[axis]
            ends[-1] = data.draw(st.sampled_from([end, 2**31])) if end == x.shape[axis] else end - x.shape[axis]
    inputs = [np.array(part, np.int64) for part in (starts, ends, axes, steps)]
    check_node("Slice", [x, *inputs], {0})


@some
@given(arrays(min_dims=1), st.data())
def test_split(x, data):
    axis = data.draw(st.integers(0, x.ndim - 1))
    parts = data.draw(st.integers(1, 3))
    wide = np.concatenate([x] * parts, axis=axis)
    check_node("Split", [wide, np.array([x.shape[axis]] * parts)], {0}, outputs=parts, axis=axis)


REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare")


@pytest.mark.parametrize("operator", REDUCTIONS)
@some
@given(arrays(min_dims=1), st.data())
def test_reductions(operator, x, data):
    keepdims = int(data.draw(st.booleans()))
    axes = data.draw(st.none() | st.sets(st.integers(-x.ndim, -1), min_size=1).map(sorted))
    if operator in ("ReduceMax", "ReduceMin") and x.size > 1:
        assume(np.diff(np.sort(x, axis=None)).min() > 1e-3)
    check_node(operator, [x, None if axes is None else np.array(axes)], {0}, opset=18, keepdims=keepdims)
    if operator == "ReduceSum":  # its axes have been an input since operator set 13
        check_node(operator, [x, None if axes is None else np.array(axes)], {0}, opset=13, keepdims=keepdims)
    else:
        check_node(operator, [x], {0}, opset=13, keepdims=keepdims, **({} if axes is None else {"axes": axes}))


def test_an_empty_list_of_axes():
    x = np.arange(6.0).reshape(2, 3)
    check_node("ReduceSum", [x, np.array([], np.int64)], {0}, keepdims=0)
    check_node("ReduceSum", [x, np.array([], np.int64)], {0}, keepdims=0, noop_with_empty_axes=1)


@some
@given(arrays(min_dims=3), st.data())
def test_softmax_and_normalisation(x, data):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    check_node("Softmax", [x], {0}, axis=axis)
    rng = np.random.default_rng(data.draw(seeds))
    scale, bias = rng.standard_normal((2, *x.shape[axis:]))
    x = x + rng.standard_normal(x.shape)
    check_node("LayerNormalization", [x, scale, bias], {0, 1, 2}, axis=axis, epsilon=0.1, tolerance=1e-5)
    a, b, mean, variance = rng.standard_normal((4, x.shape[1]))
    check_node("BatchNormalization", [x, a, b, mean, np.abs(variance) + 0.1], {0}, epsilon=0.01)
    check_node("GlobalAveragePool", [x], {0})
    if x.ndim == 4 and (x.size == 1 or np.diff(np.sort(x, axis=None)).min() > 1e-3):
        check_node("GlobalMaxPool", [x], {0})  # ONNX's reference knows two spatial axes only


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_of_older_models_runs_over_all_axes_behind(axis):
    """Before operator set 13 the axes from ``axis`` on are one; the rule is held to a softmax over them, reshaped."""
    x = np.random.default_rng(3).standard_normal((2, 3, 4))
    rows = x.reshape(int(np.prod(x.shape[:axis])), -1)
    y = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
    over = np.random.default_rng(4).standard_normal(x.shape)
    old = RULES["Softmax"](
        Call("n", "Softmax", 11, {"axis": axis}, (x,), (y.reshape(x.shape),), frozenset({0})), (over,)
    )
    new = RULES["Softmax"](
        Call("n", "Softmax", 13, {"axis": 1}, (rows,), (y,), frozenset({0})), (over.reshape(rows.shape),)
    )
    np.testing.assert_allclose(old[0].reshape(rows.shape), new[0])


@some
@given(st.lists(extents, max_size=2), st.tuples(extents, extents, extents), st.data())
def test_matrix_products(batch, sizes, data):
    m, k, n = sizes
    rng = np.random.default_rng(data.draw(seeds))
    outer = [[1 if data.draw(st.booleans()) else extent for extent in batch][data.draw(st.integers(0, len(batch))):]
             for _ in range(2)]
    left = rng.standard_normal((k,) if data.draw(st.booleans()) and not outer[0] else (*outer[0], m, k))
    right = rng.standard_normal((k,) if data.draw(st.booleans()) and not outer[1] else (*outer[1], k, n))
    check_node("MatMul", [left, right], {0, 1})
    turned = [int(data.draw(st.booleans())) for _ in range(2)]
    a = rng.standard_normal((k, m) if turned[0] else (m, k))
    b = rng.standard_normal((n, k) if turned[1] else (k, n))
    c = rng.standard_normal(data.draw(st.sampled_from([(n,), (1, n), (m, 1), (m, n), ()])))
    check_node("Gemm", [a, b, c], {0, 1, 2}, transA=turned[0], transB=turned[1], alpha=0.5, beta=2.0)


@st.composite
def windows(draw):
    """Attributes of windows over one to three axes, and an input that holds at least one."""
    axes = draw(st.integers(1, 3))
    kernel, strides, dilations = (
        draw(st.lists(st.integers(1, top), min_size=axes, max_size=axes)) for top in (3, 3, 2)
    )
    auto = draw(st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    inputs = [wide + draw(st.integers(0, 3)) for wide in reach]
    if auto.startswith("SAME"):
        dilations = [1] * axes  # onnxruntime refuses others
    attributes = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    if auto == "NOTSET":
        # A window of padding alone has no largest value.
        attributes["pads"] = [draw(st.integers(0, wide // 2)) for _ in range(2) for wide in reach]
    else:
        attributes["auto_pad"] = auto
    return attributes, tuple(inputs), np.random.default_rng(draw(seeds))


COARSE = {"by_onnxruntime": True, "step": 2.0**-5, "tolerance": 2e-4}


@some
@given(windows(), st.tuples(extents, extents, st.integers(1, 3), st.integers(1, 2)))
def test_convolutions(window, sizes):
    attributes, inputs, rng = window
    groups, outputs, channels, batch = sizes
    x = rng.standard_normal((batch, groups * channels, *inputs))
    weight = rng.standard_normal((groups * outputs, channels, *attributes["kernel_shape"]))
    check_node("Conv", [x, weight, rng.standard_normal(groups * outputs)], {0, 1, 2}, group=groups, **COARSE,
               **attributes)


@some
@given(windows(), st.booleans(), st.booleans())
def test_pooling(window, counts_padding, reaches_further):
    attributes, inputs, rng = window
    if "auto_pad" in attributes:
        reaches_further = False
        # onnxruntime takes no windows with gaps between them there: its padding would be negative.
        pairs = zip(attributes["strides"], attributes["kernel_shape"], strict=True)
        attributes["strides"] = [min(pair) for pair in pairs]
    x = rng.permuted(np.arange(np.prod(inputs) * 2) / 7).reshape(1, 2, *inputs)  # no two nearer than two steps
    check_node("MaxPool", [x], {0}, ceil_mode=int(reaches_further), **COARSE, **attributes)
    if all(dilation == 1 for dilation in attributes.pop("dilations")):  # averages are dilated since operator set 19
        check_node("AveragePool", [x], {0}, count_include_pad=int(counts_padding), **COARSE, **attributes)


def test_a_cast_between_floating_point_types():
    x = np.arange(3.0)
    call = Call("n", "Cast", OPSET, {}, (x,), (x.astype(np.float32),), frozenset({0}))
    gradient = RULES["Cast"](call, (np.ones(3, np.float32),))[0]
    assert gradient.dtype == np.float64 and gradient.tolist() == [1, 1, 1]


def test_every_rule_is_tried():
    tried = {
        "HardSigmoid", "HardSwish", "Clip", "Gelu", "Erf", "Pow", "Cast", "Sum", "Split", "Slice", "Softmax", "Conv",
        "Gemm", "LayerNormalization", "BatchNormalization", "GlobalAveragePool", "GlobalMaxPool", "MaxPool",
        "AveragePool", "MatMul", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Concat",
        "Gather", "Pad", "Sqrt", "Log", "Reciprocal", "Add", "Sub", "Mul", "Div", "Max", "Min", "Where", *SMOOTH,
        *REDUCTIONS,
    }
    assert tried == set(RULES)


@some
@given(two_that_broadcast())
def test_sums_of_several(pair):
    check_node("Sum", [*pair, pair[0]], {0, 1, 2})
    check_node("Max", [pair[0], pair[0] + 1, pair[0] - 1], {0, 1, 2})


def make_model(nodes, inputs, outputs, constants):
    values = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape) for name, shape in inputs.items()]
    graph = helper.make_graph(
        nodes, "graph", values, [helper.make_tensor_value_info(name, TensorProto.DOUBLE, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    return put_in_order(model, "graph")


UNARY = ("Tanh", "Sigmoid", "Neg", "Identity", "Softmax", "LayerNormalization")


@some
@given(st.data(), seeds)
def test_random_graphs(data, seed):
    """Graphs in which tensors are read several times, with two outputs: the gradient at each slot is of that use."""
    rng = np.random.default_rng(seed)
    constants = {"scale": rng.standard_normal(3), "bias": rng.standard_normal(3)}
    tensors, nodes, slots = ["x"], [], []
    for number in range(data.draw(st.integers(1, 7))):
        name = f"n{number}"
        kind = data.draw(st.sampled_from([*UNARY, "Add", "Mul", "MatMul"]))
        inputs = [data.draw(st.sampled_from(tensors))]
        if kind == "LayerNormalization":
            inputs += ["scale", "bias"]
        elif kind in ("Add", "Mul"):
            inputs.append(data.draw(st.sampled_from(tensors)))
        elif kind == "MatMul":
            constants[f"w{number}"] = rng.standard_normal((3, 3))
            inputs.append(f"w{number}")
            slots.append((name, 1))
        slots.append((name, 0))
        nodes.append(helper.make_node(kind, inputs, [name], name=name))
        tensors.append(name)
    ends = list(dict.fromkeys([tensors[-1], data.draw(st.sampled_from(tensors[1:]))]))
    model = make_model(nodes, {"x": [2, 3]}, ends, constants)
    x = rng.standard_normal((2, 3))
    node, position = data.draw(st.sampled_from(slots))
    passes = ReversePass(model, [(node, position)])
    run = passes.forward({"x": x})
    over = {name: rng.standard_normal(value.shape) for name, value in run.outputs.items()}
    gradient = passes.backward(run, over)[node, position]
    # The oracle: that one slot reads the tensor plus a step along a direction.
    reader = next(item for item in model.graph.node if item.name == node)
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    place = [item.name for item in moved.graph.node].index(node)
    add = helper.make_node("Add", [reader.input[position], "step"], ["moved"], name="step")
    moved.graph.node[place].input[position] = "moved"
    moved.graph.node.insert(place, add)
    moved.graph.input.append(helper.make_tensor_value_info("step", TensorProto.DOUBLE, None))
    evaluator = ReferenceEvaluator(moved)
    shape = constants[reader.input[position]].shape if position else (2, 3)
    direction = rng.standard_normal(shape)
    up, down = (
        sum((value * over[name]).sum() for name, value in
            zip(ends, evaluator.run(None, {"x": x, "step": sign * STEP * direction}), strict=True))
        for sign in (1, -1)
    )
    # onnxruntime's exponentials are good to single precision only.
    assert (gradient * direction).sum() == pytest.approx((up - down) / (2 * STEP), rel=1e-4, abs=1e-4)
