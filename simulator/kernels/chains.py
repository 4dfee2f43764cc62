"""Cheapest chains through a lattice: walk from its first point to its last, and take every step of a plan on the way.

A point says how far each dimension's loops have gone, from the innermost loop out; a move multiplies one of them by a
prime. A state says which steps of the plan are taken; a step may be taken at any point where it is allowed, and costs
a vector of components there. What is asked of the sums: each of several weighted sums (forms) at most its limit. The
search keeps, at each point and state, only vectors that no other one equals or beats in every component, and of those
only what its cheapest completion, form by form, leaves within the limits.

A step that begins to keep an operand also costs what its transfers take beyond the window in which its tile may change,
which depends on the way to the point. So a label knows two more things of each operand: at how many steps inside the
last loop ended that the operand depends on (the window of a tile without a second buffer), and the last loop on which
it does not wholly depend (loops further out bring something new each, and need room for one part only).
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from simulator.kernels.compiled import inner

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class ChainInput(NamedTuple):
    """What is walked.

    ``moves`` (points, primes): the point that a move leads to, −1 where there is none; always a larger number.
    ``start`` (states + 1): first step of each state in ``step`` (which row of ``price``) and ``leads_to`` (the state
    after it, always a larger number). ``price`` (steps, points, components): inf where a step is not allowed.
    ``weight`` (forms, components): not negative.

    For the windows, if ``windows`` is 1: ``inside`` (points): steps of the loops inside. ``depends``, ``wholly`` (3,
    primes): 1 where the operand depends on that loop, and wholly so. ``keeps`` (steps): the operand that a step begins
    to keep, −1: none. ``tile_bits`` (steps, points), ``single_bits`` (steps): bits of its tile, and those above which
    there is no second one. ``finishes`` (steps): 1 where the operand has no step after this one. ``cycles`` (steps,
    points, flows): of its transfers, 0 where there is none; ``late`` (steps, flows): the component that takes what is
    beyond the window, −1: none.
    """

    moves: Integers
    start: Integers
    step: Integers
    leads_to: Integers
    price: Floats
    weight: Floats
    windows: int
    inside: Integers
    depends: Integers
    wholly: Integers
    keeps: Integers
    tile_bits: Integers
    single_bits: Floats
    finishes: Integers
    cycles: Integers
    late: Integers


@numba.njit(cache=True)
def completions(given):
    """Return the least of each form that is still to come, shape (points, states, forms); inf where no way leads on."""
    forms, components = given.weight.shape
    points, moves = given.moves.shape
    states = given.start.shape[0] - 1
    steps = given.price.shape[0]
    found = np.full((points, states, forms), np.inf)
    weighed = np.zeros((points, steps, forms))
    for point in range(points):
        for step in range(steps):
            if given.price[step, point, 0] == np.inf:
                weighed[point, step, :] = np.inf
                continue
            for component in range(components):
                price = given.price[step, point, component]
                if price != 0:
                    for form in range(forms):
                        weighed[point, step, form] += given.weight[form, component] * price
    found[points - 1, states - 1] = 0.0
    for point in range(points - 1, -1, -1):
        for move in range(moves):
            onward = given.moves[point, move]
            if onward >= 0:
                for state in range(states):
                    for form in range(forms):
                        found[point, state, form] = min(found[point, state, form], found[onward, state, form])
        for state in range(states - 1, -1, -1):
            for number in range(given.start[state], given.start[state + 1]):
                step, after = given.step[number], given.leads_to[number]
                if weighed[point, step, 0] == np.inf:
                    continue
                for form in range(forms):
                    through = weighed[point, step, form] + found[point, after, form]
                    found[point, state, form] = min(found[point, state, form], through)
    return found


@inner()
def _weigh(given, vector, total):
    """Write the forms of a label's sums."""
    total[:] = 0.0
    for component in range(given.weight.shape[1]):
        if vector[component] != 0:
            for form in range(given.weight.shape[0]):
                total[form] += given.weight[form, component] * vector[component]


