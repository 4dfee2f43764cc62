"""Load accelerators from YAML, list the presets, and say everything that is wrong with a file at once.

The data model in ``simulator.accelerator`` is the schema; ``model_reader`` finds what is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hw_configs.model_reader import Schema, read_model
from hw_configs.technology_tables import table_problems
from hw_configs.yaml_reader import Place, value_text
from hw_configs.yaml_writer import yaml_text
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, Problem, closest

SCHEMA_VERSION = 1
VERSION_FIELD = "bitmosaic_version"
PRESETS = Path(__file__).parent / "presets"
SCHEMA = Schema(Accelerator, VERSION_FIELD, SCHEMA_VERSION)


@dataclass(frozen=True)
class PresetInfo:
    """A preset's name, and what it is in one line."""

    name: str
    description: str


@cache
def list_presets() -> tuple[PresetInfo, ...]:
    """Return the presets that come with Bitmosaic, by name."""
    return tuple(PresetInfo(name, load_accelerator(PRESETS / f"{name}.yaml").description) for name in _names())


def open_accelerator(name_or_path: str | Path) -> Accelerator:
    """Load a preset by its name, or a YAML file by its path.

    Raises ``ConfigurationError`` where there is neither, or the file is wrong.
    """
    text = str(name_or_path)
    names = _names()
    if text in names:
        return load_accelerator(PRESETS / f"{text}.yaml")
    path = Path(text)
    looks_like_path = isinstance(name_or_path, Path) or len(path.parts) > 1 or path.suffix in (".yaml", ".yml")
    if looks_like_path or path.exists():
        return load_accelerator(path)
    raise ConfigurationError(
        Problem("no such preset", path="accelerator", value=value_text(text),
                allowed=(*names, "or a path to a YAML file"),
                did_you_mean=closest(text.lower().replace("-", "_").replace(" ", "_"), names))
    )


def load_accelerator(path: str | Path) -> Accelerator:
    """Load an accelerator from a YAML file.

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


def dump_accelerator(accelerator: Accelerator) -> str:
    """Write an accelerator as YAML that loads back to an equal one, defaults included."""
    return yaml_text({VERSION_FIELD: SCHEMA_VERSION, **accelerator.model_dump(mode="json")})


def _names() -> list[str]:
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))


def _read(path: Path) -> tuple[Accelerator | None, list[Problem]]:
    """Return the accelerator, or None and what is wrong. Raises ``ConfigurationError`` if the file is unreadable."""

    def check(accelerator: Accelerator) -> dict[Place, str]:
        return {("sources", key): rule for key, rule in table_problems(accelerator).items()}

    found, problems = read_model(path, SCHEMA, check)
    assert found is None or isinstance(found, Accelerator)
    return found, problems
