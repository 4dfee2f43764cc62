"""Mappings and layers as text: the loop nest that people read, and YAML that is edited and read back."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings

from bitmosaic.layer_spec import find_layers, parse_layer
from bitmosaic.mapping_files import (
    check_mapping,
    dump_layer,
    dump_mapping,
    load_constraints,
    load_layer,
    load_mapping,
)
from hw_configs import open_accelerator
from simulator.engine import simulate
from simulator.errors import ConfigurationError, MappingError, NetworkError
from simulator.layer import DIMS, Layer
from simulator.mapping import Mapping, MappingLevel
from simulator.nest_text import nest_text
from simulator.plan import Plan
from simulator.precision import LayerPrecision
from tests.properties.strategies import Case, cases

W8A8 = LayerPrecision.parse("w8a8")
LAYER = Layer(name="conv", dims={"K": 40, "C": 16, "P": 8, "Q": 10, "R": 3, "S": 3})
MAPPING = Mapping(
    spatial={"rows": {"C": 16}, "columns": {"K": 32}},
    levels=(
        MappingLevel(level="dram", order=("K", "Q", "P")),
        MappingLevel(level="buffer", tile={"K": 40, "C": 16, "P": 8, "Q": 4, "R": 3, "S": 3},
                     order=("K", "C", "R", "S", "P", "Q")),
        MappingLevel(level="register"),
    ),
    double_buffer=("weight", "input"),
)
few_examples = settings(max_examples=max(5, settings().max_examples // 5))


def test_a_nest_shows_loops_tiles_axes_and_what_memories_hold() -> None:
    assert nest_text(LAYER, W8A8, open_accelerator("bit_fusion"), MAPPING) == """\
