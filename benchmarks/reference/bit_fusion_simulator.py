"""Bit Fusion's own simulator, evaluated at its mappings under its counting rules (one named set of rules)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

from benchmarks.reference.comparison import Answer, NotCovered, Rounded, Row, Value
from simulator.counting_rules import bit_fusion_simulator as rules

CLOCK_MHZ = 500  # of the paper's 45 nm machine; the summary's milliseconds are at this clock


def machine_of(row: Row) -> rules.Machine:
    """Return the machine of a row."""
    return rules.Machine(
        rows=int(row["N"]), columns=int(row["M"]), max_bits=int(row["pmax"]), min_bits=int(row["pmin"]),
        dram_bits_per_cycle=int(row["bw_bits_per_cycle"]),
        buffer_bits={operand: 8 * int(row[f"{operand[0]}buf_bytes"]) for operand in ("weight", "input", "output")},
    )


def work_of(row: Row) -> rules.Work:
    """Return what the tiles of a row's layer share."""
    return rules.Work(
        kernel=int(row["K"]), stride=int(row["stride"]), input_bits=int(row["abits"]), weight_bits=int(row["wbits"]),
        im2col=bool(int(row["im2col"])),
    )


def tiling_of(row: Row) -> rules.Tiling:
    """Return the tiling of a row."""
    return rules.Tiling(
        extent={loop: int(row[loop.lower()]) for loop in rules.LOOPS},
        trips={loop: int(row[f"num_{loop.lower()}"]) for loop in rules.LOOPS},
        order=cast(tuple[rules.Loop, ...], tuple(row["order_outer_to_inner"].split(">"))),
    )


def _columns(counts: rules.Counts) -> dict[str, Value]:
    found: dict[str, Value] = {
        "total_cycles": counts.total_cycles,
        "mem_stall_cycles": counts.stall_cycles,
        "dram_read_bits": counts.dram_read_bits,
        "dram_write_bits": counts.dram_write_bits,
    }
    for operand in counts.buffer_read_bits:
        found[f"{operand[0]}buf_read_bits"] = counts.buffer_read_bits[operand]
        found[f"{operand[0]}buf_write_bits"] = counts.buffer_write_bits[operand]
    return found


def mapping(row: Row) -> Answer:
    """Evaluate one random mapping: feasible or not, and its cost; an infeasible one has none (blank cells)."""
    machine, work, tiling = machine_of(row), work_of(row), tiling_of(row)
    if rules.problems(machine, work, tiling):
        blank = ("total_cycles", "mem_stall_cycles", "dram_read_bits", "dram_write_bits", "wbuf_read_bits",
                 "wbuf_write_bits", "ibuf_read_bits", "ibuf_write_bits", "obuf_read_bits", "obuf_write_bits")
        return {"feasible": 0, **dict.fromkeys(blank)}
    return {"feasible": 1, **_columns(rules.count(machine, work, tiling))}


def _energy_is_known(machine: rules.Machine) -> bool:
    same = (machine.rows, machine.columns, machine.max_bits, machine.min_bits) == (16, 32, 8, 2)
    return same and machine.buffer_bits == rules.PAPER_BUFFER_BITS


def best_tiling(row: Row) -> Answer:
    """Evaluate the tiling that its search chose. Energies exist for the paper's machine alone: blank for others."""
    machine = machine_of(row)
    counts = rules.count(machine, work_of(row), tiling_of(row))
    energy = rules.PAPER_ENERGY.total_pj(counts) / 1e3 if _energy_is_known(machine) else None
    return {**_columns(counts), "compute_cycles": counts.compute_cycles, "dyn_energy_nJ": energy}


def _macs(row: Row) -> int:
    return math.prod(int(row[name]) for name in ("batch", "K", "K", "O", "O", "IC", "OC"))


def _layers_of(grid: Sequence[Row], net: str, batch: str) -> list[Row]:
    """Return the rows of one network at its own precisions: the first configuration of that batch in the file."""
    found: list[Row] = []
    for row in grid:
        if row["net"] != net or row["batch"] != batch or row["bw_bits_per_cycle"] != "192":
            continue
        if not _energy_is_known(machine_of(row)):
            continue
        if row["layer"] in {earlier["layer"] for earlier in found}:
            break
        found.append(row)
    return found


def summary(grid: Sequence[Row], table: Sequence[Row]) -> Callable[[Row], Answer]:
    """Return the evaluation of networks as sums over the grid's rows; Eyeriss's columns are taken as given."""

    def network(row: Row) -> Answer:
        if row["net"] == "geomean":
            return _geomean(row, [network(other) for other in table if other["net"] != "geomean"])
        layers = _layers_of(grid, row["net"], row["batch"])
        if sum(_macs(layer) for layer in layers) != int(row["macs_total"]):
            return NotCovered("the grid file does not hold all layers of the network", lacks_inputs=True)
        counts = [rules.count(machine_of(layer), work_of(layer), tiling_of(layer)) for layer in layers]
        energy, images = rules.PAPER_ENERGY, int(row["batch"])
        cycles = sum(count.total_cycles for count in counts)
        total_nj = math.fsum(energy.total_pj(count) for count in counts) / 1e3
        return {
            "cycles": cycles,
            "mem_stall_cycles": sum(count.stall_cycles for count in counts),
            "core_nJ": Rounded(math.fsum(energy.core_pj(count) for count in counts) / 1e3, 1),
            "sram_nJ": Rounded(math.fsum(energy.buffers_pj(count) for count in counts) / 1e3, 1),
            "dram_nJ": Rounded(math.fsum(energy.dram_pj(count) for count in counts) / 1e3, 1),
            "total_nJ": Rounded(total_nj, 1),
            "ms_per_image": cycles / images / (CLOCK_MHZ * 1e3),
            "uJ_per_image": total_nj / images / 1e3,
            "speedup_vs_eyeriss": Rounded(int(row["eyeriss_cycles_16b(168PE)"]) / cycles, 3),
            "energy_reduction_vs_eyeriss": Rounded(float(row["eyeriss_nJ"]) / total_nj, 3),
        }

    return network


def _geomean(row: Row, networks: Sequence[Answer]) -> Answer:
    known = [answer for answer in networks if not isinstance(answer, NotCovered)]
    if len(known) < len(networks) or not known:
        return NotCovered("a mean over networks of which not all are covered", lacks_inputs=True)
    found: dict[str, Value] = {}
    for column in ("speedup_vs_eyeriss", "energy_reduction_vs_eyeriss"):
        values = [cast(Rounded, answer[column]).value for answer in known]
        found[column] = Rounded(math.exp(math.fsum(map(math.log, values)) / len(values)), 3)
    return found
