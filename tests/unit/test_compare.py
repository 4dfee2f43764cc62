"""Methods beside baselines on the digits network: families, fronts over all, reuse, and the files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from rich.console import Console

from bitmosaic.cli import main
from bitmosaic.explorations.comparison import Comparison, ComparisonInterrupted, compare, load_comparison
from bitmosaic.explorations.comparison_report import (
    comparison_frame,
    comparison_summary,
    comparison_table,
    plot_comparison,
    write_comparison,
)
from bitmosaic.explorations.records import HarmRecord
from bitmosaic.explorations.store import RecordFile
from bitmosaic.report_page.read_exploration import read_comparison
from mapper.solution import SearchBudget
from simulator.errors import ConfigurationError, NetworkError
from workloads import Network
from workloads.weight_quantisers import DEFAULT_QUANTISER

MENU = ["w8a8", "w4a8", "w2a8"]
BUDGET = SearchBudget(cpu_seconds=0.05, target_gap=0.9)
pytestmark = pytest.mark.usefixtures("own_cache")


def _compare(network: Network, results: Path, **options: Any) -> Comparison:
    return compare(network, "bit_fusion", **{
        "methods": ["amp", "flexiq"], "menu": MENU, "points": 3, "seeds": 2, "results": results, "budget": BUDGET,
        "workers": 1, **options,
    })


@pytest.fixture(scope="module")
def compared(digits: Network, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """A finished comparison."""
    return _compare(digits, tmp_path_factory.mktemp("results") / "digits")


def test_families_are_baselines_and_methods(digits: Network, compared: Comparison) -> None:
    assert [(family.name, family.quantiser) for family in compared.families] == [
        *((name, DEFAULT_QUANTISER) for name in ("uniform", "largest first", "random 0", "random 1", "amp")),
        ("flexiq", "flexiq, units of 64"),
    ]
    assert [point.label for point in compared.families[0].points] == MENU
    assert all(point.record.accuracy is not None for family in compared.families for point in family.points)
    counts = {layer.name: layer.weight_count for layer in digits.trained_layers}
    for point in compared.families[1].points:
        lowered = {layer for layer, label in point.record.assignment.items() if label != "w8a8"}
        others = counts.keys() - lowered
        assert lowered and min(counts[layer] for layer in lowered) >= max((counts[each] for each in others), default=0)
        if point.record.origin == "largest first":
            assert point.record.origin_value is not None
            held = sum(counts[layer] for layer in lowered)
            assert held >= point.record.origin_value * sum(counts.values())
            assert held - min(counts[layer] for layer in lowered) < point.record.origin_value * sum(counts.values())


def test_fronts_are_over_all_families(compared: Comparison) -> None:
    frame = comparison_frame(compared)
    for axis, cost in (("latency", "latency_ms"), ("energy", "energy_uj")):
        for row in frame.itertuples():
            beaten = (
                (frame[cost] <= getattr(row, cost)) & (frame["accuracy_percent"] >= row.accuracy_percent)
                & ((frame[cost] < getattr(row, cost)) | (frame["accuracy_percent"] > row.accuracy_percent))
            ).any()
            assert getattr(row, f"{axis}_front") == (not beaten)


def test_a_second_comparison_computes_nothing_and_another_shares(digits: Network, compared: Comparison) -> None:
    before = {path: path.read_bytes() for path in compared.folder.rglob("*.jsonl")}
    lines = [line for content in before.values() for line in content.splitlines()]
    assert len(set(lines)) == len(lines), "nothing stands twice"

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("must not be called")

    with pytest.MonkeyPatch.context() as patch:
        for place in ("accuracy_book.AccuracyEvaluator", "flexiq_book.FlexiqSession", "mapping_book.map_many",
                      "network_points.simulate_network", "program_front.assignment_front"):
            patch.setattr(f"bitmosaic.explorations.{place}", refuse)
        assert _compare(digits, compared.folder) == compared
        # Fewer families are there already; their points are not looked for again.
        fewer = _compare(digits, compared.folder, methods=["amp"], seeds=0)
    assert [family.name for family in fewer.families] == ["uniform", "largest first", "amp"]
    assert {path: path.read_bytes() for path in compared.folder.rglob("*.jsonl")} == before
    _compare(digits, compared.folder)


def test_an_interrupted_comparison_goes_on(digits: Network, compared: Comparison, tmp_path: Path) -> None:
    class Interrupt:
        def update(self, stage: str, done: int, total: int) -> None:
            if stage == "points of amp":
                raise KeyboardInterrupt

        def say(self, text: str) -> None:
            pass

    with pytest.raises(ComparisonInterrupted):
        _compare(digits, tmp_path / "digits", progress=Interrupt())
    with pytest.raises(ConfigurationError, match="holds no comparison"):
        load_comparison(tmp_path / "digits")
    kept = (tmp_path / "digits/points.jsonl").read_bytes()
    whole = _compare(digits, tmp_path / "digits")
    assert (tmp_path / "digits/points.jsonl").read_bytes().startswith(kept) and kept
    assert whole.families == compared.families


@pytest.fixture
def small_plots() -> Iterator[None]:
    """Plots are drawn small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitmosaic.views.plots.PNG_DPI", 40)
        yield


