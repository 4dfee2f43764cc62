"""Methods by their names on the digits network: what they propose, what they refuse, and their points as files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner

from bitmosaic.cli import main
from bitmosaic.explorations.accuracy_book import AccuracyBook
from bitmosaic.explorations.assignment_file import load_assignment
from bitmosaic.explorations.exploration import Exploration
from bitmosaic.explorations.explorer import ExplorationInterrupted, explore
from bitmosaic.explorations.folder import assignment_of
from bitmosaic.explorations.layer_rules import LayerRules
from bitmosaic.explorations.methods import METHODS
from bitmosaic.explorations.network_points import NetworkPoints
from bitmosaic.explorations.proposals import by_threshold
from bitmosaic.progress import Silent
from bitmosaic.views.text_tables import harm_note, method_note, report_text
from mapper.solution import SearchBudget
from simulator.errors import ConfigurationError, InfeasibleError, NetworkError, PrecisionError
from simulator.precision import LayerPrecision
from workloads import Network, open_network
from workloads.accuracy import AccuracyEvaluator
from workloads.entropy import layer_entropies
from workloads.flexiq import RATIOS, Evolution, Mask, evolutionary, greedy
from workloads.flexiq_model import FlexiqSession
from workloads.sensitivity import estimate, spearman
from workloads.tasks import find_task
from workloads.tasks.digits import DigitsTask

MENU = ["w8a8", "w4a8", "w2a8"]
BUDGET = SearchBudget(cpu_seconds=0.05, target_gap=0.9)
FEW = Evolution(population=4, generations=2, elite=1, mutations=3, seed=1)
MACHINES = {"flexiq": "flexiq_like", "dpq": "gaudi_like"}
pytestmark = pytest.mark.usefixtures("own_cache")


def _explore(network: Network, method: str, results: Path, **options: Any) -> Exploration:
    menu = None if method in MACHINES else MENU
    return explore(network, MACHINES.get(method, "bit_fusion"), menu=menu, points=3, method=method,  # type: ignore[arg-type]
                   results=results, budget=BUDGET, workers=1, **options)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the explorations of this file stand: one folder a machine, as methods share them."""
    return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module", autouse=True)
