"""Sweeps: killed at any moment they lose nothing and end with the same bytes; failures are records; shares join."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

import bitmosaic
from bitmosaic import cli
from bitmosaic.explorations.store import sole_writer
from bitmosaic.progress import Silent
from bitmosaic.report_page.read_sweep import read_sweep
from bitmosaic.sweeps import runner
from bitmosaic.sweeps.local_pool import Call, LocalPool, Outcome
from bitmosaic.sweeps.report import load_sweep, sweep_frame, sweep_table
from bitmosaic.sweeps.results import EARLY_FILE, RESULTS_FILE, RUNS_FILE, SweepRecord, read_results
from bitmosaic.sweeps.runner import merge_sweeps, open_status, run_sweep
from bitmosaic.sweeps.tasks import Expansion, SweepTask, expand
from bitmosaic.sweeps.worker import guarded
from simulator.errors import ConfigurationError
from simulator.precision import LayerPrecision
from workloads import open_network
from workloads.accuracy import AccuracyEvaluator, AccuracyResult, uniform
from workloads.tasks import Task, find_task
from workloads.weight_quantisers import DEFAULT_QUANTISER

ENVIRONMENT = dict(os.environ)  # with the user's cache: compiled kernels are in it
pytestmark = pytest.mark.usefixtures("own_cache")


class InTurn:
    """Makes every call in this process, in a shuffled order where there is a seed."""

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def outcomes(self, calls: Sequence[Call]) -> Generator[tuple[int, Outcome], None, None]:
        order = list(range(len(calls)))
        if self.seed is not None:
            random.Random(self.seed).shuffle(order)
        for number in order:
            yield number, Outcome(*guarded(*calls[number]))


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def _result(number: int) -> dict[str, Any]:
    """What a task might have found, in plain data."""
    return {
        "result": {
            "total_cycles": number, "latency_ms": number / 3, "energy_pj": 7.5 * number,
            "energy_by_component_pj": {"dram": 7.5 * number}, "macs": 5, "area_mm2": None, "worst_gap": 0.01,
            "unproven_layers": 0, "confidence": {"dram": "assumed"}, "not_modelled": ["leakage"],
        },
        "statistics": {"searches": 1, "search_seconds": 0.25},
    }


def _made_up(task: SweepTask) -> dict[str, Any]:
    return _result(int(task.key[:4], 16))


@pytest.fixture(scope="module")
def many() -> Expansion:
    """Forty tasks, which are not done in earnest."""
    return expand({
        "hardware": [{"base": "bit_fusion", "grid": {"clock_mhz": [float(100 + mhz) for mhz in range(20)]}}],
        "networks": ["digits_cnn"], "precisions": ["w8a8", "w4a4"],
    })


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "evaluate", _made_up)


@pytest.fixture
def whole(many: Expansion, made_up: None, tmp_path: Path) -> bytes:
    """The results file of an uninterrupted run."""
    status = run_sweep(many, tmp_path / "whole", InTurn())
    assert status.counts == {"done": 40} and status.left == 0
    return (tmp_path / "whole" / RESULTS_FILE).read_bytes()


# Killed, torn, refused ---------------------------------------------------------------------------------------------


def test_records_stand_in_the_order_of_the_tasks_however_they_end(
    many: Expansion, whole: bytes, tmp_path: Path
) -> None:
    assert [json.loads(line)["key"] for line in whole.splitlines()] == [task.key for task in many.tasks]
    for seed in range(3):
        folder = tmp_path / str(seed)
        run_sweep(many, folder, InTurn(seed))
        assert (folder / RESULTS_FILE).read_bytes() == whole and not (folder / EARLY_FILE).exists()


def test_a_finished_sweep_changes_no_byte(many: Expansion, whole: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    run_sweep(many, folder, InTurn())
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments_it_loses_only_what_was_in_flight(
    many: Expansion, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    log, left = tmp_path / "log", [len(many.tasks)]

    def slow(task: SweepTask) -> dict[str, Any]:
        with log.open("a") as file:
            file.write(task.key + "\n")
        left[0] -= 1
        # A child that is done before a busy machine kills it would be no test: it waits before its thirteenth task.
        time.sleep(0.004 if left[0] >= 0 else 60)
        return _made_up(task)

    monkeypatch.setattr(runner, "evaluate", slow)
    folder, chance, kills = tmp_path / "killed", random.Random(seed), 0
    for turn in range(60):
        child = os.fork()
        if child == 0:
            try:
                left[0] = 12
                run_sweep(many, folder, InTurn(1000 * seed + turn))
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0.0, 0.12))
        os.kill(child, signal.SIGKILL)
        _, how = os.waitpid(child, 0)
        if how == 0:
            break
        kills += 1
    run_sweep(many, folder, InTurn())
    assert kills >= 2
    assert (folder / RESULTS_FILE).read_bytes() == whole and not (folder / EARLY_FILE).exists()
    done = log.read_text().split()
    assert set(done) == {task.key for task in many.tasks} and len(done) <= 40 + kills


@pytest.mark.parametrize("cut", [1, 30, 400])
def test_a_torn_last_line_is_cut_off_and_said(many: Expansion, whole: bytes, tmp_path: Path, cut: int) -> None:
    path = tmp_path / "whole" / RESULTS_FILE
    path.write_bytes(whole[:-cut])
    told = Told()
    assert open_status(tmp_path / "whole").left == 1
    run_sweep(many, tmp_path / "whole", InTurn(), progress=told)
    assert path.read_bytes() == whole
    assert any(RESULTS_FILE in line and "torn" in line for line in told.lines)


def test_a_second_writer_is_refused(many: Expansion, whole: bytes, tmp_path: Path) -> None:
    with sole_writer(tmp_path / "whole"), pytest.raises(ConfigurationError, match="another run is writing"):
        run_sweep(many, tmp_path / "whole", InTurn())


def test_a_sweep_that_grew_keeps_what_it_has(many: Expansion, whole: bytes, tmp_path: Path) -> None:
    more = expand({**many.description.model_dump(mode="json"), "objectives": ["edp", "latency"]})
    status = run_sweep(more, tmp_path / "whole", InTurn(3))
    content = (tmp_path / "whole" / RESULTS_FILE).read_bytes()
    assert status.counts == {"done": 80} and content.startswith(whole)
    back = run_sweep(many, tmp_path / "whole", InTurn())
    assert (back.counts, back.others) == ({"done": 40}, 40)


def test_ctrl_c_keeps_what_has_ended(sweep_file: Path, made_up: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(InTurn):
        def outcomes(self, calls: Sequence[Call]) -> Generator[tuple[int, Outcome], None, None]:
            ended = super().outcomes(calls)
            yield from (next(ended) for _ in range(3))
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "local_pool", lambda description, workers: Interrupted(seed=8))
    folder = sweep_file.parent / "interrupted"
    result = _run("run", sweep_file, "--output", folder)
    assert result.exit_code == cli.INTERRUPTED and "the same command goes on from there" in result.stderr
    assert (folder / EARLY_FILE).exists()
    again = _run("run", sweep_file, "--output", folder)
    assert again.exit_code == cli.INTERRUPTED
    runs = [json.loads(line) for line in (folder / RUNS_FILE).read_text().splitlines()]
    assert [(run["tasks"], run["ended"]) for run in runs] == [(9, {"done": 3}), (6, {"done": 3})]


# Failures ----------------------------------------------------------------------------------------------------------


class Sabotaged(LocalPool):
    """Real workers; some calls fail, hang or kill their worker, the others find something made up."""

    def __init__(self, bad: dict[int, Call]) -> None:
        super().__init__(2, seconds=1.0)
        self.bad = bad

    def outcomes(self, calls: Sequence[Call]) -> Generator[tuple[int, Outcome], None, None]:
        """Replace the calls: by their number in this run."""
        good = [(json.loads, (json.dumps(_made_up(arguments[0])),)) for _, arguments in calls]
        return super().outcomes([self.bad.get(number, call) for number, call in enumerate(good)])


BAD: dict[int, Call] = {
    1: (time.sleep, (60,)), 4: (os.abort, ()), 5: (json.loads, ("{",)), 39: (os._exit, (7,)),
}


def test_failures_are_recorded_and_retried_alone(many: Expansion, whole: bytes, tmp_path: Path) -> None:
    folder, told = tmp_path / "bad", Told()
    status = run_sweep(many, folder, Sabotaged(BAD), progress=told)
    assert status.counts == {"done": 36, "timed_out": 1, "killed": 2, "failed": 1} and len(told.lines) == 4
    records = {record.key: record for record in read_results(folder)}
    found = [records[many.tasks[number].key] for number in BAD]
    assert [record.status for record in found] == ["timed_out", "killed", "failed", "killed"]
    assert "SIGABRT" in found[1].errors[0] and "JSONDecodeError" in found[2].errors[0] and found[2].result is None
    assert "Traceback" in (folder / "failures.txt").read_text()
    before = (folder / RESULTS_FILE).read_bytes()
    run_sweep(many, folder, InTurn())
    assert (folder / RESULTS_FILE).read_bytes() == before, "failures are not tried again unasked"
    run_sweep(many, folder, Sabotaged({1: BAD[4]}), retry_failed=True)
    assert open_status(folder).counts == {"done": 39, "killed": 1}
    again = (folder / RESULTS_FILE).read_bytes()
    assert again.startswith(before) and again[len(before):].count(b"\n") == 3, "one failed again in the same way"
    run_sweep(many, folder, InTurn(5), retry_failed=True)
    assert open_status(folder).counts == {"done": 40}
    target = tmp_path / "cleaned"
    assert merge_sweeps([folder], target) == 40
    assert (target / RESULTS_FILE).read_bytes() == whole


# Shares and merging ------------------------------------------------------------------------------------------------


def test_shares_join_to_the_bytes_of_the_whole(many: Expansion, whole: bytes, tmp_path: Path) -> None:
    folders = [tmp_path / f"share{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(folders, start=1):
        status = run_sweep(many, folder, InTurn(number), shard=(number, 3))
        assert status.left == 0 and status.task_count in (13, 14)
    assert merge_sweeps([folders[2], folders[0]], tmp_path / "joined") == 27
    assert open_status(tmp_path / "joined").left == 13
    assert merge_sweeps([folders[1]], tmp_path / "joined") == 40
    assert (tmp_path / "joined" / RESULTS_FILE).read_bytes() == whole


def test_folders_that_contradict_each_other_are_not_merged(many: Expansion, whole: bytes, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / RESULTS_FILE).write_bytes(whole.replace(b'"macs":5', b'"macs":6', 1))
    with pytest.raises(ConfigurationError, match="has another result than"):
        merge_sweeps([tmp_path / "whole", other], tmp_path / "joined")
    assert not (tmp_path / "joined" / RESULTS_FILE).exists()


# In earnest --------------------------------------------------------------------------------------------------------


def _model(size: int) -> onnx.ModelProto:
    """One convolution of an image [1, 2, size, size]."""
    node = helper.make_node("Conv", ["image", "w"], ["scores"], name="conv", kernel_shape=[3, 3])
    weights = numpy_helper.from_array(np.ones((4, 2, 3, 3), dtype=np.float32), "w")
    graph = helper.make_graph(
        [node], "small", [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 2, size, size])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)], [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def sweep_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over a network of one small convolution; its third precision cannot run on the machine."""
    folder = tmp_path_factory.mktemp("sweep")
    onnx.save(_model(6), folder / "small.onnx")
    path = folder / "small.yaml"
    path.write_text(
        "bitmosaic_version: 1\nnetworks: [small.onnx]\nprecisions: [w8a8, w4a4, 'w4:fp8_e4m3']\nobjectives: [latency]\n"
        "hardware: [{base: bit_fusion, grid: {grid.rows: [4, 8, 16]}}]\ntarget_gap: 0.5\n"
    )
    return path