@pytest.mark.usefixtures("small_plots")
def test_the_files_and_the_command(compared: Comparison) -> None:
    folder = compared.folder
    result = CliRunner().invoke(main, [
        "compare", "--methods", "amp,flexiq", "--menu", ",".join(MENU), "--points", "3", "--seeds", "2", "--output",
        str(folder), "--seconds-per-layer", "0.05", "--gap", "0.9", "--workers", "1",
    ])
    assert result.exit_code == 0, result.output
    for family in compared.families:
        assert f" {family.name} " in result.stdout
    table = pd.read_csv(folder / "comparison.csv")
    assert list(table["family"]) == list(comparison_frame(compared)["family"])
    assert (folder / "comparison.txt").read_text() in result.stdout
    written = {path.name for path in write_comparison(compared)}
    assert written == {"comparison.csv", "comparison.txt", "comparison.png", "comparison.svg"}


def test_the_plot_shows_every_point_and_can_be_read_in_grey(compared: Comparison) -> None:
    figure = plot_comparison(compared)
    panels = figure.axes
    points = sum(len(family.points) for family in compared.families)
    for axes in panels:
        offsets = [np.asarray(each.get_offsets()) for each in axes.collections]
        assert sum(int(np.isfinite(part).all(axis=1).sum()) for part in offsets) == points
    _, labels = panels[0].get_legend_handles_labels()
    assert labels == ["front of all", "FP32 (98.5 %)", "uniform", "largest first", "random", "amp", "flexiq"]
    markers = {
        str(np.round(each.get_paths()[0].vertices, 3).tolist()) for each in panels[0].collections if each.get_label()
        in labels
    }
    assert len(markers) == 5, "each family has a marker of its own"


def test_the_table_names_the_cheapest_close_to_fp32(compared: Comparison) -> None:
    found = comparison_table(compared)
    assert found.row_count == len(compared.families)
    for family in compared.families:
        best = compared.cheapest(family, "latency", 0.01)
        good = [point for point in family.points if point.record.accuracy_percent >= 100 * compared.settings.fp32 - 1]
        assert (best is None) == (not good)
        assert best is None or best.record.total_cycles == min(point.record.total_cycles for point in good)


def test_a_variant_of_flexiq_is_a_family_of_its_own(digits: Network, compared: Comparison, tmp_path: Path) -> None:
    folder = tmp_path / "variant"
    shutil.copytree(compared.folder, folder)
    accuracies = len((folder / "accuracy.jsonl").read_bytes().splitlines())
    found = _compare(digits, folder, methods=["flexiq"], seeds=0, flexiq_extraction="dynamic").families[-1]
    assert (found.name, found.quantiser) == ("flexiq", "flexiq, dynamic, units of 64")
    default = compared.families[-1]
    assert not {point.record.key for point in found.points} & {point.record.key for point in default.points}
    # With nothing lowered there is nothing to extract: that has been measured.
    assert found.points[0].record.accuracy == default.points[0].record.accuracy
    assert len((folder / "accuracy.jsonl").read_bytes().splitlines()) == accuracies + len(found.points) - 1
    assert _compare(digits, folder).families == compared.families


