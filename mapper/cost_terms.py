"""The cost of a mapping as sums of products with one factor a block: ``simulator.bound``, laid out for search.

Within a variant (``variants``) every quantity is ``coefficient · ∏_blocks column``:

- cycles of the grid (an upper row: what cannot overlap), of the DRAM channel, and of all loads with the last pass
  behind them; latency is the largest of the three;
- energy, as one sum, to which leakage adds its power times the latency;
- sizes of tiles against the capacities.

Factors are exact integers; sums of terms are floats, right to about 1e-12, so the search asks the simulator for the
truth.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from mapper.candidates import BLOCKS, Block
from mapper.cost_model import Capacity, Exposed, Term
from mapper.split_channels import split_channels
from mapper.variants import IRRELEVANT, Variant
from simulator.accelerator import Accelerator, Buffer
from simulator.counts import MOVED_INWARD
from simulator.interconnect import hops
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Dim, Layer, Operand
from simulator.output_stage import OutputStage
from simulator.plan import channel_places, grid_timing, products_of
from simulator.precision import LayerPrecision

Floats = npt.NDArray[np.float64]


class TermProblem:
    """A layer on a machine, with what all of its variants ask for."""

    def __init__(self, layer: Layer, precision: LayerPrecision, accelerator: Accelerator) -> None:
        self.layer, self.precision, self.accelerator = layer, precision, accelerator
        self.timing = grid_timing(accelerator)
        self.bits = {operand: precision.stored_bits(operand) for operand in OPERANDS}
        self.split = split_channels(layer, precision, accelerator)
        plain_inputs = layer.extent("G") * layer.extent("N") * layer.extent("C")
        self.counts: dict[Operand, int] = {
            "weight": layer.weight_count, "input": plain_inputs, "output": layer.output_count,
        }
        self.products = products_of(layer, precision, channel_places(layer, precision, accelerator))
        # All elements once, those of the input for each row and column.
        self.all_bits = {operand: count * self.bits[operand] for operand, count in self.counts.items()}
        if self.split is not None:
            for operand in MOVED_INWARD:
                self.all_bits[operand] = self.counts[operand] // layer.extent("C") * self.split.bits(operand)
        self.buffers = [(buffer, accelerator.level_of(buffer)) for buffer in accelerator.buffers]


@dataclass(frozen=True)
class VariantRows:
    """The blocks that a variant may choose from, and what follows from them alone.

    ``fewest_steps``: that they allow (of split channels, the fewest cycles); 0 where nothing fits. ``factors``: of the
    terms asked for so far.
    """

    blocks: tuple[Block, ...]
    fewest_steps: int
    factors: dict[tuple[object, ...], tuple[npt.NDArray[np.int64] | None, ...]] = field(default_factory=dict)


class VariantTerms:
    """Collects the terms of one variant."""

    def __init__(self, own: VariantRows, problem: TermProblem, variant: Variant) -> None:
        self.own, self.fewest_steps = own, own.fewest_steps
        self.blocks, self.layer, self.precision = own.blocks, problem.layer, problem.precision
        self.accelerator, self.variant = problem.accelerator, variant
        self.levels = variant.levels
        self.timing, self.bits, self.counts = problem.timing, problem.bits, problem.counts
        self.split, self.all_bits, self.products = problem.split, problem.all_bits, problem.products
        self.all_buffers = problem.buffers

    def term(self, name: str, coefficient: float, *, pair: str = "", **columns: str) -> Term:
        """Make a term: ``columns`` maps a dimension to the name of its column, ``pair`` names the column of both
        pair blocks."""
        key = (pair, *columns.items())
        factors = self.own.factors.get(key)
        if factors is None:
            found: list[npt.NDArray[np.int64] | None] = []
            for block, dims in zip(self.blocks, BLOCKS, strict=True):
                names = [f"{columns[dim]}_{dim}" for dim in dims if dim in columns]
                if pair and len(dims) == 2:
                    names.append(pair)
                found.append(block.product(tuple(names)))
            factors = self.own.factors[key] = tuple(found)
        return Term(name, coefficient, factors)

    def tile(
        self, operand: Operand, column: str, input_column: str, name: str, bits: int | None = None, *,
        split_column: str = "",
    ) -> Term:
        """Bits of a tile of an operand; ``bits`` of an element where it is not as stored.

        ``split_column``: C's column where channels are split, if it is not that of all dimensions.
        """
        pair = input_column if operand == "input" else ""
        dims = dict.fromkeys(("G", "N", "C") if pair else [d for d in DIMS if d in RELEVANT_DIMS[operand]], column)
        coefficient = bits or self.bits[operand]
        if self.split is not None and operand != "output":
            coefficient, dims["C"] = 1, f"{split_column or column}_{operand}"
        return self.term(name, coefficient, pair=pair, **dims)

    def cycles(self, name: str, columns: dict[Dim, str]) -> Term:
        """Cycles of steps, whose numbers are in some columns."""
        if self.split is not None:
            return self.term(name, 1, **{**columns, "C": f"{columns['C']}_cycles"})
        return self.term(name, self.accelerator.processing_element.cycles_per_step(self.precision), **columns)

    def refetch(self, operand: Operand, level: int) -> dict[str, str]:
        """Columns of the trips that bring an operand to its place at a level again."""
        down_to = self.variant.refill_level(operand, level)
        return dict.fromkeys(IRRELEVANT[operand], f"trips{down_to}") if down_to else {}

    def refetch_grid(self, operand: Operand) -> dict[str, str]:
        """Columns of the trips that fetch an operand from its buffer again."""
        column = f"trips{self.levels}" if operand == self.variant.held_by_registers else "fetches"
        return dict.fromkeys(IRRELEVANT[operand], column)

    def filled(self, operand: Operand, level: int, *, padded: bool = False) -> Term:
        """Bits that come to a place of an operand: weight, input, partial sums in each direction (constants apart).

        ``padded``: of the input, 0 where a pass may read nothing but padding.
        """
        again = self.refetch(operand, level)
        pair = ""
        if operand == "input":
            pair = "input_grid_sum" if level > self.levels else f"input_sum{level}" + ("_padded" if padded else "")
        return self.term(operand, self.all_bits[operand], pair=pair, **again)

    def dram_terms(self) -> dict[str, Term]:
        """Bits between DRAM and chip (``filled``)."""
        return {operand: self.filled(operand, self.outermost(operand)) for operand in OPERANDS}

    def outermost(self, operand: Operand) -> int:
        """Level of the first memory behind DRAM that an operand passes."""
        return self.variant.places_of(operand)[0]

    def is_ahead(self, operand: Operand) -> bool:
        """Whether DRAM may move an operand's tiles under the passes, double-buffered or not."""
        return len(self.variant.places_of(operand)) > 1

    @staticmethod
    def scaled(term: Term, factor: float, name: str) -> Term:
        """The same product with another coefficient."""
        return Term(name, term.coefficient * factor, term.factors, term.floor * factor)

    def grid_terms(self, dram: dict[str, Term], constant_bits: int) -> tuple[tuple[Term, ...], float]:
        """Cycles that cannot overlap on the grid's timeline (``simulator.bound``), if its steps set the pace."""
        timing, memory = self.timing, self.accelerator.dram
        bandwidth = memory.bandwidth_bits_per_cycle
        compute = self.cycles("compute", dict.fromkeys(DIMS, "steps"))
        terms = [replace(compute, floor=compute.coefficient * self.fewest_steps)]
        constant = float(memory.latency_cycles) + constant_bits / bandwidth
        if timing.stationary is None:
            constant += timing.tail_cycles
        else:
            inside = 0 if timing.overlap else timing.tail_cycles
            constant += timing.tail_cycles - inside
            trips = f"trips{self.levels}"
            folds = self.folds()
            events = dict.fromkeys(DIMS, trips)
            if self.variant.bypass is not None:
                # Where an operand bypasses, its buffer loops are loops over passes too.
                own = RELEVANT_DIMS[self.variant.bypass]
                events = {dim: ("steps" if dim in own else trips) for dim in DIMS}
            if timing.preload:
                terms.append(self.term("load", timing.load_cycles, **events))
                if inside:
                    terms.append(self.term("tail", inside, **folds))
            elif timing.load_cycles + inside:
                terms.append(self.term("load", timing.load_cycles + inside, **folds))
        return tuple(terms), constant

    def folds(self) -> dict[Dim, str]:
        """Columns of the folds of all passes: what streams through the grid does not divide them."""
        assert self.timing.stationary is not None
        streamed = IRRELEVANT[self.timing.stationary]
        return {dim: (f"trips{self.levels}" if dim in streamed else "steps") for dim in DIMS}

    def paced_terms(self, constant: float) -> tuple[tuple[Term, ...], float]:
        """The same if the folds' loads, or their drains, set the pace: none where nothing waits for these.

        ``constant``: that of the other sum. The last fold's results leave behind the last pass, with the tail.
        """
        timing = self.timing
        pace = timing.load_cycles if timing.preload else 0
        drain = timing.drain_cycles if timing.overlap else 0
        if timing.stationary is None or not (pace or drain):
            return (), 0.0
        terms = [self.term("paced", max(pace, drain), **self.folds())]
        if not timing.preload and timing.load_cycles:
            terms.append(self.term("load", timing.load_cycles, **self.folds()))
        return tuple(terms), constant - drain

    def exposed(self, dram: dict[str, Term]) -> tuple[Exposed, ...]:
        """Waits for each operand's tiles, double-buffered and not."""
        precision, output_count = self.precision, self.counts["output"]
        bandwidth = self.accelerator.dram.bandwidth_bits_per_cycle
        found = []
        operand: Operand
        for operand in ("weight", "input"):
            level = self.outermost(operand)
            column, pair, split_column = f"tile{level}", f"input_first{level}", f"first{level}"
            if level > self.levels:
                column, pair, split_column = "first_grid", "input_first_grid", ""
            elif self.is_ahead(operand):
                pair += "_padded"
            first = self.tile(operand, column, pair, f"first_{operand}", split_column=split_column)
            doubled = self.scaled(first, 1 / bandwidth, f"first_{operand}")
            every_load = self.scaled(dram[operand], 1 / bandwidth, f"all_{operand}")
            found.append(Exposed(operand, doubled, doubled if self.is_ahead(operand) else every_load, 0.0))
        finished = output_count * precision.output.bits
        spilled = output_count * self.bits["output"]
        last_write = self._last_write(bandwidth)
        if self.is_ahead("output"):
            found.append(Exposed("output", last_write, last_write, 0.0))
        else:
            every_write = self.scaled(dram["output"], 2 / bandwidth, "all_output")
            found.append(Exposed("output", last_write, every_write, (finished - 2 * spilled) / bandwidth))
        return tuple(found)

    def _last_write(self, bandwidth: int) -> Term:
        level = self.outermost("output")
        column = "last_inner" if level > self.levels else f"last{level}"
        dims = {dim: column for dim in DIMS if dim in RELEVANT_DIMS["output"]}
        return self.term("last_write", self.precision.output.bits / bandwidth, **dims)

    def final_terms(self, dram: dict[str, Term], parameter_bits: int) -> tuple[tuple[Term, ...], float]:
        """Cycles of all loads, and behind them the last pass and the last write."""
        memory, bypass = self.accelerator.dram, self.variant.bypass
        bandwidth = memory.bandwidth_bits_per_cycle
        columns = {
            dim: "last_inner_steps" if bypass and dim in RELEVANT_DIMS[bypass] else "last_steps" for dim in DIMS
        }
        inputs = dram["input"]
        if self.is_ahead("input"):
            inputs = self.filled("input", self.outermost("input"), padded=True)
        terms = [
            self.scaled(dram["weight"], 1 / bandwidth, "loads_weight"),
            self.scaled(inputs, 1 / bandwidth, "loads_input"),
            self.cycles("last_pass", columns),
            self._last_write(bandwidth),
        ]
        constant = memory.latency_cycles + parameter_bits / bandwidth + self.timing.tail_cycles
        load = self.timing.load_cycles
        if load and self.timing.preload:
            constant += load
        elif load:
            streamed = IRRELEVANT[self.timing.stationary] if self.timing.stationary else ()
            own = {dim: column for dim, column in columns.items() if dim not in streamed}
            terms.append(self.term("last_load", load, **own))
        return tuple(terms), constant

    def energy_terms(self, dram: dict[str, Term]) -> tuple[tuple[Term, ...], float]:
        """Energy in pJ without leakage, exactly as ``simulator.counts`` has it."""
        layer, precision, machine, bits = self.layer, self.precision, self.accelerator, self.bits
        memory = machine.dram
        element = machine.processing_element
        terms: list[Term] = []
        output_count = self.counts["output"]
        out_bits = self.all_bits["output"]
        constant = precision.parameter_bits(layer) * memory.read_energy_pj_per_bit
        constant += output_count * precision.output.bits * memory.write_energy_pj_per_bit
        constant -= out_bits * (memory.read_energy_pj_per_bit + memory.write_energy_pj_per_bit)
        constant += sum((machine.output_stage or OutputStage()).energy_pj(layer, precision).values())
        wires = machine.grid.interconnect
        to_grid = {
            operand: distance * (wires.energy_pj_per_bit_hop if wires else 0.0)
            for operand, distance in hops(machine.grid).items()
        }
        per_bit = {
            "weight": memory.read_energy_pj_per_bit,
            "input": memory.read_energy_pj_per_bit,
            "output": memory.read_energy_pj_per_bit + memory.write_energy_pj_per_bit,
        }
        # A weight is expanded each time its memory hands it to the grid.
        expansion = (element.expansion_energy_pj(precision) or 0.0) / bits["weight"]
        if self.variant.bypass == "weight":
            per_bit["weight"] += expansion
        for operand in OPERANDS:
            if operand == self.variant.bypass:
                # DRAM's bits go through to the grid; outputs both ways, but sums only come back where they spilled.
                per_bit[operand] += to_grid[operand] * (2 if operand == "output" else 1)
                if operand == "output":
                    constant += (output_count * precision.output.bits - 2 * out_bits) * to_grid[operand]
            else:
                *outer, buffer = self.buffers(operand)
                read, write = buffer.read_energy_pj_per_bit, buffer.write_energy_pj_per_bit
                pair = "input_grid_sum" if operand == "input" else ""
                count = self.all_bits[operand]
                again = self.refetch_grid(operand)
                if operand == "output":
                    # Visits write, all but the first read; a visit from outside fills, all write back.
                    per_visit = count * (read + write + to_grid[operand])
                    terms.append(self.term("grid_output", per_visit, pair=pair, **again))
                else:
                    outward = read + to_grid[operand] + (expansion if operand == "weight" else 0.0)
                    terms.append(self.term(f"grid_{operand}", count * outward, pair=pair, **again))
                more, fixed = self.between_buffers(operand)
                terms += more
                constant += fixed
                first = (*outer, buffer)[0]
                per_bit[operand] += first.write_energy_pj_per_bit
                if operand == "output":
                    per_bit[operand] += first.read_energy_pj_per_bit
                    constant -= count * (first.read_energy_pj_per_bit + first.write_energy_pj_per_bit)
            terms.append(self.scaled(dram[operand], per_bit[operand], f"dram_{operand}"))
        # Of PEs and steps in which they work, energy of each; where channels are split, of each cycle of either part.
        at_work = {"active": 0.0}
        if self.split is None:
            at_work["active"] = element.energy_pj_per_cycle_at(precision) * element.cycles_per_step(precision)
        else:
            at_work |= {
                column: element.energy_pj_per_cycle_at(part)
                for column, part in zip(("wide_cycles", "narrow_cycles"), precision.parts, strict=True)
            }
        for operand in OPERANDS:
            file = machine.registers_of(operand)
            if file is None:
                continue
            if operand == "output":
                at_work["active"] += bits[operand] * (file.read_energy_pj_per_bit + file.write_energy_pj_per_bit)
            else:
                constant += sum(
                    count * part.register_bits(operand) * file.read_energy_pj_per_bit for part, count in self.products
                )
        for column, energy_pj in at_work.items():
            if energy_pj:
                terms.append(self.term(column, energy_pj, **{**dict.fromkeys(DIMS, "active"), "C": column}))
        return tuple(terms), constant

    def buffers(self, operand: Operand) -> tuple[Buffer, ...]:
        """Buffers that an operand passes, outermost first."""
        return tuple(
            buffer for buffer, level in self.all_buffers
            if operand in buffer.keeps and level in self.variant.places_of(operand)
        )

    def between_buffers(self, operand: Operand) -> tuple[list[Term], float]:
        """Energy of what an operand moves between its buffers, and what is constant of it, in pJ."""
        terms = []
        constant = 0.0
        finished = self.counts["output"] * self.precision.output.bits
        spilled = self.counts["output"] * self.bits["output"]
        levels = self.variant.places_of(operand)
        passed = self.buffers(operand)
        for outer, inner, level in zip(passed, passed[1:], levels[1:], strict=False):
            per_bit = outer.read_energy_pj_per_bit + inner.write_energy_pj_per_bit
            if operand == "output":
                # Sums go both ways, all but the last passage of an output; finished ones are written to the outer
                # buffer, and read there on their way out. (The innermost one reads them as sums: "grid_output".)
                per_bit += outer.write_energy_pj_per_bit + inner.read_energy_pj_per_bit
                constant += finished * (outer.write_energy_pj_per_bit + outer.read_energy_pj_per_bit)
                constant -= spilled * per_bit
            terms.append(self.scaled(self.filled(operand, level), per_bit, f"buffer{level}_{operand}"))
        return terms, constant

    def capacities(self) -> tuple[Capacity, ...]:
        """Limits of the buffers and of the registers."""
        found = []
        for buffer, level in self.all_buffers:
            finished = self.precision.output.bits if self.variant.is_finished(level) else None
            tiles: dict[Operand, Term] = {
                operand: self.tile(operand, f"tile{level}", f"input_tile{level}", f"tile_{operand}",
                                   finished if operand == "output" else None)
                for operand in buffer.keeps
                if level in self.variant.places_of(operand)
            }
            if tiles:
                twice = frozenset(tiles) if buffer.double_buffer else frozenset[Operand]()
                ahead = frozenset(operand for operand in twice if self.is_ahead(operand))
                found.append(Capacity(buffer.name, buffer.size_bits, tiles, twice - ahead, level, ahead))
        for file in self.accelerator.register_files:
            tiles = {
                operand: self.tile(operand, "register", "input_register", f"register_{operand}",
                                   self.precision.register_bits(operand))
                for operand in file.keeps
            }
            # Only what comes straight from DRAM is loaded ahead into registers.
            from_dram = file.double_buffer and self.variant.bypass in file.keeps
            doubled = frozenset(o for o in tiles if from_dram and o == self.variant.bypass)
            found.append(Capacity(file.name, file.size_bits, tiles, doubled, self.levels + 1))
        return tuple(found)