def without_plots() -> Iterator[None]:
    """Nothing is drawn: plots have tests of their own, and take longer than all else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitmosaic.explorations.folder.save_figure", lambda *arguments: ())
        yield


@pytest.fixture(scope="module")
def explored(digits: Network, folders: Path) -> dict[str, Exploration]:
    """An exploration by each method."""
    return {
        name: _explore(digits, name, folders / MACHINES.get(name, "bit_fusion"), measure_harm=name == "seada")
        for name in METHODS
    }


@pytest.mark.parametrize("name", METHODS)
def test_a_method_settles_what_was_left_open(explored: dict[str, Exploration], name: str) -> None:
    found, method = explored[name], METHODS[name]  # type: ignore[index]
    assert found.settings.method == name
    assert found.settings.quantiser == {"dpq": "dpq", "flexiq": "rtn"}.get(name, "rtn_least_error")
    if method.sensitivities:
        assert found.settings.sensitivity == method.sensitivities[0] and found.harms
    text = " ".join(report_text(found).split())
    assert f"Method {name} ({method.source}): " in text
    mixed = [point for point in found.points if not point.is_uniform]
    assert mixed and all(point.record.accuracy is not None for point in mixed)
    assert {precision for point in mixed for precision in point.record.assignment.values()} & {
        "amp": {"w4a8"}, "seada": {"w4a8"}, "measured": {"w4a8"}, "dpq": {"w4:fp8_e4m3_ieee"},
        "flexiq": {"w8a8/w4a4@1"},
    }[name]


@pytest.mark.parametrize("name", ["seada", "flexiq", "dpq"])
def test_a_second_run_measures_nothing(
    digits: Network, explored: dict[str, Exploration], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("must not be called")

    for place in ("accuracy_book.AccuracyEvaluator", "flexiq_book.FlexiqSession", "mapping_book.map_many",
                  "network_points.simulate_network"):
        monkeypatch.setattr(f"bitmosaic.explorations.{place}", refuse)
    again = _explore(digits, name, explored[name].folder)
    # Other methods have added points to the folder since.
    assert {p.record.key for p in again.points} >= {p.record.key for p in explored[name].points}


def test_thresholds_give_the_narrowest_precision_that_suffices(
    digits: Network, evaluator: AccuracyEvaluator, explored: dict[str, Exploration]
) -> None:
    layers = [layer.name for layer in digits.trained_layers]
    entropies = layer_entropies(digits, layers, evaluator.calibrated, evaluator.calibration_feeds, threads=1)
    found = explored["seada"]
    stored = AccuracyBook(digits, DigitsTask(), found.settings.subject, found.folder).entropies()
    assert stored == entropies
    run = cast("NetworkPoints", SimpleNamespace(mixed=dict, rules=LayerRules()))
    menu = [LayerPrecision.parse(text) for text in ("w8a8", "w6a6", "w4a4", "w2a2")]
    proposals = by_threshold(run, menu, entropies, "bit", 9)
    assert len(proposals) == 9 and len({str(proposal.assignment) for proposal in proposals}) == 9
    for proposal in proposals:
        assert proposal.value is not None
        for layer, chosen in proposal.assignment.items():
            weight, inputs = entropies[layer].weight, entropies[layer].input
            assert inputs is not None
            needed = proposal.value * max(weight.bit, inputs.bit)
            enough = [bits for bits in (2, 4, 6, 8) if bits >= needed]
            assert chosen.weight.bits == (enough[0] if enough else 8)
    assert {each.weight.bits for each in proposals[0].assignment.values()} == {2}
    # Tied layers have the narrowest that suffices for both, of their own menu.
    rules = LayerRules(dict.fromkeys(layers[:2], tuple(menu[:3])), (tuple(layers[:2]),))
    tied = by_threshold(cast("NetworkPoints", SimpleNamespace(mixed=dict, rules=rules)), menu, entropies, "bit", 9)
    for proposal in tied:
        needed = max(
            proposal.value * operand.bit for layer in layers[:2]
            for operand in (entropies[layer].weight, entropies[layer].input)
        )
        enough = [bits for bits in (4, 6, 8) if bits >= needed]
        assert {proposal.assignment[layer].weight.bits for layer in layers[:2]} == {enough[0] if enough else 8}
    assert {proposal.assignment[layers[0]].weight.bits for proposal in tied} == {4, 6, 8}


def test_rank_correlations_are_those_of_single_layers(digits: Network, explored: dict[str, Exploration]) -> None:
    found, task = explored["seada"], find_task(digits)
    assert task is not None
    evaluator = AccuracyEvaluator(digits, task, quantiser=found.settings.quantiser, threads=1)
    menu = [LayerPrecision.parse(text) for text in MENU]
    measured = estimate(digits, evaluator, menu, method="perturbation")
    rated = [found.harms[layer, "w2a8"] for layer in measured.layers]
    correlation = spearman(rated, measured.harm[:, 2])
    note = harm_note(found)
    assert "Rank correlation with measured harm over layers: w8a8 all alike, w4a8 " in note
    assert f", w2a8 {correlation:.2f}." in note
    assert "over layers" not in harm_note(explored["measured"])


def test_flexiq_measures_the_channels_that_greedy_selects(digits: Network, explored: dict[str, Exploration]) -> None:
    found, task = explored["flexiq"], find_task(digits)
    assert task is not None
    cycles = {row.layer: row.total_cycles for row in found.points[0].record.layers}
    # The gains are cycles of whole layers, those of the layer alone with its own output format.
    session = FlexiqSession(digits, tuple(task.calibration_feeds()))
    whole = next(point.record for point in found.points if point.record.origin_value == 1.0)
    gains = {row.layer: max(1.0, float(cycles[row.layer] - row.total_cycles)) for row in whole.layers}
    units = session.units(gains={layer: gains[layer] for layer in session.lowerable})
    by_ratio = {point.record.origin_value: point.record for point in found.points}
    for ratio, mask in zip(RATIOS, greedy(units), strict=True):
        if ratio not in by_ratio:
            continue  # the same assignment as another ratio's
        score = task.evaluate(session.runner(session.lowered_channels(units, mask)))
        accuracy = by_ratio[ratio].accuracy
        assert accuracy is not None and accuracy.value == score.value
    eight = found.points[0].record.accuracy
    assert eight is not None and eight.value == task.evaluate(session.runner({})).value
    assert np.isnan(found.predicted_harm(found.points[-1]))


def test_variants_of_flexiq_stand_beside_each_other_in_a_folder(
    digits: Network, explored: dict[str, Exploration], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evolution is stopped on its way and goes on; the default's records stay as they are, and none is taken twice."""
    task, default = find_task(digits), explored["flexiq"]
    assert task is not None
    folder = default.folder
    for place in ("flexiq_book", "records"):
        monkeypatch.setattr(f"bitmosaic.explorations.{place}.DEFAULT_EVOLUTION", FEW)
    before = (folder / "points.jsonl").read_bytes()

    class Stop(Silent):
        def update(self, stage: str, done: int, total: int) -> None:
            assert stage != "evolutionary selection" or done <= total == 3 * FEW.most_evaluations
            if stage == "evolutionary selection" and done == 5:
                raise KeyboardInterrupt

    options = {"flexiq_selection": "evolutionary", "flexiq_extraction": "dynamic"}
    with pytest.raises(ExplorationInterrupted):
        _explore(digits, "flexiq", folder, progress=Stop(), **options)
    stopped = (folder / "distances.jsonl").read_bytes()
    assert len(stopped.splitlines()) == 5
    found = _explore(digits, "flexiq", folder, **options)
    measured = (folder / "distances.jsonl").read_bytes()
    assert measured.startswith(stopped) and len(measured.splitlines()) <= 3 * FEW.most_evaluations
    assert (folder / "points.jsonl").read_bytes().startswith(before)
    assert not {p.record.key for p in found.points} & {p.record.key for p in default.points}
    again = _explore(digits, "flexiq", folder)
    assert again.settings == default.settings and again.points == default.points
    assert "Selection evolutionary, effective bits dynamic." in method_note(found)

    session = FlexiqSession(digits, tuple(task.calibration_feeds()), extraction="dynamic")
    whole = next(point.record for point in found.points if point.record.origin_value == 1.0)
    cycles = {row.layer: row.total_cycles for row in found.points[0].record.layers}
    gains = {row.layer: max(1.0, float(cycles[row.layer] - row.total_cycles)) for row in whole.layers}
    units = session.units(gains={layer: gains[layer] for layer in session.lowerable})
    by_ratio = {point.record.origin_value: point.record for point in found.points}

    def distance(mask: Mask) -> float:
        return session.distance(session.lowered_channels(units, mask))

    masks = evolutionary(units, distance, RATIOS, FEW)
    assert distance(masks[0]) <= distance(greedy(units)[0])
    for ratio, mask in zip(RATIOS, masks, strict=True):
        accuracy = by_ratio[ratio].accuracy if ratio in by_ratio else None
        if accuracy is not None:
            assert accuracy.value == task.evaluate(session.runner(session.lowered_channels(units, mask))).value


