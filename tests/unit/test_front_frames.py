"""Fronts, volumes and attainment of any points, against their definitions; precision maps."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitmosaic.views.front_frames import attainment_frame, hypervolume_frame, mark_front, precision_frame
from simulator.errors import ConfigurationError

BOTH = {"latency_ms": "min", "accuracy_percent": "max"}
ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 5) | st.just(math.nan)), min_size=1, max_size=14
)


def points(rows):
    return pd.DataFrame(rows, columns=["run", "latency_ms", "accuracy_percent"])


def attains(frame, latency, accuracy):
    return ((frame["latency_ms"] <= latency) & (frame["accuracy_percent"] >= accuracy)).any()


@given(ROWS)
def test_a_surface_is_attained_by_as_many_runs_as_it_says_and_is_no_larger(rows):
    frame = points(rows)
    surfaces = attainment_frame(frame, BOTH, by="run")
    runs = [own for _, own in frame.dropna().groupby("run")]
    assert set(surfaces["of_runs"]) <= {len(runs)}
    for latency in range(6):
        for accuracy in range(6):
            count = sum(attains(own, latency, accuracy) for own in runs)
            for wanted in range(1, len(runs) + 1):
                surface = surfaces[surfaces["runs"] == wanted]
                assert attains(surface, latency, accuracy) == (count >= wanted)
    for _, surface in surfaces.groupby("runs"):
        assert mark_front(surface, BOTH)["on_front"].all()


@given(ROWS)
def test_a_row_stands_unless_a_known_one_beats_it(rows):
    frame = mark_front(points(rows), BOTH)
    for row in frame.itertuples():
        better = [
            other for other in frame.itertuples()
            if other.latency_ms <= row.latency_ms and other.accuracy_percent >= row.accuracy_percent
            and ((other.latency_ms, other.accuracy_percent) != (row.latency_ms, row.accuracy_percent)
                 or other.Index < row.Index)
        ]
        assert row.on_front == (not math.isnan(row.accuracy_percent) and not better)


def test_volumes_of_groups_share_one_box():
    frame = points([("a", 0, 0), ("a", 4, 8), ("b", 2, 4), ("b", 3, 2), ("c", 1, math.nan)])
    found = hypervolume_frame(frame, BOTH, by="run").set_index("run")
    # The box is 4 ms by 8 points; b's better point dominates half of each side, a's lie on its border.
    assert found["hypervolume_percent"].to_dict() == {"a": 0.0, "b": 25.0, "c": 0.0}
    assert found["front_points"].to_dict() == {"a": 2, "b": 1, "c": 0}
    assert found["points"].to_dict() == {"a": 2, "b": 2, "c": 0}
    whole = hypervolume_frame(frame, BOTH)
    assert whole["hypervolume_percent"].tolist() == [25.0]


def test_an_objective_in_which_all_are_equal_is_left_out():
    frame = pd.DataFrame({"x": [0, 1, 2], "y": [2, 1, 0], "z": [7, 7, 7]})
    objectives = {"x": "min", "y": "min", "z": "max"}
    assert hypervolume_frame(frame, objectives)["hypervolume_percent"].tolist() == [25.0]
    assert hypervolume_frame(frame[:1], objectives)["hypervolume_percent"].tolist() == [0.0]
    assert hypervolume_frame(frame[:0], objectives)["points"].tolist() == [0]


def test_every_mistake_is_said_at_once():
    frame = points([("a", 1, 2)])
    with pytest.raises(ConfigurationError) as caught:
        mark_front(frame, {"latency": "min", "run": "max", "accuracy_percent": "least"})
    text = str(caught.value)
    assert "did you mean 'latency_ms'" in text and "objectives.run" in text and "'least'" in text
    with pytest.raises(ConfigurationError, match=r"by='runs'.*did you mean 'run'"):
        hypervolume_frame(frame, BOTH, by="runs")
    with pytest.raises(ConfigurationError, match="two columns"):
        attainment_frame(frame, {"latency_ms": "min"}, by="run")
    with pytest.raises(ConfigurationError, match="a column at least"):
        mark_front(frame, {})


def test_precisions_of_points_with_split_layers():
    class Point:
        def __init__(self, label, assignment):
            self.label, self.record = label, self
            self.assignment = assignment

    frame = precision_frame([Point("m1", {"conv": "w4a8", "fc": "w8a8/w4a4@0.25"}), Point("w8a8", {"conv": "w8a8"})])
    assert frame.values.tolist() == [
        ["m1", "conv", "w4a8", 4.0, 8.0], ["m1", "fc", "w8a8/w4a4@0.25", 7.0, 7.0], ["w8a8", "conv", "w8a8", 8.0, 8.0],
    ]
    assert np.isfinite(frame["weight_bits"]).all()
