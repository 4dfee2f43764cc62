"""Reports: what is read from each kind of results, that it can be made again, and that no name breaks the page."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pydantic import ValidationError

import bitmosaic
from bitmosaic.cli import main
from bitmosaic.explorations.assignment_file import load_assignment
from bitmosaic.explorations.comparison import FAMILIES_FILE
from bitmosaic.explorations.exploration import SELECTIONS_FILE, SETTINGS_FILE
from bitmosaic.explorations.records import PointRecord, SelectionRecord
from bitmosaic.explorations.store import RecordFile
from bitmosaic.report_page import page
from bitmosaic.report_page.machines import Machines, changes
from bitmosaic.report_page.model import MachineEntry, Report
from bitmosaic.report_page.page import page_html, plotly_script, report_of, script_json, write_report
from bitmosaic.sweeps.results import read_results
from bitmosaic.sweeps.runner import expand
from hw_configs import open_machine
from simulator.errors import ConfigurationError, MissingPackageError
from tests import report_results as results

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def records() -> dict[str, PointRecord]:
    return results.point_records()


@pytest.fixture(scope="module")
def explored(records: dict[str, PointRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results.write_exploration(tmp_path_factory.mktemp("explored"), records)


@pytest.fixture(scope="module")
def compared(records: dict[str, PointRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results.write_comparison(tmp_path_factory.mktemp("compared"), records)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return results.write_sweep(tmp_path_factory.mktemp("swept"))


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def _value(report: Report, point: str, key: str) -> float | None:
    place = [measure.key for measure in report.measures].index(key)
    return next(each for each in report.points if each.id == point).values[place]


def _description(report: Report, machine: MachineEntry) -> dict[str, Any]:
    """A machine's description, as the page puts it together."""
    description: dict[str, Any] = json.loads(json.dumps(report.descriptions[machine.base]))
    for change in machine.changes:
        here: Any = description
        for key in change.place[:-1]:
            here = here[key]
        here[change.place[-1]] = change.value
    return description


# What is read ------------------------------------------------------------------------------------------------------


def test_an_exploration_has_its_points_with_all_that_they_record(
    explored: Path, records: dict[str, PointRecord]
) -> None:
    report = report_of(explored)
    assert (report.kind, [point.id for point in report.points]) == ("exploration", ["w8a8", "w2a8", "m1"])
    for point, record in zip(report.points, records.values(), strict=True):
        assert _value(report, point.id, "latency_cycles") == record.total_cycles
        assert _value(report, point.id, "accuracy_percent") == record.accuracy_percent
        layers = [report.layers[place] for place in point.layers]
        assert sum(sum(layer.cycles) for layer in layers) == record.total_cycles
        energies = [sum(layer.energy_pj[place] for layer in layers) for place in range(len(report.components))]
        assert point.energy_pj == pytest.approx(energies) and sum(energies) == pytest.approx(record.energy_pj)
        assert {layer.name: layer.precision for layer in layers if layer.kind == "layer"} == record.assignment
        assert all(layer.dram_bits for layer in layers if layer.kind == "layer")
        assert point.machine == 0 and point.trust is not None
        assert dict(report.trusts[point.trust].confidence).keys() == set(report.components)
    assert len(report.layers) < sum(len(point.layers) for point in report.points), "equal layers stand once"
    assert [reference.value for reference in report.references] == [98.75]
    assert [point.id for point in report.points if point.chosen] == [report.first] == ["w8a8"]


def test_widths_peaks_and_harms_of_layers(explored: Path, records: dict[str, PointRecord]) -> None:
    report = report_of(explored)
    w2a8 = [report.layers[place] for place in report.points[1].layers if report.layers[place].kind == "layer"]
    assert {(layer.weight_bits, layer.input_bits) for layer in w2a8} == {(2.0, 8.0)}
    # Bit Fusion: 4 products of 2 × 8 bits a cycle in each of 512 PEs.
    assert {layer.peak_macs_per_cycle for layer in w2a8} == {2048.0}
    assert [layer.harm for layer in w2a8[:3]] == [0.25, "inf", None]
    for layer in w2a8:
        assert layer.macs / sum(layer.cycles) <= layer.peak_macs_per_cycle
    wide = records["w8a8"].layers[0]
    run = bitmosaic.uniform_run("digits_cnn", "bit_fusion", "w8a8", workers=1,
                                budget=bitmosaic.SearchBudget(cpu_seconds=results.SECONDS, target_gap=results.GAP))
    assert wide.dram_bits == sum(run.result.layers[0].moved_bits("dram")) > 0


