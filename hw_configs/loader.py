"""Load accelerators from YAML, list the presets, and say everything that is wrong with a file at once.

The data models in ``simulator.accelerator`` and, for machines of several tiles, ``simulator.tiled`` are the schemas;
``model_reader`` finds what is wrong. A file with a field ``tiles`` or ``dram`` is of the second kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hw_configs.model_reader import Schema, model_of
from hw_configs.technology_tables import table_problems
from hw_configs.tile_presets import fill_in
from hw_configs.yaml_reader import Place, read_document, value_text
from hw_configs.yaml_writer import yaml_text
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, Problem, closest
from simulator.tiled import Machine, TiledAccelerator, single_tile

SCHEMA_VERSION = 1
VERSION_FIELD = "bitmosaic_version"
PRESETS = Path(__file__).parent / "presets"
SCHEMA = Schema(Accelerator, VERSION_FIELD, SCHEMA_VERSION)
TILED_SCHEMA = Schema(TiledAccelerator, VERSION_FIELD, SCHEMA_VERSION)


@dataclass(frozen=True)
class PresetInfo:
    """A preset's name, what it is in one line, and the names of its tiles where it has several."""

    name: str
    description: str
    tiles: tuple[str, ...] = ()


@cache
def list_presets() -> tuple[PresetInfo, ...]:
    """Return the presets that come with Bitmosaic, by name."""
    found = []
    for name in _names():
        machine = load_machine(PRESETS / f"{name}.yaml")
        tiles = machine.tile_names if isinstance(machine, TiledAccelerator) else ()
        found.append(PresetInfo(name, machine.description, tiles))
    return tuple(found)


def open_accelerator(name_or_path: str | Path) -> Accelerator:
    """``open_machine`` for machines of one tile. Raises ``ConfigurationError`` for others too."""
    return single_tile(open_machine(name_or_path), "open_accelerator")


def open_machine(name_or_path: str | Path) -> Machine:
    """Load a preset by its name, or a YAML file by its path: an ``Accelerator``, or a ``TiledAccelerator``.

    Raises ``ConfigurationError`` where there is neither, or the file is wrong.
    """
    text = str(name_or_path)
    names = _names()
    if text in names:
        return load_machine(PRESETS / f"{text}.yaml")
    path = Path(text)
    looks_like_path = isinstance(name_or_path, Path) or len(path.parts) > 1 or path.suffix in (".yaml", ".yml")
    if looks_like_path or path.exists():
        return load_machine(path)
    raise ConfigurationError(
        Problem("no such preset", path="accelerator", value=value_text(text),
                allowed=(*names, "or a path to a YAML file"),
                did_you_mean=closest(text.lower().replace("-", "_").replace(" ", "_"), names))
    )


def load_accelerator(path: str | Path) -> Accelerator:
    """``load_machine`` for machines of one tile. Raises ``ConfigurationError`` for others too."""
    return single_tile(load_machine(path), "load_accelerator")


def load_machine(path: str | Path) -> Machine:
    """Load an accelerator from a YAML file, of one tile or of several.

    Raises ``ConfigurationError`` with every mistake in the file, in the order of its lines.
    """
    accelerator, problems = _read(Path(path))
    if accelerator is None:
        raise ConfigurationError(problems)
    return accelerator


def validate_file(path: str | Path) -> list[Problem]:
    """Return every mistake in a YAML file, in the order of its lines; an empty list if it can be loaded."""
    try:
        return _read(Path(path))[1]
    except ConfigurationError as error:
        return list(error.problems)


def dump_accelerator(accelerator: Machine) -> str:
    """Write an accelerator as YAML that loads back to an equal one, defaults included."""
    return yaml_text({VERSION_FIELD: SCHEMA_VERSION, **accelerator.model_dump(mode="json")})


def _names() -> list[str]:
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))


def _read(path: Path) -> tuple[Machine | None, list[Problem]]:
    """Return the accelerator, or None and what is wrong. Raises ``ConfigurationError`` if the file is unreadable."""

    def check(accelerator: Machine) -> dict[Place, str]:
        return {("sources", key): rule for key, rule in table_problems(accelerator).items()}

    document = read_document(path)
    is_tiled = not {"tiles", "dram"}.isdisjoint(document.data)
    if is_tiled:
        fill_in(document, _names_of_one_tile(), _open_preset)
    found, problems = model_of(document, TILED_SCHEMA if is_tiled else SCHEMA, check)
    assert found is None or isinstance(found, Accelerator | TiledAccelerator)
    return found, problems


@cache
def _names_of_one_tile() -> tuple[str, ...]:
    """Presets that a tile may be taken from. Told from the text alone: reading a machine of tiles leads here."""
    return tuple(name for name in _names() if "tiles" not in read_document(PRESETS / f"{name}.yaml").data)


@cache
def _open_preset(name: str) -> Accelerator:
    return load_accelerator(PRESETS / f"{name}.yaml")
