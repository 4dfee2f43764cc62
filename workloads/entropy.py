"""Entropy of a layer's codes, by which SEADA selects precisions (arXiv 2606.27884).

Of SEADA only the abstract is public: the formulas are our reading.

The codes are those of ``bits``-bit integers (8 by default): weights with the scales that accuracy is measured with,
inputs with one scale a tensor over the calibration data, both symmetric, so that 0 is code 0. Of their frequencies p_k:

    value entropy      H_val = −Σ_k p_k·log2 p_k                      (as in EAGL, arXiv 2301.13330)
    bit-plane entropy  H_bit = Σ_j h2(q_j), h2(q) = −q·log2 q − (1−q)·log2(1−q), q_j = share of codes with bit j set

Bits are those of sign and magnitude, or of two's complement. H_bit ≥ H_val always: the planes together determine the
code, and the entropy of a whole is at most the sum over its parts.

Two rules turn them into precisions. *Threshold*: the narrowest precision with at least θ·H bits (``select``). *Budget*:
a format of b bits keeps n·min(b, H) bits of information of an operand of n elements, so that it loses n·max(0, H − b):
that is the additive harm of the sensitivity methods ``value_entropy`` and ``bit_entropy``. Post-training, neither ranks
layers well: an outlier widens the scale, which lowers the entropy and raises the error. Where our reading could be
another one, ``EntropyReading`` has the choices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from simulator.errors import PrecisionError, Problem
from simulator.formats import Format
from simulator.layer import Frozen, Layer
from simulator.precision import LayerPrecision
from workloads.calibration import input_shapes, open_session, trained_model, with_free_batch
from workloads.fake_quantised_model import Calibrated, trained_weight
from workloads.network import Network
from workloads.quantisation import MAX_ABS, Clipping, activation_parameters, quantise, quantise_activation
from workloads.reverse_pass import input_sites
from workloads.tasks.task import Feed

BitCode = Literal["sign_magnitude", "twos_complement"]
Kind = Literal["value", "bit"]
EntropyScore = Literal["operands", "mean", "max"]
EntropyWeight = Literal["elements", "parameters", "macs", "one"]
DEFAULT_BITS = 8


@dataclass(frozen=True)
class OperandEntropy:
    """Entropy of one operand.

    Attributes:
        value: H_val, bits a code.
        bit: H_bit, bits a code; ≥ ``value``.
        count: elements: of the weights, or of the input of one example.
    """

    value: float
    bit: float
    count: float

    def of(self, kind: Kind) -> float:
        """``value`` or ``bit``."""
        return self.value if kind == "value" else self.bit

    def lost_bits(self, kind: Kind, bits: int) -> float:
        """Bits of information that an operand of ``bits`` bits loses: count · max(0, H − bits)."""
        return self.count * max(0.0, self.of(kind) - bits)


@dataclass(frozen=True)
class LayerEntropy:
    """Entropies of a layer's operands; ``input`` is None where there are no data, or it cannot be reached."""

    weight: OperandEntropy
    input: OperandEntropy | None = None

    def of(self, kind: Kind) -> float:
        """The layer's score: the larger one of its operands."""
        return max(operand.of(kind) for operand in (self.weight, self.input) if operand is not None)

    def lost_bits(self, kind: Kind, precision: LayerPrecision) -> float:
        """Bits of information lost in a precision: of the weights and of the input of one example."""
        lost = self.weight.lost_bits(kind, precision.weight.bits)
        return lost if self.input is None else lost + self.input.lost_bits(kind, precision.input.bits)


class EntropyReading(Frozen):
    """How the open points of SEADA's rules are read.

    Attributes:
        codes: of which bits are counted.
        score: what H is: of each operand its own (``operands``); or one score of the layer that both are held to, the
            larger one of the two (``max``), or their mean weighted by MACs (``mean``), of which each reads one weight
            and one input, so that it is the plain mean.
        weight: what n is: of each operand its elements (``elements``: of the weights, and of the input of one example),
            or of both the layer's ``parameters``, its ``macs``, or ``one``.
    """

    codes: BitCode = "sign_magnitude"
    score: EntropyScore = "operands"
    weight: EntropyWeight = "elements"

    @property
    def identity(self) -> dict[str, Any]:
        """What keys say of it: nothing of defaults, whose keys are older than the choice."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def label(self) -> str:
        """What is not the default, in words."""
        return ", ".join(f"{name} {value}" for name, value in self.identity.items())

    def of(self, entropy: LayerEntropy, layer: Layer) -> LayerEntropy:
        """Entropies of a layer's operands (of these codes) with the H and the n that the rules go by."""
        operands = [operand for operand in (entropy.weight, entropy.input) if operand is not None]
        counts = {"parameters": layer.weight_count, "macs": layer.macs, "one": 1}

        def read(operand: OperandEntropy) -> OperandEntropy:
            value, bit = operand.value, operand.bit
            if self.score != "operands":
                joined = fmean if self.score == "mean" else max
                value, bit = (joined([each.value for each in operands]), joined([each.bit for each in operands]))
            return OperandEntropy(value, bit, float(counts.get(self.weight, operand.count)))

        return LayerEntropy(read(entropy.weight), None if entropy.input is None else read(entropy.input))


DEFAULT_READING = EntropyReading()


def entropies_of_codes(codes: NDArray[Any], bits: int, code: BitCode = "sign_magnitude") -> tuple[float, float]:
    """H_val and H_bit of integer codes of any shape, in bits a code.

    Raises ``PrecisionError`` for no codes, and for one beyond ``bits`` bits: sign and magnitude have no −2^(bits−1).
    """
    values, counts = np.unique(np.asarray(codes).ravel(), return_counts=True)
    return _entropies(values, counts, bits, code)


