"""The best simulated mapping so far, and the exact cost of many choices at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mapper.build_mapping import buffer_order, build_mapping, outer_orders
from mapper.cost_model import CostModel
from mapper.descent import ROUNDING, Candidate, double_buffer_bits, double_buffered
from mapper.devices import EVERY_DEVICE, SearchDevices
from mapper.interruptible import heard
from mapper.solution import NO_LIMITS, Limits, Objective, objective_cost
from mapper.split_channels import layer_in_places
from mapper.twins import Simulated, looping, sequences
from simulator.accelerator import Accelerator
from simulator.engine import simulate
from simulator.errors import MappingError
from simulator.fast import simulate_fast
from simulator.kernels import ENDLESS, full_unless_plain, tiling_cycles
from simulator.kernels.transfers import WalkInput
from simulator.layer import DIMS, OPERANDS, Dim, Layer
from simulator.mapping import Mapping
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.result import LayerResult
from simulator.walk_input import walk_input

PROOF_TOLERANCE = 1e-6  # relative
MOST_EVENTS = 1 << 22  # a tiling with more passes is not simulated; what is known of it is its closed-form cost
MOST_PLAIN_EVENTS = 1 << 26  # the same where the short walk leaves out what repeats itself, so that few are walked
MOST_DEEP_EVENTS = 1 << 13  # with several levels of buffers, where a pass takes longer: this many, or ...
KNOWN = 1 << 62  # in the place of the cycles of what was simulated before
MORE_DEEP_EVENTS = 4  # ... so many times those of the incumbent, whichever is more
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass
class Incumbent:
    """Best mapping of one layer by simulated cost; ``cost`` is in the objective's unit.

    ``proposals`` counts the mappings that were simulated; ``devices`` are those that the search may use. ``hinted``: it
    began with a mapping that was known; ``promise``: the least closed-form cost that descents saw, by a model's id.
    """

    layer: Layer
    precision: LayerPrecision
    accelerator: Accelerator
    objective: Objective
    target_gap: float
    limits: Limits = NO_LIMITS
    devices: SearchDevices = EVERY_DEVICE
    cost: float = float("inf")
    _mapping: Mapping | None = None
    _result: LayerResult | None = None
    _adopted: tuple[CostModel, Ints, int, int] | None = None
    proposals: int = 0
    hinted: bool = False
    promise: dict[int, float] = field(default_factory=dict)
    _simulated: set[tuple[object, ...]] = field(default_factory=set)
    _noted: Simulated = field(init=False)
    _nest_shape: tuple[int, ...] = field(init=False)
    _walks: dict[object, WalkInput] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._nest_shape = layer_in_places(self.layer, self.precision, self.accelerator).shape
        self._noted = Simulated(only_cycles=self.objective == "latency" and self.limits == NO_LIMITS)

    @property
    def is_empty(self) -> bool:
        """Whether no mapping was found yet."""
        return self.cost == float("inf")

    @property
    def mapping(self) -> Mapping | None:
        """The mapping; None where none was found yet."""
        self._settle()
        return self._mapping

    @property
    def result(self) -> LayerResult | None:
        """What the simulator says of ``mapping``."""
        self._settle()
        return self._result

    def target(self) -> float:
        """A mapping matters only if it costs less than this.

        Cycles are whole: without a gap allowed, a better mapping saves at least one.
        """
        target = self.cost * (1 - max(self.target_gap, PROOF_TOLERANCE))
        if self.objective == "latency" and self.target_gap == 0 and np.isfinite(self.cost):
            return min(target, self.cost - 1 + 1e-6)
        return target

    def proven(self) -> float:
        """Lower bound where no mapping costs less than ``target``."""
        whole = self.objective == "latency" and self.target_gap == 0
        return self.cost if whole else self.target()

    def consider(self, model: CostModel, candidate: Candidate) -> bool:
        """Simulate the mappings that a candidate stands for and keep the best. Returns whether all were simulated."""
        return bool(self.consider_all(model, [candidate])[0])

    def consider_all(
        self, model: CostModel, candidates: Sequence[Candidate], deadline: float = float("inf")
    ) -> npt.NDArray[np.bool_]:
        """``consider_many`` for candidates."""
        rows = np.array([candidate.rows for candidate in candidates], dtype=np.int64)
        masks = [double_buffer_bits(candidate.double_buffer) for candidate in candidates]
        return self.consider_many(model, rows, np.array(masks, dtype=np.int64), deadline)

    def consider_many(
        self, model: CostModel, rows: Ints, masks: Ints, deadline: float = float("inf")
    ) -> npt.NDArray[np.bool_]:
        """Simulate all mappings of many choices: ``rows`` (choices, blocks), ``masks`` (choices,) double buffering.

        Returns which of them were simulated: those with too many passes are not, and with several levels of buffers
        none past ``deadline`` (``time.process_time``).
        """
        simulated = np.ones(len(rows), dtype=np.bool_)
        if len(rows) == 0:
            return simulated
        leakage = model.leakage_pj_per_cycle
        masks = masks | double_buffer_bits(model.always_doubled)
        if self.objective == "energy" and leakage == 0 and self.limits == NO_LIMITS:
            # The closed form is exact, and the order outside the held loops takes no energy.
            self._keep_best(model, rows, masks, 0, _energy_pj(model, rows))
            return simulated
        if model.variant.levels > 1:
            for place, (chosen, mask) in enumerate(zip(rows, masks, strict=True)):
                late = not self.is_empty and time.process_time() > deadline
                simulated[place] = not late and self._consider_one(model, _candidate(chosen, int(mask)))
            return simulated
        tilings = _tilings(model, rows)
        doubled = (masks[:, None] >> np.arange(len(OPERANDS))) & 1 == 1
        template = self._walk_of(model, rows[0], int(masks[0]))
        energy = _energy_pj(model, rows)
        geometry = np.array(
            [
                [self.layer.stride[axis], self.layer.dilation[axis], self.layer.padding_begin[axis],
                 self.layer.stored_input_size[axis]]
                for axis in (0, 1)
            ]
        )
        inner = _places(buffer_order(model.variant))
        loops = looping(model, rows)
        full = full_unless_plain(template)
        most_events = MOST_PLAIN_EVENTS if full is None else MOST_EVENTS
        for which, (order,) in enumerate(outer_orders(model.variant)):
            keys = self._noted.keys(model, rows, masks, sequences(order, loops))
            new = self._noted.are_new(keys)
            if not new.any():
                continue
            cycles = np.full(len(rows), KNOWN)
            cycles[new] = heard(
                tiling_cycles, template, geometry, _places(order), inner, *(each[new] for each in tilings),
                doubled[new], most_events, full, self._hopeless(energy[new], leakage),
                self.objective == "latency" and self.limits == NO_LIMITS,
            )
            self._noted.note([key for key, walked in zip(keys, cycles >= 0, strict=True) if walked])
            simulated &= cycles >= 0
            with_leakage = energy + leakage * cycles
            costs = {
                "latency": cycles.astype(np.float64), "energy": with_leakage, "edp": cycles * with_leakage,
            }[self.objective]
            allowed = new & (cycles >= 0) & (cycles <= self.limits.latency_cycles)
            allowed &= with_leakage <= self.limits.energy_pj * (1 + ROUNDING)
            self._keep_best(model, rows, masks, which, np.where(allowed, costs, np.inf))
        return simulated

    def _hopeless(self, energy_pj: Floats, leakage_pj_per_cycle: float) -> Ints:
        """Cycles from which on choices of some energy without leakage cannot replace the incumbent, or break limits."""
        cycles = np.full(len(energy_pj), np.inf)
        if not self.is_empty and self.objective == "latency":
            cycles[:] = self.cost
        elif not self.is_empty and self.objective == "edp":
            # cycles · (energy + leakage · cycles) = cost, solved in the form that does without a leakage too.
            root = np.sqrt(energy_pj**2 + 4 * leakage_pj_per_cycle * self.cost)
            cycles = 2 * self.cost / np.maximum(energy_pj + root, 1e-300) * (1 + ROUNDING)
        elif not self.is_empty and leakage_pj_per_cycle > 0:
            cycles = (self.cost - energy_pj) / leakage_pj_per_cycle * (1 + ROUNDING)
        if leakage_pj_per_cycle > 0:
            room = self.limits.energy_pj * (1 + ROUNDING) - energy_pj
            cycles = np.minimum(cycles, room / leakage_pj_per_cycle * (1 + ROUNDING) + 1)
        cycles = np.minimum(cycles, self.limits.latency_cycles + 1)
        whole: Ints = np.ceil(np.clip(cycles, 0, ENDLESS)).astype(np.int64)
        return whole

    def _consider_one(self, model: CostModel, candidate: Candidate) -> bool:
        """Simulate the mappings of one choice, one by one. Returns whether none had too many passes.

        Many variants stand for the same mapping, but for loops of one trip: each is simulated once.
        """
        every = True
        for mapping in build_mapping(model, candidate, self.accelerator):
            program = _program(self._nest_shape, mapping)
            if program in self._simulated:
                continue
            try:
                plan = Plan(self.layer, self.precision, self.accelerator, mapping)
            except MappingError:
                continue  # as in ``_adopt``
            if self._result is not None and plan.event_count > max(
                MOST_DEEP_EVENTS, MORE_DEEP_EVENTS * self._result.tile_count
            ):
                every = False
                continue
            self._simulated.add(program)
            self.proposals += 1
            result = heard(simulate_fast, plan)
            cost = objective_cost(result, self.objective)
            if cost < self.cost and self.limits.allow(result):
                self.cost, self._mapping, self._result, self._adopted = cost, mapping, result, None
        return every

    def _keep_best(self, model: CostModel, rows: Ints, masks: Ints, order: int, costs: Floats) -> None:
        """Adopt what is cheaper than the incumbent, under one order of the DRAM loops."""
        self.proposals += len(rows)
        best = int(np.argmin(costs))
        if model.variant.levels == 1 and self.limits == NO_LIMITS:
            # Whoever asks for the mapping has it simulated; most of these are soon replaced by better ones.
            if costs[best] < self.cost * (1 - 1e-12):
                self._adopted, self.cost = (model, rows[best], int(masks[best]), order), float(costs[best])
            return
        while costs[best] < self.cost * (1 - 1e-12):
            self._adopt(model, rows[best], int(masks[best]), order)
            costs[best] = np.inf
            best = int(np.argmin(costs))

    def _settle(self) -> None:
        """Simulate the mapping that was adopted for its cost alone."""
        if self._adopted is not None:
            model, rows, mask, order = self._adopted
            mapping = build_mapping(model, _candidate(rows, mask), self.accelerator)[order]
            result = heard(simulate, self.layer, self.precision, self.accelerator, mapping)
            cost = objective_cost(result, self.objective)
            self.cost, self._mapping, self._result, self._adopted = cost, mapping, result, None

    def _walk_of(self, model: CostModel, rows: Ints, mask: int) -> WalkInput:
        """Walk input of some mapping that bypasses what a model's do: all else that tilings take from it is one."""
        bypass = model.variant.places
        if bypass not in self._walks:
            mapping = build_mapping(model, _candidate(rows, mask), self.accelerator)[0]
            plan = Plan(self.layer, self.precision, self.accelerator, mapping)
            self._walks[bypass] = walk_input(plan)
        return self._walks[bypass]

    def _adopt(self, model: CostModel, rows: Ints, mask: int, order: int) -> None:
        mappings = build_mapping(model, _candidate(rows, mask), self.accelerator)
        if model.variant.levels == 1:
            self.offer(mappings[order])
            return
        # All of them cost the same energy, but where a buffer happens to get no partial sums, outputs that are wider
        # when finished may leave no room for what is held twice, or for anything.
        for mapping in mappings:
            try:
                self.offer(mapping)
            except MappingError:
                continue
            return

    def offer(self, mapping: Mapping) -> None:
        """Simulate a mapping, and take it where it keeps the limits and is cheaper."""
        result = heard(simulate, self.layer, self.precision, self.accelerator, mapping)
        cost = objective_cost(result, self.objective)
        if cost < self.cost and self.limits.allow(result):
            self.cost, self._mapping, self._result, self._adopted = cost, mapping, result, None

    def offer_thriftier(self, mapping: Mapping) -> None:
        """Simulate a mapping, and take it where it costs no more and takes less energy."""
        result = heard(simulate, self.layer, self.precision, self.accelerator, mapping)
        now = self.result
        assert now is not None
        if objective_cost(result, self.objective) <= self.cost and result.total_energy_pj < now.total_energy_pj:
            self.cost = objective_cost(result, self.objective)
            self._mapping, self._result, self._adopted = mapping, result, None


