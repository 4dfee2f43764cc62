"""ZigZag's and AccelForge's counting rules: worked by hand, and against walks over every iteration of the loops."""

import itertools
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mapper.nest_search import nest_front
from simulator.counting_rules import accelforge, zigzag, zigzag_flows, zigzag_latency
from simulator.counting_rules.loop_nest import (
    FLOWS,
    READS,
    Loop,
    LoopNest,
    Machine,
    Memory,
    Port,
    Store,
    input_elements,
    touched,
)
from simulator.errors import MappingError, PrecisionError
from simulator.formats import Format
from simulator.layer import OPERANDS, RELEVANT_DIMS, Layer
from simulator.precision import LayerPrecision

EVERYTHING = frozenset((operand, flow) for operand in OPERANDS for flow in FLOWS)
PRECISION = LayerPrecision()
BYTES = LayerPrecision(accumulator=Format("int8"))


def port(bits=None, word_bits=1, serves=EVERYTHING, name="port"):
    return Port(name=name, serves=serves, bits_per_cycle=bits, word_bits=word_bits)


def three_levels(word_bits=1, size_bits=None, register_bits=None, bandwidth=None, must_reuse=None):
    """DRAM, a buffer, and registers in each PE of a 2 × 2 grid; energies are powers of ten, to be told apart."""
    levels = [("dram", None, (), 1000.0), ("buffer", size_bits, (), 10.0),
              ("registers", register_bits, ("x", "y"), 0.1)]
    return Machine(
        name="three levels", axes={"x": 2, "y": 2}, mac_energy_pj=1.0, must_reuse=must_reuse or {},
        memories=tuple(
            Memory(name=name, keeps=OPERANDS, size_bits=size, read_energy_pj=pj, write_energy_pj=2 * pj,
                   ports=(port(bandwidth, word_bits),), replicated_along=axes)
            for name, size, axes, pj in levels
        ),
    )


def stores(buffer, registers):
    """One place for each operand (weight, input, output) in the buffer, and in the registers."""
    return {
        operand: (Store(memory="dram", loops_above=0), Store(memory="buffer", loops_above=buffer[number]),
                  Store(memory="registers", loops_above=registers[number]))
        for number, operand in enumerate(OPERANDS)
    }


PRODUCT = Layer(name="product", dims={"N": 4, "K": 8, "C": 6})
# for k1 in 4: [buffer] for c1 in 3: (k2 in 2 along x, c2 in 2 along y) [registers] for n in 4
NEST = LoopNest(
    temporal=(Loop("K", 4), Loop("C", 3), Loop("N", 4)),
    spatial={"x": (Loop("K", 2),), "y": (Loop("C", 2),)},
    stores=stores(buffer=(1, 1, 1), registers=(2, 2, 2)),
)


