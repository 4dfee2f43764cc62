"""Levels of buffers, ports and banks, and rows of the DRAM, on cases small enough to count by hand."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mapper.constraints import MappingConstraints
from mapper.front import map_front
from mapper.search import map_layer
from mapper.solution import SearchBudget
from simulator.accelerator import (
    Accelerator,
    Axis,
    Buffer,
    Dram,
    DramRows,
    Grid,
    Memory,
    MulticastPassing,
    VectorUnit,
)
from simulator.engine import simulate
from simulator.errors import InfeasibleError, MappingError
from simulator.layer import Layer
from simulator.mapping import Mapping, MappingLevel
from simulator.precision import LayerPrecision
from simulator.processing_elements import FixedElement
from simulator.reference import simulate_reference
from simulator.result import LayerResult, Stall

# 8 weights by 4 inputs by nothing reduced: P = 4 rows, K = 8 columns, one product each; 8-bit operands, 32-bit sums.
LAYER = Layer(name="product", dims={"P": 4, "K": 8})
PRECISION = LayerPrecision(scale_bits=0)


def buffer(name: str, keeps: tuple[str, ...], **fields: Any) -> Buffer:
    energies = {"read_energy_pj_per_bit": 1.0, "write_energy_pj_per_bit": 1.0}
    return Buffer.model_validate({"name": name, "keeps": keeps, "size_bits": 4096, **energies, **fields})


def machine(*buffers: Memory, dram: dict[str, Any] | None = None) -> Accelerator:
    """One PE, a product a cycle; DRAM with 8 bits a cycle."""
    fields = {"bandwidth_bits_per_cycle": 8, "read_energy_pj_per_bit": 1.0, "write_energy_pj_per_bit": 1.0}
    return Accelerator(
        name="machine", description="by hand", clock_mhz=1.0,
        memories=(Dram(**(fields | (dram or {}))), *buffers),
        grid=Grid(axes=(Axis(name="axis", size=1, unroll=("K",)),), passing=MulticastPassing()),
        processing_element=FixedElement(energy_pj_per_cycle=1.0),
        vector_unit=VectorUnit(lanes=1, energy_pj_per_operation=1.0),
    )


def mapping(*buffers: MappingLevel, dram: str = "", **fields: Any) -> Mapping:
    levels = (MappingLevel(level="dram", order=tuple(dram)), *buffers, MappingLevel(level="register"))  # type: ignore[arg-type]
    return Mapping(levels=levels, **fields)


def level(order: str = "", tile: dict[str, int] | None = None, **fields: Any) -> MappingLevel:
    return MappingLevel.model_validate(
        {"level": "buffer", "order": tuple(order), "tile": tile or {"P": 4, "K": 8}, **fields}
    )


def run(accelerator: Accelerator, chosen: Mapping) -> LayerResult:
    return simulate(LAYER, PRECISION, accelerator, chosen)


ALL = ("weight", "input", "output")


class TestLevels:
    def test_data_passes_every_level_once(self) -> None:
        two = machine(buffer("outer", ALL), buffer("inner", ALL))
        result = run(two, mapping(level("K"), level("P", {"P": 4, "K": 1})))
        # Weights one by one, inputs once, outputs a column at a time and finished: 8 bits each.
        assert result.moved_bits("dram") == (64 + 32, 32 * 8)
        assert result.moved_bits("outer", "weight") == (64, 64)
        assert result.moved_bits("outer", "input") == (32, 32)
        assert result.moved_bits("outer", "output") == (32 * 8, 32 * 8)
        assert result.moved_bits("inner", "weight") == (32 * 8, 64)  # fetched for every product
        assert result.moved_bits("inner", "output") == (32 * 32, 32 * 32)
        # 12 cycles until all is in the outer buffer; the rest of the way takes no time.
        assert result.total_cycles == 12 + 32 + 32
        assert result.stalls == (
            Stall(cause="input", memory="dram", cycles=12), Stall(cause="write_back", memory="dram", cycles=32),
        )

    def test_an_operand_passes_the_levels_that_keep_it(self) -> None:
        two = machine(buffer("outer", ("input", "output")), buffer("inner", ("weight", "input"), level=2))
        result = run(two, mapping(level("K"), level("P", {"P": 4, "K": 1})))
        assert [row.memory for row in result.traffic if row.operand == "weight"] == ["dram", "inner"]
        assert [row.memory for row in result.traffic if row.operand == "output"] == ["dram", "outer"]
        # The grid leaves sums in the outer buffer.
        assert result.moved_bits("outer", "output") == (32 * 32, 32 * 32)

    def test_a_mapping_may_send_an_operand_past_a_level(self) -> None:
        two = machine(buffer("outer", ALL, may_bypass=("weight",)), buffer("inner", ("weight",)))
        result = run(two, mapping(level("K", bypass=("weight",)), level("P", {"P": 4, "K": 1})))
        assert result.moved_bits("outer", "weight") == (0, 0) and result.moved_bits("inner", "weight")[1] == 64
        with pytest.raises(MappingError, match="may not bypass outer"):
            run(two, mapping(level("K", bypass=("input",)), level("P", {"P": 4, "K": 1})))

    def test_levels_follow_from_what_is_shared(self) -> None:
        three = machine(
            buffer("shared", ("input", "output")), buffer("weights", ("weight",)), buffer("inputs", ("input",))
        )
        assert [three.level_of(memory) for memory in three.buffers] == [1, 1, 2]
        assert three.buffer_levels == 2

    @pytest.mark.parametrize(
        ("buffers", "message"),
        [
            ([buffer("one", ALL, level=1), buffer("two", ALL, level=1)], "each must lie further in"),
            ([buffer("one", ALL, level=2)], "without gaps"),
            ([buffer("one", ("weight",))], "no buffer keeps the input"),
        ],
    )
    def test_levels_that_make_no_sense(self, buffers: list[Memory], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            machine(*buffers)

    def test_tiles_must_lie_in_one_another(self) -> None:
        two = machine(buffer("outer", ALL), buffer("inner", ALL))
        with pytest.raises(MappingError, match=r"buffer 2\.tile\.K=8: buffer 1 has 2"):
            run(two, mapping(level("K", {"P": 4, "K": 2}), level("PK"), dram="K"))
        with pytest.raises(MappingError, match="has 2 levels of buffers"):
            run(two, mapping(level("PK")))

    def test_the_mapper_searches_them(self) -> None:
        two = machine(buffer("outer", ALL), buffer("inner", ALL))
        found = map_layer(LAYER, PRECISION, two, budget=SearchBudget(cpu_seconds=2))
        assert len(found.mapping.buffer_levels) == 2 and "outer buffer" in found.space
        assert found.lower_bound <= found.cost == run(two, found.mapping).total_cycles

    def test_the_mapper_keeps_constraints_on_single_levels_of_them(self) -> None:
        two = machine(buffer("outer", ALL), buffer("inner", ALL))
        wanted = MappingConstraints.model_validate_json("""{
            "tile": {"K": 2}, "levels": {"dram": {"trips": {"P": 2}, "stationary": "weight"},
                                         "buffer 1": {"tile": {"K": {"at_least": 3}}, "trips": {"P": 2},
                                                      "order": ["K", "P"], "double_buffer": {"input": false}}}
        }""")
        found = map_layer(LAYER, PRECISION, two, budget=SearchBudget(cpu_seconds=2), constraints=wanted)
        outer, inner = found.mapping.buffer_levels
        assert inner.tile["K"] == 2 and outer.tile["K"] >= 3 and "input" not in outer.double_buffer
        assert -(-LAYER.extent("P") // outer.tile["P"]) == 2 and -(-outer.tile["P"] // inner.tile["P"]) == 2
        assert outer.order.index("K") < outer.order.index("P")
        assert "levels.buffer 1.order=K P" in found.space and "tile.K=2" in found.space
        front = map_front(LAYER, PRECISION, two, budget=SearchBudget(cpu_seconds=1), constraints=wanted)
        assert front.complete and found.status == "optimal" and front.space == found.space
        assert min(point.latency_cycles for point in front.points) == found.cost

    def test_constraints_on_levels_are_refused_by_name(self) -> None:
        two = machine(buffer("outer", ALL), buffer("inner", ALL, double_buffer=False))
        wanted = MappingConstraints.model_validate_json("""{
            "double_buffer": {"weight": true}, "levels": {
                "buffer 3": {"tile": {"K": 2}}, "buffer 1": {"tile": {"K": 2}, "bypass": {"output": true}},
                "buffer": {"tile": {"K": {"at_least": 3}}, "trips": {"K": 99}, "stationary": "weight"}}
        }""")
        with pytest.raises(InfeasibleError) as caught:
            map_layer(LAYER, PRECISION, two, constraints=wanted)
        found = {problem.path: problem.rule for problem in caught.value.problems}
        assert set(found) == {
            "double_buffer.weight", "levels.buffer 3", "levels.buffer 1.tile.K", "levels.buffer 1.bypass.output",
            "levels.buffer.trips.K", "levels.buffer.stationary",
        }
        assert found["levels.buffer 1.tile.K"] == "levels.buffer.tile.K wants 3 or more inside this tile"
        assert found["double_buffer.weight"].startswith("inner does not double-buffer")
        with pytest.raises(ValidationError, match=r"levels\.dram\.tile: is for levels of buffers"):
            MappingConstraints.model_validate_json('{"levels": {"dram": {"tile": {"K": 2}}}}')


class TestPorts:
    def test_a_narrow_port_slows_a_pass(self) -> None:
        # 32 products read 256 bits of weights: 64 cycles at 4 bits a cycle.
        slow = machine(
            buffer("weights", ("weight",), read_bandwidth_bits_per_cycle=4), buffer("rest", ("input", "output"))
        )
        result = run(slow, mapping(level("KP")))
        assert Stall(cause="weight", memory="weights", cycles=32) in result.stalls
        assert result.total_cycles == 12 + 64 + 32

    def test_a_shared_port_adds_up_what_separate_ones_do_at_once(self) -> None:
        def cycles(**fields: Any) -> int:
            widths = {"read_bandwidth_bits_per_cycle": 64, "write_bandwidth_bits_per_cycle": 16}
            sums = buffer("sums", ("output",), **widths, **fields)
            return run(machine(buffer("rest", ("weight", "input")), sums), mapping(level("KP"))).total_cycles

        # 32 sums of 32 bits go in at 16 bits a cycle: 64 cycles, under which the products hide. They are read back
        # for DRAM at 64 bits a cycle, which DRAM's 8 hide; no sum is read by the grid.
        assert cycles() == 12 + 64 + 32
        assert cycles(ports="shared") == 12 + 64 + 32

    def test_banks_part_the_tiles_of_a_double_buffer(self) -> None:
        def cycles(banks: int) -> int:
            widths = {"read_bandwidth_bits_per_cycle": 8, "write_bandwidth_bits_per_cycle": 8}
            shared = buffer("weights", ("weight",), ports="shared", banks=banks, **widths)
            chosen = mapping(level("P", {"P": 4, "K": 1}), dram="K", double_buffer=("weight", "output"))
            return run(machine(shared, buffer("rest", ("input", "output"))), chosen).total_cycles

        assert cycles(2) < cycles(1)

    def test_partial_sums_return_to_the_bank_of_their_tile(self) -> None:
        """Sums leave two levels of double buffers and come back, to the half where the tile before does not lie."""
        rng, precision, returned = random.Random(2), LayerPrecision(scale_bits=0), 0
        for _ in range(12):
            dims = {"P": 2, "K": rng.choice((3, 4)), "C": 4}
            outer = {"P": rng.choice((1, 2)), "K": rng.choice((1, 2)), "C": 2}
            inner = {"P": 1, "K": rng.choice((1, outer["K"])), "C": rng.choice((1, 2))}
            order, *orders = (rng.choice(("CKP", "KCP", "CPK", "PCK")) for _ in range(3))
            sums = []
            for number in (1, 2):
                width = rng.choice((16, 32, 64))
                sums.append(buffer(
                    f"sums{number}", ("output",), level=number, banks=2, double_buffer=True,
                    ports=rng.choice(("shared", "separate")), read_bandwidth_bits_per_cycle=width,
                    write_bandwidth_bits_per_cycle=width,
                ))
            rest = [buffer(f"rest{number}", ("weight", "input"), level=number) for number in (1, 2)]
            small = machine(*sums, *rest, dram={"bandwidth_bits_per_cycle": rng.choice((64, 256, 1024))})
            chosen = mapping(*(level(inside, tile, double_buffer=("output",))
                               for inside, tile in zip(orders, (outer, inner), strict=True)), dram=order)
            layer = Layer(name="product", dims=dims)
            zeros = (np.zeros((1, *(layer.extent(dim) for dim in each)), dtype=np.int64) for each in ("KCRS", "NCPQ"))
            quick = simulate(layer, precision, small, chosen)
            slow, _ = simulate_reference(layer, precision, small, chosen, *zeros)
            assert (quick.total_cycles, quick.stalls) == (slow.total_cycles, slow.stalls)
            returned += quick.moved_bits("dram", "output")[0] > 0
        assert returned > 6

    def test_a_shared_port_needs_its_width(self) -> None:
        with pytest.raises(ValidationError, match="ports=shared"):
            buffer("weights", ("weight",), ports="shared")
        with pytest.raises(ValidationError, match="power of two"):
            buffer("weights", ("weight",), banks=3)


class TestRows:
    def result(self, **fields: Any) -> LayerResult:
        rows = DramRows(**({"banks": 1, "row_bits": 64, "activate_cycles": 5, "precharge_cycles": 3} | fields))
        return run(machine(buffer("all", ALL), dram={"rows": rows}), mapping(level("KP")))

    def test_each_row_is_opened_once_and_closes_the_one_before(self) -> None:
        # Weights fill one row, inputs half of one, outputs four: six rows, and each but the first closes another.
        result = self.result()
        assert result.dram_row_cycles == 6 * 5 + 5 * 3
        assert result.total_cycles == 12 + 5 + 8 + 32 + 32 + 4 * 8
        assert result.dram_busy_cycles == 44 + result.dram_row_cycles

    def test_banks_keep_rows_open_side_by_side(self) -> None:
        assert self.result(banks=8).dram_row_cycles == 6 * 5

    def test_refreshes_close_rows_and_hold_the_channel(self) -> None:
        often = self.result(banks=8, refresh_interval_cycles=20, refresh_cycles=4)
        # Loads: weights 0-13, inputs 13-22 (due at 20: behind them), computing until 54. Refreshes at 40 and before
        # the write-back at 60 do not meet the channel at work.
        assert often.total_cycles == self.result(banks=8).total_cycles

    def test_refreshes_must_leave_time(self) -> None:
        with pytest.raises(ValidationError, match="leaves no time"):
            DramRows(banks=1, row_bits=64, activate_cycles=0, precharge_cycles=0, refresh_interval_cycles=4,
                     refresh_cycles=4)
