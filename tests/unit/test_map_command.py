"""``bitmosaic map``: searches, files that are edited and simulated again, constraints, fronts, a real Ctrl-C."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import bitmosaic
from bitmosaic import cli, mapping_run  # before the fixture: compiled kernels are in the user's cache
from mapper.cache import MODEL_VERSION

LAYER = "fc:K=40,C=48,P=6"
ENVIRONMENT = dict(os.environ)  # with the user's cache: compiled kernels are in it
pytestmark = pytest.mark.usefixtures("own_cache")


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, ["map", *(str(argument) for argument in arguments)])


def test_a_layer_is_shown_written_edited_and_simulated_again(tmp_path: Path) -> None:
    result = _run(LAYER, "--objective", "latency", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    layer, w8a8 = bitmosaic.parse_layer(LAYER), bitmosaic.LayerPrecision.parse("w8a8")
    machine = bitmosaic.open_accelerator("bit_fusion")
    found = bitmosaic.map_layer(layer, w8a8, machine, "latency")
    assert found.model_version == MODEL_VERSION and f'"model_version":{MODEL_VERSION}' in found.model_dump_json()
    path = tmp_path / "fc.yaml"
    mapping = bitmosaic.load_mapping(path)
    assert bitmosaic.simulate(layer, w8a8, machine, mapping).total_cycles == found.cost
    assert bitmosaic.nest_text(layer, w8a8, machine, mapping) in result.stdout
    assert f"latency {found.cost:.4g} cycles, no mapping of the space costs less than {found.lower_bound:.4g}: " \
        "optimal, gap 0 %" in result.stdout
    terms = f"Model of machines and proofs: version {MODEL_VERSION}; costs by the fast engine\n"
    assert terms in result.stdout and f"# {terms}" in (tmp_path / "fc.yaml").read_text(encoding="utf-8")
    assert "Space: axis factors" in result.stdout and f"Mappings: {tmp_path}" in result.stdout
    (command,) = re.findall(r"^# bitmosaic map (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    again = _run(*command.split())
    assert again.exit_code == 0 and f"latency {found.cost:.4g} cycles, simulated" in again.stdout

    beside = _run(*command.split(), "--latency-limit", "9", "--objective", "energy", "--front", "--out", tmp_path)
    assert beside.exit_code == 2 and all(
        f"error: {option}" in beside.stderr for option in ("--latency-limit=9", "--front", "--out=")), beside.stderr

    tile = mapping.level("buffer").tile["K"]
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f"K: {tile}, C", "K: 41, C"), encoding="utf-8")
    refused = _run(*command.split())
    line = next(i for i, each in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if "K: 41" in each)
    assert refused.exit_code == 2
    assert f"error: {path}:{line}: levels[1].tile.K=41: the layer has 40\n" in refused.stderr
    path.write_text(text.replace("levels:", "level:"), encoding="utf-8")
    assert "did you mean 'levels'?" in _run(*command.split()).stderr


def test_a_network_is_a_table_and_a_file_a_layer(tmp_path: Path) -> None:
    result = _run("digits_cnn", "--gap", "0.5", "--seconds", "0.2", "--out", tmp_path, "--hardware", "stripes")
    assert result.exit_code == 0, result.output
    layers = bitmosaic.open_network("digits_cnn").layers
    assert {path.stem for path in tmp_path.iterdir()} == {layer.name for layer in layers}
    for layer in layers:
        mapping = bitmosaic.load_mapping(tmp_path / f"{layer.name}.yaml")
        assert re.search(rf"^ {layer.name} .*(optimal|feasible)", result.stdout, re.MULTILINE)
        assert f"digits_cnn:{layer.name} --hardware stripes" in (tmp_path / f"{layer.name}.yaml").read_text()
        assert mapping.levels
    for option in (("--front",), ("--from", tmp_path / f"{layers[0].name}.yaml")):
        refused = _run("digits_cnn", *option)
        assert refused.exit_code == 2 and f"{option[0]}: is for one layer" in refused.stderr


def test_constraints_limits_and_fronts(tmp_path: Path) -> None:
    path = tmp_path / "constraints.yaml"
    path.write_text("constraints_version: 1\nspatial:\n  columns: {K: 13}\n", encoding="utf-8")
    result = _run(LAYER, "--constraints", path, "--objective", "energy")
    assert result.exit_code == 0 and "along columns: K13" in result.stdout
    assert "within the constraints spatial.columns.K=13" in re.sub(r"\s+", " ", result.stdout)
    path.write_text("constraints_version: 1\nspatial:\n  columns: {K: 64}\n", encoding="utf-8")
    refused = _run(LAYER, "--constraints", path)
    assert refused.exit_code == 2 and "needs 64 along the axis, which has 32" in refused.stderr

    result = _run("fc:K=20,C=12,P=2", "--front", "--out", tmp_path / "front", "--hardware", "eyeriss_like")
    assert result.exit_code == 0 and "All points, proven" in result.stdout
    points = [(int(cycles.replace(",", "")), float(energy.replace(",", ""))) for cycles, energy in re.findall(
        r"^ +\d+ +([\d,]+) +[\d,]+ +([\d,.]+) +[\d,.]+ +0\.00 ", result.stdout, re.MULTILINE)]
    assert len(points) == len(list((tmp_path / "front").iterdir())) >= 2
    assert points == sorted(points) and [energy for _, energy in points] == sorted(
        (energy for _, energy in points), reverse=True
    )
    # A limit between two points gives the energy of the faster one.
    limited = _run("fc:K=20,C=12,P=2", "--latency-limit", str(points[1][0] - 1), "--objective", "energy",
                   "--hardware", "eyeriss_like")
    assert limited.exit_code == 0 and f"{points[0][0]:,} cycles (" in limited.stdout
    for wrong in (("--front", "--energy-limit", "5"), ("--latency-limit", "5", "--objective", "latency")):
        assert _run(LAYER, *wrong).exit_code == 2


def test_wrong_subjects_are_refused() -> None:
    for subject, part in (("digit_cnn", "did you mean 'digits_cnn'"), ("fc:K=0", "must be at least 1"),
                          ("nothing.yaml", "no such file"), ("digits_cnn:conv9", "no such layer")):
        refused = _run(subject)
        assert refused.exit_code == 2 and part in refused.stderr, refused.stderr
    assert mapping_run.cost_text(5.0, "edp") == "edp 5 pJ·cycles"
    refused = _run(LAYER, "--precision", "w32a8")
    assert refused.exit_code == 2 and "w32a8" in refused.stderr


def test_a_signal_gives_the_best_mapping_with_its_bound_and_gap(tmp_path: Path) -> None:
    # A real process gets a real signal, soon after its search has found a first mapping.
    code = f"""
