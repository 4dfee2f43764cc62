"""Vector–Jacobian products of matrix products, convolutions and pooling.

Windows are walked one kernel position at a time: the inputs that meet a position in all windows are a strided slice, so
a convolution's gradient is one matrix product a position, in any number of dimensions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from workloads.vector_jacobian.call import Array, Call, Rule, unbroadcast


def _matrix_product(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    a, b, gradient = call.input(0), call.input(1), np.asarray(gradients[0])
    # A vector on the left is a row, on the right a column; NumPy drops that axis from the result.
    left = a[None, :] if a.ndim == 1 else a
    right = b[:, None] if b.ndim == 1 else b
    gradient = gradient[..., None] if b.ndim == 1 else gradient
    gradient = gradient[..., None, :] if a.ndim == 1 else gradient
    found = {}
    if 0 in call.wanted:
        found[0] = unbroadcast(gradient @ right.swapaxes(-1, -2), left.shape).reshape(a.shape)
    if 1 in call.wanted:
        if right.ndim == 2:  # one weight for all rows: one product, and no sum after it
            found[1] = left.reshape(-1, left.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])
        else:
            found[1] = unbroadcast(left.swapaxes(-1, -2) @ gradient, right.shape)
        found[1] = found[1].reshape(b.shape)
    return found


def _gemm(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    a, b = call.input(0), call.input(1)
    is_turned = [bool(call.attribute(name, 0)) for name in ("transA", "transB")]
    left, right = (x.T if turned else x for x, turned in zip((a, b), is_turned, strict=True))
    scaled = gradients[0] * np.asarray(call.attribute("alpha", 1.0), a.dtype)
    found = {}
    if 0 in call.wanted:
        found[0] = scaled @ right.T
    if 1 in call.wanted:
        found[1] = left.T @ scaled
    for slot, turned in enumerate(is_turned):
        if turned and slot in found:
            found[slot] = found[slot].T
    if 2 in call.wanted:
        beta = np.asarray(call.attribute("beta", 1.0), a.dtype)
        found[2] = unbroadcast(gradients[0] * beta, call.input(2).shape)
    return found


@dataclass(frozen=True)
class _Windows:
    """Windows over the spatial axes of a tensor [N, channels, …].

    Attributes:
        kernel, strides, dilations: one number an axis.
        before: padding in front.
        after: padding behind; windows may also reach further (``ceil_mode``) or stop short.
        extents: spatial size of the padded input, so that all windows fit.
        outputs: number of windows an axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    extents: tuple[int, ...]
    outputs: tuple[int, ...]

    def padded(self, x: Array, fill: float = 0.0) -> Array:
        """Copy of a tensor with its padding around it."""
        array = np.full((*x.shape[:2], *self.extents), fill, x.dtype)
        array[self.inside(x)] = x
        return array

    def inside(self, x: Array) -> tuple[slice, ...]:
        """Where the tensor lies in its padding."""
        spans = (slice(start, start + extent) for start, extent in zip(self.before, x.shape[2:], strict=True))
        return (slice(None), slice(None), *spans)

    def places(self) -> Iterator[tuple[slice, ...]]:
        """For each kernel position the slice of the padded input that meets it: one element a window."""
        for position in itertools.product(*map(range, self.kernel)):
            spans = []
            for index, count, stride, dilation in zip(
                position, self.outputs, self.strides, self.dilations, strict=True
            ):
                first = index * dilation
                spans.append(slice(first, first + (count - 1) * stride + 1, stride))
            yield (slice(None), slice(None), *spans)


