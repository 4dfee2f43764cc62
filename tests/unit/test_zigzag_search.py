"""The search under ZigZag's rules against brute force: every order of prime loops, every place of every operand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapper.zigzag_search import search
from simulator.counting_rules import zigzag
from simulator.counting_rules.loop_nest import FLOWS, READS, Loop, LoopNest, Machine, Memory, Port, Store
from simulator.errors import ConfigurationError, InfeasibleError, MappingError
from simulator.formats import Format
from simulator.kernels import chains as kernel
from simulator.layer import OPERANDS, Layer
from simulator.precision import LayerPrecision

PRECISION = LayerPrecision()


def port(name, bits, flows=FLOWS, operands=OPERANDS):
    return Port(name=name, bits_per_cycle=bits, word_bits=bits,
                serves=frozenset((operand, flow) for operand in operands for flow in flows))


def memory(name, size_bits, energy_pj, bits, keeps=OPERANDS, axes=(), separate=True):
    writes = tuple(flow for flow in FLOWS if flow not in READS)
    ports = (port("read", bits, READS, keeps), port("write", bits, writes, keeps))
    return Memory(name=name, keeps=keeps, size_bits=size_bits, read_energy_pj=energy_pj,
                  write_energy_pj=1.25 * energy_pj, ports=ports if separate else (port("both", bits, FLOWS, keeps),),
                  replicated_along=axes)


def machine(buffer_bits, buffer_port, dram_port, registers):
    """DRAM with one port, a buffer with two, and registers (name of the operand: bits, axes) inside."""
    return Machine(name="small", axes={"x": 2, "y": 2}, mac_energy_pj=0.5, memories=(
        memory("dram", None, 64.0, dram_port, separate=False), memory("buffer", buffer_bits, 6.0, buffer_port),
        *(memory(f"{operand} registers", bits, 0.1, 32 if operand == "output" else 8, (operand,), axes)
          for operand, (bits, axes) in registers.items()),
    ))


REGISTERS = st.sampled_from((
    {"weight": (16, ("x", "y")), "output": (64, ("x",))},
    {"weight": (8, ("x", "y")), "output": (32, ("x", "y")), "input": (16, ("x", "y"))},
    {"input": (24, ("y",)), "output": (128, ("x", "y"))},
))
MACHINES = st.builds(machine, st.sampled_from((160, 400, 1600)), st.sampled_from((16, 64)), st.sampled_from((8, 32)),
                     REGISTERS)
SPATIAL = st.sampled_from(({}, {"x": (Loop("K", 2),)}, {"x": (Loop("K", 2),), "y": (Loop("C", 2),)},
                           {"x": (Loop("K", 2),), "y": (Loop("Q", 2),)}))


@st.composite
def small_layers(draw):
    """A layer whose dimensions leave two or three prime loops to time, its spatial loops, and those loops."""
    loops = draw(st.sampled_from((2, 2, 3)))
    spatial = draw(SPATIAL)
    temporal = [Loop(draw(st.sampled_from("GNKCPQRS")), draw(st.sampled_from((2, 2, 3)))) for _ in range(loops)]
    dims = {}
    for loop in (*temporal, *itertools.chain(*spatial.values())):
        dims[loop.dim] = dims.get(loop.dim, 1) * loop.trips
    layer = Layer(name="small", dims=dims, stride=draw(st.sampled_from(((1, 1), (2, 1)))))
    return layer, spatial, temporal


def every_nest(machine, spatial, temporal):
    loops = len(temporal)
    of_operand = [
        list(itertools.combinations_with_replacement(range(loops + 1), len(machine.levels(operand)) - 1))
        for operand in OPERANDS
    ]
    for order in sorted(set(itertools.permutations(temporal))):
        for places in itertools.product(*of_operand):
            yield LoopNest(temporal=order, spatial=spatial, stores={
                operand: tuple(Store(memory=memory.name, loops_above=above)
                               for memory, above in zip(machine.levels(operand), (0, *chosen), strict=True))
                for operand, chosen in zip(OPERANDS, places, strict=True)
            })


def costs_of_all(layer, machine, spatial, temporal):
    found = []
    for nest in every_nest(machine, spatial, temporal):
        try:
            found.append(zigzag.count(layer, PRECISION, machine, nest))
        except MappingError:
            continue
    return found


@settings(max_examples=max(2, settings.default.max_examples // 25), deadline=None)
@given(MACHINES, small_layers())
def test_nothing_costs_less(machine, layer_and_loops):
    layer, spatial, temporal = layer_and_loops
    costs = costs_of_all(layer, machine, spatial, temporal)
    if not costs:
        with pytest.raises(InfeasibleError, match="fits"):
            search(layer, PRECISION, machine, spatial, "energy")
        return
    least = {"energy": min(cost.energy_pj for cost in costs), "latency": min(cost.latency_cycles for cost in costs)}
    for objective, expected in least.items():
        found = search(layer, PRECISION, machine, spatial, objective)
        assert found.cost == zigzag.count(layer, PRECISION, machine, found.nest)
        assert found.lower_bound <= expected * (1 + 1e-9)
        assert found.value >= expected * (1 - 1e-9)
        if objective == "energy":
            assert found.status == "optimal"


def random_nest(rng, machine, spatial, temporal):
    order = tuple(temporal[number] for number in rng.permutation(len(temporal)))
    stores = {}
    for operand in OPERANDS:
        levels = machine.levels(operand)
        above = [0, *sorted(int(place) for place in rng.integers(0, len(order) + 1, len(levels) - 1))]
        stores[operand] = tuple(Store(memory=level.name, loops_above=place)
                                for level, place in zip(levels, above, strict=True))
    return LoopNest(temporal=order, spatial=spatial, stores=stores)


def test_no_random_nest_costs_less():
    """More loops than can be tried one by one: a 3×3 convolution with a stride, and a product."""
    spatial = {"x": (Loop("K", 2),), "y": (Loop("C", 2),)}
    layers = (
        Layer(name="convolution", dims={"K": 8, "C": 6, "P": 6, "Q": 4, "R": 3, "S": 3}, stride=(2, 2)),
        Layer(name="product", dims={"N": 12, "K": 16, "C": 24}),
    )
    registers = ({"weight": (16, ("x", "y")), "output": (64, ("x",))},
                 {"weight": (64, ("x", "y")), "output": (64, ("x", "y")), "input": (32, ("x", "y"))})
    rng = np.random.default_rng(3)
    for layer, of_machine in itertools.product(layers, registers):
        small = machine(8192, 32, 16, of_machine)
        across = {loop.dim: loop.trips for loops in spatial.values() for loop in loops}
        temporal = [Loop(dim, prime) for dim, extent in layer.dims.items()
                    for prime in primes(extent // across.get(dim, 1))]
        found = {objective: search(layer, PRECISION, small, spatial, objective) for objective in ("energy", "latency")}
        assert found["energy"].status == "optimal"
        fitting = 0
        for _ in range(400):
            try:
                cost = zigzag.count(layer, PRECISION, small, random_nest(rng, small, spatial, temporal))
            except MappingError:
                continue
            fitting += 1
            assert cost.energy_pj >= found["energy"].value * (1 - 1e-9)
            assert cost.latency_cycles >= found["latency"].lower_bound * (1 - 1e-9)
        assert fitting > 10


@settings(max_examples=max(5, settings.default.max_examples // 5), deadline=None)
@given(st.integers(0, 1 << 32))
def test_chains_are_the_undominated_walks_within_the_limits(seed):
    """Every walk through three by two points with two steps to take; prices below and above 1, with windows too."""
    rng = np.random.default_rng(seed)
    inside = np.array([1, 3, 2, 6, 4, 12])
    moves = np.array([[point + 2 if point < 4 else -1, point + 1 if point % 2 == 0 else -1] for point in range(6)])
    price = np.round(rng.choice([0.0, 0.02, 0.3, 2.0], (4, 6, 3)) * rng.integers(1, 5, (4, 6, 3)), 3)
    price[rng.random((4, 6)) < 0.3] = np.inf
    weight = rng.choice([0.0, 0.5, 1.0, 3.0], (2, 3))
    given_chains = kernel.ChainInput(
        moves=moves, start=np.array([0, 2, 4, 4]), step=np.arange(4), leads_to=np.array([1, 1, 2, 2]), price=price,
        weight=weight, windows=int(rng.integers(2)), inside=inside, depends=rng.integers(0, 2, (3, 2)),
        wholly=rng.integers(0, 2, (3, 2)), keeps=np.array([0, -1, 0, 1]), tile_bits=rng.integers(0, 40, (4, 6)),
        single_bits=rng.integers(0, 10, 4).astype(np.float64), finishes=np.array([0, 0, 1, 0]),
        cycles=rng.integers(0, 15, (4, 6, 2)), late=rng.integers(-1, 3, (4, 2)),
    )

    def taken(step, point, windows):
        """Price of a step, with what its transfers take beyond their window; the windows behind it."""
        cost, windows, operand, one = price[step, point].copy(), [*windows], given_chains.keeps[step], inside[point]
        if given_chains.windows and operand >= 0:
            window, new = windows[operand]
            if given_chains.tile_bits[step, point] // (one // new) > given_chains.single_bits[step]:
                for cycles, late in zip(given_chains.cycles[step, point], given_chains.late[step], strict=True):
                    if late >= 0:
                        cost[late] += (max(cycles, window) - window - max(cycles, one) + one) * (12 // one - 1)
            windows[operand] = (0, 0) if given_chains.finishes[step] else (one, one)
        return cost, windows

    def walks(point, state, windows):
        if (point, state) == (5, 2):
            yield np.zeros(3)
        for move, onward in enumerate(moves[point]):
            if onward >= 0:
                yield from walks(onward, state, [
                    (inside[onward] if window and depends else window, inside[onward] if window and not wholly else new)
                    for (window, new), depends, wholly in zip(
                        windows, given_chains.depends[:, move], given_chains.wholly[:, move], strict=True)
                ])
        for step in (2 * state, 2 * state + 1) if state < 2 else ():
            if np.isfinite(price[step, point, 0]):
                cost, behind = taken(step, point, windows)
                for rest in walks(point, state + 1, behind):
                    yield cost + rest

    sums = np.array(list(walks(0, 0, [(1, 1)] * 3))).reshape(-1, 3)
    ahead = kernel.completions(given_chains)
    expected = (sums @ weight.T).min(axis=0, initial=np.inf)
    # What windows add is not in what is still to come.
    assert (ahead[0, 0] <= expected * (1 + 1e-12)).all()
    if not given_chains.windows:
        np.testing.assert_allclose(ahead[0, 0], expected, rtol=1e-12)
    if not len(sums):
        return
    limit = expected * rng.choice([1.0, 1.3, 3.0], 2) + 1e-9
    within = sums[(sums @ weight.T <= limit).all(axis=1)]
    best = {tuple(np.round(row, 6)) for row in within
            if not ((within <= row + 1e-9).all(axis=1) & (within < row - 1e-9).any(axis=1)).any()}
    count, found, _, _, ends = kernel.chains(given_chains, ahead, limit, 2000)
    assert count > 0
    # One whose windows are better stays beside another of less cost.
    assert best <= {tuple(np.round(found[end], 6)) for end in ends} <= {tuple(np.round(row, 6)) for row in within}
    assert kernel.chains(given_chains, ahead, limit, count - 1)[0] == -1


def primes(number):
    found, one = [], 2
    while number > 1:
        while number % one == 0:
            found.append(one)
            number //= one
        one += 1
    return found


def test_sums_that_are_finished_inside_take_less_room():
    """Eight finished outputs of 8 bits fit where two partial sums of 32 do."""
    layer = Layer(name="product", dims={"N": 8, "C": 4})
    small = machine(None, 64, 64, {"output": (64, ("x", "y")), "weight": (8, ("x", "y"))})
    found = search(layer, PRECISION, small, {}, "energy")
    above = next(store.loops_above for store in found.nest.stores["output"] if store.memory == "output registers")
    assert sum(loop.dim == "C" for loop in found.nest.temporal[:above]) == 0


def test_what_is_not_understood_is_an_error():
    layer = Layer(name="product", dims={"N": 3, "K": 4, "C": 2})
    small = machine(1024, 64, 64, {"weight": (8, ("x", "y"))})
    with pytest.raises(ConfigurationError, match="objective"):
        search(layer, PRECISION, small, {}, "edp")
    with pytest.raises(ConfigurationError, match="does not divide"):
        search(layer, PRECISION, small, {"x": (Loop("N", 2),)}, "energy")
    with pytest.raises(MappingError, match="2 positions"):
        search(layer, PRECISION, small, {"x": (Loop("K", 4),)}, "energy")
    with pytest.raises(InfeasibleError, match="fits"):
        search(layer, PRECISION, machine(16, 64, 64, {"weight": (8, ("x", "y"))}), {}, "latency")


def test_outputs_may_be_wider_than_a_byte():
    """What leaves the registers is as wide as the precision says."""
    wide = LayerPrecision(accumulator=Format("int32"), output=Format("int16"))
    layer = Layer(name="product", dims={"N": 4, "K": 2, "C": 6})
    small = machine(512, 32, 16, {"output": (64, ("x", "y")), "weight": (16, ("x", "y"))})
    temporal = [Loop("N", 2), Loop("N", 2), Loop("K", 2), Loop("C", 2), Loop("C", 3)]
    rng = np.random.default_rng(5)
    found = {objective: search(layer, wide, small, {}, objective) for objective in ("energy", "latency")}
    for _ in range(300):
        try:
            cost = zigzag.count(layer, wide, small, random_nest(rng, small, {}, temporal))
        except MappingError:
            continue
        assert cost.energy_pj >= found["energy"].value * (1 - 1e-9)
        assert cost.latency_cycles >= found["latency"].lower_bound * (1 - 1e-9)
