"""The command line on a network made here: every command, its options, exit codes, reuse and interruption."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

import bitmosaic
from bitmosaic import cli
from bitmosaic.commands import parts as command_parts
from bitmosaic.explorations import explorer
from bitmosaic.progress import PlainProgress, TerminalProgress
from hw_configs import list_presets
from workloads import list_networks
from workloads.tasks.digits import DigitsTask
from workloads.tasks.efficientnet import EfficientNetTask
from workloads.tasks.magika import MagikaTask
from workloads.tasks.minilm import MiniLmTask
from workloads.tasks.pp_ocrv6 import PpOcrTask

COMMANDS = (
    "compare", "convert", "explore", "export", "hardware", "map", "networks", "redraw", "report", "simulate", "sweep",
    "validate",
)
ENVIRONMENT = dict(os.environ)  # with the user's cache: compiled kernels are in it
QUICK = ("--seconds-per-layer", "0.1", "--gap", "0.5", "--workers", "1")
pytestmark = pytest.mark.usefixtures("own_cache")


def _model(shape: list[int | str]) -> onnx.ModelProto:
    """One convolution and one matrix product: image [1, 1, 6, 6] → scores [1, 3]."""
    rng = np.random.default_rng(11)
    weights = {"conv.w": rng.normal(size=(2, 1, 3, 3)), "fc.w": rng.normal(size=(3, 32))}
    nodes = [
        helper.make_node("Conv", ["image", "conv.w"], ["c"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("Flatten", ["c"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fc.w"], ["scores"], name="fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``small.onnx``, ``open.onnx`` (its batch, rows and columns are not given) and ``images.npz``."""
    folder = tmp_path_factory.mktemp("files")
    onnx.save(_model([1, 1, 6, 6]), folder / "small.onnx")
    onnx.save(_model(["batch", 1, "rows", "columns"]), folder / "open.onnx")
    np.savez(folder / "images.npz", image=np.random.default_rng(5).normal(size=(24, 1, 6, 6)).astype(np.float32))
    return folder


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def _explore(folder: Path, results: Path) -> Result:
    return _run("explore", folder / "small.onnx", "--inputs", folder / "images.npz", "--menu", "w8a8,w4a8",
                "--points", "2", "--output", results, *QUICK)


