"""Operators that work element by element, in torch.

At kinks the derivatives are those of ``workloads.vector_jacobian``: 0 where ReLU is at 0, and at the ends of a clip,
where torch's own would be 1. Of three or more equal values under Max or Min torch's shares are not equal, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from onnx import helper

from workloads.vector_jacobian.call import Call

Tensor = Any
# (torch, call) → output, or the outputs of a node with several.
Operator = Callable[[Any, Call], Tensor]

_NAMESAKES = {
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh", "Atan": "atan", "Atanh": "atanh",
    "Cos": "cos", "Cosh": "cosh", "Erf": "erf", "Exp": "exp", "Log": "log", "Neg": "neg", "Reciprocal": "reciprocal",
    "Relu": "relu", "Sigmoid": "sigmoid", "Sin": "sin", "Sinh": "sinh", "Sqrt": "sqrt", "Tan": "tan", "Tanh": "tanh",
}


def _namesake(name: str) -> Operator:
    return lambda torch, call: getattr(torch, name)(call.input(0))


def _functional(name: str) -> Operator:
    return lambda torch, call: getattr(torch.nn.functional, name)(call.input(0))


def _same(torch: Any, call: Call) -> Tensor:
    return call.input(0)


def _clipped(torch: Any, x: Tensor, low: Any, high: Any) -> Tensor:
    x = x if low is None else torch.where(x > low, x, low)
    return x if high is None else torch.where(x < high, x, high)


def _clip(torch: Any, call: Call) -> Tensor:
    low, high = call.optional(1), call.optional(2)
    low = call.attribute("min", None) if low is None else low
    high = call.attribute("max", None) if high is None else high
    return _clipped(torch, call.input(0), low, high)


def _leaky_relu(torch: Any, call: Call) -> Tensor:
    return torch.nn.functional.leaky_relu(call.input(0), call.attribute("alpha", 0.01))


def _parametric_relu(torch: Any, call: Call) -> Tensor:
    x = call.input(0)
    return torch.where(x > 0, x, x * call.input(1))


def _thresholded_relu(torch: Any, call: Call) -> Tensor:
    return torch.nn.functional.threshold(call.input(0), call.attribute("alpha", 1.0), 0.0)


def _elu(torch: Any, call: Call) -> Tensor:
    return torch.nn.functional.elu(call.input(0), call.attribute("alpha", 1.0))


def _celu(torch: Any, call: Call) -> Tensor:
    return torch.nn.functional.celu(call.input(0), call.attribute("alpha", 1.0))


def _selu(torch: Any, call: Call) -> Tensor:
    # Not torch's own: there the two constants cannot be chosen. Defaults as ONNX gives them.
    alpha = call.attribute("alpha", 1.67326319217681884765625)
    gamma = call.attribute("gamma", 1.05070102214813232421875)
    return gamma * torch.nn.functional.elu(call.input(0), alpha)


def _hard_sigmoid(torch: Any, call: Call) -> Tensor:
    line: Tensor = call.attribute("alpha", 0.2) * call.input(0) + call.attribute("beta", 0.5)
    return _clipped(torch, line, 0.0, 1.0)


def _gelu(torch: Any, call: Call) -> Tensor:
    return torch.nn.functional.gelu(call.input(0), approximate=call.attribute("approximate", "none"))


def _power(torch: Any, call: Call) -> Tensor:
    base = call.input(0)
    return torch.pow(base, call.input(1)).to(base.dtype)


def _of_all(combine: Callable[[Any], Callable[[Tensor, Tensor], Tensor]]) -> Operator:
    return lambda torch, call: reduce(combine(torch), [call.input(slot) for slot in range(len(call.inputs))])


def _cast(torch: Any, call: Call) -> Tensor:
    name = helper.tensor_dtype_to_np_dtype(call.attribute("to", 0)).name
    return call.input(0).to(getattr(torch, name))  # type: ignore[attr-defined]  # a tensor


OPERATORS: dict[str, Operator] = {
    **{operator: _namesake(name) for operator, name in _NAMESAKES.items()},
    "Identity": _same,
    "Dropout": _same,  # inference
    "HardSwish": _functional("hardswish"),
    "Mish": _functional("mish"),
    "Softplus": _functional("softplus"),
    "Softsign": _functional("softsign"),
    "Clip": _clip,
    "LeakyRelu": _leaky_relu,
    "PRelu": _parametric_relu,
    "ThresholdedRelu": _thresholded_relu,
    "Elu": _elu,
    "Celu": _celu,
    "Selu": _selu,
    "HardSigmoid": _hard_sigmoid,
    "Gelu": _gelu,
    "Add": lambda torch, call: torch.add(call.input(0), call.input(1)),
    "Sub": lambda torch, call: torch.sub(call.input(0), call.input(1)),
    "Mul": lambda torch, call: torch.mul(call.input(0), call.input(1)),
    "Div": lambda torch, call: torch.div(call.input(0), call.input(1)),
    "Pow": _power,
    "Sum": _of_all(lambda torch: torch.add),
    "Mean": lambda torch, call: _of_all(lambda torch: torch.add)(torch, call) / len(call.inputs),
    "Max": _of_all(lambda torch: torch.maximum),
    "Min": _of_all(lambda torch: torch.minimum),
    "Where": lambda torch, call: torch.where(call.input(0), call.input(1), call.input(2)),
    "Cast": _cast,
}
