"""How good the assignments of an integer program are proven to be, as it is written down and as it is said."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from mapper.assignment import Assignment, Quantity
from simulator.layer import Frozen


class AssignmentProof(Frozen):
    """``mapper.assignment.Assignment``'s certificate. It is of the harms and costs of the layers, not of accuracy.

    Attributes:
        status: ``optimal``, or ``feasible`` where the time ended before.
        minimised: what the program made least of: cost at the cheap end of a front, else harm.
        lower_bound: no assignment within the budgets has less of it.
        gap: (minimised value − lower_bound) / |minimised value|; None where that is infinite.
    """

    status: Literal["optimal", "feasible"]
    minimised: Quantity
    lower_bound: float
    gap: float | None

    @classmethod
    def of(cls, assignment: Assignment) -> AssignmentProof:
        """The certificate of an assignment."""
        gap = assignment.gap if math.isfinite(assignment.gap) else None
        return cls(status=assignment.status, minimised=assignment.minimised, lower_bound=assignment.lower_bound,
                   gap=gap)


def proofs_text(proofs: Iterable[AssignmentProof | None]) -> str:
    """How many of the assignments with a certificate are proven optimal, and the worst gap of the others; empty where
    none has one.

    >>> done = AssignmentProof(status="optimal", minimised="harm", lower_bound=1.0, gap=0.0)
    >>> proofs_text([done, None, done])
    '2 of 2 proven optimal'
    >>> proofs_text([done, AssignmentProof(status="feasible", minimised="harm", lower_bound=1.0, gap=0.021)])
    '1 of 2 proven optimal, worst gap 2.1 %'
    """
    known = [proof for proof in proofs if proof is not None]
    open_ones = [proof for proof in known if proof.status != "optimal"]
    if not known:
        return ""
    text = f"{len(known) - len(open_ones)} of {len(known)} proven optimal"
    if not open_ones:
        return text
    worst = max(math.inf if proof.gap is None else proof.gap for proof in open_ones)
    return f"{text}, worst gap {f'{100 * worst:.2g} %' if math.isfinite(worst) else 'infinite'}"