@pytest.fixture(scope="module")
def in_earnest(sweep_file: Path, own_cache: None) -> bytes:
    """The results file of a sweep that this process did alone, task after task."""
    run_sweep(expand(sweep_file), sweep_file.parent / "alone", InTurn())
    return (sweep_file.parent / "alone" / RESULTS_FILE).read_bytes()


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, ["sweep", *map(str, arguments)])


def test_a_task_costs_what_simulate_says(sweep_file: Path, in_earnest: bytes) -> None:
    frame = load_sweep(sweep_file.parent / "alone")
    assert list(frame["status"]) == ["done", "done", "infeasible"] * 3
    assert "cannot run this format" in frame["errors"][2] and frame["errors"][0] == ""
    point = bitmosaic.uniform_cost(
        sweep_file.parent / "small.onnx", "bit_fusion", "w4a4", objective="latency",
        budget=expand(sweep_file).description.budget, workers=1,
    ).record
    row = frame.iloc[7]
    assert (row["grid.axes.rows.size"], row["precision"]) == (16, "w4a4")
    assert row["latency_cycles"] == point.total_cycles and row["energy_uj"] == pytest.approx(point.energy_uj)
    assert row["area_mm2"] == pytest.approx(bitmosaic.open_accelerator("bit_fusion").area_mm2)
    assert row["worst_gap_percent"] == pytest.approx(100 * point.worst_gap)


