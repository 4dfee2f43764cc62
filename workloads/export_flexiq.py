"""A network with channels lowered by FlexiQ, as standard ONNX that computes what ``FlexiqSession`` measures.

Weights are stored as int8 codes, those of narrow channels as the 8-bit codes that their 4-bit ones stand for
(``q_lo · 2^s``), and DequantizeLinear multiplies them by the scale of their output channel. Activations are rounded to
8-bit codes by plain operators, and those of narrow channels lowered by ``2^s``, with one constant a channel: codes are
rounded twice, which no QuantizeLinear says. Dynamic shifts are computed in the graph.
"""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import numpy_helper

from simulator.channel_split import ChannelSplit
from simulator.precision import LayerPrecision
from workloads.export_onnx import IR_VERSION, PER_CHANNEL_OPSET, WeightWriter
from workloads.export_operands import StoredWeights, finish
from workloads.fake_quantised_model import trained_weight
from workloads.flexiq import NARROW_BITS, WIDE_BITS
from workloads.flexiq_model import FlexiqSession, Lowered

_WIDE = LayerPrecision.parse(f"w{WIDE_BITS}a{WIDE_BITS}")


def export_flexiq(session: FlexiqSession, channels: Lowered) -> onnx.ModelProto:
    """Write the network with channels lowered; the batch dimension is free where the network's is.

    The opset is that of the network, or the first one that has scales by channel. The metadata ``bitmosaic.layers`` say
    of each layer which of its input channels are narrow. Raises ``NetworkError`` for wrong masks, and for a network
    whose operators cannot be brought to that opset.
    """
    session.check(channels)
    masks = {layer: np.asarray(channels.get(layer, np.zeros(0, bool)), bool) for layer in session.layers}
    model = session.graph([layer for layer, mask in masks.items() if mask.any()], PER_CHANNEL_OPSET)
    products = {node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm")}
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, onnx.TensorProto] = {}
    notes: dict[str, dict[str, str | list[int]]] = {}
    for layer, mask in masks.items():
        trained = trained_weight(session.network, layer)
        assert trained is not None  # the session holds no other layers
        binding = session.network.bindings[layer]
        stored = StoredWeights(layer, _WIDE, session.weight(layer, mask), trained.shape, binding.weight_channel_axes,
                               trained.dtype)
        writer = WeightWriter(stored, is_apart=binding.node in products)
        how = writer.write()
        nodes += writer.nodes
        constants |= writer.constants
        narrow = [int(channel) for channel in np.flatnonzero(mask)]
        split = ChannelSplit(share=float(mask.mean())) if narrow else None
        precision = _WIDE.model_copy(update={"split": split})
        notes[layer] = {"precision": precision.label, "weight": how, "computed input": f"int{WIDE_BITS}, symmetric"}
        if narrow:
            vectors = session.vectors(layer, mask)
            constants |= {name: numpy_helper.from_array(array, name) for name, array in vectors.items()}
            notes[layer][f"input channels in {NARROW_BITS} bits"] = narrow
    finish(model, nodes, constants, json.dumps({"note": "sums, biases and all between layers are in FP32",
                                                "layers": notes}))
    model.ir_version = max(model.ir_version, IR_VERSION)
    return model
