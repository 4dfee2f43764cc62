"""Batches of mappings at their borders: what cannot be one, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import bitmosaic
from bitmosaic import Layer, LayerPrecision, Mapping, MappingBatch, MappingLevel
from simulator.errors import MappingError, PrecisionError

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
    np.testing.assert_allclose(found.total_energy_pj, [result.total_energy_pj for result in single], rtol=1e-12)


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
