"""Trace files and plots of layers: the format that viewers expect, sums, limits, and what the figures show."""

from __future__ import annotations

import gzip
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

import bitmosaic
from bitmosaic import cli
from bitmosaic.views import timeline
from simulator.result import LayerResult, VectorResult

BUDGET = bitmosaic.SearchBudget(cpu_seconds=0.1, target_gap=0.5)
QUICK = ("--seconds-per-layer", "0.1", "--gap", "0.5", "--workers", "1")
Event = dict[str, Any]
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def run() -> bitmosaic.UniformRun:
    return bitmosaic.uniform_run("digits_cnn", "bit_fusion", "w4a8", budget=BUDGET, workers=1)


def _read(path: Path) -> tuple[list[Event], Event]:
    content = json.loads(path.read_bytes() if path.suffix == ".json" else gzip.decompress(path.read_bytes()))
    assert set(content) == {"displayTimeUnit", "otherData", "traceEvents"} and content["displayTimeUnit"] == "ms"
    return content["traceEvents"], content["otherData"]


def _slices(events: list[Event], thread: int) -> list[Event]:
    return sorted(
        (event for event in events if event["ph"] == "X" and event["tid"] == thread), key=lambda event: event["ts"]
    )


@pytest.fixture(scope="module")
def traced(run: bitmosaic.UniformRun, tmp_path_factory: pytest.TempPathFactory) -> list[Event]:
    path = tmp_path_factory.mktemp("trace") / "new" / "digits.json.gz"
    summary = bitmosaic.write_trace(run, path)
    assert summary.left_out == {} and summary.total_cycles == run.result.total_cycles
    return _read(path)[0]


def test_every_event_is_of_a_form_that_viewers_read(traced: list[Event]) -> None:
    """Trace Event Format: the fields of the phases X, C and M, and their types."""
    needs = {"X": {"cat", "ts", "dur", "args"}, "C": {"ts", "args"}, "M": {"args"}}
    for event in traced:
        assert set(event) == {"ph", "name", "pid", "tid"} | needs[event["ph"]]
        assert isinstance(event["name"], str) and event["name"] and event["pid"] == 1
        assert type(event["tid"]) is int
        if event["ph"] != "M":
            assert type(event["ts"]) is int and event["ts"] >= 0
        if event["ph"] == "X":
            assert type(event["dur"]) is int and event["dur"] > 0
        if event["ph"] == "C":
            assert event["args"] and all(type(value) is int and value >= 0 for value in event["args"].values())
    named = {event["tid"]: event["args"]["name"] for event in traced if event["name"] == "thread_name"}
    assert named == {1: "operations", 2: "grid", 3: "DRAM channel", 4: "vector unit"}
    assert {event["tid"] for event in traced if event["ph"] == "X"} == set(named)
    (process,) = [event for event in traced if event["name"] == "process_name"]
    assert process["args"]["name"].startswith("bit_fusion")


@pytest.mark.parametrize("thread", [1, 2, 3, 4])
def test_slices_of_a_track_never_overlap(traced: list[Event], thread: int) -> None:
    slices = _slices(traced, thread)
    assert slices
    for one, other in pairwise(slices):
        assert one["ts"] + one["dur"] <= other["ts"]


def test_operations_follow_each_other_with_their_precision(run: bitmosaic.UniformRun, traced: list[Event]) -> None:
    expected, now = [], 0
    for result in run.result.operations:
        name = result.layer if isinstance(result, LayerResult) else result.operation
        if result.total_cycles:
            expected.append((name, now, result.total_cycles))
        now += result.total_cycles
    slices = _slices(traced, timeline.OPERATIONS)
    assert [(event["name"], event["ts"], event["dur"]) for event in slices] == expected
    precisions = {event["name"]: event["args"].get("precision") for event in slices}
    assert {precisions[layer.name] for layer in run.network.layers} == {"w4a8"}
    (conv2,) = [event for event in slices if event["name"] == "conv2"]
    assert conv2["args"]["loops"].startswith("K32 ") and conv2["args"]["mapping"].startswith("tile ")