conv (K40 C16 P8 Q10 R3 S3) in w8a8 on bit_fusion
dram
  for Q: 3 trips of 4, last 2
  buffers: tile K40 C16 P8 Q4 R3 S3
    weight_buffer: weight 46,080 bits twice; 92,160 of 524,288 bits
    input_buffer: input 7,680 bits twice; 15,360 of 262,144 bits
    output_buffer: output 40,960 bits; 40,960 of 131,072 bits
    for K: 2 trips of 32, last 8
    for R: 3 trips of 1
    for S: 3 trips of 1
    for P: 8 trips of 1
    for Q: 4 trips of 1
    grid: tile K32 C16
      along rows: C16 (16 of 16)
      along columns: K32 (32 of 32)
      along lanes: nothing (1 of 1)
      weight_register of a PE: weight 8 bits; 8 of 32 bits
      accumulator of a PE: output 32 bits; 32 of 32 bits
      read anew for every step: input"""


@few_examples
@given(cases())
def test_a_nest_has_every_loop_of_the_mapping(case: Case) -> None:
    text = nest_text(case.layer, case.precision, case.accelerator, case.mapping)
    plan = Plan(case.layer, case.precision, case.accelerator, case.mapping)
    loops = re.findall(r"for (\w): (\d+) trips of (\d+)(?:, last (\d+))?", text)
    assert len(loops) == int((plan.trips > 1).sum())
    for dim in DIMS:
        covered = int(plan.grid_tile[DIMS.index(dim)])
        for name, trips, tile, last in reversed(loops):
            if name == dim:
                # Ragged extents add up from the inside out to the layer's.
                covered = (int(trips) - 1) * int(tile) + int(last or tile)
        assert min(covered, plan.extent[DIMS.index(dim)]) == plan.extent[DIMS.index(dim)]
    for memory in (*case.accelerator.buffers, *case.accelerator.register_files):
        assert f"{memory.name}" in text
    for used, size in re.findall(r"([\d,]+) of ([\d,]+) bits", text):
        assert int(used.replace(",", "")) <= int(size.replace(",", ""))


@few_examples
@given(cases())
def test_files_hold_what_was_written(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mapping.yaml"
        path.write_text(dump_mapping(case.mapping, comment="a line\n\nanother: [one"), encoding="utf-8")
        read = load_mapping(path)
        assert read == case.mapping and dump_mapping(read) == dump_mapping(case.mapping)
        check_mapping(path, read, case.layer, case.precision, case.accelerator)
        path.write_text(dump_layer(case.layer), encoding="utf-8")
        assert load_layer(path) == case.layer


def test_the_documentations_files_are_what_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/mapper.md").read_text(encoding="utf-8")
    mapping_yaml, constraints_yaml, levels_yaml = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    nest = re.findall(r"```\n(conv \(.*?)\n```", page, re.DOTALL)[0]
    path = tmp_path / "mapping.yaml"
    path.write_text(mapping_yaml, encoding="utf-8")
    layer = parse_layer(re.findall(r"bitmosaic map (conv:\S+) --from", page)[0])
    assert nest_text(layer, W8A8, open_accelerator("bit_fusion"), load_mapping(path)) == nest
    path.write_text(constraints_yaml, encoding="utf-8")
    assert load_constraints(path).describe() == (
        "spatial.columns.K=13; spatial.rows.C=at most 8; tile.Q=5; tile.P=2 to 4; register_tile.K=2; trips.C=1; "
        "order.dram=K P; stationary.buffer=output; bypass.weight=false; double_buffer.input=true"
    )
    path.write_text(levels_yaml, encoding="utf-8")
    assert load_constraints(path).describe() == (
        "levels.dram.trips.C=1; levels.dram.stationary=weight; levels.buffer 1.tile.K=at least 16; "
        "levels.buffer 1.order=P Q; levels.buffer 1.double_buffer.input=true; levels.buffer 2.tile.Q=5; "
        "levels.buffer 2.trips.P=at most 4; levels.buffer 2.bypass.output=false"
    )


def edited(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """The file of ``MAPPING`` with some texts replaced."""
    text = dump_mapping(MAPPING)
    for old, new in changes:
        assert old in text, (old, text)
        text = text.replace(old, new, 1)
    path = tmp_path / "edited.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_an_edited_mapping_costs_what_its_tiles_say(tmp_path: Path) -> None:
    machine = open_accelerator("bit_fusion")
    path = edited(tmp_path, ("Q: 4", "Q: 10"))
    mapping = load_mapping(path)
    check_mapping(path, mapping, LAYER, W8A8, machine)
    assert mapping.level("buffer").tile["Q"] == 10
    assert simulate(LAYER, W8A8, machine, mapping).tile_count == 1
    assert simulate(LAYER, W8A8, machine, MAPPING).tile_count == 3


def test_all_mistakes_of_a_file_are_named_with_their_lines(tmp_path: Path) -> None:
    path = edited(
        tmp_path, ("mapping_version: 1", "mapping_version: 2"), ("Q: 4", "Q: 0"), ("K: 32", "k: 32"),
        ("level: register", "levl: register"), ("order: [K, Q, P]", "order: [K, Q, K]"),
        ("bypass: []\ndouble", "bypass: [weights]\ndouble"),
    )
    with pytest.raises(ConfigurationError) as caught:
        load_mapping(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    found = {problem.path: problem for problem in caught.value.problems}
    expected = {
        "mapping_version": "cannot read that version", "spatial.columns.k": "no such choice",
        "levels[0].order": "appears twice", "levels[1].tile.Q": "at least 1", "levels[2].levl": "no such field",
        "bypass[0]": "no such choice",
    }
    assert set(found) == set(expected), str(caught.value)
    for name, rule in expected.items():
        assert rule in found[name].rule
        file, _, line = found[name].where.rpartition(":")
        assert file == str(path) and name.replace("[0]", "").rpartition(".")[2] in lines[int(line) - 1]
    # Every extent that is too small, not the first of them alone.
    path = edited(tmp_path, ("C: 16}", "C: -1}"), ("K: 32", "K: 0"), ("Q: 4", "Q: 0"))
    with pytest.raises(ConfigurationError) as caught:
        load_mapping(path)
    assert {problem.path for problem in caught.value.problems} == {
        "spatial.rows.C", "spatial.columns.K", "levels[1].tile.Q"}
    assert found["bypass[0]"].did_you_mean == "weight" and found["levels[2].levl"].did_you_mean == "level"


def test_a_mapping_that_does_not_fit_is_refused_with_line_reason_and_sizes(tmp_path: Path) -> None:
    machine = open_accelerator("bit_fusion")
    path = edited(tmp_path, ("K: 32", "K: 33, P: 2"), ("order: [K, Q, P]", "order: [K]"), ("K: 40", "K: 50"))
    with pytest.raises(MappingError) as caught:
        check_mapping(path, load_mapping(path), LAYER, W8A8, machine)
    lines = path.read_text(encoding="utf-8").splitlines()
    found = {problem.path: problem for problem in caught.value.problems}
    assert set(found) == {"spatial.columns", "spatial.columns.P", "levels[1].tile.K", "levels[0].order"}
    assert found["spatial.columns"].value == "66" and "has 32" in found["spatial.columns"].rule
    assert "the layer has 40" in found["levels[1].tile.K"].rule
    assert "Q makes 3 trips and needs a place" in found["levels[0].order"].rule
    assert lines[int(found["levels[0].order"].where.rpartition(":")[2]) - 1].strip() == "order: [K]"

    small = machine.model_copy(update={"memories": tuple(
        memory.model_copy(update={"size_bits": 10_000}) if memory.name == "weight_buffer" else memory
        for memory in machine.memories
    )})
    path = edited(tmp_path, ("Q: 4", "Q: 5"))
    with pytest.raises(MappingError, match=re.escape(
        f"{path}: mapping of conv: weight_buffer: needs 92160 bits (weight 92160) and has 10000"
    )):
        check_mapping(path, load_mapping(path), LAYER, W8A8, small)


def test_what_would_count_for_nothing_is_refused(tmp_path: Path) -> None:
    # PEs beyond a dimension's end, tiles of DRAM, orders inside registers: nothing of it would change the cost.
    machine = open_accelerator("eyeriss_like")
    mapping = MAPPING.model_copy(update={"spatial": {"rows": {"R": 3}, "columns": {"P": 8}}})
    for changes, path, value, rule in (
        ([("P: 8", "P: 9")], "spatial.columns.P", "9", "the layer has 8"),
        ([("R: 3}", "R: 3}"), ("P: 8, Q: 4", "P: 4, Q: 4")], "spatial.columns.P", "8", "the buffer tile has 4"),
        ([("level: register\n  tile: {}", "level: register\n  tile: {C: 17}")], "levels[2].tile.C", "17",
         "the layer has 16"),
        ([("level: dram\n  tile: {}", "level: dram\n  tile: {K: 20}")], "levels[0].tile.K", "20", "which has 40"),
        ([("order: []", "order: [K]")], "levels[2].order", "K", "in no order"),
        ([("order: [K, Q, P]\n  bypass: []", "order: [K, Q, P]\n  bypass: [input]")], "levels[0].bypass", "input",
         "not DRAM"),
        ([("order: []\n  bypass: []", "order: []\n  bypass: [weight]")], "levels[2].bypass", "weight",
         "not registers"),
        ([("order: []\n  bypass: []\n  double_buffer: []", "order: []\n  bypass: []\n  double_buffer: [input]")],
         "levels[2].double_buffer", "input", "only where it bypasses"),
    ):
        text = dump_mapping(mapping)
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new, 1)
        file = tmp_path / "edited.yaml"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(MappingError) as caught:
            check_mapping(file, load_mapping(file), LAYER, W8A8, machine)
        (found,) = [problem for problem in caught.value.problems if problem.path == path]
        assert found.value == value and rule in found.rule and re.fullmatch(r".*:\d+", found.where)


def test_layers_in_one_word() -> None:
    assert parse_layer("fc:K=10, c=64") == Layer(name="fc", dims={"K": 10, "C": 64})
    found = parse_layer("conv:K=64,C=3,P=112,Q=112,R=7,S=7,stride=2,padding=3x3,input=224x224,bias")
    assert found == Layer(
        name="conv", dims={"K": 64, "C": 3, "P": 112, "Q": 112, "R": 7, "S": 7}, stride=(2, 2), padding_begin=(3, 3),
        input_size=(224, 224), has_bias=True,
    )
    assert parse_layer(":K=2,activations").weight_is_activation
    with pytest.raises(NetworkError) as caught:
        parse_layer("conv:K=64,X=3,C=two,K=2,strid=1,bias=1,stride=2x")
    assert len(caught.value.problems) == 6
    assert "did you mean 'stride'?" in str(caught.value) and "K: stands twice" in str(caught.value)
    for wrong in ("K=64", "conv", "conv:", "a:b:K=1", "conv:K=0"):
        with pytest.raises(NetworkError):
            parse_layer(wrong)


def test_layers_are_found_in_networks_and_files(tmp_path: Path) -> None:
    network, layers = find_layers("digits_cnn")
    assert network is not None and layers == network.layers
    its_network, (second,) = find_layers("digits_cnn:conv2")
    assert its_network is not None and its_network.layers == network.layers and second == network.layers[1]
    path = tmp_path / "layer.yaml"
    path.write_text(dump_layer(LAYER), encoding="utf-8")
    assert find_layers(str(path)) == (None, (LAYER,))
    assert find_layers("x:K=3") == (None, (Layer(name="x", dims={"K": 3}),))
    with pytest.raises(NetworkError, match="did you mean 'conv2'"):
        find_layers("digits_cnn:conv_2")
    with pytest.raises(NetworkError, match="nor is it a layer"):
        find_layers("digits:conv")
    with pytest.raises(NetworkError, match="no such network"):
        find_layers("digits")
