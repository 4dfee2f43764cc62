"""Plots: the frames hold the right numbers, and the files that are drawn from them exist and are pictures."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from bitmosaic.explorations.exploration import Exploration, Point, pareto_front
from bitmosaic.explorations.folder import write_outputs
from bitmosaic.explorations.records import Accuracy, LayerRow, PointRecord, Settings, VectorRow
from bitmosaic.views.frames import cycles_frame, energy_frame, front_frame, layers_frame, points_frame
from bitmosaic.views.plots import plot_costs, plot_front, plot_layers, save_figure
from bitmosaic.views.text_tables import energy_note, energy_table, harm_note, report_text


def _layer(name: str, precision: str, cycles: int, energy: float) -> LayerRow:
    return LayerRow(
        layer=name, precision=precision, mapping="tile K4", macs=100, total_cycles=cycles, compute_cycles=cycles - 30,
        fill_drain_cycles=10,
        stall_cycles={"parameters": 0, "weight": 15, "input": 5, "partial_sum": 0, "output_slot": 0, "write_back": 0},
        energy_pj={"dram": 0.75 * energy, "processing_elements": 0.25 * energy}, pe_utilization=0.5,
        cost=float(cycles), lower_bound=0.9 * cycles, gap=0.1, status="feasible",
    )


def _point(label: str, cycles: int, energy: float, score: float | None, uniform: bool = False) -> Point:
    precision = label if uniform else "w4a8"
    record = PointRecord(
        key=label, context="c", origin="uniform" if uniform else "latency", uniform=label if uniform else None,
        assignment={"a": precision, "b": precision}, total_cycles=cycles, latency_ms=cycles / 1e3,
        energy_pj=energy * 1e6,
        accuracy=None if score is None else Accuracy(metric="accuracy", value=score, count=200),
        layers=(_layer("a", precision, cycles // 2, energy * 5e5), _layer("b", precision, cycles // 4, energy * 5e5)),
        vector=(VectorRow(operator="Relu", count=3, total_cycles=50, compute_cycles=40, stall_cycles=10,
                          energy_pj={"vector_unit": 2e6}),),
    )
    return Point(label, record)


POINTS = (
    _point("w8a8", 4000, 40.0, 0.985, uniform=True),
    _point("w4a8", 2000, 20.0, 0.60, uniform=True),
    _point("m1", 2500, 45.0, 0.98),
    _point("m2", 3000, 21.0, 0.97),
    _point("m3", 3500, 30.0, 0.985),
    _point("m4", 3600, 30.0, 0.985),
    _point("m5", 1900, 19.0, 0.1),
)


def _exploration(folder: Path, points: tuple[Point, ...] = POINTS, fp32: float | None = 0.985) -> Exploration:
    settings = Settings(
        network="net", network_source="", accelerator="machine", task=None if fp32 is None else "test",
        metric="accuracy", menu=("w8a8", "w4a8"), objective="latency", sensitivity="perturbation", points=4,
        cpu_seconds_per_layer=1.0, target_gap=0.0, context="c", subject="s", fp32_key=None, versions={},
    )
    reference = None if fp32 is None else Accuracy(metric="accuracy", value=fp32, count=200)
    harms = {("a", "w4a8"): 0.25, ("b", "w4a8"): 0.5}
    return Exploration(folder, settings, reference, points, harms)


def test_fronts_by_hand(tmp_path: Path) -> None:
    assert [point.label for point in pareto_front(POINTS, "latency")] == ["m5", "w4a8", "m1", "m3"]
    assert [point.label for point in pareto_front(POINTS, "energy")] == ["m5", "w4a8", "m2", "m3"]
    assert pareto_front((), "energy") == ()


def test_the_chosen_point_is_the_fastest_within_one_percent(tmp_path: Path) -> None:
    exploration = _exploration(tmp_path)
    assert exploration.chosen().label == "m1"  # type: ignore[union-attr]
    assert exploration.chosen(accuracy_loss=0.0).label == "m3"  # type: ignore[union-attr]
    far = _exploration(tmp_path, POINTS[1:4], fp32=1.0)
    assert far.chosen().label == "m1", "the most accurate, where none is close enough"  # type: ignore[union-attr]
    assert _exploration(tmp_path, ()).chosen() is None


def test_the_report_says_how_well_harms_rank(tmp_path: Path) -> None:
    exploration = _exploration(tmp_path)
    # a and b are rated in w4a8 alone, so that all points with a harm have the same.
    assert harm_note(exploration).endswith("how well harms rank them cannot be told.")
    known = replace(exploration, harms={**exploration.harms, ("a", "w8a8"): 0.0, ("b", "w8a8"): 0.0})
    assert harm_note(replace(known, points=POINTS[:3])) == "Harms of layers: perturbation.", "too few points"
    few = replace(known, points=(POINTS[0], POINTS[1], POINTS[0], POINTS[1]))
    assert harm_note(few).endswith("with the loss of accuracy, 4 points: 1.00.")
    same = replace(known, points=(POINTS[0],) * 4)
    assert harm_note(same).endswith("cannot be told.")
    note = known.settings.model_copy(update={"sensitivity_note": "taylor needs gradients: node 'x'"})
    assert harm_note(replace(few, settings=note)).startswith(
        "Harms of layers: perturbation, since taylor needs gradients: node 'x'. Rank"
    )


def test_the_report_says_where_no_rank_correlation_is_known(tmp_path: Path) -> None:
    exploration = _exploration(tmp_path, POINTS[:2])
    assert exploration.correlations is None
    rated = replace(exploration, settings=exploration.settings.model_copy(update={"sensitivity": "taylor"}))
    start = "Harms of layers: taylor. Rank correlation with measured harm over layers: "
    assert harm_note(rated) == f"{start}not measured (--measure-harm)."
    few = replace(rated, measured_harms={("a", "w4a8"): 0.1, ("b", "w4a8"): 0.2})
    assert harm_note(few) == f"{start}cannot be told of fewer than 4 layers."
    harms = {(layer, "w4a8"): float(place) for place, layer in enumerate("abcd")}
    turned = {(layer, "w4a8"): -harm for (layer, _), harm in harms.items()}
    known = replace(rated, harms=harms, measured_harms=turned)
    assert known.correlations == {"w4a8": pytest.approx(-1.0)}
    assert harm_note(known) == f"{start}w4a8 -1.00."


def test_points_frame(tmp_path: Path) -> None:
    frame = points_frame(_exploration(tmp_path)).set_index("point")
    assert list(frame.index) == [point.label for point in POINTS]
    assert frame.loc["m2", "latency_cycles"] == 3000 and frame.loc["m2", "latency_ms"] == pytest.approx(3.0)
    assert frame.loc["m2", "energy_uj"] == pytest.approx(21.0)
    assert frame.loc["m2", "edp_uj_ms"] == pytest.approx(63.0)
    assert frame.loc["m2", "accuracy_percent"] == pytest.approx(97.0)
    assert frame.loc["m2", "predicted_harm"] == pytest.approx(0.75)
    assert frame.loc["m2", "worst_gap_percent"] == pytest.approx(10.0)
    assert frame.loc["w8a8", "uniform"] == "w8a8" and frame.loc["m2", "uniform"] == ""
    assert list(frame.index[frame["latency_front"]]) == ["w4a8", "m1", "m3", "m5"]
    assert list(frame.index[frame["energy_front"]]) == ["w4a8", "m2", "m3", "m5"]
    assert frame.loc["m1", "precisions"] == "a=w4a8 b=w4a8"


def test_front_frame_is_sorted_and_leaves_out_what_was_not_measured(tmp_path: Path) -> None:
    points = (*POINTS, _point("m6", 10, 1.0, None))
    frame = front_frame(_exploration(tmp_path, points), "energy")
    assert list(frame["point"]) == ["m5", "w4a8", "m2", "m3", "m4", "w8a8", "m1"]
    assert list(frame["cost"]) == pytest.approx([19.0, 20.0, 21.0, 30.0, 30.0, 40.0, 45.0])
    assert list(frame["on_front"]) == [True, True, True, True, False, False, False]


def test_layers_frame_sums_exactly(tmp_path: Path) -> None:
    frame = layers_frame(_exploration(tmp_path), POINTS[2])
    assert list(frame["name"]) == ["a", "b", "Relu"] and list(frame["kind"]) == ["layer", "layer", "vector"]
    parts = [name for name in frame if name.endswith("_cycles") and name != "total_cycles"]
    assert list(frame[parts].sum(axis=1)) == list(frame["total_cycles"]) == [1250, 625, 50]
    assert list(frame["energy_uj"]) == pytest.approx([22.5, 22.5, 2.0])
    assert list(frame["energy_dram_uj"]) == pytest.approx([16.875, 16.875, 0.0])
    assert list(frame["harm"][:2]) == pytest.approx([0.25, 0.5])
    assert list(frame["gap_percent"][:2]) == pytest.approx([10.0, 10.0])


def test_breakdown_frames(tmp_path: Path) -> None:
    exploration = _exploration(tmp_path)
    cycles, energy = cycles_frame(exploration, POINTS[2]), energy_frame(exploration, POINTS[2])
    assert list(cycles.index) == ["a", "b", "Relu"]
    assert list(cycles.sum(axis=1)) == [1250, 625, 50]
    assert cycles.loc["a", "wait: weight"] == 15 and cycles.loc["a", "fill and drain"] == 10
    assert list(energy.columns) == ["dram", "processing elements", "vector unit"]
    assert list(energy.sum(axis=1)) == pytest.approx([22.5, 22.5, 2.0])


def test_figures_say_what_they_show(tmp_path: Path) -> None:
    exploration = _exploration(tmp_path)
    figure = plot_front(exploration, "latency")
    assert isinstance(figure, Figure)
    left, right = figure.axes
    assert left.get_ylabel() == "Accuracy (%)" and left.get_xlabel() == "Latency of one inference (ms)"
    assert right.get_title() == "close to FP32", "accuracies from 10 to 98.5 % need a second panel"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"Pareto front", "uniform precision", "FP32 (98.5 %)", "chosen (m1)"} <= set(labels)
    written = {text.get_text() for axes in figure.axes for text in axes.texts}
    assert written == {"w8a8", "w4a8"}
    step = next(line for line in left.lines if line.get_label() == "Pareto front")
    assert list(step.get_xdata()) == pytest.approx([1.9, 2.0, 2.5, 3.5, 4.0])
    assert step.get_drawstyle() == "steps-post"


def test_one_panel_where_accuracies_are_close(tmp_path: Path) -> None:
    figure = plot_front(_exploration(tmp_path, (POINTS[0], *POINTS[2:6])), "energy")
    assert len(figure.axes) == 1 and figure.axes[0].get_xlabel() == "Energy of one inference (µJ)"


def test_units_follow_the_size(tmp_path: Path) -> None:
    small = (_point("w8a8", 2, 3e-5, 0.9, uniform=True), _point("m1", 1, 2e-5, 0.9))
    figure = plot_costs(_exploration(tmp_path, small))
    assert figure.axes[0].get_xlabel() == "Latency of one inference (µs)"
    assert figure.axes[0].get_ylabel() == "Energy of one inference (pJ)"


def test_many_layers_are_cut_to_the_slowest(tmp_path: Path) -> None:
    rows = tuple(_layer(f"layer{number}", "w8a8", 100 + number, 1e6) for number in range(60))
    point = Point("w8a8", POINTS[0].record.model_copy(update={"layers": rows}))
    figure = plot_layers(_exploration(tmp_path, (point,)), point)
    ticks = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(ticks) == 40 and ticks[0] == "layer20  w8a8" and ticks[-1] == "layer59  w8a8"
    assert "the 40 slowest of 61 rows" in figure.get_suptitle()


def test_bars_end_inside_the_axes(tmp_path: Path) -> None:
    last_part_is_nothing = POINTS[0].record.model_copy(update={"vector": ()})
    point = Point("w8a8", last_part_is_nothing)
    for axes, total in zip(plot_layers(_exploration(tmp_path, (point,)), point).axes, (2000, 20.0), strict=True):
        left, right = axes.get_xlim()
        assert left == 0.0 and right == pytest.approx(1.04 * total)
        assert axes.get_ylim() == pytest.approx((1.7, -0.7)), "no empty rows above or below two bars"


def test_labels_of_baselines_stand_inside_the_axes(tmp_path: Path) -> None:
    figure = plot_front(_exploration(tmp_path), "latency")
    figure.savefig(tmp_path / "front.png")
    for axes in figure.axes:
        box = axes.get_window_extent()
        for text in axes.texts:
            extent = text.get_window_extent()
            assert box.y0 <= extent.y0 and extent.x1 <= box.x1, text.get_text()


@pytest.mark.parametrize(("scale", "unit", "total"), [
    (1.0, "nJ", "42,000.0"), (1e3, "µJ", "42,000.0"), (1e6, "mJ", "42,000.0"), (1e9, "mJ", "42,000,000.0"),
])
def test_the_unit_of_the_energy_table_follows_its_total(scale: float, unit: str, total: str) -> None:
    record = _point("w8a8", 4000, 40.0, None, uniform=True).record
    rows = tuple(
        row.model_copy(update={"energy_pj": {name: energy * scale for name, energy in row.energy_pj.items()}})
        for row in (*record.layers, *record.vector)
    )
    scaled = record.model_copy(update={"layers": rows[:2], "vector": rows[2:], "energy_pj": 42e6 * scale})
    table = energy_table(Point("w8a8", scaled))
    assert str(table.title).strip() == f"Point w8a8: energy ({unit})"
    assert list(table.columns[2].cells)[-1] == total


def test_twelve_components_of_energy_all_look_different(tmp_path: Path) -> None:
    record = _point("w8a8", 4000, 40.0, None, uniform=True).record
    energies = {f"part{number}": 1.0 + number for number in range(12)}
    rows = tuple(row.model_copy(update={"energy_pj": energies}) for row in record.layers)
    point = Point("w8a8", record.model_copy(update={"layers": rows}))
    _, right = plot_layers(_exploration(tmp_path, (point,), fp32=None), point).axes
    looks = {(patch.get_facecolor(), patch.get_hatch()) for patch in right.patches if patch.get_width() > 0}
    assert len(looks) == 12 + 1  # and the vector unit's


def test_the_energy_table_says_how_far_to_trust_it() -> None:
    record = _point("w8a8", 4000, 40.0, None, uniform=True).record
    trusted = record.model_copy(
        update={"confidence": {"dram": "extracted", "processing_elements": "scaled"}, "not_modelled": ("leakage",)}
    )
    table = energy_table(Point("w8a8", trusted))
    last = {str(column.header): list(column.cells)[-1] for column in table.columns}
    assert last["dram"] == "extracted" and last["processing elements"] == "scaled"
    assert last["vector unit"] == last["total"] == "not stated"
    assert energy_note(Point("w8a8", trusted)).endswith("Not modelled: leakage.")
    plain = energy_table(Point("w8a8", record))
    assert list(plain.columns[0].cells)[-1] == "total" and energy_note(Point("w8a8", record)) == ""


def test_outputs_are_written_and_equal_each_time(tmp_path: Path) -> None:
    exploration = _exploration(tmp_path)
    written = write_outputs(exploration)
    names = {path.relative_to(tmp_path).as_posix() for path in written}
    plots = ("latency_accuracy", "energy_accuracy", "latency_energy", "layers")
    expected = {f"plots/{name}.{kind}" for name in plots for kind in ("png", "svg")}
    assignments = {f"assignments/{point.label}.yaml" for point in exploration.points}
    assert names == expected | assignments | {"report.txt", "points.csv", "layers.csv"}
    content = {path: path.read_bytes() for path in written}
    for path, data in content.items():
        if path.suffix == ".png":
            assert data.startswith(b"\x89PNG") and len(data) > 5000
        if path.suffix == ".svg":
            assert ElementTree.fromstring(data).tag.endswith("svg")
    write_outputs(exploration)
    assert {path: path.read_bytes() for path in written} == content
    assert len((tmp_path / "layers.csv").read_text().splitlines()) == 1 + 3 * len(POINTS)


def test_cost_only_outputs_have_no_accuracy_plot(tmp_path: Path) -> None:
    points = (_point("w8a8", 4000, 40.0, None, uniform=True), _point("w4a8", 2000, 20.0, None, uniform=True))
    exploration = _exploration(tmp_path, points, fp32=None)
    names = {path.name for path in write_outputs(exploration)}
    assert "latency_energy.png" in names and "latency_accuracy.png" not in names
    assert "net has a cost only" in report_text(exploration)


def test_the_report_names_the_numbers(tmp_path: Path) -> None:
    text = report_text(_exploration(tmp_path))
    assert "FP32 accuracy: 98.50 % on 200 examples." in text
    assert "Chosen below: m1, the fastest point within 1 % (absolute) of FP32." in text
    assert "Point m1: cycles" in text and "Point m1: energy (nJ)" in text and "Point m1: mappings" in text
    assert "bound (cycles)" in text
    assert report_text(_exploration(tmp_path, ())).endswith("No point has been scored yet.\n")


def test_save_figure_makes_the_folder(tmp_path: Path) -> None:
    png, svg = save_figure(plot_costs(_exploration(tmp_path)), tmp_path / "new" / "plots", "costs")
    assert png.stat().st_size > 5000 and svg.stat().st_size > 1000