def test_sums_within_each_operation(run: bitmosaic.UniformRun, traced: list[Event]) -> None:
    start = 0
    for result in run.result.operations:
        inside = [
            event for event in traced
            if event["ph"] == "X" and event["tid"] != 1 and start <= event["ts"] < start + result.total_cycles
        ]
        cycles: Counter[tuple[int, str]] = Counter()
        for event in inside:
            assert event["ts"] + event["dur"] <= start + result.total_cycles
            cycles[event["tid"], event["name"]] += event["dur"]
        waits = sum(count for (thread, name), count in cycles.items() if thread != 3 and name.startswith("wait: "))
        assert sum(count for (thread, _), count in cycles.items() if thread == 3) == result.dram_busy_cycles
        if isinstance(result, VectorResult):
            assert cycles[4, "compute"] == result.compute_cycles and waits == result.stall_cycles
            bits = [event["args"] for event in inside if event["tid"] == 3]
            moved = tuple(sum(each[name] for each in bits) for name in ("read_bits", "written_bits"))
            assert moved == (result.traffic[0].read_bits, result.traffic[0].write_bits)
        else:
            assert cycles[2, "compute"] == result.compute_cycles
            assert cycles[2, "fill and drain"] == result.fill_drain_cycles
            assert waits == sum(result.stall_cycles.values())
            moved_bits = sum(event["args"]["bits"] for event in inside if event["tid"] == 3)
            assert moved_bits == sum(result.moved_bits("dram"))
        start += result.total_cycles


def test_vector_operations_that_move_data_wait_for_it(tmp_path: Path) -> None:
    run = bitmosaic.uniform_run("digits_cnn", "bit_fusion", "w4a8", budget=BUDGET, workers=1)
    dram = run.accelerator.dram.model_copy(update={"latency_cycles": 40})
    unit = run.accelerator.vector_unit.model_copy(update={"fuses_elementwise": False})
    slow = run.accelerator.model_copy(
        update={"memories": (dram, *run.accelerator.memories[1:]), "vector_unit": unit}
    )
    again = bitmosaic.uniform_run(run.network, slow, "w4a8", budget=BUDGET, workers=1)
    bitmosaic.write_trace(again, tmp_path / "trace.json")
    events, _ = _read(tmp_path / "trace.json")
    relus = [result for result in again.result.operations if isinstance(result, VectorResult) and result.total_cycles]
    assert all(result.stall_cycles >= 40 for result in relus)
    waits = [event for event in _slices(events, timeline.VECTOR) if event["name"] != "compute"]
    assert sum(event["dur"] for event in waits) == sum(result.stall_cycles for result in relus)
    test_sums_within_each_operation(again, events)


def test_counters_stay_within_the_buffers_and_end_empty(run: bitmosaic.UniformRun, traced: list[Event]) -> None:
    levels: dict[str, dict[int, int]] = defaultdict(dict)
    for event in traced:
        if event["ph"] == "C":
            assert event["ts"] not in levels[event["name"]]
            levels[event["name"]][event["ts"]] = sum(event["args"].values())
    sizes = {f"{buffer.name} (bits)": buffer.size_bits for buffer in run.accelerator.buffers}
    assert set(levels) == set(sizes)
    for name, level in levels.items():
        assert 0 < max(level.values()) <= sizes[name]
        assert level[max(level)] == 0


