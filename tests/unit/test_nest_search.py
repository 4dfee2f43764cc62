"""The search over loop nests against brute force: every order of loops, every place of every operand, every spread."""

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mapper.nest_options import cuts, divisors
from mapper.nest_search import nest_front
from mapper.pareto import pareto_front
from simulator.counting_rules import accelforge
from simulator.counting_rules.loop_nest import FLOWS, READS, Loop, LoopNest, Machine, Memory, Port, Store
from simulator.errors import ConfigurationError, InfeasibleError, MappingError
from simulator.formats import Format
from simulator.layer import DIMS, OPERANDS, RELEVANT_DIMS, Layer
from simulator.precision import LayerPrecision

PRECISION = LayerPrecision(
    weight=Format("int4"), input=Format("int8"), accumulator=Format("int16"), output=Format("int16")
)
FOLDER = Path(__file__).parents[2] / ".." / "shared" / "reference"


def ports(bandwidth, separate=False):
    whole = frozenset((operand, flow) for operand in OPERANDS for flow in FLOWS)
    if not separate:
        return (Port(name="both", serves=whole, bits_per_cycle=bandwidth),)
    reads = frozenset((operand, flow) for operand, flow in whole if flow in READS)
    return (Port(name="read", serves=reads, bits_per_cycle=bandwidth),
            Port(name="write", serves=whole - reads, bits_per_cycle=bandwidth))


def memory(name, size_bits, read_pj, write_pj, bandwidth=None, keeps=OPERANDS, axes=(), separate=False):
    return Memory(name=name, keeps=keeps, size_bits=size_bits, read_energy_pj=read_pj, write_energy_pj=write_pj,
                  ports=ports(bandwidth, separate), replicated_along=axes)


def keeping_everything(shared_bits, local_bits):
    return Machine(
        name="keeps everything", axes={"x": 2, "y": 2}, mac_energy_pj=1.0,
        memories=(memory("dram", None, 7.0, 9.0, 16), memory("shared", shared_bits, 0.7, 0.3, 32),
                  memory("local", local_bits, 0.1, 0.2, axes=("x", "y"))),
    )


def stationary(shared_bits, local_bits):
    return Machine(
        name="stationary", axes={"x": 2, "y": 3}, mac_energy_pj=1.0, must_reuse={"x": "input", "y": "output"},
        memories=(memory("dram", None, 7.0, 7.0, 8),
                  memory("shared", shared_bits, 0.7, 0.7, 4, keeps=("input", "output"), separate=True),
                  memory("local", local_bits, 0.1, 0.1, keeps=("weight",), axes=("x", "y"))),
    )


def flat():
    """No shared memory: every PE asks DRAM."""
    return Machine(name="flat", axes={"x": 4}, mac_energy_pj=1.0,
                   memories=(memory("dram", None, 7.0, 9.0, 16), memory("local", 200, 0.1, 0.2, axes=("x",))))


def primes(extent):
    found, divisor = [], 2
    while extent > 1:
        while extent % divisor == 0:
            found.append(divisor)
            extent //= divisor
        divisor += 1
    return found


def every_nest(layer, machine):
    """Every nest of a layer, places and all. Loops are prime: longer ones are these next to each other."""
    factors = [Loop(dim, prime) for dim in DIMS for prime in primes(layer.extent(dim))]
    spots = ["time", *machine.axes]
    seen = set()
    for where in itertools.product(spots, repeat=len(factors)):
        spatial = {axis: tuple(sorted(loop for loop, at in zip(factors, where, strict=True) if at == axis))
                   for axis in machine.axes}
        if any(math.prod(loop.trips for loop in spatial[axis]) > size for axis, size in machine.axes.items()):
            continue
        temporal = sorted(loop for loop, at in zip(factors, where, strict=True) if at == "time")
        for order in set(itertools.permutations(temporal)):
            key = (order, tuple(sorted(spatial.items())))
            if key in seen:
                continue
            seen.add(key)
            yield from _placed(machine, order, spatial)


