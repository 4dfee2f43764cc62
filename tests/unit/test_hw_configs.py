"""The loader: every mistake of a file at once, each on its line, and no other error than ours."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from hw_configs import (
    dump_accelerator,
    list_presets,
    load_accelerator,
    load_machine,
    open_accelerator,
    validate_file,
)
from hw_configs.loader import PRESETS
from simulator.accelerator import Accelerator
from simulator.errors import BitmosaicError, ConfigurationError
from simulator.provenance import Source
from simulator.tiled import TiledAccelerator

GOOD = """\
bitmosaic_version: 1
name: small
description: a small machine
clock_mhz: 100
memories:
  - kind: dram
    bandwidth_bits_per_cycle: 64
    read_energy_pj_per_bit: 15
    write_energy_pj_per_bit: 1.5e1
  - kind: buffer
    name: shared
    keeps: [weight, input, output]
    size_bits: 65536
    read_energy_pj_per_bit: 0.1
    write_energy_pj_per_bit: 0.1
grid:
  axes:
    - {name: rows, size: 4, unroll: [C]}
    - {name: columns, size: 4, unroll: [K]}
  passing:
    kind: systolic
    stationary: weight
processing_element:
  kind: bit_fusion
  energy_pj_per_cycle: 0.5
vector_unit:
  lanes: 4
  energy_pj_per_operation: 0.3
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> Path:
        file = tmp_path / "machine.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return file

    return write


def lines(file: Path) -> list[str]:
    """Messages without the folder."""
    found = [str(problem) for problem in validate_file(file)]
    assert all(text.startswith(str(file)) for text in found)
    return [text.removeprefix(f"{file.parent}/") for text in found]


def test_a_good_file_loads(write: Any) -> None:
    file = write(GOOD)
    assert validate_file(file) == []
    machine = load_accelerator(str(file))
    assert machine.memories[1].name == "shared"
    assert machine.dram.write_energy_pj_per_bit == 15.0
    assert open_accelerator(file) == open_accelerator(str(file)) == machine