def test_a_product_counted_by_hand_under_accelforge():
    cost = accelforge.count(PRODUCT, BYTES, three_levels(bandwidth=32), NEST)
    moved = {key: bits // 8 for key, bits in cost.bits.items()}
    # Inputs do not depend on k1: 4 times 4·6 elements. The buffer sends 12 times 4 elements to 2 positions of y, and
    # both positions of x hear them.
    assert moved["dram", "input", "to_inner"] == moved["buffer", "input", "from_outer"] == 4 * 24
    assert moved["buffer", "input", "to_inner"] == 12 * 4 * 2
    assert moved["registers", "input", "from_outer"] == 12 * 4 * 4
    # Weights: each once, to its own PE.
    assert moved["dram", "weight", "to_inner"] == moved["registers", "weight", "from_outer"] == 48
    # Outputs: of each k1 a tile of 4·2, reduced over y; after each of three c1 a partial sum comes up.
    assert moved["buffer", "output", "from_inner"] == 12 * 4 * 2
    assert moved["registers", "output", "to_outer"] == 12 * 4 * 4
    assert moved["buffer", "output", "to_inner"] == (12 - 4) * 4 * 2
    assert moved["dram", "output", "from_inner"] == 32
    assert moved["dram", "output", "to_inner"] == 0
    # Each MAC reads and writes its partial sum; the first of the 3 that meet in one PE's register is not read.
    assert moved["registers", "output", "from_inner"] == 192
    assert moved["registers", "output", "to_inner"] == 192 - 64
    assert cost.steps == 48
    # DRAM: 96 inputs, 48 weights, 32 outputs; one PE's registers: a quarter of what all of them move.
    assert cost.cycles["dram"] == 8 * (96 + 48 + 32) / 32
    registers = 3 * 192 - 64 + 192 + 48 + 192 + 192 + (192 - 64)
    assert cost.cycles["registers"] == 8 * registers / 4 / 32
    assert cost.latency_cycles == max(48, *cost.cycles.values())
    reads = sum(bits for (name, _, flow), bits in cost.bits.items() if name == "dram" and flow in READS)
    assert reads == 8 * 144
    buffer = 8 * (10 * (96 + 48 + 64 + 32) + 20 * (96 + 48 + 96))
    assert cost.energy_pj == pytest.approx(192 + 1000 * 8 * 144 + 2000 * 8 * 32 + buffer + 0.1 * sum(
        bits * (1 if flow in READS else 2) for (name, _, flow), bits in cost.bits.items() if name == "registers"
    ))


def test_a_product_counted_by_hand_under_zigzag():
    cost = zigzag.count(PRODUCT, PRECISION, three_levels(word_bits=32, bandwidth=32), NEST)
    words = cost.words
    # k1 is irrelevant to inputs and next to the buffer's tile, so it moves inside: 24 bytes once, in six words.
    assert words["dram", "input", "to_inner"] == words["buffer", "input", "from_outer"] == 6
    # The buffer's period is then 48 steps; the registers change with c1: 12 times 2 rows of 4 bytes, x multicast.
    assert words["buffer", "input", "to_inner"] == 12 * 2
    # Each copy of a register file counts its own word.
    assert words["registers", "input", "from_outer"] == 12 * 4
    # Weights: one byte in each PE fills a word; the buffer reads the four of them as one.
    assert words["registers", "weight", "from_outer"] == 12 * 4
    assert words["buffer", "weight", "to_inner"] == 12
    # Weights of the MACs: held over n.
    assert words["registers", "weight", "to_inner"] == 12 * 4
    # Outputs: c1 is irrelevant, next to the registers' tile, and moves inside them. So they change with k1 alone: four
    # bytes leave each PE, and reduced over y two PEs' worth reach the buffer; nothing comes back.
    assert words["registers", "output", "to_outer"] == 4 * 4
    assert words["buffer", "output", "from_inner"] == 4 * 2
    assert words["buffer", "output", "to_outer"] == 4 * 2
    for memory, flow in (("registers", "from_outer"), ("buffer", "to_inner"), ("buffer", "from_outer")):
        assert words[memory, "output", flow] == 0
    # Inside, every MAC's sum is partial, and read back every time: a word each, over three c1 and four n, four times.
    assert words["registers", "output", "from_inner"] == words["registers", "output", "to_inner"] == 192
    assert words["dram", "output", "from_inner"] == 4 * 2
    assert cost.mac_energy_pj == 192
    assert cost.energy_pj_by_level["weight", "dram"] == 1000 * 4 * 3
    assert cost.steps == 48


def test_a_tile_that_passes_piece_by_piece_takes_the_room_of_a_piece_and_fetches_its_halo_once():
    layer = Layer(name="rows", dims={"P": 8, "R": 3})
    machine = three_levels(size_bits=8 * (4 + 3 + 2))
    nest = {"temporal": (Loop("P", 4), Loop("R", 3), Loop("P", 2)), "spatial": {}}
    kept = stores(buffer=(1, 1, 1), registers=(3, 3, 3))
    again = accelforge.count(layer, BYTES, machine, LoopNest(**nest, stores=kept))
    assert again.bits["dram", "input", "to_inner"] == 8 * 4 * (2 + 2)
    whole = {**kept, "input": (kept["input"][0], Store(memory="buffer", loops_above=0), kept["input"][2])}
    with pytest.raises(MappingError, match="buffer: its tiles take 120 bits, it has 72"):
        accelforge.count(layer, BYTES, machine, LoopNest(**nest, stores=whole))
    piece = Store(memory="buffer", loops_above=0, room_loops_above=1)
    sliding = {**kept, "input": (kept["input"][0], piece, kept["input"][2])}
    once = accelforge.count(layer, BYTES, machine, LoopNest(**nest, stores=sliding))
    assert once.bits["dram", "input", "to_inner"] == 8 * 10
    # A piece does not remember anything along a second loop, nor along one that the operand does not depend on.
    second = {**kept, "input": (kept["input"][0], piece.model_copy(update={"room_loops_above": 2}), kept["input"][2])}
    with pytest.raises(MappingError, match="pieces may lie along"):
        accelforge.count(layer, BYTES, three_levels(), LoopNest(**nest, stores=second))
    with pytest.raises(MappingError, match="pieces may lie along"):
        accelforge.count(layer, BYTES, three_levels(), LoopNest(**nest, stores={
            **kept, "weight": (kept["weight"][0], piece, kept["weight"][2])}))


def test_layers_split_by_channel_are_refused_and_not_counted_as_whole_ones():
    split = LayerPrecision.parse("w8a8/w4a4@0.5")
    for counted in (zigzag.count, accelforge.count, accelforge.problems, accelforge.rooms):
        with pytest.raises(PrecisionError, match=r"precision\.split=.*know no layers split by channel"):
            counted(PRODUCT, split, three_levels(), NEST)
    with pytest.raises(PrecisionError, match="know no layers split by channel"):
        nest_front(PRODUCT, split, three_levels())


def test_nests_that_are_not_the_layers_are_refused():
    with pytest.raises(MappingError, match="C: its loops multiply to 6, the layer has 12"):
        zigzag.count(Layer(name="x", dims={"N": 4, "K": 8, "C": 12}), PRECISION, three_levels(), NEST)
    wide = NEST.model_copy(update={"temporal": (Loop("K", 2), Loop("C", 3), Loop("N", 4)),
                                   "spatial": {"x": (Loop("K", 4),), "y": (Loop("C", 2),)}})
    with pytest.raises(MappingError, match=r"spatial\.x=4: the axis has 2 positions"):
        accelforge.count(PRODUCT, BYTES, three_levels(), wide)
    inverted = NEST.model_copy(update={"stores": stores(buffer=(3, 1, 1), registers=(2, 2, 2))})
    with pytest.raises(MappingError, match=r"stores\.weight\.loops_above=\[0, 3, 2\]"):
        accelforge.count(PRODUCT, BYTES, three_levels(), inverted)
    interleaved = NEST.model_copy(update={"stores": stores(buffer=(1, 1, 2), registers=(1, 2, 2))})
    with pytest.raises(MappingError, match="the array stands at one place"):
        accelforge.count(PRODUCT, BYTES, three_levels(), interleaved)
    with pytest.raises(MappingError, match=r"spatial\.x=K: weight must be reused along it"):
        accelforge.count(PRODUCT, BYTES, three_levels(must_reuse={"x": "weight"}), NEST)
    with pytest.raises(MappingError, match=r"buffer: its tiles take 1\.\d+ of it"):
        zigzag.count(PRODUCT, PRECISION, three_levels(size_bits=300), NEST)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 4), st.integers(1, 4))
