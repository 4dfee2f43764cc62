"""What a menu of precisions costs, at once and in separate searches; what each device of the search is worth; and both
provers against each other.

Run by ``python -m benchmarks.mapping`` with ``--menu``, ``--ablation`` or ``--provers``. CPU seconds of one process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import fields

from mapper.build_models import forget_rows
from mapper.devices import SearchDevices
from mapper.precision_menu import map_menu
from mapper.search import map_layer
from mapper.solution import MappingSolution, Objective, SearchBudget
from simulator.accelerator import Accelerator
from simulator.layer import Layer
from simulator.precision import LayerPrecision

SAME = 3e-6  # costs that differ by less are one to a proof


def _proven(found: Sequence[MappingSolution]) -> int:
    return sum(one.status == "optimal" for one in found)


def compare_menu(
    layers: Sequence[Layer], menu: Sequence[LayerPrecision], accelerator: Accelerator, objective: Objective,
    budget: SearchBudget,
) -> Iterator[str]:
    """Lines of a table: each layer's menu at once, against separate searches; then the sums."""
    yield f"{'layer':22} {'menu s':>8} {'apart s':>8} {'ratio':>6} {'proven':>13} {'costs differ':>12}"
    sums = [0.0, 0.0]
    for layer in layers:
        forget_rows()
        began = time.process_time()
        together = map_menu(layer, menu, accelerator, objective, budget=budget)
        middle = time.process_time()
        apart = []
        for precision in menu:
            forget_rows()
            apart.append(map_layer(layer, precision, accelerator, objective, budget=budget))
        seconds = middle - began, time.process_time() - middle
        differ = sum(
            abs(one.cost / two.cost - 1) > SAME
            for one, two in zip(together, apart, strict=True) if one.status == two.status == "optimal"
        )
        sums = [total + more for total, more in zip(sums, seconds, strict=True)]
        yield (f"{layer.name:22} {seconds[0]:8.2f} {seconds[1]:8.2f} {seconds[1] / seconds[0]:6.2f} "
               f"{_proven(together):3} and {_proven(apart):2}/{len(menu):2} {differ:12}")
    yield f"{'all':22} {sums[0]:8.2f} {sums[1]:8.2f} {sums[1] / sums[0]:6.2f}"


def ablation(
    layers: Sequence[tuple[Layer, LayerPrecision]], accelerator: Accelerator, objective: Objective,
    budget: SearchBudget,
) -> Iterator[str]:
    """Lines of a table: the same layers with every device, and with each of them off; hints are for ``--menu``."""
    yield f"{'without':22} {'CPU s':>8} {'longest':>8} {'proven':>8} {'largest gap':>12} {'costs differ':>12}"
    names = [field.name for field in fields(SearchDevices) if field.name != "hints"]
    best: list[MappingSolution] = []
    for name in ("nothing", *names):
        devices = SearchDevices(**({} if name == "nothing" else {name: False}))
        found = []
        for layer, precision in layers:
            forget_rows()
            found.append(map_layer(layer, precision, accelerator, objective, budget=budget, devices=devices))
        best = best or found
        differ = sum(
            abs(one.cost / two.cost - 1) > SAME
            for one, two in zip(found, best, strict=True) if one.status == two.status == "optimal"
        )
        seconds = [one.solve_seconds for one in found]
        yield (f"{name:22} {sum(seconds):8.2f} {max(seconds):8.2f} {_proven(found):5}/{len(found):2} "
               f"{100 * max(one.gap for one in found):10.4f} % {differ:12}")


def provers(
    layers: Sequence[tuple[Layer, LayerPrecision]], accelerator: Accelerator, objective: Objective,
    budget: SearchBudget,
) -> Iterator[str]:
    """Lines of a table: each layer by enumeration and by CP-SAT; ``beaten``: a cost below what the other one proved."""
    proof = f"{'gap':>10} {'CPU s':>7}"
    yield f"{'layer':30} {'enumeration':>16} {proof} {'CP-SAT':>16} {proof} {'beaten':>6}"
    beaten = 0
    for layer, precision in layers:
        one, other = (
            map_layer(layer, precision, accelerator, objective, budget=budget.model_copy(update={"prover": prover}))
            for prover in ("enumeration", "cp_sat")
        )
        here = sum(a.cost < b.lower_bound * (1 - SAME) for a, b in ((one, other), (other, one)))
        beaten += here
        yield (f"{layer.name:30} {one.cost:16.9g} {100 * one.gap:8.4f} % {one.solve_seconds:7.2f} {other.cost:16.9g} "
               f"{100 * other.gap:8.4f} % {other.solve_seconds:7.2f} {here:6}")
    yield f"{'beaten':30} {beaten} of {2 * len(layers)} (there must be none)"