def _windows(call: Call, kernel: tuple[int, ...]) -> _Windows:
    inputs, outputs = call.input(0).shape[2:], call.output.shape[2:]
    axes = len(kernel)
    strides = tuple(call.attribute("strides", [1] * axes))
    dilations = tuple(call.attribute("dilations", [1] * axes))
    reach = tuple(
        (count - 1) * stride + (size - 1) * dilation + 1
        for count, stride, size, dilation in zip(outputs, strides, kernel, dilations, strict=True)
    )
    auto = call.attribute("auto_pad", "NOTSET")
    if auto == "NOTSET":
        pads = call.attribute("pads", [0] * 2 * axes)
        before, after = tuple(pads[:axes]), tuple(pads[axes:])
    elif auto == "VALID":
        before = after = (0,) * axes
    else:
        if max(dilations) > 1:  # runtimes differ in what they pad then
            raise call.error(f"is not known for dilated windows with auto_pad={auto}")
        missing = [max(wide - extent, 0) for wide, extent in zip(reach, inputs, strict=True)]
        smaller, larger = tuple(total // 2 for total in missing), tuple(total - total // 2 for total in missing)
        before, after = (smaller, larger) if auto == "SAME_UPPER" else (larger, smaller)
    extents = tuple(
        max(wide, front + extent + back)
        for wide, front, extent, back in zip(reach, before, inputs, after, strict=True)
    )
    return _Windows(kernel, strides, dilations, before, after, extents, outputs)


def _convolution(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    x, weight, gradient = call.input(0), call.input(1), gradients[0]
    groups = call.attribute("group", 1)
    windows = _windows(call, weight.shape[2:])
    batch, outputs = len(x), weight.shape[0] // groups
    channels, count = weight.shape[1], math.prod(windows.outputs)
    over = gradient.reshape(batch, groups, outputs, count)
    kernels = weight.reshape(groups, outputs, channels, math.prod(windows.kernel))
    found = {}
    wants_input, wants_weight = 0 in call.wanted, 1 in call.wanted
    padded = windows.padded(x) if wants_weight else None
    spread = np.zeros((batch, groups * channels, *windows.extents), x.dtype) if wants_input else None
    turned = np.zeros_like(kernels) if wants_weight else None
    for position, place in enumerate(windows.places() if wants_input or wants_weight else ()):
        if spread is not None:
            taps = kernels[..., position].swapaxes(1, 2)
            # One channel a group (depthwise) is no matrix product worth the name.
            part = taps * over if outputs == channels == 1 else taps @ over
            spread[place] += part.reshape(batch, groups * channels, *windows.outputs)
        if turned is not None and padded is not None:
            taken = padded[place].reshape(batch, groups, channels, count)
            if outputs == channels == 1:
                turned[..., position] = np.einsum("ngkp,ngcp->g", over, taken)[:, None, None]
            else:
                turned[..., position] = (over @ taken.swapaxes(2, 3)).sum(axis=0)
    if spread is not None:
        found[0] = spread[windows.inside(x)]
    if turned is not None:
        found[1] = turned.reshape(weight.shape)
    if 2 in call.wanted:
        found[2] = over.sum(axis=(0, 3)).reshape(-1)
    return found


def _largest_of_windows(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    """The gradient goes to the first element of each window that is its maximum."""
    x, y = call.input(0), call.output
    windows = _windows(call, tuple(call.attribute("kernel_shape", [])))
    padded = windows.padded(x, -np.inf)
    spread = np.zeros_like(padded)
    open_ = np.ones(y.shape, dtype=bool)
    for place in windows.places():
        hit = open_ & (padded[place] == y)
        spread[place] += gradients[0] * hit
        open_ &= ~hit
    return {0: spread[windows.inside(x)]}


def _mean_of_windows(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    x = call.input(0)
    windows = _windows(call, tuple(call.attribute("kernel_shape", [])))
    # What counts: elements of the input, with ``count_include_pad`` also the padding, but never what lies beyond it.
    counted = np.zeros((1, 1, *windows.extents), x.dtype)
    if call.attribute("count_include_pad", 0):
        spans = zip(windows.before, x.shape[2:], windows.after, strict=True)
        counted[(slice(None), slice(None), *(slice(0, sum(span)) for span in spans))] = 1
    else:
        counted[windows.inside(x)] = 1
    taps = np.zeros((1, 1, *windows.outputs), x.dtype)
    for place in windows.places():
        taps += counted[place]
    share = gradients[0] / taps
    spread = np.zeros((*x.shape[:2], *windows.extents), x.dtype)
    for place in windows.places():
        spread[place] += share
    return {0: spread[windows.inside(x)]}


RULES: dict[str, Rule] = {
    "MatMul": _matrix_product,
    "Gemm": _gemm,
    "Conv": _convolution,
    "MaxPool": _largest_of_windows,
    "AveragePool": _mean_of_windows,
}
