"""What a search answers: a mapping, its simulated cost, and how far from the best it can be at most."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from pydantic import Field

from simulator.layer import Frozen, Layer
from simulator.mapping import Mapping
from simulator.precision import LayerPrecision
from simulator.result import LayerResult
from simulator.shown import Shown

Objective = Literal["latency", "energy", "edp"]
OBJECTIVES: tuple[Objective, ...] = ("latency", "energy", "edp")
Status = Literal["optimal", "feasible"]
Prover = Literal["auto", "enumeration", "cp_sat"]


def objective_cost(result: LayerResult, objective: Objective) -> float:
    """Cost of a simulated layer: cycles, pJ, or pJ·cycles."""
    if objective == "latency":
        return float(result.total_cycles)
    if objective == "energy":
        return result.total_energy_pj
    return result.energy_delay_product


class Limits(NamedTuple):
    """What a mapping may cost beside the objective: simulated cycles and pJ, leakage included."""

    latency_cycles: float = math.inf
    energy_pj: float = math.inf

    def allow(self, result: LayerResult) -> bool:
        """Whether a simulated mapping keeps them."""
        return result.total_cycles <= self.latency_cycles and result.total_energy_pj <= self.energy_pj


NO_LIMITS = Limits()


class SearchBudget(Frozen):
    """When a search may stop.

    Attributes:
        cpu_seconds: CPU time for one layer, precision and objective.
        target_gap: stop once (cost − lower bound) / cost is at most this; 0 asks for the optimum.
        cuts: mappings that the CP-SAT loop may propose, simulate and cut away.
        prover: ``enumeration`` (branch and bound), ``cp_sat``, or ``auto``: enumeration first, and CP-SAT
            for what it could not finish.
    """

    cpu_seconds: float = Field(default=10.0, gt=0)
    target_gap: float = Field(default=0.0, ge=0)
    cuts: int = Field(default=200, ge=1)
    prover: Prover = "auto"


class TileOffer(Frozen):
    """What one tile of a machine would charge for a layer, or why it cannot run it.

    Attributes:
        cost, lower_bound: as of ``MappingSolution``, for this tile alone; None where it cannot run the layer.
        reason: why it cannot, in words; empty where it can.
    """

    tile: str
    cost: float | None = None
    lower_bound: float | None = None
    status: Status | None = None
    reason: str = ""


class MappingSolution(Shown, Frozen):
    """The best mapping found for one layer at one precision, with its certificate.

    On a machine of several tiles it is the cheapest tile's, and the certificate is that of the choice too: no mapping
    on any tile costs less than ``lower_bound``.

    Attributes:
        status: ``optimal`` where cost and lower bound meet (to 2e-6, the solver's integer units), else ``feasible``.
        cost: simulated cost in the objective's unit (cycles, pJ, pJ·cycles).
        lower_bound: no mapping of the searched space costs less; same unit.
        gap: (cost − lower_bound) / cost.
        proposals: mappings that were simulated.
        space: the restrictions under which the bound holds, the user's constraints among them.
        model_version: of the model of machines and of proofs that cost and bound are of; None: not recorded.
        latency_limit_cycles, energy_limit_pj: what the mapping had to keep beside; None: no limit.
        tile: the tile that the mapping is for; None on a machine of one tile.
        offers: what each tile would charge, in the order of the machine's description; empty on a machine of one tile.
    """

    layer: Layer
    precision: LayerPrecision
    objective: Objective
    status: Status
    mapping: Mapping
    result: LayerResult
    cost: float
    lower_bound: float
    gap: float
    solve_seconds: float
    proposals: int
    space: str
    model_version: int | None = None
    tile: str | None = None
    offers: tuple[TileOffer, ...] = ()
    latency_limit_cycles: int | None = None
    energy_limit_pj: float | None = None


class SearchInterrupted(KeyboardInterrupt):
    """Ctrl-C during a search: ``solution`` is the best mapping so far, with the bound and the gap that were reached.

    ``solutions``: where several processes searched, the best of each of their searches; ``solution`` is the first.
    It is a ``KeyboardInterrupt``, so that whoever does not ask for the solution stops as ever.
    """

    def __init__(self, solution: MappingSolution, *others: MappingSolution) -> None:
        super().__init__()
        self.solution = solution
        self.solutions = (solution, *others)


class ProofInterrupted(KeyboardInterrupt):
    """Ctrl-C during a proof that had come to ``lower_bound`` for the whole space (within ``mapper``)."""

    def __init__(self, lower_bound: float) -> None:
        super().__init__()
        self.lower_bound = lower_bound
