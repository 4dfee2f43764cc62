"""Rows of loop nests counted under ZigZag's and AccelForge's rules by our own code, kept to notice a change.

The machine, the layers and the nests are our own. That the rules are those of the two tools is shown elsewhere: by
``python -m benchmarks.reference``, and by hand and by walks in ``tests/unit/test_nest_rules.py``.
"""

import csv
import re
from pathlib import Path

import pytest

from simulator.counting_rules import accelforge, zigzag
from simulator.counting_rules.loop_nest import FLOWS, Loop, LoopNest, Machine, Memory, Port, Store
from simulator.formats import Format
from simulator.layer import OPERANDS, Layer
from simulator.precision import LayerPrecision

HERE = Path(__file__).parent
LINES = (HERE / "nest_rules.csv").read_text(encoding="utf-8").splitlines()
ROWS = list(csv.DictReader(line for line in LINES if not line.startswith("#")))
MEMORIES = ("dram", "buffer", "registers")


def machine(word_bits):
    """DRAM, a buffer of 32 KiB, 512 bytes in each PE of an 8 × 8 grid; round energies."""
    described = [("dram", None, 8.0, 64, ()), ("buffer", 1 << 18, 0.5, 128, ()),
                 ("registers", 4096, 0.0625, None, "xy")]
    return Machine(
        name="round numbers", axes={"x": 8, "y": 8}, mac_energy_pj=0.5,
        memories=tuple(
            Memory(
                name=name, keeps=OPERANDS, size_bits=size, read_energy_pj=energy, write_energy_pj=2 * energy,
                replicated_along=tuple(axes),
                ports=(Port(name="both", word_bits=word_bits, bits_per_cycle=bandwidth,
                            serves=frozenset((operand, flow) for operand in OPERANDS for flow in FLOWS)),),
            )
            for name, size, energy, bandwidth, axes in described
        ),
    )


def loops(text):
    """Read loops: ``K4 C2`` is four over K, two over C inside."""
    return tuple(Loop(dim, int(trips)) for dim, trips in re.findall(r"([A-Z])(\d+)", text))


def nest(row):
    """Read the nest of a row: its places count the temporal loops above each memory's tile."""
    stores = {
        operand: tuple(Store(memory=memory, loops_above=int(place))
                       for memory, place in zip(MEMORIES, row[operand].split(), strict=True))
        for operand in OPERANDS
    }
    return LoopNest(temporal=loops(row["temporal"]), spatial={"x": loops(row["x"]), "y": loops(row["y"])},
                    stores=stores)


def test_the_rows_say_where_they_come_from():
    assert LINES[0].startswith("# Counted by Bitmosaic's own code")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['rules']} {row['layer']}")
def test_counts_have_not_changed(row):
    layer = Layer(name="row", dims=dict(loops(row["layer"])), stride=(int(row["stride"]),) * 2)
    if row["rules"] == "zigzag":
        cost = zigzag.count(layer, LayerPrecision(), machine(word_bits=32), nest(row))
        dram = sum(words for (memory, _, _), words in cost.words.items() if memory == "dram")
    else:
        one_width = LayerPrecision(accumulator=Format("int8"))
        cost = accelforge.count(layer, one_width, machine(word_bits=1), nest(row))
        dram = sum(bits for (memory, _, _), bits in cost.bits.items() if memory == "dram")
    assert cost.energy_pj == pytest.approx(float(row["energy_pj"]), rel=1e-12)
    assert (cost.latency_cycles, dram) == (float(row["latency_cycles"]), int(row["dram_accesses"]))
