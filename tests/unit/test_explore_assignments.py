"""What a user says of assignments, and what proofs come with them: from the arguments to records and reports."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from bitmosaic.cli import main
from bitmosaic.explorations import comparison, explorer, program_front
from bitmosaic.explorations.accuracy_book import AccuracyBook
from bitmosaic.explorations.comparison import compare
from bitmosaic.explorations.comparison_report import comparison_summary
from bitmosaic.explorations.exploration import Exploration, load_exploration
from bitmosaic.explorations.explorer import explore
from bitmosaic.explorations.records import Minimised, PointRecord
from bitmosaic.progress import Silent
from bitmosaic.report_page.page import report_of
from bitmosaic.views.frames import summary_frame
from bitmosaic.views.text_tables import report_text
from mapper.assignment import Assignment, assignment_front
from mapper.solution import SearchBudget
from simulator.errors import BitmosaicError, ConfigurationError, InfeasibleError, NetworkError
from simulator.precision import LayerPrecision

MENU = ["w8a8", "w4a8", "w4a4", "w2a8"]
LAYERS = {"first": 12, "second": 20, "third": 16, "last": 6}
COUNT = 120 + 240 + 320 + 96  # weights of the four layers
Explore = Callable[..., Exploration]
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A network of four matrix products with weights from a fixed seed, [1, 10] → [1, 6], and 40 inputs."""
    rng = np.random.default_rng(11)
    folder = tmp_path_factory.mktemp("chain")
    nodes, weights, width, read = [], [], 10, "x"
    for name, columns in LAYERS.items():
        weight = rng.normal(size=(columns, width)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"{name}.w"))
        nodes.append(helper.make_node("Gemm", [read, f"{name}.w"], [f"{name}.y"], name=name, transB=1))
        read, width = f"{name}.y", columns
        if name != "last":
            nodes.append(helper.make_node("Relu", [read], [f"{name}.r"], name=f"{name}_relu"))
            read = f"{name}.r"
    graph = helper.make_graph(
        nodes, "chain", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 10])],
        [helper.make_tensor_value_info(read, TensorProto.FLOAT, [1, 6])], weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "chain.onnx")
    np.savez(folder / "inputs.npz", x=rng.normal(size=(40, 10)).astype(np.float32))
    return folder / "chain.onnx", folder / "inputs.npz"


@pytest.fixture(scope="module")
def run(files: tuple[Path, Path]) -> Explore:
    """``explore`` of that network on ``bit_fusion``, with a short search."""
    def run(results: Path, **options: Any) -> Exploration:
        return explore(files[0], **{
            "accelerator": "bit_fusion", "menu": MENU, "points": 4, "inputs": files[1], "results": results,
            "budget": SearchBudget(cpu_seconds=0.05, target_gap=0.9), "workers": 1, **options,
        })

    return run


@pytest.fixture(scope="module")
def finished(run: Explore, tmp_path_factory: pytest.TempPathFactory) -> Exploration:
    """A finished exploration."""
    return run(tmp_path_factory.mktemp("results") / "chain")


class Stopped(Exception):
    """Raised by ``Stopping``."""


class Stopping(Silent):
    """Stops an exploration at the first word of it."""

    def say(self, text: str) -> None:
        raise Stopped


def _flat(text: str) -> str:
    return " ".join(text.split())


def test_proofs_of_assignments_are_written_down_and_told(finished: Exploration) -> None:
    mixed = [point for point in load_exploration(finished.folder).points if not point.is_uniform]
    proofs = [point.record.proof for point in mixed]
    assert len(mixed) > 2 and all(proof is not None and proof.status == "optimal" for proof in proofs)
    assert "harm" in {proof.minimised for proof in proofs if proof}
    told = f"{len(mixed)} of {len(mixed)} proven optimal"
    assert f"Assignments by integer program: {told}" in _flat((finished.folder / "report.txt").read_text())
    facts = {fact.label: fact.text for fact in report_of(finished.folder).facts}
    assert facts["assignments"] == told
    assert all(point.record.proof is None for point in finished.points if point.is_uniform)


