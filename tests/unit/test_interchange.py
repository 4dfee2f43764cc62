"""Other tools' architectures and mappings: read, simulated, written, read again; and what is refused.

That the counting rules give the tools' own numbers at their mappings is ``python -m benchmarks.reference``, which reads
its files with the same readers.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from bitmosaic.cli import main
from bitmosaic.interchange import accelforge, write_accelforge, write_timeloop, write_zigzag
from bitmosaic.interchange.design import Design
from bitmosaic.interchange.files import read_files
from bitmosaic.interchange.foreign_yaml import load
from bitmosaic.interchange.from_bitmosaic import design_of
from bitmosaic.interchange.nest_to_mapping import best_places, mapping_of
from bitmosaic.interchange.split_buffers import split_to_fit
from bitmosaic.interchange.to_bitmosaic import accelerator_of
from hw_configs import open_accelerator
from simulator.accelerator import Accelerator, Axis, Buffer, Dram, Grid, MulticastPassing, RegisterFile, VectorUnit
from simulator.counting_rules import accelforge as accelforge_rules
from simulator.counting_rules import zigzag as zigzag_rules
from simulator.counting_rules.loop_nest import Loop
from simulator.engine import simulate
from simulator.errors import BitmosaicError, ConfigurationError, MappingError, NetworkError
from simulator.layer import DIMS, OPERANDS, Layer
from simulator.mapping import Mapping, MappingLevel
from simulator.precision import LayerPrecision
from simulator.processing_elements import FixedElement

GOLDEN = Path(__file__).parent.parent / "golden" / "interchange"
REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.exists(), reason="the reference results are not beside the project")
share_of_examples = settings(max_examples=max(1, settings().max_examples // 12))
WRITERS = {"zigzag": write_zigzag.files_of, "accelforge": write_accelforge.files_of,
           "timeloop": write_timeloop.files_of}


def ours(design: Design, how=mapping_of):
    """Accelerator and mapping of a design, and its cost."""
    accelerator, _ = accelerator_of(design, design.precision)
    mapping, _ = how(design.layer, design.precision, design.machine, accelerator, design.nest)
    return accelerator, mapping, simulate(design.layer, design.precision, accelerator, mapping)


def written(folder: Path, texts: dict[str, str]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [str(folder / name) for name in texts]


def golden(*names: str) -> list[str]:
    return [str(GOLDEN / name) for name in names]


# Files written by hand, counts worked out by hand ------------------------------------------------------------------

PRODUCT = ("zigzag_accelerator.yaml", "zigzag_workload.yaml", "zigzag_places.json")
FORGE = ("accelforge_design.yaml",)
LOOP = ("timeloop_design.yaml",)


def check_by_hand(design: Design) -> None:
    """The product, for k in 4 [buffer] for c in 3 (k in 2, c in 2 in space) [registers] for n in 4, on our side."""
    assert design.layer.shape == Layer(name="product", dims={"N": 4, "K": 8, "C": 6}).shape
    assert design.nest.temporal == (Loop("K", 4), Loop("C", 3), Loop("N", 4))
    accelerator, mapping, result = ours(design)
    assert mapping.levels[0].order == ("K",)
    assert mapping.levels[1].tile == {"K": 2, "C": 6, "N": 4}
    assert mapping.levels[1].order == ("C",)
    assert mapping.levels[2].tile == {"N": 4}
    # Inputs do not depend on k and stay: 4·6 bytes once. Each of 8·6 weights and of 4·8 outputs once.
    assert result.moved_bits("dram", "input") == (8 * 24, 0)
    assert result.moved_bits("dram", "weight") == (8 * 48, 0)
    assert result.moved_bits("dram", "output") == (0, 8 * 32)
    # The buffer hands out 12 register tiles: 4 inputs to each of two c, one weight to each of 2·2 PEs.
    assert result.moved_bits("buffer", "input") == (8 * 12 * 4 * 2, 8 * 24)
    assert result.moved_bits("buffer", "weight") == (8 * 12 * 4, 8 * 48)
    assert result.compute_cycles == 4 * 3 * 4
    assert result.energy_pj["processing_elements"] == 192.0
    dram, buffer, registers = accelerator.memories
    assert (dram.bandwidth_bits_per_cycle, dram.read_energy_pj_per_bit, dram.write_energy_pj_per_bit) == (32, 1.0, 2.0)
    assert (buffer.size_bits, buffer.read_bandwidth_bits_per_cycle, buffer.ports) == (8192, 64, "separate")
    assert buffer.read_energy_pj_per_bit == pytest.approx(0.1)
    assert (registers.size_bits, registers.read_energy_pj_per_bit) == (256, 0.015625)


def test_a_product_for_zigzag_is_what_is_worked_out_by_hand():
    design = read_files(golden(*PRODUCT), None, None)
    check_by_hand(design)
    # ZigZag lets inputs stay, too: 24 bytes in six words; weights in 4 · 12 bytes, three words each.
    cost = zigzag_rules.count(design.layer, design.precision, design.machine, design.nest)
    assert cost.words["dram", "input", "to_inner"] == 6
    assert cost.words["dram", "weight", "to_inner"] == 4 * 3


def test_a_product_for_accelforge_is_what_is_worked_out_by_hand():
    design = read_files(golden(*FORGE), None, None)
    assert design.precision.accumulator.bits == 8
    check_by_hand(design)
    # AccelForge fetches inputs again in each of four iterations of k, and the import says so.
    cost = accelforge_rules.count(design.layer, design.precision, design.machine, design.nest)
    assert cost.bits["dram", "input", "to_inner"] == 4 * 8 * 24
    assert any("fetches the input of buffer again for each of the 4 iterations of K" in note for note in design.notes)


def test_a_product_for_timeloop_is_what_is_worked_out_by_hand():
    design = read_files(golden(*LOOP), None, None)
    check_by_hand(design)
    assert design.clock_mhz == 1000.0
    assert accelerator_of(design, design.precision)[0].grid.axes[0].name == "PE_X"


def test_timeloops_remainders_are_smaller_last_tiles(tmp_path):
    """The product with 5 channels and 3 rows: c in 3, of which the last has one of the 2 places along Y; n in 4 is cut
    into 2 tiles of 2, the last of one row."""
    text = (GOLDEN / LOOP[0]).read_text(encoding="utf-8")
    for old, new in (("instance: {C: 6, M: 8, N: 4}", "instance: {C: 5, M: 8, N: 3}"),
                     ("[M=2, C=2, N=1]", "[M=2, C=2,1, N=1]"), ('"C=0,M=1,N=1"', '"C=3,M=1,N=2"'),
                     ("N4 C1 M1", "N2,1 C1 M1")):
        assert old in text
        text = text.replace(old, new)
    design = read_files(written(tmp_path, {"design.yaml": text}), None, None)
    assert set(design.nest.ragged) == {"C", "N"} and design.layer.dims["C"] == 5
    _, mapping, result = ours(design)
    assert mapping.levels[1].tile == {"K": 2, "C": 5, "N": 3} and mapping.levels[2].tile == {"N": 2}
    assert mapping.spatial == {"PE_X": {"K": 2}, "PE_Y": {"C": 2}}
    assert [result.moved_bits("dram", operand) for operand in OPERANDS] == [(8 * 40, 0), (8 * 15, 0), (0, 8 * 24)]
    assert result.compute_cycles == 4 * 3 * 3 and result.macs == 5 * 8 * 3
    # A PE's own rows are cut further inside what is left of the array: not the same steps here.
    wrong = text.replace("[M=2, C=2,1, N=1]", "[M=2, C=1, N=2]")
    wrong = wrong.replace('"C=3,M=1,N=2"', '"C=5,M=1,N=1"')
    with pytest.raises(ConfigurationError, match=r"mapping\.N: leaves a part of what the array holds at once"):
        read_files(written(tmp_path, {"wrong.yaml": wrong}), None, None)


def test_a_timeloop_architecture_without_energies_says_that_they_are_0(tmp_path):
    text = (GOLDEN / LOOP[0]).read_text(encoding="utf-8").partition("ERT:")[0]
    design = read_files(written(tmp_path, {"design.yaml": text}), None, None)
    accelerator, mapping, result = ours(design)
    assert any("No energies are given" in note for note in design.notes)
    assert "energies are not in it" in accelerator.sources["everything"].source
    # Places are chosen by cycles alone then; here they are given.
    assert (result.total_energy_pj, mapping.levels[2].tile) == (0.0, {"N": 4})


ONE_PE = """
architecture:
  version: 0.4
  nodes:
  - !Component {name: memory, class: DRAM, attributes: {width: 256, datawidth: 8}}
  - !Component {name: buffer, class: SRAM, attributes: {depth: 32768, width: 64, datawidth: 8}}
  - !Component {name: registers, class: regfile, attributes: {depth: 64, width: 8, datawidth: 8}}
  - !Component {name: mac, class: intmac, attributes: {datawidth: 8}}
