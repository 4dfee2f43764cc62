"""What the plots of fronts show: marks where the frame has them, better values up, nothing outside."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from bitmosaic.views.front_frames import mark_front
from bitmosaic.views.front_plots import axis_label, plot_attainment, plot_parallel, plot_pareto, plot_precisions
from simulator.errors import ConfigurationError

BOTH = {"latency_ms": "min", "accuracy_percent": "max"}


@pytest.fixture(scope="module")
def sweep():
    rng = np.random.default_rng(3)
    rows = rng.choice([8, 16, 64], 40)
    return pd.DataFrame({
        "run": rng.choice(["first", "second"], 40), "grid.rows": rows, "latency_ms": 900 / rows * rng.uniform(1, 2, 40),
        "accuracy_percent": rng.uniform(90, 99, 40), "energy_uj": rng.uniform(5, 9, 40),
    })


def test_dominated_points_are_faded_and_the_front_is_not(sweep):
    axes = plot_pareto(sweep, BOTH).axes[0]
    faded, front = axes.collections
    marked = mark_front(sweep, BOTH)
    assert len(front.get_offsets()) == marked["on_front"].sum()
    assert len(faded.get_offsets()) == (~marked["on_front"]).sum()
    assert faded.get_alpha() < 0.5 and front.get_alpha() is None
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "latency (ms), less is better", "accuracy (%), more is better"
    )


def test_three_objectives_have_a_panel_a_pair_and_one_front(sweep):
    figure = plot_pareto(sweep, {**BOTH, "energy_uj": "min"}, by="run")
    assert len([axes for axes in figure.axes if axes.get_visible()]) == 3
    on_front = mark_front(sweep, {**BOTH, "energy_uj": "min"})["on_front"].sum()
    for axes in figure.axes:
        assert sum(len(drawn.get_offsets()) for drawn in axes.collections[1::2]) == on_front


def test_a_front_line_never_passes_below_a_point_that_beats_it(sweep):
    line = plot_pareto(sweep, BOTH).axes[0].lines[0]
    xs, ys = line.get_xdata(), line.get_ydata()
    for x in np.linspace(xs[0], xs[-1], 50):
        attained = sweep.loc[sweep["latency_ms"] <= x + 1e-9, "accuracy_percent"].max()
        place = np.searchsorted(xs, x + 1e-9, side="right") - 1
        assert ys[place] == pytest.approx(attained)


def test_attainment_has_a_line_a_level(sweep):
    axes = plot_attainment(sweep, BOTH, by="run").axes[0]
    assert [line.get_label() for line in axes.lines] == [
        "attained by half of the runs (1 of 2)", "attained by every run (2 of 2)",
    ]
    one = plot_attainment(sweep[sweep["run"] == "first"], BOTH, by="run").axes[0]
    assert [line.get_label() for line in one.lines] == ["attained"]


def test_parallel_axes_point_up_for_the_better_value(sweep):
    axes = plot_parallel(sweep, ["run", "grid.rows"], BOTH).axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 4]
    heights = np.array([line.get_ydata() for line in lines])
    assert len(lines) == len(sweep) and heights.min() >= 0.0 and heights.max() <= 1.0
    front = [line for line in lines if line.get_alpha() is None]
    marked = mark_front(sweep, BOTH)
    assert len(front) == marked["on_front"].sum()
    best = max(front, key=lambda line: line.get_ydata()[2])
    assert best.get_ydata()[2] == 1.0
    assert np.mean(to_rgba(best.get_color())[:3]) == min(np.mean(to_rgba(line.get_color())[:3]) for line in front)
    texts = {text.get_text() for text in axes.texts}
    assert {"8", "16", "64", "first", "second"} <= texts


def test_a_precision_map_has_a_field_a_layer_and_point():
    frame = pd.DataFrame(
        [("a", "conv", "w4a8", 4.0), ("a", "fc", "w8a8", 8.0), ("b", "conv", "w8a8", 8.0)],
        columns=["point", "layer", "precision", "weight_bits"],
    )
    axes = plot_precisions(frame).axes[0]
    assert [text.get_text() for text in axes.texts] == ["w4a8", "w8a8", "w8a8"]
    drawn = axes.images[0].get_array()
    assert drawn.shape == (2, 2) and np.ma.filled(drawn.astype(float), np.nan)[0].tolist() == [4.0, 8.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv", "fc"]
    with pytest.raises(ConfigurationError, match="has no rows"):
        plot_precisions(frame[:0])


def test_mistakes(sweep):
    with pytest.raises(ConfigurationError, match="two columns at least"):
        plot_pareto(sweep, {"latency_ms": "min"})
    with pytest.raises(ConfigurationError, match=r"did you mean 'grid\.rows'"):
        plot_parallel(sweep, ["grid.row"], BOTH)


def test_units_stand_in_brackets():
    assert axis_label("area_um2") == "area (µm²)" and axis_label("ms") == "ms"
    assert axis_label("buffers.weight.size_bits") == "buffers.weight.size (bits)"