def test_five_mistakes_in_five_places_show_together(write: Any) -> None:
    text = GOOD
    for right, wrong in (
        ("clock_mhz: 100", "clock_mhz: -1"),
        ("size_bits: 65536", "size_bitz: 65536"),
        ("size: 4, unroll: [C]", "size: four, unroll: [C]"),
        ("stationary: weight", "stationary: weights"),
        ("  lanes: 4\n", ""),
    ):
        assert text.count(right) == 1
        text = text.replace(right, wrong)
    assert lines(write(text)) == [
        "machine.yaml:4: clock_mhz=-1: must be greater than 0",
        "machine.yaml:13: memories[1].size_bitz=65536: no such field (allowed: kind, name, keeps, size_bits, "
        "read_energy_pj_per_bit, write_energy_pj_per_bit, double_buffer, may_bypass, level, "
        "read_bandwidth_bits_per_cycle, write_bandwidth_bits_per_cycle, ports, banks, latency_cycles, area_um2, "
        "leakage_mw; "
        "did you mean 'size_bits'?)",
        "machine.yaml:18: grid.axes[0].size='four': must be a whole number, not in quotes",
        "machine.yaml:22: grid.passing.stationary='weights': no such choice "
        "(allowed: weight, input, output, null; did you mean 'weight'?)",
        "machine.yaml:26: vector_unit.lanes: required field is missing",
    ]
    with pytest.raises(ConfigurationError) as caught:
        load_accelerator(write(text))
    assert len(caught.value.problems) == 5 and str(caught.value).count("\n") == 4


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        # unknown names
        ("clock_mhz: 100", "clock_mhz: 100\nclock_ghz: 1",
         "5: clock_ghz=1: no such field (…; did you mean 'clock_mhz'?)"),
        ("    kind: systolic", "    kind: systollic",
         "21: grid.passing.kind='systollic': no such kind (allowed: multicast, systolic; did you mean 'systolic'?)"),
        ("  - kind: buffer", "  - kind: 7",
         "10: memories[1].kind=7: no such kind (allowed: dram, buffer, register_file)"),
        ("    kind: systolic\n", "", "20: grid.passing.kind: required field is missing (allowed: multicast, systolic)"),
        ("unroll: [K]", "unroll: [K, X]",
         "19: grid.axes[1].unroll[1]='X': no such choice (allowed: G, N, K, C, P, Q, R, S)"),
        ("  energy_pj_per_cycle: 0.5", "  energy_pj_per_cycle: 0.5\n  max_bitz: 8",
         "26: processing_element.max_bitz=8: no such field (allowed: energy_pj_per_cycle, pipeline_cycles, "
         "energy_by_precision, area_um2, leakage_mw, kind, max_bits, min_bits; did you mean 'max_bits'?)"),
        # wrong types
        ("size_bits: 65536", "size_bits: 16.0",
         "13: memories[1].size_bits=16.0: must be a whole number, written in digits without a point or an exponent"),
        ("size_bits: 65536", "size_bits: true", "13: memories[1].size_bits=true: must be a whole number"),
        ("size_bits: 65536", "size_bits: null", "13: memories[1].size_bits=null: must be a whole number"),
        ("clock_mhz: 100", "clock_mhz: '1e9'", "4: clock_mhz='1e9': must be a number, not in quotes"),
        ("    size_bits: 65536", "    size_bits: 1\n    double_buffer: yes",
         "14: memories[1].double_buffer='yes': must be true or false"),
        ("name: small", "name: 5", "2: name=5: must be text (put it in quotes)"),
        ("name: small", "name: [a]", "2: name=[\"a\"]: must be text"),
        ("keeps: [weight, input, output]", "keeps: weight", "12: memories[1].keeps='weight': must be a list"),
        ("vector_unit:\n  lanes: 4\n  energy_pj_per_operation: 0.3", "vector_unit: 4",
         "26: vector_unit=4: must be a mapping of fields (name: value)"),
        ("memories:\n", "memories:\n  - 5\n", "6: memories[0]=5: must be a mapping of fields (name: value)"),
        ("clock_mhz: 100", "clock_mhz: 100\nsources: 5", "5: sources=5: must be a mapping of fields (name: value)"),
        # ranges
        ("size_bits: 65536", "size_bits: 0", "13: memories[1].size_bits=0: must be at least 1"),
        ("energy_pj_per_cycle: 0.5", "energy_pj_per_cycle: 0.5\n  max_bits: 64",
         "26: processing_element.max_bits=64: must be at most 32"),
        ("size_bits: 65536", "size_bits: 99999999999999999999",
         "13: memories[1].size_bits=99999999999999999999: must not exceed 2^62 = 4611686018427387904"),
        ("clock_mhz: 100", "clock_mhz: .inf", "4: clock_mhz=.inf: must be a finite number"),
        ("clock_mhz: 100", "clock_mhz: 1e999", "4: clock_mhz=1e999: must be a finite number"),
        ("unroll: [K]", "unroll: []", "19: grid.axes[1].unroll=[]: must have at least 1 entry"),
        # energies and areas that may be left out
        ("vector_unit:", "output_stage: 5\nvector_unit:",
         "26: output_stage=5: must be a mapping of fields (name: value)"),
        ("vector_unit:", "output_stage:\n  scale_energy: 1\nvector_unit:",
         "27: output_stage.scale_energy=1: no such field (allowed: requantisation_energy_pj, "
         "float_conversion_energy_pj, scale_energy_pj, area_um2, leakage_mw; did you mean 'scale_energy_pj'?)"),
        ("    stationary: weight", "    stationary: weight\n  interconnect: {area_um2: 5}",
         "23: grid.interconnect.energy_pj_per_bit_hop: required field is missing"),
        ("    size_bits: 65536", "    size_bits: 65536\n    area_um2: -1",
         "14: memories[1].area_um2=-1: must be at least 0"),
        ("    size_bits: 65536", "    size_bits: 65536\n    leakage_mw: low",
         "14: memories[1].leakage_mw='low': must be a number, not in quotes"),
        ("energy_pj_per_cycle: 0.5",
         "energy_pj_per_cycle: 0.5\n  energy_by_precision:\n    - {weight: int4, input: int, energy_pj_per_cycle: 1}",
         "27: processing_element.energy_by_precision[0].input: format='int': no such number format (…)"),
        ("energy_pj_per_cycle: 0.5",
         "energy_pj_per_cycle: 0.5\n  energy_by_precision:\n    - {weight: int4, input: int4, energy_pj_per_cycle: 1}"
         "\n    - {weight: uint4, input: int4, energy_pj_per_cycle: 1}",
         "26: processing_element.energy_by_precision=uint4_int4: stands there twice"),
        ("  - kind: buffer\n    name: shared", "  - kind: buffer\n    name: leakage",
         "5: memories: the name 'leakage' is kept for a component of energy"),
        # sources
        ("vector_unit:", "sources:\n  clock_mhz: 'assumed: a guess'\nvector_unit:",
         "27: sources.clock_mhz='assumed: a guess': must be a mapping of fields (name: value)"),
        ("vector_unit:", "sources:\n  clock_mhz: {confidence: guessed, source: me}\nvector_unit:",
         "27: sources.clock_mhz.confidence='guessed': no such choice (allowed: measured, extracted, scaled, recalled, "
         "assumed)"),
        ("vector_unit:", "sources:\n  clock_mhz: {confidence: assumed}\nvector_unit:",
         "27: sources.clock_mhz.source: required field is missing"),
        ("vector_unit:", "sources:\n  memories.shard.size_bits: {confidence: assumed, source: me}\nvector_unit:",
         "27: sources.memories.shard.size_bits: names nothing in this description "
         "(did you mean 'memories.shared.size_bits'?)"),
        ("vector_unit:", "sources:\n  clock_mhz: {confidence: assumed, source: me, factor: 2.0}\nvector_unit:",
         "27: sources.clock_mhz.factor=2: is for numbers of a table"),
        ("vector_unit:", "sources:\n  memories.dram.read_energy_pj_per_bit: {confidence: scaled, source: me, "
                         "table: 45nm.dram_energy_pj_per_bit, factor: 2.0}\nvector_unit:",
         "27: sources.memories.dram.read_energy_pj_per_bit: table=45nm.dram_energy_pj_per_bit: the machine has 15, the "
         "table times the factor gives 30"),
        ("vector_unit:", "sources:\n  memories.dram.read_energy_pj_per_bit: {confidence: measured, source: me, "
                         "table: 45nm.dram_energy_pj_per_bit}\nvector_unit:",
         "27: sources.memories.dram.read_energy_pj_per_bit: confidence=measured: a number of "
         "45nm.dram_energy_pj_per_bit by this factor is extracted at best"),
        ("vector_unit:", "sources:\n  memories.dram: {confidence: extracted, source: me, "
                         "table: 45nm.dram_energy_pj_per_bit}\nvector_unit:",
         "27: sources.memories.dram: table=45nm.dram_energy_pj_per_bit: is for one number, and this is a group or not "
         "modelled"),
        ("vector_unit:", "sources:\n  clock_mhz: {confidence: extracted, source: me, "
                         "table: 45nm.dram_energy_pj_a_bit}\nvector_unit:",
         "27: sources.clock_mhz: table=45nm.dram_energy_pj_a_bit: 45nm has no such number "
         "(did you mean 'dram_energy_pj_per_bit'?)"),
        ("vector_unit:", "sources:\n  clock_mhz: {confidence: extracted, source: me, table: 44nm.x}\nvector_unit:",
         "27: sources.clock_mhz: table=44nm.x: no such technology (allowed: 22nm, 28nm, 45nm, 65nm)"),
        # YAML
        ("  lanes: 4", "  lanes: 4\n  lanes: 5", "28: vector_unit.lanes: duplicate key; it stands in line 27 already"),
        ("  lanes: 4", "  5: 4\n  lanes: 4", "27: vector_unit='5': a key must be text"),
        ("  lanes: 4", "  lanes: !five 4",
         "27: vector_unit.lanes='4': cannot be read as text, a number, true or false"),
        ("  lanes: 4", "  lanes: !!int four", "27: vector_unit.lanes='four': cannot be read as a number"),
        ("name: small", 'name: "\\ud800"', "2: name='\\ud800': holds half of a surrogate pair"),
        ("keeps: [weight, input, output]", "keeps: &all [*all]",
         "12: memories[1].keeps[0]: an anchor must not contain itself"),
        # the file's version
        ("bitmosaic_version: 1", "bitmosaic_version: 2",
         "1: bitmosaic_version=2: this release cannot read that version of the file format (allowed: 1)"),
        ("bitmosaic_version: 1", "bitmosaic_version: true",
         "1: bitmosaic_version=true: this release cannot read that version of the file format (allowed: 1)"),
        ("bitmosaic_version: 1\n", "",
         "1: bitmosaic_version: required field is missing; this release reads version 1 (allowed: 1)"),
        # rules across fields
        ("keeps: [weight, input, output]", "keeps: [weight, input]", "5: memories: no buffer keeps the output"),
        ("keeps: [weight, input, output]", "keeps: [weight, input, output]\n    may_bypass: [weight]\n    extra: 1",
         "14: memories[1].extra=1: no such field (…)"),
        ("  energy_pj_per_cycle: 0.5", "  energy_pj_per_cycle: 0.5\n  max_bits: 7",
         "26: processing_element.max_bits=7: must be a power of two"),
        ("unroll: [K]", "unroll: [P]",
         "19: grid.axes[1].unroll=['P']: these stream through a weight-stationary array"),
        ("    - {name: columns, size: 4, unroll: [K]}\n", "", "19: grid.passing: a systolic grid has two axes, got 1"),
        ("name: columns", "name: rows", "17: grid.axes: names must differ, got ['rows', 'rows']"),
    ],
)
def test_each_kind_of_mistake(write: Any, right: str, wrong: str, message: str) -> None:
    assert GOOD.count(right) == 1
    (found,) = lines(write(GOOD.replace(right, wrong)))
    start, hole, end = f"machine.yaml:{message}".partition("…")
    assert found.startswith(start) and found.endswith(end) if hole else found == start


