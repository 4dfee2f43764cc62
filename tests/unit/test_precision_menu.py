"""A menu of precisions gives what separate searches give, each with its own proof."""

from __future__ import annotations

import pytest

from hw_configs import open_accelerator
from mapper.build_models import build_cost_models
from mapper.hints import nearest, nearest_rows
from mapper.precision_menu import map_menu, widest_first
from mapper.search import map_layer
from mapper.solution import OBJECTIVES, MappingSolution, Objective, SearchBudget
from simulator.layer import Layer
from simulator.mapping import Mapping, MappingLevel
from simulator.precision import LayerPrecision

LAYER = Layer(
    name="conv", dims={"K": 24, "C": 20, "P": 7, "Q": 7, "R": 3, "S": 3}, padding_begin=(1, 1), input_size=(7, 7)
)
MENU = [LayerPrecision.parse(text) for text in ("w8a8", "w2a4", "w4a8", "w16a16", "w2a2")]
BUDGET = SearchBudget(cpu_seconds=30)


@pytest.mark.parametrize("machine", ["bit_fusion", "loom"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_menu_is_as_good_as_separate_searches(machine: str, objective: Objective) -> None:
    accelerator = open_accelerator(machine)
    together = map_menu(LAYER, [*MENU, MENU[0]], accelerator, objective, budget=BUDGET)
    assert together[-1] == together[0]
    for precision, found in zip(MENU, together, strict=False):
        alone = map_layer(LAYER, precision, accelerator, objective, budget=BUDGET)
        assert found.precision == precision and found.status == alone.status == "optimal"
        assert found.cost == pytest.approx(alone.cost, rel=0 if objective == "latency" else 3e-6)


def test_the_widest_come_first_and_each_starts_from_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [MENU[place].label for place in widest_first(MENU)] == ["w16a16", "w8a8", "w4a8", "w2a4", "w2a2"]
    started: list[tuple[str, Mapping | None]] = []

    def counted(layer: Layer, precision: LayerPrecision, *args: object, **kwargs: object) -> MappingSolution:
        started.append((precision.label, kwargs["hint"]))  # type: ignore[arg-type]
        return map_layer(layer, precision, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("mapper.precision_menu.map_layer", counted)
    found = dict(zip([one.label for one in MENU], map_menu(LAYER, MENU, open_accelerator("bit_fusion"), "energy",
                                                           budget=BUDGET), strict=True))
    assert started == [
        ("w16a16", None), ("w8a8", found["w16a16"].mapping), ("w4a8", found["w8a8"].mapping),
        ("w2a4", found["w4a8"].mapping), ("w2a2", found["w2a4"].mapping),
    ]


def test_a_hint_that_does_not_fit_is_passed_over() -> None:
    accelerator, w8a8 = open_accelerator("bit_fusion"), MENU[0]
    alone = map_layer(LAYER, w8a8, accelerator, "energy", budget=BUDGET)
    buffer = alone.mapping.level("buffer")
    huge = alone.mapping.model_copy(update={"spatial": {"columns": {"K": 24}, "lanes": {"C": 16}, "rows": {"C": 16}}})
    deeper = Mapping(levels=(MappingLevel(level="dram"), buffer, buffer, MappingLevel(level="register")))
    for hint in (huge, deeper):
        assert nearest({w8a8: alone.model_copy(update={"mapping": hint})}, w8a8) is hint
        found = map_layer(LAYER, w8a8, accelerator, "energy", budget=BUDGET, hint=hint)
        assert found.status == "optimal" and found.cost == pytest.approx(alone.cost, rel=3e-6)


def test_the_rows_nearest_to_a_mapping_are_its_own() -> None:
    accelerator, w8a8 = open_accelerator("bit_fusion"), MENU[0]
    mapping = map_layer(LAYER, w8a8, accelerator, "energy", budget=BUDGET).mapping
    for model in build_cost_models(LAYER, w8a8, accelerator):
        rows = nearest_rows(model, mapping, accelerator)
        assert rows is not None
        tile = {
            choice.dim: int(choice.buffer_tile[row])
            for block, row in zip(model.blocks, rows, strict=True) for choice in block.choices
        }
        assert tile == {dim: mapping.level("buffer").tile.get(dim, 1) for dim in tile}
