"""What a results folder holds: mappings, sensitivities, network points, and the settings of the run.

Each record is complete in itself: tables and plots are drawn from these alone.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any, Literal, get_args

from pydantic import Field

from bitmosaic.explorations.assignment_proof import AssignmentProof
from bitmosaic.explorations.store import Record
from mapper.solution import MappingSolution, Objective, TileOffer
from simulator.layer import Frozen
from simulator.precision import LayerPrecision
from simulator.provenance import Confidence
from simulator.result import LayerResult, NetworkResult, StallCause, VectorResult
from simulator.values import ValueSource
from workloads.entropy import DEFAULT_READING, BitCode, EntropyReading
from workloads.flexiq import DEFAULT_EVOLUTION, Extraction
from workloads.vector_jacobian import Gradients
from workloads.weight_quantisers import Quantiser

Minimised = Literal["latency", "energy", "memory"]
Origin = Literal["uniform", "latency", "energy", "memory", "given", "threshold", "ratio", "largest first", "random"]
PointCount = int | Literal["all"]
BITS_A_KIB = 8192
MethodName = Literal["amp", "seada", "dpq", "flexiq", "measured"]
FlexiqSelection = Literal["greedy", "evolutionary"]
SensitivityMethod = Literal["taylor", "perturbation", "weight_error", "hessian_trace", "bit_entropy", "value_entropy"]
SENSITIVITY_METHODS: tuple[SensitivityMethod, ...] = get_args(SensitivityMethod)
# They rate codes of 8 bits, rounded to nearest: no quantiser changes them.
BY_ENTROPY = frozenset(("bit_entropy", "value_entropy"))
BY_GRADIENTS = frozenset(("taylor", "hessian_trace"))


def rated_quantiser(method: SensitivityMethod, quantiser: Quantiser) -> Quantiser:
    """The quantiser whose weights a method rates when an exploration quantises with ``quantiser``."""
    return "rtn" if method in BY_ENTROPY else quantiser


def rated_gradients(method: SensitivityMethod, gradients: Gradients) -> Gradients:
    """Whose gradients a method rates by when an exploration takes ``gradients``: ``own`` where it reads none."""
    return gradients if method in BY_GRADIENTS else "own"


def rated_reading(method: SensitivityMethod, reading: EntropyReading) -> EntropyReading:
    """The reading of SEADA's rules that a method rates by: the default where it rates no entropies."""
    return reading if method in BY_ENTROPY else DEFAULT_READING


class MappingRecord(Record):
    """The mapping found for one layer in one precision, with its certificate."""

    solution: MappingSolution


class OperandEntropyRow(Frozen):
    """``workloads.entropy.OperandEntropy`` as it is written down."""

    value: float
    bit: float
    count: float


class HarmRecord(Record):
    """Harm of one layer in one precision, all other layers in FP32.

    ``subject`` is the key of network and task. ``harm`` is in the method's unit (taylor, perturbation, Hessian trace:
    squared network output; weight error: squared weight; entropies: bits), and None where the network's outputs were
    not finite. ``quantiser``: of the weights; entropies are those of rounded codes, whatever it is (``rtn``).
    ``gradients``: where they come from; ``own`` where the method reads none. ``reading``: of SEADA's rules, where
    entropies are rated.
    """

    subject: str
    method: str
    quantiser: Quantiser = "rtn"
    gradients: Gradients = "own"
    reading: EntropyReading = DEFAULT_READING
    layer: str
    precision: str
    harm: float | None


class EntropyRecord(Record):
    """Entropies of one layer's 8-bit codes, in bits, with the number of elements: what SEADA's rules go by.

    ``subject`` as in ``HarmRecord``. ``codes``: of which the bits are. ``input`` is None where the input cannot be
    reached.
    """

    subject: str
    codes: BitCode = "sign_magnitude"
    layer: str
    weight: OperandEntropyRow
    input: OperandEntropyRow | None