@pytest.fixture(scope="module")
def explored(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The results folder and the output of a finished exploration."""
    results = tmp_path_factory.mktemp("results") / "small"
    return results, _explore(folder, results)


def _bytes(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_help_names_every_command_and_every_option_has_a_text() -> None:
    result = _run("--help")
    assert result.exit_code == 0
    assert tuple(cli.main.commands) and set(cli.main.commands) == set(COMMANDS)
    for name in COMMANDS:
        assert re.search(rf"^  {name}  +\S.*[^.]\.$", result.output, re.MULTILINE), f"{name}: a whole sentence"
        page = _run(name, "-h")
        assert page.exit_code == 0 and f"Usage: main {name}" in page.output
        for option in cli.main.commands[name].params:
            if option.param_type_name == "option":
                assert option.opts[0] in page.output and option.help  # type: ignore[attr-defined]
    assert _run("--version").output == f"bitmosaic {bitmosaic.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["explore", "--help"], ["hardware"]])
def test_help_and_lists_load_nothing_heavy(arguments: list[str]) -> None:
    heavy = ("ortools", "numba", "matplotlib", "onnxruntime", "pandas")
    code = (
        "import sys, click\nfrom bitmosaic.cli import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]" and result.stdout


METRICS = {
    "digits_cnn": DigitsTask.metric, "magika": MagikaTask.metric, "pp_ocrv6": PpOcrTask.metric,
    "minilm": MiniLmTask.metric, "efficientnet_lite0": EfficientNetTask.metric,
}


def test_an_agreement_is_listed_as_such() -> None:
    (line,) = re.findall(r"^.*\befficientnet_lite0 .*$", _run("networks").output, re.MULTILINE)
    assert "cost and agreement with FP32" in line and "accuracy" not in line


def test_lists_hold_everything_that_is_built_in() -> None:
    machines, networks = _run("hardware"), _run("networks")
    assert machines.exit_code == networks.exit_code == 0
    for preset in list_presets():
        assert re.search(rf"^{preset.name} +{re.escape(preset.description)} *$", machines.output, re.MULTILINE)
    for info in list_networks():
        assert info.metric == METRICS.get(info.name, "") and (info.kind == "trained") == bool(info.metric)
        measures = f"cost and {info.metric}" if info.metric else "cost only"
        assert re.search(rf"^{info.name} +{measures} +{info.requires or '—'} +\S", networks.output, re.MULTILINE)


def test_validate_accepts_presets() -> None:
    presets = Path(sys.modules["hw_configs"].__file__ or "").parent / "presets"
    files = sorted(presets.glob("*.yaml"))
    result = _run("validate", *files)
    assert result.exit_code == 0 and result.output == "".join(f"{path}: valid\n" for path in files)


def test_explore_prints_tables_and_fills_the_folder(explored: tuple[Path, Result]) -> None:
    results, result = explored
    assert result.exit_code == 0, result.output
    for title in ("small on bit_fusion", ": cycles\n", ": energy (nJ)\n", ": mappings\n", "FP32 agreement with FP32"):
        assert title in re.sub(" +\n", "\n", result.stdout)
    assert result.stdout.endswith(f"Records, tables and plots: {results}\n")
    assert "mapping: 4 to do" in result.stderr and "mapping: 4/4 done in" in result.stderr
    with (results / "points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["point"] for row in rows][:2] == ["w8a8", "w4a8"]
    for row in rows:
        if row["uniform"] or "True" in (row["latency_front"], row["energy_front"]):
            assert f"{int(row['latency_cycles']):,}" in result.stdout
    for name in ("latency_accuracy", "energy_accuracy", "latency_energy", "layers"):
        assert (results / f"plots/{name}.png").stat().st_size > 5000 and (results / f"plots/{name}.svg").exists()
    report = (results / "report.txt").read_text()
    assert report.strip() and report in result.stdout


def test_a_second_run_reuses_everything(
    folder: Path, explored: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, first = explored
    before = _bytes(results)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("must not be called")

    monkeypatch.setattr("bitmosaic.explorations.mapping_book.map_many", refuse)
    monkeypatch.setattr("bitmosaic.explorations.accuracy_book.AccuracyEvaluator", refuse)
    monkeypatch.setattr("bitmosaic.explorations.job.check_fits", refuse)
    again = _explore(folder, results)
    assert again.exit_code == 0 and again.stdout == first.stdout
    assert _bytes(results) == before


def test_redraw_draws_the_same_again_or_another_point(explored: tuple[Path, Result]) -> None:
    results, first = explored
    before = _bytes(results)
    for path in before:
        if path.suffix in (".png", ".svg", ".csv", ".txt"):
            path.unlink()
    again = _run("redraw", results)
    assert again.exit_code == 0 and again.stdout == first.stdout and _bytes(results) == before
    other = _run("redraw", results, "--point", "w8a8")
    assert other.exit_code == 0 and "Point w8a8: cycles" in other.stdout
    assert "Point w8a8: cycles" in (results / "report.txt").read_text()
    _run("redraw", results)
    assert _bytes(results) == before


def test_simulate_shows_one_precision_and_writes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run("simulate", folder / "small.onnx", "--hardware", "stripes", "--precision", "w4a8",
                  "--objective", "latency", *QUICK)
    assert result.exit_code == 0, result.output
    point = bitmosaic.uniform_cost(
        folder / "small.onnx", "stripes", "w4a8", objective="latency",
        budget=bitmosaic.SearchBudget(cpu_seconds=0.1, target_gap=0.5), workers=1,
    )
    assert f"small in w4a8: {point.record.total_cycles:,} cycles, {point.record.latency_ms:.4g} ms" in result.stdout
    for row in point.record.layers:
        assert re.search(rf"^ {row.layer} +w4a8 +{row.total_cycles:,} +{row.compute_cycles:,} ", result.stdout, re.M)
    assert not list(tmp_path.iterdir())


def test_options_reach_the_job(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def record(network: Any, accelerator: Any, **options: Any) -> None:
        calls.append((network.name, accelerator, options))
        raise bitmosaic.BitmosaicError("seen")

    monkeypatch.setattr(explorer, "explore", record)
    assert _run("explore").exit_code == 2
    name, machine, options = calls.pop()
    assert (name, machine) == ("digits_cnn", "bit_fusion")
    assert options.pop("progress") is not None
    assert options == {
        "menu": None, "objective": "edp", "sensitivity": "auto", "quantiser": None, "method": None,
        "measure_harm": None, "keep_first_last": None, "weight_memory_limit_kib": None, "accuracy_at_least": None,
        "latency_limit_ms": None, "energy_limit_uj": None,
        "layer_menus": {}, "tied": (), "minimise": "latency", "points": 10, "inputs": None,
        "flexiq_selection": None, "flexiq_extraction": None, "flexiq_width": None,
        "seada_codes": None, "seada_score": None, "seada_weight": None,
        "gradients": "own", "results": None, "budget": explorer.DEFAULT_BUDGET, "workers": None,
    }
    _run("explore", folder / "open.onnx", "--shape", "image=1x1x6x6", "--hardware", "loom", "--menu", "w8a8, w4a8",
         "--objective", "energy", "--sensitivity", "weight_error", "--quantiser", "gptq", "--method", "amp",
         "--measure-harm", "--keep-first-last", "w8a8", "--gradients", "torch",
         "--layer-menu", "conv*=w8a8, w4a8", "--layer-menu", "a=b=w4a8", "--tie", "q*", "--tie", "k",
         "--flexiq-selection", "evolutionary", "--flexiq-extraction", "dynamic", "--flexiq-width", "16",
         "--seada-codes", "twos_complement", "--seada-score", "max", "--seada-weight", "macs",
         "--weight-memory-limit", "3.5", "--latency-limit", "0.5", "--energy-limit", "12",
         "--accuracy-at-least", "90", "--minimise", "memory", "--points", "3",
         "--inputs", "some.npz", "--output", tmp_path, "--seconds-per-layer", "0.5", "--gap", "0.25", "--workers", "2")
    name, machine, options = calls.pop()
    del options["progress"]
    assert (name, machine) == ("open", "loom") and options == {
        "menu": ["w8a8", "w4a8"], "objective": "energy", "sensitivity": "weight_error", "quantiser": "gptq",
        "method": "amp", "measure_harm": True, "keep_first_last": "w8a8", "gradients": "torch",
        "flexiq_selection": "evolutionary", "flexiq_extraction": "dynamic", "flexiq_width": 16,
        "seada_codes": "twos_complement", "seada_score": "max", "seada_weight": "macs",
        "weight_memory_limit_kib": 3.5, "latency_limit_ms": 0.5, "energy_limit_uj": 12.0, "accuracy_at_least": 0.9,
        "minimise": "memory", "points": 3,
        "layer_menus": {"conv*": ["w8a8", "w4a8"], "a=b": ["w4a8"]}, "tied": ("q*", "k"),
        "inputs": Path("some.npz"), "results": tmp_path, "workers": 2,
        "budget": bitmosaic.SearchBudget(cpu_seconds=0.5, target_gap=0.25),
    }


@pytest.mark.parametrize("text", ["conv1", "=w8a8", "conv1=", "conv1= , "])
def test_a_layers_menu_that_cannot_be_read_is_named(text: str) -> None:
    result = _run("explore", "--layer-menu", text)
    assert result.exit_code == 2 and f"--layer-menu={text!r}: must be PATTERN=PRECISION" in result.stderr


def test_without_inputs_a_network_of_ones_own_has_a_cost_only(folder: Path, tmp_path: Path) -> None:
    result = _run("explore", folder / "open.onnx", "--shape", "image=1,1,6,6", "--menu", "w4a8", "--output",
                  tmp_path / "out", *QUICK)
    assert result.exit_code == 0, result.output
    assert "open: cost only (no data were given to measure accuracy on)" in result.stderr
    assert "has a cost only" in result.stdout and "accuracy (%)" not in result.stdout
    assert not (tmp_path / "out/plots/latency_accuracy.png").exists()


def test_ctrl_c_leaves_usable_results_and_exit_code_130(folder: Path, tmp_path: Path) -> None:
    class Interrupt(PlainProgress):
        def update(self, stage: str, done: int, total: int) -> None:
            if stage == "sensitivity":
                raise KeyboardInterrupt

    results = tmp_path / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command_parts, "PlainProgress", Interrupt)
        stopped = _explore(folder, results)
    assert stopped.exit_code == 130
    assert stopped.stderr.endswith(
        f"Interrupted: 2 points kept, drawn and listed in {results}; the same command goes on from there.\n"
    )
    assert re.search("Point w[48]a8: cycles", stopped.stdout)
    assert (results / "plots/latency_accuracy.png").exists() and (results / "points.csv").exists()
    assert _run("redraw", results).stdout == stopped.stdout
    kept = (results / "points.jsonl").read_bytes()
    assert _explore(folder, results).exit_code == 0
    assert (results / "points.jsonl").read_bytes().startswith(kept)


def test_ctrl_c_in_other_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bitmosaic.explorations.baseline_cost.map_network", interrupt)
    result = _run("simulate", folder / "small.onnx")
    assert result.exit_code == 130 and result.stderr == "Interrupted.\n" and result.stdout == ""


def test_a_signal_stops_a_real_process_in_order(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bitmosaic", "explore", "--output", str(tmp_path / "out"), "--workers", "1",
               "--seconds-per-layer", "20", "--gap", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as job:
        assert job.stderr is not None and job.stdout is not None
        lines = []
        for line in job.stderr:
            lines.append(line)
            if line.startswith("mapping:"):
                break
        job.send_signal(signal.SIGINT)
        rest, shown = job.stderr.read(), job.stdout.read()
    assert job.returncode == 130, lines
    assert re.search(r"^Interrupted: .* in .*; the same command goes on from there\.$", rest, re.MULTILINE)
    assert "Traceback" not in rest + shown and "FP32 accuracy" in shown
    settings = json.loads((tmp_path / "out/inputs/settings.json").read_text())
    assert settings["network"] == "digits_cnn" and (tmp_path / "out/report.txt").exists()


def test_plain_progress_tells_rate_and_time_left() -> None:
    now = [0.0]
    stream = StringIO()
    progress = PlainProgress(stream, clock=lambda: now[0])
    progress.update("mapping", 10, 30)
    for done in (11, 12, 30):
        now[0] += 6.0
        progress.update("mapping", done, 30)
    progress.update("mapping", 30, 30)
    progress.update("mapping", 0, 4)
    assert stream.getvalue().splitlines() == [
        "mapping: 20 to do, 10 are done already", "mapping: 11/30, 0.167/s, 114 s left",
        "mapping: 12/30, 0.167/s, 108 s left", "mapping: 30/30 done in 18.0 s", "mapping: 4 to do",
    ]


def test_bars_on_a_terminal_tell_rate_and_time_left() -> None:
    stream = StringIO()
    with TerminalProgress(Console(file=stream, force_terminal=True, width=100)) as bars:
        bars.update("mapping", 0, 3)
        bars.update("mapping", 1, 3)
        bars.update("mapping", 3, 3)
        bars.say("a line [with] brackets")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "a line [with] brackets" in text
    assert re.search(r"mapping .* 3/3 [\d.e+]+/s 0:00:00", text)


def test_a_narrow_terminal_cuts_no_number(explored: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch) -> None:
    results, _ = explored
    narrow = StringIO()
    monkeypatch.setattr(command_parts.sys, "stdout", narrow)
    monkeypatch.setattr(command_parts, "PIPE_WIDTH", 40)
    exploration = bitmosaic.load_exploration(results)
    cli._show(exploration, None)
    chosen = exploration.chosen()
    assert chosen is not None and "…" not in narrow.getvalue()
    words = narrow.getvalue().split()
    assert f"{chosen.record.total_cycles:,}" in words
    for row in chosen.record.layers:
        assert {row.layer, row.precision, f"{row.total_cycles:,}", f"{100 * row.gap:.1f}"} <= set(words)
