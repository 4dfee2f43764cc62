"""A menu of precisions gives what trying every mapping in each of them gives, and searches do not depend on others.

On random small layers, machines and menus; ``tests/unit/test_precision_menu.py`` has menus on presets.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapper.build_models import forget_rows
from mapper.precision_menu import map_menu
from mapper.search import map_layer
from mapper.solution import OBJECTIVES, Objective, SearchBudget
from simulator.errors import InfeasibleError
from simulator.precision import LayerPrecision
from tests.properties.element_strategies import precisions
from tests.properties.strategies import Case, cases
from tests.properties.test_mapper_optimal import best_of_everything, few_examples

BUDGET = SearchBudget(cpu_seconds=30)
# An example tries every mapping in each precision.
menus = settings(few_examples, max_examples=max(3, settings().max_examples // 48))


@menus
@given(cases(max_macs=8, max_levels=1), st.data(), st.sampled_from(OBJECTIVES))
def test_a_menu_has_the_optimum_of_each_precision(case: Case, data: st.DataObject, objective: Objective) -> None:
    machine = case.accelerator
    more = data.draw(st.lists(precisions(machine.processing_element), min_size=1, max_size=2))
    best: dict[LayerPrecision, float] = {}
    for precision in dict.fromkeys([case.precision, *more]):
        best[precision] = best_of_everything(replace(case, precision=precision))[objective]
        if math.isinf(best[precision]):
            with pytest.raises(InfeasibleError):
                map_menu(case.layer, [precision], machine, objective, budget=BUDGET)
            del best[precision]
    together = map_menu(case.layer, list(best), machine, objective, budget=BUDGET)
    assert [found.precision for found in together] == list(best)
    warm = [map_layer(case.layer, precision, machine, objective, budget=BUDGET) for precision in best]
    for found, one in zip(together, warm, strict=True):
        assert found.status == one.status == "optimal"
        rounding = 0 if objective == "latency" else 3e-6
        assert found.cost == pytest.approx(best[found.precision], rel=rounding)
        assert one.cost == pytest.approx(best[found.precision], rel=rounding)
        # What is kept between searches spares work and changes no result.
        forget_rows()
        cold = map_layer(case.layer, one.precision, machine, objective, budget=BUDGET)
        assert cold.model_copy(update={"solve_seconds": one.solve_seconds}) == one