def _program(nest_shape: tuple[int, ...], mapping: Mapping) -> tuple[object, ...]:
    """A mapping without the loops of one trip: equal ones give equal programs of transfers and passes."""
    tiles = [nest_shape, *(tuple(level.tile.get(dim, 1) for dim in DIMS) for level in mapping.buffer_levels)]
    held = tuple(mapping.level("register").tile.get(dim, 1) * mapping.unrolled(dim) for dim in DIMS)
    orders = tuple(
        tuple(dim for dim in level.order if outer[DIMS.index(dim)] > inner[DIMS.index(dim)])
        for level, outer, inner in zip(mapping.levels[:-1], tiles, [*tiles[1:], held], strict=True)
    )
    spatial = tuple((axis, tuple(sorted(unrolled.items()))) for axis, unrolled in mapping.spatial.items())
    levels = tuple((level.bypass, level.double_buffer) for level in mapping.levels)
    return tuple(tiles), held, orders, spatial, levels, mapping.bypass, mapping.double_buffer


def _candidate(rows: Ints, mask: int) -> Candidate:
    return Candidate(tuple(int(row) for row in rows), double_buffered(mask), 0.0)


def _places(order: tuple[Dim, ...]) -> Ints:
    return np.array([DIMS.index(dim) for dim in order], dtype=np.int64)


def _tilings(model: CostModel, rows: Ints) -> tuple[Ints, Ints, Ints]:
    """Buffer tile, register tile and unrolling of each choice, shapes (choices, 8)."""
    found = tuple(np.ones((len(rows), len(DIMS)), dtype=np.int64) for _ in range(3))
    for block, chosen in zip(model.blocks, rows.T, strict=True):
        for choice in block.choices:
            place = DIMS.index(choice.dim)
            found[0][:, place] = choice.buffer_tile[chosen]
            found[1][:, place] = choice.register_tile[chosen]
            found[2][:, place] = choice.unroll[chosen]
    return found[0], found[1], found[2]


def _energy_pj(model: CostModel, rows: Ints) -> Floats:
    """Energy of each choice without leakage: the closed form is exact."""
    total = np.full(len(rows), model.energy_constant)
    for term in model.energy:
        value = np.full(len(rows), term.coefficient)
        for factor, chosen in zip(term.factors, rows.T, strict=True):
            if factor is not None:
                value = value * factor[chosen]
        total += value
    return total