problem:
  shape:
    name: rows
    dimensions: [K, R, P]
    data_spaces:
    - {name: Weights, projection: [[[K]], [[R]]]}
    - {name: Inputs, projection: [[[R], [P]]]}
    - {name: Outputs, projection: [[[K]], [[P]]], read_write: true}
  instance: {K: 32, R: 3, P: 16}
mapping:
- {target: memory, type: temporal, factors: [R=1, P=1, K=1], permutation: PRK}
- {target: buffer, type: temporal, factors: [R=1, P=16, K=16], permutation: PRK}
- {target: registers, type: temporal, factors: [R=3, P=1, K=2], permutation: RPK}
"""


def test_a_nest_moves_what_timeloop_itself_counted(tmp_path):
    """Figures: timeloop-model.stats.txt of the exercise 03-model-conv1d+oc-3level, no bypass, of the public exercises
    (Accelergy-Project/timeloop-accelergy-exercises, tutorial of ISPASS 2020); its machine and nest in our own words.
    """
    design = read_files(written(tmp_path, {"design.yaml": ONE_PE}), None, None)
    _, mapping, result = ours(design)
    assert result.compute_cycles == 1536
    assert [result.moved_bits("memory", operand) for operand in OPERANDS] == [(8 * 96, 0), (8 * 18, 0), (0, 8 * 512)]
    assert result.moved_bits("buffer", "weight") == (8 * 96, 8 * 96)
    assert result.moved_bits("registers", "weight")[0] == result.moved_bits("registers", "input")[0] == 8 * 1536
    assert result.moved_bits("registers", "output")[1] == 8 * 1536
    # Its registers get one new input when the window moves (288 in all); ours get all three, as the notes say.
    assert result.moved_bits("buffer", "input") == (8 * 16 * 16 * 3, 8 * 18)
    assert any("neighbouring tiles share once" in note for note in design.notes)
    assert mapping.levels[1].order == ("K", "P")


def test_timeloops_convolution_is_known_by_name(tmp_path):
    problem = "problem: {shape: cnn-layer, instance: {C: 4, K: 8, R: 3, S: 3, P: 5, Q: 6, N: 2, Wstride: 2}}"
    design = read_files(written(tmp_path, {"problem.yaml": problem}), None, None)
    assert design.layer.shape == (1, 2, 8, 4, 5, 6, 3, 3)
    assert design.layer.stride == (2, 1)


def test_an_order_without_places_is_laid_where_it_costs_least():
    design = read_files(golden(PRODUCT[0], PRODUCT[1], "zigzag_mapping.yaml"), None, None)
    assert design.nest.temporal == (Loop("K", 4), Loop("C", 3), Loop("N", 4))
    assert not design.nest.stores
    accelerator, _, best = ours(design, best_places)
    given = ours(read_files(golden(*PRODUCT), None, None))[2]
    assert best.energy_delay_product <= given.energy_delay_product
    # Everything fits into the buffer, so that DRAM is read and written once.
    moved = [best.moved_bits("dram", operand) for operand in OPERANDS]
    assert moved == [(8 * 48, 0), (8 * 24, 0), (0, 8 * 32)]
    assert accelerator.name == "golden"


# Results of the tools ------------------------------------------------------------------------------------------------


@needs_reference
def test_a_mapping_that_zigzag_found_costs_the_same_under_its_rules_and_runs_here(tmp_path):
    entries = json.loads((REFERENCE / "zigzag_mappings.json").read_text(encoding="utf-8"))["entries"]
    entry = next(each for each in entries if (each["layer"], each["accelerator"]) == ("r18_l1_3x3", "ref_ws"))
    inputs = REFERENCE / "zigzag_inputs"
    (place,) = written(tmp_path, {"places.json": json.dumps(entry)})
    design = read_files([str(inputs / "ref_ws.yaml"), str(inputs / "layers.yaml"), place], None, None)
    cost = zigzag_rules.count(design.layer, design.precision, design.machine, design.nest)
    assert (cost.energy_pj, cost.latency_cycles) == (pytest.approx(entry["energy"], rel=1e-12), entry["latency"])
    _, mapping, result = ours(design)
    assert mapping.spatial == {"D1": {"K": 16}, "lanes": {"C": 16}}
    # Its words of the DRAM are full here but for the inputs, whose halo it fetches again and we do not.
    words = entry["word_accesses"]
    assert result.moved_bits("dram", "weight")[0] == 64 * words["W"][2]["rd_to_low"]
    assert result.moved_bits("dram", "output")[1] == 64 * words["O"][2]["wr_by_low"]
    assert result.total_energy_pj == pytest.approx(entry["energy"], rel=0.05)


@needs_reference
@pytest.mark.parametrize("entry", ["B_bert_ffn1_pareto", "B_llama_decode_pareto", "B_mbv2_dw_3x3_pareto",
                                   "B_r18_l4_3x3_pareto"])
def test_a_mapping_that_accelforge_found_moves_the_same_bits_at_the_dram(entry):
    front = json.loads((REFERENCE / "accelforge_fronts.json").read_text(encoding="utf-8"))[entry]
    sizes = {"bert_ffn1": {"m": 128, "k": 768, "n": 3072}, "llama_decode": {"m": 1, "k": 4096, "n": 4096},
             "mbv2_dw_3x3": {"c": 144, "p": 56, "q": 56, "r": 3, "s": 3},
             "r18_l4_3x3": {"k": 512, "c": 512, "p": 7, "q": 7, "r": 3, "s": 3}}[front["layer"]]
    names = {"m": "N", "n": "K", "k": "C"} if "m" in sizes else {
        "p": "P", "q": "Q", "r": "R", "s": "S", "c": "C" if "k" in sizes else "G", "k": "K"}
    layer = Layer(name=front["layer"], dims={names[rank]: size for rank, size in sizes.items()})
    path = REFERENCE / "accelforge_inputs" / "arch_B.yaml"
    machine = accelforge.read_machine(load(path), path.name, "B")
    precision = LayerPrecision(output="int8", accumulator="int8", scale_bits=0)
    design = Design("AccelForge", machine.machine, layer, precision,
                    accelforge.read_lines(front["min_energy"]["mapping"], names))
    _, mapping, result = ours(design)
    assert mapping.bypass == ("weight",)
    actions = front["min_energy"]["actions"]
    moved = {letter: result.moved_bits("DRAM", operand) for letter, operand in accelforge.LETTERS.items()}
    # What ours holds and theirs fetches again, theirs does not have at these ends of its fronts.
    assert moved["W"][0] == actions["action.DRAM.W.read"]
    assert moved["O"] == (actions["action.DRAM.O.read"], actions["action.DRAM.O.write"])
    assert moved["I"][0] <= actions["action.DRAM.I.read"]
    assert result.total_energy_pj == pytest.approx(front["min_energy"]["energy"], rel=0.02)


# There and back -----------------------------------------------------------------------------------------------------


def machine_for(size_bits: int = 1 << 20, second: bool = False, weight_lanes: int = 1) -> Accelerator:
    """Two axes of two PEs; registers of their own for each operand; one level of buffers, or two."""
    memories = [Dram(bandwidth_bits_per_cycle=64, read_energy_pj_per_bit=4.0, write_energy_pj_per_bit=8.0)]
    for name in ("outer", "inner") if second else ("buffer",):
        memories.append(Buffer(
            name=name, keeps=OPERANDS, size_bits=size_bits, read_energy_pj_per_bit=0.5, write_energy_pj_per_bit=0.25,
            read_bandwidth_bits_per_cycle=128, write_bandwidth_bits_per_cycle=128))
    memories += [
        RegisterFile(name=f"{operand}_register", keeps=(operand,), size_bits=1 << 16, read_energy_pj_per_bit=0.125,
                     write_energy_pj_per_bit=0.0625) for operand in OPERANDS
    ]
    return Accelerator(
        name="there_and_back", description="small", clock_mhz=1000.0, memories=tuple(memories),
        grid=Grid(axes=(Axis(name="x", size=4, unroll=DIMS), Axis(name="y", size=4, unroll=DIMS)),
                  passing=MulticastPassing()),
        processing_element=FixedElement(operand_bits=8, lane_count=weight_lanes, energy_pj_per_cycle=0.5),
        vector_unit=VectorUnit(lanes=1, energy_pj_per_operation=0.0),
    )


@st.composite
def mapped_layers(draw):
    """A machine, a layer, and a mapping of it whose tiles divide."""
    second = draw(st.booleans())
    lanes = draw(st.sampled_from([1, 2]))
    accelerator = machine_for(second=second, weight_lanes=lanes)
    levels = accelerator.buffer_levels
    factors = {dim: [1] * (levels + 4) for dim in DIMS}
    for place in range(levels + 2):
        for dim in draw(st.lists(st.sampled_from("GNKCPQRS"), max_size=3, unique=True)):
            factors[dim][place] = draw(st.sampled_from([2, 3]))
    spatial = {}
    for number, axis in enumerate(("x", "y")):
        dim = draw(st.sampled_from("GNKCPQRS"))
        spatial[axis] = {dim: draw(st.sampled_from([2, 4]))}
        factors[dim][levels + 2 + number] = spatial[axis][dim]
    extra = {}
    if lanes == 2 and draw(st.booleans()):
        dim = draw(st.sampled_from("CRS"))
        spatial["lanes"] = extra = {dim: 2}
    unrolled = {dim: math.prod(factors[dim][levels + 2:]) * extra.get(dim, 1) for dim in DIMS}
    register = {dim: factors[dim][levels + 1] for dim in DIMS}
    tiles = [{dim: math.prod(factors[dim][number: levels + 1]) * unrolled[dim] * register[dim] for dim in DIMS}
             for number in range(levels + 1)]
    orders = [draw(st.permutations([dim for dim in DIMS if factors[dim][number] > 1])) for number in range(levels + 1)]
    names = ["dram", *["buffer"] * levels]
    mapping = Mapping(
        spatial=spatial,
        levels=(*(MappingLevel(level=name, tile={} if number == 0 else tiles[number], order=tuple(orders[number]))
                  for number, name in enumerate(names)),
                MappingLevel(level="register", tile=register)),
    )
    layer = Layer(name="layer", dims={dim: tiles[0][dim] for dim in DIMS if tiles[0][dim] > 1},
                  stride=(draw(st.sampled_from([1, 2])),) * 2 if tiles[0]["P"] > 1 and tiles[0]["Q"] > 1 else (1, 1))
    return accelerator, layer, mapping


def axis_of(tool: str, axis: str) -> str:
    """What an axis is called when it comes back: Timeloop has meshes in containers."""
    return f"{axis}_X" if tool == "timeloop" else axis


@pytest.mark.parametrize("tool", WRITERS)
@share_of_examples
@given(mapped_layers())
def test_what_is_written_for_a_tool_comes_back(tool, tmp_path_factory, case):
    check_comes_back(tool, tmp_path_factory.mktemp("files"), *case)


@share_of_examples
@given(st.data())
def test_smaller_last_tiles_go_to_timeloop_and_come_back(tmp_path_factory, data):
    accelerator, layer, mapping = data.draw(mapped_layers())
    tile = mapping.levels[1].tile
    # Shorter by less than the outermost tile, so that the last of them is smaller and all loops keep their trips.
    dims = {dim: extent - data.draw(st.integers(0, tile.get(dim, 1) - 1), label=f"{dim} less")
            if tile.get(dim, 1) < extent else extent for dim, extent in layer.dims.items()}
    shorter = Layer(name="layer", dims=dims, stride=layer.stride)
    try:
        design = design_of(accelerator, LayerPrecision(), shorter, mapping)
    except MappingError as error:
        assert "leaves a part of the grid's register tile" in str(error)
        return
    assert set(design.nest.ragged) == {dim for dim, extent in dims.items() if extent % tile.get(dim, 1)}
    if design.nest.ragged:
        for tool in ("zigzag", "accelforge"):
            with pytest.raises(MappingError, match="perfect factors only"):
                WRITERS[tool](design)
    check_comes_back("timeloop", tmp_path_factory.mktemp("files"), accelerator, shorter, mapping)


def check_comes_back(tool, folder, accelerator, layer, mapping):
    # Timeloop has words of one width.
    width = "int8" if tool == "timeloop" else "int32"
    precision = LayerPrecision(output=width, accumulator=width)
    design = design_of(accelerator, precision, layer, mapping)
    texts, _ = WRITERS[tool](design)
    back = read_files(written(folder, texts), None, None)
    assert back.nest.spatial == {axis_of(tool, axis): loops for axis, loops in design.nest.spatial.items()}
    if tool != "timeloop":  # which gives no places, but levels: tiles begin where these do
        assert back.nest == design.nest
    assert (back.layer.shape, back.layer.stride) == (layer.shape, layer.stride)
    assert back.precision.stored_bits("output") == precision.stored_bits("output")
    # The accelerator that comes back is the one that was written, and the mapping costs on it what it costs here.
    returned, _ = accelerator_of(back, back.precision)
    by_name = {memory.name: memory for memory in returned.memories}
    assert len(by_name) == len(accelerator.memories)
    for memory in accelerator.memories:
        other = by_name[memory.name]
        assert memory.kind == other.kind
        assert memory.read_energy_pj_per_bit == pytest.approx(other.read_energy_pj_per_bit)
        assert getattr(memory, "size_bits", 0) == getattr(other, "size_bits", 0)
    assert returned.processing_element.lane_count == accelerator.processing_element.lane_count
    there, _ = mapping_of(back.layer, back.precision, back.machine, returned, back.nest)
    bare = there.model_copy(update={"levels": tuple(
        level.model_copy(update={"double_buffer": ()}) for level in there.levels)})
    own = simulate(layer, precision, accelerator, mapping)
    again = simulate(back.layer, back.precision, returned, bare)
    assert again.total_cycles == own.total_cycles
    for memory in accelerator.memories:
        for operand in OPERANDS:
            assert again.moved_bits(memory.name, operand) == own.moved_bits(memory.name, operand)
    assert again.total_energy_pj == pytest.approx(own.total_energy_pj)


# What cannot be said -----------------------------------------------------------------------------------------------


def changed(folder: Path, name: str, old: str, new: str) -> str:
    """A golden file with one thing in it changed."""
    text = (GOLDEN / name).read_text(encoding="utf-8")
    assert old in text
    return written(folder, {name: text.replace(old, new, 1)})[0]


@pytest.mark.parametrize(("name", "old", "new", "message"), [
    (PRODUCT[0], "bandwidth_min: 64", "bandwidth_min: 8", "words of several widths are not understood"),
    (PRODUCT[0], '"I1, tl"', '"I3, tl"', "must be an operand"),
    (PRODUCT[0], "r_cost: 6.4", "r_costs: 6.4",
     r"zigzag_accelerator\.yaml:18: memories\.buffer\.r_costs: is not understood"),
    (PRODUCT[0], "size: 8192", "size: many", "must be a number, a product of numbers, or inf"),
    (PRODUCT[0], "served_dimensions: []", "served_dimensions: [D3]",
     r"=D3: the array has no such dimension"),
    (PRODUCT[1], "O[b][k]+=I[b][c]*W[c][k]", "O[b][k]+=I[b][c]", "must name the tensors O, W and I"),
    (PRODUCT[1], "O[b][k]", "O[b]", "K: the loop occurs in fewer than two tensors"),
    (PRODUCT[2], '"D2": {"C": 2}', '"D2": {"C": 1.5}', "only whole numbers of trips"),
    (PRODUCT[2], '"W": [[["B", 4]], [["C", 3]]', '"W": [[["C", 3]], [["B", 4]]', "not in the order of the others"),
    (FORGE[0], "tensors: {keep: All}", "tensors: {keep: All, may_keep: All}", r"tensors\.may_keep: is not understood"),
    (FORGE[0], "tensors: {keep: All}", "tensors: {keep: ~Intermediates}", "must be All, or operands joined by"),
    (FORGE[0], "throughput: 1}", "throughput: 2}", "only one multiply-accumulate a cycle"),
    (FORGE[0], "tile_shape: 2}", "tile_shape: 3}", "must divide the 8 that are left: perfect factors only"),
    (FORGE[0], "{rank_variable: m, tile_shape: 1}", "{rank_variable: m, tile_shape: 2}", "2 are left inside all loops"),
    (FORGE[0], "- !Temporal {rank_variable: k", "- !Pipeline {rank_variable: k", "one layer alone, in one nest"),
    (FORGE[0], "renames: {input: A, weight: W, output: Z}", "renames: {output: Z}",
     "does not say which tensor is the weight"),
    (FORGE[0], "M: 4", "J: 4", "m: the loop has no size"),
    (LOOP[0], "nodes:", "subtree:", r"hierarchy of versions before 0\.4"),
    (LOOP[0], "- !Container", "- !Pipeline", "is no node that is understood"),
    (LOOP[0], "depth: 128, ", "", r"architecture\.buffer\.attributes\.depth: a memory on the chip needs its depth"),
    (LOOP[0], "name: system.mac[1..4]", "name: system.alu[1..4]", "the energy reference table has no such component"),
    (LOOP[0], "target: registers", "target: register", "no such level .*did you mean 'registers'"),
    (LOOP[0], "N4 C1 M1", "N4,5 C1 M1", r"mapping\[0\]\.factors=5: is no remainder of the factor before it"),
    (LOOP[0], "N4 C1 M1", "N4,2 C1 M1", r"mapping\.N: the factors and remainders make 2, and must make 4"),
    (LOOP[0], "N4 C1 M1", "N4 C1 J1", "the problem has no such dimension"),
    (LOOP[0], '"M=4,C=1,N=1"', '"M=3,C=1,N=1"', r"mapping\.M: the factors must multiply to 8"),
    (LOOP[0], ", split: 1", "", "split: says which loops lie along X"),
    (LOOP[0], "spatial: {meshX: 2, meshY: 2}", "spatial: {meshX: 2}", "lies along Y by its split"),
    (LOOP[0], "type: spatial", "type: spacial", "no such type .*did you mean 'spatial'"),
    (LOOP[0], "read_write: true", "read_write: false", "must be one that is written"),
], ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "")
def test_what_is_not_understood_in_a_file_is_refused(tmp_path, name, old, new, message):
    others = [each for each in (PRODUCT if name in PRODUCT else ()) if each != name]
    with pytest.raises((ConfigurationError, NetworkError), match=message):
        read_files([changed(tmp_path, name, old, new), *golden(*others)], None, None)


@pytest.mark.parametrize("name", [*PRODUCT, "zigzag_mapping.yaml", *FORGE, *LOOP])
def test_a_file_with_any_value_gone_wrong_is_refused_or_read(tmp_path, name):
    """Values of every file in turn become a number, a text, a list, nothing: one clear error, or none."""
    step = max(1, 1200 // settings().max_examples)
    data = load(GOLDEN / name)
    others = [each for each in golden(*PRODUCT[:2]) if name in ("zigzag_mapping.yaml", *PRODUCT)
              and not each.endswith(name)]
    if name in PRODUCT[:2]:
        others.append(str(GOLDEN / PRODUCT[2]))
    path = tmp_path / name
    yaml = YAML(typ="rt", pure=True)
    for number, (owner, key) in enumerate(values_of(data)):
        if number % step:
            continue
        kept = owner[key]
        owner[key] = (-3, "nonsense", ["x", 1], None, {"a": 1})[number // step % 5]
        with path.open("w", encoding="utf-8") as stream:
            yaml.dump(data, stream)
        owner[key] = kept
        with suppress(BitmosaicError):
            design = read_files([str(path), *others], None, None)
            accelerator_of(design, design.precision or LayerPrecision())


def values_of(node):
    """Every place of a file's data, as its owner and its key."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(value, dict | list):
            yield from values_of(value)


