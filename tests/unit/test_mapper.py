"""The mapper's surroundings: what a search returns, infeasible machines, the cache, many layers at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from hw_configs import open_accelerator
from mapper import search
from mapper.cache import MappingCache, problem_key
from mapper.network import MappingJob, map_many
from mapper.search import map_layer
from mapper.solution import OBJECTIVES, MappingSolution, Objective, SearchBudget, objective_cost
from simulator.engine import simulate
from simulator.errors import InfeasibleError, PrecisionError
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from workloads import open_network

W8A8 = LayerPrecision.parse("w8a8")
CONVOLUTION = Layer(
    name="conv", dims={"K": 32, "C": 16, "P": 8, "Q": 8, "R": 3, "S": 3}, padding_begin=(1, 1), input_size=(8, 8)
)
PRODUCT = Layer(name="product", dims={"K": 10, "C": 64})


@pytest.mark.parametrize("machine", ["bit_fusion", "tpu_like", "stripes", "loom"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_layer_is_mapped_to_proven_optimality(machine: str, objective: Objective) -> None:
    accelerator = open_accelerator(machine)
    found = map_layer(CONVOLUTION, W8A8, accelerator, objective, budget=SearchBudget(cpu_seconds=30))
    assert found.status == "optimal" and found.gap <= 2e-6 and found.lower_bound <= found.cost
    again = simulate(CONVOLUTION, W8A8, accelerator, found.mapping)
    assert again == found.result and objective_cost(again, objective) == found.cost
    assert found.proposals > 0 and "buffer tiles" in found.space


def test_both_provers_agree() -> None:
    accelerator = open_accelerator("bit_fusion")
    for objective in OBJECTIVES:
        one, other = (
            map_layer(PRODUCT, W8A8, accelerator, objective, budget=SearchBudget(cpu_seconds=20, prover=prover))
            for prover in ("enumeration", "cp_sat")
        )
        assert one.status == "optimal"
        assert other.lower_bound <= one.cost * (1 + 1e-9) <= other.cost * (1 + 3e-6)


@pytest.mark.parametrize(("network", "number", "machine", "objective"), [
    ("onnx_resnet50", 3, "bit_fusion", "edp"), ("onnx_resnet50", 12, "stripes", "latency"),
    ("bert_base", 0, "bit_fusion", "energy"), ("bert_base", 4, "loom", "edp"),
    ("mobilenet_v2", 5, "tpu_like", "energy"), ("mobilenet_v2", 1, "unpu_like", "latency"),
])
def test_no_prover_finds_what_the_other_one_excludes(
    network: str, number: int, machine: str, objective: Objective
) -> None:
    # Two independent mappers on real layers: whatever each has time for, costs and bounds do not cross.
    layer = open_network(network).layers[number]
    one, other = (
        map_layer(layer, W8A8, open_accelerator(machine), objective,
                  budget=SearchBudget(cpu_seconds=seconds, prover=prover))  # type: ignore[arg-type]
        for prover, seconds in (("enumeration", 20), ("cp_sat", 1))
    )
    assert one.status == "optimal"
    assert other.cost >= one.lower_bound * (1 - 1e-9) and one.cost >= other.lower_bound * (1 - 1e-9)
    if other.status == "optimal":
        assert other.cost == pytest.approx(one.cost, rel=5e-6)


def test_the_reported_gap_is_no_larger_than_asked_for() -> None:
    found = map_layer(CONVOLUTION, W8A8, open_accelerator("bit_fusion"), budget=SearchBudget(target_gap=0.05))
    assert found.gap <= 0.05 + 1e-9 and found.lower_bound >= found.cost * 0.95 * (1 - 1e-9)


def test_enumeration_finds_what_descents_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = open_accelerator("bit_fusion")
    best = map_layer(PRODUCT, W8A8, accelerator)
    monkeypatch.setattr("mapper.starts.descend", lambda *_, **__: [])
    found = map_layer(PRODUCT, W8A8, accelerator)
    assert best.status == found.status == "optimal" and found.cost == best.cost


def test_without_time_the_bound_still_holds() -> None:
    accelerator = open_accelerator("bit_fusion")
    best = map_layer(CONVOLUTION, W8A8, accelerator, budget=SearchBudget(cpu_seconds=30))
    for prover in ("enumeration", "cp_sat", "auto"):
        hurried = map_layer(
            CONVOLUTION, W8A8, accelerator, budget=SearchBudget(cpu_seconds=1e-6, prover=prover)  # type: ignore[arg-type]
        )
        assert hurried.status == "feasible"
        assert hurried.lower_bound <= best.cost <= hurried.cost


def test_a_precision_that_the_element_lacks_is_refused() -> None:
    with pytest.raises(PrecisionError, match="int32"):
        map_layer(PRODUCT, LayerPrecision.parse("w32a8"), open_accelerator("bit_fusion"))


def test_a_buffer_too_small_is_named_with_demand_and_capacity() -> None:
    accelerator = open_accelerator("bit_fusion")
    memories = tuple(
        memory.model_copy(update={"size_bits": 4}) if memory.name == "weight_buffer" else memory
        for memory in accelerator.memories
    )
    with pytest.raises(InfeasibleError) as caught:
        map_layer(PRODUCT, W8A8, accelerator.model_copy(update={"memories": memories}))
    assert "weight_buffer.size_bits=4" in str(caught.value) and "needs 8 bits" in str(caught.value)


def test_the_cache_keeps_solutions_by_content(tmp_path: Path) -> None:
    accelerator, cache = open_accelerator("bit_fusion"), MappingCache(tmp_path)
    budget = SearchBudget(cpu_seconds=1, target_gap=0.5)
    key = problem_key(PRODUCT, W8A8, accelerator, "latency", budget)
    assert cache.get(key) is None
    found = map_layer(PRODUCT, W8A8, accelerator, budget=budget)
    cache.put(key, found)
    assert cache.get(key) == found
    renamed = PRODUCT.model_copy(update={"name": "other"})
    assert problem_key(renamed, W8A8, accelerator, "latency", budget) == key
    others = {
        problem_key(CONVOLUTION, W8A8, accelerator, "latency", budget),
        problem_key(PRODUCT, LayerPrecision.parse("w4a8"), accelerator, "latency", budget),
        problem_key(PRODUCT, W8A8, open_accelerator("loom"), "latency", budget),
        problem_key(PRODUCT, W8A8, accelerator, "edp", budget),
        problem_key(PRODUCT, W8A8, accelerator, "latency", SearchBudget(cpu_seconds=2, target_gap=0.5)),
    }
    assert len(others | {key}) == 6
    next(tmp_path.rglob("*.json")).write_text("{")
    assert cache.get(key) is None


def test_equal_layers_are_solved_once_and_known_ones_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accelerator, cache = open_accelerator("bit_fusion"), MappingCache(tmp_path)
    solved: list[str] = []

    def counted(layer: Layer, *args: object, **kwargs: object) -> MappingSolution:
        solved.append(layer.name)
        return search.map_layer(layer, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("mapper.network.map_layer", counted)
    twin = PRODUCT.model_copy(update={"name": "twin"})
    jobs = [MappingJob(layer, W8A8) for layer in (PRODUCT, CONVOLUTION, twin)]
    steps: list[tuple[int, int]] = []
    budget = SearchBudget(cpu_seconds=1, target_gap=0.5)
    found = map_many(
        jobs, accelerator, budget=budget, cache=cache, workers=1,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert solved == ["product", "conv"] and steps == [(0, 2), (1, 2), (2, 2)]
    assert [one.layer.name for one in found] == ["product", "conv", "twin"]
    assert found[2].result.layer == "twin" and found[2].mapping == found[0].mapping
    assert map_many(jobs, accelerator, budget=budget, cache=cache, workers=1) == found
    assert len(solved) == 2


def test_workers_find_what_one_process_finds() -> None:
    accelerator = open_accelerator("bit_fusion")
    jobs = [MappingJob(layer, W8A8) for layer in (PRODUCT, CONVOLUTION)]
    budget = SearchBudget(cpu_seconds=30)
    alone, together = (map_many(jobs, accelerator, budget=budget, workers=count) for count in (1, 2))
    assert [(one.cost, one.status) for one in alone] == [(one.cost, one.status) for one in together]
