"""Vector–Jacobian products of operators that only move elements: each gradient goes back to where its element was."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from workloads.vector_jacobian.call import Array, Call, Rule, unbroadcast


def _reshape(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    return {0: gradients[0].reshape(call.input(0).shape)}


def _transpose(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    order = call.attribute("perm", list(range(call.input(0).ndim))[::-1])
    return {0: gradients[0].transpose(np.argsort(order))}


def _expand(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    return {0: unbroadcast(gradients[0], call.input(0).shape)}


def _concatenate(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    axis = call.attribute("axis", 0)
    ends = np.cumsum([call.input(slot).shape[axis] for slot in range(len(call.inputs))])
    parts = np.split(gradients[0], ends[:-1], axis=axis)
    return {slot: parts[slot] for slot in call.wanted}


def _split(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    return {0: np.concatenate(gradients, axis=call.attribute("axis", 0))}


def _slice(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    x = call.input(0)
    starts, ends = call.integers(1, "starts"), call.integers(2, "ends")
    assert starts is not None and ends is not None  # the operator needs them
    axes = call.integers(3, "axes") or list(range(len(starts)))
    steps = call.integers(4, "steps") or [1] * len(starts)
    taken = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        extent = x.shape[axis]
        # Python reads an end of −1 as the last place; ONNX's way to run back past the first one is a large negative.
        first = max(start + extent, 0) if start < 0 else start
        last = end + extent if end < 0 else end
        taken[axis] = slice(min(first, extent - 1) if step < 0 else first, None if last < 0 else last, step)
    gradient = np.zeros_like(x)
    gradient[tuple(taken)] = gradients[0]
    return {0: gradient}


def _gather(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    x, indices = call.input(0), call.input(1)
    axis = call.attribute("axis", 0) % x.ndim
    gradient = np.zeros_like(x)
    # The axes of the indices stand where the gathered axis was; both go in front, and equal indices add up.
    places = tuple(range(axis, axis + indices.ndim))
    rows = np.moveaxis(gradients[0], places, range(indices.ndim)) if indices.ndim else gradients[0]
    np.add.at(np.moveaxis(gradient, axis, 0), indices, rows)
    return {0: gradient}


def _pad(call: Call, gradients: tuple[Array, ...]) -> Mapping[int, Array]:
    mode = call.attribute("mode", "constant")
    if mode != "constant":
        raise call.error(f"is not known for mode {mode!r}")
    x = call.input(0)
    pads = call.integers(1, "pads")
    assert pads is not None  # the operator needs them
    axes = call.integers(3, "axes")
    axes = list(range(x.ndim)) if axes is None else axes
    gradient, kept = gradients[0], [slice(None)] * x.ndim
    before = [0] * x.ndim
    for axis, count in zip(axes, pads[: len(axes)], strict=True):
        before[axis] = count
    if min(pads) < 0:
        raise call.error("is not known for negative pads")
    for axis, count in enumerate(before):
        kept[axis] = slice(count, count + x.shape[axis])
    return {0: gradient[tuple(kept)]}


RULES: dict[str, Rule] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Transpose": _transpose,
    "Expand": _expand,
    "Concat": _concatenate,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
}
