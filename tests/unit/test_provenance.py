"""Where numbers are from: what covers what, how trust adds up, and what the tables and the command say of it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

import bitmosaic
from bitmosaic.cli import main
from bitmosaic.views.text_tables import energy_note
from hw_configs import list_technologies, open_accelerator, open_machine, open_technology
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError
from simulator.precision import LayerPrecision
from simulator.processing_elements import FixedElement, PrecisionEnergy
from simulator.provenance import (
    CONFIDENCES,
    Confidence,
    Source,
    confidence_of,
    covers,
    energy_confidence,
    network_confidence,
    not_modelled,
    source_of,
    uncovered,
    weakest,
)


def source(confidence: Confidence) -> Source:
    return Source(confidence=confidence, source="a test")


def with_sources(**confidences: Confidence) -> Accelerator:
    """Bit Fusion with other sources; ``__`` in a name stands for a dot."""
    sources = {name.replace("__", "."): source(confidence) for name, confidence in confidences.items()}
    return open_accelerator("bit_fusion").model_copy(update={"sources": sources})


def test_the_weakest_decides_and_what_is_not_stated_is_weakest() -> None:
    assert weakest(CONFIDENCES) == "assumed" and weakest(["extracted", "measured"]) == "extracted"
    assert weakest(["scaled", "recalled"]) == "recalled" and weakest(["measured", None]) is None
    assert weakest([]) is None


def test_the_longest_name_that_covers_a_number_is_its_source() -> None:
    sources = {
        "everything": source("assumed"), "memories": source("recalled"), "memories.dram": source("scaled"),
        "memories.dram.read_energy_pj_per_bit": source("measured"),
    }
    assert source_of(sources, "memories.dram.read_energy_pj_per_bit") == source("measured")
    assert source_of(sources, "memories.dram.write_energy_pj_per_bit") == source("scaled")
    assert source_of(sources, "memories.dramatic.size_bits") == source("recalled")
    assert source_of(sources, "clock_mhz") == source("assumed") and source_of({}, "clock_mhz") is None
    assert not covers("memories.dram", "memories.dramatic")


def test_a_component_is_as_weak_as_its_numbers() -> None:
    machine = with_sources(
        everything="measured", memories__dram__write_energy_pj_per_bit="recalled",
        memories__weight_buffer__leakage_mw="assumed", processing_element__energy_pj_per_cycle="scaled",
    )
    found = energy_confidence(machine)
    assert found.pop("dram") == "recalled" and found.pop("leakage") == "assumed"
    assert found.pop("processing_elements") == "scaled"
    assert set(found.values()) == {"measured"}
    assert "interconnect" not in found and {"conversion", "scaling", "vector_unit"} <= set(found)
    assert set(energy_confidence(with_sources(clock_mhz="measured")).values()) == {None}


def test_a_precision_between_two_entries_is_scaled_at_best() -> None:
    entries = tuple(
        PrecisionEnergy.model_validate({"weight": name, "input": name, "energy_pj_per_cycle": 1.0})
        for name in ("int4", "int8")
    )
    element = FixedElement(energy_pj_per_cycle=2.0, operand_bits=16, energy_by_precision=entries)
    machine = with_sources(
        everything="measured", processing_element__energy_by_precision__int4_int4="extracted",
        processing_element__energy_pj_per_cycle="assumed",
    ).model_copy(update={"processing_element": element})

    def at(label: str) -> Confidence | None:
        return energy_confidence(machine, LayerPrecision.parse(label))["processing_elements"]

    assert (at("w4a4"), at("w8a8"), at("w3a3"), at("w6a6")) == ("extracted", "measured", "scaled", "scaled")
    assert at("w16a16") == "assumed"
    assert energy_confidence(machine)["processing_elements"] == "assumed"
    several = [LayerPrecision.parse(label) for label in ("w4a4", "w8a8")]
    assert network_confidence(machine, several)["processing_elements"] == "extracted"


def test_only_the_conversion_that_a_precision_needs_counts() -> None:
    machine = with_sources(everything="measured", output_stage__float_conversion_energy_pj="recalled")
    assert energy_confidence(machine)["conversion"] == "recalled"
    assert energy_confidence(machine, LayerPrecision())["conversion"] == "measured"
    to_float = LayerPrecision.model_validate({"output": "bf16"})
    assert energy_confidence(machine, to_float)["conversion"] == "recalled"
    assert network_confidence(machine, [LayerPrecision(), to_float])["conversion"] == "recalled"


def test_numbers_without_a_source_are_named() -> None:
    machine = with_sources(memories="assumed", grid="assumed", processing_element="assumed", vector_unit="assumed")
    assert uncovered(machine) == ("clock_mhz", *(f"output_stage.{name}" for name in (
        "requantisation_energy_pj", "float_conversion_energy_pj", "scale_energy_pj", "area_um2", "leakage_mw",
    )))
    assert confidence_of(machine, "clock_mhz", "memories.dram.latency_cycles") is None


def test_what_is_not_modelled_is_said() -> None:
    assert not_modelled(open_accelerator("bit_fusion")) == ("hops between processing elements", "leakage of dram")
    plain = open_accelerator("loom").model_copy(update={"output_stage": None})
    assert not_modelled(plain)[:3] == ("requantisation", "conversion between integer and floating point", "scales")


def test_the_report_names_confidence_and_what_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("BITMOSAIC_CACHE_DIR", str(tmp_path))
    budget = bitmosaic.SearchBudget(cpu_seconds=0.1, target_gap=0.9)
    run = bitmosaic.uniform_run("digits_cnn", "bit_fusion", "w8a8", budget=budget, workers=1)
    assert run.result.confidence == energy_confidence(run.accelerator, LayerPrecision())
    point = run.point()
    assert "Not modelled: hops between processing elements;" in energy_note(point)
    table = bitmosaic.energy_table(point)
    cells = [list(column.cells)[-1] for column in table.columns]
    headings = [str(column.header) for column in table.columns]
    assert cells[0] == "confidence" and cells[headings.index("total")] == "assumed"
    assert cells[headings.index("dram")] == cells[headings.index("processing elements")] == "extracted"


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["hardware", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_shows_area_energies_and_sources() -> None:
    output = _run("bit_fusion")
    assert "16 x 32 Fusion Units" in output.splitlines()[0]
    lines = {line.split("  ")[0].strip(): line.split() for line in output.splitlines() if line.strip()}
    assert lines["processing elements"][2:] == ["512", "0.8881", "extracted", "30.38", "extracted"]
    assert lines["dram"][1:] == ["1", "off", "chip", "not", "modelled"]
    assert lines["total of what is modelled"][5:] == ["1.295", "assumed", "30.9", "assumed"]
    assert "Not modelled: hops between processing elements;" in output and "Without a source" not in output


def test_every_preset_can_be_shown() -> None:
    for preset in bitmosaic.list_presets():
        assert preset.description in _run(preset.name)


def test_parts_add_up_to_the_area() -> None:
    for preset in bitmosaic.list_presets():
        machine = open_machine(preset.name)
        frame = bitmosaic.parts_frame(machine)
        assert frame["area_mm2"].sum() == pytest.approx(machine.area_mm2)
        leakage = frame["leakage_mw"].sum() * 1e3 / machine.clock_mhz
        assert leakage == pytest.approx(machine.leakage_pj_per_cycle or 0.0)


def test_technology_tables_are_found_by_name() -> None:
    assert list_technologies() == ("22nm", "28nm", "45nm", "65nm")
    for name in list_technologies():
        table = open_technology(name)
        assert table.name == name and table.node_nm == int(name.removesuffix("nm"))
        assert all(table.unit(number) for number in table.numbers)
    with pytest.raises(ConfigurationError, match=r"no such technology .*did you mean '45nm'"):
        open_technology("45")


def test_units_are_read_from_names() -> None:
    node = open_technology("45nm")
    assert node.unit("logic_leakage_mw_per_um2") == "mW a µm²" and node.unit("scale_energy_pj") == "pJ"
    assert node.unit("wire_energy_pj_per_bit_mm") == "pJ a bit and mm"


def test_the_sram_fit_holds_where_it_was_fitted() -> None:
    node = open_technology("45nm")
    known = node.numbers["sram_512_kib_256_bit_read_energy_pj_per_bit"].value
    fit = node.sram_fit
    assert fit is not None
    fitted = node.sram("read_energy_pj_per_bit", 512 * 8192, 256)
    assert abs(fitted / known - 1) <= fit.read_energy_pj_per_bit.largest_residual
    assert node.sram("area_um2", 64 * 8192) == node.sram("area_um2", 64 * 8192, 256)
    for size in (8 * 8192, 2048 * 8192):
        with pytest.raises(ConfigurationError, match="holds from 16 to 1024 KiB"):
            node.sram("area_um2", size)
    with pytest.raises(ConfigurationError, match="has no SRAM fit"):
        open_technology("28nm").sram("area_um2", 64 * 8192)
