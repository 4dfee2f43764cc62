"""Hardware descriptions: presets in YAML, and the loader that says everything that is wrong with a file."""

from hw_configs.loader import (
    PresetInfo,
    dump_accelerator,
    list_presets,
    load_accelerator,
    open_accelerator,
    validate_file,
)

__all__ = [
    "PresetInfo",
    "dump_accelerator",
    "list_presets",
    "load_accelerator",
    "open_accelerator",
    "validate_file",
]