def test_equal_runs_give_equal_files(run: bitmosaic.UniformRun, tmp_path: Path) -> None:
    paths = [bitmosaic.write_trace(run, tmp_path / name).path for name in ("one.gz", "other.json.gz", "plain.json")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert gzip.decompress(paths[0].read_bytes()) == paths[2].read_bytes()


def test_what_does_not_fit_is_said_in_the_trace(run: bitmosaic.UniformRun, tmp_path: Path) -> None:
    whole = bitmosaic.write_trace(run, tmp_path / "whole.json")
    assert bitmosaic.write_trace(run, tmp_path / "a.json", whole.slices).left_out == {}
    most = whole.slices // 2
    summary = bitmosaic.write_trace(run, tmp_path / "half.json", most)
    events, notes = _read(tmp_path / "half.json")
    assert most - len(run.network.layers) < summary.slices <= most
    assert summary.slices + sum(summary.left_out.values()) == whole.slices
    assert notes["slices_left_out"] == sum(summary.left_out.values()) > 0
    said = [event for event in _slices(events, timeline.OPERATIONS) if "left out" in event["name"]]
    assert [int(event["name"].split()[0]) for event in said] == list(summary.left_out.values())
    layers = {event["name"]: event for event in _slices(events, timeline.OPERATIONS)}
    for event, name in zip(said, summary.left_out, strict=True):
        assert layers[name]["ts"] <= event["ts"] and event["dur"] > 0
        assert event["ts"] + event["dur"] == layers[name]["ts"] + layers[name]["dur"], "nested, up to the layer's end"
    nothing = bitmosaic.write_trace(run, tmp_path / "none.json", 0)
    assert nothing.slices == 0 and set(nothing.left_out) == {layer.name for layer in run.network.layers}


@pytest.mark.parametrize(("wanted", "most", "share"), [
    ([5, 1, 9], 15, 9), ([5, 1, 9], 14, 8), ([5, 1, 9], 8, 3), ([5, 1, 9], 2, 0), ([], 3, 0), ([4, 4], 7, 3),
])
def test_layers_share_the_limit_fairly(wanted: list[int], most: int, share: int) -> None:
    assert timeline._fair_share(wanted, most) == share


def test_one_layer_alone(run: bitmosaic.UniformRun, tmp_path: Path) -> None:
    summary = bitmosaic.write_trace(run, tmp_path / "conv2.json", layers=["conv2"])
    events, _ = _read(tmp_path / "conv2.json")
    (layer,) = _slices(events, timeline.OPERATIONS)
    (result,) = [result for result in run.result.layers if result.layer == "conv2"]
    assert (layer["name"], layer["ts"], layer["dur"]) == ("conv2", 0, result.total_cycles)
    assert summary.total_cycles == result.total_cycles
    with pytest.raises(bitmosaic.ConfigurationError, match=r"conv22.*did you mean 'conv2'"):
        bitmosaic.write_trace(run, tmp_path / "none.json", layers=["conv22"])


# Plots ------------------------------------------------------------------------------------------------------------


def test_roofline_frame_and_plot(run: bitmosaic.UniformRun) -> None:
    solutions = list(run.solutions.values())
    frame = bitmosaic.roofline_frame(solutions, run.accelerator).set_index("layer")
    row, result = frame.loc["conv2"], run.solutions["conv2"].result
    assert row["dram_bytes"] * 8 == sum(result.moved_bits("dram"))
    assert row["macs_per_dram_byte"] == pytest.approx(8 * result.macs / sum(result.moved_bits("dram")))
    assert row["macs_per_cycle"] == pytest.approx(result.macs / result.total_cycles)
    assert (row["peak_macs_per_cycle"], row["bandwidth_bytes_per_cycle"]) == (1024.0, 24.0)
    assert row["roof_macs_per_cycle"] == pytest.approx(24.0 * row["macs_per_dram_byte"])
    assert row["limit"] == "bandwidth" and (frame["macs_per_cycle"] <= frame["roof_macs_per_cycle"]).all()

    figure = bitmosaic.plot_roofline(frame.reset_index(), "digits")
    (axes,) = figure.axes
    assert axes.get_xlabel() == "Operational intensity (MACs per DRAM byte)"
    assert axes.get_ylabel() == "Throughput (MACs per cycle)" and axes.get_title() == "digits"
    assert axes.get_xscale() == axes.get_yscale() == "log"
    slope, peak = axes.lines
    assert list(slope.get_ydata() / slope.get_xdata()) == pytest.approx([24.0, 24.0])
    assert list(peak.get_ydata()) == [1024.0, 1024.0] and peak.get_xdata()[0] == pytest.approx(slope.get_xdata()[1])
    drawn = np.sort(axes.collections[0].get_offsets(), axis=0)
    assert np.allclose(drawn, np.sort(frame[["macs_per_dram_byte", "macs_per_cycle"]].to_numpy(), axis=0))
    assert {text.get_text() for text in axes.texts} == set(frame.index)
    with pytest.raises(ValueError, match="has no rows"):
        bitmosaic.plot_roofline(frame.reset_index().iloc[:0])


def test_the_roofline_has_a_roof_a_precision_and_names_without_overlap(run: bitmosaic.UniformRun) -> None:
    frame = bitmosaic.roofline_frame(run.solutions.values(), run.accelerator)
    frame.loc[frame.index[:2], ["precision", "peak_macs_per_cycle"]] = ["w8a8", 512.0]
    many = frame.loc[frame.index.repeat(30)].reset_index(drop=True)
    many["macs_per_cycle"] *= 1.0 - 0.001 * (many.index % 3)
    figure = bitmosaic.plot_roofline(many)
    (axes,) = figure.axes
    assert len(axes.lines) == 3 and len(axes.collections) == 2
    assert len({line.get_linestyle() for line in axes.lines[1:]}) == 2, "told apart in grey"
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert 3 <= len(boxes) <= 12 and all(" ×10" in text.get_text() for text in axes.texts)
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:number])


def test_grid_frame_and_map(run: bitmosaic.UniformRun) -> None:
    frame = bitmosaic.grid_frame(run.solutions.values(), run.accelerator)
    results = run.result.layers
    assert len(frame) == run.accelerator.grid.pe_count
    assert frame["active_cycles"].sum() == sum(result.active_pe_cycles for result in results)
    assert set(frame["compute_cycles"]) == {sum(result.compute_cycles for result in results)}
    figure = bitmosaic.plot_utilization(frame, "digits")
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("PE along columns", "PE along rows")
    assert bar.get_ylabel() == "PE works (% of computing cycles)"
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (16, 32)
    corner = frame[(frame["rows"] == 3) & (frame["columns"] == 7)]["active_percent"].item()
    assert shown[3, 7] == pytest.approx(corner)
    assert f"mean {frame['active_percent'].mean():.1f} %" in axes.get_title()


