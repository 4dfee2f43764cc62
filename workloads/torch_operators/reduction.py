"""Reductions, softmax and normalisations, in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from workloads.torch_operators.elementwise import Operator, Tensor
from workloads.vector_jacobian.call import Call
from workloads.vector_jacobian.reduction import reduced_axes

_SOFTMAX_ON_ONE_AXIS = 13  # before: all axes from ``axis`` on, flattened


def _reduction(reduce: Callable[[Any, Tensor, tuple[int, ...]], Tensor]) -> Operator:
    """An operator from a function (torch, tensor, axes) → tensor without those axes."""

    def operator(torch: Any, call: Call) -> Tensor:
        # Torch takes no axes for all of them. With one more axis in front, there is always one to reduce.
        axes = (0, *(axis + 1 for axis in reduced_axes(call)))
        return reduce(torch, torch.unsqueeze(call.input(0), 0), axes).reshape(call.output.shape)

    return operator


def _product(torch: Any, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, dim=axis)
    return x


def _softmax(name: str) -> Operator:
    def operator(torch: Any, call: Call) -> Tensor:
        x, softmax = call.input(0), getattr(torch, name)
        if call.opset >= _SOFTMAX_ON_ONE_AXIS:
            return softmax(x, dim=call.attribute("axis", -1))
        axis = call.attribute("axis", 1) % max(x.ndim, 1)
        return softmax(x.reshape(math.prod(x.shape[:axis]), -1), dim=1).reshape(call.output.shape)

    return operator


def _layer_normalisation(torch: Any, call: Call) -> Tensor:
    x, bias = call.input(0), call.optional(2)
    shape = tuple(x.shape[call.attribute("axis", -1) % x.ndim:])
    y = torch.nn.functional.layer_norm(x, shape, eps=call.attribute("epsilon", 1e-5)) * call.input(1)
    return y if bias is None else y + bias


def _batch_normalisation(torch: Any, call: Call) -> Tensor:
    if call.attribute("training_mode", 0):
        raise call.error("is known for inference only, not for training_mode=1")
    x, scale, bias, mean, variance = (call.input(slot) for slot in range(5))
    return torch.nn.functional.batch_norm(x, mean, variance, scale, bias, eps=call.attribute("epsilon", 1e-5))


def _instance_normalisation(torch: Any, call: Call) -> Tensor:
    return torch.nn.functional.instance_norm(
        call.input(0), weight=call.input(1), bias=call.input(2), eps=call.attribute("epsilon", 1e-5)
    )


def _normalisation_by_norm(torch: Any, call: Call) -> Tensor:
    x, axis = call.input(0), call.attribute("axis", -1)
    return x / torch.linalg.vector_norm(x, ord=call.attribute("p", 2), dim=axis, keepdim=True)


def _normalisation_over_channels(torch: Any, call: Call) -> Tensor:
    return torch.nn.functional.local_response_norm(
        call.input(0), call.attribute("size", 1), call.attribute("alpha", 1e-4), call.attribute("beta", 0.75),
        call.attribute("bias", 1.0),
    )


def _running_sum(torch: Any, call: Call) -> Tensor:
    x, axis = call.input(0), (call.integers(1, "axis") or [0])[0]
    turned = torch.flip(x, (axis,)) if call.attribute("reverse", 0) else x
    sums = torch.cumsum(turned, axis)
    sums = sums - turned if call.attribute("exclusive", 0) else sums
    return torch.flip(sums, (axis,)) if call.attribute("reverse", 0) else sums


_MEAN = _reduction(lambda torch, x, axes: torch.mean(x, axes))
_LARGEST = _reduction(lambda torch, x, axes: torch.amax(x, axes))

OPERATORS: dict[str, Operator] = {
    "ReduceSum": _reduction(lambda torch, x, axes: torch.sum(x, axes)),
    "ReduceMean": _MEAN,
    "ReduceMax": _LARGEST,
    "ReduceMin": _reduction(lambda torch, x, axes: torch.amin(x, axes)),
    "ReduceProd": _reduction(_product),
    "ReduceL1": _reduction(lambda torch, x, axes: torch.linalg.vector_norm(x, ord=1, dim=axes)),
    "ReduceL2": _reduction(lambda torch, x, axes: torch.linalg.vector_norm(x, dim=axes)),
    "ReduceSumSquare": _reduction(lambda torch, x, axes: torch.sum(x * x, axes)),
    "ReduceLogSum": _reduction(lambda torch, x, axes: torch.log(torch.sum(x, axes))),
    "ReduceLogSumExp": _reduction(lambda torch, x, axes: torch.logsumexp(x, axes)),
    "GlobalAveragePool": _MEAN,
    "GlobalMaxPool": _LARGEST,
    "Softmax": _softmax("softmax"),
    "LogSoftmax": _softmax("log_softmax"),
    "LayerNormalization": _layer_normalisation,
    "BatchNormalization": _batch_normalisation,
    "InstanceNormalization": _instance_normalisation,
    "LpNormalization": _normalisation_by_norm,
    "LRN": _normalisation_over_channels,
    "CumSum": _running_sum,
}
