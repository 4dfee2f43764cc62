"""Choices that are one to a search for latency: they take the same time, and none of their kind is lost."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from mapper.build_mapping import build_mapping
from mapper.build_models import build_cost_models
from mapper.descent import Candidate
from mapper.twins import distinct_in_time, is_timed_by_passes, thriftiest
from simulator.engine import simulate
from simulator.errors import MappingError
from simulator.layer import DIMS, Dim
from simulator.mapping import Mapping
from tests.properties.strategies import Case, cases

few_examples = settings(
    max_examples=max(10, settings().max_examples // 3),
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.filter_too_much],
)
MOST = 60  # mappings of one kind that are simulated


def dram_loops(case: Case, mapping: Mapping) -> tuple[Dim, ...]:
    """Loops of more than one trip, outermost first."""
    tile = mapping.level("buffer").tile
    return tuple(dim for dim in mapping.level("dram").order if case.layer.extent(dim) > tile.get(dim, 1))


@few_examples
@given(cases(max_levels=1), st.data())
def test_choices_of_a_kind_take_the_same_time(case: Case, data: st.DataObject) -> None:
    models = build_cost_models(case.layer, case.precision, case.accelerator)
    timed = [model for model in models if is_timed_by_passes(model, case.accelerator)]
    assume(timed)
    first = timed[data.draw(st.integers(0, len(timed) - 1))]
    chosen = [data.draw(st.integers(0, block.size - 1)) for block in first.blocks]
    kind = [block.kinds[row] for block, row in zip(first.blocks, chosen, strict=True)]
    found: dict[tuple[Dim, ...], list[tuple[int, float, Mapping]]] = {}
    for model in timed:
        rows = [
            np.flatnonzero((block.kinds == wanted).all(axis=1)).tolist()
            for block, wanted in zip(model.blocks, kind, strict=True)
        ]
        for own in itertools.islice(itertools.product(*rows), MOST):
            for mapping in build_mapping(model, Candidate(tuple(own), (), 0.0), case.accelerator):
                try:
                    result = simulate(case.layer, case.precision, case.accelerator, mapping)
                except MappingError:
                    continue
                found.setdefault(dram_loops(case, mapping), []).append(
                    (result.total_cycles, result.total_energy_pj, mapping)
                )
    assume(found)
    for twins in found.values():
        cycles = [own for own, _, _ in twins]
        assert len(set(cycles)) == 1
        # The thriftiest of a kind is of it, and none of those that were looked at takes less.
        mapping = twins[data.draw(st.integers(0, len(twins) - 1))][2]
        best = thriftiest(timed, mapping, case.accelerator)
        results = [simulate(case.layer, case.precision, case.accelerator, other) for other in best]
        assert {result.total_cycles for result in results} == set(cycles)
        same_order = [energy for _, energy, other in twins if other.level("dram").order == mapping.level("dram").order]
        assert min(result.total_energy_pj for result in results) <= min(same_order) * (1 + 1e-9)
        assert not thriftiest(models, mapping.model_copy(update={"bypass": ("weight",)}), case.accelerator)


@few_examples
@given(cases(max_levels=1))
def test_one_of_each_kind_stays(case: Case) -> None:
    models = build_cost_models(case.layer, case.precision, case.accelerator)
    distinct = distinct_in_time(models, case.accelerator, constrained=False)
    for model in models:
        if not is_timed_by_passes(model, case.accelerator):
            assert any(other is model for other in distinct)
            continue
        kin = [other for other in distinct if other.variant.held == model.variant.held
               and other.variant.bypass is None]
        assert len(kin) == 1
        for block, kept in zip(model.blocks, kin[0].blocks, strict=True):
            room = [name for name in block.columns if name.startswith(("register_", "input_register"))]
            mine, theirs = (
                np.column_stack([each.axis_use, *(each.columns[name] for name in room)]) for each in (block, kept)
            )
            kinds = kept.kinds
            for kind, need in zip(block.kinds, mine, strict=True):
                assert (theirs[(kinds == kind).all(axis=1)] <= need).all(axis=1).any()
    assert {choice.dim for model in distinct for block in model.blocks for choice in block.choices} == set(DIMS)