def test_a_layer_that_ends_at_the_gap_asked_for_is_proven(sweep_file: Path, in_earnest: bytes) -> None:
    description = expand(sweep_file).description.model_dump(mode="json")
    task = expand({**description, "target_gap": 0.01, "precisions": ["w8a8"]}).tasks[0]
    found = runner.evaluate(task)["result"]
    assert found["unproven_layers"] == 0 and found["worst_gap"] < 0.01 + 1e-9


def test_the_command_killed_and_started_again_ends_with_the_same_bytes(
    sweep_file: Path, in_earnest: bytes, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "bitmosaic", "sweep", "run", str(sweep_file), "--output", str(tmp_path / "r"),
               "--workers", "1"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "to do" in process.stderr.readline()  # the folder is there, and workers are being started
    refused = _run("run", sweep_file, "--output", tmp_path / "r")
    process.kill()
    process.wait()
    process.stderr.close()
    assert refused.exit_code == 2 and "another run is writing" in refused.stderr
    assert not (tmp_path / "r" / RESULTS_FILE).exists()
    result = _run("run", sweep_file, "--output", tmp_path / "r", "--workers", "2")
    assert result.exit_code == 0, result.output
    assert "9 tasks on 3 hardware points: 6 done, 3 infeasible" in result.stdout
    assert (tmp_path / "r" / RESULTS_FILE).read_bytes() == in_earnest
    run = json.loads((tmp_path / "r" / RUNS_FILE).read_text())
    assert run["ended"] == {"done": 6, "infeasible": 3} and run["searches"] == 0, "all mappings are in the cache"


def test_a_network_whose_file_changes_is_another_one(sweep_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(sweep_file.read_text())
    onnx.save(_model(6), tmp_path / "small.onnx")
    first = expand(path).tasks
    assert [task.key for task in first] == [task.key for task in expand(sweep_file).tasks], "wherever it lies"
    onnx.save(_model(8), tmp_path / "small.onnx")
    assert not {task.key for task in first} & {task.key for task in expand(path).tasks}
    (outcome,) = InTurn().outcomes([(runner.evaluate, (first[0],))])
    assert outcome[1].status == "failed" and "has changed since the sweep began" in outcome[1].errors[0]


def test_show_status_and_csv(sweep_file: Path, in_earnest: bytes, tmp_path: Path) -> None:
    folder = sweep_file.parent / "alone"
    shown = _run("show", folder, "--sort", "energy_uj", "--front")
    assert shown.exit_code == 0 and "front" in shown.output and "infeasible: bit_fusion" in shown.output
    assert "6 done, 3 infeasible" in _run("status", folder).output
    assert "9 rows" in _run("show", folder, "--csv", tmp_path / "all.csv").output
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 10
    wrong = _run("show", folder, "--sort", "enrgy_uj")
    assert wrong.exit_code == 2 and "did you mean 'energy_uj'" in wrong.stderr
    assert _run("show", tmp_path).exit_code == 2 and _run("run", sweep_file, "--shard", "3/2").exit_code == 2


def test_front_is_of_one_network_and_precision() -> None:
    def record(key: str, precision: str, latency_ms: float, energy_pj: float, area_mm2: float | None) -> SweepRecord:
        result = {**_result(1)["result"], "latency_ms": latency_ms, "energy_pj": energy_pj, "area_mm2": area_mm2}
        return SweepRecord.model_validate_json(json.dumps({
            "key": key, "hardware": "h", "fields": {"list": [1, 2]}, "network": "n", "precision": precision,
            "objective": "edp", "status": "done", "result": result,
        }))

    frame = sweep_frame([
        record("a", "w8a8", 2.0, 2.0, 2.0), record("b", "w8a8", 2.0, 3.0, 2.0), record("c", "w8a8", 3.0, 3.0, 1.0),
        record("d", "w4a4", 1.0, 1.0, 1.0), record("e", "w4a4", 0.5, 2.0, None),
    ])
    assert list(frame["front"]) == [True, False, True, True, True] and frame["list"][0] == "[1, 2]"
    assert len(sweep_frame([])) == 0


# Accuracies --------------------------------------------------------------------------------------------------------


def test_accuracies_are_measured_once_a_policy_and_shared_by_all_points(
    made_up: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {
        "hardware": [{"base": "bit_fusion", "grid": {"grid.rows": [4, 8, 16]}}],
        "networks": ["digits_cnn"], "precisions": ["w8a8", "w2a2"],
    }
    expansion = expand({**plain, "accuracy": True})
    assert not {task.key for task in expansion.tasks} & {task.key for task in expand(plain).tasks}
    network = open_network("digits_cnn")
    evaluator = AccuracyEvaluator(network, cast("Task", find_task(network)), quantiser=DEFAULT_QUANTISER)
    expected = {
        label: 100 * evaluator.measure(uniform(network, LayerPrecision.parse(label))).value
        for label in ("w8a8", "w2a2")
    }
    measured, measure_it = [], AccuracyEvaluator.measure

    def measure(self: AccuracyEvaluator, assignment: dict[str, LayerPrecision]) -> AccuracyResult:
        measured.append(next(iter(assignment.values())).label)
        if len(measured) == 2:
            raise KeyboardInterrupt  # what was measured before is kept
        return measure_it(self, assignment)

    monkeypatch.setattr(AccuracyEvaluator, "measure", measure)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(expansion, tmp_path / "r", InTurn())
    assert run_sweep(expansion, tmp_path / "r", InTurn()).counts == {"done": 6}
    assert measured == ["w8a8", "w2a2", "w2a2"]
    frame = load_sweep(tmp_path / "r")
    assert list(frame["accuracy_percent"]) == pytest.approx([expected["w8a8"], expected["w2a2"]] * 3)
    assert expected["w8a8"] > expected["w2a2"] + 10
    content = (tmp_path / "r" / RESULTS_FILE).read_bytes()
    assert run_sweep(expand(tmp_path / "r" / "sweep.yaml"), tmp_path / "r", InTurn()).counts == {"done": 6}
    assert (tmp_path / "r" / RESULTS_FILE).read_bytes() == content and len(measured) == 3
    assert "accuracy (%)" in _run("show", tmp_path / "r").output
    report = read_sweep(tmp_path / "r")
    place = [measure.key for measure in report.measures].index("accuracy_percent")
    assert report.measures[place].direction == "max"
    assert [point.values[place] for point in report.points] == list(frame["accuracy_percent"])
    assert {point.subject for point in report.points} == {"digits_cnn"}


def test_accuracies_of_a_network_without_weights_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"networks\[1\].*has no trained weights"):
        expand({"hardware": [{"base": "bit_fusion"}], "networks": ["digits_cnn", "mobilenet_v2"],
                "precisions": ["w8a8"], "accuracy": True})


def test_with_accuracies_points_of_all_precisions_compare() -> None:
    def record(key: str, precision: str, energy_pj: float, accuracy: float | None) -> SweepRecord:
        result = {**_result(1)["result"], "energy_pj": energy_pj}
        if accuracy is not None:
            result["accuracy"] = {"metric": "accuracy", "value": accuracy, "count": 10}
        return SweepRecord.model_validate_json(json.dumps({
            "key": key, "hardware": "h", "fields": {}, "network": "n", "precision": precision,
            "objective": "edp", "status": "done", "result": result,
        }))

    measured = [record("a", "w8a8", 2.0, 0.9), record("b", "w4a4", 1.0, 0.8), record("c", "w2a2", 1.5, 0.5)]
    assert list(sweep_frame(measured)["front"]) == [True, True, False]
    unmeasured = [record("a", "w8a8", 2.0, None), record("b", "w4a4", 1.0, None)]
    assert list(sweep_frame(unmeasured)["front"]) == [True, True]
    agreed = [each.model_copy(update={"result": each.result.model_copy(update={  # type: ignore[union-attr]
        "accuracy": each.result.accuracy.model_copy(update={"metric": "agreement with FP32"})  # type: ignore[union-attr]
    })}) for each in measured]
    names = ("accuracy (%)", "agreement with FP32 (%)", "score (%)")
    for records, heading in zip((measured, agreed, [*measured, *agreed]), names, strict=True):
        headings = [str(column.header) for column in sweep_table(sweep_frame(records)).columns]
        assert [name for name in headings if name in names] == [heading]
    assert list(sweep_frame(agreed)["metric"]) == ["agreement with FP32"] * 3
    assert "accuracy" not in unmeasured[0].model_dump(mode="json")["result"]
    assert SweepRecord.model_validate_json(measured[0].model_dump_json()) == measured[0]
