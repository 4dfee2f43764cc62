"""The search under the Bit Fusion simulator's rules: against trying everything with the rules' own ``count``."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapper.bit_fusion_search import SPACES, best_tiling, tile_sizes
from simulator.counting_rules import bit_fusion_simulator as rules
from simulator.errors import ConfigurationError, InfeasibleError

MACHINES = st.builds(
    rules.Machine, rows=st.sampled_from((1, 2, 4)), columns=st.sampled_from((1, 2, 8)), max_bits=st.just(8),
    min_bits=st.just(2), dram_bits_per_cycle=st.sampled_from((16, 128)),
    buffer_bits=st.fixed_dictionaries({
        operand: st.sampled_from((512, 4096, 1 << 20)) for operand in ("weight", "input", "output")
    }),
)
WIDTHS = st.sampled_from((1, 2, 4, 8))
WORKS = st.builds(rules.Work, kernel=st.sampled_from((1, 3)), stride=st.sampled_from((1, 2)), input_bits=WIDTHS,
                  weight_bits=WIDTHS, im2col=st.booleans())
WHOLES = st.fixed_dictionaries({
    "B": st.integers(1, 2), "OW": st.integers(1, 3), "OH": st.integers(1, 3), "IC": st.integers(1, 5),
    "OC": st.integers(1, 3),
})


# Here it is reads that decide between tilings of as many cycles, so that padding counts.
COSTLY_READS = replace(
    rules.PAPER_ENERGY, core_pj_per_cycle=0.0, dram_pj_per_bit=0.0,
    buffer_read_pj_per_bit={"weight": 0.5, "input": 40.0, "output": 3.0},
)


def costs_of_all(machine, work, whole, energy, space):
    """Cycles and energy of every tiling of a space."""
    sizes = [tile_sizes(machine, loop, whole[loop], space) for loop in rules.LOOPS]
    for extents in itertools.product(*sizes):
        extent = dict(zip(rules.LOOPS, extents, strict=True))
        if space == "powers_of_two" and extent["OW"] != extent["OH"]:
            continue
        trips = {loop: math.ceil(whole[loop] / extent[loop]) for loop in rules.LOOPS}
        if rules.problems(machine, work, rules.Tiling(extent, trips, rules.LOOPS)):
            continue
        for order in itertools.permutations(rules.LOOPS):
            counts = rules.count(machine, work, rules.Tiling(extent, trips, order))
            yield counts.total_cycles, energy.total_pj(counts)


@settings(max_examples=10, deadline=None)
@given(MACHINES, WORKS, WHOLES, st.sampled_from((rules.PAPER_ENERGY, COSTLY_READS)), st.sampled_from(SPACES))
def test_the_tiling_is_the_best_of_its_space(machine, work, whole, energy, space):
    if space == "powers_of_two":
        whole = {**whole, "OH": whole["OW"]}
    everything = list(costs_of_all(machine, work, whole, energy, space))
    if not everything:
        with pytest.raises(InfeasibleError, match="half of its buffer"):
            best_tiling(machine, work, whole, energy, space)
        return
    cycles, energy_pj = min(everything)
    found = best_tiling(machine, work, whole, energy, space)
    assert found.counts.total_cycles == cycles
    # Energies of one tiling are summed in another order by the search: the last digits decide nothing.
    assert found.energy_pj == pytest.approx(energy_pj, rel=1e-12)
    assert found.counts == rules.count(machine, work, found.tiling)


def test_every_split_holds_the_powers_of_two_and_a_tile_for_each_number_of_trips():
    machine = rules.Machine(16, 32, 8, 2, 192, rules.PAPER_BUFFER_BITS)
    for loop, whole in (("OW", 55), ("IC", 384), ("OC", 1000)):
        narrow, wide = (tile_sizes(machine, loop, whole, space) for space in SPACES)
        assert set(narrow) < set(wide)
        assert {math.ceil(whole / size) for size in wide} == {math.ceil(whole / size) for size in range(1, whole + 1)}


def test_an_uneven_split_can_be_better():
    """Nine columns in three tiles of 3: tiles of 4 do not fit, tiles of 2 pad them to ten, tiles of 1 share no halo."""
    machine = rules.Machine(16, 1, 8, 2, 16, {"weight": 1 << 20, "input": 2 * 8 * 5 * 5 * 16, "output": 1 << 20})
    work = rules.Work(kernel=3, stride=1, input_bits=8, weight_bits=8, im2col=False)
    whole = {"B": 1, "OW": 9, "OH": 9, "IC": 16, "OC": 1}
    narrow, wide = (best_tiling(machine, work, whole, rules.PAPER_ENERGY, space) for space in SPACES)
    assert wide.tiling.extent["OW"] == wide.tiling.extent["OH"] == 3
    assert wide.counts.total_cycles < narrow.counts.total_cycles


def test_a_space_that_is_none():
    machine = rules.Machine(1, 1, 8, 2, 64, {"weight": 64, "input": 64, "output": 64})
    with pytest.raises(ConfigurationError, match="space"):
        best_tiling(machine, rules.Work(1, 1, 8, 8, False), dict.fromkeys(rules.LOOPS, 1), rules.PAPER_ENERGY, "none")
