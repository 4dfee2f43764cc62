"""The functional mode computes what the reference engine computes, and what oracles of their own compute."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import functional
from simulator.functional import compute_layer
from simulator.processing_elements.base import IntegerElementBase
from simulator.reference import simulate_reference
from tests.properties.element_strategies import KINDS
from tests.properties.strategies import DATAFLOWS, Case, Dataflow, cases, share_of_examples
from tests.properties.test_floating_order import long_sums
from tests.properties.test_reference_values import check_values

IntArray = functional.IntArray
INTEGER_KINDS = tuple(kind for kind in KINDS if kind not in ("floating_point", "dual_precision"))


def computed(case: Case, **options: bool) -> IntArray:
    weights, inputs = case.operands()
    return compute_layer(
        case.layer, case.precision, case.accelerator, case.mapping, weights, inputs, scales=case.scales(), **options
    )


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_outputs_are_those_of_the_reference_engine(dataflow: Dataflow) -> None:
    @share_of_examples
    @given(cases(dataflow, max_macs=300))
    def check(case: Case) -> None:
        _, expected = simulate_reference(
            case.layer, case.precision, case.accelerator, case.mapping, *case.operands(), case.scales()
        )
        np.testing.assert_array_equal(computed(case), expected)

    check()


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_long_sums_are_those_of_the_reference_engine(dataflow: Dataflow) -> None:
    @share_of_examples
    @given(long_sums(dataflow))
    def check(case: Case) -> None:
        _, expected = simulate_reference(case.layer, case.precision, case.accelerator, case.mapping, *case.operands())
        np.testing.assert_array_equal(computed(case), expected)

    check()


@pytest.mark.parametrize("dataflow", DATAFLOWS)
def test_outputs_are_those_of_the_oracles(dataflow: Dataflow) -> None:
    """NumPy's integer product; NumPy's and ``ml_dtypes``' floating point in the documented order."""
    @share_of_examples
    @given(cases(dataflow, max_macs=1500))
    def check(case: Case) -> None:
        check_values(computed(case), case)

    check()


@given(cases(max_macs=1500, kinds=INTEGER_KINDS))
def test_bits_give_the_integer_product(case: Case) -> None:
    assert isinstance(case.accelerator.processing_element, IntegerElementBase)
    np.testing.assert_array_equal(computed(case, bit_level=True), computed(case))


@given(cases(max_macs=1500), st.integers(1, 40))
def test_blocks_do_not_show(case: Case, size: int) -> None:
    expected = computed(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "MOST_PATCH_ELEMENTS", size)
        np.testing.assert_array_equal(computed(case), expected)
