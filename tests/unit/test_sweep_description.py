"""What a sweep is: its file, its fields by their places, its points and its tasks, and what is wrong with each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bitmosaic.sweeps.description import SweepDescription, dump_sweep, read_sweep
from bitmosaic.sweeps.fields import Field, find_field, plain_description
from bitmosaic.sweeps.tasks import Expansion, expand
from hw_configs import open_accelerator, open_machine, open_technology
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, Problem

BIT_FUSION = open_accelerator("bit_fusion")
GRID = {"base": "bit_fusion", "grid": {"grid.rows": [8, 16], "buffers.weight.size_bits": [131072, 524288]}}


def _expand(*hardware: dict[str, Any], **more: Any) -> Expansion:
    return expand({"hardware": list(hardware), "networks": ["digits_cnn"], "precisions": ["w8a8"], **more})


def _machine(*hardware: dict[str, Any], **more: Any) -> Accelerator:
    (task,) = _expand(*hardware, **more).tasks
    assert isinstance(task.point.machine, Accelerator)
    return task.point.machine


def test_a_grid_has_every_combination_in_order() -> None:
    found = _expand(GRID, precisions=["w8a8", "w4a4"], objectives=["latency", "edp"])
    assert found.point_count == 4 and len(found.tasks) == 16 == len({task.key for task in found.tasks})
    sizes = [tuple(task.point.fields.values()) for task in found.tasks[::4]]
    assert sizes == [(8, 131072), (8, 524288), (16, 131072), (16, 524288)]
    assert [(task.precision, task.objective) for task in found.tasks[:4]] == [
        ("w8a8", "latency"), ("w8a8", "edp"), ("w4a4", "latency"), ("w4a4", "edp"),
    ]
    for task in found.tasks:
        machine = task.point.machine
        assert isinstance(machine, Accelerator)
        axes, buffer = machine.grid.axes, machine.buffers[0]
        assert (axes[0].size, buffer.size_bits) == tuple(task.point.fields.values())
        assert axes[1] == BIT_FUSION.grid.axes[1] and machine.buffers[1:] == BIT_FUSION.buffers[1:]


def test_a_point_with_the_values_of_its_base_is_the_base() -> None:
    one = _expand({"base": "bit_fusion"}, {**GRID, "name": "again"})
    assert len(one.tasks) == 4, "16 rows and 512 Kib are the preset's"
    assert one.tasks[0].key == _expand(GRID).tasks[3].key


def test_identity_is_what_affects_the_result_and_nothing_else() -> None:
    (base,) = _expand({"base": "bit_fusion"}).tasks
    same = [
        _expand({"base": "bit_fusion", "name": "other"}),
        _expand({"base": "bit_fusion"}, task_seconds=5.0, limits={"pe_count": 100_000}, scale_buffers=False),
        _expand({"base": "bit_fusion"}, precisions=[], layer_precisions={"all": {"*": "w8a8"}}),
    ]
    others = [
        _expand({"base": "bit_fusion", "override": {"clock_mhz": 400.0}}),
        _expand({"base": "bit_fusion", "override": {"vector_unit.lanes": 8}}),
        _expand({"base": "stripes"}),
        _expand({"base": "bit_fusion"}, networks=["onnx_alexnet"]),
        _expand({"base": "bit_fusion"}, precisions=["w4a8"]),
        _expand({"base": "bit_fusion"}, objectives=["latency"]),
        _expand({"base": "bit_fusion"}, target_gap=0.5),
        _expand({"base": "bit_fusion"}, cpu_seconds_per_layer=3.0),
    ]
    assert {found.tasks[0].key for found in same} == {base.key}
    keys = {found.tasks[0].key for found in others}
    assert len(keys) == len(others) and base.key not in keys


def test_a_buffer_of_another_size_has_other_numbers_with_their_sources() -> None:
    size = "memories.weight_buffer.size_bits"
    old, new = BIT_FUSION.buffers[0], _machine({"base": "bit_fusion", "override": {size: 131072}}).buffers[0]
    fit = open_technology("45nm").sram_fit
    assert fit is not None
    for name in ("read_energy_pj_per_bit", "write_energy_pj_per_bit", "area_um2", "leakage_mw"):
        ratio = 0.25 ** getattr(fit, name).size_exponent
        assert getattr(new, name) == pytest.approx(getattr(old, name) * ratio, rel=1e-5)
    given = _machine({"base": "bit_fusion", "override": {size: 131072, "memories.weight_buffer.area_um2": 5.0}})
    assert given.buffers[0].area_um2 == 5.0 and given.buffers[0].leakage_mw == new.leakage_mw
    assert given.sources[size].confidence == "assumed"
    assert given.sources["memories.weight_buffer.area_um2"].confidence == "assumed"
    assert given.sources["memories.weight_buffer.leakage_mw"].confidence == "scaled"
    left = _machine({"base": "bit_fusion", "override": {size: 131072}}, scale_buffers=False).buffers[0]
    assert left == old.model_copy(update={"size_bits": 131072})


def test_limits_leave_points_out_and_count_them() -> None:
    found = _expand(GRID, limits={"pe_count": 256, "buffer_bits": 600_000})
    assert [tuple(task.point.fields.values()) for task in found.tasks] == [(8, 131072)]
    assert found.left_out == {"pe_count": 2, "buffer_bits": 1}
    areas = sorted({task.point.area_mm2 for task in _expand(GRID).tasks})
    assert len(_expand(GRID, limits={"area_mm2": areas[1]}).tasks) == 2
    with pytest.raises(ConfigurationError, match="limits: leave no hardware point"):
        _expand(GRID, limits={"leakage_mw": 1e-9})


def test_tiles_and_whole_parts_can_be_given_anew() -> None:
    tiled = expand({
        "hardware": [{"base": "four_tiles", "override": {"tiles.fusion.grid.axes.rows.size": 8}}],
        "networks": ["digits_cnn"], "precisions": ["w8a8"],
    }).tasks[0].point
    assert tiled.pe_count < sum(tile.grid.pe_count for tile in open_machine("four_tiles").tiles)  # type: ignore[union-attr]
    element = {"kind": "fixed", "operand_bits": 8, "energy_pj_per_cycle": 0.2}
    machine = _machine({"base": "bit_fusion", "override": {"processing_element": element}})
    assert machine.processing_element.kind == "fixed"


@pytest.mark.parametrize(("path", "words"), [
    ("clok_mhz", "did you mean 'clock_mhz'"),
    ("grid.row", "did you mean 'grid.rows'"),
    ("memories.weight_buffer.size", "did you mean 'memories.weight_buffer.size_bits'"),
    ("memories.weights.size_bits", "allowed: dram, weight_buffer"),
    ("buffers.wieght.size_bits", "did you mean 'weight'"),
    ("clock_mhz.rows", "what stands before it has none"),
    ("name", "no such field"),
    ("sources.clock_mhz", "no such field"),
])
def test_places_that_are_none(path: str, words: str) -> None:
    found = find_field(plain_description(BIT_FUSION), path)
    assert isinstance(found, Problem) and words in str(found)


def test_an_operand_that_two_buffers_keep_must_be_named() -> None:
    plain = plain_description(BIT_FUSION)
    plain["memories"][2]["keeps"] = ["weight", "input"]
    found = find_field(plain, "buffers.weight.banks")
    assert isinstance(found, Problem)
    assert found.allowed == ("memories.weight_buffer.banks", "memories.input_buffer.banks")
    assert isinstance(find_field(plain, "buffers.input.banks"), Field)


BAD = """\
bitmosaic_version: 1
networks: [digits_cn, foo.onnx]
precision: [w8a8]
precisions: [w8a8, w4a]
layer_precisions:
  first: {nolayer: w8a8, "*": w4a4}