def _placed(machine, order, spatial):
    choices = []
    for operand in OPERANDS:
        inner = machine.levels(operand)[1:]
        of_operand = []
        for places in itertools.combinations_with_replacement(range(len(order) + 1), len(inner)):
            slides = [operand == "input" and place < len(order) and order[place].dim in "PQRS" for place in places]
            pieces = [[None, place + 1] if slide else [None] for place, slide in zip(places, slides, strict=True)]
            for rooms in itertools.product(*pieces):
                of_operand.append((
                    Store(memory=machine.memories[0].name, loops_above=0),
                    *(Store(memory=one.name, loops_above=place, room_loops_above=room)
                      for one, place, room in zip(inner, places, rooms, strict=True)),
                ))
        choices.append(of_operand)
    for stores in itertools.product(*choices):
        # The array stands at one place: the rules refuse the others, but most slowly.
        outside = [store.loops_above for kept in stores for store in kept if store.memory == "shared"]
        inside = [store.loops_above for kept in stores for store in kept if store.memory == "local"]
        if outside and max(outside) > min(inside):
            continue
        yield LoopNest(temporal=order, spatial=spatial, stores=dict(zip(OPERANDS, stores, strict=True)))


def front_by_brute_force(layer, machine):
    points = set()
    for nest in every_nest(layer, machine):
        try:
            cost = accelforge.count(layer, PRECISION, machine, nest)
        except MappingError:
            continue
        points.add((round(cost.latency_cycles, 9), round(cost.energy_pj, 6)))
    table = np.array(sorted(points))
    return table[pareto_front(table)]


@pytest.mark.parametrize(
    ("layer", "machine"),
    [
        (Layer(name="product", dims={"N": 2, "K": 2, "C": 3}), keeping_everything(120, 60)),
        (Layer(name="tall", dims={"K": 4, "C": 2}), keeping_everything(64, 48)),
        (Layer(name="taps", dims={"P": 2, "R": 3}), keeping_everything(96, 64)),
        (Layer(name="strided", dims={"P": 2, "R": 2, "K": 2}, stride=(2, 1)), stationary(110, 8)),
        (Layer(name="pieces", dims={"P": 4, "R": 2}), stationary(70, 8)),
        (Layer(name="window", dims={"P": 2, "R": 3, "C": 2}), stationary(90, 12)),
        (Layer(name="depthwise", dims={"G": 2, "P": 2, "S": 3}), stationary(1000, 12)),
        (Layer(name="product", dims={"N": 2, "K": 2, "C": 2}), flat()),
    ],
    ids=lambda one: f"{one.name} {one.describe()}" if isinstance(one, Layer) else one.name,
)
def test_the_front_is_that_of_every_nest(layer, machine):
    expected = front_by_brute_force(layer, machine)
    found = nest_front(layer, PRECISION, machine)
    ours = np.array([(point.cost.latency_cycles, point.cost.energy_pj) for point in found.points])
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=1e-9)


