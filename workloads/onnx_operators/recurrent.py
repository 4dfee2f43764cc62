"""LSTM, GRU and RNN: two loop nests and the gates between them.

``.input`` multiplies all T steps of the sequence with the input weights at once: P = N·T rows, K = directions ×
gates × hidden. ``.recurrent`` multiplies the state with the recurrent weights: the same N·T rows in total, one
group a direction. That its T steps wait for each other is not modelled: the nest counts the work and the
traffic of a machine that keeps the recurrent weights. ``.gates`` is everything elementwise.
"""

from __future__ import annotations

import onnx

from simulator.layer import Layer, VectorKind, VectorOp
from workloads.network import AxisLoops, LayerBinding
from workloads.onnx_operators.view import INTERNAL, ModelView, Step

# Operator → gates, and vector operations for each element of the hidden state and each step:
# LSTM: 4 sums of two products, 3 sigmoids, 2 tanh, 3 products, 1 sum. GRU: 3 sums, 2 sigmoids, 1 tanh,
# reset product, and the blend (1 − z)·h̃ + z·h of 4. RNN: sum and tanh.
CELLS: dict[str, tuple[int, int]] = {"LSTM": (4, 13), "GRU": (3, 11), "RNN": (1, 2)}


def lower_recurrent(node: onnx.NodeProto, view: ModelView) -> tuple[Step, ...]:
    """Lower a recurrent layer, of either layout and any number of directions."""
    gates, operations = CELLS[node.op_type]
    data, weight, recurrent, bias = (view.input(node, slot) for slot in range(4))
    first, second, width = view.shape(data)
    rows = first * second
    directions, _, hidden = view.shape(recurrent)
    projection = Layer(
        name=view.step_name(node, "input"),
        dims={"K": directions * gates * hidden, "C": width, "P": rows},
        weight_is_activation=not view.is_constant(weight),
        has_bias=bool(bias),
    )
    state = Layer(
        name=view.step_name(node, "recurrent"),
        dims={"G": directions, "K": gates * hidden, "C": hidden, "P": rows},
        weight_is_activation=not view.is_constant(recurrent),
    )
    elements = rows * directions * hidden
    cell = VectorOp(
        name=view.step_name(node, "gates"),
        operator=node.op_type,
        kind=VectorKind.ELEMENTWISE,
        input_count=2 * gates * elements,
        output_count=view.outputs_count(node),
        processed_count=elements,
        operations_per_element=operations,
    )
    initial = tuple(name for name in node.input[4:] if name)

    def binding(slot: int, input_slot: int, weight_loops: AxisLoops, input_loops: AxisLoops) -> LayerBinding:
        name = node.input[slot]
        return LayerBinding(node.name, name if view.is_constant(name) else None, weight_channel_axes=(0, 1),
                            weight_reduced_axes=(2,), weight_slot=slot, input_slot=input_slot,
                            weight_loops=weight_loops, input_loops=input_loops)

    whole = binding(1, 0, (("K0",), ("K1",), ("C0",)), (("P0",), ("P1",), ("C0",)))
    return (
        Step(projection, (data, weight), binding=whole),
        Step(state, (recurrent, *initial), binding=binding(2, INTERNAL, (("G0",), ("K0",), ("C0",)), ())),
        Step(cell, (), after=(projection.name, state.name)),
    )
