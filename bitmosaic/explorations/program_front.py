"""Fronts of an exploration by integer program: ``mapper.assignment_front``, its errors in the words of ``explore``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bitmosaic.explorations.limits import no_memory
from bitmosaic.explorations.network_points import NetworkPoints
from bitmosaic.explorations.records import BITS_A_KIB, Origin, PointCount
from mapper.assignment import Assignment, Choice, Conversion, assign, assignment_front
from simulator.errors import BitmosaicError, ConfigurationError, InfeasibleError, Problem

MOST_POINTS = 1000
"""Assignments that a whole front may have."""


def program_front(
    run: NetworkPoints, axis: Origin, choices: Mapping[str, Sequence[Choice]], points: PointCount,
    conversions: Sequence[Conversion] = (),
) -> tuple[Assignment, ...]:
    """Least harm under budgets of cost and the limit of memory; ``points`` budgets, or ``all``: the whole front.

    ``choices`` are by layer where layers are tied.

    Raises ``ConfigurationError`` where the whole front has more than ``MOST_POINTS``, ``InfeasibleError`` where what
    ratings left of the menu does not fit into the memory.
    """
    # Layers without a rating are not in the program; what is tied to them has one choice.
    tied = [[layer for layer in group if layer in choices] for group in run.rules.tied]
    tied = [group for group in tied if len(group) > 1]
    try:
        front = assignment_front(
            choices, points=None if points == "all" else points, weight_bits_budget=run.weight_bits_limit,
            conversions=conversions, tied=tied, max_points=MOST_POINTS,
        )
    except InfeasibleError:
        if run.weight_bits_limit is None:
            raise
        least = assign(choices, minimise="weight_bits", tied=tied).weight_bits
        raise no_memory(run.network, least, run.weight_bits_limit / BITS_A_KIB) from None
    except BitmosaicError as error:
        if [problem.path for problem in error.problems] != ["max_points"]:
            raise
        rule = f"the whole front of harm and {axis} has more than {MOST_POINTS:,} assignments; ask for a number of them"
        raise ConfigurationError(Problem(rule, where=run.network.name, path="points", value="all")) from None
    if points == "all":
        run.progress.say(f"the whole front of harm and {axis}: {len(front):,} assignments")
    return front
