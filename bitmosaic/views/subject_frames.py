"""What is explored, as pandas frames with units in the column names: a machine, a network, mappings of a layer.

``frames`` has what an exploration found.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bitmosaic.explorations.menu import default_menu, products_per_cycle
from bitmosaic.views.result_frames import cost_columns
from mapper.solution import MappingSolution
from simulator.accelerator import Accelerator, Buffer, Dram
from simulator.layer import Layer
from simulator.precision import LayerPrecision
from workloads.network import Network


def memories_frame(accelerator: Accelerator) -> pd.DataFrame:
    """One row a memory of a machine, outermost first.

    Columns: ``memory``, ``kind``, ``keeps`` (operands), ``size_bits`` (of one PE for a ``register_file``; DRAM has
    none), ``bandwidth_bits_per_cycle`` and ``latency_cycles`` (DRAM alone), ``read_energy_pj_per_bit``,
    ``write_energy_pj_per_bit``, ``double_buffer``, ``may_bypass``.

    >>> from hw_configs import open_accelerator
    >>> list(memories_frame(open_accelerator("bit_fusion"))["memory"][:3])
    ['dram', 'weight_buffer', 'input_buffer']
    """
    rows = []
    for memory in accelerator.memories:
        on_chip = None if isinstance(memory, Dram) else memory
        off_chip = memory if isinstance(memory, Dram) else None
        rows.append({
            "memory": memory.name,
            "kind": memory.kind,
            "keeps": ", ".join(on_chip.keeps) if on_chip else "everything",
            "size_bits": on_chip.size_bits if on_chip else None,
            "bandwidth_bits_per_cycle": off_chip.bandwidth_bits_per_cycle if off_chip else None,
            "latency_cycles": off_chip.latency_cycles if off_chip else None,
            "read_energy_pj_per_bit": memory.read_energy_pj_per_bit,
            "write_energy_pj_per_bit": memory.write_energy_pj_per_bit,
            "double_buffer": on_chip.double_buffer if on_chip else None,
            "may_bypass": ", ".join(memory.may_bypass) if isinstance(memory, Buffer) else "",
        })
    whole = {"size_bits": "Int64", "bandwidth_bits_per_cycle": "Int64", "latency_cycles": "Int64"}
    return pd.DataFrame(rows).astype({**whole, "double_buffer": "boolean"})


def rates_frame(accelerator: Accelerator, precisions: Sequence[LayerPrecision] | None = None) -> pd.DataFrame:
    """One row a precision, by default those of the machine's menu: what the processing elements can do at most.

    Columns: ``precision``, ``products_per_pe_cycle``, ``macs_per_cycle`` (of the whole grid), ``gmacs_per_second``.
    No mapping reaches more; most reach less, for want of data.

    >>> from hw_configs import open_accelerator
    >>> list(rates_frame(open_accelerator("bit_fusion"), [LayerPrecision.parse("w4a8")])["macs_per_cycle"])
    [1024.0]
    """
    rows = []
    for precision in default_menu(accelerator) if precisions is None else precisions:
        rate = products_per_cycle(accelerator, precision)
        macs = rate * accelerator.grid.pe_count
        rows.append({
            "precision": precision.label, "products_per_pe_cycle": rate, "macs_per_cycle": macs,
            "gmacs_per_second": macs * accelerator.clock_mhz * 1e-3,
        })
    return pd.DataFrame(rows, columns=["precision", "products_per_pe_cycle", "macs_per_cycle", "gmacs_per_second"])


def operations_frame(network: Network) -> pd.DataFrame:
    """One row an operation of a network, in the order in which they run.

    Columns: ``operation`` (name), ``operator`` (``layer``, or the vector operation's type), ``loops`` (extents of the
    loop nest, those of 1 left out), ``macs`` (multiply-accumulates), ``weights`` (trained elements),
    ``vector_operations``, ``fused`` (runs on a layer's results as they drain).

    >>> from workloads import open_network
    >>> frame = operations_frame(open_network("digits_cnn"))
    >>> frame["loops"][0], int(frame["macs"].sum()) == open_network("digits_cnn").macs
    ('K16 P8 Q8 R3 S3', True)
    """
    rows = []
    for operation in network.operations:
        row: dict[str, object] = {"operation": operation.name}
        if isinstance(operation, Layer):
            weights = 0 if operation.weight_is_activation else operation.weight_count
            row |= {"operator": "layer", "loops": operation.describe(), "macs": operation.macs, "weights": weights,
                    "vector_operations": 0, "fused": False}
        else:
            count = operation.processed_count * operation.operations_per_element
            row |= {"operator": operation.operator, "loops": "", "macs": 0, "weights": 0,
                    "vector_operations": count, "fused": operation.fused}
        rows.append(row)
    columns = ["operation", "operator", "loops", "macs", "weights", "vector_operations", "fused"]
    return pd.DataFrame(rows, columns=columns)


def solutions_frame(solutions: Sequence[MappingSolution]) -> pd.DataFrame:
    """One row a mapping that ``map_layer`` found: where cycles and energy go, and the proof.

    Columns: ``layer``, ``precision``, ``tile`` (empty on a machine of one tile), ``macs``, ``total_cycles`` and its
    parts (``compute_cycles``, ``fill_drain_cycles``, ``stall_<cause>_cycles``; the sum is exact), ``energy_uj`` and its
    parts (``energy_<component>_uj``), ``pe_utilization_percent``, ``objective``, ``cost``, ``lower_bound`` (cycles, pJ
    or pJ·cycles), ``gap_percent``, ``status``, ``mapping``.
    """
    components = list(dict.fromkeys(name for solution in solutions for name in solution.result.energy_pj))
    rows = []
    for solution in solutions:
        result = solution.result
        rows.append({
            "layer": solution.layer.name, "precision": solution.precision.label, "tile": solution.tile or "",
            **cost_columns(result, components),
            "objective": solution.objective, "cost": solution.cost, "lower_bound": solution.lower_bound,
            "gap_percent": 100.0 * solution.gap, "status": solution.status, "mapping": solution.mapping.describe(),
        })
    return pd.DataFrame(rows)
