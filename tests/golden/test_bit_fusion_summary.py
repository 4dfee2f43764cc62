"""The search behind ``benchmarks.bit_fusion_summary``: against trying everything with the rules' own ``count``.

The authors' summary carries no licence, so no row of it is here; where the reference folder is there, the command is
run on it, and on a copy with one figure changed.
"""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bit_fusion_summary.__main__ import DEFAULT_DATA, SUMMARY, main
from benchmarks.bit_fusion_summary.figures import energies_of, machine_of
from benchmarks.bit_fusion_summary.networks import NETWORKS, Shape
from benchmarks.bit_fusion_summary.search import best_tiling, candidate_tiles, work_of
from hw_configs import open_accelerator
from simulator.counting_rules import bit_fusion_simulator as rules
from simulator.errors import MappingError

REFERENCE = Path(__file__).parents[2] / DEFAULT_DATA
MACHINES = st.builds(
    rules.Machine, rows=st.just(4), columns=st.just(8), max_bits=st.just(8), min_bits=st.just(2),
    dram_bits_per_cycle=st.sampled_from((16, 128)),
    buffer_bits=st.fixed_dictionaries({
        operand: st.sampled_from((1024, 4096, 1 << 20)) for operand in ("weight", "input", "output")
    }),
)
WIDTHS = st.sampled_from((1, 2, 4, 8))
SHAPES = st.builds(
    Shape, kernel=st.sampled_from((1, 3)), output=st.sampled_from((1, 3, 4)), stride=st.sampled_from((1, 2)),
    inputs=st.sampled_from((1, 4, 10)), outputs=st.sampled_from((5, 16, 20)), input_bits=WIDTHS, weight_bits=WIDTHS,
    im2col=st.booleans(),
)


@settings(max_examples=10, deadline=None)
@given(MACHINES, SHAPES, st.sampled_from((1, 3)))
def test_the_tiling_is_the_cheapest_of_all(machine: rules.Machine, shape: Shape, batch: int) -> None:
    energy, work = rules.PAPER_ENERGY, work_of(shape)
    whole = dict(zip(rules.LOOPS, (batch, shape.output, shape.output, shape.inputs, shape.outputs), strict=True))
    costs = []
    for extents in candidate_tiles(machine, shape, batch).tolist():
        extent = dict(zip(rules.LOOPS, extents, strict=True))
        trips = {loop: -(-whole[loop] // extent[loop]) for loop in rules.LOOPS}
        for order in itertools.permutations(rules.LOOPS):
            tiling = rules.Tiling(extent=extent, trips=trips, order=order)
            if not rules.problems(machine, work, tiling):
                counts = rules.count(machine, work, tiling)
                costs.append((counts.total_cycles, energy.total_pj(counts)))
    if not costs:
        with pytest.raises(MappingError, match="no tile fits"):
            best_tiling(machine, energy, shape, batch)
        return
    counts = rules.count(machine, work, best_tiling(machine, energy, shape, batch))
    assert counts.total_cycles == min(costs)[0]
    assert energy.total_pj(counts) == pytest.approx(min(costs)[1], rel=1e-12)


def test_tiles_are_powers_of_two_and_the_whole() -> None:
    machine = machine_of(open_accelerator("bit_fusion"))
    tiles = candidate_tiles(machine, Shape(3, 5, 1, 40, 64, 8, 8), 3).tolist()
    columns = [sorted(set(column)) for column in zip(*tiles, strict=True)]
    assert columns == [[1, 2, 3], [1, 2, 4, 5], [1, 2, 4, 5], [16, 32, 40], [32, 64]]
    assert all(tile[1] == tile[2] for tile in tiles)


def test_the_preset_has_the_rules_energies() -> None:
    """The output buffer's read and write are known as a sum only."""
    ours, theirs = energies_of(open_accelerator("bit_fusion")), rules.PAPER_ENERGY
    assert ours.core_pj_per_cycle == pytest.approx(theirs.core_pj_per_cycle)
    assert ours.dram_pj_per_bit == theirs.dram_pj_per_bit
    sides = [(energy.buffer_read_pj_per_bit, energy.buffer_write_pj_per_bit) for energy in (ours, theirs)]
    for operand in ("weight", "input"):
        assert [side[operand] for side in sides[0]] == [side[operand] for side in sides[1]]
    assert sum(side["output"] for side in sides[0]) == pytest.approx(sum(side["output"] for side in sides[1]))


def test_networks_count_what_is_known_of_them() -> None:
    macs = {name: sum(shape.macs for shape in shapes) for name, shapes in NETWORKS.items()}
    assert macs["RNN"] == 4096**2 and macs["LSTM"] == 3600**2
    assert macs["CIFAR10"] > 3.5 * macs["SVHN"]  # twice the channels, but for the first and last layers
    assert len(NETWORKS["RESNET-18"]) == 17 and len(NETWORKS["AlexNet"]) == 13


@pytest.mark.skipif(not (REFERENCE / SUMMARY).is_file(), reason="the reference folder is not there")
def test_the_summary_is_exact_and_a_changed_one_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(REFERENCE)]) == 0
    assert capsys.readouterr().out.count("exact\n") == 9
    text = (REFERENCE / SUMMARY).read_text(encoding="utf-8")
    lines = text.splitlines()
    number = next(i for i, line in enumerate(lines) if line.startswith("LSTM,"))
    cells = lines[number].split(",")
    lines[number] = ",".join([*cells[:2], str(int(cells[2]) + 1), *cells[3:]])
    (tmp_path / SUMMARY).write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(["--data", str(tmp_path)]) == 1
    assert "LSTM" in next(line for line in capsys.readouterr().out.splitlines() if "ours" in line)
    (tmp_path / SUMMARY).write_text("\n".join(lines[:number] + lines[number + 1:]) + "\n", encoding="utf-8")
    assert main(["--data", str(tmp_path)]) == 1, "the mean of eight is not that of seven"
    assert "not all are there" in capsys.readouterr().out
    assert main(["--data", str(tmp_path / "none")]) == 2
