"""Layers that stay in floating point beside an integer grid (SEADA): formats at their borders, and their cost.

A machine that states a ``floating_point_unit`` runs them there, in closed form (``simulator.floating_layer``). A tensor
at a border lies in DRAM in integers: an integer layer never writes floating point, and a layer in floating point writes
integers where an integer layer reads it. So the unit converts, on the way in or on the way out. Where a vector
operation stands between two layers nothing is converted, as everywhere in this simulator.
"""

from __future__ import annotations

from collections.abc import Mapping

from bitmosaic.explorations.menu import problems_of
from bitmosaic.explorations.records import LayerRow
from mapper.network import reading_layers, written_for
from mapper.solution import Objective, objective_cost
from simulator.accelerator import Accelerator
from simulator.errors import Problem
from simulator.floating_layer import floating_layer_cost
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from simulator.result import STALL_CAUSES, LayerResult, StallCause, Traffic
from workloads.network import Network

CLOSED_FORM = "closed form"


def unit_precision(accelerator: Accelerator) -> LayerPrecision | None:
    """What layers run in on the machine's floating-point unit; None where it has none, or its grid runs that itself."""
    unit = accelerator.floating_point_unit
    if unit is None:
        return None
    precision = LayerPrecision.parse(str(unit.number_format))
    return precision if accelerator.processing_element.problems(precision) else None


def problems_on(precision: LayerPrecision, accelerator: Accelerator) -> list[Problem]:
    """What keeps a precision from running on the machine's grid, and on its floating-point unit."""
    found, unit = problems_of(precision, accelerator), accelerator.floating_point_unit
    beside = unit_precision(accelerator)
    if not found or (beside is not None and (precision.weight, precision.input) == (beside.weight, beside.input)):
        return []
    stays = precision.weight == precision.input and not precision.weight.is_integer and precision.weight.bits >= 16
    if not stays:
        return found
    other = "states no floating_point_unit beside it" if unit is None else (
        f"has a floating_point_unit that runs {unit.number_format}"
    )
    rule = f"does not run on the grid of accelerator {accelerator.name}, which {other} (docs/hardware.md)"
    return [Problem(rule, where=f"precision {precision.label}")]


def border_precisions(
    network: Network, assignment: Mapping[str, LayerPrecision], floating: LayerPrecision
) -> dict[str, LayerPrecision]:
    """Each layer's precision with the output format that it writes: the widest that an integer layer reads, else its
    own. Of assignments without layers in ``floating`` it is that of ``network_precisions``."""
    found = {}
    for layer in network.layers:
        readers = [assignment[name] for name in reading_layers(network, layer.name)]
        found[layer.name] = written_for(
            assignment[layer.name], [each for each in readers if each.input != floating.input]
        )
    return found


def floating_results(
    network: Network, exact: Mapping[str, LayerPrecision], accelerator: Accelerator, floating: LayerPrecision
) -> dict[str, LayerResult]:
    """Layer → its cost, of the layers in ``floating``; ``exact`` as of ``border_precisions``."""
    stored: dict[str, int] = {}
    for layer in network.layers:
        written = exact[layer.name].output
        for reader in reading_layers(network, layer.name) if written.is_integer else ():
            stored[reader] = max(stored.get(reader, 0), written.bits)
    return {
        layer.name: closed_form(layer, exact[layer.name], accelerator, stored.get(layer.name))
        for layer in network.layers if exact[layer.name].input == floating.input
    }


def closed_form(
    layer: Layer, precision: LayerPrecision, accelerator: Accelerator, stored_integer_bits: int | None = None
) -> LayerResult:
    """A layer on the unit as a result: what it waits for beyond its products is for its inputs.

    ``stored_integer_bits``: width of the integers that it reads; None: it reads its own format.
    """
    unit = accelerator.floating_point_unit
    assert unit is not None  # such layers are offered by machines with a unit only
    cost = floating_layer_cost(
        layer, precision, accelerator, unit, reads_integers=stored_integer_bits is not None,
        stored_input_bits=stored_integer_bits,
    )
    stalls: dict[StallCause, int] = dict.fromkeys(STALL_CAUSES, 0)
    stalls["input"] = cost.latency_cycles - cost.compute_cycles
    weights = layer.weight_count * precision.weight.bits
    dram = accelerator.dram.name
    return LayerResult(
        engine="bound", layer=layer.name, total_cycles=cost.latency_cycles, compute_cycles=cost.compute_cycles,
        fill_drain_cycles=0, stall_cycles=stalls, energy_pj=cost.energy_pj, macs=layer.macs, active_pe_cycles=0,
        pe_utilization=layer.macs / (unit.macs_per_cycle * cost.latency_cycles),
        dram_busy_cycles=cost.transfer_cycles, tile_count=1,
        traffic=(
            Traffic(memory=dram, operand="weight", read_bits=weights, write_bits=0),
            Traffic(memory=dram, operand="input", read_bits=cost.read_bits - weights, write_bits=0),
            Traffic(memory=dram, operand="output", read_bits=0, write_bits=cost.written_bits),
        ),
    )


def closed_form_row(result: LayerResult, precision: str, objective: Objective) -> LayerRow:
    """The row of a layer that nothing maps: its bound is its cost, which is a low estimate itself."""
    cost = objective_cost(result, objective)
    return LayerRow(
        layer=result.layer, precision=precision, mapping=f"floating-point unit, {CLOSED_FORM}", macs=result.macs,
        total_cycles=result.total_cycles, compute_cycles=result.compute_cycles,
        fill_drain_cycles=result.fill_drain_cycles, stall_cycles=result.stall_cycles, energy_pj=result.energy_pj,
        pe_utilization=result.pe_utilization, cost=cost, lower_bound=cost, gap=0.0, status=CLOSED_FORM,
    )
