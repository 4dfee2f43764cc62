"""The figures of the authors' summary: each network's cost under their rules, and how it compares with Eyeriss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from benchmarks.bit_fusion_summary.networks import NETWORKS
from benchmarks.bit_fusion_summary.search import best_tiling, work_of
from benchmarks.reference.comparison import Answer, NotCovered, Rounded, Row, Value
from hw_configs import open_accelerator
from simulator.accelerator import Accelerator
from simulator.counting_rules import bit_fusion_simulator as rules
from simulator.layer import OPERANDS
from simulator.processing_elements import BitFusionElement

EYERISS_CYCLES, EYERISS_ENERGY = "eyeriss_cycles_16b(168PE)", "eyeriss_nJ"
SPEED, ENERGY = "speedup_vs_eyeriss", "energy_reduction_vs_eyeriss"
GEOMEAN = "geomean"


def machine_of(accelerator: Accelerator) -> rules.Machine:
    """What the authors' rules need to know of a machine."""
    element = accelerator.processing_element
    assert isinstance(element, BitFusionElement)
    rows, columns = (axis.size for axis in accelerator.grid.axes)
    return rules.Machine(
        rows=rows, columns=columns, max_bits=element.max_bits, min_bits=element.min_bits,
        dram_bits_per_cycle=accelerator.dram.bandwidth_bits_per_cycle,
        buffer_bits={operand: accelerator.buffers_of(operand)[-1].size_bits for operand in OPERANDS},
    )


def energies_of(accelerator: Accelerator) -> rules.EnergyTable:
    """The energies of a machine that their rules count."""
    dram = accelerator.dram
    assert dram.read_energy_pj_per_bit == dram.write_energy_pj_per_bit
    buffers = {operand: accelerator.buffers_of(operand)[-1] for operand in OPERANDS}
    return rules.EnergyTable(
        core_pj_per_cycle=accelerator.grid.pe_count * accelerator.processing_element.energy_pj_per_cycle,
        buffer_read_pj_per_bit={operand: buffer.read_energy_pj_per_bit for operand, buffer in buffers.items()},
        buffer_write_pj_per_bit={operand: buffer.write_energy_pj_per_bit for operand, buffer in buffers.items()},
        dram_pj_per_bit=dram.read_energy_pj_per_bit,
    )


def network_figures(accelerator: Accelerator, network: str, batch: int) -> dict[str, Value]:
    """Cost of one network: the summary's columns but those about Eyeriss.

    Raises ``MappingError`` where a layer fits in no way.
    """
    machine, energy = machine_of(accelerator), energies_of(accelerator)
    known: dict[object, rules.Counts] = {}
    for shape in NETWORKS[network]:
        if shape not in known:
            known[shape] = rules.count(machine, work_of(shape), best_tiling(machine, energy, shape, batch))
    counts = [known[shape] for shape in NETWORKS[network]]
    cycles, total_nj = sum(each.total_cycles for each in counts), math.fsum(map(energy.total_pj, counts)) / 1e3
    return {
        "cycles": cycles,
        "mem_stall_cycles": sum(each.stall_cycles for each in counts),
        "macs_total": batch * sum(shape.macs for shape in NETWORKS[network]),
        "core_nJ": Rounded(math.fsum(map(energy.core_pj, counts)) / 1e3, 1),
        "sram_nJ": Rounded(math.fsum(map(energy.buffers_pj, counts)) / 1e3, 1),
        "dram_nJ": Rounded(math.fsum(map(energy.dram_pj, counts)) / 1e3, 1),
        "total_nJ": Rounded(total_nj, 1),
        "ms_per_image": cycles / batch / (accelerator.clock_mhz * 1e3),
        "uJ_per_image": total_nj / batch / 1e3,
    }


def number(value: Value) -> float:
    """A figure as a number."""
    found = value.value if isinstance(value, Rounded) else value
    assert isinstance(found, int | float)
    return float(found)


def evaluate(table: Sequence[Row]) -> Callable[[Row], Answer]:
    """Return the evaluation of a table's rows on the preset; Eyeriss's columns are taken as given."""
    accelerator = open_accelerator("bit_fusion")
    known: dict[tuple[str, str], dict[str, Value]] = {}

    def network(row: Row) -> Answer:
        name, batch = row["net"], row["batch"]
        if name == GEOMEAN:
            return _geomean({other["net"]: network(other) for other in table if other["net"] != GEOMEAN})
        if name not in NETWORKS:
            return NotCovered("no such network here")
        if (name, batch) not in known:
            known[name, batch] = network_figures(accelerator, name, int(batch))
        figures = known[name, batch]
        return {
            **figures,
            SPEED: Rounded(int(row[EYERISS_CYCLES]) / number(figures["cycles"]), 3),
            ENERGY: Rounded(float(row[EYERISS_ENERGY]) / number(figures["total_nJ"]), 3),
        }

    return network


def _geomean(networks: Mapping[str, Answer]) -> Answer:
    """The means over all eight networks; a table without some of them does not say what Eyeriss takes for these."""
    covered = [answer for answer in networks.values() if not isinstance(answer, NotCovered)]
    if len(covered) < len(networks) or networks.keys() != NETWORKS.keys():
        return NotCovered("a mean over networks of which not all are there")
    return {
        column: Rounded(math.exp(math.fsum(math.log(number(answer[column])) for answer in covered) / len(covered)), 3)
        for column in (SPEED, ENERGY)
    }