def _entropies(
    values: NDArray[Any], counts: NDArray[Any], bits: int, code: BitCode
) -> tuple[float, float]:
    half = 2 ** (bits - 1)
    lowest = -half if code == "twos_complement" else 1 - half
    if not values.size or values[0] < lowest or values[-1] >= half:
        found = f"{values[0]} … {values[-1]}" if values.size else "none"
        rule = f"must be {lowest} … {half - 1} in {bits} bits ({code})"
        raise PrecisionError(Problem(rule, path="codes", value=found))
    shares = counts / counts.sum()
    values = values.astype(np.int64)
    if code == "sign_magnitude":
        planes = np.where(values < 0, half, 0) | np.abs(values)
    else:
        planes = values & (2 * half - 1)
    set_shares = [float(shares[(planes >> plane) & 1 == 1].sum()) for plane in range(bits)]
    return _entropy(shares), sum(_entropy(np.array([share, 1 - share])) for share in set_shares)


def _entropy(shares: NDArray[np.float64]) -> float:
    positive = shares[shares > 0]
    return max(0.0, float(-(positive * np.log2(positive)).sum()))


def weight_entropy(
    network: Network, layer: str, *, bits: int = DEFAULT_BITS, code: BitCode = "sign_magnitude",
    clipping: Clipping = MAX_ABS,
) -> OperandEntropy:
    """Entropy of a layer's trained weights, one scale an output channel.

    Raises ``NetworkError`` for an unknown layer, ``PrecisionError`` for one whose operands are both activations.
    """
    weight = trained_weight(network, layer)
    if weight is None:
        raise PrecisionError(Problem("has no trained weights", where=network.name, path=layer))
    axes = network.bindings[layer].weight_channel_axes
    codes = quantise(weight, Format(f"int{bits}"), channel_axes=axes, group=-1, clipping=clipping).codes
    return OperandEntropy(*entropies_of_codes(codes, bits, code), codes.size)


def input_entropies(
    calibrated: Calibrated, feeds: Sequence[Feed], layers: Sequence[str], *, bits: int = DEFAULT_BITS,
    code: BitCode = "sign_magnitude", threads: int = 0,
) -> dict[str, OperandEntropy]:
    """Entropy of the layers' inputs over calibration data; layers whose input cannot be reached are left out."""
    sites = input_sites(calibrated.network, layers)
    tensors = list(dict.fromkeys(site.tensor for site in sites.values()))
    model = with_free_batch(trained_model(calibrated.network))
    shapes = input_shapes(model)
    inner = [tensor for tensor in tensors if tensor not in shapes]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(tensor) for tensor in inner)
    session = open_session(model, threads) if inner else None
    half = 2 ** (bits - 1)
    counts = {tensor: np.zeros(2 * half, np.int64) for tensor in tensors}
    examples = 0
    for feed in feeds:
        examples += min(len(array) for array in feed.values())
        computed = session.run(inner, dict(feed)) if session else []
        values = {**feed, **dict(zip(inner, computed, strict=True))}
        for tensor in tensors:
            span = calibrated.ranges[tensor]
            parameters = activation_parameters(span.low, span.high, Format(f"int{bits}"), "symmetric")
            codes = quantise_activation(values[tensor], parameters).codes
            counts[tensor] += np.bincount(codes.ravel() + half, minlength=2 * half)
    found = {}
    for tensor, histogram in counts.items():
        held = np.flatnonzero(histogram)
        entropies = _entropies(held - half, histogram[held], bits, code)
        found[tensor] = OperandEntropy(*entropies, float(histogram.sum()) / max(examples, 1))
    return {layer: found[site.tensor] for layer, site in sites.items()}


def layer_entropies(
    network: Network, layers: Sequence[str], calibrated: Calibrated | None = None, feeds: Sequence[Feed] = (), *,
    bits: int = DEFAULT_BITS, code: BitCode = "sign_magnitude", threads: int = 0,
) -> dict[str, LayerEntropy]:
    """Entropies of layers with trained weights; of their inputs too where there are calibration data.

    Raises as ``weight_entropy`` does.
    """
    clipping = MAX_ABS if calibrated is None else calibrated.clipping
    inputs: Mapping[str, OperandEntropy] = {}
    if calibrated is not None and feeds:
        inputs = input_entropies(calibrated, feeds, layers, bits=bits, code=code, threads=threads)
    return {
        layer: LayerEntropy(
            weight_entropy(network, layer, bits=bits, code=code, clipping=clipping), inputs.get(layer)
        )
        for layer in layers
    }


def select(
    entropies: Mapping[str, LayerEntropy], menu: Sequence[LayerPrecision], *, threshold: float, kind: Kind = "bit"
) -> dict[str, LayerPrecision]:
    """Rule 1: for each layer the precision of fewest bits that gives each operand at least threshold · H of them.

    Fewest in the sum of weight and input bits, earlier ones of the menu first; where none suffices, the widest.
    Raises ``PrecisionError`` for an empty menu, or a threshold that is not positive and finite.
    """
    if not menu:
        raise PrecisionError(Problem("must name at least one precision", path="menu"))
    if not (math.isfinite(threshold) and threshold > 0):
        raise PrecisionError(Problem("must be positive and finite", path="threshold", value=str(threshold)))

    def suffices(entropy: LayerEntropy, precision: LayerPrecision) -> bool:
        operands = ((entropy.weight, precision.weight), (entropy.input, precision.input))
        return all(
            format.bits >= threshold * operand.of(kind) for operand, format in operands if operand is not None
        )

    ordered = sorted(menu, key=lambda precision: precision.weight.bits + precision.input.bits)
    return {
        layer: next((precision for precision in ordered if suffices(entropy, precision)), ordered[-1])
        for layer, entropy in entropies.items()
    }