def test_a_comparison_has_its_families(compared: Path) -> None:
    report = report_of(compared)
    assert [(point.id, point.group, point.label) for point in report.points] == [
        ("uniform-1", "uniform", "uniform w8a8"), ("uniform-2", "uniform", "uniform w2a8"),
        ("random-0-1", "random", "random 0 1"), ("amp-1", "amp", "amp w8a8"), ("amp-2", "amp", "amp 2"),
    ]
    assert report.points[0].layers == report.points[3].layers, "what two families propose"
    assert any("dpq" in note for note in report.notes) and report.first == "uniform-1"


def test_a_variant_of_flexiq_is_named(records: dict[str, PointRecord], tmp_path: Path) -> None:
    folder = results.write_exploration(tmp_path / "explored", records)
    path = folder / SETTINGS_FILE
    settings = json.loads(path.read_text(encoding="utf-8"))
    facts = {fact.label: fact.text for fact in report_of(folder).facts}
    assert facts["rank correlation with measured harm"] == "not measured (--measure-harm)"
    settings |= {"method": "flexiq", "flexiq": {"selection": "evolutionary", "extraction": "static", "width": 8}}
    path.write_text(json.dumps(settings), encoding="utf-8")
    facts = {fact.label: fact.text for fact in report_of(folder).facts}
    assert facts["method"] == "flexiq: selection evolutionary, effective bits static, units of 8"
    assert not {"harm", "quantiser", "rank correlation with measured harm"} & set(facts), "of channels there is neither"


def test_a_comparison_names_the_width_of_units_and_the_channels(
    records: dict[str, PointRecord], tmp_path: Path
) -> None:
    """FlexiQ's point keeps its channels in the assignment that the page saves; a label without a width means 1."""
    label, point = next((name, each) for name, each in records.items() if each.uniform is None)
    chosen = point.model_copy(update={"origin": "ratio", "origin_value": 0.5, "selection": "selected"})
    folder = results.write_comparison(tmp_path / "compared", {**records, label: chosen})
    RecordFile(folder / SELECTIONS_FILE, SelectionRecord).append(SelectionRecord(
        key="selected", subject="subject", extraction="dynamic", ratios=(0.5, 1.0),
        narrow=({"conv2": (1, 3)}, {"conv2": (0, 1, 2, 3)}),
    ))
    path = folder / FAMILIES_FILE
    text = path.read_text(encoding="utf-8").replace('"family":"amp"', '"family":"flexiq"')
    for quantiser, said in (
        ("flexiq", "greedy selection, static effective bits, units of 1"),
        ("flexiq, dynamic, units of 8", "greedy selection, dynamic effective bits, units of 8"),
        ("flexiq, evolutionary, units of 128", "evolutionary selection, static effective bits, units of 128"),
    ):
        *others, last = text.splitlines()
        path.write_text("\n".join([*others, last.replace('"quantiser":"rtn"', f'"quantiser":"{quantiser}"'), ""]))
        report = report_of(folder)
        assert {fact.label: fact.text for fact in report.facts}["flexiq"] == said
    saved = next(each.assignment for each in report.points if each.id == "flexiq-2")
    assert "extraction: dynamic" in saved and "ratios: [0.5, 1.0]" in saved
    assert "max_4bit_ch: 2\n      at_ratios: [2, 4]\n      order: [1, 3, 0, 2]\n" in saved
    assert "flexiq:" not in next(each.assignment for each in report.points if each.id == "flexiq-1")


def test_a_comparison_of_an_earlier_version_says_what_is_missing(
    records: dict[str, PointRecord], tmp_path: Path
) -> None:
    old = {
        name: record.model_copy(update={
            "layers": tuple(row.model_copy(update={"dram_bits": None}) for row in record.layers),
        })
        for name, record in records.items()
    }
    report = report_of(results.write_comparison(tmp_path, old, with_budget=False))
    assert not any(point.command for point in report.points)
    assert all("compare again" in point.note for point in report.points)
    assert any("No rooflines" in note for note in report.notes)


def test_a_sweep_has_a_point_a_task_and_its_machines(swept: Path) -> None:
    report, tasks = report_of(swept), expand(swept / "sweep.yaml").tasks
    assert report.kind == "sweep" and len(report.points) == len(tasks) == 6 and len(report.machines) == 2
    for point, record, task in zip(report.points, read_results(swept), tasks, strict=True):
        assert record.result is not None and point.machine is not None and task.key.startswith(point.id)
        assert _value(report, point.id, "latency_cycles") == record.result.total_cycles
        size = "memories.weight_buffer.size_bits"
        assert _value(report, point.id, size) == record.fields[size]
        assert dict(zip(report.components, point.energy_pj, strict=True)) == record.result.energy_by_component_pj
        assert not point.layers and "records no layers" in point.note
        machine = report.machines[point.machine]
        assert machine.area_mm2 == task.point.area_mm2 and machine.pe_count == task.point.pe_count
        written = {**task.point.machine.model_dump(mode="json"), "sources": {}}
        assert _description(report, machine) == {"bitmosaic_version": 1, **written}
    assert len({point.subject for point in report.points}) == 3, "precisions do not compete without an accuracy"
    assert report_of(swept / "results.jsonl") == report


