"""What the benchmarks of methods say of what they measured: intervals, tables, plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import fronts, quantisers, shares
from benchmarks.quantisers import compared, interval
from bitmosaic.explorations import accuracy_book
from bitmosaic.explorations.comparison import load_comparison
from workloads.tasks import minilm

pytestmark = pytest.mark.usefixtures("own_cache")


def test_intervals_of_differences_are_those_of_paired_texts() -> None:
    rng = np.random.default_rng(3)
    right, other = rng.random(2000) < 0.8, rng.random(2000) < 0.78
    gain = right.astype(float) - other
    low, high = interval(right, other, np.arange(2000))
    error = gain.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((gain.mean() - 1.96 * error, gain.mean() + 1.96 * error), abs=0.15 * error)
    assert interval(right, right, np.arange(2000)) == (0, 0)


def test_intervals_of_figures_between_nought_and_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reciprocal ranks: as the normal distribution has it, and the same however many draws are in memory."""
    rng = np.random.default_rng(5)
    rank = rng.integers(1, 30, 1500)
    here, there = 1 / rank, 1 / np.maximum(1, rank + rng.integers(-2, 4, 1500))
    error = (here - there).std() / np.sqrt(1500)
    found = interval(here, there, np.arange(1500), draws=2000)
    mean = (here - there).mean()
    assert found == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.2 * error)
    monkeypatch.setattr(quantisers, "AT_ONCE", 300)
    assert interval(here, there, np.arange(1500), draws=2000) == found


def test_what_was_found_is_compared_figure_by_figure() -> None:
    ranks = {"FP32": [1, 1, 2, 4], "rounded": [1, 2, 2, 5], "here": [1, 1, 4, 5]}
    own, rounded, here = (
        minilm.Answers(np.arange(4) + (np.array(rank) > 1),
                       {"found": (np.array(rank) == 1).astype(float), "reciprocal rank": 1 / np.array(rank)})
        for rank in ranks.values()
    )
    result = minilm.score(here)
    assert (result.value, result.count, result.extra) == (0.5, 4, {"reciprocal rank": pytest.approx(2.45 / 4)})
    near, *lines = compared(np.arange(4), own, rounded, here).split("\n    ")
    assert near == "neighbour as in FP32 100.0 %" and len(lines) == 3  # found to FP32 is the same
    assert lines[0].startswith("found to rounded +25.00 % (+0.00 … ")
    assert lines[1].startswith("reciprocal rank to rounded +6.25 % (") and lines[1].endswith("better here 1, there 1)")
    assert lines[2].startswith("reciprocal rank to FP32 -7.50 % (") and lines[2].endswith("better here 0, there 2)")


def test_texts_that_fall_together_say_less() -> None:
    """Forty modules of fifty texts, each better or worse as a whole: forty outcomes, not two thousand."""
    modules = np.repeat(np.arange(40), 50)
    better = np.random.default_rng(4).random(40) < 0.6
    right, other = better[modules], ~better[modules]
    texts, by_module = interval(right, other, np.arange(2000)), interval(right, other, modules)
    widths = [high - low for low, high in (texts, by_module)]
    assert widths[1] == pytest.approx(widths[0] * np.sqrt(50), rel=0.15)
    # A module counts by its texts: the mean stays that of all texts.
    uneven = np.repeat(np.arange(3), [1, 1, 998])
    low, high = interval(uneven == 2, np.zeros(1000, bool), uneven)
    assert low <= 0.998 <= high


