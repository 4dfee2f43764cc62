"""Vector–Jacobian products of reductions, of softmax, and of normalisations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from workloads.vector_jacobian.call import Array, Call, Rule, unbroadcast

_AXES_AS_INPUT = {"ReduceSum": 13}  # of all other reductions since operator set 18
_SOFTMAX_ON_ONE_AXIS = 13  # before: all axes from ``axis`` on, flattened


def reduced_axes(call: Call) -> tuple[int, ...]:
    """Axes that a reduction or a global pooling sums up, in order and ≥ 0; none for one that does nothing."""
    x = call.input(0)
    if call.operator.startswith("Global"):
        return tuple(range(2, x.ndim))
    by_input = call.opset >= _AXES_AS_INPUT.get(call.operator, 18)
    axes = call.integers(1 if by_input else len(call.inputs), "axes")
    if not axes:
        return () if call.attribute("noop_with_empty_axes", 0) else tuple(range(x.ndim))
    return tuple(sorted(axis % x.ndim for axis in axes))


def _kept(call: Call, array: Array, axes: tuple[int, ...]) -> Array:
    """An array of the output's shape, with the reduced axes of extent 1 put back."""
    shape = call.input(0).shape
    return array.reshape([1 if axis in axes else extent for axis, extent in enumerate(shape)])


def _sum(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    x = call.input(0)
    return {0: np.broadcast_to(_kept(call, gradients[0], reduced_axes(call)), x.shape)}


def _mean(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    count = math.prod(call.input(0).shape[axis] for axis in reduced_axes(call))
    return {0: _sum(call, gradients)[0] / count}


def _extreme(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    x, axes = call.input(0), reduced_axes(call)
    hits = x == _kept(call, call.output, axes)
    share = _kept(call, gradients[0], axes) / hits.sum(axis=axes, keepdims=True, dtype=x.dtype)
    return {0: share * hits}


def _euclidean_norm(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    x, axes = call.input(0), reduced_axes(call)
    return {0: x * _kept(call, gradients[0] / call.output, axes)}


def _sum_of_squares(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    return {0: 2 * call.input(0) * _kept(call, gradients[0], reduced_axes(call))}


def _softmax(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    y, gradient = call.output, gradients[0]
    if call.opset >= _SOFTMAX_ON_ONE_AXIS:
        axis = call.attribute("axis", -1)
        return {0: y * (gradient - (gradient * y).sum(axis=axis, keepdims=True))}
    axis = call.attribute("axis", 1) % max(y.ndim, 1)
    rows, over = y.reshape(math.prod(y.shape[:axis]), -1), gradient.reshape(math.prod(y.shape[:axis]), -1)
    return {0: (rows * (over - (over * rows).sum(axis=1, keepdims=True))).reshape(y.shape)}


def _layer_normalisation(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    """x̂ = (x − mean) / σ, y = x̂·scale + bias (Ba et al., arXiv 1607.06450)."""
    x, scale = call.input(0), call.input(1)
    axes = tuple(range(call.attribute("axis", -1) % x.ndim, x.ndim))
    centred = x - x.mean(axis=axes, keepdims=True)
    inverse = 1 / np.sqrt((centred * centred).mean(axis=axes, keepdims=True) + call.attribute("epsilon", 1e-5))
    normal = centred * inverse
    found = {}
    if 0 in call.wanted:
        inner = gradients[0] * scale
        along = normal * (inner * normal).mean(axis=axes, keepdims=True)
        found[0] = (inverse * (inner - inner.mean(axis=axes, keepdims=True) - along)).astype(x.dtype)
    if 1 in call.wanted:
        found[1] = unbroadcast(gradients[0] * normal, scale.shape).astype(x.dtype)
    if 2 in call.wanted:
        found[2] = unbroadcast(gradients[0], call.input(2).shape)
    return found


def _batch_normalisation(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    """Inference: y = (x − mean) / √(variance + ε) · scale + bias, all four numbers one a channel (axis 1)."""
    if call.attribute("training_mode", 0):
        raise call.error("is known for inference only, not for training_mode=1")
    if call.wanted - {0}:
        raise call.error("is known for its first input only")
    x = call.input(0)
    factor = call.input(1) / np.sqrt(call.input(4) + call.attribute("epsilon", 1e-5))
    return {0: (gradients[0] * factor.reshape(-1, *(1,) * (x.ndim - 2))).astype(x.dtype)}


RULES: dict[str, Rule] = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceMax": _extreme,
    "ReduceMin": _extreme,
    "ReduceL2": _euclidean_norm,
    "ReduceSumSquare": _sum_of_squares,
    "GlobalAveragePool": _mean,
    "GlobalMaxPool": _extreme,
    "Softmax": _softmax,
    "LayerNormalization": _layer_normalisation,
    "BatchNormalization": _batch_normalisation,
}
