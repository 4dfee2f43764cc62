"""The systolic model beside measured silicon: matrix products on a TPU v4. A plot and correlations, not a bound.

    python -m benchmarks.tpu_v4 [--data DIR] [--plot FOLDER]

Each product is simulated on one weight-stationary 128 × 128 array of one MAC a cycle, with SCALE-Sim's folds
(nothing overlaps) and with folds that overlap and weights that preload. A TensorCore has four such arrays at 1050 MHz
(Jouppi
et al., "TPU v4", ISCA 2023): a quarter of the cycles at that clock is the predicted time. What a launch costs, DRAM,
and how the compiler tiles are not modelled. So a second line fits a + b · prediction to the measurements: two numbers
for all rows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.reference.comparison import Row, read_rows
from benchmarks.reference.machines import bare_machine, grid_cycles, run_in_one_pass
from bitmosaic.views.plots import BLUE, VERMILION, new_figure, save_figure, tidy
from simulator.accelerator import Accelerator, Axis, SystolicPassing
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from simulator.processing_elements import FixedElement

FILE = "tpu_v4_gemm.csv"
SIDE, ARRAYS, CLOCK_MHZ = 128, 4, 1050.0
Floats = npt.NDArray[np.float64]


def array(overlapping: bool) -> Accelerator:
    """One matrix unit, without memory limits."""
    return bare_machine(
        (Axis(name="rows", size=SIDE, unroll=("C",)), Axis(name="columns", size=SIDE, unroll=("K",))),
        SystolicPassing(stationary="weight", fold_overlap=overlapping, stationary_preload=overlapping),
        FixedElement(energy_pj_per_cycle=0.0), registers_keep="weight",
    )


def predicted_us(row: Row, machine: Accelerator) -> float:
    """Time of one product, its cycles shared by all arrays."""
    layer = Layer(name="product", dims={"P": int(row["M"]), "K": int(row["N"]), "C": int(row["K"])})
    result = run_in_one_pass(layer, LayerPrecision(), machine, {"rows": {"C": SIDE}, "columns": {"K": SIDE}},
                             ("C", "K", "P"))
    return grid_cycles(result) / ARRAYS / CLOCK_MHZ


def ranks(values: Floats) -> Floats:
    """Rank of each value; equal ones share the mean of theirs.

    >>> ranks(np.array([3.0, 1.0, 3.0])).tolist()
    [1.5, 0.0, 1.5]
    """
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count) - 1
    return np.asarray((last - (count - 1) / 2)[place], dtype=np.float64)


def correlation(first: Floats, second: Floats) -> float:
    """Pearson's coefficient."""
    return float(np.corrcoef(first, second)[0, 1])


def r_squared(predicted: Floats, measured: Floats) -> float:
    """Share of the variance that a prediction explains; negative where the mean would be better."""
    return float(1 - ((measured - predicted) ** 2).sum() / ((measured - measured.mean()) ** 2).sum())


def mean_error(predicted: Floats, measured: Floats) -> float:
    """Mean absolute error as a share of what was measured (MAPE)."""
    return float((np.abs(predicted - measured) / measured).mean())


def fitted(predicted: Floats, measured: Floats) -> tuple[Floats, float, float]:
    """Least squares of relative errors: (a + b · predicted, a, b)."""
    weight = 1 / measured
    terms = np.stack([np.ones_like(predicted), predicted], axis=1)
    (offset, slope), *_ = np.linalg.lstsq(terms * weight[:, None], measured * weight, rcond=None)
    return offset + slope * predicted, float(offset), float(slope)


def line(name: str, predicted: Floats, measured: Floats) -> str:
    """Return one line of the table."""
    logs = correlation(np.log(predicted), np.log(measured)) ** 2
    rank, error = correlation(ranks(predicted), ranks(measured)), 100 * mean_error(predicted, measured)
    return f"{name:34} {r_squared(predicted, measured):8.3f} {logs:11.3f} {error:7.1f} % {rank:6.3f}"


def draw(measured: Floats, plain: Floats, overlapping: Floats, folder: Path) -> Path:
    """Write the scatter of predictions over measurements, both logarithmic. Returns the PNG file."""
    figure = new_figure(5.2, 4.4)
    axes = figure.subplots()
    axes.loglog(measured, plain, "o", markersize=3, alpha=0.5, color=VERMILION, markeredgewidth=0,
                label="folds one after the other")
    axes.loglog(measured, overlapping, "s", markersize=3, alpha=0.5, color=BLUE, markeredgewidth=0,
                label="folds overlap, weights preload")
    ends = [min(measured.min(), overlapping.min()), max(measured.max(), plain.max())]
    axes.loglog(ends, ends, color="black", linewidth=0.8, label="equal")
    axes.set_xlabel("measured (µs)")
    axes.set_ylabel("predicted, nothing fitted (µs)")
    axes.set_title(f"{len(measured)} matrix products on a TPU v4", fontsize="medium")
    axes.legend(frameon=False, fontsize="small")
    tidy(axes)
    return save_figure(figure, folder, "tpu_v4")[0]


def main(arguments: list[str] | None = None) -> int:
    """Print the correlations, and write the plot where a folder is given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tpu_v4", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/reference"), metavar="DIR",
                        help="folder with the reference files (default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="write tpu_v4.png and .svg here")
    options = parser.parse_args(arguments)
    if not (options.data / FILE).is_file():
        print(f"--data={options.data}: holds no {FILE}", file=sys.stderr)
        return 2
    rows = read_rows(options.data / FILE)
    measured = np.array([float(row["fusion_avg_us"]) for row in rows])
    predictions = [np.array([predicted_us(row, array(overlapping)) for row in rows]) for overlapping in (False, True)]
    print(f"{len(rows)} products, {measured.min():.2f} to {measured.max():.0f} µs measured")
    print(f"{'prediction':34} {'R²':>8} {'R² of logs':>11} {'MAPE':>9} {'rank':>6}")
    large = measured >= 10
    for name, predicted in zip(("folds one after the other", "folds overlap, weights preload"), predictions,
                               strict=True):
        print(line(name, predicted, measured))
        together, offset, slope = fitted(predicted, measured)
        print(line(f"  {offset:.2f} µs + {slope:.2f} × it", together, measured))
        print(line(f"  of these the {large.sum()} over 10 µs", together[large], measured[large]))
    if options.plot is not None:
        print(f"wrote {draw(measured, predictions[0], predictions[1], options.plot)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