def test_all_wrong_sources_show_together(write: Any) -> None:
    text = GOOD + "sources:\n  a: {confidence: assumed, source: me}\n  everything: {confidence: assumed, source: me}\n"
    text += "  processing_element.lanes: {confidence: assumed, source: me}\n"
    assert [line.partition(": names")[0] for line in lines(write(text))] == [
        "machine.yaml:30: sources.a", "machine.yaml:32: sources.processing_element.lanes",
    ]


def test_mistakes_of_several_models_show_together(write: Any) -> None:
    text = GOOD.replace("energy_pj_per_cycle: 0.5", "energy_pj_per_cycle: 0.5\n  min_bits: 3")
    text = text.replace("name: columns", "name: lanes").replace("lanes: 4\n", "lanes: 4\n  lanes: 4\n")
    numbers = [text.split(": ")[0].partition(":")[2] for text in lines(write(text))]
    assert numbers == ["17", "26", "29"]


def test_yaml_12_is_read(write: Any) -> None:
    text = GOOD.replace("size_bits: 65536", "size_bits: 0x1_0000").replace("clock_mhz: 100", "clock_mhz: 1e2")
    text = text.replace("name: small", "name: yes").replace("a small machine", "2024-01-01")
    machine = load_accelerator(write("\ufeff" + text))
    assert (machine.name, machine.description, machine.clock_mhz) == ("yes", "2024-01-01", 100.0)
    assert machine.buffers[0].size_bits == 65536


