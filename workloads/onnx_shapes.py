"""Static shapes for every tensor of an ONNX graph.

Three steps, each only where the one before was not enough: the input's dynamic dimensions are fixed by the
user; ONNX shape inference runs in turns with the folding of shape arithmetic (Shape → Slice → Concat → Reshape)
until nothing more resolves; what is still unknown is observed in one run of the model on onnxruntime.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.shape_inference
from onnx import TensorProto, helper, numpy_helper

from simulator.errors import NetworkError, Problem, closest
from workloads.onnx_constants import Array, Constants
from workloads.onnx_read import first_line

# Larger constants are weights; shape arithmetic is small. Inference sees only the type of the large ones.
_SMALL = 4096
_FACTORS = 16


@dataclass(frozen=True)
class TensorType:
    """Element type (a ``TensorProto`` number) and static shape of one tensor."""

    element: int
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def fix_inputs(
    model: onnx.ModelProto,
    input_shapes: Mapping[str, tuple[int, ...]],
    dimension_values: Mapping[str, int],
    where: str,
) -> None:
    """Write static shapes into the graph's inputs, in place, and forget all shapes that follow from them.

    Raises ``NetworkError``: one problem for each input that is unknown, contradicts its shape in the file, or
    keeps a dimension without a value.
    """
    graph = model.graph
    names = [value.name for value in graph.input]
    problems = [
        Problem("no such input", where, "input_shapes", name, tuple(names), closest(name, names))
        for name in input_shapes
        if name not in names
    ]
    for value in graph.input:
        problem = _fix_input(value, input_shapes.get(value.name), dimension_values, where)
        if problem:
            problems.append(problem)
    if problems:
        raise NetworkError(problems)
    # Shapes stored in the file may be for another input size.
    del graph.value_info[:]
    for output in graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")


def _fix_input(
    value: onnx.ValueInfoProto, given: tuple[int, ...] | None, dimension_values: Mapping[str, int], where: str
) -> Problem | None:
    path = f"input {value.name}"
    if not value.type.HasField("tensor_type"):
        return Problem("must be a tensor; sequences, maps and optionals are not understood", where, path)
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        if given is None:
            return Problem(f"has no shape: give one (--shape {value.name}=1,3,224,224)", where, path)
        for extent in given:
            tensor.shape.dim.add().dim_value = extent
    dims = tensor.shape.dim
    shown = [str(dim.dim_value) if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims]
    if given is not None and len(given) != len(dims):
        return Problem(f"must have {len(dims)} dimensions, as in the file: {', '.join(shown)}", where, path, str(given))
    for axis, dim in enumerate(dims):
        fixed = dim.dim_value if dim.dim_value > 0 else None
        if fixed is None:
            fixed = given[axis] if given is not None else dimension_values.get(dim.dim_param)
        elif given is not None and given[axis] != fixed:
            return Problem(f"dimension {axis} is {fixed} in the file", where, path, str(given))
        if fixed is None:
            continue
        if fixed < 1:
            return Problem("every dimension must be at least 1", where, path, str(given or fixed))
        dim.dim_value = fixed
    if any(dim.dim_value < 1 for dim in dims):
        # A batch of one, and the width that text recognisers use: an example, not a default.
        example = ",".join(
            str(dim.dim_value) if dim.dim_value > 0 else ("1" if axis == 0 else "320") for axis, dim in enumerate(dims)
        )
        rule = f"has dynamic dimensions ({', '.join(shown)}): give its shape, e.g. --shape {value.name}={example}"
        return Problem(rule, where, path)
    return None


def resolve(model: onnx.ModelProto, constants: Constants, where: str) -> dict[str, TensorType]:
    """Return the type of every tensor that is read in a graph whose inputs are static, constants included.

    ``constants`` learns the values of all ``Shape`` and ``Size`` nodes on the way.

    Raises ``NetworkError`` where the operands of a node contradict each other, or a shape cannot be found.
    """
    types = _infer_and_fold(model, constants, {}, where)
    if missing := _unresolved(model, types):
        observed = _observe(model, constants, missing, where)
        types = _infer_and_fold(model, constants, {**types, **observed}, where)
    if missing := _unresolved(model, types):
        raise NetworkError(
            Problem("the shape of this tensor cannot be found", where, f"{node.name} ({node.op_type})", tensor)
            for tensor, node in missing.items()
        )
    return types


def _unresolved(model: onnx.ModelProto, types: Mapping[str, TensorType]) -> dict[str, onnx.NodeProto]:
    """Tensors without a type that somebody reads: optional outputs (a dropout's mask) need none."""
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    return {name: node for node in model.graph.node for name in filter(None, node.output)
            if name in read and name not in types}


def _infer_and_fold(
    model: onnx.ModelProto, constants: Constants, known: Mapping[str, TensorType], where: str
) -> dict[str, TensorType]:
    """Alternate inference and folding until neither finds anything new."""
    folded: dict[str, Array] = {}
    while True:
        types = {**known, **_infer(model, folded, known, where)}
        before = len(folded)
        for node in model.graph.node:
            if node.op_type in ("Shape", "Size") and node.output[0] not in folded and node.input[0] in types:
                array = _measure(node, types[node.input[0]])
                folded[node.output[0]] = array
                constants.set(node.output[0], array)
        for node in model.graph.node:
            for name in filter(None, node.output):
                wanted = name not in types or _may_be_a_shape(types[name])
                if name in constants.names and name not in folded and wanted and constants.is_known(name):
                    folded[name] = constants.array(name)
        if len(folded) == before:
            return types


def _may_be_a_shape(kind: TensorType) -> bool:
    """Whether inference may need the value: small integers, or the few factors of a resize."""
    is_float = kind.element in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return kind.count <= (_FACTORS if is_float else _SMALL)


def _measure(node: onnx.NodeProto, tensor: TensorType) -> Array:
    """Evaluate a ``Shape`` or ``Size`` node."""
    if node.op_type == "Size":
        return np.asarray(tensor.count, np.int64)
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.asarray(tensor.shape[bounds.get("start") : bounds.get("end")], np.int64)


def _infer(
    model: onnx.ModelProto, folded: Mapping[str, Array], known: Mapping[str, TensorType], where: str
) -> dict[str, TensorType]:
    """Run ONNX shape inference on the graph without its weights, with what is folded as initialisers."""
    skeleton = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    skeleton.opset_import.extend(model.opset_import)
    skeleton.graph.name = "skeleton"
    skeleton.graph.input.extend(model.graph.input)
    skeleton.graph.output.extend(model.graph.output)
    found = {}
    for tensor in model.graph.initializer:
        kind = TensorType(tensor.data_type, tuple(tensor.dims))
        found[tensor.name] = kind
        if kind.count <= _SMALL:
            skeleton.graph.initializer.append(tensor)
        else:
            skeleton.graph.input.append(helper.make_tensor_value_info(tensor.name, kind.element, kind.shape))
    for name, array in folded.items():
        tensor = numpy_helper.from_array(array, name)
        found[name] = TensorType(tensor.data_type, tuple(array.shape))
        if array.size <= _SMALL:
            skeleton.graph.initializer.append(tensor)
        else:
            skeleton.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, array.shape))
    skeleton.graph.node.extend(
        node for node in model.graph.node if not all(name in folded for name in node.output if name)
    )
    for name, kind in known.items():
        if name not in found:
            skeleton.graph.value_info.append(helper.make_tensor_value_info(name, kind.element, kind.shape))
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, strict_mode=True, data_prop=True)
    except Exception:
        # Strict mode also objects to operators of other domains. Where the graph contradicts itself, lenient
        # inference leaves tensors open, and onnxruntime says what is wrong when it is asked for them.
        try:
            inferred = onnx.shape_inference.infer_shapes(skeleton, strict_mode=False, data_prop=True)
        except Exception as error:
            raise NetworkError(Problem(f"shapes cannot be inferred: {first_line(error)}", where)) from error
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        tensor_type = value.type.tensor_type
        dims = tensor_type.shape.dim
        if tensor_type.HasField("shape") and all(dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims):
            found.setdefault(value.name, TensorType(tensor_type.elem_type, tuple(dim.dim_value for dim in dims)))
    return found


def _observe(
    model: onnx.ModelProto, constants: Constants, missing: Mapping[str, onnx.NodeProto], where: str
) -> dict[str, TensorType]:
    """Run the model once on seeded data and return the types of the tensors that inference left open."""
    import onnxruntime

    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    exposed.ir_version = max(model.ir_version, 4)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in missing)
    generator = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for value in model.graph.input:
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        # Zero is a valid index into anything; floating-point data avoid zero, which some graphs divide by.
        uniform = generator.uniform(0.1, 1.0, shape)
        feeds[value.name] = np.asarray(uniform if kind.kind == "f" else np.zeros(shape), kind)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            exposed.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        values = session.run(list(missing), feeds)
    except Exception as error:
        names = ", ".join(dict.fromkeys(f"{node.name} ({node.op_type})" for node in missing.values()))
        rule = f"shapes after {names} cannot be inferred, and the model does not run: {first_line(error)}"
        raise NetworkError(Problem(rule, where)) from error
    observed = {}
    for name, value in zip(missing, values, strict=True):
        array = np.asarray(value)
        element = helper.np_dtype_to_tensor_dtype(array.dtype) if array.dtype != object else TensorProto.STRING
        observed[name] = TensorType(element, array.shape)
    return observed