def test_fronts_of_machines_over_their_baselines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn_as: list[str] = []
    monkeypatch.setattr(fronts, "save_figure", lambda figure, folder, name: drawn_as.append(name))
    arguments = [
        "digits_cnn", "--machines", "bit_fusion,tpu_like", "--menu", "w8a8,w4a8", "--methods", "amp,dpq",
        "--points", "2", "--seeds", "0", "--seconds-per-layer", "0.05", "--gap", "0.9", "--workers", "1",
        "--output", str(tmp_path),
    ]
    assert fronts.main(arguments) == 0
    shown = capsys.readouterr()
    assert "bit_fusion does not take dpq: the method dpq is for menus with weights that are expanded" in shown.err
    table = (tmp_path / "fronts.md").read_text()
    assert table in shown.out and drawn_as == ["fronts"]
    points = pd.read_csv(tmp_path / "fronts.csv")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith(("| bit", "| tpu"))]
    for row, machine in zip(rows, ("bit_fusion", "tpu_like"), strict=True):
        own = points[points["machine"] == machine]
        base = own[(own["family"] == "uniform") & (own["point"] == "w8a8")].iloc[0]
        assert row[:3] == [machine, "w8a8", f"{base['latency_cycles']:,}"]
        close = own[own["accuracy_percent"] >= 98.5 - 1]
        assert row[5] == f"{close['latency_cycles'].min():,}"
        assert row[6] == f"{base['latency_ms'] / close['latency_ms'].min():.2f}"
        assert row[10] == f"{base['energy_uj'] / close['energy_uj'].min():.2f}"
        assert np.allclose(own["energy_over_baseline"], own["energy_uj"] / base["energy_uj"])
    found: dict[str, Any] = {name: load_comparison(tmp_path / name) for name in ("bit_fusion", "tpu_like")}
    for axes in fronts.figure_of(found).axes:
        left, right = axes.get_xlim()
        drawn = np.concatenate([np.asarray(each.get_offsets())[:, 0] for each in axes.collections])
        assert left <= drawn.min() and drawn.max() <= right and left <= 0.9 and right >= 1.05


def test_what_cannot_be_compared_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fronts.main(["digits_cnn", "--machines", "four_tiles", "--output", str(tmp_path / "x")]) == 2
    assert fronts.main(["onnx_resnet50", "--machines", "loom", "--output", str(tmp_path / "x")]) == 2
    shown = capsys.readouterr().err
    assert "cannot be compared by accuracy" in shown and "error: " in shown and not (tmp_path / "x").exists()


def test_intervals_of_scores_end_where_the_score_is_196_deviations_away() -> None:
    for score, count in ((0.98, 100), (0.5, 40), (1.0, 100), (0.0, 10)):
        low, high = shares.interval(score, count)
        assert 0 <= low <= score <= high <= 1
        for end in {low, high} - {0.0, 1.0}:
            assert abs(end - score) == pytest.approx(1.96 * np.sqrt(end * (1 - end) / count), rel=1e-3)


def test_curve_over_shares_is_measured_once_and_holds_its_shares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "save_figure", lambda figure, folder, name: None)
    arguments = ["digits_cnn", "--menu", "int3:fp32,int8:fp32", "--shares", "0.5,0.9", "--methods",
                 "taylor,weight_error", "--seeds", "2", "--output", str(tmp_path)]
    assert shares.main(arguments) == 0
    table = (tmp_path / "shares.md").read_text()
    assert table in capsys.readouterr().out
    points = pd.read_csv(tmp_path / "shares.csv")
    assert list(points["chosen_by"][:3]) == ["FP32", "int8:fp32", "int3:fp32"]
    chosen = points.iloc[3:]
    assert len(chosen) == 2 * (2 + 1 + 2) and (chosen["share_held"] >= chosen["share_asked"]).all()
    assert ((points["low"] <= points["score"]) & (points["score"] <= points["high"])).all()
    row = next(line for line in table.splitlines() if line.startswith("| random"))
    drawn = 100 * chosen[(chosen["chosen_by"] == "random") & (chosen["share_asked"] == 0.9)]["score"]
    assert row.strip("| ").split(" | ")[-1] == " … ".join(dict.fromkeys((f"{drawn.min():.1f}", f"{drawn.max():.1f}")))
    axes = shares.figure_of(points, "").axes[0]
    assert {"FP32", "taylor", "weight_error", "largest first", "random"} <= set(axes.get_legend_handles_labels()[1])

    # What is in the folder is not measured again; another clipping is another measurement.
    monkeypatch.setattr(accuracy_book, "AccuracyEvaluator", lambda *args, **options: pytest.fail("measured again"))
    assert shares.main(arguments) == 0
    assert (tmp_path / "shares.md").read_text() == table
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        shares.main([*arguments, "--clipping", "max-abs"])


def test_options_of_the_curve_that_make_no_sense_are_said_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["digits_cnn", "--menu", "w4a8", "--shares", "0.5,1.5", "--methods", "tailor", "--output",
                 str(tmp_path / "x")]
    assert shares.main(arguments) == 2
    shown = capsys.readouterr().err
    for part in ("--menu=w4a8: must be two precisions", "--shares=1.5", "--methods=tailor: is no sensitivity method"):
        assert part in shown
    assert not (tmp_path / "x").exists()
