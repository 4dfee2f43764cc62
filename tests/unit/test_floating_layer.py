"""The closed form for layers that stay in floating point: by hand, its borders, and below what the engines count."""

from __future__ import annotations

import pytest

from hw_configs import open_accelerator
from mapper.search import map_layer
from mapper.solution import SearchBudget
from simulator.errors import PrecisionError
from simulator.floating_layer import FloatingPointUnit, floating_layer_cost
from simulator.formats import Format
from simulator.layer import Layer
from simulator.precision import LayerPrecision

BF16 = LayerPrecision.parse("bf16")
UNIT = FloatingPointUnit(macs_per_cycle=16, utilization=0.5, energy_pj_per_mac=1.5, conversion_energy_pj=0.4)
CONV = Layer(
    name="conv", dims={"K": 8, "C": 4, "P": 6, "Q": 6, "R": 3, "S": 3}, padding_begin=(1, 1), input_size=(6, 6)
)


def test_a_layer_by_hand() -> None:
    machine = open_accelerator("bit_fusion")  # 192 bits a cycle, 15 pJ a bit
    found = floating_layer_cost(CONV, BF16, machine, UNIT)
    assert CONV.macs == 8 * 4 * 36 * 9 == 10368
    assert found.compute_cycles == 1296  # 10368 / (16 · 0.5)
    assert found.moved_bits == 16 * (8 * 4 * 9 + 4 * 36 + 8 * 36) == 11520
    assert found.transfer_cycles == 60 and found.latency_cycles == 1296
    assert found.energy_pj["floating_point_unit"] == pytest.approx(15552)
    assert found.energy_pj["dram"] == pytest.approx(11520 * 15) and found.energy_pj["conversion"] == 0
    assert found.energy_pj["leakage"] == pytest.approx(1296 * (machine.leakage_pj_per_cycle or 0))
    assert found.total_energy_pj == pytest.approx(sum(found.energy_pj.values()))


def test_a_matrix_of_many_weights_waits_for_them() -> None:
    machine = open_accelerator("bit_fusion")
    product = Layer(name="fc", dims={"K": 1000, "C": 512})
    found = floating_layer_cost(product, BF16, machine, UNIT.model_copy(update={"macs_per_cycle": 1024.0}))
    assert found.latency_cycles == found.transfer_cycles == -(-16 * (512000 + 512 + 1000) // 192)


def test_conversions_stand_at_borders_only() -> None:
    machine = open_accelerator("bit_fusion")
    narrow = BF16.model_copy(update={"output": Format("int8")})
    by_border = {
        (reads, writes): floating_layer_cost(CONV, narrow if writes else BF16, machine, UNIT, reads_integers=reads)
        for reads in (False, True) for writes in (False, True)
    }
    inputs, outputs = 4 * 36, 8 * 36
    for (reads, writes), found in by_border.items():
        assert found.energy_pj["conversion"] == pytest.approx(0.4 * (inputs * reads + outputs * writes))
    assert by_border[False, True].moved_bits == 11520 - 8 * outputs


def test_no_engine_counts_less_for_a_machine_with_such_a_unit() -> None:
    machine = open_accelerator("gaudi_like")
    unit = FloatingPointUnit(
        macs_per_cycle=machine.grid.pe_count, energy_pj_per_mac=0.0, conversion_energy_pj=0.0
    )
    for layer in (CONV, Layer(name="fc", dims={"K": 100, "C": 512, "P": 3})):
        least = floating_layer_cost(layer, BF16, machine, unit)
        simulated = map_layer(layer, BF16, machine, "latency", budget=SearchBudget(cpu_seconds=0.2, target_gap=0.5))
        assert least.latency_cycles <= simulated.result.total_cycles
        assert least.energy_pj["dram"] <= simulated.result.energy_pj["dram"] * (1 + 1e-9)


def test_integers_are_refused() -> None:
    with pytest.raises(PrecisionError) as caught:
        floating_layer_cost(CONV, LayerPrecision(), open_accelerator("bit_fusion"), UNIT)
    assert [problem.path for problem in caught.value.problems] == ["precision.weight", "precision.input"]
