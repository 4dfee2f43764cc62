"""What a notebook shows by itself, and the frames of machines, networks and mappings."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import rich.console
from IPython.core.formatters import DisplayFormatter
from PIL import Image

import bitmosaic
from bitmosaic.explorations.exploration import Exploration, Point
from bitmosaic.explorations.records import Accuracy, LayerRow, PointRecord, Settings, VectorRow
from bitmosaic.views.notebook import exploration_html
from bitmosaic.views.plots import plot_front
from bitmosaic.views.text_tables import report_text
from simulator.result import STALL_CAUSES

PNG = b"\x89PNG\r\n"


def _row(name: str, precision: str, cycles: int) -> LayerRow:
    return LayerRow(
        layer=name, precision=precision, mapping="tile K4", macs=100, total_cycles=cycles, compute_cycles=cycles - 25,
        fill_drain_cycles=10, stall_cycles={"weight": 15}, energy_pj={"dram": 1e6}, pe_utilization=0.5,
        cost=float(cycles), lower_bound=0.9 * cycles, gap=0.1, status="feasible",
    )


def _point(label: str, cycles: int, energy_uj: float, score: float | None, *, uniform: bool) -> Point:
    precision = label if uniform else "w4a8"
    record = PointRecord(
        key=label, context="c", origin="uniform" if uniform else "latency", uniform=label if uniform else None,
        assignment={"a<b": precision}, total_cycles=cycles, latency_ms=cycles / 1e3, energy_pj=energy_uj * 1e6,
        accuracy=None if score is None else Accuracy(metric="accuracy", value=score, count=200),
        layers=(_row("a<b", precision, cycles - 50),),
        vector=(VectorRow(operator="Relu", count=1, total_cycles=50, compute_cycles=50, stall_cycles=0, energy_pj={}),),
    )
    return Point(label, record)


POINTS = (
    _point("w8a8", 4000, 40.0, 0.99, uniform=True), _point("w4a8", 2000, 20.0, 0.60, uniform=True),
    _point("m1", 2500, 30.0, 0.985, uniform=False), _point("m2", 3000, 35.0, 0.97, uniform=False),
)


def _exploration(points: tuple[Point, ...] = POINTS, fp32: float | None = 0.99) -> Exploration:
    settings = Settings(
        network="net & co", network_source="", accelerator="machine", task=None if fp32 is None else "test",
        metric="accuracy", menu=("w8a8", "w4a8"), objective="edp", sensitivity="perturbation", points=4,
        cpu_seconds_per_layer=1.0, target_gap=0.0, context="c", subject="s", fp32_key=None, versions={},
    )
    reference = None if fp32 is None else Accuracy(metric="accuracy", value=fp32, count=200)
    return Exploration(Path("nowhere"), settings, reference, points, {})


class _Tables(HTMLParser):
    """Rows of all tables, and tags that were opened and not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            return
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def _shown(value: object) -> dict[str, object]:
    """What IPython sends to a notebook, by MIME type."""
    data: dict[str, object] = DisplayFormatter().format(value)[0]
    return data


def test_an_exploration_shows_its_table_and_both_fronts() -> None:
    html = _shown(_exploration())["text/html"]
    assert isinstance(html, str)
    tables = _Tables(html)
    assert tables.open == []
    assert [row[0] for row in tables.rows] == ["point", "w4a8 (uniform)", "m1", "w8a8 (uniform)"]
    assert tables.rows[2] == ["m1", "latency, energy", "2,500", "2.5", "30", "1.60", "1.33", "98.50", "10.0"]
    assert "net &amp; co on machine" in html and "FP32 accuracy: 99.00 % on 200 examples." in html
    assert html.count("font-weight: bold") == 1 and "m1, the fastest point within 1 %" in html
    pictures = re.findall(r"base64,([^\"]+)\"", html)
    assert len(pictures) == 2 and all(base64.b64decode(picture).startswith(PNG) for picture in pictures)


def test_an_agreement_is_not_called_an_accuracy() -> None:
    found = _exploration()
    assert found.fp32 is not None
    metric = "agreement with FP32"
    agreed = replace(
        found, settings=found.settings.model_copy(update={"metric": metric}),
        fp32=found.fp32.model_copy(update={"metric": metric}),
    )
    html = exploration_html(agreed)
    text = re.sub(r"base64,[^\"]+", "", html)
    assert "agreement with FP32 (%)" in text and "accura" not in text.lower()
    for figure in (plot_front(agreed, "latency"), plot_front(agreed, "energy")):
        assert figure.axes[0].get_ylabel() == "Agreement with FP32 (%)"
    assert "accura" not in report_text(agreed).lower()
    below = replace(agreed, points=POINTS[1:])
    assert "m1, the point of highest agreement with FP32; none is within 1 %" in " ".join(
        report_text(replace(below, fp32=found.fp32.model_copy(update={"metric": metric, "value": 1.0}))).split())


def test_without_accuracy_the_picture_is_of_the_costs() -> None:
    points = (_point("w8a8", 4000, 40.0, None, uniform=True), _point("w4a8", 2000, 20.0, None, uniform=True))
    html = _exploration(points, fp32=None)._repr_html_()
    assert "Cost only" in html and html.count("<img") == 1 and "accuracy (%)" not in html
    assert [row[0] for row in _Tables(html).rows] == ["point", "w4a8 (uniform)", "w8a8 (uniform)"]
    assert "No point has been scored yet" in _exploration(())._repr_html_()


