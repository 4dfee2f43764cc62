"""The main job on a network made here: fronts, records, reuse, interruption, and cost-only networks."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bitmosaic.explorations.exploration import Exploration, load_exploration
from bitmosaic.explorations.explorer import ExplorationInterrupted, explore
from bitmosaic.explorations.folder import write_outputs
from bitmosaic.explorations.menu import default_menu, read_menu
from hw_configs import open_accelerator
from mapper.solution import SearchBudget
from simulator.errors import ConfigurationError, NetworkError, PrecisionError
from workloads import Network, open_network

MENU = ["w8a8", "w4a8", "w2a8"]
BUDGET = SearchBudget(cpu_seconds=0.2, target_gap=0.5)
RECORDS = ("mappings.jsonl", "sensitivity.jsonl", "accuracy.jsonl", "points.jsonl")
pytestmark = pytest.mark.usefixtures("own_cache")


def tiny_model() -> onnx.ModelProto:
    """One convolution and one matrix product, weights from a fixed seed: image [1, 1, 6, 6] → scores [1, 5]."""
    rng = np.random.default_rng(7)
    weights = {
        "conv.w": rng.normal(size=(4, 1, 3, 3)), "conv.b": rng.normal(size=4),
        "fc.w": rng.normal(size=(5, 64)), "fc.b": rng.normal(size=5),
    }
    nodes = [
        helper.make_node("Conv", ["image", "conv.w", "conv.b"], ["c"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Flatten", ["r"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fc.w", "fc.b"], ["scores"], name="fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 6, 6])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The network's file, and 40 inputs."""
    folder = tmp_path_factory.mktemp("tiny")
    onnx.save(tiny_model(), folder / "tiny.onnx")
    images = np.random.default_rng(3).normal(size=(40, 1, 6, 6)).astype(np.float32)
    np.savez(folder / "images.npz", image=images)
    return folder / "tiny.onnx", folder / "images.npz"


def _explore(files: tuple[Path, Path], results: Path, menu: list[str] = MENU) -> Exploration:
    network, inputs = files
    return explore(network, "bit_fusion", menu=menu, points=4, inputs=inputs, results=results, budget=BUDGET, workers=1)


