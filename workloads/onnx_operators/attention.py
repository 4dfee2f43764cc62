"""Fused attention operators, taken apart: Q·Kᵀ, softmax, and the product with V.

Understood: ``Attention`` of the ONNX standard (opset 23), ``Attention`` of com.microsoft (with its packed
projection of queries, keys and values), and ``MultiHeadAttention`` of com.microsoft. Heads that share keys and
values (grouped-query attention) are rows of one group: G = batch × key heads, P = queries × heads that share.
A causal mask saves no multiply-accumulates here: the full square is computed, and masked.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from simulator.layer import Layer, VectorKind, VectorOp
from workloads.network import LayerBinding
from workloads.onnx_constants import is_standard
from workloads.onnx_operators.view import INTERNAL, ModelView, Step

# max, subtract, exp, sum, multiply; scaling and masking one more each
SOFTMAX_OPERATIONS = 5


@dataclass(frozen=True)
class _Heads:
    """Extents of one attention, and where its operands come from."""

    batch: int
    heads: int
    shared_heads: int
    queries: int
    keys: int
    width: int
    value_width: int
    masks: int
    slots: tuple[int, int, int]
    tensors: tuple[str, str, str]
    mask_tensors: tuple[str, ...] = ()
    cache_tensors: tuple[str, ...] = ()
    cache_count: int = 0


def lower_attention(node: onnx.NodeProto, view: ModelView) -> tuple[Step, ...]:
    """Lower any of the three attention operators."""
    if is_standard(node.domain):
        return _expand(node, view, _standard(node, view), ())
    if node.op_type == "Attention":
        return _packed(node, view)
    return _expand(node, view, _multi_head(node, view), _projection_bias(node, view))


def _expand(node: onnx.NodeProto, view: ModelView, heads: _Heads, before: tuple[Step, ...]) -> tuple[Step, ...]:
    groups = heads.batch * heads.shared_heads
    rows = heads.queries * heads.heads // heads.shared_heads
    first = tuple(step.op.name for step in before)
    steps = list(before)
    if heads.cache_tensors:
        cache = VectorOp(name=view.step_name(node, "cache"), operator="Concat", kind=VectorKind.MOVEMENT,
                         input_count=heads.cache_count, output_count=heads.cache_count,
                         processed_count=heads.cache_count)
        steps.append(Step(cache, (*heads.cache_tensors, *heads.tensors[1:]), after=first))
        first = (*first, cache.name)
    scores = Layer(name=view.step_name(node, "qk"), weight_is_activation=True,
                   dims={"G": groups, "P": rows, "K": heads.keys, "C": heads.width})
    count = scores.output_count
    softmax = VectorOp(
        name=view.step_name(node, "softmax"),
        operator="Softmax",
        kind=VectorKind.NORMALISATION,
        input_count=count + sum(view.count(name) for name in heads.mask_tensors),
        output_count=count,
        processed_count=count,
        operations_per_element=SOFTMAX_OPERATIONS + 1 + heads.masks,
    )
    mixed = Layer(name=view.step_name(node, "av"), weight_is_activation=True,
                  dims={"G": groups, "P": rows, "K": heads.value_width, "C": heads.keys})
    query, key, value = heads.tensors
    query_slot, key_slot, value_slot = heads.slots
    steps += [
        Step(scores, (query, key), after=first,
             binding=LayerBinding(node.name, None, weight_slot=key_slot, input_slot=query_slot)),
        Step(softmax, heads.mask_tensors, after=(scores.name,)),
        Step(mixed, (value,), after=(softmax.name, *first),
             binding=LayerBinding(node.name, None, weight_slot=value_slot, input_slot=INTERNAL)),
    ]
    return tuple(steps)


def _standard(node: onnx.NodeProto, view: ModelView) -> _Heads:
    """Read ``Attention`` of ai.onnx: operands of rank 4 (batch, heads, length, width) or 3."""
    query, key, value, mask, past_key, past_value = (view.input(node, slot) for slot in range(6))
    batch, shared, length, width = _four(view.shape(key), view.attribute(node, "kv_num_heads", 1))
    _, heads, queries, _ = _four(view.shape(query), view.attribute(node, "q_num_heads", 1))
    value_width = _four(view.shape(value), view.attribute(node, "kv_num_heads", 1))[3]
    keys = length + (view.shape(past_key)[2] if past_key else 0)
    causal = bool(view.attribute(node, "is_causal", 0))
    return _Heads(
        batch, heads, shared, queries, keys, width, value_width,
        masks=int(bool(mask)) + int(causal) + int(view.attribute(node, "softcap", 0.0) > 0),
        slots=(0, 1, 2), tensors=(query, key, value), mask_tensors=(mask,) if mask else (),
        cache_tensors=(past_key, past_value) if past_key else (),
        cache_count=batch * shared * keys * (width + value_width),
    )


def _four(shape: tuple[int, ...], heads: int) -> tuple[int, int, int, int]:
    """Batch, heads, length and width of an operand of rank 4, or of rank 3 with packed heads."""
    if len(shape) == 4:
        return shape[0], shape[1], shape[2], shape[3]
    return shape[0], heads, shape[1], shape[2] // heads


def _multi_head(node: onnx.NodeProto, view: ModelView) -> _Heads:
    """Read ``MultiHeadAttention`` of com.microsoft with separate, partly packed or fully packed operands."""
    query, key, value, _, padding, relative, past_key, past_value = (view.input(node, slot) for slot in range(8))
    heads = view.attribute(node, "num_heads")
    masks = tuple(name for name in (padding, relative) if name)
    shape = view.shape(query)
    slots = (0, 1, 2)
    if len(shape) == 5:  # (batch, length, heads, 3, width): queries, keys and values in one tensor
        batch, queries, _, _, width = shape
        key = value = query
        keys, value_width, slots = queries, width, (0, 0, 0)
    else:
        batch, queries, hidden = shape
        width = hidden // heads
        if len(view.shape(key)) == 5:
            keys, value_width, value, slots = view.shape(key)[1], width, key, (0, 1, 1)
        elif len(view.shape(key)) == 4:
            keys, value_width = view.shape(key)[2], view.shape(value)[3]
        else:
            keys, value_width = view.shape(key)[1], view.shape(value)[2] // heads
    keys += view.shape(past_key)[2] if past_key else 0
    return _Heads(
        batch, heads, heads, queries, keys, width, value_width,
        masks=len(masks) + int(bool(view.attribute(node, "unidirectional", 0))),
        slots=slots, tensors=(query, key, value), mask_tensors=masks,
        cache_tensors=(past_key, past_value) if past_key else (),
        cache_count=batch * heads * keys * (width + value_width),
    )


def _projection_bias(node: onnx.NodeProto, view: ModelView) -> tuple[Step, ...]:
    """The bias of the projections, which ``MultiHeadAttention`` adds to its first three inputs."""
    bias = view.input(node, 3)
    if not bias:
        return ()
    tensors = tuple(dict.fromkeys(name for name in node.input[:3] if name))
    count = sum(view.count(name) for name in tensors)
    add = VectorOp(name=view.step_name(node, "bias"), operator="Add", kind=VectorKind.ELEMENTWISE,
                   input_count=count + view.count(bias), output_count=count, processed_count=count)
    return (Step(add, (*tensors, bias)),)


def _packed(node: onnx.NodeProto, view: ModelView) -> tuple[Step, ...]:
    """Lower ``Attention`` of com.microsoft: input (batch, length, width), one weight for all projections."""
    data, weight, bias, mask, past, relative = (view.input(node, slot) for slot in range(6))
    if past:
        raise view.refuse(node, "input 'past' is not understood: export without it, or as MultiHeadAttention")
    batch, length, width = view.shape(data)
    columns = view.shape(weight)[1]
    heads = view.attribute(node, "num_heads")
    sizes = view.attribute(node, "qkv_hidden_sizes") or [columns // 3] * 3
    is_constant = view.is_constant(weight)
    projection = Layer(
        name=view.step_name(node, "projection"),
        dims={"K": columns, "C": width, "P": batch * length},
        weight_is_activation=not is_constant,
        has_bias=bool(bias),
    )
    binding = LayerBinding(
        node.name, weight if is_constant else None, weight_channel_axes=(1,), weight_reduced_axes=(0,),
        weight_loops=(("C0",), ("K0",)), input_loops=(("P0",), ("P1",), ("C0",)),
    )
    before = (Step(projection, (data, weight), binding=binding),)
    masks = tuple(name for name in (mask, relative) if name)
    packed = _Heads(
        batch, heads, heads, length, length, sizes[0] // heads, sizes[2] // heads,
        masks=len(masks) + int(bool(view.attribute(node, "unidirectional", 0))),
        slots=(INTERNAL, INTERNAL, INTERNAL), tensors=("", "", ""), mask_tensors=masks,
    )
    return _expand(node, view, packed, before)