class FlexiqVariant(Frozen):
    """FlexiQ's choices (arXiv:2510.02822): who selects channels, how many together, and where effective bits of
    activations come from.

    Attributes:
        selection: ``greedy``, by error for each cycle saved, or ``evolutionary``, which searches around it for outputs
            nearest to the 8-bit network's (``workloads.flexiq.evolutionary``, with ``DEFAULT_EVOLUTION``).
        extraction: ``static``, from the calibration data, or ``dynamic``, from each example's tensor.
        width: channels that are lowered together; 1 in records that do not say it, which are older than the choice.
    """

    selection: FlexiqSelection = "greedy"
    extraction: Extraction = "static"
    width: int = Field(default=1, ge=1)

    @property
    def identity(self) -> dict[str, Any]:
        """What keys say of it: nothing of what is the default here, whose keys are older than the choices."""
        found = self.model_dump(mode="json", exclude_defaults=True)
        return found | ({"evolution": asdict(DEFAULT_EVOLUTION)} if self.selection == "evolutionary" else {})

    @property
    def label(self) -> str:
        """``flexiq``, what is not greedy and static, and the width of units above 1."""
        named = self.model_dump(mode="json", exclude_defaults=True, exclude={"width"}).values()
        return ", ".join(("flexiq", *named, *([f"units of {self.width}"] if self.width > 1 else [])))


DEFAULT_FLEXIQ = FlexiqVariant()


class DistanceRecord(Record):
    """How far a selection of narrow channels moves the outputs, on the calibration data; None: not finite.

    ``subject`` as in ``HarmRecord``; ``distance`` is the mean squared difference to the 8-bit network.
    """

    subject: str
    distance: float | None


class SelectionRecord(Record):
    """FlexiQ's nested selections: ratio → layer → input channels in the narrow format, by their numbers.

    ``extraction``: of activations' effective bits (None in records of earlier versions).
    """

    subject: str
    extraction: Extraction | None = None
    ratios: tuple[float, ...]
    narrow: tuple[dict[str, tuple[int, ...]], ...]


class Accuracy(Frozen):
    """A measured score: ``value`` in 0 … 1 (higher is better) on ``count`` examples."""

    metric: str
    value: float
    count: int
    extra: dict[str, float] = Field(default_factory=dict)


class AccuracyRecord(Record):
    """The score of the network under an assignment (layer → precision); an empty one is FP32.

    ``quantiser``: of the weights.
    """

    assignment: dict[str, str]
    quantiser: Quantiser = "rtn"
    accuracy: Accuracy


class LayerRow(Frozen):
    """One layer of a network point: what it runs in, how it is mapped, what it costs.

    Attributes:
        lower_bound, gap: proof of the mapping, in the unit of the objective that it was searched for (cycles, pJ,
            pJ·cycles); ``gap`` is a fraction. Where ``value_source`` is not None they are those of the machine
            whose steps all take the mean of drawn values.
        value_source: where the values are from on which the time depends, else None.
        mean_step_cycles: cycles of a step of the grid, in the mean.
        tile, offers: on a machine of several tiles where the layer ran, and what each tile would have charged.
        dram_bits: read from and written to the DRAM (None in records of earlier versions).
    """

    layer: str
    precision: str
    mapping: str
    macs: int
    total_cycles: int
    compute_cycles: int
    fill_drain_cycles: int
    stall_cycles: dict[StallCause, int]
    energy_pj: dict[str, float]
    pe_utilization: float
    cost: float
    lower_bound: float
    gap: float
    status: str
    value_source: ValueSource | None = None
    mean_step_cycles: float | None = None
    tile: str | None = None
    offers: tuple[TileOffer, ...] = ()
    dram_bits: int | None = None

    @property
    def total_stall_cycles(self) -> int:
        """Cycles in which the grid waits, for whatever cause."""
        return sum(self.stall_cycles.values())

    @property
    def total_energy_pj(self) -> float:
        """Energy of all components."""
        return math.fsum(self.energy_pj.values())


