"""The ONNX import: what is lowered computes what onnxruntime computes, and what is wrong is said plainly."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnx.defs
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from simulator.errors import NetworkError
from simulator.layer import Layer, VectorKind, VectorOp
from workloads.network import Network
from workloads.onnx_import import import_model, load_onnx
from workloads.onnx_operators import MICROSOFT, refusal

FLOAT = TensorProto.FLOAT
rng = np.random.default_rng(7)


def array(*shape: int) -> np.ndarray:
    """Small integers as floats: every order of summation gives the same sum."""
    return rng.integers(-4, 5, shape).astype(np.float32)


def make(nodes, inputs, outputs=("y",), initialisers=None, *, opset=17, microsoft=False, listed=()) -> onnx.ModelProto:
    """A model; inputs: name → shape, or (shape, element type)."""
    values = []
    for name, shape in inputs.items():
        element = FLOAT
        if shape and isinstance(shape[0], tuple):
            shape, element = shape
        values.append(helper.make_tensor_value_info(name, element, shape))
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (initialisers or {}).items()]
    values += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors if t.name in listed]
    graph = helper.make_graph(nodes, "test", values, [onnx.ValueInfoProto(name=name) for name in outputs], tensors)
    imports = [helper.make_opsetid("", opset)] + ([helper.make_opsetid("com.microsoft", 1)] if microsoft else [])
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def node(op_type, inputs, outputs=("y",), name=None, **attributes):
    name = op_type.lower() if name is None else name
    return helper.make_node(op_type, list(inputs), list(outputs), name=name, **attributes)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # The optimiser replaces a dequantised weight by an approximate product.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def evaluate(layer: Layer, weight: np.ndarray, data: np.ndarray) -> np.ndarray:
    """The eight loops, as ``simulator.layer`` writes them: weight[G,K,C,R,S], data[G,N,C,rows,columns]."""
    groups, batch, outputs, reduced, rows, columns, taps_r, taps_s = layer.shape
    assert weight.shape == (groups, outputs, reduced, taps_r, taps_s)
    assert data.shape == (groups, batch, reduced, *layer.stored_input_size)
    result = np.zeros((groups, batch, outputs, rows, columns))
    for p, q, r, s in itertools.product(range(rows), range(columns), range(taps_r), range(taps_s)):
        y = p * layer.stride[0] + r * layer.dilation[0] - layer.padding_begin[0]
        x = q * layer.stride[1] + s * layer.dilation[1] - layer.padding_begin[1]
        if not (0 <= y < data.shape[3] and 0 <= x < data.shape[4]):
            continue
        for g, n, k, c in itertools.product(range(groups), range(batch), range(outputs), range(reduced)):
            result[g, n, k, p, q] += weight[g, k, c, r, s] * data[g, n, c, y, x]
    return result


def bound_weight(network: Network, layer: Layer) -> np.ndarray:
    """The weight that the binding names, checked to be an initialiser that the node reads directly."""
    binding = network.bindings[layer.name]
    (bound,) = [entry for entry in network.model.graph.node if entry.name == binding.node]
    assert bound.input[binding.weight_slot] == binding.weight
    found = {tensor.name: tensor for tensor in network.model.graph.initializer}
    return numpy_helper.to_array(found[binding.weight])


def as_matrix(network: Network, layer: Layer) -> np.ndarray:
    """Weight [G,K,C,1,1] of a matrix product, read through its binding."""
    binding = network.bindings[layer.name]
    order = (*binding.weight_channel_axes, *binding.weight_reduced_axes)
    weight = bound_weight(network, layer)
    order += tuple(axis for axis in range(weight.ndim) if axis not in order)
    return weight.transpose(order).reshape(*(layer.extent(dim) for dim in "GKC"), 1, 1)


def only_layer(network: Network) -> Layer:
    (layer,) = network.layers
    return layer


# ---- convolutions ---------------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "plain": ((2, 3, 6, 5), (4, 3, 3, 2), {}),
    "grouped": ((1, 4, 5, 5), (6, 2, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    "depthwise": ((1, 3, 5, 5), (6, 1, 3, 3), {"group": 3, "pads": [1, 0, 1, 0]}),
    "strided": ((1, 2, 7, 8), (3, 2, 3, 3), {"strides": [2, 3], "pads": [1, 1, 1, 1]}),
    "dilated": ((1, 2, 9, 7), (3, 2, 3, 2), {"dilations": [2, 3], "pads": [2, 1, 2, 1]}),
    "asymmetric": ((1, 2, 5, 6), (3, 2, 3, 3), {"pads": [0, 2, 1, 0], "strides": [2, 1]}),
    "same_upper": ((1, 2, 5, 6), (3, 2, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same_lower": ((1, 2, 5, 6), (3, 2, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "valid": ((1, 2, 5, 6), (3, 2, 2, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    "pointwise": ((2, 3, 3, 2), (4, 3, 1, 1), {}),
    "line": ((2, 3, 9), (4, 3, 3), {"pads": [2, 1], "strides": [2], "dilations": [2]}),
    "line_same": ((1, 4, 8), (4, 2, 4), {"auto_pad": "SAME_LOWER", "group": 2}),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_equals_onnxruntime(case):
    shape, kernel, attributes = CONVOLUTIONS[case]
    data, weight = array(*shape), array(*kernel)
    model = make([node("Conv", ["x", "w"], **attributes)], {"x": shape}, initialisers={"w": weight})
    network = import_model(model, name="n")
    layer = only_layer(network)
    groups = attributes.get("group", 1)
    plane = (1, shape[2]) if len(shape) == 3 else shape[2:]
    taps = (1, kernel[2]) if len(kernel) == 3 else kernel[2:]
    nest_data = data.reshape(shape[0], groups, -1, *plane).swapaxes(0, 1)
    nest_weight = bound_weight(network, layer).reshape(groups, -1, kernel[1], *taps)
    found = evaluate(layer, nest_weight, nest_data)
    expected = run(model, {"x": data})
    assert np.array_equal(found.swapaxes(0, 1).reshape(expected.shape), expected)
    assert network.bindings[layer.name].weight_channel_axes == (0,)
    assert network.bindings[layer.name].weight_reduced_axes == tuple(range(1, len(kernel)))


TRANSPOSED = {
    "plain": ((1, 2, 3, 4), (2, 3, 2, 2), {}, VectorKind.REDUCTION),
    "disjoint": ((2, 2, 3, 2), (2, 3, 2, 2), {"strides": [2, 2]}, VectorKind.MOVEMENT),
    "grouped": ((1, 4, 3, 3), (4, 2, 3, 3), {"group": 2, "strides": [2, 2], "pads": [1, 1, 0, 1]},
                VectorKind.REDUCTION),
    "wider": ((1, 2, 3, 3), (2, 2, 3, 3), {"strides": [2, 2], "output_padding": [1, 1], "dilations": [2, 1]},
              VectorKind.REDUCTION),
    "line": ((1, 2, 5), (2, 3, 4), {"strides": [2]}, VectorKind.REDUCTION),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolution_is_a_nest_over_input_pixels(case):
    shape, kernel, attributes, kind = TRANSPOSED[case]
    data, weight = array(*shape), array(*kernel)
    model = make([node("ConvTranspose", ["x", "w"], **attributes)], {"x": shape}, initialisers={"w": weight})
    network = import_model(model, name="n")
    layer, scatter = network.operations
    assert isinstance(layer, Layer) and isinstance(scatter, VectorOp) and scatter.kind is kind
    groups, spatial = attributes.get("group", 1), len(shape) - 2
    plane = shape[2:] if spatial == 2 else (1, shape[2])
    taps = kernel[2:] if spatial == 2 else (1, kernel[2])
    nest_data = data.reshape(shape[0], groups, -1, *plane).swapaxes(0, 1)
    nest_weight = bound_weight(network, layer).reshape(groups, shape[1] // groups, -1).swapaxes(1, 2)[..., None, None]
    products = evaluate(layer, nest_weight, nest_data)
    products = products.swapaxes(0, 1).reshape(shape[0], groups * kernel[1], *taps, *plane)
    expected = run(model, {"x": data})
    target = expected if spatial == 2 else expected[:, :, None]
    stride = attributes.get("strides", [1] * spatial)
    dilation = attributes.get("dilations", [1] * spatial)
    begin = attributes.get("pads", [0] * (2 * spatial))[:spatial]
    if spatial == 1:
        stride, dilation, begin = [1, *stride], [1, *dilation], [0, *begin]
    scattered = np.zeros(target.shape)
    for r, s, p, q in itertools.product(*(range(extent) for extent in (*taps, *plane))):
        y, x = p * stride[0] + r * dilation[0] - begin[0], q * stride[1] + s * dilation[1] - begin[1]
        if 0 <= y < target.shape[2] and 0 <= x < target.shape[3]:
            scattered[:, :, y, x] += products[:, :, r, s, p, q]
    assert np.array_equal(scattered, target)
    assert layer.macs == np.prod(shape) * np.prod(kernel[1:])
    assert scatter.processed_count == layer.output_count and scatter.output_count == expected.size


def test_integer_convolutions_name_their_slots():
    data = rng.integers(0, 9, (1, 2, 5, 5)).astype(np.uint8)
    weight = rng.integers(-4, 5, (3, 2, 3, 3)).astype(np.int8)
    model = make([node("ConvInteger", ["x", "w"], pads=[1, 1, 1, 1])], {"x": ((1, 2, 5, 5), TensorProto.UINT8)},
                 initialisers={"w": weight})
    network = import_model(model, name="n")
    layer = only_layer(network)
    found = evaluate(layer, bound_weight(network, layer)[None].astype(int), data[None].astype(int))
    assert np.array_equal(found[0], run(model, {"x": data}))

    scalars = {"xs": np.float32(0.1), "xz": np.uint8(3), "ws": np.float32(0.2), "wz": np.int8(0),
               "ys": np.float32(0.3), "yz": np.uint8(7)}
    quantised = make([node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"])],
                     {"x": ((1, 2, 5, 5), TensorProto.UINT8)},
                     initialisers={"w": weight, "b": np.zeros(3, np.int32), **scalars})
    network = import_model(quantised, name="n")
    layer = only_layer(network)
    assert layer.has_bias and layer.shape == (1, 1, 3, 2, 3, 3, 3, 3)
    assert network.bindings[layer.name].weight_slot == 3
    assert bound_weight(network, layer).shape == (3, 2, 3, 3)


# ---- matrix products ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("weight_left", [False, True])
@pytest.mark.parametrize(("trans_a", "trans_b"), list(itertools.product((0, 1), (0, 1))))
def test_gemm_equals_onnxruntime(trans_a, trans_b, weight_left):
    left, right = array(4, 3), array(3, 5)
    left, right = (left.T.copy() if trans_a else left), (right.T.copy() if trans_b else right)
    data, weight = (right, left) if weight_left else (left, right)
    bias = array(4, 1) if weight_left else array(5)
    names = ["w", "x", "b"] if weight_left else ["x", "w", "b"]
    model = make([node("Gemm", names, transA=trans_a, transB=trans_b)], {"x": data.shape},
                 initialisers={"w": weight, "b": bias})
    network = import_model(model, name="n")
    layer = only_layer(network)
    assert layer.has_bias
    rows_first = data if (trans_a if not weight_left else not trans_b) == 0 else data.T  # [P, C]
    found = evaluate(layer, as_matrix(network, layer), rows_first.T[None, None, :, :, None])[0, 0, :, :, 0]  # [K, P]
    expected = run(model, {"x": data}) - bias
    assert np.array_equal(found if weight_left else found.T, expected)


def test_gemm_scales_cost_nothing_and_a_full_matrix_is_added_by_a_vector_op():
    model = make([node("Gemm", ["x", "w", "c"], alpha=0.5, beta=2.0)], {"x": (4, 3), "c": (4, 5)},
                 initialisers={"w": array(3, 5)})
    layer, add = import_model(model, name="n").operations
    assert layer.shape == (1, 1, 5, 3, 4, 1, 1, 1) and not layer.has_bias
    assert (add.operator, add.input_count, add.processed_count, add.fused) == ("Add", 40, 20, False)


# name: shape of x, shape of w, weight stands left, expected G K C P
MATMULS = {
    "right": ((4, 3), (3, 5), False, (1, 5, 3, 4)),
    "right_folds_leading_axes": ((2, 3, 4, 3), (3, 5), False, (1, 5, 3, 24)),
    "right_with_leading_one": ((2, 4, 3), (1, 3, 5), False, (1, 5, 3, 8)),
    "left": ((3, 5), (4, 3), True, (1, 4, 3, 5)),
    "left_folds_batch": ((2, 3, 5), (4, 3), True, (1, 4, 3, 10)),
    "batched": ((2, 4, 3), (2, 3, 5), False, (2, 5, 3, 4)),
    "batched_left": ((2, 3, 5), (2, 4, 3), True, (2, 4, 3, 5)),
    "batched_weight_broadcast_input": ((4, 3), (2, 3, 5), False, (1, 10, 3, 4)),
    "mixed": ((2, 1, 4, 3), (6, 3, 5), False, (1, 30, 3, 8)),
    "vector_input": ((3,), (3, 5), False, (1, 5, 3, 1)),
    "vector_weight": ((4, 3), (3,), False, (1, 1, 3, 4)),
}


@pytest.mark.parametrize("case", MATMULS)
def test_matmul_with_trained_weights_equals_onnxruntime(case):
    shape, weight_shape, weight_left, extents = MATMULS[case]
    data, weight = array(*shape), array(*weight_shape)
    model = make([node("MatMul", ["w", "x"] if weight_left else ["x", "w"])], {"x": shape}, initialisers={"w": weight})
    network = import_model(model, name="n")
    layer = only_layer(network)
    groups, _, reduced, rows = extents
    assert tuple(layer.extent(dim) for dim in "GKCP") == extents and not layer.weight_is_activation
    expected = run(model, {"x": data})
    if weight_left:  # y = w @ x: columns of x are the rows of the nest
        nest = np.swapaxes(data, -1, -2).reshape(groups, rows, reduced)
        answer = np.swapaxes(expected, -1, -2)
    else:
        nest, answer = data.reshape(groups, rows, reduced), expected
    found = evaluate(layer, as_matrix(network, layer), nest.transpose(0, 2, 1)[:, None, :, :, None])[:, 0, :, :, 0]
    if case == "batched_weight_broadcast_input":
        answer = answer.transpose(1, 0, 2)
    elif case == "mixed":
        answer = answer.transpose(0, 2, 1, 3)
    assert np.array_equal(found.transpose(0, 2, 1).reshape(answer.shape), answer)


def test_matmul_of_two_activations_is_grouped():
    model = make([node("MatMul", ["x", "z"])], {"x": (2, 4, 5, 3), "z": (2, 4, 3, 6)})
    network = import_model(model, name="n")
    layer = only_layer(network)
    assert layer.weight_is_activation and tuple(layer.extent(dim) for dim in "GKCP") == (8, 6, 3, 5)
    binding = network.bindings[layer.name]
    assert (binding.weight, binding.weight_slot, binding.input_slot) == (None, 1, 0)
    data, other = array(2, 4, 5, 3), array(2, 4, 3, 6)
    found = evaluate(layer, other.reshape(8, 3, 6).swapaxes(1, 2)[..., None, None],
                     data.reshape(8, 5, 3).swapaxes(1, 2)[:, None, :, :, None])[:, 0, :, :, 0]
    assert np.array_equal(found.swapaxes(1, 2).reshape(2, 4, 5, 6), run(model, {"x": data, "z": other}))


def test_shared_keys_fold_queries_into_rows():
    model = make([node("MatMul", ["x", "z"])], {"x": (2, 4, 5, 3), "z": (2, 1, 3, 6)})
    layer = only_layer(import_model(model, name="n"))
    assert tuple(layer.extent(dim) for dim in "GKCP") == (2, 6, 3, 20)


def test_integer_matmul():
    data, weight = rng.integers(0, 9, (4, 3)).astype(np.uint8), rng.integers(-4, 5, (3, 5)).astype(np.int8)
    model = make([node("MatMulInteger", ["x", "w"])], {"x": ((4, 3), TensorProto.UINT8)}, initialisers={"w": weight})
    network = import_model(model, name="n")
    layer = only_layer(network)
    found = evaluate(layer, as_matrix(network, layer).astype(int), data.T[None, None, :, :, None].astype(int))
    assert np.array_equal(found[0, 0, :, :, 0].T, run(model, {"x": data}))


EINSUMS = {
    "bij,jk->bik": ((2, 4, 3), (3, 5), (1, 5, 3, 8), "w"),
    "bhqd,bhkd->bhqk": ((2, 2, 4, 3), (2, 2, 5, 3), (4, 5, 3, 4), None),
    "...i,ij->...j": ((2, 4, 3), (3, 5), (1, 5, 3, 8), "w"),
    "ij, jk": ((4, 3), (3, 5), (1, 5, 3, 4), "w"),
    "abc,cde->abde": ((2, 4, 3), (3, 2, 5), (1, 10, 3, 8), "w"),
}


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsum_of_two_matrices(equation):
    shape, other, extents, weight = EINSUMS[equation]
    inputs = {"x": shape} if weight else {"x": shape, "w": other}
    initialisers = {"w": array(*other)} if weight else {}
    network = import_model(make([node("Einsum", ["x", "w"], equation=equation)], inputs, initialisers=initialisers),
                           name="n")
    layer = only_layer(network)
    assert tuple(layer.extent(dim) for dim in "GKCP") == extents
    assert network.bindings[layer.name].weight == weight and layer.weight_is_activation == (weight is None)


@pytest.mark.parametrize(("equation", "count", "rule"), [
    ("ii->i", 1, "1 operands"), ("ij,jk,kl->il", 3, "3 operands"), ("ij,kl->il", 2, "one operand alone"),
    ("ii,ij->ij", 2, "diagonal"),
])
def test_other_einsums_are_refused(equation, count, rule):
    names = [f"x{index}" for index in range(count)]
    model = make([node("Einsum", names, equation=equation)], dict.fromkeys(names, (3, 3)))
    with pytest.raises(NetworkError, match=rule):
        import_model(model, name="n")


# ---- recurrent and attention ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("cell", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_layers(cell, gates):
    steps, batch, width, hidden = 6, 2, 5, 7
    initialisers = {"w": array(2, gates * hidden, width), "r": array(2, gates * hidden, hidden),
                    "b": array(2, 2 * gates * hidden)}
    model = make([node(cell, ["x", "w", "r", "b"], hidden_size=hidden, direction="bidirectional")],
                 {"x": (steps, batch, width)}, initialisers=initialisers)
    network = import_model(model, name="n")
    projection, state, gate = network.operations
    assert projection.macs == steps * batch * 2 * gates * hidden * width and projection.has_bias
    assert state.macs == steps * batch * 2 * gates * hidden * hidden and state.extent("G") == 2
    assert gate.processed_count == steps * batch * 2 * hidden
    assert network.bindings[projection.name].weight == "w" and network.bindings[state.name].weight == "r"
    assert set(network.graph.predecessors(gate.name)) == {projection.name, state.name}


def attention_shapes(network: Network) -> dict[str, tuple[int, ...]]:
    return {layer.name.split(".")[-1]: tuple(layer.extent(dim) for dim in "GKCP") for layer in network.layers}


def test_attention_of_the_standard_with_shared_heads():
    model = make([node("Attention", ["q", "k", "v"], is_causal=1)], opset=23,
                 inputs={"q": (2, 8, 5, 4), "k": (2, 2, 6, 4), "v": (2, 2, 6, 3)})
    network = import_model(model, name="n")
    assert attention_shapes(network) == {"qk": (4, 6, 4, 20), "av": (4, 3, 6, 20)}
    assert [type(op).__name__ for op in network.operations] == ["Layer", "VectorOp", "Layer"]
    assert network.operations[1].processed_count == 2 * 8 * 5 * 6
    assert all(layer.weight_is_activation for layer in network.layers)


def test_attention_of_onnxruntime_brings_its_projection():
    model = make([node("Attention", ["x", "w", "b"], domain="com.microsoft", num_heads=2)], {"x": (2, 5, 8)},
                 initialisers={"w": array(8, 24), "b": array(24)}, microsoft=True)
    network = import_model(model, name="n")
    assert attention_shapes(network) == {"projection": (1, 24, 8, 10), "qk": (4, 5, 4, 5), "av": (4, 4, 5, 5)}
    (trained,) = network.trained_layers
    assert bound_weight(network, trained).shape == (8, 24) and trained.has_bias


def test_multi_head_attention_of_onnxruntime():
    model = make([node("MultiHeadAttention", ["q", "k", "v"], domain="com.microsoft", num_heads=2)],
                 {"q": (2, 5, 8), "k": (2, 6, 8), "v": (2, 6, 8)}, microsoft=True)
    network = import_model(model, name="n")
    assert attention_shapes(network) == {"qk": (4, 6, 4, 5), "av": (4, 4, 6, 5)}


def test_attention_with_a_cache_and_a_mask():
    model = make([node("Attention", ["q", "k", "v", "m", "pk", "pv"], ["y", "nk", "nv"])], opset=23,
                 inputs={"q": (1, 4, 1, 8), "k": (1, 4, 1, 8), "v": (1, 4, 1, 8), "m": (1, 10),
                         "pk": (1, 4, 9, 8), "pv": (1, 4, 9, 8)})
    cache, *_, softmax, _ = (network := import_model(model, name="n")).operations
    assert attention_shapes(network) == {"qk": (4, 10, 8, 1), "av": (4, 8, 10, 1)}
    assert cache.kind is VectorKind.MOVEMENT and cache.output_count == 2 * 4 * 10 * 8
    assert softmax.operations_per_element == 7 and softmax.input_count == 50


def test_fused_operators_of_onnxruntime():
    nodes = [node("FusedConv", ["x", "w"], ["c"], domain="com.microsoft", activation="Relu"),
             node("Reshape", ["c", "s"], ["r"]), node("FusedMatMul", ["r", "v"], domain="com.microsoft", transB=1)]
    model = make(nodes, {"x": (1, 2, 5, 5)}, microsoft=True,
                 initialisers={"w": array(3, 2, 3, 3), "v": array(7, 27), "s": np.array([1, 27])})
    network = import_model(model, name="n")
    convolution, product = network.layers
    assert convolution.macs == 27 * 18 and product.macs == 27 * 7
    assert network.bindings[product.name].weight_channel_axes == (0,)
    assert [(op.name, op.fused) for op in network.operations if isinstance(op, VectorOp)] == [
        ("fusedconv.activation", True), ("reshape", True)]


# ---- finding weights, folding constants ---------------------------------------------------------------------------

def weight_through_constant(weight):
    return [node("Constant", [], ["w"], value=numpy_helper.from_array(weight))], {}


def weight_through_identities(weight):
    return [node("Identity", ["w0"], ["w1"], name="a"), node("Identity", ["w1"], ["w"], name="b")], {"w0": weight}


def weight_through_transpose(weight):
    return [node("Transpose", ["w0"], ["w"], perm=[1, 0])], {"w0": weight.T.copy()}


def weight_through_cast(weight):
    return [node("Cast", ["w0"], ["w"], to=FLOAT)], {"w0": weight.astype(np.float16)}


def weight_through_squeeze(weight):
    return [node("Squeeze", ["w0", "axes"], ["w"])], {"w0": weight[None], "axes": np.array([0])}


def weight_through_dequantisation(weight):
    return ([node("DequantizeLinear", ["w0", "scale"], ["w"])],
            {"w0": weight.astype(np.int8), "scale": np.float32(1.0)})


def weight_through_arithmetic(weight):
    return ([node("Reshape", ["w0", "shape"], ["w1"]), node("Mul", ["w1", "two"], ["w"])],
            {"w0": (weight / 2).reshape(-1), "shape": np.array(weight.shape), "two": np.float32(2)})


@pytest.mark.parametrize("route", [weight_through_constant, weight_through_identities, weight_through_transpose,
                                   weight_through_cast, weight_through_squeeze, weight_through_dequantisation,
                                   weight_through_arithmetic])
def test_weights_are_found_behind_constant_subgraphs(route):
    weight, data = array(3, 5), array(4, 3)
    nodes, initialisers = route(weight)
    model = make([*nodes, node("MatMul", ["x", "w"])], {"x": (4, 3)}, initialisers=initialisers)
    network = import_model(model, name="n")
    layer = only_layer(network)
    assert len(network.operations) == 1 and len(network.model.graph.node) == 1
    assert np.array_equal(bound_weight(network, layer), weight)
    onnx.checker.check_model(network.model, full_check=True)
    assert np.array_equal(run(network.model, {"x": data}), run(model, {"x": data}))


def test_initialisers_listed_as_inputs_are_weights():
    model = make([node("MatMul", ["x", "w"])], {"x": (4, 3)}, initialisers={"w": array(3, 5)}, listed=["w"])
    network = import_model(model, name="n")
    assert network.bindings["matmul"].weight == "w"
    assert [value.name for value in network.model.graph.input] == ["x"]


def test_layers_behind_copies_of_one_weight_share_it():
    nodes = [node("Identity", ["w"], ["w1"], name="copy"), node("MatMul", ["x", "w"], ["a"], name="first"),
             node("MatMul", ["a", "w1"], ["y"], name="second")]
    network = import_model(make(nodes, {"x": (4, 3)}, initialisers={"w": array(3, 3)}), name="n")
    assert network.bindings["first"].weight == network.bindings["second"].weight == "w"
    assert len(network.model.graph.initializer) == 1


def test_a_network_without_trained_weights_keeps_no_model():
    nodes = [node("ConstantOfShape", ["s"], ["w"]), node("MatMul", ["x", "w"])]
    model = make(nodes, {"x": (1, 30000)}, initialisers={"s": np.array([30000, 50000])})  # 6 GB if it were computed
    network = import_model(model, name="n", keep_model=False)
    assert network.model is None and network.bindings == {} and network.macs == 30000 * 50000
    assert len(network.trained_layers) == 1


# ---- shapes -------------------------------------------------------------------------------------------------------

def dynamic_reshape() -> onnx.ModelProto:
    nodes = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["batch"], axis=0),
        node("Concat", ["batch", "minus"], ["target"], axis=0), node("Reshape", ["x", "target"], ["flat"]),
        node("MatMul", ["flat", "w"]),
    ]
    return make(nodes, {"x": ("batch", 2, 3)},
                initialisers={"zero": np.array([0]), "minus": np.array([-1]), "w": array(6, 5)})


def test_shape_arithmetic_is_folded():
    model = dynamic_reshape()
    network = import_model(model, name="n", input_shapes={"x": (4, 2, 3)})
    assert only_layer(network).shape == (1, 1, 5, 6, 4, 1, 1, 1)
    assert [op.name for op in network.operations] == ["reshape", "matmul"]
    view = network.operations[0]
    assert (view.input_count, view.output_count, view.processed_count) == (0, 0, 0)
    data = array(4, 2, 3)
    assert np.array_equal(run(network.model, {"x": data}), run(model, {"x": data}))


def test_dimension_values_by_name():
    assert import_model(dynamic_reshape(), name="n", dimension_values={"batch": 7}).layers[0].extent("P") == 7


def test_dynamic_inputs_without_values_are_all_named():
    model = make([node("Add", ["x", "z"])], {"x": ("batch", 3, 48, "width"), "z": (1, 3, 48, "width")})
    with pytest.raises(NetworkError) as caught:
        import_model(model, name="net")
    first, second = map(str, caught.value.problems)
    assert "input x" in first and "batch, 3, 48, width" in first and "--shape x=1,3,48,320" in first
    assert "input z" in second


@pytest.mark.parametrize(("shapes", "rule"), [
    ({"x": (4, 2)}, "must have 3 dimensions"), ({"x": (4, 2, 9)}, "dimension 2 is 3"),
    ({"y": (4, 2, 3)}, "no such input"), ({"x": (0, 2, 3)}, "at least 1"),
])
def test_wrong_input_shapes(shapes, rule):
    with pytest.raises(NetworkError, match=rule):
        import_model(dynamic_reshape(), name="n", input_shapes=shapes)


def test_shapes_that_inference_cannot_find_are_observed():
    nodes = [node("QuickGelu", ["x"], ["a"], domain="com.microsoft"), node("MatMul", ["a", "w"])]
    model = make(nodes, {"x": (4, 3)}, initialisers={"w": array(3, 5)}, microsoft=True)
    network = import_model(model, name="n")
    assert only_layer(network).extent("P") == 4 and network.operations[0].processed_count == 12


# ---- vector operations and fusion -----------------------------------------------------------------------------------

def test_counts_of_vector_operations():
    nodes = [
        node("MaxPool", ["x"], ["a"], kernel_shape=[3, 3], strides=[2, 2]), node("Softmax", ["a"], ["b"]),
        node("Slice", ["b", "start", "end"], ["c"]), node("Concat", ["c", "c"], ["d"], axis=1),
        node("Transpose", ["d"], ["e"], perm=[0, 2, 3, 1]), node("Gather", ["e", "rows"], ["f"], axis=3),
        node("ReduceMean", ["f"], ["g"], axes=[1]), node("Flatten", ["g"], ["y"]),
    ]
    model = make(nodes, {"x": (1, 4, 9, 9)}, initialisers={
        "start": np.array([0, 0]), "end": np.array([1, 2]), "rows": np.array([0, 2, 3])})
    counts = {op.operator: (op.kind.value, op.input_count, op.output_count, op.processed_count)
              for op in import_model(model, name="n").operations}
    assert counts == {
        "MaxPool": ("reduction", 324, 64, 576), "Softmax": ("normalisation", 64, 64, 64),
        "Slice": ("movement", 32, 32, 32), "Concat": ("movement", 64, 64, 64), "Transpose": ("movement", 64, 64, 64),
        "Gather": ("movement", 51, 48, 48), "ReduceMean": ("reduction", 48, 12, 48), "Flatten": ("movement", 0, 0, 0),
    }


def test_a_transposition_of_ones_moves_nothing():
    model = make([node("Transpose", ["x"], perm=[0, 2, 1])], {"x": (1, 1, 9)})
    assert import_model(model, name="n").operations[0].processed_count == 0


def fused_of(nodes, outputs=("y",)) -> dict[str, bool]:
    initialisers = {"w": array(3, 2, 1, 1), "scale": array(3), "bias": array(1, 3, 1, 1), "plane": array(1, 3, 4, 4),
                    "w2": array(3, 3, 1, 1)}
    model = make([node("Conv", ["x", "w"], ["c"]), *nodes], {"x": (1, 2, 4, 4)}, outputs, initialisers)
    return {op.name: op.fused for op in import_model(model, name="n").operations if isinstance(op, VectorOp)}


def test_elementwise_work_on_a_private_chain_is_fused():
    chain = [node("BatchNormalization", ["c", "scale", "scale", "scale", "scale"], ["n"]),
             node("Add", ["n", "bias"], ["a"]), node("Clip", ["a"], ["y"])]
    assert fused_of(chain) == {"batchnormalization": True, "add": True, "clip": True}


def test_what_two_operations_or_the_user_read_is_not_fused():
    swish = [node("Sigmoid", ["c"], ["s"]), node("Mul", ["c", "s"])]
    assert fused_of(swish) == {"sigmoid": False, "mul": False}
    assert fused_of([node("Relu", ["c"], ["y"])], outputs=("y", "c")) == {"relu": False}
    assert fused_of([node("Add", ["c", "plane"])]) == {"add": False}
    assert fused_of([node("Softmax", ["c"], ["s"]), node("Relu", ["s"])]) == {"softmax": False, "relu": False}
    residual = [node("Conv", ["c", "w2"], ["d"], name="conv2"), node("Add", ["c", "d"], ["a"]), node("Relu", ["a"])]
    assert fused_of(residual) == {"add": False, "relu": False}


def test_every_operator_of_onnx_is_lowered_or_refused():
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    understood = {name for name in names if refusal(helper.make_node(name, [], []), "") is None}
    assert {"Conv", "Softmax", "Resize", "LSTM", "Einsum", "TopK"} <= understood
    assert not understood & {"If", "Loop", "NonZero", "RandomNormal", "SequenceAt"}
    assert len(understood) > 130
    assert all(refusal(helper.make_node(name, [], [], domain="com.microsoft"), "") is None for name in MICROSOFT)


# ---- names, order, errors -----------------------------------------------------------------------------------------

def test_names_are_made_unique_and_nodes_sorted():
    nodes = [node("Relu", ["b"], ["y"], name=""), node("Relu", ["x"], ["a"], name="same"),
             node("Relu", ["a"], ["b"], name="same")]
    network = import_model(make(nodes, {"x": (2,)}), name="n")
    assert [op.name for op in network.operations] == ["same", "same_2", "Relu_0"]
    assert list(network.graph.edges) == [("same", "same_2"), ("same_2", "Relu_0")]


def test_the_model_given_is_not_changed():
    model = dynamic_reshape()
    before = model.SerializeToString(deterministic=True)
    import_model(model, name="n", input_shapes={"x": (4, 2, 3)})
    assert model.SerializeToString(deterministic=True) == before


def test_a_cycle_names_its_nodes():
    nodes = [node("Add", ["x", "c"], ["a"], name="one"), node("Relu", ["a"], ["b"], name="two"),
             node("Relu", ["b"], ["c"], name="three"), node("Relu", ["b"], ["y"], name="four")]
    with pytest.raises(NetworkError, match="cycle: one → two → three → one"):
        import_model(make(nodes, {"x": (2,)}), name="n")


def test_all_unknown_operators_at_once():
    branch = helper.make_graph([], "b", [], [onnx.ValueInfoProto(name="x")])
    nodes = [node("Sofmax", ["x"], ["a"], name="n1"), node("Conv", ["a"], ["b"], name="n2", domain="my.ops"),
             node("If", ["b"], ["c"], name="n3", then_branch=branch, else_branch=branch),
             node("NonZero", ["c"], ["d"], name="n4"), node("DeformConv", ["d", "d", "d"], ["y"], name="n5")]
    with pytest.raises(NetworkError) as caught:
        import_model(make(nodes, {"x": (2,)}), name="n")
    texts = [str(problem) for problem in caught.value.problems]
    assert len(texts) == 5
    assert "n1 (Sofmax)" in texts[0] and "did you mean 'Softmax'?" in texts[0]
    assert "my.ops" in texts[1] and "control flow" in texts[2] and "depends on the data" in texts[3]
    assert "cost is not known" in texts[4]


@pytest.mark.parametrize(("nodes", "rule"), [
    ([], "empty"),
    ([node("Relu", ["missing"])], "'missing', which nothing produces"),
    ([node("Relu", ["x"]), node("Tanh", ["x"])], "also produced by relu"),
    ([node("Relu", ["x", "x"])], "breaks the ONNX standard"),
    ([node("Relu", ["x"], ["z"])], "output 'y' is produced by no node"),
    ([node("Constant", [], ["y"], value_float=1.0)], "everything in it is constant"),
    ([node("Conv", ["x", "w3"])], "3 spatial dimensions"),
    ([node("MatMul", ["x", "w"])], "does not run"),
    ([node("Slice", ["x", "none", "none"], ["e"]), node("MatMul", ["e", "w4"])], r"do not fit together .* at least 1"),
])
def test_broken_graphs(nodes, rule):
    model = make(nodes, {"x": (1, 2, 4, 4, 4)}, initialisers={
        "w3": array(3, 2, 1, 1, 1), "w": array(3, 2), "w4": array(4, 2), "none": np.array([0])})
    with pytest.raises(NetworkError, match=rule) as caught:
        import_model(model, name="n")
    assert "Traceback" not in str(caught.value)


def test_files_that_are_missing_or_broken(tmp_path: Path):
    with pytest.raises(NetworkError, match="no such file"):
        load_onnx(tmp_path / "none.onnx")
    with pytest.raises(NetworkError, match="is a directory, not an ONNX file"):
        load_onnx(tmp_path)
    path = tmp_path / "net.onnx"
    for content in (b"", b"not a model at all", b"\x89PNG\r\n\x1a\n" + bytes(range(256))):
        path.write_bytes(content)
        with pytest.raises(NetworkError, match="is not an ONNX file"):
            load_onnx(path)


def test_a_file_cut_anywhere_is_one_clear_error(tmp_path: Path):
    whole = dynamic_reshape().SerializeToString()
    path = tmp_path / "net.onnx"
    path.write_bytes(whole)
    assert load_onnx(path, dimension_values={"batch": 2}).name == "net"
    for length in range(0, len(whole) - 5, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(NetworkError, match=r"net\.onnx"):
            load_onnx(path, dimension_values={"batch": 2})


def test_missing_external_data(tmp_path: Path):
    model = make([node("MatMul", ["x", "w"])], {"x": (4, 30)}, initialisers={"w": array(30, 50)})
    path = tmp_path / "net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert load_onnx(path).macs == 4 * 30 * 50
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(NetworkError, match="cannot be read"):
        load_onnx(path)


CORPUS = Path(onnx.__file__).parent / "backend" / "test" / "data"
MODELS = [path for folder in ("pytorch-converted", "pytorch-operator", "simple")
          for path in sorted((CORPUS / folder).glob("*/model.onnx"))]


@pytest.mark.skipif(not MODELS, reason="this onnx wheel brings no test models")
def test_models_of_the_onnx_test_suite_keep_their_function():
    """Each is either refused with a ``NetworkError``, or its folded model computes what it computed before."""
    refused, compared = [], 0
    for path in MODELS:
        try:
            network = load_onnx(path, name=path.parent.name)
        except NetworkError as error:
            refused.append(str(error))
            continue
        feeds = {}
        for value in network.model.graph.input:
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            feeds[value.name] = rng.uniform(0.1, 2, shape).astype(kind)
        original = onnx.load(path)
        del original.graph.value_info[:]
        weights = {tensor.name for tensor in original.graph.initializer}
        assert {value.name for value in original.graph.input} - weights == set(feeds)
        try:
            expected = run(original, feeds)
        except Exception:  # operators of 2017 that onnxruntime no longer has
            continue
        found = run(network.model, feeds)
        assert found.shape == expected.shape, path
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True), path
        compared += 1
    assert len(refused) < 0.2 * len(MODELS) and compared > 0.5 * len(MODELS)
