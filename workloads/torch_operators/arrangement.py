"""Operators that only move elements, in torch. Where nothing but the shape changes, it is onnxruntime's."""

from __future__ import annotations

from typing import Any

import numpy as np

from workloads.torch_operators.elementwise import Operator, Tensor
from workloads.vector_jacobian.call import Call

_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _reshape(torch: Any, call: Call) -> Tensor:
    return torch.reshape(call.input(0), call.output.shape)


def _expand(torch: Any, call: Call) -> Tensor:
    return torch.broadcast_to(call.input(0), call.output.shape)


def _transpose(torch: Any, call: Call) -> Tensor:
    x = call.input(0)
    return torch.permute(x, tuple(call.attribute("perm", list(range(x.ndim))[::-1])))


def _concatenate(torch: Any, call: Call) -> Tensor:
    return torch.cat([call.input(slot) for slot in range(len(call.inputs))], dim=call.attribute("axis", 0))


def _split(torch: Any, call: Call) -> Tensor:
    x, axis = call.input(0), call.attribute("axis", 0)
    sizes = call.integers(1, "split")
    if sizes is None:  # equal parts, the last one shorter
        size = -(-x.shape[axis] // len(call.outputs))
        sizes = [min(size, x.shape[axis] - first) for first in range(0, x.shape[axis], size)]
    return torch.split(x, sizes, dim=axis)


def _slice(torch: Any, call: Call) -> Tensor:
    x: Tensor = call.input(0)
    starts, ends = call.integers(1, "starts"), call.integers(2, "ends")
    assert starts is not None and ends is not None  # the operator needs them
    axes = call.integers(3, "axes") or list(range(len(starts)))
    steps = call.integers(4, "steps") or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        extent = x.shape[axis]
        # ONNX clamps what lies outside: downwards the last place is 0, and the end may be the one in front of it.
        least, most = (0, extent) if step > 0 else (-1, extent - 1)
        first = min(max(start + extent if start < 0 else start, 0), most)
        last = min(max(end + extent if end < 0 else end, least), most)
        x = torch.index_select(x, axis, torch.arange(first, last, step) if (last - first) * step > 0
                               else torch.zeros(0, dtype=torch.int64))
    return x


def _gather(torch: Any, call: Call) -> Tensor:
    x, indices = call.input(0), call.input(1)
    axis = call.attribute("axis", 0)
    places = torch.remainder(indices, x.shape[axis]).reshape(-1)  # negative ones count from the end
    return torch.index_select(x, axis, places).reshape(call.output.shape)


def _gather_elements(torch: Any, call: Call) -> Tensor:
    x, axis = call.input(0), call.attribute("axis", 0)
    return torch.gather(x, axis, torch.remainder(call.input(1), x.shape[axis]).to(torch.int64))


def _pad(torch: Any, call: Call) -> Tensor:
    x, mode = call.input(0), call.attribute("mode", "constant")
    pads, axes = call.integers(1, "pads"), call.integers(3, "axes")
    assert pads is not None  # the operator needs them
    axes = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in axes]
    around = np.zeros((x.ndim, 2), dtype=int)
    for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes):], strict=True):
        around[axis] = before, after
    # Torch names the last axis first; but for constants it pads the last three at most.
    flat = [int(count) for pair in around[::-1] for count in pair]
    if mode == "constant":
        value = call.optional(2)
        fill = call.attribute("value", 0.0) if value is None else float(value)
        return torch.nn.functional.pad(x, flat, value=fill)
    while flat and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    return torch.nn.functional.pad(x, flat, mode=_MODES[mode])


def _depth_to_space(torch: Any, call: Call) -> Tensor:
    x, block = call.input(0), call.attribute("blocksize", 1)
    batch, channels, height, width = x.shape
    if call.attribute("mode", "DCR") == "DCR":
        parts: Tensor = x.reshape(batch, block, block, channels // block**2, height, width)
        turned = parts.permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(batch, channels // block**2, block, block, height, width)
        turned = parts.permute(0, 1, 4, 2, 5, 3)
    return turned.reshape(call.output.shape)


def _space_to_depth(torch: Any, call: Call) -> Tensor:
    x, block = call.input(0), call.attribute("blocksize", 1)
    batch, channels, height, width = x.shape
    parts: Tensor = x.reshape(batch, channels, height // block, block, width // block, block)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(call.output.shape)


OPERATORS: dict[str, Operator] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Expand": _expand,
    "Transpose": _transpose,
    "Concat": _concatenate,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Tile": lambda torch, call: torch.tile(call.input(0), tuple(call.integers(1, "repeats") or ())),
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
