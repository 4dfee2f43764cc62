import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapper.pareto import dominates, hypervolume, pareto_front
from simulator.errors import BitmosaicError

VALUES = st.one_of(st.integers(0, 4).map(float), st.floats(-10, 10), st.just(math.inf))
TABLES = st.integers(1, 4).flatmap(
    lambda k: st.lists(st.lists(VALUES, min_size=k, max_size=k), min_size=1, max_size=30)
)


def naive_front(points):
    kept = []
    for i, point in enumerate(points):
        beaten = any(dominates(other, point) for other in points)
        kept.append(not beaten and point not in points[:i])
    return kept


@given(TABLES)
def test_front_equals_the_definition(points):
    assert pareto_front(points).tolist() == naive_front(points)


@given(TABLES)
def test_every_point_left_out_is_beaten_or_equalled_by_one_of_the_front(points):
    mask = pareto_front(points)
    front = [point for point, kept in zip(points, mask, strict=True) if kept]
    for point, kept in zip(points, mask, strict=True):
        assert kept or any(dominates(best, point) or best == point for best in front)
    assert pareto_front(front).all()


def test_of_equal_points_the_first_stands():
    assert pareto_front([[1, 1], [0, 2], [1, 1], [0, 2]]).tolist() == [True, True, False, False]
    assert pareto_front([[1, 1, 1], [1, 1, 1]]).tolist() == [True, False]
    assert pareto_front([[2.0], [1.0], [1.0]]).tolist() == [False, True, False]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_hypervolume_counts_the_cells_dominated(points):
    corner = (8, 7)
    cells = sum(
        any(x <= i and y <= j for x, y in points) for i in range(corner[0]) for j in range(corner[1])
    )
    assert hypervolume(np.array(points, dtype=float).reshape(-1, 2), corner) == pytest.approx(cells)


@given(st.integers(1, 5).flatmap(lambda k: st.lists(
    st.lists(st.integers(0, 5) | st.floats(0, 5), min_size=k, max_size=k), min_size=1, max_size=12)))
def test_hypervolume_equals_moocore(points):
    moocore = pytest.importorskip("moocore", reason="the oracle of hypervolumes is in the test extra")
    table = np.array(points, dtype=np.float64)
    corner = np.full(table.shape[1], 4.0)
    expected = moocore.hypervolume(table, ref=corner) if len(corner) > 1 else max(0.0, 4.0 - table.min())
    assert hypervolume(table, corner) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_empty_and_malformed():
    assert pareto_front(np.empty((0, 3))).tolist() == []
    assert hypervolume([], (1, 1)) == 0.0
    with pytest.raises(BitmosaicError, match="NaN"):
        pareto_front([[1, math.nan]])
    with pytest.raises(BitmosaicError, match="shape"):
        pareto_front([1, 2, 3])
    with pytest.raises(BitmosaicError, match=r"reference=shape \(2,\).*allowed: shape \(3,\)"):
        hypervolume([[1, 2, 3]], (4, 4))
    with pytest.raises(BitmosaicError, match="finite"):
        hypervolume([[1, 2, 3]], (4, 4, math.inf))
    with pytest.raises(BitmosaicError, match="infinitely good"):
        hypervolume([[1, -math.inf]], (4, 4))
