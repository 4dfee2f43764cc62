"""ONNX operators in torch, one node at a time: what ``gradients="torch"`` runs forward, for autograd to go back.

``OPERATORS`` has one function an operator of the standard domain: all that ``workloads.vector_jacobian`` has rules for,
and more of common networks. Torch comes in as an argument and is not imported here, so that which operators it would
know can be told without it. A function is given a ``Call`` whose inputs are tensors and whose outputs are onnxruntime's
arrays, of which it may read the shapes alone.
"""

from __future__ import annotations

from workloads.torch_operators import arrangement, contraction, elementwise, reduction
from workloads.torch_operators.elementwise import Operator, Tensor

__all__ = ["OPERATORS", "Operator", "Tensor"]

OPERATORS: dict[str, Operator] = {
    **elementwise.OPERATORS, **arrangement.OPERATORS, **reduction.OPERATORS, **contraction.OPERATORS
}
