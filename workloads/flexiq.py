"""FlexiQ (arXiv:2510.02822): 8-bit codes lowered to 4 bits channel by channel, and which channels are lowered first.

Definitions (for wide codes of b bits, narrow ones of n; the paper's are 8 and 4). A channel whose largest magnitude has
``bit_length`` bits leaves ``u = clip(b − 1 − bit_length, 0, b − n)`` high bits unused; its codes are lowered by
``s = b − n − u`` bits: ``q_lo = clip(round(q / 2^s), −2^(n−1), 2^(n−1) − 1)``, and stand for ``q̂ = q_lo · 2^s``. So
n + u bits of a code take effect. Weights and activations have a shift each, and a product is shifted by the sum of
both. *Static* shifts of activations come from calibration data, *dynamic* ones from the tensor at hand.

Lowering channel c changes a layer's outputs by about ``E‖x̂_c − x_c‖² · ‖w_c‖² + E‖x_c‖² · ‖ŵ_c − w_c‖²``. A *unit* is a
group of channels that are lowered together, as wide as the hardware asks for, in all layers that read them. Selections
are nested: what is lowered at a quarter stays so at a half, so that a channel order and one number a layer say it all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from simulator.errors import PrecisionError, Problem

Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]
Fitness = Callable[[Mask], float]
Extraction = Literal["static", "dynamic"]  # of the shifts of activations

WIDE_BITS, NARROW_BITS = 8, 4
RATIOS = (0.25, 0.5, 0.75, 1.0)


def unused_bits(
    codes: NDArray[np.integer], channel_axis: int, wide_bits: int = WIDE_BITS, narrow_bits: int = NARROW_BITS
) -> Codes:
    """High bits that a channel's codes leave unused, at most ``wide_bits − narrow_bits``: [channels].

    ``codes``: symmetric, of ``wide_bits`` bits. Raises ``PrecisionError`` unless 2 ≤ narrow_bits ≤ wide_bits, and for
    codes outside of the format.
    """
    if not 2 <= narrow_bits <= wide_bits:
        raise PrecisionError(
            Problem("must be at least 2 and not more than the wide part's", path="narrow_bits", value=str(narrow_bits))
        )
    front = np.moveaxis(np.abs(np.asarray(codes, dtype=np.int64)), channel_axis, 0)
    largest = front.reshape(len(front), -1).max(axis=1, initial=0)
    if (largest >= 1 << (wide_bits - 1)).any():
        raise PrecisionError(
            Problem("must be symmetric codes of the wide format", path="codes", value=str(largest.max()),
                    allowed=(f"−{(1 << (wide_bits - 1)) - 1} … {(1 << (wide_bits - 1)) - 1}",))
        )
    lengths = np.frexp(largest.astype(np.float64))[1]  # of 0 it is 0
    return np.asarray(np.clip(wide_bits - 1 - lengths, 0, wide_bits - narrow_bits), dtype=np.int64)


def shifts(unused: Codes, wide_bits: int = WIDE_BITS, narrow_bits: int = NARROW_BITS) -> Codes:
    """Bits by which each channel's codes are lowered."""
    return wide_bits - narrow_bits - unused


def lowered(
    codes: NDArray[np.integer], by: Codes, channel_axis: int, narrow_bits: int = NARROW_BITS
) -> tuple[Codes, Codes]:
    """Narrow codes, and the wide codes that they stand for, of the shape of ``codes``. ``by``: shift of each channel.

    Ties are rounded to even.
    """
    values = np.asarray(codes, dtype=np.int64)
    steps = (1 << by).reshape([-1 if axis == channel_axis % values.ndim else 1 for axis in range(values.ndim)])
    half = 1 << (narrow_bits - 1)
    narrow = np.clip(np.rint(values / steps), -half, half - 1).astype(np.int64)
    return narrow, narrow * steps