def _grid(**axes: int) -> pd.DataFrame:
    shape = tuple(axes.values())
    frame = {name: place.ravel() for name, place in zip(axes, np.indices(shape), strict=True)}
    count = int(np.prod(shape))
    share = 100.0 * np.arange(count) / count
    return pd.DataFrame({**frame, "active_cycles": np.arange(count), "compute_cycles": count, "active_percent": share})


def test_maps_of_one_and_of_three_axes() -> None:
    line = bitmosaic.plot_utilization(_grid(pe=8)).axes[0]
    assert line.images[0].get_array().shape == (1, 8) and line.get_xlabel() == "PE along pe" and not line.get_ylabel()
    assert [text.get_text() for text in line.texts] == ["0", "12", "25", "38", "50", "62", "75", "88"]
    cube = bitmosaic.plot_utilization(_grid(row=2, column=3, slice=4)).axes[0]
    assert cube.images[0].get_array().shape == (2, 12)
    assert cube.get_xlabel() == "PE along column × slice" and cube.get_ylabel() == "PE along row"


def test_breakdown_of_a_run(run: bitmosaic.UniformRun) -> None:
    figure = bitmosaic.plot_breakdown(bitmosaic.point_frame(run.point()), "digits")
    left, right = figure.axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("Cycles", "Energy (µJ)")
    widths = sum(patch.get_width() for patch in left.patches)
    assert widths == run.result.total_cycles
    assert sum(patch.get_width() for patch in right.patches) == pytest.approx(run.result.total_energy_pj * 1e-6)


# The command ------------------------------------------------------------------------------------------------------


def _simulate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, ["simulate", "digits_cnn", "--precision", "w4a8", *map(str, arguments), *QUICK])


def test_the_command_writes_trace_and_plots(run: bitmosaic.UniformRun, tmp_path: Path) -> None:
    result = _simulate("--trace", tmp_path / "t.json.gz", "--plots", tmp_path / "plots")
    assert result.exit_code == 0, result.output
    events, notes = _read(tmp_path / "t.json.gz")
    last = _slices(events, timeline.OPERATIONS)[-1]
    assert last["ts"] + last["dur"] == run.result.total_cycles and notes["slices_left_out"] == 0
    assert re.search(rf"^Trace: {tmp_path}/t.json.gz, \d+ slices; open it at", result.stdout, re.M)
    assert "left out" not in result.stderr and "leaves out" not in result.stderr
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {f"{name}.{kind}" for name in ("breakdown", "roofline", "utilization") for kind in ("png", "svg")}
    for path in (tmp_path / "plots").iterdir():
        data = path.read_bytes()
        if path.suffix == ".png":
            assert data.startswith(b"\x89PNG") and len(data) > 2000 and str(path) in result.stdout
        else:
            assert ElementTree.fromstring(data).tag.endswith("svg")


def test_the_command_says_what_the_trace_leaves_out(tmp_path: Path) -> None:
    result = _simulate("--trace", tmp_path / "t.json", "--trace-slices", "40", "--trace-layer", "conv2",
                       "--trace-layer", "linear1")
    assert result.exit_code == 0, result.output
    found = re.search(r"leaves out ([\d,]+) slices at the ends of \d layers?, .* --trace-slices (\d+) keeps all",
                      result.stderr)
    assert found
    _, notes = _read(tmp_path / "t.json")
    assert notes["slices_left_out"] == int(found[1].replace(",", ""))
    whole = _simulate("--trace", tmp_path / "t.json", "--trace-slices", found[2], "--trace-layer", "conv2",
                      "--trace-layer", "linear1")
    assert "leaves out" not in whole.stderr and _read(tmp_path / "t.json")[1]["slices_left_out"] == 0


def test_the_command_with_a_layer_that_is_not_there_or_a_file_that_cannot_be(tmp_path: Path) -> None:
    result = _simulate("--trace", tmp_path / "t.json", "--trace-layer", "conv9")
    assert result.exit_code == 2 and "error: digits_cnn: layer='conv9': no such layer" in result.stderr
    assert not (tmp_path / "t.json").exists()
    (tmp_path / "file").write_text("")
    result = _simulate("--trace", tmp_path / "file" / "t.json")
    assert result.exit_code == 2 and result.stderr.splitlines()[-1].startswith("error: ")


def test_the_command_and_the_function_have_one_limit() -> None:
    (option,) = [option for option in cli.main.commands["simulate"].params if option.name == "trace_slices"]
    assert option.default == timeline.DEFAULT_MOST_SLICES
