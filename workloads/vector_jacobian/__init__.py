"""Vector–Jacobian products of ONNX operators in NumPy: a node's output gradients in, its input gradients out.

``RULES`` has one rule an operator of the standard domain. Rules compute in the type of the values that they are given.
They are held to finite differences by the tests.
"""

from __future__ import annotations

from workloads.vector_jacobian import arrangement, contraction, elementwise, reduction
from workloads.vector_jacobian.call import Array, Call, Gradients, Rule

__all__ = ["RULES", "Array", "Call", "Gradients", "Rule"]

RULES: dict[str, Rule] = {
    **elementwise.RULES, **arrangement.RULES, **reduction.RULES, **contraction.RULES
}