@pytest.mark.parametrize("name", ["seada", "flexiq", "dpq"])
def test_an_assignment_read_back_costs_the_same(explored: dict[str, Exploration], name: str) -> None:
    found = explored[name]
    point = found.points[-1]
    path = found.folder / f"assignments/{point.label}.yaml"
    read = load_assignment(path, open_network("digits_cnn"))
    assert read == assignment_of(found, point)
    assert {layer: each.label for layer, each in read.precisions.items()} == point.record.assignment
    result = CliRunner().invoke(main, ["simulate", "digits_cnn", "--assignment", str(path), "--workers", "1"])
    assert result.exit_code == 0, result.output
    record = point.record
    assert f": {record.total_cycles:,} cycles, {record.latency_ms:.4g} ms, {record.energy_uj:.4g} µJ" in result.stdout


def test_every_point_has_its_file_and_no_other_stays(digits: Network, explored: dict[str, Exploration]) -> None:
    folder = explored["dpq"].folder / "assignments"
    (folder / "m99.yaml").write_text("old")
    _explore(digits, "dpq", explored["dpq"].folder)
    labels = {"bf16", "fp8_e4m3_ieee", "w4_fp8_e4m3_ieee"}
    labels |= {point.label for point in explored["dpq"].points if not point.is_uniform}
    assert {path.stem for path in folder.iterdir()} == labels


def test_mistakes_in_an_assignment_are_named_with_their_lines(
    explored: dict[str, Exploration], tmp_path: Path
) -> None:
    text = (explored["amp"].folder / "assignments/w4a8.yaml").read_text()
    path = tmp_path / "own.yaml"
    path.write_text(text.replace("  conv1: w4a8\n", "  conv9: w4a8\n"))
    result = CliRunner().invoke(main, ["simulate", "digits_cnn", "--assignment", str(path)])
    assert result.exit_code == 2
    line = text.splitlines().index("  conv1: w4a8") + 1
    assert f"{path}:{line}: precisions.conv9: digits_cnn has no such layer (did you mean 'conv" in result.stderr
    assert "precisions=conv1: has no precision for a layer of digits_cnn" in result.stderr
    path.write_text(text.replace("conv1: w4a8", "conv1: four").replace("quantiser: rtn", "quantiser: up"))
    with pytest.raises(ConfigurationError) as caught:
        load_assignment(path)
    messages = [str(problem) for problem in caught.value.problems]
    assert len(messages) == 2 and "quantiser" in messages[0]
    assert f"{path}:{line}: precisions.conv1" in messages[1] and "must name weight and activation bits" in messages[1]
    result = CliRunner().invoke(main, ["simulate", "digits_cnn", "--precision", "w4a4", "--assignment", str(path)])
    assert result.exit_code == 2 and "--precision: names precisions, and so does --assignment" in result.stderr