def test_rows_touched_are_the_different_rows(positions, taps, stride, dilation):
    rows = {stride * p + dilation * r for p in range(positions) for r in range(taps)}
    assert touched(positions, taps, stride, dilation) == len(rows)
    layer = Layer(name="x", dims={"P": positions, "R": taps}, stride=(stride, 1), dilation=(dilation, 1))
    tile = dict.fromkeys("GNKCPQRS", 1) | {"P": positions, "R": taps}
    assert input_elements(layer, tile, every_row=False) == len(rows)
    assert input_elements(layer, tile, every_row=True) == max(rows) + 1


@st.composite
def nests(draw, array_at_one_place=False):
    """A small layer and any nest of it on the three levels."""
    temporal = tuple(
        Loop(dim, trips) for dim, trips in draw(st.lists(
            st.tuples(st.sampled_from("NKCPR"), st.integers(2, 3)), min_size=1, max_size=4))
    )
    spatial = {
        axis: (Loop(draw(st.sampled_from("KCPR")), 2),) for axis in ("x", "y") if draw(st.booleans())
    }
    dims = dict.fromkeys("NKCPR", 1)
    for loop in (*temporal, *(one for loops in spatial.values() for one in loops)):
        dims[loop.dim] *= loop.trips
    last = len(temporal)
    array = draw(st.integers(0, last)) if array_at_one_place else last
    buffer = [draw(st.integers(0, array)) for _ in OPERANDS]
    registers = [draw(st.integers(array if array_at_one_place else place, last)) for place in buffer]
    return (Layer(name="any", dims=dims, stride=(draw(st.integers(1, 2)), 1)),
            LoopNest(temporal=temporal, spatial=spatial, stores=stores(buffer, registers)))


