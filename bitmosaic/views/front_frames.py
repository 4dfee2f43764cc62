"""Fronts of any points with any number of objectives, as pandas frames: which stand, how much they dominate.

For frames of a sweep, of several explorations put together, or of your own. A *point* is a row; *objectives* name the
columns that matter and say which way is better, ``{"latency_ms": "min", "accuracy_percent": "max"}``. ``front_plots``
draws these frames; what an exploration found by itself is in ``frames``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from bitmosaic.explorations.exploration import Exploration, Point
from mapper.pareto import hypervolume, pareto_front
from simulator.errors import ConfigurationError, Problem, closest
from simulator.precision import LayerPrecision

Direction = Literal["min", "max"]
Objectives = Mapping[str, Direction]
DIRECTIONS: tuple[Direction, ...] = ("min", "max")


def losses(frame: pd.DataFrame, objectives: Objectives) -> npt.NDArray[np.float64]:
    """The columns of the objectives, ``(rows, objectives)``, turned so that less is better.

    Raises ``ConfigurationError`` for a column that is not there or has no numbers, and an unknown direction.
    """
    problems = []
    if not objectives:
        problems.append(Problem("needs a column at least", path="objectives", value="{}"))
    for name, direction in objectives.items():
        if name not in frame.columns:
            columns = [str(column) for column in frame.columns]
            problems.append(Problem("no such column", path="objectives", value=repr(name), allowed=tuple(columns),
                                    did_you_mean=closest(str(name), columns)))
        elif not pd.api.types.is_numeric_dtype(frame[name]):
            problems.append(Problem("must hold numbers", path=f"objectives.{name}", value=str(frame[name].dtype)))
        if direction not in DIRECTIONS:
            problems.append(Problem("is no direction", path=f"objectives.{name}", value=repr(direction),
                                    allowed=DIRECTIONS, did_you_mean=closest(str(direction), DIRECTIONS)))
    if problems:
        raise ConfigurationError(problems)
    signs = np.array([1.0 if direction == "min" else -1.0 for direction in objectives.values()])
    return np.asarray(frame[list(objectives)].to_numpy(dtype=np.float64, na_value=np.nan) * signs)


def mark_front(frame: pd.DataFrame, objectives: Objectives) -> pd.DataFrame:
    """A copy with the column ``on_front``: whether no other row is as good everywhere and better somewhere.

    Of equal rows the first stands. A row in which an objective is missing (NaN) is never on the front, and beats none.
    Raises ``ConfigurationError`` as ``losses``.

    >>> points = pd.DataFrame({"latency_ms": [1.0, 2.0, 2.0], "accuracy_percent": [90.0, 95.0, 91.0]})
    >>> mark_front(points, {"latency_ms": "min", "accuracy_percent": "max"})["on_front"].tolist()
    [True, True, False]
    """
    table = losses(frame, objectives)
    known = _known(table)
    on_front = np.zeros(len(frame), dtype=np.bool_)
    on_front[known] = pareto_front(table[known])
    return frame.assign(on_front=on_front)


def hypervolume_frame(frame: pd.DataFrame, objectives: Objectives, by: str | None = None) -> pd.DataFrame:
    """How much of the box of all rows each group's front dominates: one row a value of ``by``, in order of first sight.

    The box spans from the best to the worst value of each objective over *all* rows, so the shares of groups can be
    compared with each other and with nothing else. An objective in which all rows are equal is left out.

    Columns: ``by``'s (where given), ``points`` (rows in which every objective is finite), ``front_points``,
    ``hypervolume_percent``.
    Raises ``ConfigurationError`` as ``losses``, and for a ``by`` that is no column.

    >>> points = pd.DataFrame({"sweep": ["a", "a", "b"], "latency_ms": [0, 2, 1], "energy_uj": [4, 0, 2]})
    >>> hypervolume_frame(points, {"latency_ms": "min", "energy_uj": "min"}, by="sweep")["hypervolume_percent"].tolist()
    [0.0, 25.0]
    """
    table = losses(frame, objectives)
    finite = np.asarray(np.isfinite(table).all(axis=1))
    best = table[finite].min(axis=0, initial=np.inf)
    worst = table[finite].max(axis=0, initial=-np.inf)
    wide = np.flatnonzero(worst > best)
    rows = []
    for name, places in _groups(frame, by):
        own = table[places][finite[places]]
        row: dict[str, object] = {} if by is None else {by: name}
        share = 0.0
        if len(own) and len(wide):
            inside = (own[:, wide] - best[wide]) / (worst[wide] - best[wide])
            share = hypervolume(inside, np.ones(len(wide)))
        rows.append({**row, "points": len(own), "front_points": int(pareto_front(own).sum()) if len(own) else 0,
                     "hypervolume_percent": 100.0 * share})
    columns = [*([] if by is None else [by]), "points", "front_points", "hypervolume_percent"]
    return pd.DataFrame(rows, columns=columns)


def attainment_frame(frame: pd.DataFrame, objectives: Objectives, by: str) -> pd.DataFrame:
    """What one, two, … all of several runs attain: the corners of the empirical attainment surfaces.

    A run (a value of ``by``: a sweep, a seed, a method) attains a pair of values where it has a point at least as good
    in both of the two objectives. After Fonseca and Fleming, "On the performance assessment and comparison of
    stochastic multiobjective optimizers", PPSN IV, 1996.

    Columns: ``runs`` (attained by at least so many), ``of_runs``, the two objectives: the corners of that surface, in
    order of the first objective, best first. Raises ``ConfigurationError`` as ``losses``, for a ``by`` that is no
    column, and for another number of objectives than two.

    >>> points = pd.DataFrame({"seed": [0, 0, 1], "latency_ms": [1.0, 3.0, 2.0], "energy_uj": [5.0, 1.0, 4.0]})
    >>> found = attainment_frame(points, {"latency_ms": "min", "energy_uj": "min"}, by="seed")
    >>> found[found["runs"] == 2][["latency_ms", "energy_uj"]].values.tolist()
    [[2.0, 5.0], [3.0, 4.0]]
    """
    if len(objectives) != 2:
        raise ConfigurationError(
            Problem("must name two columns", path="objectives", value=f"{len(objectives)} columns")
        )
    table = losses(frame, objectives)
    runs = [table[places] for _, places in _groups(frame, by)]
    runs = [run[_known(run)] for run in runs]
    runs = [run for run in runs if len(run)]
    signs = [1.0 if direction == "min" else -1.0 for direction in objectives.values()]
    firsts = np.unique(np.concatenate([run[:, 0] for run in runs])) if runs else np.empty(0)
    # best[run, i]: least second objective that the run has at a first objective of firsts[i] or less.
    best = np.array([
        [run[run[:, 0] <= first, 1].min(initial=np.inf) for first in firsts] for run in runs
    ]).reshape(len(runs), len(firsts))
    rows = []
    for count, level in enumerate(np.sort(best, axis=0), start=1):
        before = np.inf
        for first, second in zip(firsts, level, strict=True):
            if second < before:
                rows.append((count, len(runs), first * signs[0], second * signs[1]))
                before = second
    return pd.DataFrame(rows, columns=["runs", "of_runs", *objectives])


def precision_frame(points: Exploration | Sequence[Point]) -> pd.DataFrame:
    """Which layer runs in which precision at each point: one row a point and layer, in the network's order.

    Columns: ``point``, ``layer``, ``precision`` (label), ``weight_bits``, ``input_bits`` (of the formats; of a layer
    split by channels the mean over its channels).
    """
    rows = []
    for point in points.points if isinstance(points, Exploration) else points:
        for layer, label in point.record.assignment.items():
            precision = LayerPrecision.parse(label)
            narrow = 0.0 if precision.split is None else precision.split.share
            rows.append({
                "point": point.label, "layer": layer, "precision": label,
                "weight_bits": (1.0 - narrow) * precision.weight.bits + narrow * precision.narrow.weight.bits,
                "input_bits": (1.0 - narrow) * precision.input.bits + narrow * precision.narrow.input.bits,
            })
    return pd.DataFrame(rows, columns=["point", "layer", "precision", "weight_bits", "input_bits"])


def _known(table: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Rows in which no value is missing."""
    return np.asarray(~np.isnan(table).any(axis=1), dtype=np.bool_)


def _groups(frame: pd.DataFrame, by: str | None) -> list[tuple[object, npt.NDArray[np.int64]]]:
    """Value → places of its rows, in order of first sight."""
    if by is None:
        return [(None, np.arange(len(frame)))]
    if by not in frame.columns:
        columns = [str(column) for column in frame.columns]
        raise ConfigurationError(Problem("no such column", path="by", value=repr(by), allowed=tuple(columns),
                                         did_you_mean=closest(by, columns)))
    numbers, names = pd.factorize(frame[by])
    return [(name, np.flatnonzero(numbers == number)) for number, name in enumerate(names)]
