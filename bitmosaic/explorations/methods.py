"""Named methods: how harm is rated, how weights are quantised, which menu is offered, and who chooses from it.

A method is a bundle of what ``explore`` can be told piece by piece, so that a published method runs under its name. An
option that a method leaves open may be given beside it; one that contradicts it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from bitmosaic.explorations.floating_layers import unit_precision
from bitmosaic.explorations.menu import check_quantiser, default_menu, read_menu
from bitmosaic.explorations.records import (
    BY_ENTROPY,
    BY_GRADIENTS,
    DEFAULT_FLEXIQ,
    FlexiqSelection,
    FlexiqVariant,
    MethodName,
    SensitivityMethod,
)
from mapper.split_channels import channels_of_a_step
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, NetworkError, PrecisionError, Problem, closest
from simulator.precision import LayerPrecision
from workloads.entropy import DEFAULT_READING, BitCode, EntropyReading, EntropyScore, EntropyWeight
from workloads.flexiq import Extraction
from workloads.gradients import check_gradients
from workloads.network import Network
from workloads.sensitivity import default_method
from workloads.vector_jacobian import Gradients
from workloads.weight_quantisers import DEFAULT_QUANTISER, FOR_INTEGERS, Quantiser

Selection = Literal["program", "subgraphs", "entropy", "channels"]
METHOD_NAMES: tuple[MethodName, ...] = get_args(MethodName)
SPLIT = LayerPrecision.parse("w8a8/w4a4@1")


@dataclass(frozen=True)
class Method:
    """What a name stands for.

    Attributes:
        source: where it is published.
        summary: what it does here, in a sentence.
        sensitivities: how harm may be rated; the first one is taken where nothing is asked for. Empty: not at all.
        quantisers: of the weights, those that may be asked for.
        selection: who proposes: the integer ``program`` (least harm under budgets of latency and of energy, each layer
            costed by itself), that over ``subgraphs`` (conversions between layers counted), ``entropy`` (the first
            one and SEADA's threshold), or ``channels`` (FlexiQ's ratios).
    """

    name: MethodName
    source: str
    summary: str
    sensitivities: tuple[SensitivityMethod, ...]
    quantisers: tuple[Quantiser, ...]
    selection: Selection

    @property
    def default_quantiser(self) -> Quantiser:
        """The default of all explorations where the method leaves it open, else its own."""
        return DEFAULT_QUANTISER if DEFAULT_QUANTISER in self.quantisers else self.quantisers[0]


METHODS: dict[MethodName, Method] = {each.name: each for each in (
    Method(
        "amp", "arXiv 2505.13060",
        "first-order harm of weights and activations, added up over layers (measured where there are no gradients); an "
        "integer program over sequential sub-graphs, with the conversions between layers in its costs",
        ("taylor", "perturbation"), FOR_INTEGERS, "subgraphs",
    ),
    Method(
        "seada", "arXiv 2606.27884, as we read its abstract",
        "entropy of 8-bit codes: the threshold rule, and an integer program on the bits of information lost",
        ("bit_entropy", "value_entropy"), FOR_INTEGERS, "entropy",
    ),
    Method(
        "dpq", "arXiv 2505.14638",
        "weights in 4 bits expanded to FP8, quantised by DPQ, beside floating point; harm is measured, since DPQ's "
        "errors are not independent",
        ("perturbation", "taylor"), ("dpq",), "program",
    ),
    Method(
        "flexiq", "arXiv 2510.02822",
        "input channels of least error in 4 bits and the others in 8, at 25, 50, 75 and 100 % of the channels",
        (), ("rtn",), "channels",
    ),
    Method(
        "measured", "the reference for the others",
        "harm measured, one layer and precision at a time; the integer program of amp",
        ("perturbation",), FOR_INTEGERS, "subgraphs",
    ),
)}


@dataclass(frozen=True)
class MethodPlan:
    """What an exploration is to do, all choices made.

    Attributes:
        method: the named one, or None.
        menu: the baseline first.
        sensitivity: how harm is rated.
        note: why it is not the default one where that was asked for.
        quantiser: of the weights.
        selection: who proposes.
        floating: of the menu what layers may stay in on the machine's floating-point unit; None: nothing.
        flexiq: how channels are selected, where they are.
        seada: how SEADA's rules are read, where entropy selects.
        gradients: where the ratings get theirs.
        measures_harm: whether harm is measured too, to say how well the ratings rank it.
    """

    method: MethodName | None
    menu: tuple[LayerPrecision, ...]
    sensitivity: SensitivityMethod
    note: str
    quantiser: Quantiser
    selection: Selection
    floating: LayerPrecision | None = None
    flexiq: FlexiqVariant = DEFAULT_FLEXIQ
    gradients: Gradients = "own"
    seada: EntropyReading = DEFAULT_READING
    measures_harm: bool = False


def plan(
    network: Network,
    accelerator: Accelerator,
    method: MethodName | None,
    menu: Sequence[str] | None,
    sensitivity: SensitivityMethod | Literal["auto"],
    quantiser: Quantiser | None,
    flexiq: FlexiqVariant = DEFAULT_FLEXIQ,
    gradients: Gradients = "own",
    seada: EntropyReading = DEFAULT_READING,
    measure_harm: bool | None = None,
) -> MethodPlan:
    """Make all choices that were left open. ``measure_harm`` None: where entropies rate, which rank it badly.

    Raises ``ConfigurationError`` with every option that contradicts the method, or for gradients that nothing reads,
    ``MissingPackageError`` for torch's where it is not installed, ``NetworkError`` for a named method on
    a network without trained weights, ``PrecisionError`` for a menu that the machine cannot run.
    """
    if method is None:
        precisions = default_menu(accelerator) if menu is None else read_menu(menu, accelerator)
        chosen = quantiser or DEFAULT_QUANTISER
        check_quantiser(chosen, precisions)
        rated, note = _rated(network, sensitivity, gradients)
        if gradients != "own" and rated not in BY_GRADIENTS and not note:
            rule = f"are not read by the sensitivity {rated}"
            raise ConfigurationError(Problem(rule, path="gradients", value=gradients))
        check_gradients(gradients)
        return MethodPlan(None, precisions, rated, note, chosen, "program", gradients=gradients,
                          measures_harm=_measures_harm(rated, measure_harm))
    check_method(method)
    bundle = METHODS[method]
    if network.model is None or not network.trained_layers:
        raise NetworkError(no_weights_for(network, method))
    problems = []
    if sensitivity != "auto" and sensitivity not in bundle.sensitivities:
        problems.append(_contradiction(method, "sensitivity", sensitivity, bundle.sensitivities))
    if quantiser is not None and quantiser not in bundle.quantisers:
        problems.append(_contradiction(method, "quantiser", quantiser, bundle.quantisers))
    reads_gradients = BY_GRADIENTS.intersection(
        bundle.sensitivities[:1] if sensitivity == "auto" else (sensitivity,)
    )
    if gradients != "own" and not reads_gradients:
        by = f" with the sensitivity {sensitivity}" if sensitivity != "auto" else ""
        problems.append(Problem(f"are not read by the method {method}{by}", path="gradients", value=gradients))
    if measure_harm and not bundle.sensitivities:
        problems.append(_contradiction(method, "measure_harm", "True", ()))
    if menu is not None and bundle.selection == "channels":
        problems.append(_contradiction(method, "menu", ",".join(menu), ()))
    if problems:
        raise ConfigurationError(problems)
    check_gradients(gradients)
    precisions = _channels_menu(accelerator) if bundle.selection == "channels" else (
        default_menu(accelerator) if menu is None else read_menu(menu, accelerator)
    )
    if method == "dpq":
        _check_expanded(precisions, accelerator)
    own = (bundle.sensitivities or ("taylor",))[0]
    rated, note = (own, "") if sensitivity == "auto" else (sensitivity, "")
    if sensitivity == "auto" and bundle.sensitivities[:2] == ("taylor", "perturbation"):
        rated, note = _rated(network, "auto", gradients)
    chosen = quantiser or bundle.default_quantiser
    check_quantiser(chosen, precisions)
    floating = unit_precision(accelerator) if bundle.selection == "entropy" else None
    if floating is not None:
        precisions = (*precisions, floating)
    return MethodPlan(method, precisions, rated, note, chosen, bundle.selection, floating, flexiq, gradients,
                      seada, bool(bundle.sensitivities) and _measures_harm(rated, measure_harm))


def flexiq_variant(
    is_asked: bool, accelerator: Accelerator, selection: FlexiqSelection | None, extraction: Extraction | None,
    width: int | None,
) -> tuple[FlexiqVariant, list[Problem]]:
    """The variant of FlexiQ with what was left open, and what is wrong with what was given.

    ``is_asked``: whether that method is to run; where it is not, nothing may be given. ``width``: None asks for as many
    channels as the machine takes in one step of the narrow part.
    """
    named, problems = _given("flexiq", is_asked, {
        "selection": (selection, get_args(FlexiqSelection)), "extraction": (extraction, get_args(Extraction)),
    })
    given: dict[str, str | int] = {**named}
    if width is None:
        # Where the elements cannot split layers the method is refused, or left out, for that reason.
        if is_asked and not accelerator.processing_element.all_problems(SPLIT):
            given["width"] = channels_of_a_step(accelerator, SPLIT.narrow)
    elif width < 1:
        problems.append(Problem("must be at least 1", path="flexiq_width", value=str(width)))
    elif not is_asked:
        problems.append(Problem("is for the method flexiq, which was not asked for", path="flexiq_width",
                                value=str(width)))
    else:
        given["width"] = width
    return (DEFAULT_FLEXIQ if problems else FlexiqVariant.model_validate(given)), problems


def seada_reading(
    is_asked: bool, codes: BitCode | None, score: EntropyScore | None, weight: EntropyWeight | None
) -> tuple[EntropyReading, list[Problem]]:
    """The reading of SEADA's rules, as ``flexiq_variant``."""
    given, problems = _given("seada", is_asked, {
        "codes": (codes, get_args(BitCode)), "score": (score, get_args(EntropyScore)),
        "weight": (weight, get_args(EntropyWeight)),
    })
    return (DEFAULT_READING if problems else EntropyReading.model_validate(given)), problems


