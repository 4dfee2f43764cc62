"""Constraints and limits on mappings: what they mean, how they are refused, and Ctrl-C in the middle of a search."""

from __future__ import annotations

import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bitmosaic.mapping_files import load_constraints
from hw_configs import open_accelerator
from mapper import search
from mapper.cache import problem_key
from mapper.constraints import NO_WISHES, MappingConstraints, Range, Wishes
from mapper.enumeration import _find_cheapest
from mapper.front import FrontInterrupted, map_front
from mapper.interruptible import heard, interruptible
from mapper.search import map_layer
from mapper.solution import ProofInterrupted, SearchBudget, SearchInterrupted
from simulator.engine import simulate
from simulator.errors import ConfigurationError, InfeasibleError
from simulator.layer import Layer
from simulator.precision import LayerPrecision

W8A8 = LayerPrecision.parse("w8a8")
LAYER = Layer(name="conv", dims={"K": 24, "C": 16, "P": 8, "Q": 8, "R": 3, "S": 3})
BUDGET = SearchBudget(cpu_seconds=20)


def constraints(**fields: Any) -> MappingConstraints:
    return MappingConstraints.model_validate_json(MappingConstraints.model_construct(**fields).model_dump_json(
        exclude_unset=True, warnings=False
    ))


def test_a_mapping_keeps_what_was_asked_for_and_the_proof_says_so() -> None:
    machine = open_accelerator("bit_fusion")
    wanted = constraints(
        spatial={"columns": {"K": 11}, "rows": {"C": {"at_most": 8}}}, tile={"Q": 5, "P": {"at_least": 3}},
        trips={"K": 1}, order={"dram": ["Q", "P"]}, stationary={"dram": "weight"}, double_buffer={"input": False},
    )
    free = map_layer(LAYER, W8A8, machine, "edp", budget=BUDGET)
    found = map_layer(LAYER, W8A8, machine, "edp", budget=BUDGET, constraints=wanted)
    assert found.status == "optimal" and found.cost >= free.cost
    mapping = found.mapping
    # 11 and 5 divide nothing, and are no candidates of the search by itself.
    assert mapping.spatial["columns"]["K"] == 11 and mapping.spatial.get("rows", {}).get("C", 1) <= 8
    tile = mapping.level("buffer").tile
    assert tile["Q"] == 5 and tile["P"] >= 3 and tile["K"] == 24
    assert "input" not in mapping.double_buffer
    loops = [dim for dim in mapping.level("dram").order if -(-LAYER.extent(dim) // tile[dim]) > 1]
    assert [dim for dim in loops if dim in "QP"] == (["Q", "P"] if tile["P"] < 8 else ["Q"])
    assert "spatial.columns.K=11" in found.space and "double_buffer.input=false" in found.space
    assert simulate(LAYER, W8A8, machine, mapping) == found.result


def test_double_buffering_that_is_required_is_there() -> None:
    machine = open_accelerator("bit_fusion")
    for operand in ("weight", "output"):
        found = map_layer(LAYER, W8A8, machine, "energy", budget=BUDGET,
                          constraints=constraints(double_buffer={operand: True}))
        assert operand in found.mapping.double_buffer and found.status == "optimal"


def test_constraints_that_cannot_be_are_named_all_at_once() -> None:
    machine = open_accelerator("bit_fusion")
    wanted = constraints(
        spatial={"rows": {"C": 16, "R": 3}, "columns": {"P": 2}, "row": {"C": 2}}, tile={"K": 25},
        register_tile={"K": 2}, bypass={"weight": True}, stationary={"buffer": "input"},
    )
    with pytest.raises(InfeasibleError) as caught:
        map_layer(LAYER, W8A8, machine, constraints=wanted)
    text = str(caught.value)
    for part in (
        "constraints on conv: spatial.rows=C 16 · R 3: needs 48 along the axis, which has 16",
        "spatial.columns.P=2: may not lie along this axis", "spatial.row: the grid has no such axis",
        "did you mean 'rows'", "tile.K=25: the layer has 24 along K", "register_tile.K=2: must be 1 in a systolic grid",
        "bypass.weight=true: may not bypass weight_buffer", "stationary.buffer=input: no register file keeps it",
    ):
        assert part in text, (part, text)


def test_constraints_that_leave_nothing_are_named_with_demand_and_capacity() -> None:
    machine = open_accelerator("bit_fusion")
    small = machine.model_copy(update={"memories": tuple(
        memory.model_copy(update={"size_bits": 8000}) if memory.name == "weight_buffer" else memory
        for memory in machine.memories
    )})
    wanted = constraints(tile={"K": 24, "C": 16, "P": {"at_most": 4}}, trips={"R": 1})
    with pytest.raises(InfeasibleError) as caught:
        map_layer(LAYER, W8A8, small, constraints=wanted)
    problems = {problem.path: problem for problem in caught.value.problems}
    assert set(problems) == {"tile.K", "tile.C", "trips.R", "weight_buffer.size_bits"}
    assert "without it there are some" in problems["tile.K"].rule and problems["tile.K"].value == "24"
    # 24 · 16 · 3 · 1 weights of 8 bits.
    assert "needs 9216 bits (weight 9216); 9216 bits or more would hold it" in problems["weight_buffer.size_bits"].rule
    # No order of the space has the loops over Q and P, which it keeps together, around that over K.
    order = constraints(tile={"K": 8, "P": 4, "Q": 4}, order={"dram": ["P", "K", "Q"]})
    with pytest.raises(InfeasibleError, match=r"order\.dram=P K Q: .* \(allowed: .*GKNPQCRS"):
        map_layer(LAYER, W8A8, machine, constraints=order)
    # Tiles of 4 and of 3 are neighbours; and a tile that is given makes the trips that it makes.
    for wanted, said in (
        ({"trips": {"K": 7}},
         "trips.K=7: no tile of the 24 along K makes such trips: tiles of 4 make 6, tiles of 3 make 8"),
        ({"tile": {"K": 24}, "trips": {"K": 2}},
         "trips.K=2: no tile of the 24 along K with tile.K=24 makes such trips: tiles of 24 make 1"),
    ):
        with pytest.raises(InfeasibleError, match=re.escape(said)):
            map_layer(LAYER, W8A8, machine, constraints=constraints(**wanted))
    with pytest.raises(InfeasibleError, match=r"tile\.K.*and the others"):
        map_layer(LAYER, W8A8, machine, constraints=constraints(tile={"K": 8}, spatial={"columns": {"K": 24}}))


def test_files_of_constraints_are_read_and_refused_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "constraints.yaml"
    path.write_text(
        "constraints_version: 1\nspatial:\n  rows: {C: 16}\ntile:\n  P: {at_least: 2, at_most: 4}\n"
        "order: {dram: [K, P]}\nbypass: {weight: false}\n", encoding="utf-8",
    )
    assert load_constraints(path) == constraints(
        spatial={"rows": {"C": Range(exactly=16)}}, tile={"P": Range(at_least=2, at_most=4)},
        order={"dram": ("K", "P")}, bypass={"weight": False},
    )
    path.write_text(
        "constraints_version: 1\ntile:\n  P: {at_least: 5, at_most: 4}\n  K: 0\n  X: 3\nstationary: {dram: weights}\n"
        "bypass: {weight: yes}\nlimits: {}\n", encoding="utf-8",
    )
    with pytest.raises(ConfigurationError) as caught:
        load_constraints(path)
    found = [(problem.where.rpartition(":")[2], problem.path) for problem in caught.value.problems]
    assert found == [
        ("3", "tile.P.at_least"), ("4", "tile.K.exactly"), ("5", "tile.X"), ("6", "stationary.dram"),
        ("7", "bypass.weight"), ("8", "limits"),
    ], str(caught.value)


def test_limits_bind_and_are_explained_where_they_cannot_be_kept() -> None:
    machine = open_accelerator("eyeriss_like")
    layer = Layer(name="fc", dims={"K": 40, "C": 48, "P": 6})
    fastest, thriftiest = (map_layer(layer, W8A8, machine, objective, budget=BUDGET)
                           for objective in ("latency", "energy"))
    assert fastest.status == thriftiest.status == "optimal"
    limit = fastest.result.total_cycles
    within = map_layer(layer, W8A8, machine, "energy", budget=BUDGET, latency_limit_cycles=limit)
    assert within.result.total_cycles <= limit and within.latency_limit_cycles == limit
    assert thriftiest.cost <= within.cost * (1 + 2e-6) and within.cost <= fastest.result.total_energy_pj
    with pytest.raises(InfeasibleError, match=rf"_limit_cycles={limit - 1}: no mapping .* fewer than {limit:,} cycles"):
        map_layer(layer, W8A8, machine, "energy", budget=BUDGET, latency_limit_cycles=limit - 1)
    with pytest.raises(InfeasibleError, match=r"energy_limit_pj=.*pJ"):
        map_layer(layer, W8A8, machine, "latency", budget=BUDGET, energy_limit_pj=0.99 * thriftiest.cost)
    for wrong in ({"latency_limit_cycles": 5}, {"energy_limit_pj": -1.0}):
        with pytest.raises(ConfigurationError):
            map_layer(layer, W8A8, machine, "latency", **wrong)
    with pytest.raises(ConfigurationError, match="one limit at a time"):
        map_layer(layer, W8A8, machine, "edp", latency_limit_cycles=5, energy_limit_pj=5.0)
    with pytest.raises(ConfigurationError, match="split by channel"):
        map_layer(layer, LayerPrecision.parse("w8a8/w4a4@0.5"), open_accelerator("bit_fusion"), "edp",
                  latency_limit_cycles=5)


@pytest.mark.parametrize("machine", ["eyeriss_like", "flexiq_like"])
def test_a_limit_that_is_said_to_be_met_is_met(machine: str) -> None:
    layer = Layer(name="fc", dims={"K": 48, "C": 40, "P": 5})
    for objective, limit in (("latency", "energy_limit_pj"), ("energy", "latency_limit_cycles")):
        with pytest.raises(InfeasibleError) as caught:
            map_layer(layer, W8A8, open_accelerator(machine), objective, budget=BUDGET, **{limit: 5})
        (said,) = re.findall(r"a limit of ([\d,.]+) \w+ or more can be met", str(caught.value))
        found = map_layer(layer, W8A8, open_accelerator(machine), objective, budget=BUDGET,
                          **{limit: float(said.replace(",", ""))})
        assert found.status == "optimal"


def test_wishes_are_part_of_a_problems_key() -> None:
    machine = open_accelerator("bit_fusion")
    wishes = (NO_WISHES, Wishes(latency_limit_cycles=5), Wishes(energy_limit_pj=5.0),
              Wishes(constraints(tile={"K": 2})), Wishes(constraints(trips={"K": 2})))
    keys = {problem_key(LAYER, W8A8, machine, "edp", BUDGET, wish) for wish in wishes}
    assert len(keys) == len(wishes)
    assert problem_key(LAYER, W8A8, machine, "edp", BUDGET) in keys


def test_ctrl_c_gives_the_best_mapping_with_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = open_accelerator("bit_fusion")
    best = map_layer(LAYER, W8A8, machine, "edp", budget=BUDGET)

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    calls: list[object] = []

    def interrupted_later(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        _find_cheapest(*arguments)  # type: ignore[arg-type]

    places = {
        "mapper.enumeration._search": interrupted, "mapper.enumeration._find_cheapest": interrupted_later,
        "mapper.search.prove": interrupted,
    }
    for place, stand_in in places.items():
        with monkeypatch.context() as patch:
            patch.setattr(place, stand_in)
            with pytest.raises(SearchInterrupted) as caught:
                map_layer(LAYER, W8A8, machine, "edp", budget=BUDGET)
        found = caught.value.solution
        assert 0 < found.lower_bound <= best.cost <= found.cost
        assert found.gap == pytest.approx(1 - found.lower_bound / found.cost)
        assert simulate(LAYER, W8A8, machine, found.mapping) == found.result
    monkeypatch.setattr(search, "start", interrupted)
    with pytest.raises(KeyboardInterrupt) as nothing:
        map_layer(LAYER, W8A8, machine, "edp", budget=BUDGET)
    assert type(nothing.value) is KeyboardInterrupt


def test_ctrl_c_in_the_solver_gives_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = open_accelerator("bit_fusion")
    best = map_layer(LAYER, W8A8, machine, "latency", budget=BUDGET)

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mapper.search.prove_by_cp_sat", interrupted)
    with pytest.raises(SearchInterrupted) as caught:
        map_layer(LAYER, W8A8, machine, "latency", budget=SearchBudget(cpu_seconds=5, prover="cp_sat"))
    assert 0 < caught.value.solution.lower_bound <= best.cost <= caught.value.solution.cost
    assert issubclass(ProofInterrupted, KeyboardInterrupt)


def test_ctrl_c_in_a_front_keeps_its_points() -> None:
    def stop(point: object) -> None:
        raise KeyboardInterrupt

    layer = Layer(name="fc", dims={"K": 20, "C": 12, "P": 2})
    with pytest.raises(FrontInterrupted) as caught:
        map_front(layer, W8A8, open_accelerator("bit_fusion"), budget=BUDGET, progress=stop)
    assert len(caught.value.front.points) == 1 and not caught.value.front.complete


def test_a_signal_stops_work_in_compiled_code() -> None:
    stopped = threading.Event()
    began = time.monotonic()
    threading.Timer(0.2, lambda: signal.raise_signal(signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        interruptible(lambda: stopped.wait(60), stopped.set)
    assert stopped.is_set() and time.monotonic() - began < 30


def test_work_in_a_thread_returns_and_raises_as_here() -> None:
    assert heard(max, 2, 3) == 3
    assert interruptible(lambda: 3, lambda: None) == 3
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0, lambda: None)
