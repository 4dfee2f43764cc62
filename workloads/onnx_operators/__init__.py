"""The operators of ONNX that Bitmosaic understands, and how each is lowered.

``lower`` turns one node into layers and vector operations. What it does not know it refuses: an operator that
would be left out of a graph would be left out of its cost. The operators of the ONNX standard are named in the
table here or in ``VECTOR_RULES``; of com.microsoft, those that onnxruntime's optimisers and exporters write.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx.defs

from simulator.errors import Problem, closest
from workloads.onnx_constants import RANDOM, is_standard
from workloads.onnx_operators.attention import lower_attention
from workloads.onnx_operators.convolution import SLOTS, lower_convolution, lower_transposed_convolution
from workloads.onnx_operators.matrix import MATMUL_SLOTS, lower_einsum, lower_gemm, lower_matmul
from workloads.onnx_operators.recurrent import CELLS, lower_recurrent
from workloads.onnx_operators.vector import VECTOR_RULES, lower_vector
from workloads.onnx_operators.view import ModelView, Step

Lowering = Callable[[onnx.NodeProto, ModelView], tuple[Step, ...]]

LAYER_RULES: dict[str, Lowering] = {
    **dict.fromkeys(SLOTS, lower_convolution),
    "ConvTranspose": lower_transposed_convolution,
    **dict.fromkeys(MATMUL_SLOTS, lower_matmul),
    "Gemm": lower_gemm,
    "Einsum": lower_einsum,
    **dict.fromkeys(CELLS, lower_recurrent),
    "Attention": lower_attention,
    "MultiHeadAttention": lower_attention,
}

MICROSOFT = frozenset((
    "Attention", "BiasGelu", "EmbedLayerNormalization", "FastGelu", "FusedConv", "FusedMatMul", "Gelu", "GroupNorm",
    "LayerNormalization", "MultiHeadAttention", "QLinearAdd", "QLinearAveragePool", "QLinearConcat",
    "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax", "QuantizeLinear",
    "DequantizeLinear", "QuickGelu", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
))
# Written by exporters into the standard domain although the standard lacks it.
_STRAY = frozenset(("SimplifiedLayerNormalization", "FastGelu"))

_CONTROL_FLOW = frozenset(("If", "Loop", "Scan", "SequenceMap"))
_DATA_DEPENDENT = frozenset(("Compress", "NonMaxSuppression", "NonZero", "Unique"))


def known_operators() -> tuple[str, ...]:
    """Names of all operators that can be lowered."""
    return tuple(sorted({*LAYER_RULES, *VECTOR_RULES}))


def refusal(node: onnx.NodeProto, where: str) -> Problem | None:
    """Return why a node of the running network cannot be lowered, or None where it can."""
    path = f"{node.name} ({node.op_type})"
    if is_standard(node.domain):
        if node.op_type in _CONTROL_FLOW:
            rule = "control flow is not understood: unroll it, or export the branch that runs"
        elif node.op_type in _DATA_DEPENDENT:
            rule = "the size of its output depends on the data, so its cost cannot be known"
        elif node.op_type in RANDOM:
            rule = "draws random numbers; nothing here costs that"
        elif node.op_type in _STRAY or (
            node.op_type in {*LAYER_RULES, *VECTOR_RULES} and onnx.defs.has(node.op_type)
        ):
            return None
        elif onnx.defs.has(node.op_type):
            rule = "is an ONNX operator whose cost is not known here"
        else:
            return Problem("is no operator of ONNX", where, path, did_you_mean=closest(node.op_type, known_operators()))
        return Problem(rule, where, path)
    if node.domain == "com.microsoft":
        if node.op_type in MICROSOFT:
            return None
        return Problem("is not understood in domain 'com.microsoft'", where, path,
                       did_you_mean=closest(node.op_type, sorted(MICROSOFT)))
    return Problem(f"is not understood: its domain is {node.domain!r}", where, path,
                   did_you_mean=closest(node.op_type, known_operators()))


def lower(node: onnx.NodeProto, view: ModelView) -> tuple[Step, ...]:
    """Turn a node into one or more operations, in order; the last one produces the node's outputs.

    Raises ``NetworkError`` where the node has a form that is not understood.
    """
    return LAYER_RULES.get(node.op_type, lower_vector)(node, view)
