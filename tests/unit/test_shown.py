"""Every public result shows itself in a notebook and is a frame in one call; bars of long work in notebooks."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.formatters import DisplayFormatter

import bitmosaic
from bitmosaic.progress import Silent, chosen_progress
from bitmosaic.views.shown import _VIEWS, MOST_ROWS
from simulator.shown import Shown

BUDGET = bitmosaic.SearchBudget(cpu_seconds=0.1, target_gap=0.5)
W8A8 = bitmosaic.LayerPrecision.parse("w8a8")


def _html(value: object) -> str:
    """What IPython sends to a notebook."""
    text = DisplayFormatter().format(value)[0]["text/html"]
    assert isinstance(text, str)
    return text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> bitmosaic.UniformRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITMOSAIC_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        return bitmosaic.uniform_run("digits_cnn", "bit_fusion", "w8a8", budget=BUDGET, workers=1)


# Values that are given to Bitmosaic, not results of it, or that a result holds among its own rows.
NOT_SHOWN = {
    "AccuracyEvaluator", "ChannelSplit", "Choice", "Distribution", "FloatingPointUnit", "Format", "FrontPoint",
    "GroupScales", "Layer", "LayerPrecision", "LayerValues", "MappingBatch", "MappingConstraints", "MappingLevel",
    "NotebookProgress", "PlainProgress", "Progress", "Range", "SearchBudget", "Source", "Tile", "TileOffer",
    "ValueRecorder", "VectorOp", "FloatingLayerCost",
}


def test_every_public_class_is_shown_or_said_not_to_be() -> None:
    classes = {name for name in bitmosaic.__all__ if inspect.isclass(getattr(bitmosaic, name))}
    errors = {name for name in classes if issubclass(getattr(bitmosaic, name), BaseException)}
    shown = {name for name in classes if issubclass(getattr(bitmosaic, name), Shown)}
    assert shown | NOT_SHOWN | errors == classes and not shown & NOT_SHOWN
    assert {getattr(bitmosaic, name) for name in shown} == set(_VIEWS)


def test_rows_are_those_of_the_result(run: bitmosaic.UniformRun) -> None:
    frame = run.result.to_frame()
    assert list(frame["operation"]) == [
        each.layer if isinstance(each, bitmosaic.LayerResult) else each.operation for each in run.result.operations
    ]
    assert frame["total_cycles"].sum() == run.result.total_cycles
    assert frame["energy_uj"].sum() == pytest.approx(run.result.total_energy_pj * 1e-6)
    parts = [name for name in frame if name.startswith(("compute_", "fill_", "stall_"))]
    assert (frame[parts].sum(axis=1) == frame["total_cycles"]).all()
    components = [name for name in frame if name.startswith("energy_") and name != "energy_uj"]
    assert frame[components].sum(axis=1).to_numpy() == pytest.approx(frame["energy_uj"].to_numpy())
    assert run.to_frame()["total_cycles"].sum() == run.result.total_cycles
    html = _html(run.result)
    assert f"digits_cnn on bit_fusion: {run.result.total_cycles:,} cycles" in html
    assert html.count("<tr") == 1 + len(frame)
    text = DisplayFormatter().format(run.result)[0]["text/plain"]
    assert text == f"{html[3:html.index('</p>')]}\n{frame}", "on a terminal a line and the frame"
    assert "stall_parameters_cycles" not in html, "nothing waited for parameters"


def test_a_solution_shows_its_proof(run: bitmosaic.UniformRun) -> None:
    solution = run.solutions["conv2"]
    frame = solution.to_frame()
    assert len(frame) == 1 and frame["lower_bound"][0] == solution.lower_bound
    assert f"({solution.status}, gap {100 * solution.gap:.1f} %)" in _html(solution) and "pJ·cycles" in _html(solution)
    mapping = solution.mapping.to_frame()
    assert list(mapping["level"][:3]) == ["dram", "buffer", "register"]
    assert mapping["extents"][1] == " ".join(
        f"{dim}{extent}" for dim, extent in solution.mapping.levels[1].tile.items()
    )
    assert _html(solution.result).count("<tr") == 2 and _html(solution.mapping).count("<tr") == 1 + len(mapping)


def test_a_front_shows_its_points_and_a_picture() -> None:
    layer = bitmosaic.Layer(name="fc", dims={"K": 12, "C": 20, "P": 3})
    front = bitmosaic.map_front(layer, W8A8, bitmosaic.open_accelerator("bit_fusion"))
    frame, html = front.to_frame(), _html(front)
    assert list(frame["latency_cycles"]) == [point.latency_cycles for point in front.points]
    assert html.count("<tr") == 1 + len(frame) and html.count("<img") == int(len(frame) > 1)


@pytest.mark.parametrize("name", [info.name for info in bitmosaic.list_presets()])
def test_machines_show_memories_and_rates_or_tiles(name: str) -> None:
    machine = bitmosaic.open_machine(name)
    html = _html(machine)
    named = machine.memories if isinstance(machine, bitmosaic.Accelerator) else machine.tiles
    assert len(machine.to_frame()) == len(named) and all(f"<td>{each.name}</td>" in html for each in named)


def test_long_tables_say_what_they_leave_out() -> None:
    network = bitmosaic.open_network("bert_base")
    left = len(network.operations) - MOST_ROWS
    html = _html(network)
    assert left > 0 and f"… and {left:,} more rows" in html and html.count("<tr") == 1 + MOST_ROWS
    assert len(network.to_frame()) == len(network.operations)


def test_small_results_show_too(tmp_path: Path, run: bitmosaic.UniformRun) -> None:
    choices = {"a<b": [bitmosaic.Choice("w8a8", cost=2.0, harm=0.0, weight_bits=8),
                       bitmosaic.Choice("w4a4", cost=1.0, harm=1.0, weight_bits=4)]}
    assigned = bitmosaic.assign(choices, minimise="cost")
    assert list(assigned.to_frame().loc[0]) == ["a<b", "w4a4"] and "a&lt;b" in _html(assigned)
    rated = bitmosaic.Sensitivity("taylor", ("a",), (W8A8,), np.array([[0.25]]))
    assert rated.to_frame().loc["a", "w8a8"] == 0.25 and "<th>w8a8</th>" in _html(rated)
    score = bitmosaic.AccuracyResult("accuracy", 0.75, 200, 0.1)
    assert score.to_frame()["value_percent"][0] == 75.0 and "accuracy 75.00 % on 200 examples" in _html(score)
    summary = bitmosaic.write_trace(run, tmp_path / "trace.json", layers=["conv2"])
    assert summary.to_frame()["total_cycles"][0] == summary.total_cycles > 0 and "trace.json" in _html(summary)
    file = bitmosaic.AssignmentFile(network="n", hardware="h", precisions={"a": W8A8})
    assert list(file.to_frame()["precision"]) == ["w8a8"] and "n on h" in _html(file)
    assert isinstance(run.accelerator, bitmosaic.Accelerator)
    batch = bitmosaic.MappingBatch.of([run.solutions["conv1"].mapping], run.accelerator)
    scored = bitmosaic.simulate_batch(run.network.layers[0], W8A8, run.accelerator, batch)
    assert list(scored.to_frame()["total_cycles"]) == [run.result.layers[0].total_cycles]
    assert "1 mappings, 1 of them valid" in _html(scored)


def test_results_without_bitmosaic_have_their_plain_text() -> None:
    code = (
        "from simulator.result import VectorResult\n"
        "row = VectorResult(operation='a', operator='Relu', total_cycles=1, compute_cycles=1, stall_cycles=0,\n"
        "                   dram_busy_cycles=0, traffic=(), energy_pj={})\n"
        "print(row._repr_html_())\n"
        "try:\n    row.to_frame()\nexcept RuntimeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["None", "frames of results are made by bitmosaic: import bitmosaic first"]


# Bars --------------------------------------------------------------------------------------------------------------


class _Output:
    """One output of a cell: what was drawn there, in order."""

    def __init__(self) -> None:
        self.html: list[str] = []
        self.text: list[str] = []
        self.opened = 0

    def show(self, html: str, text: str) -> Callable[[str, str], None]:
        self.opened += 1
        self._draw(html, text)
        return self._draw

    def _draw(self, html: str, text: str) -> None:
        self.html.append(html)
        self.text.append(text)


def _bars() -> tuple[_Output, bitmosaic.NotebookProgress, list[float]]:
    output, clock = _Output(), [0.0]
    return output, bitmosaic.NotebookProgress(output.show, lambda: clock[0]), clock


def test_a_bar_has_count_rate_and_time_left() -> None:
    output, bars, clock = _bars()
    for done, now in ((0, 0.0), (1, 0.05), (2, 1.0), (3, 1.1), (8, 4.0)):
        clock[0] = now
        bars.update("map<ping", done, 8)
    assert output.opened == 1
    assert output.text == [
        "map<ping: 0/8, no rate yet", "map<ping: 2/8, 2/s, 3 s left", "map<ping: 8/8 done in 4.0 s",
    ], "what comes quickly is drawn once"
    assert '<progress value="2" max="8">' in output.html[1] and "map&lt;ping" in output.html[1]


def test_stages_stand_below_each_other_and_lines_below_them() -> None:
    output, bars, clock = _bars()
    bars.update("one", 1, 1)
    bars.say("a & b")
    clock[0] = 5.0
    bars.update("two", 4, 10)
    clock[0] = 6.0
    bars.update("two", 5, 10)
    assert output.text[-1].splitlines() == ["one: 1/1 done in 0.0 s", "two: 5/10, 1/s, 5 s left", "a & b"]
    assert output.html[-1].count("<progress") == 2 and "<div>a &amp; b</div>" in output.html[-1] and output.opened == 1
    bars.update("one", 0, 3)
    assert output.text[-1].startswith("one: 0/3"), "a stage that begins anew"


def test_bars_are_chosen_in_notebooks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(chosen_progress(None), Silent)
    mine = bitmosaic.PlainProgress()
    assert chosen_progress(mine) is mine
    shell: Any = type("Shell", (), {"kernel": object()})()
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    assert isinstance(chosen_progress(None), bitmosaic.NotebookProgress) and chosen_progress(mine) is mine
    del type(shell).kernel
    assert isinstance(chosen_progress(None), Silent), "IPython on a terminal"