def test_a_sweep_without_its_file_has_costs_and_says_what_is_not_known(swept: Path, tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_bytes((swept / "results.jsonl").read_bytes())
    report = report_of(tmp_path)
    assert "Hardware and commands are not shown" in report.notes[0]
    assert not report.machines and not any(point.command for point in report.points)
    assert [point.values for point in report.points] == [point.values for point in report_of(swept).points]


def test_tasks_without_a_result_keep_their_reasons(swept: Path, tmp_path: Path) -> None:
    lines = (swept / "results.jsonl").read_text(encoding="utf-8").splitlines()
    failed = {**json.loads(lines[0]), "status": "timed_out", "result": None, "errors": ["took <too> long"]}
    (tmp_path / "results.jsonl").write_text("\n".join([json.dumps(failed), *lines[1:]]) + "\n", encoding="utf-8")
    (tmp_path / "sweep.yaml").write_bytes((swept / "sweep.yaml").read_bytes())
    report = report_of(tmp_path)
    assert (report.points[0].status, report.points[0].note) == ("timed out", "took <too> long")
    assert report.points[0].values[0] is None and report.points[0].machine == 0 and report.first != report.points[0].id
    assert any("1 timed out" in note for note in report.notes)


def test_what_is_referred_to_must_be_there(explored: Path) -> None:
    report = report_of(explored)
    for change in (
        {"layers": report.layers[:1]}, {"machines": ()}, {"first": "m9"}, {"x": "speed"}, {"parts": ()},
        {"points": (*report.points, report.points[0])}, {"components": report.components[1:]},
    ):
        with pytest.raises(ValidationError):
            Report(**{**dict(report), **change})


def test_changes_are_as_deep_as_they_can_be() -> None:
    base = {"a": {"b": [1, {"c": 2}]}, "d": [1, 2], "e": None}
    assert [(each.place, each.value) for each in changes(base, {"a": {"b": [1, {"c": 3}]}, "d": [1], "e": None})] == [
        (("a", "b", 1, "c"), 3), (("d",), [1]),
    ]
    assert list(changes(base, base)) == []


# Made again ---------------------------------------------------------------------------------------------------------


def _cycles(output: str) -> int:
    (found,) = re.findall(r": ([\d,]+) cycles, [\d.e-]+ ms", output)
    return int(found.replace(",", ""))


@pytest.mark.parametrize("kind", ["explored", "compared"])
def test_the_command_makes_a_point_again(kind: str, request: pytest.FixtureRequest, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_of(request.getfixturevalue(kind))
    point = report.points[2]
    monkeypatch.chdir(tmp_path)
    Path(point.assignment_file).write_text(point.assignment, encoding="utf-8")
    assert load_assignment(point.assignment_file).precisions.keys() == {
        report.layers[place].name for place in point.layers if report.layers[place].kind == "layer"
    }
    program, *arguments = shlex.split(point.command)
    found = _run(*arguments, "--workers", "1")
    assert program == "bitmosaic" and found.exit_code == 0, found.output
    assert _cycles(found.output) == _value(report, point.id, "latency_cycles")


def test_the_command_of_an_exploration_reads_the_folder_s_own_file(
    records: dict[str, PointRecord], tmp_path: Path
) -> None:
    folder = results.write_exploration(tmp_path / "my results", records)
    (folder / "assignments").mkdir()
    (folder / "assignments" / "w8a8.yaml").write_text(report_of(folder).points[0].assignment, encoding="utf-8")
    *_, path = shlex.split(report_of(folder).points[0].command)
    assert Path(path) == folder / "assignments" / "w8a8.yaml" and Path(path).is_file()


@pytest.mark.parametrize("number", [0, 2, 5])
def test_the_command_makes_a_task_of_a_sweep_again(
    swept: Path, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the hardware as the page saves it: JSON, which is YAML too."""
    report = report_of(swept)
    point = report.points[number]
    assert point.machine is not None
    machine = report.machines[point.machine]
    monkeypatch.chdir(tmp_path)
    Path(machine.file).write_text(json.dumps(_description(report, machine), indent=1), encoding="utf-8")
    _, *arguments = shlex.split(point.command)
    found = _run(*arguments, "--workers", "1")
    assert found.exit_code == 0, found.output
    assert _cycles(found.output) == _value(report, point.id, "latency_cycles")


def test_a_machine_of_several_tiles_can_be_saved_too(tmp_path: Path) -> None:
    machines = Machines()
    place = machines.add("four_tiles", open_machine("four_tiles"))
    (tmp_path / "saved.yaml").write_text(json.dumps(machines.descriptions[machines.entries[place].base]))
    saved = open_machine(tmp_path / "saved.yaml")
    assert saved.model_copy(update={"sources": {}}) == open_machine("four_tiles").model_copy(update={"sources": {}})


# The page -----------------------------------------------------------------------------------------------------------


def _embedded(html: str) -> Any:
    (text,) = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def test_the_page_holds_the_data_whatever_names_are_in_it(explored: Path) -> None:
    report = report_of(explored).model_copy(update={"title": "</title><script>alert(1)</script> [[script]]"})
    html = page_html(report, "/* [[data]] </script> */")
    assert html.count("</script>") == html.count("<script") == 3
    assert html.count("</title>") == 1 and "<title>&lt;/title&gt;&lt;script&gt;" in html
    assert _embedded(html) == json.loads(json.dumps(report.model_dump(mode="json")))
    assert results.METRIC in {measure["label"] for measure in _embedded(html)["measures"]}
    assert "/* [[data]] <\\/script> */" in html and "<!--" not in html


@pytest.mark.parametrize("text", ["</script>", "<!-- <script>", "]]>", "\u2028\u2029", "&lt;", "\"'\\"])
def test_json_in_a_script_reads_back_and_ends_nothing(text: str) -> None:
    written = script_json({"name": text})
    assert json.loads(written) == {"name": text}
    assert not set("<>&\u2028\u2029") & set(written)


def test_the_page_is_made_of_every_asset_and_loads_nothing() -> None:
    assets = Path(page.__file__).parent / "assets"
    assert {path.name for path in assets.iterdir()} == {*page._SCRIPTS, "page.css", "page.html"}
    own = "".join(path.read_text(encoding="utf-8") for path in assets.iterdir())
    assert "default-src 'none'" in own
    assert not re.search(r"https?://|\bfetch\(|XMLHttpRequest|import\(|<link rel=\"stylesheet|url\(", own)


def test_the_command_writes_and_replaces_a_page(explored: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages" / "mine.html"
    found = _run("report", str(explored), "--out", str(out), "--title", "Mine & <yours>")
    assert found.exit_code == 0 and re.match(rf"{re.escape(str(out))}: \d\.\d MB", found.output)
    assert "<title>Mine &amp; &lt;yours&gt;</title>" in out.read_text(encoding="utf-8")
    assert "plotly.js v" in out.read_text(encoding="utf-8")
    assert _run("report", str(explored), "--out", str(out)).exit_code == 0
    assert "<title>digits_cnn on bit_fusion</title>" in out.read_text(encoding="utf-8")
    assert [path.name for path in out.parent.iterdir()] == ["mine.html"]


def test_from_python(explored: Path, compared: Path) -> None:
    for folder, loaded in ((explored, bitmosaic.load_exploration), (compared, bitmosaic.load_comparison)):
        path = bitmosaic.write_report(loaded(folder))
        assert path == folder / "report.html"
        assert path.read_bytes() == write_report(folder).read_bytes()
        path.unlink()


def test_a_folder_of_both_kinds_shows_one_and_names_the_other(records: dict[str, PointRecord], tmp_path: Path) -> None:
    results.write_exploration(results.write_comparison(tmp_path, records), records)
    assert report_of(tmp_path).kind == "comparison" and "--kind exploration" in report_of(tmp_path).notes[-1]
    assert report_of(tmp_path, "exploration").kind == "exploration"


def test_what_cannot_be_shown_is_one_message(explored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _run("report", str(tmp_path))
    assert found.exit_code == 2 and "is no results folder: it has none of inputs/comparison.json" in found.output
    found = _run("report", str(explored), "--kind", "sweep")
    assert found.exit_code == 2 and "holds no sweep: it has no results.jsonl" in found.output
    with pytest.raises(ConfigurationError, match="did you mean 'sweep'"):
        report_of(explored, "sweeps")  # type: ignore[arg-type]
    empty = results.write_exploration(tmp_path / "empty", {})
    found = _run("report", str(empty))
    assert found.exit_code == 2 and "holds no points yet" in found.output and not (empty / "report.html").exists()
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingPackageError, match=r"bitmosaic\[interactive\]"):
        plotly_script()
    found = _run("report", str(explored))
    assert found.exit_code == 2 and "pip install 'bitmosaic[interactive]'" in found.output
    assert not (explored / "report.html").exists()
