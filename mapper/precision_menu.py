"""One layer in a whole menu of precisions, for less than as many searches.

The rows that the search chooses from do not depend on widths, only on the lanes that the element has in a precision and
on what its registers hold, so precisions share them (``build_models``). What was found in one precision is where the
search in the next one starts (``hints``). Every precision has its own proof, as if it had been searched for alone: a
hint can change which of several mappings of equal cost is found, and how soon, and nothing else.

Precisions are taken widest first: what fits with wide operands fits with narrow ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mapper.constraints import MappingConstraints
from mapper.hints import nearest
from mapper.search import map_layer
from mapper.solution import MappingSolution, Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.layer import Layer
from simulator.precision import LayerPrecision


def widest_first(precisions: Sequence[LayerPrecision]) -> list[int]:
    """Places of precisions in the order in which they are searched for."""

    def bits(place: int) -> tuple[int, ...]:
        precision = precisions[place]
        widths = precision.weight.bits, precision.input.bits
        return (-sum(widths), -max(widths), -precision.weight.bits, -precision.output.bits, place)

    return sorted(range(len(precisions)), key=bits)


def map_menu(
    layer: Layer,
    precisions: Sequence[LayerPrecision],
    accelerator: Accelerator,
    objective: Objective = "latency",
    *,
    budget: SearchBudget | None = None,
    constraints: MappingConstraints | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[MappingSolution]:
    """Map one layer in each of some precisions: solutions in their order, equal precisions searched for once.

    ``budget`` is for each precision. ``progress(done, total)`` counts precisions. Raises what ``map_layer`` raises.

    >>> from hw_configs import open_accelerator
    >>> menu = [LayerPrecision.parse(text) for text in ("w8a8", "w4a8", "w4a4")]
    >>> layer = Layer(name="product", dims={"K": 10, "C": 64})
    >>> [found.status for found in map_menu(layer, menu, open_accelerator("bit_fusion"), "energy")]
    ['optimal', 'optimal', 'optimal']
    """
    found: dict[LayerPrecision, MappingSolution] = {}
    distinct = list(dict.fromkeys(precisions))
    for done, place in enumerate(widest_first(distinct)):
        if progress:
            progress(done, len(distinct))
        precision = distinct[place]
        found[precision] = map_layer(
            layer, precision, accelerator, objective, budget=budget, constraints=constraints,
            hint=nearest(found, precision),
        )
    if progress:
        progress(len(distinct), len(distinct))
    return [found[precision] for precision in precisions]


__all__ = ["map_menu", "widest_first"]