@st.composite
def problems(draw):
    """A layer with halos, a machine on which not everything fits, and any nest of the layer."""
    factors = draw(st.lists(st.tuples(st.sampled_from("GKCPQRS"), st.sampled_from([2, 3])), min_size=3, max_size=7))
    extents = {dim: math.prod(trips for of, trips in factors if of == dim) for dim in dict(factors)}
    layer = Layer(name="any", dims=extents, stride=(draw(st.integers(1, 2)), 1))
    machine = draw(st.sampled_from([keeping_everything, stationary]))(
        draw(st.sampled_from([150, 600, 2000])), draw(st.sampled_from([40, 200])))
    free, temporal, spatial = dict(machine.axes), [], {axis: [] for axis in machine.axes}
    for loop in draw(st.permutations([Loop(*factor) for factor in factors])):
        fitting = [axis for axis in free if loop.trips <= free[axis] and not (
            axis in machine.must_reuse and loop.dim in RELEVANT_DIMS[machine.must_reuse[axis]])]
        spot = draw(st.sampled_from(["time", "time", *fitting]))
        if spot == "time":
            temporal.append(loop)
        else:
            spatial[spot].append(loop)
            free[spot] //= loop.trips
    stores, last = {}, len(temporal)
    array = draw(st.integers(0, last))
    for operand in OPERANDS:
        inner = machine.levels(operand)[1:]
        places = [draw(st.integers(array, last) if one.replicated_along else st.integers(0, array)) for one in inner]
        rooms = [
            place + 1 if operand == "input" and place < len(temporal) and draw(st.booleans()) else None
            for place in places
        ]
        stores[operand] = (Store(memory="dram", loops_above=0), *(
            Store(memory=one.name, loops_above=place, room_loops_above=room)
            for one, place, room in zip(inner, places, rooms, strict=True)))
    nest = LoopNest(temporal=tuple(temporal), spatial={axis: tuple(loops) for axis, loops in spatial.items()},
                    stores=stores)
    return layer, machine, nest


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(problems())
def test_no_nest_beats_the_front(given_problem):
    layer, machine, nest = given_problem
    try:
        cost = accelforge.count(layer, PRECISION, machine, nest)
    except MappingError:
        return
    found = nest_front(layer, PRECISION, machine)
    assert any(
        point.cost.energy_pj <= cost.energy_pj * (1 + 1e-9)
        and point.cost.latency_cycles <= cost.latency_cycles * (1 + 1e-9)
        for point in found.points
    ), [(point.cost.energy_pj, point.cost.latency_cycles) for point in found.points]


def test_the_front_is_sorted_and_its_ends_are_the_optima():
    layer = Layer(name="product", dims={"N": 8, "K": 12, "C": 8})
    found = nest_front(layer, PRECISION, keeping_everything(300, 90))
    latencies = [point.cost.latency_cycles for point in found.points]
    energies = [point.cost.energy_pj for point in found.points]
    assert len(latencies) > 1
    assert latencies == sorted(latencies) and energies == sorted(energies, reverse=True)
    assert found.best("latency") is found.points[0]
    assert found.best("energy") is found.points[-1]
    assert found.best("edp").cost.edp == min(point.cost.edp for point in found.points)
    with pytest.raises(ConfigurationError, match="area"):
        found.best("area")


def test_what_cannot_be_searched_is_refused():
    layer = Layer(name="product", dims={"N": 8, "K": 12, "C": 8})
    with pytest.raises(InfeasibleError, match="no nest fits its memories"):
        nest_front(layer, PRECISION, keeping_everything(20, 90))
    two = keeping_everything(300, 90)
    outer, shared, local = two.memories
    deeper = two.model_copy(update={"memories": (outer, shared, shared, local)})
    with pytest.raises(ConfigurationError, match="one memory outside the array"):
        nest_front(layer, PRECISION, deeper)
    narrow = local.model_copy(update={"ports": ports(8)})
    with pytest.raises(ConfigurationError, match="local must have unlimited bandwidth"):
        nest_front(layer, PRECISION, two.model_copy(update={"memories": (outer, shared, narrow)}))


@given(st.integers(1, 720), st.integers(1, 4))
def test_cuts_are_all_ways_to_write_a_product(number, parts):
    found = list(cuts(number, parts))
    assert Counter(map(math.prod, found)) == {number: len(found)}
    exponents = Counter(primes(number)).values()
    assert len(set(found)) == len(found) == math.prod(math.comb(one + parts - 1, parts - 1) for one in exponents)
    assert divisors(number) == [one for one in range(1, number + 1) if number % one == 0]


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference folder ../shared/reference is not there")
def test_a_known_better_product_than_accelforges_is_found():
    from benchmarks.reference.accelforge import FRONTS, layer_of, machine_of, precision_of

    theirs = json.loads((FOLDER / FRONTS).read_text(encoding="utf-8"))["A_bert_ffn1_edp"]["min_edp"]["edp"]
    found = nest_front(layer_of("bert_ffn1"), precision_of([8, 8, 8]), machine_of(FOLDER, "A"))
    assert found.best("edp").cost.edp == pytest.approx(2.23787553e15, rel=1e-8)
    assert found.best("edp").cost.edp < theirs