def test_all_mistakes_of_a_file_come_at_once(tmp_path):
    text = (GOLDEN / PRODUCT[0]).read_text(encoding="utf-8").replace("area: 0", "areas: 0")
    with pytest.raises(ConfigurationError) as caught:
        read_files(written(tmp_path, {PRODUCT[0]: text}), None, None)
    assert len(caught.value.problems) == 4


def test_tiles_of_one_memory_that_do_not_meet_are_refused_and_split(tmp_path):
    # Inputs stay in the buffer over all of c, weights only inside c.
    place = changed(tmp_path, PRODUCT[2], '"W": [[["B", 4]], [["C", 3]], [["K", 4]]]',
                    '"W": [[["B", 4]], [], [["C", 3], ["K", 4]]]')
    design = read_files([*golden(*PRODUCT[:2]), place], None, None)
    rule = "input begins in buffer above C3 .* at the latest, weight in buffer above N4 .*C3 lies between.*places split"
    with pytest.raises(MappingError, match=rule):
        ours(design)
    accelerator, _ = accelerator_of(design, design.precision)
    split = split_to_fit(design.layer, design.precision, design.machine, accelerator, design.nest)
    assert [buffer.name for buffer in split.accelerator.buffers] == ["buffer_input_output", "buffer_weight"]
    assert sum(buffer.size_bits for buffer in split.accelerator.buffers) == 8192
    result = simulate(design.layer, design.precision, split.accelerator, split.mapping)
    # Weights come 12 times, 2·2 of them each: each once, as before; now in tiles of one c.
    assert result.moved_bits("dram", "weight") == (8 * 48, 0)
    assert result.moved_bits("dram", "input") == (8 * 24, 0)
    assert split.mapping.levels[2].tile == {"K": 2, "C": 2, "N": 4}
    small = {"memories": tuple(
        buffer.model_copy(update={"size_bits": 300}) if isinstance(buffer, Buffer) else buffer
        for buffer in accelerator.memories)}
    with pytest.raises(MappingError, match=r"buffer: needs \d+ bits"):
        split_to_fit(design.layer, design.precision, design.machine, accelerator.model_copy(update=small), design.nest)