class VectorRow(Frozen):
    """The vector operations of one type in a network point, taken together; on several tiles those of each tile."""

    operator: str
    count: int
    total_cycles: int
    compute_cycles: int
    stall_cycles: int
    energy_pj: dict[str, float]
    tile: str | None = None

    @property
    def total_energy_pj(self) -> float:
        """Energy of all components."""
        return math.fsum(self.energy_pj.values())


class PointRecord(Record):
    """A network under one precision assignment: simulated cost and measured accuracy.

    Attributes:
        context: key of network, accelerator, task, objective and search budget; points of one context compare.
        origin: a uniform baseline, the front that proposed the assignment, or the user, who gave it; the threshold on
            entropies or the ratio of narrow channels (``origin_value``) that it is for; an order of layers.
        selection: key of the ``SelectionRecord`` whose channels are narrow at that ratio, where they are.
        uniform: the baseline's precision, else None.
        assignment: layer → precision (``w4a8``).
        weight_bits: stored bits of all trained weights, without scales (None in records of earlier versions).
        precisions: in full, those of layers whose label does not say it all.
        proof: of the integer program that proposed the assignment; None: another way, or a record of earlier versions.
        accuracy: measured; None where the network has no weights or no task.
        confidence: component of energy → how far its numbers can be trusted; None: not stated.
        not_modelled: what costs energy and is left out of the machine's description, in words.
    """

    context: str
    origin: Origin
    uniform: str | None
    assignment: dict[str, str]
    precisions: dict[str, LayerPrecision] = Field(default_factory=dict)
    origin_value: float | None = None
    selection: str | None = None
    weight_bits: int | None = None
    proof: AssignmentProof | None = None
    total_cycles: int
    latency_ms: float
    energy_pj: float
    accuracy: Accuracy | None
    layers: tuple[LayerRow, ...]
    vector: tuple[VectorRow, ...]
    confidence: dict[str, Confidence | None] = Field(default_factory=dict)
    not_modelled: tuple[str, ...] = ()

    @property
    def energy_uj(self) -> float:
        """Energy of one inference in µJ."""
        return self.energy_pj * 1e-6

    @property
    def weight_kib(self) -> float:
        """Memory of the weights in KiB, without scales; NaN where it was not recorded."""
        return float("nan") if self.weight_bits is None else self.weight_bits / BITS_A_KIB

    @property
    def accuracy_percent(self) -> float:
        """Measured score in percent; NaN where there is none."""
        return float("nan") if self.accuracy is None else 100.0 * self.accuracy.value

    @property
    def worst_gap(self) -> float:
        """Largest gap of any layer's mapping."""
        return max((row.gap for row in self.layers), default=0.0)


class FamilyRecord(Record):
    """The points that one method or baseline proposed in a comparison: keys of ``PointRecord``, in its order.

    ``key``: of the context, the menu, and all that its proposals depend on. ``quantiser``: of its weights, ``flexiq``
    where layers are split by channel (with what is not its default, ``FlexiqVariant.label``).
    """

    family: str
    quantiser: str
    points: tuple[str, ...]


class Ratings(Frozen):
    """How a method rates layers: whose harms, of which weights, in which precisions, by whose gradients."""

    sensitivity: SensitivityMethod
    quantiser: Quantiser
    menu: tuple[str, ...]
    gradients: Gradients = "own"


class ComparisonSettings(Frozen):
    """What a comparison was asked for; ``families``: keys of the records of all that is compared, in order.

    ``skipped``: method → why the machine or the network does not take it. ``ratings``: of the methods that rate layers;
    ``subject`` as in ``HarmRecord``. ``cpu_seconds_per_layer`` and ``target_gap`` are the budget of a search (None in
    files of earlier versions).
    """

    network: str
    accelerator: str
    metric: str
    examples: int
    fp32: float
    menu: tuple[str, ...]
    objective: Objective
    points: PointCount
    seeds: int
    families: tuple[str, ...]
    skipped: dict[str, str] = Field(default_factory=dict)
    subject: str = ""
    ratings: dict[str, Ratings] = Field(default_factory=dict)
    cpu_seconds_per_layer: float | None = None
    target_gap: float | None = None
    versions: dict[str, str]