def test_anchors_may_be_used(write: Any) -> None:
    text = GOOD.replace("read_energy_pj_per_bit: 15", "read_energy_pj_per_bit: &e 15").replace("1.5e1", "*e")
    assert load_accelerator(write(text)).dram.write_energy_pj_per_bit == 15.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ":1: is empty"),
        ("# only a comment\n", ":1: is empty"),
        ("null", ":1: is empty"),
        ("\n- a\n- b\n", ":2: the top level must be a mapping of fields (name: value)"),
        ("just text", ":1: the top level must be a mapping of fields (name: value)"),
        (b"\x80\x81\xff" * 50, ":1: is not text in UTF-8"),
        (b"a: 1\nb: \xff", ":2: is not text in UTF-8"),
        (b"a: 1\n\x00\x01", ":2: is not valid YAML: holds a control character"),
        ("a: 1\nb: [1,\n", ":3: is not valid YAML: while parsing a flow node expected the node content, but found "
                          "'<stream end>'"),
        ("a: 1\n b: 2\n", ":2: is not valid YAML: mapping values are not allowed here"),
        ("a: 1\n---\nb: 1\n",
         ":2: is not valid YAML: expected a single document in the stream but found another document"),
        ('a: "\\UFFFFFFFF"', ":1: is not valid YAML: an escape, a tag or a directive is malformed"),
        ("[" * 5000, ":1: is nested too deeply"),
        ("a: 1\n" * (1 << 18), ": is larger than 1048576 bytes: no settings file"),
        ("a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)),
         ":1: holds more than 20000 values"),
    ],
)
def test_files_that_are_no_description(write: Any, content: str | bytes, message: str) -> None:
    file = write(content)
    (problem,) = validate_file(file)
    assert str(problem) == f"{file}{message}"
    with pytest.raises(ConfigurationError):
        load_accelerator(file)


