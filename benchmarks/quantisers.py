"""Quantisers side by side, measured: trained networks, the same formats, and what each quantiser keeps of them.

    python -m benchmarks.quantisers [--networks digits_cnn,magika,pp_ocrv6,minilm] [--lines N] [--groups 128,64,32]
                                    [--only w4:fp8_e4m3] [--quantisers rtn,dpq] [--passages]

All trained layers have the same precision. Integer weights first: 4 and 3 bits with one scale a channel, activations in
8 bits. Then W4A8 as in DPQ: 4-bit weights in groups that are expanded to FP8 E4M3, with either range, and activations
in that format. Shown are the task's metric and the mean squared error of the outputs against FP32 on the calibration
data, relative to that of rounding to nearest. Of MiniLM also how many texts have the nearest neighbour of FP32, and the
difference of the accuracies to rounding to nearest and to FP32: with how many texts find their module in one of the two
only, and a 95 % interval by bootstrap, once drawing texts anew, and once whole modules, since texts of one module may
stand and fall together. ``--passages``: MiniLM's texts have one right answer each among thousands
(``workloads.tasks.minilm_passages``); its reciprocal rank is compared too, and what is drawn whole are packages.
Networks whose packages are not installed are left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.errors import BitmosaicError, PrecisionError
from simulator.precision import LayerPrecision
from workloads.accuracy import AccuracyEvaluator, uniform
from workloads.fake_quantised_model import Assignment
from workloads.input_moments import record_moments
from workloads.library import open_network
from workloads.network import Network
from workloads.quantisation import LEAST_ERROR, MAX_ABS, Clipping
from workloads.tasks import Task, find_task
from workloads.tasks.magika import MagikaTask
from workloads.tasks.minilm import Answers, MiniLmTask, score
from workloads.tasks.minilm_passages import PassageTask
from workloads.tasks.pp_ocrv6 import PpOcrTask
from workloads.tasks.task import TaskScore
from workloads.weight_quantisers import Quantiser

NETWORKS = ("digits_cnn", "magika", "pp_ocrv6", "minilm")
INTEGERS = ("w4a8", "w3a8")
EXPANDED = ("w4:fp8_e4m3", "w4:fp8_e4m3_ieee")
DRAWS = 10_000
AT_ONCE = 500  # draws that are in memory together


@dataclass(frozen=True)
class Way:
    """A quantiser with its clipping; whether it is shown for weights that stay integers, and that are expanded."""

    label: str
    quantiser: Quantiser
    clipping: Clipping
    integers: bool = True
    expanded: bool = True


WAYS = (
    Way("round to nearest", "rtn", MAX_ABS),
    Way("… least error", "rtn", LEAST_ERROR),
    Way("GPTQ", "gptq", MAX_ABS),
    Way("GPTQ, act order", "gptq_act", MAX_ABS, expanded=False),
    Way("GPTQ, least error", "gptq", LEAST_ERROR, expanded=False),
    Way("DPQ", "dpq", MAX_ABS, integers=False),
    Way("DPQ, as they stand", "dpq_natural", MAX_ABS, integers=False),
)


def task_of(network: Network, most: int, passages: bool = False) -> Task:
    """The network's task, with at most so many files of magika, lines of PP-OCRv6 or texts of each of the modules of
    MiniLM to evaluate (0: its own number). ``passages``: MiniLM finds passages."""
    if passages and network.name == "minilm":
        return PassageTask()
    if most and network.name == "magika":
        return MagikaTask(most=2 * most)
    if most and network.name == "pp_ocrv6":
        return PpOcrTask(evaluation_count=most)
    if most and network.name == "minilm":
        return MiniLmTask(evaluated=most)
    task = find_task(network)
    assert task is not None  # all of NETWORKS have one
    return task


def precisions(texts: Sequence[str], groups: Sequence[int]) -> list[tuple[str, LayerPrecision]]:
    """Precisions by name, those that expand weights once for each size of groups."""
    found = []
    for text in texts:
        precision = LayerPrecision.parse(text)
        if precision.expanded_weight is None:
            found.append((text, precision))
        else:
            found += [(f"{text} /{group}", precision.model_copy(update={"weight_group": group})) for group in groups]
    return found


def show(
    network: Network, task: Task, asked: Sequence[tuple[str, LayerPrecision]], quantisers: Sequence[str]
) -> None:
    """Print a block of lines for each precision, of the ways that use one of ``quantisers``."""
    began = time.process_time()
    moments = record_moments(network, task.calibration_feeds())
    seconds = time.process_time() - began
    left = f"; rounded to nearest all the same: {', '.join(moments.missing)}" if moments.missing else ""
    print(f"  second moments of {len(moments.by_layer)} layers in {seconds:.1f} CPU s{left}")
    reference = AccuracyEvaluator(network, task, moments=moments)
    began = time.process_time()
    fp32, own = measured(reference, {})
    seconds = time.process_time() - began
    print(f"  {'FP32':40} {100 * fp32.value:7.2f} %  of {fp32.count}{beside(fp32)}  {seconds:6.1f} CPU s", flush=True)
    for text, precision in asked:
        assignment = uniform(network, precision)
        base: float | None = None
        rounded: Answers | None = None
        for way in WAYS:
            if way.quantiser not in quantisers or not (way.expanded if precision.expanded_weight else way.integers):
                continue
            # An evaluator for each way and precision: it would keep the weights of all that it was asked for.
            evaluator = AccuracyEvaluator(
                network, task, quantiser=way.quantiser, clipping=way.clipping, moments=moments
            )
            began = time.process_time()
            try:
                (result, answers), error = measured(evaluator, assignment), evaluator.output_mse(assignment)
            except PrecisionError as refused:
                print(f"  {text:22} {way.label:18} {refused.problems[0].rule}")
                continue
            seconds = time.process_time() - began
            base = error if base is None else base
            line = (f"  {text:22} {way.label:18} {100 * result.value:6.2f} %  output MSE {error:9.3g}  × "
                    f"{error / base:5.3f}  {seconds:6.1f} CPU s")
            if own is not None and answers is not None:
                assert isinstance(task, MiniLmTask)
                rounded = answers if rounded is None else rounded
                line += f"{beside(result)}\n    {compared(task.groups, own, rounded, answers)}"
            print(line, flush=True)


def measured(evaluator: AccuracyEvaluator, assignment: Assignment) -> tuple[TaskScore, Answers | None]:
    """The score, and of MiniLM what was found for each text."""
    task = evaluator.task
    if not isinstance(task, MiniLmTask):
        result = evaluator.measure(assignment)
        return TaskScore(result.value, result.count), None
    answers = task.answers(evaluator.runner(assignment))
    return score(answers), answers


def beside(result: TaskScore) -> str:
    """The further figures of a score, to stand behind it."""
    return "".join(f"  {name} {100 * value:6.2f} %" for name, value in result.extra.items())


def compared(groups: NDArray[Any], own: Answers, rounded: Answers, answers: Answers) -> str:
    """How what was found for each text compares with FP32 (``own``) and rounding to nearest; ``groups``: its module."""
    parts = [f"neighbour as in FP32 {100 * (answers.near == own.near).mean():5.1f} %"]
    for figure, here in answers.figures.items():
        for name, other in (("rounded", rounded), ("FP32", own)):
            there = other.figures[figure]
            if (here == there).all():
                continue
            ranges = [interval(here, there, drawn) for drawn in (np.arange(len(here)), groups)]
            texts, modules = (f"{100 * low:+.2f} … {100 * high:+.2f}" for low, high in ranges)
            parts.append(
                f"{figure} to {name} {100 * (here - there).mean():+.2f} % ({texts} by texts, {modules} by modules; "
                f"better here {(here > there).sum()}, there {(there > here).sum()})"
            )
    return "\n    ".join(parts)


def interval(
    right: NDArray[Any], other: NDArray[Any], groups: NDArray[Any], draws: int = DRAWS, share: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of the difference of two means over the same texts; percentiles, fixed seed.

    ``right``, ``other``: [texts], whether each is found, or how well. ``groups``: [texts], what is drawn together, with
    replacement. The texts among which neighbours are sought stay as they are.
    """
    _, member = np.unique(groups, return_inverse=True)
    gain = np.bincount(member, right.astype(float) - other.astype(float))
    size = np.bincount(member)
    # Groups of one gain and size are alike: a draw is how often each kind is in it.
    kinds, count = np.unique(np.stack([gain, size]), axis=1, return_counts=True)
    rng = np.random.default_rng(20261122)
    found = np.empty(draws)
    for start in range(0, draws, AT_ONCE):
        part = found[start : start + AT_ONCE]
        often = rng.multinomial(len(size), count / len(size), size=len(part))
        part[:] = (often @ kinds[0]) / (often @ kinds[1])
    low, high = np.quantile(found, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def main(arguments: list[str] | None = None) -> int:
    """Print the table of each network that can be opened."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantisers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma-separated (default: %(default)s)")
    parser.add_argument("--lines", type=int, default=0, metavar="N",
                        help="evaluate on at most N files, lines, or texts of a module (default: the task's number)")
    parser.add_argument("--passages", action="store_true",
                        help="MiniLM finds what docstrings go on with, not texts of the same module")
    parser.add_argument("--groups", default="128", metavar="G,…",
                        help="weights that share a scale where they are expanded (default: %(default)s)")
    parser.add_argument("--only", default=",".join(INTEGERS + EXPANDED), metavar="PRECISIONS",
                        help="comma-separated (default: %(default)s)")
    parser.add_argument("--quantisers", default=",".join(dict.fromkeys(way.quantiser for way in WAYS)),
                        help="comma-separated; the first one shown is what the others are compared with (default: all)")
    options = parser.parse_args(arguments)
    asked = precisions(options.only.split(","), [int(group) for group in options.groups.split(",")])
    for name in options.networks.split(","):
        try:
            network = open_network(name)
            task = task_of(network, options.lines, options.passages)
            print(f"{name} ({task.metric})")
            show(network, task, asked, options.quantisers.split(","))
        except BitmosaicError as error:
            print(f"{name}: {error}", file=sys.stderr)
            if name not in NETWORKS:
                return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