def _given(
    method: MethodName, is_asked: bool, options: Mapping[str, tuple[str | None, tuple[str, ...]]]
) -> tuple[dict[str, str], list[Problem]]:
    """The options of a method that were given, of each its value and what is allowed, and what is wrong with them."""
    problems = []
    given: dict[str, str] = {}
    for name, (value, allowed) in options.items():
        if value is None:
            continue
        path = f"{method}_{name}"
        if value not in allowed:
            problems.append(Problem("is not known", path=path, value=repr(value), allowed=allowed,
                                    did_you_mean=closest(str(value), allowed)))
        elif not is_asked:
            problems.append(Problem(f"is for the method {method}, which was not asked for", path=path, value=value))
        given[name] = value
    return given, problems


def check_method(method: str) -> None:
    """Raise ``ConfigurationError`` for a name that is no method's."""
    if method not in METHODS:
        raise ConfigurationError(
            Problem("no such method", path="method", value=repr(method), allowed=METHOD_NAMES,
                    did_you_mean=closest(method, METHOD_NAMES))
        )


def no_weights_for(network: Network, method: str) -> Problem:
    """What is said of a named method for a network without trained weights."""
    return Problem(
        f"has no trained weights, which the method {method} needs: give an ONNX file or a trained network (see "
        "`bitmosaic networks`), or no method for the cost alone", where=network.name
    )


