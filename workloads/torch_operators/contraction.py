"""Matrix products, convolutions and pooling, in torch.

Windows are laid by padding the input, or cropping it, to exactly what they cover: uneven padding, ``auto_pad`` and
``ceil_mode`` are then one thing, which torch's own arguments are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workloads.torch_operators.elementwise import Operator, Tensor
from workloads.vector_jacobian.call import Call

_MOST_AXES = 3


def _matrix_product(torch: Any, call: Call) -> Tensor:
    return torch.matmul(call.input(0), call.input(1))


def _gemm(torch: Any, call: Call) -> Tensor:
    a, b = (
        call.input(slot).T if call.attribute(name, 0) else call.input(slot)
        for slot, name in enumerate(("transA", "transB"))
    )
    product, c = call.attribute("alpha", 1.0) * torch.matmul(a, b), call.optional(2)
    return product if c is None else product + call.attribute("beta", 1.0) * c


def _before(call: Call, covered: Sequence[int]) -> list[int]:
    """Padding in front of each spatial axis, of an input that is padded to ``covered``."""
    auto = call.attribute("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return list(call.attribute("pads", [0] * len(covered)))[: len(covered)]
    missing = [max(wide - extent, 0) for wide, extent in zip(covered, call.input(0).shape[2:], strict=True)]
    return [0 if auto == "VALID" else total // 2 if auto == "SAME_UPPER" else total - total // 2 for total in missing]


def _covered(call: Call, kernel: Sequence[int]) -> list[int]:
    """Elements from the first that a window reads to the last, along each spatial axis."""
    strides, dilations = (call.attribute(name, [1] * len(kernel)) for name in ("strides", "dilations"))
    return [
        (count - 1) * stride + (size - 1) * dilation + 1
        for count, stride, size, dilation in zip(call.output.shape[2:], strides, kernel, dilations, strict=True)
    ]


def _around(before: Sequence[int], extents: Sequence[int], covered: Sequence[int]) -> list[int]:
    """Torch's argument for padding (negative: cropping) from ``extents`` to ``covered``: the last axis first."""
    pairs = [(front, wide - front - extent) for front, extent, wide in zip(before, extents, covered, strict=True)]
    return [count for pair in reversed(pairs) for count in pair]


def _of_axes(torch: Any, call: Call, name: str, axes: int) -> Any:
    if axes > _MOST_AXES:
        raise call.error(f"is not known for {axes} spatial axes")
    return getattr(torch.nn.functional, f"{name}{axes}d")


def _windows(call: Call, kernel: Sequence[int]) -> dict[str, Any]:
    ones = [1] * len(kernel)
    return {"stride": tuple(call.attribute("strides", ones)), "dilation": tuple(call.attribute("dilations", ones))}


def _convolution(torch: Any, call: Call) -> Tensor:
    x, weight, bias = call.input(0), call.input(1), call.optional(2)
    kernel = weight.shape[2:]
    covered = _covered(call, kernel)
    padded = torch.nn.functional.pad(x, _around(_before(call, covered), x.shape[2:], covered))
    convolve = _of_axes(torch, call, "conv", len(kernel))
    return convolve(padded, weight, bias, groups=call.attribute("group", 1), **_windows(call, kernel))


def _transposed_convolution(torch: Any, call: Call) -> Tensor:
    x, weight, bias = call.input(0), call.input(1), call.optional(2)
    auto = call.attribute("auto_pad", "NOTSET")
    if call.attribute("output_shape", None) is not None or auto not in ("NOTSET", "VALID"):
        raise call.error("is not known for output_shape and auto_pad")
    axes = weight.ndim - 2
    convolve = _of_axes(torch, call, "conv_transpose", axes)
    full = convolve(x, weight, groups=call.attribute("group", 1), **_windows(call, weight.shape[2:]))
    # What pads take away in front is known; behind it is what the output lacks, or has more (``output_padding``).
    front = call.attribute("pads", [0] * axes)[:axes]
    y = torch.nn.functional.pad(full, _around([-count for count in front], full.shape[2:], call.output.shape[2:]))
    return y if bias is None else y + bias.reshape(-1, *(1,) * axes)


def _largest_of_windows(torch: Any, call: Call) -> Tensor:
    x, kernel = call.input(0), tuple(call.attribute("kernel_shape", []))
    covered = _covered(call, kernel)
    padded = torch.nn.functional.pad(
        x, _around(_before(call, covered), x.shape[2:], covered), value=-float("inf")
    )
    return _of_axes(torch, call, "max_pool", len(kernel))(padded, kernel, **_windows(call, kernel))


def _mean_of_windows(torch: Any, call: Call) -> Tensor:
    """Sums of windows over what counts in them, both as convolutions with ones: torch's own knows no gaps."""
    x, kernel = call.input(0), tuple(call.attribute("kernel_shape", []))
    covered = _covered(call, kernel)
    before = _before(call, covered)
    counted, front = list(x.shape[2:]), list(before)
    if call.attribute("count_include_pad", 0):  # padding counts, but not what windows of ceil_mode reach beyond it
        auto = call.attribute("auto_pad", "NOTSET")
        behind = call.attribute("pads", [0] * 2 * len(kernel))[len(kernel):] if auto == "NOTSET" else [
            max(wide - extent - start, 0) for wide, extent, start in zip(covered, counted, before, strict=True)
        ]
        counted = [start + extent + end for start, extent, end in zip(before, counted, behind, strict=True)]
        front = [0] * len(kernel)
    add = _of_axes(torch, call, "conv", len(kernel))
    ones = torch.ones((1, 1, *kernel), dtype=x.dtype)
    rows = x.reshape(-1, 1, *x.shape[2:])
    total = add(torch.nn.functional.pad(rows, _around(before, x.shape[2:], covered)), ones, **_windows(call, kernel))
    mask = torch.nn.functional.pad(torch.ones((1, 1, *counted), dtype=x.dtype), _around(front, counted, covered))
    return (total / add(mask, ones, **_windows(call, kernel))).reshape(call.output.shape)


def _by_equation(torch: Any, call: Call) -> Tensor:
    return torch.einsum(call.attribute("equation", ""), *(call.input(slot) for slot in range(len(call.inputs))))


OPERATORS: dict[str, Operator] = {
    "MatMul": _matrix_product,
    "Gemm": _gemm,
    "Einsum": _by_equation,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "MaxPool": _largest_of_windows,
    "AveragePool": _mean_of_windows,
}