import os, signal, threading
import bitmosaic
from mapper.incumbent import Incumbent
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin deaf to it
os.environ["BITMOSAIC_CACHE_DIR"] = {str(tmp_path / "cache")!r}  # compiled kernels stay where they are
# The signal is for the search, not for the compiler.
bitmosaic.map_layer(bitmosaic.parse_layer("conv:K=4,C=4,P=5,Q=5,R=3,S=3,padding=1"),
                    bitmosaic.LayerPrecision.parse("w8a8"), bitmosaic.open_accelerator("eyeriss_like"), "edp")
consider, timers = Incumbent.consider_many, []
def and_then_a_signal(self, *choices, **more):
    simulated = consider(self, *choices, **more)
    if not timers:
        timers.append(threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)))
        timers[0].start()
    return simulated
Incumbent.consider_many = and_then_a_signal
from bitmosaic.cli import main
main(["map", "conv:K=96,C=80,P=56,Q=56,R=5,S=5,padding=2", "--hardware", "eyeriss_like", "--objective", "edp",
      "--seconds", "100", "--out", {str(tmp_path)!r}])
"""
    job = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert job.returncode == 130, job.stderr
    assert job.stderr.endswith("Interrupted: bounds and gaps are those that were reached.\n")
    (bound, gap) = re.findall(r"no mapping of the space costs less than (\S+): feasible, gap (\S+) %", job.stdout)[0]
    assert float(bound.replace(",", "")) > 0 and 0 < float(gap) < 100
    assert job.stdout.startswith("conv (K96") and bitmosaic.load_mapping(tmp_path / "conv.yaml").levels