def test_gradients_by_torch_are_for_methods_that_read_them(
    digits: Network, compared: Comparison, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="torch is not installed (pip install 'bitmosaic[torch]')")
    folder = tmp_path / "torch"
    shutil.copytree(compared.folder, folder)
    found = _compare(digits, folder, methods=["amp", "seada"], gradients="torch")
    assert [found.settings.ratings[name].gradients for name in ("amp", "seada")] == ["torch", "own"]
    by_torch = [record for record in RecordFile(folder / "sensitivity.jsonl", HarmRecord)
                if record.gradients == "torch"]
    assert {record.method for record in by_torch} == {"taylor"}
    # The same gradients to rounding, so the same assignments: nothing of them was scored anew.
    own, other = compared.families[4], found.families[4]
    assert own.name == other.name == "amp"
    assert {point.record.key for point in own.points} == {point.record.key for point in other.points}
    with pytest.raises(ConfigurationError, match="gradients=torch: are read by none of the methods seada"):
        _compare(digits, folder, methods=["seada"], gradients="torch")


def test_what_cannot_be_compared_is_refused(digits: Network, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the method dpq is for menus with weights that are expanded"):
        _compare(digits, tmp_path / "x", methods=["amp", "dpq"])
    with pytest.raises(ConfigurationError, match=r"method='amd': no such method .*did you mean 'amp'"):
        _compare(digits, tmp_path / "x", methods=["amd"])
    with pytest.raises(NetworkError, match="cannot be compared by accuracy: it has no trained"):
        _compare(Network(name="shapes", graph=digits.graph), tmp_path / "x", methods=["amp"])
    with pytest.raises(ConfigurationError, match="flexiq_extraction=static: is for the method flexiq, which was not"):
        _compare(digits, tmp_path / "x", methods=["amp"], flexiq_extraction="static")
    with pytest.raises(ConfigurationError, match=r"flexiq_selection=greedy: is for .* which is left out: "):
        compare(digits, "gaudi_like", results=tmp_path / "x", flexiq_selection="greedy")
    with pytest.raises(ConfigurationError, match=r"measure_harm=True: is for methods that rate .*: flexiq"):
        compare(digits, "flexiq_like", methods=["flexiq"], results=tmp_path / "x", measure_harm=True)
    with pytest.raises(ConfigurationError, match=r"flexiq_width=8: is for .* which is left out: "):
        compare(digits, "gaudi_like", results=tmp_path / "x", flexiq_width=8)
    with pytest.raises(ConfigurationError, match="seeds=-1: must be at least 0"):
        _compare(digits, tmp_path / "x", seeds=-1)
    assert not (tmp_path / "x").exists()


def test_measured_harm_says_how_well_methods_rate_layers(digits: Network, compared: Comparison, tmp_path: Path) -> None:
    assert compared.correlations == {}, "nothing measured harm"
    start = "amp rates layers by taylor; rank correlation with measured harm over layers: "
    assert f"{start}not measured (--measure-harm)." in _summary(compared)
    facts = {fact.label: fact.text for fact in read_comparison(compared).facts}
    assert facts["rank correlation with measured harm, amp"] == "not measured (--measure-harm)"
    folder = tmp_path / "measured"
    shutil.copytree(compared.folder, folder)
    found = _compare(digits, folder, measure_harm=True)
    assert found.families == compared.families
    harms = {
        (record.method, record.layer, record.precision): record.harm
        for record in RecordFile(folder / "sensitivity.jsonl", HarmRecord)
    }
    layers = [layer.name for layer in digits.trained_layers]
    assert found.correlations.keys() == {"amp"} and found.correlations["amp"].keys() == set(MENU)
    for precision, correlation in found.correlations["amp"].items():
        rated, measured = (
            [harms[method, layer, precision] for layer in layers] for method in ("taylor", "perturbation")
        )
        assert correlation == pytest.approx(ranked_by_pandas(rated, measured))
    first = found.correlations["amp"]["w8a8"]
    assert f"{start}w8a8 {first:.2f}, " in _summary(found)
    facts = {fact.label: fact.text for fact in read_comparison(found).facts}
    assert facts["rank correlation with measured harm, amp"].startswith(f"w8a8 {first:.2f}, ")
    # It is written down: read again, and shown where nobody asks for it.
    assert load_comparison(folder) == found == _compare(digits, folder)


def _summary(found: Comparison) -> str:
    stream = StringIO()
    Console(file=stream, width=200).print(comparison_summary(found))
    return stream.getvalue()


def ranked_by_pandas(first: Sequence[float | None], second: Sequence[float | None]) -> float:
    """Another implementation."""
    return float(pd.Series(first).corr(pd.Series(second), method="spearman"))
