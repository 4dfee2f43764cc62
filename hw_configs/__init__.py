"""Hardware descriptions: presets in YAML, technology tables, and a loader that says everything that is wrong."""

from hw_configs.loader import (
    PresetInfo,
    dump_accelerator,
    list_presets,
    load_accelerator,
    load_machine,
    open_accelerator,
    open_machine,
    validate_file,
)
from hw_configs.technology_tables import Technology, list_technologies, open_technology

__all__ = [
    "PresetInfo",
    "Technology",
    "dump_accelerator",
    "list_presets",
    "list_technologies",
    "load_accelerator",
    "load_machine",
    "open_accelerator",
    "open_machine",
    "open_technology",
    "validate_file",
]