objectives: [latncy]
hardware:
  - base: bit_fusoin
  - base: bit_fusion
    override: {clok_mhz: 3, clock_mhz: fast}
    grid:
      grid.row: [8, 16]
      grid.axes.rows.size: [4]
      grid.rows: [8]
      vector_unit.lanes: []
  - base: bit_fusion
    grid: {grid.columns: [0, "x", 32]}
limits: {area_mm2: -3}
"""


def test_all_mistakes_at_once_each_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    with pytest.raises(ConfigurationError) as caught:
        expand(path)
    found = [(problem.where.rpartition(":")[2], str(problem)) for problem in caught.value.problems]
    wanted = [
        ("2", "networks[0]"), ("2", "networks[1]"), ("3", "did you mean 'precisions'"), ("4", "precisions[1]"),
        ("7", "did you mean 'latency'"), ("9", "did you mean 'bit_fusion'"), ("11", "did you mean 'clock_mhz'"),
        ("11", "clock_mhz='fast'"), ("13", "did you mean 'grid.rows'"), ("15", "same field as grid: grid.axes.rows"),
        ("16", "at least 1 value"), ("18", "size=0: must be at least 1"), ("18", "'x': must be a whole number"),
        ("19", "area_mm2=-3"),
    ]
    for line, words in wanted:
        assert [text for at, text in found if at == line and words in text], (line, words, found)
    assert len(found) == len(wanted), found


def test_a_layer_that_is_none_is_said_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("bitmosaic_version: 1\nnetworks: [digits_cnn]\nhardware: [{base: bit_fusion}]\n"
                    "layer_precisions:\n  mine: {cnv1: w8a8, '*': w4a4}\n")
    with pytest.raises(ConfigurationError, match=r"sweep.yaml:5: layer_precisions.mine.cnv1: .*did you mean 'conv1'"):
        expand(path)


def test_of_a_mapping_there_are_no_lines() -> None:
    with pytest.raises(ConfigurationError, match=r"^sweep: hardware\[0\].base='none'"):
        _expand({"base": "none"})
    with pytest.raises(ConfigurationError, match="must name precisions or layer_precisions"):
        _expand({"base": "bit_fusion"}, precisions=[])


def test_a_written_sweep_reads_back_equal(tmp_path: Path) -> None:
    (tmp_path / "here.yaml").write_text("")
    path = tmp_path / "sweep.yaml"
    path.write_text("bitmosaic_version: 1\nnetworks: [digits_cnn, nets/a.onnx]\nprecisions: [w8a8]\n"
                    "hardware: [{base: here.yaml, grid: {clock_mhz: [1.5, 2]}}]\nlimits: {area_mm2: 4}\n")
    first = read_sweep(path).description
    assert isinstance(first, SweepDescription)
    assert first.networks == ("digits_cnn", str(tmp_path / "nets/a.onnx"))
    assert first.hardware[0].base == str(tmp_path / "here.yaml")
    (tmp_path / "elsewhere").mkdir()
    again = tmp_path / "elsewhere" / "sweep.yaml"
    again.write_text(dump_sweep(first))
    assert read_sweep(again).description == first


def test_a_pattern_may_be_for_one_of_the_networks() -> None:
    policy = {"mine": {"conv1": "w8a8", "features.0": "w8a8", "*": "w4a4"}}
    found = _expand({"base": "bit_fusion"}, networks=["digits_cnn", "mobilenet_v2"], precisions=[],
                    layer_precisions=policy)
    wide = [[name for name, precision in task.asked.items() if precision.label == "w8a8"] for task in found.tasks]
    assert wide == [["conv1"], ["features.0"]]


def test_the_example_holds() -> None:
    found = expand(Path(__file__).parents[2] / "docs/sweep_example.yaml")
    assert (found.point_count, found.left_out, len(found.tasks)) == (11, {"area_mm2": 2}, 66)