def test_missing_file_directory_and_preset(tmp_path: Path) -> None:
    for path, rule in (
        (tmp_path / "none.yaml", "no such file"),
        (tmp_path, "is a directory, not a YAML file"),
        (tmp_path / "a\0b.yaml", "no such file|cannot be read"),
    ):
        with pytest.raises(ConfigurationError, match=rule) as caught:
            open_accelerator(path)
        assert caught.value.problems == tuple(validate_file(path))
    with pytest.raises(ConfigurationError) as caught:
        open_accelerator("Bit-Fusoin")
    assert str(caught.value) == (
        "accelerator='Bit-Fusoin': no such preset (allowed: bit_fusion, bit_fusion_float, bitwave_like, "
        "eyeriss_like, flexiq_like, four_tiles, gaudi_like, loom, pragmatic_like, stripes, tpu_like, unpu_like, "
        "or a path to a YAML file; did you mean 'bit_fusion'?)"
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=3, max_size=3),
    number=st.floats(min_value=1e-300, max_value=1e300),
)
def test_any_text_and_number_survive_a_round_trip(tmp_path: Path, texts: list[str], number: float) -> None:
    machine = open_accelerator("loom").model_copy(
        update={
            "name": texts[0], "description": texts[1], "clock_mhz": number,
            "sources": {"memories.dram": Source(confidence="assumed", source=texts[2] or "-")},
        }
    )
    file = tmp_path / "dump.yaml"
    file.write_text(dump_accelerator(machine), encoding="utf-8", newline="")
    assert load_accelerator(file) == machine


# ---------------------------------------------------------------------------------------------------------------
# Damaged presets: whatever happens to a file, the answer is ours
# ---------------------------------------------------------------------------------------------------------------

TEXTS = {
    preset.name: dump_accelerator(open_accelerator(preset.name)) for preset in list_presets() if not preset.tiles
}
# As written: its tiles are filled in from presets.
TEXTS["tiles from presets"] = (PRESETS / "four_tiles.yaml").read_text(encoding="utf-8")
DATA = {name: YAML(typ="safe", pure=True).load(text) for name, text in TEXTS.items()}
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just([]), st.just({}),
    st.lists(st.sampled_from(["weight", "input", "K", "C", 1, None, []]), max_size=3),
    st.dictionaries(st.sampled_from(["kind", "name", "size", "x"]), st.sampled_from(["dram", "buffer", 1]), max_size=3),
)


def check_answer(file: Path) -> None:
    """The file loads, or every mistake is one line of our form in plain words."""
    try:
        assert isinstance(load_machine(file), Accelerator | TiledAccelerator)
        assert validate_file(file) == []
    except BitmosaicError as error:
        assert isinstance(error, ConfigurationError) and error.problems == tuple(validate_file(file))
        for problem in error.problems:
            text = str(problem)
            assert text.startswith(str(file)) and len(text.splitlines()) == 1 and problem.rule
            assert not any(word in text for word in ("pydantic", "Input should", "is not valid here"))


def places(value: Any) -> list[tuple[Any, Any]]:
    found = []
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(item, dict | list):
            found += places(item)
    return found


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_data_gives_only_our_errors(tmp_path: Path, data: st.DataObject) -> None:
    machine = copy.deepcopy(DATA[data.draw(st.sampled_from(sorted(DATA)))])
    machine["sources"] = {}
    for _ in range(data.draw(st.integers(1, 4))):
        holder, key = data.draw(st.sampled_from(places(machine)))
        action = data.draw(st.sampled_from(["delete", "replace", "replace", "rename"]))
        if action == "delete":
            del holder[key]
        elif action == "replace" or isinstance(holder, list):
            holder[key] = data.draw(VALUES)
        else:
            holder[data.draw(st.text(max_size=6))] = holder.pop(key)
        if not machine:
            break
    file = tmp_path / "machine.yaml"
    # Python writes NaN and Infinity, which YAML reads as text: both are answers to check.
    file.write_text(json.dumps(machine, ensure_ascii=False), encoding="utf-8", errors="surrogatepass")
    check_answer(file)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_text_gives_only_our_errors(tmp_path: Path, data: st.DataObject) -> None:
    content = TEXTS[data.draw(st.sampled_from(sorted(TEXTS)))].encode()
    at = data.draw(st.integers(0, len(content)))
    tail = content[at + data.draw(st.integers(0, 40)) :]
    inserted = data.draw(st.one_of(
        st.binary(max_size=6),
        st.text("[]{}:,&*!|>%@`'\"#?-\t\n x1.", max_size=6).map(str.encode),
    ))
    file = tmp_path / "machine.yaml"
    file.write_bytes(content[:at] + inserted + (b"" if data.draw(st.booleans()) else tail))
    check_answer(file)
