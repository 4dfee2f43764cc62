"""Vector–Jacobian products of operators that work element by element.

A function of one variable is given by its derivative; where it has a kink (ReLU at 0, the ends of a clip) the
derivative is 0 there, and the largest of equal values share theirs equally.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from workloads.vector_jacobian.call import Array, Call, Rule, unbroadcast

# (call, input, output) → derivative of the output, of the input's shape or a scalar.
Derivative = Callable[[Call, Array, Array], Array]

_ROOT_OF_TWO_PI = math.sqrt(2.0 * math.pi)


def _ones(call: Call, x: Array, y: Array) -> Array:
    return np.ones_like(x)


def _relu(call: Call, x: Array, y: Array) -> Array:
    return x > 0


def _leaky_relu(call: Call, x: Array, y: Array) -> Array:
    return np.where(x > 0, 1.0, call.attribute("alpha", 0.01)).astype(x.dtype)


def _hard_sigmoid(call: Call, x: Array, y: Array) -> Array:
    return np.where((y > 0) & (y < 1), call.attribute("alpha", 0.2), 0.0).astype(x.dtype)


def _hard_swish(call: Call, x: Array, y: Array) -> Array:
    # y = x · clip(x/6 + 1/2, 0, 1)
    return np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, x / 3 + 0.5)).astype(x.dtype)


def _clip(call: Call, x: Array, y: Array) -> Array:
    low, high = call.optional(1), call.optional(2)
    least = call.attribute("min", -np.inf) if low is None else low
    most = call.attribute("max", np.inf) if high is None else high
    return (x > least) & (x < most)


def _erf(call: Call, x: Array, y: Array) -> Array:
    derivative: Array = (2.0 / math.sqrt(math.pi)) * np.exp(-x * x)
    return derivative


def _gelu(call: Call, x: Array, y: Array) -> Array:
    if call.attribute("approximate", "none") == "tanh":
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
        slope = math.sqrt(2.0 / math.pi) * (1.0 + 3 * 0.044715 * x * x)
        curve = np.tanh(inner)
        result: Array = 0.5 * (1.0 + curve) + 0.5 * x * (1.0 - curve * curve) * slope
        return result
    # y = x·Φ(x), so y′ = Φ(x) + x·φ(x); Φ comes from y except where x is too small to divide by.
    safe = np.where(np.abs(x) > 1e-3, x, 1.0)
    below = np.where(np.abs(x) > 1e-3, y / safe, 0.5 + x / _ROOT_OF_TWO_PI)
    exact: Array = below + x * np.exp(-x * x / 2) / _ROOT_OF_TWO_PI
    return exact


DERIVATIVES: dict[str, Derivative] = {
    "Identity": _ones,
    "Dropout": _ones,  # inference
    "Relu": _relu,
    "LeakyRelu": _leaky_relu,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Gelu": _gelu,
    "Erf": _erf,
    "Sigmoid": lambda call, x, y: y * (1 - y),
    "Tanh": lambda call, x, y: 1 - y * y,
    "Softplus": lambda call, x, y: 1 - np.exp(-y),
    "Exp": lambda call, x, y: y,
    "Log": lambda call, x, y: 1 / x,
    "Sqrt": lambda call, x, y: 0.5 / y,
    "Reciprocal": lambda call, x, y: -y * y,
    "Neg": lambda call, x, y: -np.ones_like(x),
    "Abs": lambda call, x, y: np.sign(x),
}


def _of_one_variable(derivative: Derivative) -> Rule:
    def rule(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
        x = call.input(0)
        # A bound or a share that is computed by the network has none here, and is then missed by the caller.
        return {0: (gradients[0] * derivative(call, x, call.output)).astype(x.dtype)}

    return rule


def _add(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    return {slot: unbroadcast(gradients[0], call.input(slot).shape) for slot in call.wanted}


def _subtract(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    signed = {0: gradients[0], 1: -gradients[0]}
    return {slot: unbroadcast(signed[slot], call.input(slot).shape) for slot in call.wanted}


def _multiply(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    return {
        slot: unbroadcast(gradients[0] * call.input(1 - slot), call.input(slot).shape) for slot in call.wanted
    }


def _divide(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    by = gradients[0] / call.input(1)
    found = {}
    if 0 in call.wanted:
        found[0] = unbroadcast(by, call.input(0).shape)
    if 1 in call.wanted:
        found[1] = unbroadcast(-by * call.output, call.input(1).shape)
    return found


def _power(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    base, exponent = call.input(0), call.input(1)
    found = {}
    if 0 in call.wanted:
        # Not y/x: the base may be 0.
        slope = exponent * np.power(base, exponent - 1)
        found[0] = unbroadcast(gradients[0] * slope, base.shape).astype(base.dtype)
    if 1 in call.wanted:
        found[1] = unbroadcast(gradients[0] * call.output * np.log(base), exponent.shape).astype(exponent.dtype)
    return found


def _extreme(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    hits = [np.asarray(call.input(slot) == call.output) for slot in range(len(call.inputs))]
    share = gradients[0] / np.sum(hits, axis=0, dtype=gradients[0].dtype)
    return {slot: unbroadcast(share * hits[slot], call.input(slot).shape) for slot in call.wanted}


def _where(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    condition, zero = call.input(0), np.zeros((), gradients[0].dtype)
    parts = {1: (gradients[0], zero), 2: (zero, gradients[0])}
    return {
        slot: unbroadcast(np.where(condition, *parts[slot]), call.input(slot).shape) for slot in call.wanted & {1, 2}
    }


def _cast(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    x = call.input(0)
    if not np.issubdtype(x.dtype, np.floating):
        raise call.error(f"has none through a cast from {x.dtype}")
    return {0: gradients[0].astype(x.dtype)}


RULES: dict[str, Rule] = {
    **{operator: _of_one_variable(derivative) for operator, derivative in DERIVATIVES.items()},
    "Add": _add,
    "Sum": _add,
    "Sub": _subtract,
    "Mul": _multiply,
    "Div": _divide,
    "Pow": _power,
    "Max": _extreme,
    "Min": _extreme,
    "Where": _where,
    "Cast": _cast,
}