def _contradiction(method: MethodName, path: str, value: str, allowed: Sequence[str]) -> Problem:
    rule = f"contradicts the method {method}"
    if not allowed:
        rule += ", which has its own" if path == "menu" else ", which rates no harm"
    return Problem(rule, path=path, value=value, allowed=tuple(allowed))


def _channels_menu(accelerator: Accelerator) -> tuple[LayerPrecision, ...]:
    problems = accelerator.processing_element.all_problems(SPLIT)
    if problems:
        raise PrecisionError([
            Problem(f"the method flexiq splits layers into w8a8 and w4a4: {problem.rule}",
                    where=f"accelerator {accelerator.name}", path=problem.path, value=problem.value)
            for problem in problems
        ])
    return (SPLIT.wide,)


def _check_expanded(menu: Sequence[LayerPrecision], accelerator: Accelerator) -> None:
    if not any(precision.expanded_weight for precision in menu):
        raise ConfigurationError(
            Problem("the method dpq is for menus with weights that are expanded to floating point (w4:fp8_e4m3), on "
                    "machines that do so (gaudi_like)", where=f"accelerator {accelerator.name}", path="menu",
                    value=",".join(precision.label for precision in menu))
        )


def _measures_harm(rated: SensitivityMethod, asked: bool | None) -> bool:
    return rated in BY_ENTROPY if asked is None else asked


def _rated(
    network: Network, asked: SensitivityMethod | Literal["auto"], gradients: Gradients
) -> tuple[SensitivityMethod, str]:
    """The method to rate with, and why it is not the default one where that was asked for."""
    if asked != "auto":
        return asked, ""
    if network.model is None or not network.bindings:
        return "taylor", ""  # nothing will be rated
    method, why = default_method(network, gradients)
    return ("taylor", "") if method == "taylor" else ("perturbation", why)
