"""Bit Fusion's own simulator, evaluated at its mappings under its counting rules (one named set of rules)."""

from __future__ import annotations

from typing import cast

from benchmarks.reference.comparison import Answer, Row, Value
from simulator.counting_rules import bit_fusion_simulator as rules


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


def energy_is_known(machine: rules.Machine) -> bool:
    """Whether a machine is the paper's, whose energies alone can be derived."""
    same = (machine.rows, machine.columns, machine.max_bits, machine.min_bits) == (16, 32, 8, 2)
    return same and machine.buffer_bits == rules.PAPER_BUFFER_BITS


def best_tiling(row: Row) -> Answer:
    """Evaluate the tiling that its search chose. Energies exist for the paper's machine alone: blank for others."""
    machine = machine_of(row)
    counts = rules.count(machine, work_of(row), tiling_of(row))
    energy = rules.PAPER_ENERGY.total_pj(counts) / 1e3 if energy_is_known(machine) else None
    return {**_columns(counts), "compute_cycles": counts.compute_cycles, "dyn_energy_nJ": energy}