class Settings(Frozen):
    """What a run was asked for, and the versions that ran it.

    ``kept``: layer → precision that it must have; ``layer_menus``: layer → what it has its precision from;
    ``tied``: groups of layers that have one. ``weight_bits_limit``, ``latency_limit_ms``, ``energy_limit_uj``, and
    ``accuracy_at_least`` (0 … 1): what points are chosen by; ``minimise``: what the chosen one costs least of.
    ``method``: the named method that was asked for, else None. ``sensitivity_note``: why it is another one than the
    default, where none was asked for. ``gradients``: of ratings that read them. ``floating``: what layers may stay
    in on the floating-point unit. ``flexiq``, ``seada``: of the methods of those names. ``context`` as in
    ``PointRecord``, ``subject`` as in ``HarmRecord``; ``fp32_key`` is the key of FP32's accuracy.
    """

    network: str
    network_source: str
    accelerator: str
    task: str | None
    metric: str | None
    menu: tuple[str, ...]
    objective: Objective
    sensitivity: SensitivityMethod
    sensitivity_note: str = ""
    gradients: Gradients = "own"
    quantiser: Quantiser = "rtn"
    method: MethodName | None = None
    flexiq: FlexiqVariant | None = None
    seada: EntropyReading | None = None
    floating: str | None = None
    kept: dict[str, str] = Field(default_factory=dict)
    layer_menus: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    tied: tuple[tuple[str, ...], ...] = ()
    weight_bits_limit: int | None = None
    latency_limit_ms: float | None = None
    energy_limit_uj: float | None = None
    accuracy_at_least: float | None = None
    minimise: Minimised = "latency"
    points: PointCount
    cpu_seconds_per_layer: float
    target_gap: float
    context: str
    subject: str
    fp32_key: str | None
    versions: dict[str, str]

    @property
    def cost_limits(self) -> dict[Minimised, float]:
        """What one inference may take, in ms and µJ, where that was limited."""
        limits: dict[Minimised, float | None] = {"latency": self.latency_limit_ms, "energy": self.energy_limit_uj}
        return {axis: most for axis, most in limits.items() if most is not None}


def layer_row(result: LayerResult, precision: str, solution: MappingSolution, dram: str) -> LayerRow:
    """Put what the tables need of a layer's simulation and of its search into one row; ``dram``: name of the DRAM."""
    return LayerRow(
        layer=result.layer,
        precision=precision,
        mapping=solution.mapping.describe(),
        macs=result.macs,
        total_cycles=result.total_cycles,
        compute_cycles=result.compute_cycles,
        fill_drain_cycles=result.fill_drain_cycles,
        stall_cycles=result.stall_cycles,
        energy_pj=result.energy_pj,
        pe_utilization=result.pe_utilization,
        cost=solution.cost,
        lower_bound=solution.lower_bound,
        gap=solution.gap,
        status=solution.status,
        value_source=result.value_source,
        mean_step_cycles=result.mean_step_cycles,
        tile=result.tile,
        offers=solution.offers,
        dram_bits=sum(result.moved_bits(dram)),
    )


def vector_rows(result: NetworkResult) -> tuple[VectorRow, ...]:
    """Sum the vector operations of a network by operator and tile, in the order of their first use."""
    groups: dict[tuple[str, str | None], list[VectorResult]] = {}
    for operation in result.operations:
        if isinstance(operation, VectorResult):
            groups.setdefault((operation.operator, operation.tile), []).append(operation)
    return tuple(
        VectorRow(
            operator=operator,
            count=len(members),
            total_cycles=sum(member.total_cycles for member in members),
            compute_cycles=sum(member.compute_cycles for member in members),
            stall_cycles=sum(member.stall_cycles for member in members),
            energy_pj={
                component: sum(member.energy_pj.get(component, 0.0) for member in members)
                for component in {name: None for member in members for name in member.energy_pj}
            },
            tile=tile,
        )
        for (operator, tile), members in groups.items()
    )