@pytest.mark.parametrize("method", [None, "amp"])
def test_what_is_not_proven_shows_its_gap(
    run: Explore, method: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_time(*arguments: Any, **options: Any) -> tuple[Assignment, ...]:
        front = assignment_front(*arguments, **options)
        return tuple(
            replace(each, status="feasible", lower_bound=0.875 * each.harm, gap=0.125) if each is front[1] else each
            for each in front
        )

    monkeypatch.setattr(program_front, "assignment_front", out_of_time)
    found = run(tmp_path / "chain", method=method, menu=["w8a8", "w2a8"])
    open_ones = [point.record.proof for point in found.points if point.record.proof and point.record.proof.gap == 0.125]
    count = sum(point.record.proof is not None for point in found.points)
    assert open_ones and all(proof.status == "feasible" for proof in open_ones)
    assert f"{count - len(open_ones)} of {count} proven optimal, worst gap 12 %" in _flat(report_text(found))


def test_records_of_before_proofs_are_read_and_say_nothing(finished: Exploration) -> None:
    old = [
        PointRecord.model_validate_json(json.dumps({
            name: value for name, value in point.record.model_dump(mode="json").items() if name != "proof"
        })) for point in finished.points
    ]
    points = tuple(replace(point, record=record) for point, record in zip(finished.points, old, strict=True))
    assert "Assignments by integer program" not in report_text(replace(finished, points=points))


def test_a_comparison_tells_the_proofs_of_all_methods(files: tuple[Path, Path], tmp_path: Path) -> None:
    found = compare(
        files[0], "bit_fusion", methods=["amp", "seada"], menu=["w8a8", "w2a8"], points=3, seeds=1, inputs=files[1],
        results=tmp_path / "compared", budget=SearchBudget(cpu_seconds=0.05, target_gap=0.9), workers=1,
    )
    proven = {point.record.key for family in found.families for point in family.points if point.record.proof}
    shown = StringIO()
    console = Console(file=shown, width=200)
    console.print(comparison_summary(found))
    assert proven
    assert f"integer program: {len(proven)} of {len(proven)} proven optimal" in _flat(shown.getvalue())


def test_all_points_are_the_whole_front(run: Explore, finished: Exploration, tmp_path: Path) -> None:
    found = run(tmp_path / "chain", points="all", method="seada", menu=["w8a8", "w4a8", "w2a8"])
    assert found.settings.points == "all"
    # Every assignment, its harm and its cost as the program has it: each layer in the format that it reads.
    alone = {
        (row.layer, row.precision): row.total_cycles
        for point in found.points if point.is_uniform for row in point.record.layers
    }
    every = [
        (sum(alone[pair] for pair in picked), sum(found.harms[pair] for pair in picked))
        for picked in itertools.product(*([(layer, label) for label in found.settings.menu] for layer in LAYERS))
    ]
    # The last layer's output is read by nothing, so that uniform points cost layers as the program does.
    front = sorted({(a, b) for a, b in every if not any(c <= a and d <= b and (c, d) != (a, b) for c, d in every)})
    proposed = {
        (sum(alone[pair] for pair in point.record.assignment.items()), found.predicted_harm(point))
        for point in found.points
    }
    assert len(front) > 6
    for cost, harm in front:
        assert any(a == cost and b == pytest.approx(harm, rel=1e-9, abs=1e-12) for a, b in proposed)


def test_a_front_of_too_many_points_is_refused_before_any_is_scored(
    run: Explore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program_front, "MOST_POINTS", 3)
    with pytest.raises(ConfigurationError, match=r"points=all: the whole front of harm and latency has more than 3 "):
        run(tmp_path / "chain", points="all")
    assert all(point.is_uniform for point in load_exploration(tmp_path / "chain").points)


@pytest.mark.parametrize("points", [None, 1, 2.5, "every", True])
def test_a_number_of_points_that_is_none_is_refused(run: Explore, points: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"points={points}: must be at least 2 \(the ends .* or \"all\""):
        run(tmp_path / "chain", points=points)
    assert not (tmp_path / "chain").exists()


@pytest.mark.parametrize("command", ["explore", "compare"])
def test_the_commands_take_all_points(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def record(*arguments: Any, points: Any, **options: Any) -> None:
        asked.append(points)
        raise BitmosaicError("seen")

    monkeypatch.setattr(explorer, "explore", record)
    monkeypatch.setattr(comparison, "compare", record)
    for given in ("all", "7"):
        assert CliRunner().invoke(main, [command, "--points", given]).exit_code == 2
    assert asked == ["all", 7]
    for wrong in ("1", "every"):
        result = CliRunner().invoke(main, [command, "--points", wrong])
        assert f"'{wrong}' is neither a number of at least 2 nor all." in result.output
    assert len(asked) == 2


@pytest.mark.parametrize(("options", "least_bits"), [
    ({}, 2 * COUNT), ({"menu": ["w8a8", "w4a8"]}, 4 * COUNT),
    ({"keep_first_last": "w8a8"}, 2 * COUNT + 6 * (120 + 96)),
    ({"method": "amp", "menu": ["w8a8", "w6a8"]}, 6 * COUNT),
])
def test_memory_that_nothing_fits_into_is_told_before_anything_is_done(
    run: Explore, options: dict[str, Any], least_bits: int, tmp_path: Path
) -> None:
    with pytest.raises(InfeasibleError) as caught:
        run(tmp_path / "chain", weight_memory_limit_kib=0.0625, **options)
    told = re.search(r"weight_memory_limit_kib=0\.0625 KiB: no .* the least .* is ([0-9.]+) KiB", str(caught.value))
    assert told and 0 <= float(told[1]) - least_bits / 8192 < 0.001
    assert not (tmp_path / "chain").exists()
    # What it names is enough.
    with pytest.raises(Stopped):
        run(tmp_path / "chain", weight_memory_limit_kib=float(told[1]), progress=Stopping(), **options)


def test_memory_that_ratings_leave_too_little_of_is_told_in_the_same_words(
    run: Explore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rated = AccuracyBook.harms

    def not_finite(*arguments: Any) -> dict[tuple[str, str], float]:
        return {pair: math.inf if pair[1] == "w2a8" else harm for pair, harm in rated(*arguments).items()}

    monkeypatch.setattr(AccuracyBook, "harms", not_finite)
    with pytest.raises(InfeasibleError, match=r"weight_memory_limit_kib=.* is 0\.379 KiB"):
        run(tmp_path / "chain", weight_memory_limit_kib=2.5 * COUNT / 8192)


def _copied(finished: Exploration, tmp_path: Path) -> Path:
    """A copy of the finished folder: nothing of it is mapped or measured again."""
    return Path(shutil.copytree(finished.folder, tmp_path / "chain"))


def test_the_chosen_point_has_least_of_what_was_to_be_minimised(
    run: Explore, finished: Exploration, tmp_path: Path
) -> None:
    folder = _copied(finished, tmp_path)
    chosen = {}
    for minimise in get_args(Minimised):
        found = run(folder, minimise=minimise, accuracy_at_least=0.55)
        assert load_exploration(folder).settings.minimise == minimise
        good = [point for point in found.points if point.record.accuracy and point.record.accuracy.value >= 0.55]
        chosen[minimise] = found.chosen()
        assert chosen[minimise] in good
        assert chosen[minimise].cost(minimise) == min(point.cost(minimise) for point in good)
        words = {"latency": "the fastest point", "energy": "the point of least energy",
                 "memory": "the point of least weight memory"}[minimise]
        report = _flat((folder / "report.txt").read_text())
        assert f"Chosen below: {chosen[minimise].label}, {words} of at least 55.00 %." in report
        assert ("weights (KiB)" in report) == (folder / "plots/memory_accuracy.png").exists() == (minimise == "memory")
        told = {fact.label: fact.text for fact in report_of(folder).facts}.get("chosen", "the fastest point")
        assert told == words
        table = summary_frame(found)
        assert list(table.loc[table["chosen"], "point"]) == [chosen[minimise].label]
    assert chosen["memory"].record.weight_kib < chosen["latency"].record.weight_kib


@pytest.mark.parametrize(("option", "axis", "unit"), [
    ("latency_limit_ms", "latency", "ms"), ("energy_limit_uj", "energy", "µJ"),
])
def test_within_limits_of_cost_the_most_accurate_point_is_chosen(
    run: Explore, finished: Exploration, tmp_path: Path, option: str, axis: Any, unit: str
) -> None:
    """And with an accuracy asked for the cheapest; where nothing keeps the limit, an error names the least."""
    folder = _copied(finished, tmp_path)
    costs = sorted({point.cost(axis) for point in finished.points})
    limit = costs[len(costs) // 2]
    found = run(folder, **{option: limit})
    within = [point for point in found.points if point.cost(axis) <= limit]
    best, scores = found.chosen(), {point.label: point.record.accuracy_percent for point in within}
    assert best is not None and scores[best.label] == max(scores.values()) and len(within) < len(found.points)
    assert all(found.is_allowed(point) == (point in within) for point in found.points)
    said = f"{best.label}, the point of highest agreement with FP32 among those with at most {limit:,.6g} {unit}."
    assert said in _flat((folder / "report.txt").read_text())
    assert f"{limit:g} {unit}" in {fact.text for fact in report_of(folder).facts}
    floor = min(scores.values()) / 100
    cheapest = run(folder, accuracy_at_least=floor, **{option: limit}).chosen()
    assert cheapest is not None and cheapest.cost("latency") == min(point.cost("latency") for point in within)
    with pytest.raises(InfeasibleError, match=rf"{option}=.* {unit}: no allowed point keeps it; the least of any "
                                              rf"point is {costs[0]:.6g} {unit}"):
        run(folder, **{option: costs[0] / 2})
    with pytest.raises(ConfigurationError, match=f"{option}=0: must be above 0"):
        run(folder, **{option: 0})


def test_to_minimise_memory_its_front_is_proposed(run: Explore, finished: Exploration, tmp_path: Path) -> None:
    assert all(point.record.origin != "memory" for point in finished.points)
    for method in (None, "amp"):
        found = run(_copied(finished, tmp_path / str(method)), minimise="memory", points="all", method=method)
        weights = dict(zip(LAYERS, (120, 240, 320, 96), strict=True))
        every = []
        for picked in itertools.product(MENU, repeat=4):
            pairs = list(zip(LAYERS, picked, strict=True))
            every.append((
                sum(weights[layer] * LayerPrecision.parse(label).weight.bits for layer, label in pairs),
                sum(found.harms[pair] for pair in pairs),
            ))
        front = sorted({(a, b) for a, b in every if not any(c <= a and d <= b and (c, d) != (a, b) for c, d in every)})
        proposed = {(point.record.weight_bits, found.predicted_harm(point)) for point in found.points}
        assert len(front) > 8 and any(point.record.origin == "memory" for point in found.points)
        for bits, harm in front:
            assert any(a == bits and b == pytest.approx(harm, rel=1e-9, abs=1e-12) for a, b in proposed)


def test_what_cannot_be_minimised_is_refused(run: Explore, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="minimise='area': is not known"):
        run(tmp_path / "chain", minimise="area")
    with pytest.raises(ConfigurationError, match="minimise=memory: contradicts the method flexiq"):
        run(tmp_path / "chain", minimise="memory", method="flexiq", menu=None)


@pytest.mark.parametrize("method", [None, "amp", "seada"])
def test_menus_and_ties_of_layers_hold_in_every_mixed_assignment(
    run: Explore, finished: Exploration, method: str | None, tmp_path: Path
) -> None:
    folder = _copied(finished, tmp_path)
    found = run(
        folder, method=method, points="all", minimise="memory", tied=["*ir*"], accuracy_at_least=0.3,
        layer_menus={"last": ["w4a8", "w2a8"], "*t": ["w8a8"], "second": ["w8a8", "w4a8"]},
    )
    assert found.settings.layer_menus == {"last": ("w4a8", "w2a8"), "first": ("w8a8",), "second": ("w8a8", "w4a8"),
                                          "third": ("w8a8",)}
    assert found.settings.tied == (("first", "third"),)
    old = {point.record.key for point in finished.points}
    new = [point for point in found.points if point.record.key not in old]
    allowed = {
        frozenset({("first", "w8a8"), ("second", second), ("third", "w8a8"), ("last", last)})
        for second in ("w8a8", "w4a8") for last in ("w4a8", "w2a8")
    }
    assert {frozenset(point.record.assignment.items()) for point in new} <= allowed
    assert {"w4a8", "w2a8"} == {point.record.assignment["last"] for point in new}
    for point in found.points:
        assert found.is_allowed(point) == (frozenset(point.record.assignment.items()) in allowed)
    chosen = found.chosen()
    assert chosen is not None and found.is_allowed(chosen)
    assert "among those with the menus of 4 layers kept and first, third in one precision" in _flat(report_text(found))


@pytest.mark.parametrize("method", [None, "seada"])
def test_tied_layers_have_one_precision_and_no_better_one_is_left_out(
    run: Explore, finished: Exploration, method: str | None, tmp_path: Path
) -> None:
    found = run(_copied(finished, tmp_path), method=method, minimise="memory", points="all", tied=["*d", "*ir*"])
    assert found.settings.tied == (("first", "second", "third"),)
    weights = dict(zip(LAYERS, (120, 240, 320, 96), strict=True))
    every = []
    for tied, last in itertools.product(MENU, repeat=2):
        pairs = list(zip(LAYERS, (tied, tied, tied, last), strict=True))
        every.append((sum(weights[layer] * LayerPrecision.parse(label).weight.bits for layer, label in pairs),
                      sum(found.harms[pair] for pair in pairs)))
    front = sorted({(a, b) for a, b in every if not any(c <= a and d <= b and (c, d) != (a, b) for c, d in every)})
    proposed = {
        (point.record.weight_bits, found.predicted_harm(point)) for point in found.points if found.is_allowed(point)
    }
    assert len(front) > 4
    for bits, harm in front:
        assert any(a == bits and b == pytest.approx(harm, rel=1e-9, abs=1e-12) for a, b in proposed)
    old = {point.record.key for point in finished.points}
    assert all(found.is_allowed(point) for point in found.points if point.record.key not in old)


def test_rules_that_cannot_be_kept_are_refused_together(run: Explore, tmp_path: Path) -> None:
    folder = tmp_path / "chain"
    with pytest.raises(ConfigurationError) as caught:
        run(folder, layer_menus={"frist": ["w8a8"], "last": ["w6a6"], "*": []}, tied=["layer*", "last"])
    for message in (
        "layer_menus=frist: fits no trained layer (did you mean 'first'?)",
        "layer_menus.last=w6a6: must be of the menu, which --menu widens (allowed: w8a8, w4a8, w4a4, w2a8",
        "layer_menus.*: must name at least one precision of the menu", "tied=layer*: fits no trained layer",
        "tied=last: fits one layer alone",
    ):
        assert message in str(caught.value), str(caught.value)
    with pytest.raises(ConfigurationError, match=r"tied=first, third: the layers have no .* in common \(first: "):
        run(folder, layer_menus={"first": ["w8a8"], "third": ["w4a8"]}, tied=["*ir*"])
    with pytest.raises(ConfigurationError, match=r"keep_first_last=w8a8: is not in the menu of the layer last \(w4a8"):
        run(folder, keep_first_last="w8a8", layer_menus={"last": ["w4a8", "w2a8"]})
    with pytest.raises(ConfigurationError, match="tied=\\*: contradicts the method flexiq"):
        run(folder, method="flexiq", menu=None, tied=["*"])
    with pytest.raises(NetworkError, match=r"layer_menus=.*: needs data to rate and to measure on"):
        run(folder, inputs=None, layer_menus={"*": ["w8a8"]})
    least = ((120 + 320) * 8 + (240 + 96) * 2) / 8192
    with pytest.raises(InfeasibleError, match=rf"the least that the weights can take is {least:.3f} KiB"):
        run(folder, layer_menus={"first": ["w8a8"]}, tied=["*ir*"], weight_memory_limit_kib=0.2)
    assert not folder.exists()