@pytest.fixture(scope="module")
def finished(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Exploration:
    """A finished exploration."""
    return _explore(files, tmp_path_factory.mktemp("results") / "tiny")


def _records(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RECORDS if (folder / name).exists()}


def test_points_are_whole_assignments_scored_and_measured(finished: Exploration) -> None:
    assert [point.label for point in finished.points[:3]] == MENU
    assert finished.fp32 is not None and finished.fp32.value == 1.0 and finished.fp32.metric == "agreement with FP32"
    for point in finished.points:
        record = point.record
        assert set(record.assignment) == {"conv", "fc"} == {row.layer for row in record.layers}
        assert {row.layer: row.precision for row in record.layers} == record.assignment
        parts = [*record.layers, *record.vector]
        assert record.total_cycles == sum(part.total_cycles for part in parts)
        assert record.energy_pj == pytest.approx(sum(part.total_energy_pj for part in parts))
        assert record.latency_ms == pytest.approx(record.total_cycles / 500e3)
        assert record.accuracy is not None and record.accuracy.count == 30
        assert [row.operator for row in record.vector] == ["Relu", "Flatten"]
        for row in record.layers:
            assert row.compute_cycles + row.fill_drain_cycles + row.total_stall_cycles == row.total_cycles
            assert row.lower_bound <= row.cost * (1 + 1e-9) and 0 <= row.gap < 1 and row.mapping.startswith("tile ")


def test_fronts_are_undominated_and_begin_with_the_cheapest(finished: Exploration) -> None:
    for axis in ("latency", "energy"):
        front = finished.front(axis)
        assert front
        costs = [point.cost(axis) for point in front]
        assert costs == sorted(costs) and costs[0] == min(point.cost(axis) for point in finished.points)
        scores = [point.record.accuracy_percent for point in front]
        assert scores == sorted(scores) and scores[-1] == max(p.record.accuracy_percent for p in finished.points)
    assert finished.point("w8a8").record.energy_pj > finished.point("w2a8").record.energy_pj


def test_wide_weights_cost_more_and_harm_less(finished: Exploration) -> None:
    for layer in ("conv", "fc"):
        harms = [finished.harms[layer, label] for label in MENU]
        assert harms == sorted(harms) and harms[0] > 0


def test_the_folder_is_complete(finished: Exploration) -> None:
    folder = finished.folder
    for name in ("inputs/accelerator.yaml", "inputs/network.onnx", "inputs/inputs.npz", "inputs/settings.json",
                 "points.csv", "layers.csv", "report.txt", "plots/latency_accuracy.png", "plots/energy_accuracy.svg",
                 "plots/layers.png", *RECORDS):
        assert (folder / name).stat().st_size > 0, name
    assert open_accelerator(folder / "inputs/accelerator.yaml") == open_accelerator("bit_fusion")
    assert [layer.name for layer in open_network(folder / "inputs/network.onnx").layers] == ["conv", "fc"]
    settings = json.loads((folder / "inputs/settings.json").read_text())
    assert settings["menu"] == MENU and settings["versions"]["bitmosaic"]
    for name in RECORDS:
        for line in (folder / name).read_text().splitlines():
            assert len(json.loads(line)["key"]) == 64
    with (folder / "points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["point"] for row in rows] == [point.label for point in finished.points]
    assert int(rows[0]["latency_cycles"]) == finished.points[0].record.total_cycles


def test_a_second_run_computes_nothing_and_changes_no_byte(
    files: tuple[Path, Path], finished: Exploration, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("must not be called")

    monkeypatch.setattr("bitmosaic.explorations.accuracy_book.AccuracyEvaluator", refuse)
    monkeypatch.setattr("bitmosaic.explorations.mapping_book.map_many", refuse)
    monkeypatch.setattr("bitmosaic.explorations.network_points.simulate_network", refuse)
    again = _explore(files, finished.folder)
    assert again == finished
    assert {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()} == before


def test_a_longer_menu_reuses_what_is_there(files: tuple[Path, Path], finished: Exploration, tmp_path: Path) -> None:
    results = tmp_path / "tiny"
    _explore(files, results, ["w8a8", "w4a8"])
    short = _records(results)
    longer = _explore(files, results)
    for name, content in _records(results).items():
        assert content.startswith(short[name])
    assert {p.record.key for p in longer.points} >= {p.record.key for p in finished.points}


@pytest.mark.parametrize("after", ["mapping", "baselines", "sensitivity", "network points"])
def test_an_interrupted_run_leaves_usable_results_and_goes_on(
    files: tuple[Path, Path], finished: Exploration, tmp_path: Path, after: str
) -> None:
    class Interrupt:
        def update(self, stage: str, done: int, total: int) -> None:
            if (stage == after and done >= 4) or (stage == after != "mapping" and done == 1):
                self.update = lambda stage, done, total: None  # type: ignore[method-assign]
                raise KeyboardInterrupt

        def say(self, text: str) -> None:
            pass

    results = tmp_path / "tiny"
    with pytest.raises(ExplorationInterrupted) as caught, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITMOSAIC_CACHE_DIR", str(tmp_path / "cache"))
        explore(files[0], "bit_fusion", menu=MENU, points=4, inputs=files[1], results=results, budget=BUDGET,
                workers=1, progress=Interrupt())
    partial = caught.value.exploration
    assert 1 <= len(partial.points) < len(finished.points) and partial.points[0].label == "w8a8"
    assert (results / "report.txt").exists() and (results / "plots/latency_accuracy.png").exists()
    kept = _records(results) if after != "mapping" else {}
    whole = _explore(files, results)
    for name, content in kept.items():
        assert (results / name).read_bytes().startswith(content)
    assert {point.record.key for point in whole.points} == {point.record.key for point in finished.points}


def test_a_torn_line_costs_that_line(files: tuple[Path, Path], finished: Exploration, tmp_path: Path) -> None:
    results = tmp_path / "tiny"
    _explore(files, results)
    before = _records(results)
    path = results / "points.jsonl"
    path.write_bytes(before["points.jsonl"][:-100])
    assert len(load_exploration(results).points) == len(finished.points) - 1
    _explore(files, results)
    assert _records(results) == before


def test_redraw_needs_the_folder_only(finished: Exploration) -> None:
    files = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.suffix in (".csv", ".png", ".svg")}
    for path in files:
        path.unlink()
    write_outputs(load_exploration(finished.folder))
    assert {path: path.read_bytes() for path in files} == files


def test_without_data_there_is_a_cost_only(files: tuple[Path, Path], tmp_path: Path) -> None:
    found = explore(files[0], "bit_fusion", menu=MENU, results=tmp_path / "tiny", budget=BUDGET, workers=1)
    assert found.fp32 is None and not found.has_accuracy and found.harms == {}
    assert [point.label for point in found.points] == MENU
    assert found.chosen().label == "w8a8"  # type: ignore[union-attr]
    assert "has a cost only" in (tmp_path / "tiny/report.txt").read_text()
    assert not (tmp_path / "tiny/plots/latency_accuracy.png").exists()
    assert (tmp_path / "tiny/plots/latency_energy.png").exists()
    for wanted, rule in (({"accuracy_at_least": 0.9}, "accuracy_at_least: needs an accuracy"),
                         ({"method": "amp"}, "has no data, on which the method amp calibrates")):
        with pytest.raises(NetworkError, match=rule):
            explore(files[0], "bit_fusion", menu=MENU, results=tmp_path / "other", **wanted)  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists()


# What only a network with trained weights and data can be asked for.
MEASURED: dict[str, Any] = {
    "method": "amp", "sensitivity": "taylor", "gradients": "torch", "quantiser": "gptq", "measure_harm": True,
    "keep_first_last": "w8a8", "weight_memory_limit_kib": 0.5, "accuracy_at_least": 0.0,
}


def test_what_needs_weights_or_data_is_refused_for_a_cost_alone(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(NetworkError) as caught:
        explore(files[0], "bit_fusion", menu=MENU, results=tmp_path / "other", **MEASURED)
    without_data = "needs data to rate and to measure on, and there are none: give --inputs"
    assert [str(problem) for problem in caught.value.problems] == [
        "tiny: has no data, on which the method amp calibrates and measures: give --inputs",
        f"tiny: sensitivity=taylor: {without_data}", f"tiny: gradients=torch: {without_data}",
        f"tiny: quantiser=gptq: {without_data}", f"tiny: measure_harm=True: {without_data}",
        f"tiny: keep_first_last=w8a8: {without_data}", f"tiny: weight_memory_limit_kib=0.5: {without_data}",
        "tiny: accuracy_at_least: needs an accuracy, and there are no trained weights or no data to measure it on: "
        "give --inputs",
    ]
    shapes = Network(name="shapes", graph=open_network(files[0]).graph)
    with pytest.raises(NetworkError) as caught:
        explore(shapes, "bit_fusion", results=tmp_path / "other", inputs=files[1], **MEASURED)
    found = [str(problem) for problem in caught.value.problems]
    without_weights = "needs trained weights, and there are none: there is a cost only"
    assert len(found) == len(MEASURED) + 1 and f"shapes: keep_first_last=w8a8: {without_weights}" in found
    assert found[0].startswith("shapes: has no trained weights, which the method amp needs")
    assert found[-1] == "shapes: has no trained weights to run inputs on: leave inputs out"
    for option, value in MEASURED.items():
        with pytest.raises(NetworkError):
            explore(shapes, "bit_fusion", results=tmp_path / "other", **{option: value})
    assert not (tmp_path / "other").exists()


def test_shapes_without_weights_are_stored_as_shapes(files: tuple[Path, Path], tmp_path: Path) -> None:
    network = open_network(files[0])
    shapes = Network(name="shapes", graph=network.graph, source="made here")
    found = explore(shapes, "bit_fusion", menu=["w8a8"], results=tmp_path / "shapes", budget=BUDGET, workers=1)
    assert len(found.points) == 1
    stored = json.loads((tmp_path / "shapes/inputs/network.json").read_text())
    assert [operation["name"] for operation in stored["graph"]["operations"]] == ["conv", "relu", "flatten", "fc"]
    with pytest.raises(NetworkError, match="no trained weights"):
        explore(shapes, "bit_fusion", inputs=files[1], results=tmp_path / "other")


def test_harms_are_rated_by_taylor_where_gradients_exist(
    files: tuple[Path, Path], finished: Exploration, tmp_path: Path
) -> None:
    assert (finished.settings.sensitivity, finished.settings.sensitivity_note) == ("taylor", "")
    assert "Harms of layers: taylor. Rank correlation" in (finished.folder / "report.txt").read_text()
    model = tiny_model()
    model.graph.node[1].op_type = "Sin"
    onnx.save(model, tmp_path / "sine.onnx")
    sine = explore(tmp_path / "sine.onnx", "bit_fusion", menu=MENU[:2], points=2, inputs=files[1], budget=BUDGET,
                   results=tmp_path / "sine", workers=1)
    assert sine.settings.sensitivity == "perturbation" and len(sine.harms) == 4
    report = " ".join((tmp_path / "sine/report.txt").read_text().split())
    assert "Harms of layers: perturbation, since taylor needs gradients: node 'relu': no vector–Jacobian" in report


def test_results_of_different_quantisers_never_mix(
    files: tuple[Path, Path], finished: Exploration, tmp_path: Path
) -> None:
    results = tmp_path / "tiny"
    alone = explore(files[0], "bit_fusion", menu=MENU, points=4, inputs=files[1], results=tmp_path / "gptq",
                    budget=BUDGET, workers=1, quantiser="gptq")
    rounded = _explore(files, results)
    both = explore(files[0], "bit_fusion", menu=MENU, points=4, inputs=files[1], results=results, budget=BUDGET,
                   workers=1, quantiser="gptq")
    assert both.settings.quantiser == "gptq" and both.points == alone.points and both.harms == alone.harms
    assert {p.record.key for p in both.points}.isdisjoint(p.record.key for p in finished.points)
    assert both.harms["fc", "w2a8"] != rounded.harms["fc", "w2a8"]
    # Mappings and FP32 know of no quantiser: they are there once.
    records = {name: (results / name).read_text().splitlines() for name in RECORDS}
    assert sum(json.loads(line)["assignment"] == {} for line in records["accuracy.jsonl"]) == 1
    uniform = [json.loads(line) for line in records["accuracy.jsonl"] if '"conv":"w2a8","fc":"w2a8"' in line]
    assert [record["quantiser"] for record in uniform] == ["rtn_least_error", "gptq"]
    lines = len(records["sensitivity.jsonl"])
    explore(files[0], "bit_fusion", menu=MENU, points=4, inputs=files[1], results=results, budget=BUDGET, workers=1,
            quantiser="gptq", sensitivity="bit_entropy")
    explore(files[0], "bit_fusion", menu=MENU, points=4, inputs=files[1], results=results, budget=BUDGET, workers=1,
            sensitivity="bit_entropy")
    # Entropies know of none, either; the harm that they are held against is measured for each.
    new = [json.loads(line) for line in (results / "sensitivity.jsonl").read_text().splitlines()[lines:]]
    assert Counter((record["method"], record["quantiser"]) for record in new) == {
        ("bit_entropy", "rtn"): 6, ("perturbation", "gptq"): 6, ("perturbation", "rtn_least_error"): 6,
    }
    assert _explore(files, results).points[: len(rounded.points)] == rounded.points


def test_dpq_needs_weights_that_are_expanded(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"quantiser=dpq: is for weights .* has w8a8, w4a8, w2"):
        explore(files[0], "bit_fusion", menu=MENU, quantiser="dpq", inputs=files[1], results=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_wrong_settings_are_named_together(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        explore(files[0], "bit_fusion", objective="speed", sensitivity="guess", quantiser="up",  # type: ignore[arg-type]
                points=1, results=tmp_path / "x")
    assert [problem.path for problem in caught.value.problems] == ["objective", "sensitivity", "quantiser", "points"]
    assert not (tmp_path / "x").exists()


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no results folder"):
        load_exploration(tmp_path)


@pytest.mark.parametrize(
    ("machine", "labels"),
    [
        ("bit_fusion", "w8a8 w6a8 w5a8 w4a8 w4a4 w2a8"), ("tpu_like", "w8a8 w6a8 w5a8 w4a8 w2a8"),
        ("loom", "w8a8 w6a8 w6a6 w4a8 w4a4 w2a8"), ("stripes", "w8a8 w6a8 w6a6 w4a8 w4a4 w2a8"),
        ("eyeriss_like", "w8a8 w6a8 w5a8 w4a8 w2a8"),
        ("gaudi_like", "bf16 fp8_e4m3_ieee w4:fp8_e4m3_ieee"),
    ],
)
def test_the_default_menu_fits_the_machine(machine: str, labels: str) -> None:
    assert " ".join(precision.label for precision in default_menu(open_accelerator(machine))) == labels


def test_a_menu_begins_with_the_baseline_and_lists_all_that_is_wrong() -> None:
    machine = open_accelerator("tpu_like")
    assert [p.label for p in read_menu(["w4a8", "w4a8"], machine)] == ["w8a8", "w4a8"]
    with pytest.raises(PrecisionError) as caught:
        read_menu(["w16a8", "w4a12", "four"], machine)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "precision w16a8: weight=int16" in lines[0] and "precision w4a12: input=int12" in lines[1]