def channel_errors(
    inputs: NDArray[np.floating], lowered_inputs: NDArray[np.floating],
    weights: NDArray[np.floating], lowered_weights: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Error of lowering each channel alone: mean squared change of an output's sum, added over output channels.

    Args:
        inputs, lowered_inputs: values [samples, channels, …]; means are over samples, sums over what follows.
        weights, lowered_weights: values [channels, …].
    """
    def norms(values: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.asarray(np.square(values).reshape(len(values), -1).sum(axis=1))

    def mean_norms(values: NDArray[np.floating]) -> NDArray[np.float64]:
        flat = values.reshape(*values.shape[:2], -1)
        return np.asarray(np.square(flat).sum(axis=2).mean(axis=0))

    return (mean_norms(lowered_inputs - inputs) * norms(weights)
            + mean_norms(inputs) * norms(lowered_weights - weights))


@dataclass(frozen=True)
class Unit:
    """Channels that are lowered together.

    Attributes:
        channel_class: what they are channels of.
        channels: their numbers there.
        error: of lowering them, added over the layers that read them.
        gain: time that it saves there, in any unit, above 0.
        readers: layers that read them.
    """

    channel_class: int
    channels: tuple[int, ...]
    error: float
    gain: float
    readers: int = 1

    @property
    def size(self) -> int:
        """Input channels of layers: what ratios count."""
        return len(self.channels) * self.readers


def units_of(
    channel_class: int, errors: NDArray[np.float64], gain_per_channel: float, width: int, *, movable: bool = True,
    readers: int = 1,
) -> tuple[Unit, ...]:
    """Cut a class's channels, those of least error first, into units of ``width``; the last may be narrower.

    ``errors``: of each channel. Where channels cannot be moved all of them are one unit: no part of them could stand
    together in front, whatever were chosen.
    """
    order = np.argsort(errors, kind="stable") if movable else np.arange(len(errors))
    step = width if movable else len(order)
    return tuple(
        Unit(channel_class, tuple(map(int, part)), float(errors[part].sum()), gain_per_channel * len(part), readers)
        for part in (order[begin : begin + step] for begin in range(0, len(order), step))
    )


def greedy(units: Sequence[Unit], ratios: Sequence[float] = RATIOS) -> list[Mask]:
    """Units lowered at each ratio of the input channels of all layers, in ascending order of error for each gain.

    One mask a ratio. A unit is taken where it fits into the ratio, so that a mask stays below it by less than any unit
    that is left out; at ratio 1 all are lowered. Masks of higher ratios hold those of lower ones.
    """
    sizes = np.array([unit.size for unit in units])
    order = np.argsort([unit.error / unit.gain for unit in units], kind="stable")
    masks: list[Mask] = []
    mask = np.zeros(len(units), bool)
    for ratio in _checked(ratios):
        mask = _filled(mask, order, sizes, ratio)
        masks.append(mask)
    return masks


@dataclass(frozen=True)
class Evolution:
    """How the evolutionary selection searches. Equal seeds give equal results.

    Attributes:
        population: selections that live at a time.
        generations: rounds; each replaces all but the ``elite`` best.
        elite: selections that live on unchanged, at least 1.
        mutations: exchanges of a lowered and an unlowered unit of a class, for each child.
        seed: of all draws.
    """

    population: int = 12
    generations: int = 10
    elite: int = 3
    mutations: int = 2
    seed: int = 0

    @property
    def most_evaluations(self) -> int:
        """Most selections whose fitness is asked for at one ratio; equal ones count once."""
        return self.population + self.generations * (self.population - self.elite)


DEFAULT_EVOLUTION = Evolution()


def evolutionary(
    units: Sequence[Unit], fitness: Fitness, ratios: Sequence[float] = RATIOS, evolution: Evolution = DEFAULT_EVOLUTION
) -> list[Mask]:
    """Masks for each ratio that make ``fitness`` (less is better) least, as far as the search comes.

    The lowest ratio is searched first, and each further one above what was found before. A selection has one bit a
    unit; mutation exchanges units within a class, crossover takes whole classes from two parents, and what a child then
    has too much or too little is mended by greedy order. Greedy's selection, above the same lower mask, is in the first
    generation, and the best always live on: by ``fitness`` the result is never worse.
    """
    if not 1 <= evolution.elite < evolution.population:
        raise PrecisionError(
            Problem("must be at least 1 and less than population", path="evolution.elite", value=str(evolution.elite))
        )
    rng = np.random.default_rng(evolution.seed)
    sizes = np.array([unit.size for unit in units])
    order = np.argsort([unit.error / unit.gain for unit in units], kind="stable")
    classes = np.array([unit.channel_class for unit in units])
    known: dict[bytes, float] = {}

    def cost(mask: Mask) -> float:
        key = mask.tobytes()
        if key not in known:
            known[key] = fitness(mask)
        return known[key]

    masks: list[Mask] = []
    floor = np.zeros(len(units), bool)
    for ratio in _checked(ratios):
        first = _filled(floor, order, sizes, ratio)
        if first.all() or (first == floor).all():
            floor = first
            masks.append(first)
            continue

        def child(parents: list[Mask], floor: Mask = floor, ratio: float = ratio) -> Mask:
            one, other = (parents[index] for index in rng.integers(0, len(parents), 2))
            taken = rng.random(int(classes.max()) + 1) < 0.5
            mixed = np.where(taken[classes], one, other)
            for _ in range(evolution.mutations):
                _exchange(mixed, floor, classes, rng)
            return _mended(mixed | floor, floor, order, sizes, ratio)

        living = [first]
        while len(living) < evolution.population:
            living.append(child([first]))
        for _ in range(evolution.generations):
            living.sort(key=cost)
            parents = living[: max(evolution.elite, evolution.population // 2)]
            living = living[: evolution.elite]
            while len(living) < evolution.population:
                living.append(child(parents))
        floor = min(living, key=cost)
        masks.append(floor)
    return masks


def channel_order(units: Sequence[Unit], masks: Sequence[Mask]) -> dict[int, tuple[int, ...]]:
    """Channels of each class in the order in which they are lowered: by the first mask that holds them, then by error.

    ``masks``: nested, as ``greedy`` and ``evolutionary`` give them. Raises ``PrecisionError`` where they are not.
    """
    tiers = np.full(len(units), len(masks))
    for index in range(len(masks) - 1, -1, -1):
        if index and (masks[index - 1] & ~masks[index]).any():
            raise PrecisionError(Problem("must hold those of the lower ratio", path=f"masks[{index}]"))
        tiers[masks[index]] = index
    order: dict[int, tuple[int, ...]] = {}
    for place in np.lexsort((np.array([unit.error / unit.gain for unit in units]), tiers)):
        unit = units[place]
        order[unit.channel_class] = order.get(unit.channel_class, ()) + unit.channels
    return order


def narrow_counts(units: Sequence[Unit], mask: Mask) -> dict[int, int]:
    """Lowered channels of each class: ``max_4bit_ch`` of all layers that read it."""
    counts: dict[int, int] = {}
    for unit, is_narrow in zip(units, mask, strict=True):
        counts[unit.channel_class] = counts.get(unit.channel_class, 0) + (len(unit.channels) if is_narrow else 0)
    return counts


def _checked(ratios: Sequence[float]) -> Sequence[float]:
    if any(not 0 <= ratio <= 1 for ratio in ratios) or list(ratios) != sorted(ratios):
        raise PrecisionError(
            Problem("must ascend, each from 0 to 1", path="ratios", value=", ".join(map(str, ratios)))
        )
    return ratios


def _filled(mask: Mask, order: NDArray[np.intp], sizes: NDArray[np.int64], ratio: float) -> Mask:
    """Add units in an order where they fit."""
    filled = mask.copy()
    left = _limit(sizes, ratio) - int(sizes[filled].sum())
    for place in order:
        if not filled[place] and sizes[place] <= left:
            filled[place] = True
            left -= int(sizes[place])
    return filled


def _mended(mask: Mask, floor: Mask, order: NDArray[np.intp], sizes: NDArray[np.int64], ratio: float) -> Mask:
    """Take out the last units in an order while there are too many, then add what fits."""
    mended = mask.copy()
    over = int(sizes[mended].sum()) - _limit(sizes, ratio)
    for place in order[::-1]:
        if over <= 0:
            break
        if mended[place] and not floor[place]:
            mended[place] = False
            over -= int(sizes[place])
    return _filled(mended, order, sizes, ratio)


def _limit(sizes: NDArray[np.int64], ratio: float) -> int:
    """Channels that a ratio allows, rounded to the nearest."""
    return round(ratio * int(sizes.sum()))


def _exchange(mask: Mask, floor: Mask, classes: NDArray[np.int64], rng: np.random.Generator) -> None:
    """Exchange a lowered and an unlowered unit of a class, where it has both."""
    own = np.flatnonzero(classes == rng.choice(classes))
    narrow, wide = own[mask[own] & ~floor[own]], own[~mask[own]]
    if len(narrow) and len(wide):
        mask[rng.choice(narrow)], mask[rng.choice(wide)] = False, True