def test_a_memory_that_a_part_of_the_array_shares_is_refused(tmp_path):
    path = changed(tmp_path, PRODUCT[0], "served_dimensions: []", "served_dimensions: [D2]")
    design = read_files([path], None, None)
    rule = r"memories\.registers\.keeps=input, weight, output: is shared along D2 .* only outputs may be kept so"
    with pytest.raises(ConfigurationError, match=rule):
        accelerator_of(design, LayerPrecision())


def test_loops_of_a_dimension_cut_apart_are_refused(tmp_path):
    levels = '[[["B", 4]], [["C", 3]], [["K", 4]]]'
    cut = '[[["B", 2]], [["C", 3], ["K", 2], ["B", 2]], [["K", 2]]]'
    text = (GOLDEN / PRODUCT[2]).read_text(encoding="utf-8").replace(levels, cut)
    design = read_files([*golden(*PRODUCT[:2]), *written(tmp_path, {"ok.json": text})], None, None)
    ours(design)
    cut = '[[["B", 2]], [["K", 2], ["B", 2], ["C", 3], ["K", 2]], []]'
    text = (GOLDEN / PRODUCT[2]).read_text(encoding="utf-8").replace(levels, cut)
    design = read_files([*golden(*PRODUCT[:2]), *written(tmp_path, {"cut.json": text})], None, None)
    with pytest.raises(MappingError, match=r"buffer level 1\.order=K: its loops are cut apart by others"):
        ours(design)