def walk(loops):
    """Every iteration of some loops, as one index a loop."""
    return itertools.product(*(range(loop.trips) for loop in loops))


def place(loops, indices, dims):
    """Where an iteration stands along some dimensions: the indices of the loops over them."""
    return tuple(index for loop, index in zip(loops, indices, strict=True) if loop.dim in dims)


def elements(layer, operand, loops, every_row):
    """The elements of an operand that some loops touch, counted one by one."""
    position = {dim: [0] for dim in "GNKCPQRS"}
    size = dict.fromkeys("GNKCPQRS", 1)
    for loop in reversed(loops):
        position[loop.dim] = [size[loop.dim] * at + inner for at in range(loop.trips) for inner in position[loop.dim]]
        size[loop.dim] *= loop.trips
    if operand != "input":
        return len(set(itertools.product(*(position[dim] for dim in sorted(RELEVANT_DIMS[operand])))))
    rows = {layer.stride[0] * p + r for p in position["P"] for r in position["R"]}
    return len(position["N"]) * len(position["C"]) * (max(rows) + 1 if every_row else len(rows))


@settings(deadline=None)
@given(nests(array_at_one_place=True))
def test_accelforge_equals_a_walk_over_every_iteration(given_nest):
    layer, nest = given_nest
    cost = accelforge.count(layer, BYTES, three_levels(), nest)
    across = tuple(loop for loops in nest.spatial.values() for loop in loops)
    for operand in OPERANDS:
        depends = RELEVANT_DIMS[operand]
        _, buffer, registers = nest.stores[operand]
        for outer, inner, above, spatial_above, inside in (
            ("dram", "buffer", nest.temporal[: buffer.loops_above], (), nest.temporal[buffer.loops_above:] + across),
            ("buffer", "registers", nest.temporal[: registers.loops_above], across,
             nest.temporal[registers.loops_above:]),
        ):
            size = 8 * elements(layer, operand, inside, every_row=True)
            up = down = copies_up = copies_down = 0
            known = set()
            for indices in walk(above):
                tile = place(above, indices, depends)
                asking = {place(spatial_above, at, depends) for at in walk(spatial_above)}
                copies = sum(1 for _ in walk(spatial_above))
                up, copies_up = up + size * len(asking), copies_up + size * copies
                if operand != "output" or tile in known:
                    down, copies_down = down + size * len(asking), copies_down + size * copies
                known.add(tile)
            assert cost.bits[outer, operand, "to_inner"] == down
            assert cost.bits[inner, operand, "from_outer"] == copies_down
            if operand == "output":
                assert cost.bits[outer, operand, "from_inner"] == up
                assert cost.bits[inner, operand, "to_outer"] == copies_up


