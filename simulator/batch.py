"""Many mappings of one layer at once: ``simulate_batch`` and ``bound_batch``, each one call of a compiled kernel.

They answer, mapping by mapping, what ``simulate`` answers with its engines ``fast`` and ``bound``, as arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator import kernels
from simulator.accelerator import IDLE_LEAKAGE, LANES, LEAKAGE, Accelerator, Buffer, RegisterFile, SystolicPassing
from simulator.bound import port_cycles
from simulator.counts import MOVED_INWARD, Moves, dram_traffic, energy_pj, moved_bits
from simulator.errors import ConfigurationError, MappingError, Problem, closest
from simulator.kernels import batch as kernel
from simulator.kernels.transfers import WalkInput
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.mapping import Mapping, MappingLevel
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from simulator.walk_input import walk_input

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
MOST_PASSES = 1 << 40
_BLOCK = 4096  # mappings whose counts become energies together: their arrays stay in a processor's cache


@dataclass(frozen=True)
class MappingBatch:
    """Mappings of one layer on one machine, as arrays. Dimensions stand in the order of ``DIMS``.

    Attributes:
        spatial: (mappings, axes + 1, 8), how many of each dimension lie along each axis; the lanes are the last one.
        buffer_tile, register_tile: (mappings, 8), extents.
        dram_order, buffer_order: (mappings, 8), every dimension by its place in ``DIMS``, outermost loop first.
        double_buffer: (mappings, 3), in the order of ``OPERANDS``.
        bypass: the operand that bypasses its buffer, in all of them.
    """

    spatial: Ints
    buffer_tile: Ints
    register_tile: Ints
    dram_order: Ints
    buffer_order: Ints
    double_buffer: Flags
    bypass: Operand | None = None

    def __len__(self) -> int:
        return len(self.buffer_tile)

    @classmethod
    def of(cls, mappings: Sequence[Mapping], accelerator: Accelerator) -> MappingBatch:
        """Collect mappings into a batch.

        Raises ``MappingError`` where there is none, where they do not bypass alike, or name an axis that the grid has
        not. Dimensions that an order leaves out become its innermost loops: they must have one trip.
        """
        if not mappings:
            raise MappingError(Problem("must hold at least one mapping", path="mappings", value="[]"))
        names = [*(axis.name for axis in accelerator.grid.axes), LANES]
        problems = []
        for number, mapping in enumerate(mappings):
            if len(mapping.buffer_levels) != 1:
                problems.append(Problem("batches are for one level of buffers", where=f"mapping {number}",
                                        path="levels", value=f"{len(mapping.buffer_levels)} buffer tiles"))
        if problems:
            raise MappingError(problems)
        bypass = _bypasses(mappings[0])
        for number, mapping in enumerate(mappings):
            if _bypasses(mapping) != bypass:
                problems.append(Problem("must be the same in all mappings of a batch", where=f"mapping {number}",
                                        path="bypass", value=str(list(_bypasses(mapping))),
                                        allowed=(str(list(bypass)),)))
            problems += [Problem("the grid has no such axis", where=f"mapping {number}", path="spatial", value=name,
                                 allowed=tuple(names), did_you_mean=closest(name, names))
                         for name in mapping.spatial if name not in names]
        if len(bypass) > 1:
            problems.append(Problem("at most one operand bypasses in this version", path="bypass", value=str(bypass)))
        if problems:
            raise MappingError(problems)
        count = len(mappings)
        spatial = np.ones((count, len(names), len(DIMS)), dtype=np.int64)
        tiles = {level: np.ones((count, len(DIMS)), dtype=np.int64) for level in ("buffer", "register")}
        orders = {level: np.empty((count, len(DIMS)), dtype=np.int64) for level in ("dram", "buffer")}
        for number, mapping in enumerate(mappings):
            for name, factors in mapping.spatial.items():
                for dim, factor in factors.items():
                    spatial[number, names.index(name), DIMS.index(dim)] = factor
            for level in mapping.levels:
                if level.level in tiles:
                    for dim, extent in level.tile.items():
                        tiles[level.level][number, DIMS.index(dim)] = extent
                if level.level in orders:
                    rest = tuple(dim for dim in DIMS if dim not in level.order)
                    orders[level.level][number] = [DIMS.index(dim) for dim in level.order + rest]
        # A bypassing operand has its one place in the registers.
        place = {operand: 2 if operand in bypass else 1 for operand in OPERANDS}
        doubled = np.array(
            [[mapping.doubles(operand, place[operand]) for operand in OPERANDS] for mapping in mappings]
        )
        return cls(spatial, tiles["buffer"], tiles["register"], orders["dram"], orders["buffer"], doubled,
                   bypass[0] if bypass else None)

    def mapping(self, number: int, accelerator: Accelerator) -> Mapping:
        """Return one mapping of the batch as ``simulate`` takes it."""
        names = [*(axis.name for axis in accelerator.grid.axes), LANES]
        spatial: dict[str, dict[Dim, int]] = {}
        for name, factors in zip(names, self.spatial[number], strict=True):
            used = {dim: int(factor) for dim, factor in zip(DIMS, factors, strict=True) if factor != 1}
            if used:
                spatial[name] = used

        def tile(extents: Ints) -> dict[Dim, int]:
            return {dim: int(extent) for dim, extent in zip(DIMS, extents, strict=True)}

        def order(places: Ints) -> tuple[Dim, ...]:
            return tuple(DIMS[place] for place in places)

        return Mapping(
            spatial=spatial,
            levels=(
                MappingLevel(level="dram", order=order(self.dram_order[number])),
                MappingLevel(level="buffer", tile=tile(self.buffer_tile[number]),
                             order=order(self.buffer_order[number])),
                MappingLevel(level="register", tile=tile(self.register_tile[number])),
            ),
            bypass=() if self.bypass is None else (self.bypass,),
            double_buffer=tuple(
                operand for operand, doubled in zip(OPERANDS, self.double_buffer[number], strict=True) if doubled
            ),
        )

    def check(self, accelerator: Accelerator) -> None:
        """Raise ``MappingError`` with every array that has a wrong shape or type."""
        count, dims = len(self), len(DIMS)
        expected = {
            "spatial": ((count, len(accelerator.grid.axes) + 1, dims), np.int64),
            **dict.fromkeys(("buffer_tile", "register_tile", "dram_order", "buffer_order"), ((count, dims), np.int64)),
            "double_buffer": ((count, len(OPERANDS)), np.bool_),
        }
        problems = []
        for name, (shape, kind) in expected.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != kind:
                problems.append(Problem("has another shape or type", where="batch", path=name,
                                        value=f"{array.dtype} {array.shape}",
                                        allowed=(f"{np.dtype(kind)} {shape}",)))
        if self.bypass is not None:
            file = accelerator.registers_of(self.bypass)
            problems += [Problem(f"may not bypass {buffer.name}", where="batch", path="bypass", value=self.bypass,
                                 allowed=buffer.may_bypass)
                         for buffer in accelerator.buffers_of(self.bypass) if self.bypass not in buffer.may_bypass]
            if file is None:
                problems.append(Problem("no register file keeps it", where="batch", path="bypass", value=self.bypass))
        if problems:
            raise MappingError(problems)


def _bypasses(mapping: Mapping) -> tuple[Operand, ...]:
    return tuple(operand for operand in OPERANDS if mapping.bypasses(operand, 1))


@dataclass(frozen=True)
class BatchResult:
    """Costs of a batch, an entry a mapping.

    Attributes:
        is_valid: whether the mapping is one of this layer on this machine. Elsewhere cycles are -1, energies NaN.
        total_cycles: as ``LayerResult`` has them; -1 too where ``simulate_batch`` left a mapping out for its passes.
        compute_cycles, fill_drain_cycles, tile_count: as ``LayerResult`` has them.
        total_energy_pj: energy of all components; NaN too where the machine leaks and cycles are not known.
    """

    is_valid: Flags
    total_cycles: Ints
    compute_cycles: Ints
    fill_drain_cycles: Ints
    tile_count: Ints
    total_energy_pj: Floats


def simulate_batch(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, batch: MappingBatch, *,
    most_passes: int = MOST_PASSES,
) -> BatchResult:
    """Cost of a layer under each mapping of a batch: exact, as by the engine ``fast``.

    Mappings of more than ``most_passes`` passes are not simulated (``total_cycles`` -1). Raises ``PrecisionError``
    where the PE cannot run the precision, ``MappingError`` where an array of the batch is wrong, ``ConfigurationError``
    where the machine has several levels of buffers, or elements whose time depends on values; single mappings that are
    not valid are marked.
    """
    return _count(layer, precision, accelerator, batch, most_passes)


def bound_batch(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, batch: MappingBatch
) -> BatchResult:
    """As ``simulate_batch``, with lower bounds of cycles and leakage, as by the engine ``bound``; all else is exact."""
    return _count(layer, precision, accelerator, batch, None)


def _count(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, batch: MappingBatch, most_passes: int | None,
) -> BatchResult:
    """``most_passes``: of mappings that are walked; None: cycles are bounded."""
    _check_machine(accelerator, precision)
    batch.check(accelerator)
    plan = _any_plan(layer, precision, accelerator, batch.bypass)
    template = walk_input(plan)
    machine = _batch_input(plan, accelerator, template)
    arrays = (batch.spatial, batch.buffer_tile, batch.register_tile, batch.dram_order, batch.buffer_order,
              batch.double_buffer)
    mappings = kernel.Mappings(*(np.ascontiguousarray(array) for array in arrays))
    if most_passes is None:
        found = kernels.bound_batch(machine, mappings)
    else:
        found = kernels.walk_batch(template, machine, mappings, most_passes, kernels.full_unless_plain(template))
    energies = np.empty(len(found))
    for begin in range(0, len(found), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        energies[block] = _energies(plan, found[block], is_bound=most_passes is None)
    return BatchResult(
        is_valid=found[:, kernel.PASSES] > 0,
        total_cycles=found[:, kernel.CYCLES],
        compute_cycles=found[:, kernel.COMPUTE_CYCLES],
        fill_drain_cycles=found[:, kernel.FILL_DRAIN_CYCLES],
        tile_count=found[:, kernel.PASSES],
        total_energy_pj=energies,
    )


def _energies(plan: Plan, found: Ints, *, is_bound: bool) -> Floats:
    """Energies of what the kernel counted, NaN where they are not known; bounds of cycles rise to those of ports."""
    is_valid = found[:, kernel.PASSES] > 0
    moves = _moves(plan, found)
    dram = dram_traffic(plan, moves)
    if is_bound:
        for busy in port_cycles(plan.accelerator, moved_bits(plan, dram, moves)):
            found[is_valid, kernel.CYCLES] = np.maximum(found[:, kernel.CYCLES], busy)[is_valid]
    cycles = found[:, kernel.CYCLES]
    energy = energy_pj(plan, dram, moves, moves.active_pe_steps * plan.step_cycles, cycles)
    is_known = is_valid & (cycles >= 0) if {LEAKAGE, IDLE_LEAKAGE} & energy.keys() else is_valid
    known: Floats = np.where(is_known, sum(energy.values(), start=np.zeros(len(found))), np.nan)
    return known


def _check_machine(accelerator: Accelerator, precision: LayerPrecision) -> None:
    problems = []
    if precision.split is not None:
        problems.append(Problem("batches are for layers that are not split by channel", path="precision",
                                value=precision.label))
    if accelerator.buffer_levels != 1:
        problems.append(Problem("batches are for machines with one level of buffers", where=accelerator.name,
                                path="memories", value=f"{accelerator.buffer_levels} levels of buffers"))
    element = accelerator.processing_element
    if element.depends_on_values:
        problems.append(Problem("its time depends on values, and batches have none", where=accelerator.name,
                                path="processing_element", value=element.kind))
    if problems:
        raise ConfigurationError(problems)


def _any_plan(layer: Layer, precision: LayerPrecision, accelerator: Accelerator, bypass: Operand | None) -> Plan:
    """Plan of the mapping that needs least room, for all that does not depend on the mapping.

    Memories are made large: a machine where nothing fits still answers, that nothing is valid.
    """
    roomy = accelerator.model_copy(update={"memories": tuple(
        memory if memory.kind == "dram" else memory.model_copy(update={"size_bits": 1 << 50})
        for memory in accelerator.memories
    )})
    order = tuple(sorted(DIMS, key=lambda dim: -sum(
        dim in RELEVANT_DIMS[operand] for operand in (bypass, _stationary(accelerator)) if operand is not None
    )))
    mapping = Mapping(
        levels=(MappingLevel(level="dram", order=DIMS), MappingLevel(level="buffer", order=order),
                MappingLevel(level="register")),
        bypass=() if bypass is None else (bypass,),
    )
    return Plan(layer, precision, roomy, mapping)


def _stationary(accelerator: Accelerator) -> Operand | None:
    passing = accelerator.grid.passing
    return passing.stationary if isinstance(passing, SystolicPassing) else None


def _batch_input(plan: Plan, machine: Accelerator, template: WalkInput) -> kernel.BatchInput:
    """Lay a layer and a machine out for the kernel. ``plan``, of a machine with more room: what no mapping changes."""
    layer, precision, grid = plan.layer, plan.precision, machine.grid
    stationary = _stationary(machine)
    keeps_registers = [machine.registers_of(operand) is not None for operand in OPERANDS]
    operands_of = [[i for i, operand in enumerate(OPERANDS) if dim in RELEVANT_DIMS[operand]] for dim in DIMS]
    others = [[i for i in range(len(OPERANDS)) if i not in present] for present in operands_of]
    assert all(len(absent) <= 1 for absent in others)
    rows: list[Sequence[int] | Ints] = [
        plan.extent, template.streamed, [sum(1 << i for i in present) for present in operands_of],
        [absent[0] if absent else kernel.NO_OPERAND for absent in others], template.element_bits,
        [precision.register_bits(operand) for operand in OPERANDS], keeps_registers,
    ]
    rows += [[layer.stride[axis], layer.dilation[axis], layer.padding_begin[axis], layer.stored_input_size[axis]]
             for axis in (0, 1)]
    axes = [(axis.size, axis.unroll) for axis in grid.axes]
    axes.append((machine.processing_element.lanes(precision), grid.lane_unroll))
    for size, unroll in axes:
        rows += [[dim in unroll for dim in DIMS], [size]]
    memories: list[Buffer | RegisterFile] = [*machine.buffers, *machine.register_files]
    for memory in memories:
        rows.append([memory.size_bits, memory.kind == "register_file",
                     *(operand in memory.keeps for operand in OPERANDS),
                     *(memory.double_buffer for _ in OPERANDS)])
    table = np.zeros((len(rows), len(DIMS)), dtype=np.int64)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return kernel.BatchInput(
        table=table,
        dims=np.flatnonzero(plan.extent > 1),
        axes=len(axes),
        memories=len(memories),
        bypass=-1 if plan.bypass is None else OPERANDS.index(plan.bypass),
        stationary=-1 if stationary is None else OPERANDS.index(stationary),
        registers_are_one=isinstance(grid.passing, SystolicPassing) or not all(keeps_registers),
        parameter_bits=template.parameter_bits, step_cycles=template.step_cycles, load_cycles=template.load_cycles,
        tail_cycles=template.tail_cycles, drain_cycles=template.drain_cycles, overlap=template.overlap,
        preload=template.preload, folds_on=template.folds_on, bandwidth=template.bandwidth, latency=template.latency,
    )


def _moves(plan: Plan, found: Ints) -> Moves:
    bits = {operand: plan.precision.stored_bits(operand) for operand in OPERANDS}
    filled = {operand: found[:, kernel.DRAM_ELEMENTS + OPERANDS.index(operand)] for operand in OPERANDS}
    return Moves(
        filled_bits={operand: (filled[operand] * bits[operand],) for operand in MOVED_INWARD},
        fetched_bits={
            operand: found[:, kernel.FETCHED_ELEMENTS + i] * bits[operand] for i, operand in enumerate(OPERANDS)
        },
        output_passages=(filled["output"],),
        read_in_registers_bits={
            operand: plan.layer.macs * plan.precision.register_bits(operand) for operand in MOVED_INWARD
        },
        active_pe_steps=found[:, kernel.ACTIVE_STEPS],
    )
