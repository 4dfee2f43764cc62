"""Methods by their names on the digits network: what they propose, what they refuse, and their points as files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner

from bitmosaic.cli import main
from bitmosaic.explorations.accuracy_book import AccuracyBook
from bitmosaic.explorations.assignment_file import dump_assignment, load_assignment
from bitmosaic.explorations.exploration import Exploration, load_exploration
from bitmosaic.explorations.explorer import ExplorationInterrupted, explore
from bitmosaic.explorations.folder import assignment_of
from bitmosaic.explorations.layer_rules import LayerRules
from bitmosaic.explorations.methods import METHODS, flexiq_variant, plan
from bitmosaic.explorations.network_points import NetworkPoints
from bitmosaic.explorations.proposals import by_threshold
from bitmosaic.explorations.records import FlexiqVariant
from bitmosaic.progress import Silent
from bitmosaic.report_page.page import report_of
from bitmosaic.views.text_tables import harm_note, method_note, report_text
from hw_configs import open_accelerator, open_machine
from mapper.solution import SearchBudget
from mapper.split_channels import channels_of_a_step
from simulator.errors import ConfigurationError, InfeasibleError, NetworkError, PrecisionError
from simulator.precision import LayerPrecision
from workloads import Network, open_network
from workloads.accuracy import AccuracyEvaluator
from workloads.entropy import EntropyReading, layer_entropies
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
    if method == "flexiq":
        options.setdefault("flexiq_width", 1)  # the machine's own width is that of whole layers here
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
        name: _explore(digits, name, folders / MACHINES.get(name, "bit_fusion")) for name in METHODS
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


def test_entropies_are_ranked_by_default_and_others_where_that_is_asked_for(
    digits: Network, explored: dict[str, Exploration], tmp_path: Path
) -> None:
    unknown = "Rank correlation with measured harm over layers: not measured (--measure-harm)."
    assert unknown in harm_note(explored["amp"]) and not explored["amp"].measured_harms
    assert explored["seada"].measured_harms.keys() == explored["seada"].harms.keys()
    machine = open_machine("bit_fusion")
    for sensitivity, asked, measures in (
        ("value_entropy", None, True), ("value_entropy", False, False), ("taylor", None, False), ("taylor", True, True),
    ):
        for method in (None, "seada" if sensitivity == "value_entropy" else "amp"):
            made = plan(digits, machine, method, MENU, sensitivity, None, measure_harm=asked)  # type: ignore[arg-type]
            assert made.measures_harm == measures
    found = _explore(digits, "seada", tmp_path / "off", measure_harm=False)
    assert unknown in " ".join(report_text(found).split())
    assert "perturbation" not in (tmp_path / "off/sensitivity.jsonl").read_text()


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
    assert "Selection evolutionary, effective bits dynamic, units of 1 channel." in method_note(found)

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


def test_files_of_flexiq_say_which_channels_are_narrow(digits: Network, explored: dict[str, Exploration]) -> None:
    """A channel order and ``max_4bit_ch`` for each layer; what they lower scores as the point did."""
    found, task = explored["flexiq"], find_task(digits)
    assert task is not None
    session = FlexiqSession(digits, tuple(task.calibration_feeds()))
    orders: list[dict[str, tuple[int, ...]]] = []
    for point in found.points:
        path = found.folder / f"assignments/{point.label}.yaml"
        channels = load_assignment(path, digits).flexiq
        assert channels is not None and channels.activations == "symmetric" and channels.extraction == "static"
        if point.is_uniform:
            assert not channels.layers
            continue
        assert set(channels.layers) == set(session.lowerable) and channels.ratios == RATIOS
        masks = {name: np.isin(np.arange(len(own.order)), own.narrow) for name, own in channels.layers.items()}
        accuracy = point.record.accuracy
        assert accuracy is not None and task.evaluate(session.runner(masks)).value == accuracy.value
        place = RATIOS.index(point.record.origin_value)  # type: ignore[arg-type]
        assert all(own.at_ratios[place] == own.max_4bit_ch for own in channels.layers.values())
        orders.append({name: own.order for name, own in channels.layers.items()})
    assert len(orders) > 1 and all(each == orders[0] for each in orders)
    assert any(list(order) != sorted(order) for order in orders[0].values())
    assert "flexiq" not in (explored["amp"].folder / "assignments/w4a8.yaml").read_text()


def test_channels_that_do_not_go_with_the_precisions_are_refused(
    digits: Network, explored: dict[str, Exploration], tmp_path: Path
) -> None:
    found = explored["flexiq"]
    whole = next(point for point in found.points if point.record.origin_value == 1.0)
    written = assignment_of(found, whole)
    assert written.flexiq is not None
    layers = written.flexiq.layers

    def problems(**changed: Any) -> list[str]:
        path = tmp_path / "own.yaml"
        flexiq = written.flexiq.model_copy(update={"layers": {**layers, **changed}})  # type: ignore[union-attr]
        path.write_text(dump_assignment(written.model_copy(update={"flexiq": flexiq})))
        with pytest.raises(ConfigurationError) as caught:
            load_assignment(path, digits)
        return str(caught.value).splitlines()

    conv = layers["conv2"]
    (message,) = problems(conv2=conv.model_copy(update={"max_4bit_ch": 1}))
    assert f"flexiq.layers.conv2.max_4bit_ch: must be {len(conv.order)}, as the layer's precision says" in message
    assert message.startswith(f"{tmp_path}/own.yaml:")
    (message,) = problems(conv2=conv.model_copy(update={"max_4bit_ch": 2, "at_ratios": (), "order": (1, 0)}))
    assert f"conv2.order: must hold the {len(conv.order)} input channels of the layer" in message
    assert "has no such layer" in problems(conv9=conv)[0]
    assert "order: must hold every channel from 0 on once" in problems(
        conv2=conv.model_copy(update={"order": (0, 0)}))[0]
    assert "the layer has" in problems(conv2=conv.model_copy(update={"max_4bit_ch": 99}))[0]
    assert "at_ratios: must ascend" in problems(conv2=conv.model_copy(update={"at_ratios": (2, 1)}))[0]
    path = tmp_path / "own.yaml"
    none = written.flexiq.model_copy(update={"layers": {}})
    path.write_text(dump_assignment(written.model_copy(update={"flexiq": none})))
    with pytest.raises(ConfigurationError, match="must say which channels of conv2 are narrow"):
        load_assignment(path, digits)


def test_flexiq_lowers_as_many_channels_together_as_the_machine_takes(
    digits: Network, explored: dict[str, Exploration]
) -> None:
    """``flexiq_like`` asks for 128, more than layers have that could be split: another selection than with 1."""
    single, folder = explored["flexiq"], explored["flexiq"].folder
    settings = single.settings.model_dump()
    found = _explore(digits, "flexiq", folder, flexiq_width=None)
    assert found.settings.flexiq == FlexiqVariant(width=128)
    note = method_note(found)
    assert "effective bits static, units of 128 channels. No ratio splits a layer" in note
    assert any(text.startswith("No ratio splits a layer") for text in report_of(folder).notes)
    mixed = [point.record for point in found.points if not point.is_uniform]
    assert mixed and not {point.key for point in mixed} & {point.record.key for point in single.points}
    assert {label for point in mixed for label in point.assignment.values()} == {"w8a8", "w8a8/w4a4@1"}
    assert any("w4a4@0." in label for p in single.points for label in p.record.assignment.values())
    eighth = _explore(digits, "flexiq", folder, flexiq_width=8)
    assert "units of 8 channels." in method_note(eighth) and "No ratio" not in method_note(eighth)
    extents = {layer.name: layer.extent("C") for layer in digits.layers}
    splits = [(extents[layer], LayerPrecision.parse(label).split) for point in eighth.points
              for layer, label in point.record.assignment.items()]
    counts = [(extent, split.share * extent) for extent, split in splits if split is not None]
    assert counts and all(count == extent or count == pytest.approx(8 * round(count / 8)) for extent, count in counts)
    again = _explore(digits, "flexiq", folder)
    assert again.settings.model_dump() == settings and again.points == single.points


def test_the_width_of_units_is_part_of_what_is_measured() -> None:
    assert FlexiqVariant.model_validate({"selection": "greedy", "extraction": "static"}).identity == {}
    assert FlexiqVariant(width=8).identity == {"width": 8}
    assert FlexiqVariant(extraction="dynamic", width=8).label == "flexiq, dynamic, units of 8"


@pytest.mark.parametrize(("hardware", "channels"), [
    ("flexiq_like", 128),  # 32 rows of four lanes of 4 bits
    ("bit_fusion", 64), ("tpu_like", 256),
    ("loom", 16),  # no axis takes C, its lanes do
    ("eyeriss_like", 12),
])
def test_a_machine_asks_for_the_channels_of_one_step(hardware: str, channels: int) -> None:
    accelerator = open_accelerator(hardware)
    assert channels_of_a_step(accelerator, LayerPrecision.parse("w4a4")) == channels
    assert flexiq_variant(True, accelerator, None, None, None) == (FlexiqVariant(width=channels), [])
    assert flexiq_variant(True, accelerator, None, None, 3) == (FlexiqVariant(width=3), [])


def test_readings_of_seada_stand_beside_each_other(
    digits: Network, explored: dict[str, Exploration], tmp_path: Path
) -> None:
    default = explored["seada"]
    folder = Path(copytree(default.folder, tmp_path / "copy"))  # other tests count the points of the first one
    options = {"seada_codes": "twos_complement", "seada_score": "max", "seada_weight": "one"}
    found = _explore(digits, "seada", folder, **options)
    assert found.settings.seada == EntropyReading(codes="twos_complement", score="max", weight="one")
    assert "Rules read with codes twos_complement, score max, weight one." in method_note(found)
    assert "Rules read" not in method_note(default)
    stored = AccuracyBook(digits, DigitsTask(), found.settings.subject, found.folder)
    entropies = stored.entropies(found.settings.seada)
    assert entropies != stored.entropies()
    for layer, entropy in entropies.items():
        assert entropy.weight == entropy.input and entropy.weight.count == 1
        assert found.harms[layer, "w4a8"] == entropy.lost_bits("bit", LayerPrecision.parse("w4a8"))
    # Points do not depend on what proposed them; ratings of the other reading are where they were.
    assert found.settings.context == default.settings.context
    assert load_exploration(folder).harms == found.harms != default.harms
    assert _explore(digits, "seada", folder).harms == default.harms


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


def test_a_limit_below_what_flexiq_stores_names_that(
    digits: Network, explored: dict[str, Exploration], tmp_path: Path
) -> None:
    """Narrow channels lie in memory in 8 bits, so that the least there is is what all points take."""
    (bits,) = {point.record.weight_bits for point in explored["flexiq"].points}
    assert bits is not None
    rule = (rf"digits_cnn: weight_memory_limit_kib=5 KiB: no assignment fits: the least that the weights can take is "
            rf"{math.ceil(bits / 8.192) / 1000:.3f} KiB")
    with pytest.raises(InfeasibleError, match=rule):
        _explore(digits, "flexiq", tmp_path / "x", weight_memory_limit_kib=5)
    assert not (tmp_path / "x").exists()
    found = _explore(digits, "flexiq", explored["flexiq"].folder, weight_memory_limit_kib=bits / 8192)
    assert len(found.points) >= len(explored["flexiq"].points) and all(map(found.is_allowed, found.points))
    _explore(digits, "flexiq", explored["flexiq"].folder)


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
    assert "measure_harm=True: contradicts the method flexiq, which rates no harm" in problems(
        "flexiq", measure_harm=True)
    assert problems("amp", flexiq_selection="greedy", flexiq_extraction="live").splitlines() == [
        "flexiq_selection=greedy: is for the method flexiq, which was not asked for",
        "flexiq_extraction='live': is not known (allowed: static, dynamic)",
    ]
    assert "flexiq_width=8: is for the method flexiq" in problems("amp", flexiq_width=8)
    assert "flexiq_width=0: must be at least 1" in problems("flexiq", flexiq_width=0)
    assert "flexiq_selection='evolution': is not known" in problems("flexiq", flexiq_selection="evolution")
    assert problems("amp", seada_weight="macs") == "seada_weight=macs: is for the method seada, which was not asked for"
    assert "seada_codes='gray': is not known" in problems("seada", seada_codes="gray")
    assert "the method dpq is for menus with weights that are expanded" in problems("dpq")
    assert "flexiq splits layers into w8a8 and w4a4" in problems("flexiq", PrecisionError, hardware="gaudi_like")
    assert "method='amd': is not known (allowed: amp, " in problems("amd")
    shapes = Network(name="shapes", graph=digits.graph)
    assert "shapes: has no trained weights, which the method amp needs" in problems("amp", NetworkError, network=shapes)