@settings(deadline=None)
@given(nests(), st.sampled_from([1, 8, 24, 64]))
def test_zigzag_words_equal_a_walk_that_watches_tiles_change(given_nest, word_bits):
    layer, nest = given_nest
    assume("R" not in {loop.dim for loops in nest.spatial.values() for loop in loops})
    cost = zigzag.count(layer, PRECISION, three_levels(word_bits=word_bits), nest)
    across = tuple(loop for loops in nest.spatial.values() for loop in loops)
    for operand in OPERANDS:
        depends = RELEVANT_DIMS[operand]
        _, buffer, registers = nest.stores[operand]
        for outer, inner, store, spatial_above in (
            ("dram", "buffer", buffer, ()), ("buffer", "registers", registers, across),
        ):
            above, below = nest.temporal[: store.loops_above], nest.temporal[store.loops_above:]
            inside = below if spatial_above else below + across
            tile = elements(layer, operand, inside, every_row=False)
            copies = sum(1 for _ in walk(spatial_above))
            fed = len({place(spatial_above, at, depends) for at in walk(spatial_above)})
            changes, last = 0, None
            for indices in walk(nest.temporal):
                here = place(above, indices[: len(above)], depends)
                changes, last = changes + (here != last), here
            reduced = set()
            for indices in walk(nest.temporal):
                settled = len(above)
                while settled and nest.temporal[settled - 1].dim not in depends:
                    settled -= 1
                reduced.add(place(nest.temporal[:settled], indices[:settled], set("NKCPR") - depends))
            partial = len(reduced) > 1
            bits = (32 if partial else 8) if operand == "output" else 8
            moved = changes * math.ceil(fed * tile * bits / word_bits), changes * copies * math.ceil(
                tile * bits / word_bits)
            flows = [("to_inner", "from_outer", operand != "output" or partial)]
            flows += [("from_inner", "to_outer", operand == "output")]
            for outer_flow, inner_flow, moves in flows:
                assert cost.words[outer, operand, outer_flow] == (moved[0] if moves else 0)
                assert cost.words[inner, operand, inner_flow] == (moved[1] if moves else 0)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 40)), min_size=1, max_size=4), st.integers(1, 5))
def test_windows_that_overlap_count_once(windows, periods):
    """Against marking every step of the longest period."""
    flows, period = [], 1
    for factor, window in windows:
        period *= factor
        flows.append((period, min(window, period)))
    transfers = [
        zigzag_flows.Transfer(bits=1, period_cycles=length, periods=periods * period // length, window_cycles=window,
                              cycles=1, words=1)
        for length, window in flows
    ]
    marked = {step for length, window in flows for step in range(period) if step % length < window}
    assert zigzag_latency.union_of_windows(transfers) == len(marked) * periods


def test_latency_of_a_port_that_two_flows_share_is_the_sum_of_both():
    """Weights change every step and inputs too: one port of one word a cycle takes both in turn."""
    layer = Layer(name="x", dims={"K": 8, "C": 8})
    words = three_levels(word_bits=8, bandwidth=8)
    nest = LoopNest(temporal=(Loop("K", 8), Loop("C", 8)), spatial={}, stores=stores((0, 0, 0), (2, 2, 0)))
    cost = zigzag.count(layer, PRECISION, words, nest)
    # The buffer: 64 weights and 64 inputs to the registers, and 8 results through the same port, besides its own fill.
    assert cost.port_stall_cycles["buffer", "port"] > 0
    assert cost.stall_cycles == max(cost.port_stall_cycles.values())
    assert cost.latency_cycles == 64 + cost.stall_cycles + cost.loading_cycles + cost.unloading_cycles
    assert cost.latency_cycles >= cost.busiest_port_cycles
