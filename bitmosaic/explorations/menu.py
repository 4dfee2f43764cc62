"""The menu: which precisions an exploration offers to each layer.

A user names them (``w8a8,w6a8,w4a8``), or takes a default that fits the processing element: narrower weights
always save traffic; narrower activations are offered where the element also runs faster on them. The first one is the
*baseline*: ``w8a8``, or on elements without integers ``bf16``, or the widest floating-point format that they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bitmosaic.progress import Progress
from mapper.search import map_layer
from mapper.solution import SearchBudget
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, InfeasibleError, PrecisionError, Problem
from simulator.formats import shortened
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from workloads.weight_quantisers import EXPANDING, FOR_INTEGERS, Quantiser

PREPARING = "checking that precisions fit (compiles first on a new machine)"
BASELINE = LayerPrecision.parse("w8a8")
_FLOATING = ("bf16", "fp16", "fp32", "fp8_e4m3", "fp8_e4m3_ieee")
_EXPANDED = ("w4:fp8_e4m3", "w4:fp8_e4m3_ieee")
_WEIGHTS = ("w8a8", "w6a8", "w5a8", "w4a8", "w2a8")
_ACTIVATIONS = ("w8a8", "w6a8", "w6a6", "w4a8", "w4a4", "w2a8")
_BOTH_IN_POWERS = ("w8a8", "w6a8", "w5a8", "w4a8", "w4a4", "w2a8")


def products_per_cycle(accelerator: Accelerator, precision: LayerPrecision) -> float:
    """Products that one processing element finishes in a cycle at a precision it can run."""
    element = accelerator.processing_element
    return element.lanes(precision) / element.cycles_per_step(precision)


def default_menu(accelerator: Accelerator) -> tuple[LayerPrecision, ...]:
    """Return what the accelerator's processing element can run of a usual choice, the baseline first.

    Five or six integer precisions; of an element without integers the floating-point ones and W4A8. Raises
    ``PrecisionError`` where it can run no baseline.
    """
    element = accelerator.processing_element
    baseline = baseline_of(accelerator)
    if baseline != BASELINE:
        others = [LayerPrecision.parse(label) for label in (*_FLOATING, *_EXPANDED)]
        return (baseline, *(each for each in others if each != baseline and not element.problems(each)))

    def rate(label: str) -> float:
        precision = LayerPrecision.parse(label)
        return 0.0 if element.problems(precision) else products_per_cycle(accelerator, precision)

    labels: tuple[str, ...] = _WEIGHTS
    if rate("w6a6") > rate("w6a8"):
        labels = _ACTIVATIONS
    elif rate("w4a4") > rate("w4a8"):
        labels = _BOTH_IN_POWERS
    menu = tuple(LayerPrecision.parse(label) for label in labels)
    return tuple(precision for precision in menu if not element.problems(precision))


def read_menu(texts: Sequence[str], accelerator: Accelerator) -> tuple[LayerPrecision, ...]:
    """Read a user's menu; the baseline is put in front where it is missing.

    Raises ``PrecisionError`` with every entry that cannot be read or that the processing element cannot run, and
    ``ConfigurationError`` where there is no entry.
    """
    if not texts:
        raise ConfigurationError(Problem("must name at least one precision, e.g. w8a8,w4a8", path="menu"))
    baseline = baseline_of(accelerator)
    problems: list[Problem] = []
    menu = [baseline]
    for text in texts:
        try:
            precision = LayerPrecision.parse(text)
        except PrecisionError as error:
            problems.extend(error.problems)
            continue
        if precision.split is not None:
            problems.append(
                Problem("layers split by channel are not offered one by one: --method flexiq proposes them",
                        path="menu", value=precision.label)
            )
            continue
        if precision != baseline:
            problems.extend(problems_of(precision, accelerator))
        if precision not in menu:
            menu.append(precision)
    if problems:
        raise PrecisionError(problems)
    return tuple(menu)


def problems_of(precision: LayerPrecision, accelerator: Accelerator) -> list[Problem]:
    """What of a precision the accelerator's processing element cannot run."""
    found = accelerator.processing_element.all_problems(precision)
    return [_named(problem, precision.label, accelerator) for problem in found]


def check_fits(menu: Sequence[LayerPrecision], accelerator: Accelerator, progress: Progress) -> None:
    """Ask the mapper whether each precision fits the memories at all: a layer of one product needs least of all.

    So a machine that can run nothing is refused before anything is written, and for all precisions together.
    Raises ``InfeasibleError`` with the memory, demand and capacity for every precision that does not fit.
    """
    problems: list[Problem] = []
    # The first mapping on a machine compiles the kernels: a rate taken from it would foretell far too much.
    progress.update(PREPARING, 0, len(menu))
    for precision in menu:
        smallest = Layer(name=precision.label, dims={})
        try:
            map_layer(smallest, precision, accelerator, budget=SearchBudget(cpu_seconds=1e-3, target_gap=1.0))
        except InfeasibleError as error:
            where = f"accelerator {accelerator.name}, precision {precision.label}"
            problems += [replace(problem, where=where) for problem in error.problems]
    progress.update(PREPARING, len(menu), len(menu))
    if problems:
        raise InfeasibleError(problems)


def baseline_of(accelerator: Accelerator) -> LayerPrecision:
    """What every layer can stay in: ``w8a8``, or ``bf16``, or else a floating-point format that the element runs.

    Raises ``PrecisionError`` with what is wrong with ``w8a8`` where it runs none of them.
    """
    found = accelerator.processing_element.problems(BASELINE)
    if not found:
        return BASELINE
    for label in _FLOATING:
        if not accelerator.processing_element.problems(LayerPrecision.parse(label)):
            return LayerPrecision.parse(label)
    raise PrecisionError([_named(problem, f"{BASELINE.label} (the baseline)", accelerator) for problem in found])


def check_quantiser(quantiser: Quantiser, menu: Sequence[LayerPrecision]) -> None:
    """Raise ``ConfigurationError`` for DPQ beside integers that are not expanded."""
    others = [each.label for each in menu if each.weight.is_integer and each.expanded_weight is None]
    if quantiser in EXPANDING and others:
        raise ConfigurationError(
            Problem(f"is for weights that are expanded to floating point, and the menu has {', '.join(others)}",
                    path="quantiser", value=quantiser, allowed=FOR_INTEGERS)
        )


def _named(problem: Problem, label: str, accelerator: Accelerator) -> Problem:
    return Problem(
        f"{problem.rule} (accelerator {accelerator.name})", where=f"precision {label}",
        path=problem.path.removeprefix("precision."), value=problem.value, allowed=shortened(problem.allowed),
    )


def for_layer(layer: Layer, precision: LayerPrecision) -> LayerPrecision:
    """Fit a precision to a layer: where both operands are activations, both take the activations' format.

    Their channels are not split: which of them are narrow is decided for trained weights.
    """
    if not layer.weight_is_activation or (precision.weight == precision.input and precision.split is None):
        return precision
    return precision.model_copy(
        update={"weight": precision.input, "expanded_weight": None, "zero_bits": 0, "split": None}
    )