def test_limits_bind_what_is_proposed_and_chosen(digits: Network, explored: dict[str, Exploration]) -> None:
    folder = explored["amp"].folder
    counts = {layer.name: layer.weight_count for layer in digits.trained_layers}
    limit = 0.6 * 8 * sum(counts.values()) / 8192
    found = _explore(digits, "amp", folder, keep_first_last="w8a8", weight_memory_limit_kib=limit,
                     accuracy_at_least=0.6)
    bits = {label: LayerPrecision.parse(label).weight.bits for label in MENU}
    new = [p for p in found.points if p.record.key not in {q.record.key for q in explored["measured"].points}]
    assert new
    for point in found.points:
        stored = sum(count * bits[point.record.assignment[layer]] for layer, count in counts.items())
        kept = point.record.assignment["conv1"] == point.record.assignment["linear2"] == "w8a8"
        assert point.record.weight_bits == stored
        assert found.is_allowed(point) == (kept and stored <= int(limit * 8192))
    assert all(found.is_allowed(point) for point in new)
    chosen = found.chosen()
    assert chosen is not None and found.is_allowed(chosen) and chosen.record.accuracy is not None
    assert chosen.record.accuracy.value >= 0.6
    assert "the fastest point of at least 60.00 % among those with conv1 in w8a8 and linear2 in w8a8 and at most" in (
        " ".join(report_text(found).split()))


def test_what_nothing_reaches_names_the_best(digits: Network, explored: dict[str, Exploration]) -> None:
    folder = explored["amp"].folder
    with pytest.raises(InfeasibleError) as caught:
        _explore(digits, "amp", folder, accuracy_at_least=0.999)
    best = max(explored["amp"].points, key=lambda point: point.record.accuracy_percent)
    reached = f"{best.label} with {best.record.accuracy_percent:.2f} %"
    assert f"accuracy_at_least=99.9 %: no allowed point reaches it; the best is {reached}" in str(caught.value)
    with pytest.raises(InfeasibleError, match=r"weight_memory_limit_kib=0\.1 KiB: no assignment fits"):
        _explore(digits, "amp", folder, weight_memory_limit_kib=0.1)
    with pytest.raises(ConfigurationError, match=r"keep_first_last=w6a6: must be one of the menu \(allowed: w8a8, "):
        _explore(digits, "amp", folder, keep_first_last="w6a6")
    with pytest.raises(ConfigurationError, match="keep_first_last=w8a8: contradicts the method flexiq"):
        _explore(digits, "flexiq", explored["flexiq"].folder, keep_first_last="w8a8")
    with pytest.raises(ConfigurationError, match="accuracy_at_least=98: must be between 0 and 1"):
        _explore(digits, "amp", folder, accuracy_at_least=98)
    _explore(digits, "amp", folder)


def test_what_contradicts_a_method_is_refused(digits: Network, tmp_path: Path) -> None:
    def problems(method: str, kind: type[Exception] = ConfigurationError, **options: Any) -> str:
        with pytest.raises(kind) as caught:
            explore(options.pop("network", digits), options.pop("hardware", "bit_fusion"), results=tmp_path / "x",
                    method=method, **options)  # type: ignore[arg-type]
        assert not (tmp_path / "x").exists()
        return str(caught.value)

    both = problems("amp", sensitivity="weight_error", quantiser="dpq").splitlines()
    assert both == [
        "sensitivity=weight_error: contradicts the method amp (allowed: taylor, perturbation)",
        "quantiser=dpq: contradicts the method amp (allowed: rtn, rtn_least_error, gptq, gptq_act)",
    ]
    assert "menu=w4a8: contradicts the method flexiq, which has its own" in problems("flexiq", menu=["w4a8"])
    assert "sensitivity=taylor: contradicts the method flexiq, which rates no harm" in problems(
        "flexiq", sensitivity="taylor")
    assert problems("amp", flexiq_selection="greedy", flexiq_extraction="live").splitlines() == [
        "flexiq_selection=greedy: is for the method flexiq, which was not asked for",
        "flexiq_extraction='live': is not known (allowed: static, dynamic)",
    ]
    assert "flexiq_selection='evolution': is not known" in problems("flexiq", flexiq_selection="evolution")
    assert "the method dpq is for menus with weights that are expanded" in problems("dpq")
    assert "flexiq splits layers into w8a8 and w4a4" in problems("flexiq", PrecisionError, hardware="gaudi_like")
    assert "method='amd': is not known (allowed: amp, " in problems("amd")
    shapes = Network(name="shapes", graph=digits.graph)
    assert "shapes: has no trained weights, which the method amp needs" in problems("amp", NetworkError, network=shapes)
