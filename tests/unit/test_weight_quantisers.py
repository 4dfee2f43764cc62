"""The quantiser of least error: rounding with its own scales, alone, in a network, and as an option of ``explore``."""

import numpy as np
import pytest

from bitmosaic import explore
from bitmosaic.commands import parts
from mapper.solution import SearchBudget
from simulator.precision import LayerPrecision
from workloads.accuracy import AccuracyEvaluator, uniform
from workloads.library import open_network
from workloads.quantisation import LEAST_ERROR
from workloads.tasks import find_task
from workloads.weight_quantisers import DEFAULT_QUANTISER, FOR_INTEGERS, QUANTISERS, quantise_weight


def test_scales_of_least_error_cut_off_outliers():
    rng = np.random.default_rng(7)
    weight = rng.normal(size=(6, 400)).astype(np.float32)
    weight[:, 0] = 6.0  # one outlier a channel, which a scale that holds it pays for in all others
    precision = LayerPrecision.parse("w4a8")
    plain, least = (quantise_weight(weight, (0,), precision, quantiser=name) for name in ("rtn", "rtn_least_error"))
    errors = [np.square(found.values - weight).sum(axis=1) for found in (plain, least)]
    assert (errors[1] <= errors[0]).all() and errors[1].sum() < 0.9 * errors[0].sum()
    same = quantise_weight(weight, (0,), precision, clipping=LEAST_ERROR)
    np.testing.assert_array_equal(least.codes, same.codes)
    np.testing.assert_array_equal(least.scale, same.scale)


def test_commands_offer_all_quantisers():
    assert (parts.QUANTISERS, parts.INTEGER_QUANTISERS) == (QUANTISERS, FOR_INTEGERS)
    assert parts.DEFAULT_QUANTISER == DEFAULT_QUANTISER


def test_it_needs_no_moments_and_keeps_a_network_better():
    digits = open_network("digits_cnn")
    assignment = uniform(digits, LayerPrecision.parse("w3a8"))
    evaluators = [AccuracyEvaluator(digits, find_task(digits), quantiser=name, threads=1)
                  for name in ("rtn", "rtn_least_error")]
    assert not evaluators[1].moments.by_layer
    rounded, least = (evaluator.output_mse(assignment) for evaluator in evaluators)
    assert least < rounded


def test_explorations_of_either_have_points_of_their_own(tmp_path):
    budget = SearchBudget(cpu_seconds=0.05, target_gap=0.9)
    found = [
        explore("digits_cnn", "bit_fusion", menu=("w8a8", "w3a8"), objective="energy", points=2, budget=budget,
                workers=1, results=tmp_path, sensitivity="weight_error", quantiser=quantiser)
        for quantiser in ("rtn", "rtn_least_error")
    ]
    low = [next(point.record for point in each.points if point.record.uniform == "w3a8") for each in found]
    assert low[0].key != low[1].key and low[0].total_cycles == low[1].total_cycles
    assert [record.accuracy_percent for record in low] == [pytest.approx(100 * _measured(name), abs=1e-6)
                                                           for name in ("rtn", "rtn_least_error")]


def _measured(quantiser):
    digits = open_network("digits_cnn")
    evaluator = AccuracyEvaluator(digits, find_task(digits), quantiser=quantiser, threads=1)
    return evaluator.measure(uniform(digits, LayerPrecision.parse("w3a8"))).value
