"""Entropies of codes: known values, bounds, and the two rules that use them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from simulator.errors import PrecisionError
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from workloads.entropy import (
    EntropyReading,
    LayerEntropy,
    OperandEntropy,
    entropies_of_codes,
    layer_entropies,
    select,
    weight_entropy,
)
from workloads.fake_quantised_model import trained_weight
from workloads.quantisation import quantise
from workloads.sensitivity import estimate

MENU = tuple(LayerPrecision.parse(text) for text in ("w8a8", "w6a8", "w6a6", "w4a8", "w4a4", "w2a8"))


def plain(codes, bits, code):
    """Both entropies, code by code and bit by bit, from their definitions."""
    texts = []
    for value in codes:
        if code == "sign_magnitude":
            texts.append(f"{int(value < 0)}{abs(int(value)):0{bits - 1}b}")
        else:
            texts.append(f"{int(value) % 2**bits:0{bits}b}")
    shares = [texts.count(text) / len(texts) for text in set(texts)]
    planes = [sum(text[j] == "1" for text in texts) / len(texts) for j in range(bits)]

    def h2(q):
        return 0.0 if q in (0, 1) else -q * math.log2(q) - (1 - q) * math.log2(1 - q)

    return -sum(share * math.log2(share) for share in shares), sum(map(h2, planes))


@pytest.mark.parametrize("code", ["sign_magnitude", "twos_complement"])
@given(st.integers(2, 8), st.data())
def test_bit_planes_hold_no_less_than_values(code, bits, data):
    half = 2 ** (bits - 1)
    lowest = 1 - half if code == "sign_magnitude" else -half
    codes = data.draw(hnp.arrays(np.int32, st.integers(1, 40), elements=st.integers(lowest, half - 1)))
    value, bit = entropies_of_codes(codes, bits, code)
    assert (value, bit) == pytest.approx(plain(codes, bits, code), abs=1e-9)
    assert 0 <= value <= bit + 1e-9 and bit <= bits


def test_known_entropies():
    assert entropies_of_codes(np.arange(-128, 128), 8, "twos_complement") == (8, 8)
    assert entropies_of_codes(np.zeros(7, int), 8) == (0, 0)
    # Two values that differ in sign and one magnitude bit: one bit of information, in two planes.
    assert entropies_of_codes(np.array([1, -2]), 8) == (1, 3)
    assert entropies_of_codes(np.array([1, -1]), 8) == (1, 1)
    assert entropies_of_codes(np.array([1, -1]), 8, "twos_complement") == (1, 7)


def test_mistakes():
    with pytest.raises(PrecisionError, match="must be -127 … 127 in 8 bits"):
        entropies_of_codes(np.array([-128]), 8)
    with pytest.raises(PrecisionError, match="codes=none"):
        entropies_of_codes(np.array([], int), 8)
    with pytest.raises(PrecisionError, match="threshold=0"):
        select({}, MENU, threshold=0)
    with pytest.raises(PrecisionError, match="at least one"):
        select({}, (), threshold=1)


def test_entropies_of_a_trained_network(digits, evaluator):
    found = layer_entropies(digits, tuple(digits.bindings), evaluator.calibrated, evaluator.calibration_feeds)
    weight = trained_weight(digits, "conv2")
    codes = quantise(weight, "int8", channel_axes=(0,), group=-1).codes
    assert found["conv2"].weight == weight_entropy(digits, "conv2")
    expected = plain(codes.ravel(), 8, "sign_magnitude")
    assert (found["conv2"].weight.value, found["conv2"].weight.bit) == pytest.approx(expected)
    for entropy in found.values():
        for operand in (entropy.weight, entropy.input):
            assert 0 < operand.value <= operand.bit <= 8
    # The input of the first layer: 64 pixels of 17 greys, none below zero, so that the sign is always known.
    first = found["conv1"].input
    assert first.count == 64 and first.value <= math.log2(17) and first.bit <= 7
    images = evaluator.calibration_feeds[0]["image"]
    greys = np.rint(images / images.max() * 127).astype(int)
    assert (first.value, first.bit) == pytest.approx(plain(greys.ravel(), 8, "sign_magnitude"))


@pytest.mark.parametrize("kind", ["value", "bit"])
def test_harm_is_the_information_lost(digits, evaluator, kind):
    table = estimate(digits, evaluator, MENU, method=f"{kind}_entropy")
    found = layer_entropies(digits, table.layers, evaluator.calibrated, evaluator.calibration_feeds)
    for layer in table.layers:
        weight, inputs = found[layer].weight, found[layer].input
        assert table.of(layer, MENU[0]) == 0  # eight bits hold all of eight bits
        kept = weight.count * min(4, weight.of(kind)) + inputs.count * min(4, inputs.of(kind))
        whole = weight.count * weight.of(kind) + inputs.count * inputs.of(kind)
        assert table.of(layer, MENU[4]) == pytest.approx(whole - kept)
    alone = estimate(digits, None, MENU, method=f"{kind}_entropy")
    assert (alone.harm <= table.harm).all() and alone.of("conv2", MENU[4]) == alone.of("conv2", MENU[3]) > 0


def test_readings_have_a_score_and_a_weight_of_their_own():
    layer = Layer(name="x", dims={"P": 5, "K": 4, "C": 3})
    both = LayerEntropy(OperandEntropy(3.0, 5.0, 12.0), OperandEntropy(4.0, 4.5, 15.0))
    alone = LayerEntropy(OperandEntropy(3.0, 5.0, 12.0))
    assert EntropyReading().of(both, layer) == both and EntropyReading().of(alone, layer) == alone
    largest = EntropyReading(score="max", weight="macs").of(both, layer)
    assert largest == LayerEntropy(OperandEntropy(4.0, 5.0, 60.0), OperandEntropy(4.0, 5.0, 60.0))
    mean = EntropyReading(score="mean", weight="parameters").of(both, layer)
    assert mean == LayerEntropy(OperandEntropy(3.5, 4.75, 12.0), OperandEntropy(3.5, 4.75, 12.0))
    for score in ("max", "mean"):  # without data the weights decide alone
        assert EntropyReading(score=score).of(alone, layer) == alone
    w6a4 = LayerPrecision.parse("w6a4")
    assert EntropyReading(weight="one").of(both, layer).lost_bits("bit", w6a4) == 0.5
    # One score for both operands: the inputs lose what the weights have.
    assert EntropyReading(score="max", weight="one").of(both, layer).lost_bits("bit", w6a4) == 1.0
    assert largest.lost_bits("bit", w6a4) == 60.0


def test_a_reading_reaches_the_ratings(digits, evaluator):
    reading = EntropyReading(codes="twos_complement", score="mean", weight="macs")
    table = estimate(digits, evaluator, MENU, method="bit_entropy", reading=reading)
    feeds = evaluator.calibration_feeds
    found = layer_entropies(digits, table.layers, evaluator.calibrated, feeds, code="twos_complement")
    for layer in digits.trained_layers:
        entropy = found[layer.name]
        mean = (entropy.weight.bit + entropy.input.bit) / 2
        lost = max(0.0, mean - 4) + max(0.0, mean - 8)
        assert table.of(layer.name, MENU[3]) == pytest.approx(layer.macs * lost)
    assert table.harm.max() > 0


def test_the_threshold_rule():
    entropies = {
        "narrow": LayerEntropy(OperandEntropy(3.0, 3.9, 10), OperandEntropy(2.0, 3.5, 10)),
        "inputs": LayerEntropy(OperandEntropy(3.0, 3.9, 10), OperandEntropy(5.0, 5.5, 10)),
        "weights": LayerEntropy(OperandEntropy(5.0, 5.9, 10), None),
        "wide": LayerEntropy(OperandEntropy(7.0, 7.9, 10), OperandEntropy(7.0, 7.9, 10)),
    }

    def labels(**options):
        return [precision.label for precision in select(entropies, MENU, **options).values()]

    assert labels(threshold=1.0) == ["w4a4", "w6a6", "w6a6", "w8a8"]  # at equal sums the menu's order decides
    assert labels(threshold=1.15, kind="value") == ["w4a4", "w6a6", "w6a6", "w8a8"]
    assert labels(threshold=0.55) == ["w4a4", "w4a4", "w4a4", "w6a6"]
    assert labels(threshold=9.0) == ["w8a8"] * 4
    scores = [LayerEntropy.of(entropy, "bit") for entropy in entropies.values()]
    assert scores == [3.9, 5.5, 5.9, 7.9]
