"""Batches of mappings at their borders: what cannot be one, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import bitmosaic
from bitmosaic import Layer, LayerPrecision, Mapping, MappingBatch, MappingLevel
from simulator.errors import ConfigurationError, MappingError, PrecisionError
from simulator.processing_elements import BitSparseElement

LAYER = Layer(name="layer", dims={"K": 32, "C": 16, "P": 4})


def mapping(tile_k: int = 32, **fields: Any) -> Mapping:
    levels = (MappingLevel(level="dram", order=("K",)),
              MappingLevel(level="buffer", tile={"K": tile_k, "C": 16, "P": 4}, order=("K", "C", "P")),
              MappingLevel(level="register"))
    return Mapping(levels=levels, **fields)


@pytest.fixture
def machine() -> bitmosaic.Accelerator:
    return bitmosaic.open_accelerator("bit_fusion")


def test_long_walks_are_left_out(machine: bitmosaic.Accelerator) -> None:
    batch = MappingBatch.of([mapping(32), mapping(8), mapping(1)], machine)
    found = bitmosaic.simulate_batch(LAYER, LayerPrecision(), machine, batch, most_passes=4)
    assert found.is_valid.all() and found.tile_count.tolist() == [1, 4, 32]
    single = [bitmosaic.simulate(LAYER, LayerPrecision(), machine, mapping(tile)) for tile in (32, 8, 1)]
    assert found.total_cycles.tolist() == [single[0].total_cycles, single[1].total_cycles, -1]
    energies = [result.total_energy_pj for result in single]
    np.testing.assert_allclose(found.total_energy_pj, [*energies[:2], np.nan], rtol=1e-12)  # what leaks is not known
    silent = without_leakage(machine)
    found = bitmosaic.simulate_batch(LAYER, LayerPrecision(), silent, batch, most_passes=4)
    energies = [bitmosaic.simulate(LAYER, LayerPrecision(), silent, mapping(tile)).total_energy_pj
                for tile in (32, 8, 1)]
    assert found.total_cycles[2] == -1
    np.testing.assert_allclose(found.total_energy_pj, energies, rtol=1e-12)


def without_leakage(machine: bitmosaic.Accelerator) -> bitmosaic.Accelerator:
    fields: dict[str, Any] = {name: getattr(machine, name).model_copy(update={"leakage_mw": None})
                              for name in ("processing_element", "vector_unit", "output_stage")}
    fields["memories"] = tuple(memory.model_copy(update={
        "background_mw" if memory.kind == "dram" else "leakage_mw": None}) for memory in machine.memories)
    wires = machine.grid.interconnect
    if wires is not None:
        fields["grid"] = machine.grid.model_copy(
            update={"interconnect": wires.model_copy(update={"leakage_mw": None})})
    return machine.model_copy(update=fields)


def test_machines_that_batches_are_not_for(machine: bitmosaic.Accelerator) -> None:
    deeper = bitmosaic.Mapping(levels=(*mapping().levels[:2], *mapping().levels[1:]))
    with pytest.raises(MappingError, match=r"mapping 1: levels=2 buffer tiles: batches are for one level"):
        MappingBatch.of([mapping(), deeper], machine)
    dram, *buffers = machine.memories
    outer = buffers[0].model_copy(update={"name": "outer", "keeps": ("weight", "input", "output")})
    several = machine.model_copy(update={"memories": (dram, outer, *buffers)})
    skipping = machine.model_copy(update={"processing_element": BitSparseElement(
        energy_pj_per_cycle=1.0, serial_operands=("input",), skipped_operands=("input",), skipping="zero_bits")})
    batch = MappingBatch.of([mapping()], machine)
    for score in (bitmosaic.simulate_batch, bitmosaic.bound_batch):
        with pytest.raises(ConfigurationError, match="memories=2 levels of buffers: batches are for machines with one"):
            score(LAYER, LayerPrecision(), several, batch)
        with pytest.raises(ConfigurationError, match="processing_element=bit_sparse: its time depends on values"):
            score(LAYER, LayerPrecision(), skipping, batch)


def test_registers_of_a_bypassing_operand_may_be_doubled_at_their_level() -> None:
    machine = bitmosaic.open_accelerator("eyeriss_like")
    levels = mapping().levels
    doubled = Mapping(levels=(*levels[:2], levels[2].model_copy(update={"double_buffer": ("weight",)})),
                      bypass=("weight",))
    assert MappingBatch.of([doubled], machine).double_buffer.tolist() == [[True, False, False]]


def test_a_machine_without_room_has_no_valid_mapping(machine: bitmosaic.Accelerator) -> None:
    memories = [memory if memory.kind == "dram" else memory.model_copy(update={"size_bits": 1})
                for memory in machine.memories]
    tiny = machine.model_copy(update={"memories": tuple(memories)})
    batch = MappingBatch.of([mapping()], tiny)
    assert not bitmosaic.bound_batch(LAYER, LayerPrecision(), tiny, batch).is_valid.any()


def test_what_is_no_batch(machine: bitmosaic.Accelerator) -> None:
    with pytest.raises(MappingError, match="must hold at least one mapping"):
        MappingBatch.of([], machine)
    with pytest.raises(MappingError, match=r"mapping 1: bypass=\['weight'\]: must be the same in all"):
        MappingBatch.of([mapping(), mapping(bypass=("weight",))], machine)
    with pytest.raises(MappingError, match=r"mapping 0: spatial=row: the grid has no such axis.*did you mean"):
        MappingBatch.of([mapping(spatial={"row": {"C": 2}})], machine)


def test_wrong_arrays_are_named(machine: bitmosaic.Accelerator) -> None:
    batch = MappingBatch.of([mapping()], machine)
    wrong = replace(batch, buffer_tile=batch.buffer_tile.astype(np.int32), spatial=batch.spatial[:, :2])
    with pytest.raises(MappingError) as caught:
        bitmosaic.bound_batch(LAYER, LayerPrecision(), machine, wrong)
    assert [problem.path for problem in caught.value.problems] == ["spatial", "buffer_tile"]
    with pytest.raises(MappingError, match="may not bypass"):
        bitmosaic.bound_batch(LAYER, LayerPrecision(), machine, replace(batch, bypass="weight"))
    with pytest.raises(PrecisionError):
        bitmosaic.bound_batch(LAYER, LayerPrecision.parse("bf16"), machine, batch)
