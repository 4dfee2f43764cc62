"""Layers split by channel, by hand: shares, places, time, bits, energy, errors, mappings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import bitmosaic
from bitmosaic.cli import main
from bitmosaic.explorations.menu import for_layer, read_menu
from mapper.cache import problem_key
from mapper.constraints import MappingConstraints
from mapper.search import map_layer
from mapper.solution import SearchBudget
from simulator.accelerator import Accelerator, Axis, Buffer, Dram, Grid, MulticastPassing, RegisterFile, VectorUnit
from simulator.channel_split import ChannelPlaces, ChannelSplit
from simulator.engine import simulate
from simulator.errors import InfeasibleError, MappingError, PrecisionError
from simulator.functional import compute_layer
from simulator.layer import OPERANDS, Layer
from simulator.mapping import Mapping, MappingLevel
from simulator.plan import Plan, channel_places
from simulator.precision import LayerPrecision
from simulator.processing_elements import BitFusionElement, BitSerialElement, PrecisionEnergy, ProcessingElement
from simulator.result import LayerResult

HALF = LayerPrecision.parse("w8a8/w4a4@0.5")
FUSION = BitFusionElement(energy_pj_per_cycle=8.0, energy_by_precision=(
    PrecisionEnergy(weight="int4", input="int4", energy_pj_per_cycle=4.0),
    PrecisionEnergy(weight="int8", input="int8", energy_pj_per_cycle=8.0),
))
SERIAL = BitSerialElement(energy_pj_per_cycle=1.0, serial_operands=("input",), lane_count=1)


def machine(element: ProcessingElement, channels: int, **buffer: Any) -> Accelerator:
    """``channels`` PEs along C, one buffer, weights in registers, and a DRAM of a bit a cycle."""
    return Accelerator(
        name="machine", description="by hand", clock_mhz=1.0,
        memories=(
            Dram(name="dram", bandwidth_bits_per_cycle=1, read_energy_pj_per_bit=1, write_energy_pj_per_bit=1),
            Buffer(**{
                "name": "buffer", "keeps": ("weight", "input", "output"), "size_bits": 4096,
                "read_energy_pj_per_bit": 1.0, "write_energy_pj_per_bit": 1.0, **buffer,
            }),
            RegisterFile(name="register", keeps=("weight",), size_bits=64, read_energy_pj_per_bit=1,
                         write_energy_pj_per_bit=1),
        ),
        grid=Grid(axes=(Axis(name="rows", size=channels, unroll=("C",)),), passing=MulticastPassing()),
        processing_element=element, vector_unit=VectorUnit(lanes=1, energy_pj_per_operation=1),
    )


def run(layer: Layer, precision: LayerPrecision, on: Accelerator, tile: int, across: int) -> LayerResult:
    return simulate(layer, precision, on, mapping(layer, tile, across))


def mapping(layer: Layer, tile: int, across: int) -> Mapping:
    whole = {**layer.dims, "C": tile}
    return Mapping(
        spatial={"rows": {"C": across}},
        levels=(
            MappingLevel(level="dram", order=("C",)),
            MappingLevel(level="buffer", tile=whole, order=("K", "P", "C")),
            MappingLevel(level="register"),
        ),
    )


# Precisions and shares


def test_the_short_form() -> None:
    assert (HALF.weight, HALF.input, HALF.output) == ("int8", "int8", "int8")
    assert HALF.split == ChannelSplit(share=0.5) == bitmosaic.ChannelSplit(share=0.5, weight="int4", input="int4")
    assert (HALF.wide.label, HALF.narrow.label, HALF.label) == ("w8a8", "w4a4", "w8a8/w4a4@0.5")
    grouped = LayerPrecision.parse("w8a6/w2a6@.75:32")
    assert grouped.split is not None and grouped.split.channel_group == 32
    assert grouped.label == "w8a6/w2a6@0.75:32" and LayerPrecision.parse(grouped.label) == grouped


@pytest.mark.parametrize(("text", "message"), [
    ("w8a8/w4a4", "the share of the second"), ("w8a8@0.5", "the share of the second"),
    ("w8a8/w4a4@1.5", "between 0 and 1"), ("w8a8/w4a4@0.5:0", "the share of the second"),
    ("w4a4/w8a4@0.5", "must not be wider (weight int4)"), ("w4:fp8_e4m3/w4a4@0.5", "the share of the second"),
])
def test_short_forms_that_are_none(text: str, message: str) -> None:
    with pytest.raises(PrecisionError) as caught:
        LayerPrecision.parse(text)
    assert message in str(caught.value) and text in str(caught.value)


def test_what_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="split by channel in integer formats only"):
        LayerPrecision(weight="fp16", input="fp16", split=ChannelSplit(share=0.5))
    with pytest.raises(ValueError, match="must not be wider than input=int2"):
        LayerPrecision(weight="int8", input="int2", split=ChannelSplit(share=0.5))
    with pytest.raises(ValueError, match="must be an integer format"):
        ChannelSplit(share=0.5, weight="bf16")


@pytest.mark.parametrize(("share", "group", "extent", "channels"), [
    (0.5, 1, 64, 32), (0.5, 1, 3, 1), (0.5, 1, 1, 0), (0.51, 1, 1, 1), (1.0, 1, 1, 1), (0.0, 1, 64, 0),
    (0.5, 32, 64, 32), (0.5, 32, 32, 0), (0.75, 32, 96, 64), (1.0, 32, 48, 48), (0.5, 32, 48, 32), (1 / 3, 1, 30, 10),
])
def test_shares_are_whole_channel_groups(share: float, group: int, extent: int, channels: int) -> None:
    split = ChannelSplit(share=share, channel_group=group)
    assert split.channels(Layer(name="layer", dims={"C": extent})) == channels


def test_places() -> None:
    places = ChannelPlaces(channels=9, narrow_channels=6, channels_per_place=4)
    assert (places.narrow_places, places.count) == (2, 5)
    assert [places.channel(place) for place in range(6)] == [0, 4, 6, 7, 8, 9]
    assert [places.bits(place, place + 1, 8, 4) for place in range(5)] == [16, 8, 8, 8, 8]
    assert places.bits(1, 4, 8, 4) == 2 * 4 + 2 * 8
    assert channel_places(Layer(name="layer", dims={"C": 16}), HALF, machine(FUSION, 4)) == ChannelPlaces(16, 8, 4)
    assert channel_places(Layer(name="layer", dims={"C": 16}), HALF, machine(SERIAL, 4)) == ChannelPlaces(16, 8, 1)


def test_lanes_that_may_not_hold_channels_gain_none() -> None:
    base = machine(FUSION, 4)
    rows_only = base.model_copy(update={"grid": base.grid.model_copy(update={"lane_unroll": ("R", "S")})})
    assert channel_places(Layer(name="layer", dims={"C": 16}), HALF, rows_only).channels_per_place == 1


# Time, bits, energy


def test_narrow_channels_share_a_lane_of_a_fusion_unit() -> None:
    layer = Layer(name="layer", dims={"C": 16, "K": 3, "P": 5})
    found = run(layer, HALF, machine(FUSION, 1), tile=10, across=1)
    # 8 narrow channels on 2 places, 8 wide ones on 8: ten steps for each of 15 outputs, against 16 and 4.
    assert found.compute_cycles == 15 * 10 == found.active_pe_cycles
    assert found.moved_bits("dram", "weight") == (3 * (8 * 4 + 8 * 8), 0)
    assert found.moved_bits("dram", "input") == (5 * (8 * 4 + 8 * 8), 0)
    assert found.moved_bits("register", "weight") == (15 * (8 * 4 + 8 * 8), 0)
    assert found.energy_pj["processing_elements"] == 15 * (2 * 4.0 + 8 * 8.0)
    assert found.pe_utilization == pytest.approx(15 * (8 / 4 + 8) / found.total_cycles)


def test_a_step_takes_what_its_widest_channel_needs() -> None:
    layer = Layer(name="layer", dims={"C": 16, "P": 5})
    # Eight narrow channels, then eight wide ones: PEs for 4, 3 or 16 of them.
    for across, cycles in ((4, 2 * 4 + 2 * 8), (3, 2 * 4 + 4 * 8), (16, 8)):
        assert run(layer, HALF, machine(SERIAL, across), tile=16, across=across).compute_cycles == 5 * cycles
    assert run(layer, HALF.wide, machine(SERIAL, 4), tile=16, across=4).compute_cycles == 5 * 4 * 8


def test_steps_begin_anew_with_each_tile() -> None:
    layer = Layer(name="layer", dims={"C": 16})
    # Tiles of 6 channels, 4 PEs: 0-3 | 4-5, 6-9 | 10-11, 12-15; narrow are 0-7.
    assert run(layer, HALF, machine(SERIAL, 4), tile=6, across=4).compute_cycles == 2 * 4 + 3 * 8


def test_pes_with_narrow_channels_alone_cost_their_energy() -> None:
    layer = Layer(name="layer", dims={"C": 16})
    # One step of ten places: two PEs work on narrow channels, eight on wide ones.
    found = run(layer, HALF, machine(FUSION, 10), tile=10, across=10)
    assert (found.compute_cycles, found.active_pe_cycles) == (1, 10)
    assert found.energy_pj["processing_elements"] == 2 * 4.0 + 8 * 8.0


def test_the_tile_of_most_bits_must_fit() -> None:
    layer = Layer(name="layer", dims={"C": 16})
    # Two narrow places have 8 channels of 4 bits, two wide ones 2 of 8; an output takes 32 bits.
    assert run(layer, HALF, machine(FUSION, 1, size_bits=2 * 32 + 32), tile=2, across=1).compute_cycles == 10
    with pytest.raises(MappingError) as caught:
        run(layer, HALF, machine(FUSION, 1, size_bits=2 * 32 + 31), tile=2, across=1)
    assert "needs 96 bits (weight 32, input 32, output 32) and has 95" in str(caught.value)


def test_a_mapping_counts_places() -> None:
    layer = Layer(name="layer", dims={"C": 16})
    with pytest.raises(MappingError) as caught:
        Plan(layer, HALF, machine(FUSION, 1), mapping(layer, 16, 1))
    assert "the layer has 10" in str(caught.value)


# Who takes them


def test_elements_name_what_they_cannot_run() -> None:
    layer = Layer(name="layer", dims={"C": 4})
    narrow = SERIAL.model_copy(update={"max_bits": 4})
    with pytest.raises(PrecisionError, match=r"precision\.input") as caught:
        Plan(layer, HALF, machine(narrow, 1), mapping(layer, 4, 1))
    assert "precision.split" not in str(caught.value)
    pragmatic = bitmosaic.open_accelerator("pragmatic_like")
    with pytest.raises(PrecisionError, match="not described where time depends on values"):
        map_layer(layer, HALF, pragmatic)


def test_codes_must_lie_in_the_format_of_their_channel() -> None:
    layer = Layer(name="layer", dims={"C": 4})
    weights, inputs = np.full((1, 1, 4, 1, 1), 7), np.array([7, -8, 127, -128]).reshape(1, 1, 4, 1, 1)
    on, how = machine(SERIAL, 1), mapping(layer, 4, 1)
    assert compute_layer(layer, HALF, on, how, weights, inputs).item() == 7 * (7 - 8 + 127 - 128)
    with pytest.raises(PrecisionError, match="is no code of int4"):
        compute_layer(layer, HALF, on, how, weights, inputs[:, :, ::-1])


def test_products_of_activations_are_not_split() -> None:
    product = Layer(name="layer", dims={"C": 4}, weight_is_activation=True)
    assert for_layer(product, HALF) == LayerPrecision.parse("w8a8")
    assert for_layer(product.model_copy(update={"weight_is_activation": False}), HALF) == HALF


def test_explore_refuses_them() -> None:
    with pytest.raises(PrecisionError, match="layers split by channel are not offered one by one"):
        read_menu(["w8a8", "w8a8/w4a4@0.5"], bitmosaic.open_accelerator("flexiq_like"))


# Mappings


def test_the_mapper_proves_the_mappings_of_split_layers() -> None:
    layer = Layer(name="conv", dims={"K": 64, "C": 128, "P": 14, "Q": 14, "R": 3, "S": 3})
    flexiq = bitmosaic.open_accelerator("flexiq_like")
    found = {
        label: map_layer(layer, LayerPrecision.parse(label), flexiq, budget=SearchBudget(cpu_seconds=60.0))
        for label in ("w8a8", "w8a8/w4a4@0.5:32", "w4a4")
    }
    assert {each.status for each in found.values()} == {"optimal"}
    split = found["w8a8/w4a4@0.5:32"]
    assert found["w4a4"].cost < split.cost == split.lower_bound == split.result.total_cycles < found["w8a8"].cost
    assert "of the narrow and of the wide places alone" in split.space
    # 64 narrow channels on 16 places and 64 wide ones: on 32 rows three steps in place of four.
    assert split.result.compute_cycles <= 3 * (64 // 32) * 14 * 14 * 9


def test_a_border_between_steps_is_tried() -> None:
    """48 narrow places and 32 wide ones on 32 rows: three steps, one across the border, take longer."""
    serial = machine(SERIAL, 32, size_bits=1 << 20)
    dram, *memories = serial.memories
    fast = serial.model_copy(update={
        "memories": (dram.model_copy(update={"bandwidth_bits_per_cycle": 4096}), *memories),
    })
    layer = Layer(name="layer", dims={"C": 80, "P": 64})
    precision = LayerPrecision.parse("w8a8/w4a4@0.6")
    found = map_layer(layer, precision, fast, budget=SearchBudget(cpu_seconds=60.0))
    assert found.status == "optimal"
    assert found.mapping.level("buffer").tile["C"] == 48
    assert found.result.compute_cycles == 64 * (4 + 4 + 8)


def test_the_mapper_proves_them_on_two_levels_of_buffers_too() -> None:
    one = machine(FUSION, 4)
    energies = {"read_energy_pj_per_bit": 1.0, "write_energy_pj_per_bit": 1.0}
    outer = Buffer(name="outer", keeps=OPERANDS, size_bits=1 << 20, **energies)
    two = Accelerator.model_validate(dict(one) | {"memories": (one.dram, outer, *one.memories[1:])})
    assert two.buffer_levels == 2
    layer = Layer(name="product", dims={"K": 4, "C": 16})
    found = map_layer(layer, HALF, two, budget=SearchBudget(cpu_seconds=10.0))
    assert len(found.mapping.buffer_levels) == 2 and found.status == "optimal"
    assert found.lower_bound == found.cost == simulate(layer, HALF, two, found.mapping).total_cycles


def test_constraints_count_places() -> None:
    layer, flexiq = Layer(name="layer", dims={"C": 64, "K": 8}), bitmosaic.open_accelerator("flexiq_like")
    asked = MappingConstraints.model_validate({"tile": {"C": 8}})
    found = map_layer(layer, HALF, flexiq, "energy", constraints=asked)
    assert found.status == "optimal" and found.mapping.level("buffer").tile["C"] == 8
    # 32 narrow channels on 8 places, and 32 wide ones.
    too_many = MappingConstraints.model_validate({"tile": {"C": 41}})
    with pytest.raises(InfeasibleError, match="the layer has 40 along C"):
        map_layer(layer, HALF, flexiq, constraints=too_many)


def test_without_narrow_channels_the_proof_stands() -> None:
    layer = Layer(name="depthwise", dims={"G": 4, "P": 8})
    flexiq, budget = bitmosaic.open_accelerator("flexiq_like"), SearchBudget(cpu_seconds=60.0)
    split, whole = (map_layer(layer, each, flexiq, budget=budget) for each in (HALF, HALF.wide))
    assert split.precision == HALF
    assert (split.mapping, split.cost, split.lower_bound) == (whole.mapping, whole.cost, whole.lower_bound)
    assert split.status == whole.status == "optimal"
    assert simulate(layer, HALF, flexiq, split.mapping).total_cycles == split.cost


def test_every_share_is_a_problem_of_its_own() -> None:
    layer, flexiq = Layer(name="layer", dims={"C": 64}), bitmosaic.open_accelerator("flexiq_like")
    labels = ("w8a8", "w8a8/w4a4@0.5", "w8a8/w4a4@0.75", "w8a8/w4a4@0.5:32", "w8a8/w2a4@0.5")
    keys = {problem_key(layer, LayerPrecision.parse(label), flexiq, "latency", SearchBudget()) for label in labels}
    assert len(keys) == len(labels)


def test_simulate_maps_a_network_that_is_split() -> None:
    done = CliRunner().invoke(main, [
        "simulate", "digits_cnn", "--hardware", "flexiq_like", "--precision", "w8a8/w4a4@0.5", "--workers", "1",
        "--seconds-per-layer", "0.5",
    ])
    assert done.exit_code == 0, done.output
    assert "digits_cnn in w8a8/w4a4@0.5:" in done.output
