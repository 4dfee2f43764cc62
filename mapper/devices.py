"""What makes the search fast, each device to be switched off, so that what it is worth can be measured.

With or without any of them the search claims the same: only the time to get there differs. Users have no need of this;
``benchmarks.mapping --ablation`` and the tests have.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchDevices:
    """Devices of the search, all on by default.

    Attributes:
        dominance: of two ways to cut a dimension of which one is equal or worse in everything, only the other is a
            row. (Off: the space is larger, by rows that can be no better.)
        descents: coordinate descents give the first incumbent. (Off: the first mapping found is.)
        hints: a layer's mapping in another precision takes the place of the descents (``hints``).
        survivors: rows that can be in no choice below the incumbent are dropped before each enumeration, until nothing
            changes. (Off: only rows that fit nowhere are.)
        undominated: a variant's least closed-form cost is looked for among undominated rows. (Off: among all.)
        clusters: rows that resemble each other are bounded together. (Off: rows as they come.)
        twins: a search for nothing but latency looks at one of all choices that take the same time. (Off: at all.)
        batches: choices are enumerated in growing batches, the most promising variants first. (Off: all at once.)
    """

    dominance: bool = True
    descents: bool = True
    hints: bool = True
    survivors: bool = True
    undominated: bool = True
    clusters: bool = True
    batches: bool = True
    twins: bool = True


EVERY_DEVICE = SearchDevices()