def test_what_other_tools_cannot_say_of_ours_is_refused():
    layer = Layer(name="ragged", dims={"K": 16})
    levels = (MappingLevel(level="dram", order=("K",)), MappingLevel(level="buffer", tile={"K": 8}, order=("K",)),
              MappingLevel(level="register", tile={"K": 3}))
    with pytest.raises(MappingError, match=r"grid's register tile\.K=3: does not divide the 8 of buffer 1"):
        design_of(machine_for(), LayerPrecision(), layer, Mapping(levels=levels))
    with pytest.raises(ConfigurationError, match="its time depends on values"):
        design_of(open_accelerator("pragmatic_like"), LayerPrecision())
    with pytest.raises(ConfigurationError, match="a step takes 8 cycles in w8a8"):
        design_of(open_accelerator("stripes"), LayerPrecision())
    with pytest.raises(ConfigurationError, match="no layers split by channel"):
        design_of(open_accelerator("flexiq_like"), LayerPrecision.parse("w8a8/w4a4@0.5"))


@pytest.mark.parametrize("preset", ["eyeriss_like", "tpu_like", "bit_fusion"])
@pytest.mark.parametrize("tool", WRITERS)
def test_presets_are_written_and_read(tool, preset, tmp_path):
    accelerator = open_accelerator(preset)
    design = design_of(accelerator, LayerPrecision())
    texts, notes = WRITERS[tool](design)
    assert any("systolic" in note for note in notes) == (accelerator.grid.passing.kind == "systolic")
    back = read_files(written(tmp_path, texts), None, None)
    returned, _ = accelerator_of(back, LayerPrecision())
    assert returned.grid.pe_count == accelerator.grid.pe_count
    assert {memory.name for memory in returned.memories} >= {memory.name for memory in accelerator.buffers}
    if tool == "timeloop":
        assert returned.clock_mhz == accelerator.clock_mhz
    for buffer in accelerator.buffers:
        (other,) = (each for each in returned.buffers if each.name == buffer.name)
        assert other.read_energy_pj_per_bit == pytest.approx(buffer.read_energy_pj_per_bit)
        assert (other.size_bits, set(other.keeps)) == (buffer.size_bits, set(buffer.keeps))


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_writes_what_the_other_commands_take(tmp_path):
    out = tmp_path / "ours"
    shown = CliRunner().invoke(main, ["convert", *golden(*PRODUCT), "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "note: ZigZag counts cycles: the clock of 1000 MHz is assumed." in shown.output
    assert "ZigZag's counting rules:" in shown.output
    assert "# ZigZag counts cycles" in (out / "accelerator.yaml").read_text(encoding="utf-8")
    valid = CliRunner().invoke(main, ["validate", str(out / "accelerator.yaml")])
    assert valid.exit_code == 0, valid.output
    mapped = CliRunner().invoke(main, ["map", str(out / "layer.yaml"), "--hardware", str(out / "accelerator.yaml"),
                                       "--from", str(out / "mapping.yaml")])
    assert mapped.exit_code == 0, mapped.output
    cycles = re.search(r"Bitmosaic: ([\d,]+) cycles", shown.output)[1]
    assert f"{cycles} cycles" in mapped.output
    back = CliRunner().invoke(main, ["convert", *(str(out / f"{name}.yaml") for name in ("accelerator", "layer",
                                     "mapping")), "--to", "accelforge", "--out", str(tmp_path / "theirs")])
    assert back.exit_code == 0, back.output
    names = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert names == ["arch.yaml", "mapping.yaml", "workload.yaml"]


def test_the_command_without_a_folder_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(main, ["convert", *golden(*FORGE), "--to", "zigzag"])
    assert shown.exit_code == 0, shown.output
    assert "--out DIR writes them" in shown.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("files", "message"), [
    (golden(PRODUCT[0], PRODUCT[2]), "a mapping needs its layer"),
    (golden(PRODUCT[0], *FORGE), "is of AccelForge, and the files before it are of ZigZag"),
    (golden(PRODUCT[0], PRODUCT[0]), "is a second architecture"),
    ([str(Path(__file__))], "is no"),
    (["no_such.yaml"], "no such file"),
    (golden(PRODUCT[0], PRODUCT[1], "zigzag_mapping.yaml"), "gives loops and no places of tiles.*best"),
    ([*golden(*PRODUCT), "--layer", "other"], "the workload has no such layer .*allowed: product"),
])
def test_the_command_says_what_is_missing(files, message):
    shown = CliRunner().invoke(main, ["convert", *files])
    assert shown.exit_code == 2
    assert re.search(message, shown.output), shown.output