def test_a_point_shows_its_layers() -> None:
    html = _shown(POINTS[2])["text/html"]
    assert isinstance(html, str)
    assert "Point m1: 2,500 cycles, 2.5 ms, 30 µJ, accuracy 98.50 %" in html
    assert _Tables(html).rows[1] == ["a<b", "w4a8", "2,450", "2,425", "10", "15", "1", "10.0", "tile K4"]
    assert "Vector operations: 50 cycles of the total." in html


def test_figures_show_as_pictures_and_stay_small() -> None:
    picture = _shown(bitmosaic.plot_front(_exploration(), "latency"))["image/png"]
    assert isinstance(picture, bytes | str)
    content = base64.b64decode(picture) if isinstance(picture, str) else picture
    assert content.startswith(PNG) and 2000 < len(content) < 40_000


def _colours(file: io.BytesIO) -> Counter[tuple[int, ...]]:
    """Pixels of each colour."""
    pixels = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3)
    return Counter(map(tuple, pixels.tolist()))


def test_pictures_keep_the_colours_of_small_areas() -> None:
    # All but the first have hardly more than their patch in the legend.
    energies = {"dram": 1e6, **dict.fromkeys(("a", "b", "c", "d", "e", "f"), 1e3)}
    row = _row("a", "w8a8", 100).model_copy(update={"energy_pj": energies})
    point = Point("w8a8", POINTS[0].record.model_copy(update={"layers": (row,)}))
    figure = bitmosaic.plot_layers(_exploration((point,)), point)
    drawn, shown = io.BytesIO(), figure._repr_png_()  # type: ignore[attr-defined]
    figure.savefig(drawn, format="png", dpi=90)
    full, small = (_colours(file) for file in (drawn, io.BytesIO(shown)))
    wide = [colour for colour, count in full.items() if count >= 30]
    assert len(wide) >= 10
    for colour in wide:
        assert min(sum(abs(a - b) for a, b in zip(colour, other, strict=True)) for other in small) <= 6, colour


def test_the_report_is_written_inside_a_notebook_too(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = report_text(_exploration())
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    assert report_text(_exploration()) == expected and "Point m1: cycles" in expected


def test_summary_frame_has_baselines_and_fronts_only() -> None:
    frame = bitmosaic.summary_frame(_exploration()).set_index("point")
    assert list(frame.index) == ["w4a8", "m1", "w8a8"], "m2 is dominated"
    assert list(frame["uniform"]) == [True, False, True] and list(frame["chosen"]) == [False, True, False]
    assert frame.loc["w4a8", "times_faster"] == 2.0 and frame.loc["m1", "times_less_energy"] == pytest.approx(4 / 3)
    assert list(bitmosaic.summary_frame(_exploration(())).columns) == ["point", *frame.columns]


@pytest.mark.parametrize(
    "info", [info for info in bitmosaic.list_presets() if not info.tiles], ids=lambda info: info.name
)
def test_memories_frame_has_every_memory(info: object) -> None:
    machine = bitmosaic.open_accelerator(info.name)  # type: ignore[attr-defined]
    frame = bitmosaic.memories_frame(machine).set_index("memory")
    assert list(frame.index) == [memory.name for memory in machine.memories]
    dram = frame.loc[machine.dram.name]
    assert dram["bandwidth_bits_per_cycle"] == machine.dram.bandwidth_bits_per_cycle
    assert frame["size_bits"].isna().sum() == 1 and frame["latency_cycles"].notna().sum() == 1
    for memory in (*machine.buffers, *machine.register_files):
        assert frame.loc[memory.name, "size_bits"] == memory.size_bits
        assert frame.loc[memory.name, "keeps"] == ", ".join(memory.keeps)


def test_rates_follow_the_grid_and_the_clock() -> None:
    frame = bitmosaic.rates_frame(bitmosaic.open_accelerator("loom")).set_index("precision")
    assert frame.loc["w8a8", "products_per_pe_cycle"] == 16 / 64
    assert frame.loc["w8a8", "macs_per_cycle"] == 128 * 16 * 16 / 64
    assert frame.loc["w4a4", "gmacs_per_second"] == pytest.approx(128 * 16 * 1.0)


def test_operations_frame_counts_what_the_network_counts() -> None:
    network = bitmosaic.open_network("bert_base")
    frame = bitmosaic.operations_frame(network)
    assert list(frame["operation"]) == [operation.name for operation in network.operations]
    assert frame["macs"].sum() == network.macs and frame["weights"].sum() == network.weight_count
    attention = frame[(frame["macs"] > 0) & (frame["weights"] == 0)]
    assert len(attention) == 24, "two products of activations in each of 12 blocks"


def test_solutions_frame_sums_exactly() -> None:
    network, machine = bitmosaic.open_network("digits_cnn"), bitmosaic.open_accelerator("bit_fusion")
    budget = bitmosaic.SearchBudget(cpu_seconds=0.2, target_gap=0.5)
    solutions = [
        bitmosaic.map_layer(network.layers[-1], bitmosaic.LayerPrecision.parse(label), machine, budget=budget)
        for label in ("w8a8", "w2a8")
    ]
    frame = bitmosaic.solutions_frame(solutions)
    parts = ["compute_cycles", "fill_drain_cycles", *(f"stall_{cause}_cycles" for cause in STALL_CAUSES)]
    assert list(frame[parts].sum(axis=1)) == list(frame["total_cycles"]) == list(frame["cost"])
    energies = [name for name in frame if name.startswith("energy_") and name != "energy_uj"]
    assert list(frame[energies].sum(axis=1)) == pytest.approx(list(frame["energy_uj"]))
    assert len(energies) == len(solutions[0].result.energy_pj) and (frame["lower_bound"] <= frame["cost"]).all()
    assert list(frame["precision"]) == ["w8a8", "w2a8"] and frame["macs"][0] == 640