@inner()
def _enter(ahead, limit, labels, head, following, count, vector, total, run, before, step, point, state):
    """Add a label unless a limit or another label forbids it; returns the number of labels, −1 where there is no room.

    ``labels``: sums, the label before each and the step taken (−1 for a move), points, windows. ``total``: the sums'
    forms. ``run`` (2, 3): the windows.
    """
    sums, origins, where, runs = labels
    for form in range(total.shape[0]):
        if total[form] + ahead[point, state, form] > limit[form]:
            return count
    previous = -1
    other = head[point, state]
    while other >= 0:
        better = worse = True
        for component in range(vector.shape[0]):
            if sums[other, component] > vector[component]:
                better = False
            elif sums[other, component] < vector[component]:
                worse = False
            if not better and not worse:
                break
        for operand in range(3):
            # A longer window is better, and more of it that is new.
            if runs[other, 0, operand] < run[0, operand] or runs[other, 1, operand] > run[1, operand]:
                better = False
            if runs[other, 0, operand] > run[0, operand] or runs[other, 1, operand] < run[1, operand]:
                worse = False
        if better:
            return count
        after = following[other]
        if worse:
            if previous < 0:
                head[point, state] = after
            else:
                following[previous] = after
        else:
            previous = other
        other = after
    if count == sums.shape[0]:
        return -1
    sums[count] = vector
    runs[count] = run
    origins[count, 0] = before
    origins[count, 1] = step
    where[count] = point
    following[count] = head[point, state]
    head[point, state] = count
    return count + 1


@inner()
def _add_windows(given, step, point, run, vector):
    """Add what the transfers of a step take beyond their window, and begin the operand's next windows."""
    operand = given.keeps[step]
    if operand < 0:
        return
    inside = given.inside[point]
    stays = given.tile_bits[step, point] // (inside // run[1, operand])
    if stays > given.single_bits[step]:
        later = given.inside[-1] // inside - 1
        for flow in range(given.late.shape[1]):
            component = given.late[step, flow]
            if component >= 0:
                cycles = given.cycles[step, point, flow]
                # The price has what is beyond the whole period.
                beyond = max(0, cycles - run[0, operand]) - max(0, cycles - inside)
                vector[component] += beyond * later
    run[:, operand] = 0 if given.finishes[step] else inside


@numba.njit(cache=True)
def chains(given, ahead, limit, room):
    """Return every undominated chain within the limits.

    ``ahead`` is what ``completions`` found, ``limit`` (forms), ``room``: labels that may be kept. Returns (labels made,
    −1 where there was no room; their sums; their origins: the label before, and the step taken, −1 for a move; their
    points; the numbers of those that are complete).
    """
    points, moves = given.moves.shape
    states = given.start.shape[0] - 1
    components = given.price.shape[2]
    sums = np.empty((room, components))
    origins = np.empty((room, 2), dtype=np.int64)
    where = np.empty(room, dtype=np.int64)
    following = np.empty(room, dtype=np.int64)
    head = np.full((points, states), -1, dtype=np.int64)
    runs = np.zeros((room, 2, 3), dtype=np.int64)
    labels = (sums, origins, where, runs)
    vector = np.zeros(components)
    own = np.zeros(given.weight.shape[0])
    total = np.zeros(given.weight.shape[0])
    run = np.ones((2, 3), dtype=np.int64)
    nothing = np.empty(0, dtype=np.int64)
    count = _enter(ahead, limit, labels, head, following, 0, vector, total, run, -1, -1, 0, 0)
    for point in range(points):
        for state in range(states):
            label = head[point, state]
            while label >= 0:
                _weigh(given, sums[label], own)
                for move in range(moves):
                    onward = given.moves[point, move]
                    if onward >= 0:
                        run[:] = runs[label]
                        if given.windows:
                            for operand in range(3):
                                if run[0, operand] and given.depends[operand, move]:
                                    run[0, operand] = given.inside[onward]
                                if run[0, operand] and not given.wholly[operand, move]:
                                    run[1, operand] = given.inside[onward]
                        count = _enter(ahead, limit, labels, head, following, count, sums[label], own, run, label, -1,
                                       onward, state)
                        if count < 0:
                            return -1, sums, origins, where, nothing
                for number in range(given.start[state], given.start[state + 1]):
                    step = given.step[number]
                    if given.price[step, point, 0] == np.inf:
                        continue
                    for component in range(components):
                        vector[component] = sums[label, component] + given.price[step, point, component]
                    run[:] = runs[label]
                    if given.windows:
                        _add_windows(given, step, point, run, vector)
                    _weigh(given, vector, total)
                    count = _enter(ahead, limit, labels, head, following, count, vector, total, run, label, step,
                                   point, given.leads_to[number])
                    if count < 0:
                        return -1, sums, origins, where, nothing
                label = following[label]
    complete = 0
    label = head[points - 1, states - 1]
    while label >= 0:
        complete += 1
        label = following[label]
    ends = np.empty(complete, dtype=np.int64)
    label = head[points - 1, states - 1]
    for number in range(complete):
        ends[number] = label
        label = following[label]
    return count, sums, origins, where, ends
