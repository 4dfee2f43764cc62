"""Quantisers side by side, measured: trained networks, the same formats, and what each quantiser keeps of them.

    python -m benchmarks.quantisers [--networks digits_cnn,magika,pp_ocrv6] [--lines N]

All trained layers have the same precision. Integer weights first: 4 and 3 bits with one scale a channel, activations in
8 bits. Then W4A8 as in DPQ: 4-bit weights in groups of 128 that are expanded to FP8 E4M3, with either range, and
activations in that format. Shown are the task's metric and the mean squared error of the outputs against FP32 on the
calibration data, relative to that of rounding to nearest. Networks whose packages are not installed are left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass

from simulator.errors import BitmosaicError
from simulator.precision import LayerPrecision
from workloads.accuracy import AccuracyEvaluator, uniform
from workloads.input_moments import record_moments
from workloads.library import open_network
from workloads.network import Network
from workloads.quantisation import LEAST_ERROR, MAX_ABS, Clipping
from workloads.tasks import Task, find_task
from workloads.tasks.magika import MagikaTask
from workloads.tasks.pp_ocrv6 import PpOcrTask
from workloads.weight_quantisers import Quantiser

NETWORKS = ("digits_cnn", "magika", "pp_ocrv6")
INTEGERS = ("w4a8", "w3a8")
EXPANDED = ("w4:fp8_e4m3", "w4:fp8_e4m3_ieee")


@dataclass(frozen=True)
class Way:
    """A quantiser with its clipping, and the precisions that it is shown for."""

    label: str
    quantiser: Quantiser
    clipping: Clipping
    precisions: tuple[str, ...]


WAYS = (
    Way("round to nearest", "rtn", MAX_ABS, INTEGERS + EXPANDED),
    Way("… least error", "rtn", LEAST_ERROR, INTEGERS + EXPANDED),
    Way("GPTQ", "gptq", MAX_ABS, INTEGERS + EXPANDED),
    Way("GPTQ, act order", "gptq_act", MAX_ABS, INTEGERS),
    Way("GPTQ, least error", "gptq", LEAST_ERROR, INTEGERS),
    Way("DPQ", "dpq", MAX_ABS, EXPANDED),
)


def task_of(network: Network, most: int) -> Task:
    """The network's task, with at most so many files of magika or lines of PP-OCRv6 to evaluate (0: its own number)."""
    if most and network.name == "magika":
        return MagikaTask(most=2 * most)
    if most and network.name == "pp_ocrv6":
        return PpOcrTask(evaluation_count=most)
    task = find_task(network)
    assert task is not None  # all of NETWORKS have one
    return task


def show(network: Network, task: Task) -> None:
    """Print a block of lines for each precision."""
    began = time.process_time()
    moments = record_moments(network, task.calibration_feeds())
    seconds = time.process_time() - began
    left = f"; rounded to nearest all the same: {', '.join(moments.missing)}" if moments.missing else ""
    print(f"  second moments of {len(moments.by_layer)} layers in {seconds:.1f} CPU s{left}")
    evaluators = {
        way.label: AccuracyEvaluator(network, task, quantiser=way.quantiser, clipping=way.clipping, moments=moments)
        for way in WAYS
    }
    fp32 = evaluators[WAYS[0].label].fp32()
    print(f"  {'FP32':36} {100 * fp32.value:7.2f} %  of {fp32.count}")
    for text in INTEGERS + EXPANDED:
        assignment = uniform(network, LayerPrecision.parse(text))
        base = None
        for way in WAYS:
            if text not in way.precisions:
                continue
            evaluator = evaluators[way.label]
            began = time.process_time()
            result, error = evaluator.measure(assignment), evaluator.output_mse(assignment)
            seconds = time.process_time() - began
            base = error if base is None else base
            print(f"  {text:18} {way.label:18} {100 * result.value:6.2f} %  output MSE {error:9.3g}  × "
                  f"{error / base:5.3f}  {seconds:6.1f} CPU s", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Print the table of each network that can be opened."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantisers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--lines", type=int, default=0, metavar="N",
                        help="evaluate on at most N files or lines (default: all that the task has)")
    options = parser.parse_args(arguments)
    for name in options.networks.split(","):
        try:
            network = open_network(name)
            print(f"{name} ({task_of(network, options.lines).metric})")
            show(network, task_of(network, options.lines))
        except BitmosaicError as error:
            print(f"{name}: {error}", file=sys.stderr)
            if name not in NETWORKS:
                return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
