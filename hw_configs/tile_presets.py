"""Tiles that are taken from a preset: what a file leaves out of such a tile is filled in from it, before validation.

``preset: bit_fusion`` stands for the preset's memories (without its DRAM), grid, processing element, vector unit and
output stage. A field given beside it takes the place of the preset's; groups are merged field by field, lists of named
entries by their names, and a part of another ``kind`` replaces the preset's whole. The preset's sources come along. A
number that the file gives anew has the source that the file states; where that states none, it is assumed, and never
the preset's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hw_configs.yaml_reader import Document, Place, path_text, value_text
from simulator.accelerator import Accelerator
from simulator.errors import Problem, closest
from simulator.provenance import EVERYTHING, covers, places, unknown_sources

_SECTIONS = ("memories", "grid", "processing_element", "vector_unit", "output_stage")
Open = Callable[[str], Accelerator]


def fill_in(document: Document, names: Sequence[str], open_preset: Open) -> None:
    """Fill in every tile of a document that names a preset, in place.

    ``names``: the presets that a tile may name; ``open_preset`` gives one. A name that is none of them is added to the
    document's problems; so that other mistakes show, the tile is then filled in from the preset of the nearest name.
    """
    tiles = document.data.get("tiles")
    for index, tile in enumerate(tiles if isinstance(tiles, list) else ()):
        if not isinstance(tile, dict) or tile.get("preset") is None:
            continue
        place: Place = ("tiles", index)
        name = tile["preset"]
        if name not in names:
            name = _report(document, place, name, names)
        if name:
            _fill_in_tile(document, place, tile, open_preset(name))
        else:
            document.unreadable.add(place)


def _report(document: Document, place: Place, name: object, names: Sequence[str]) -> str:
    """Say that there is no such preset. Returns the nearest name, or an empty text."""
    where, near = (*place, "preset"), closest(str(name), names)
    if where not in document.unreadable:
        document.problems.append(
            Problem("no such preset of one tile", where=document.where(where), path=path_text(where),
                    value=value_text(name), allowed=tuple(names), did_you_mean=near)
        )
        document.unreadable.add(where)
    return near


def _fill_in_tile(document: Document, place: Place, tile: dict[str, Any], preset: Accelerator) -> None:
    given = preset.model_dump(mode="json", include=set(_SECTIONS), exclude_unset=True)
    given["memories"] = [memory for memory in given["memories"] if memory["name"] != preset.dram.name]
    own = {key: value for key, value in tile.items() if key in _SECTIONS}
    moved: list[tuple[Place, Place]] = []
    for section in _SECTIONS:
        if section in own and section in given:
            tile[section] = _merged(given[section], own[section], (*place, section), moved)
        elif section in given:
            tile[section] = given[section]
    _move_lines(document, moved)
    if isinstance(tile.get("name"), str):
        _fill_in_sources(document, tile, own, preset)


def _merged(base: Any, over: Any, place: Place, moved: list[tuple[Place, Place]]) -> Any:
    """What ``over`` says, and where it says nothing ``base``. Entries of lists that change places are noted."""
    if isinstance(base, dict) and isinstance(over, dict):
        if over.get("kind", base.get("kind")) != base.get("kind"):
            return over  # another kind of part has other fields
        return base | {
            key: _merged(base[key], value, (*place, key), moved) if key in base else value
            for key, value in over.items()
        }
    if _is_named(base) and _is_named(over):
        result = list(base)
        at = {entry["name"]: index for index, entry in enumerate(base)}
        for index, entry in enumerate(over):
            to = at.setdefault(entry["name"], len(result))
            moved.append(((*place, index), (*place, to)))
            if to == len(result):
                result.append(entry)
            else:
                result[to] = _merged(result[to], entry, (*place, index), moved)
        return result
    return over


def _other_kinds(base: Any, over: Any, path: str) -> Iterator[str]:
    """Places where a file has another kind of part than the preset."""
    if _is_named(base) and _is_named(over):
        base, over = ({entry["name"]: entry for entry in entries} for entries in (base, over))
    if not isinstance(base, dict) or not isinstance(over, dict):
        return
    if over.get("kind", base.get("kind")) != base.get("kind"):
        yield path
        return
    for key in over.keys() & base.keys():
        yield from _other_kinds(base[key], over[key], f"{path}.{key}" if path else key)


def _is_named(value: Any) -> bool:
    items = value if isinstance(value, list) else [None]
    return all(isinstance(item, dict) and isinstance(item.get("name"), str) for item in items)


def _move_lines(document: Document, moved: Sequence[tuple[Place, Place]]) -> None:
    """Let the lines of a file's entries, and what could not be read of them, stand where the entries now are."""
    to = dict(moved)

    def new(place: Place) -> Place:
        depth = next((depth for depth in range(len(place) + 1) if place[:depth] in to), None)
        return place if depth is None else (*to[place[:depth]], *place[depth:])

    lines, document.lines = document.lines, {}
    # What moved comes last: it stands where a place of the same number may have stood.
    for place in sorted(lines, key=lambda place: new(place) != place):
        document.lines[new(place)] = lines[place]
    document.unreadable = {new(place) for place in document.unreadable}


def _fill_in_sources(
    document: Document, tile: Mapping[str, Any], own: Mapping[str, Any], preset: Accelerator
) -> None:
    """Add the preset's sources under the tile's name, and one for each number that the file gives anew."""
    name = tile["name"]
    sources = document.data.setdefault("sources", {})
    if not isinstance(sources, dict):
        return
    is_there = dict(places(tile))
    other_kinds = list(_other_kinds(preset.model_dump(mode="json", include=set(_SECTIONS)), own, ""))
    stated = {key: source for key, source in sources.items() if key.startswith(f"tiles.{name}.")}
    for key, source in preset.sources.items():
        section = key.partition(".")[0]
        if section in own and (unknown_sources(tile, [key]) or is_there.get(key, 0) is None):
            continue  # the file says that this is not modelled
        if any(covers(other, key) for other in other_kinds):
            continue
        if section in _SECTIONS and not covers(f"memories.{preset.dram.name}", key):
            sources.setdefault(f"tiles.{name}.{key}", source.model_dump(mode="json", exclude_unset=True))
        elif key == EVERYTHING:
            sources.setdefault(f"tiles.{name}", source.model_dump(mode="json", exclude_unset=True))
    assumed = {"confidence": "assumed", "source": f"given for this tile in place of what {preset.name} has"}
    preset_values = dict(places(preset.model_dump(mode="json", include=set(_SECTIONS))))
    for path, value in places(own):
        if isinstance(value, bool) or not isinstance(value, int | float) or preset_values.get(path) == value:
            continue
        path = f"tiles.{name}.{path}"
        longest = max((key for key in sources if key != EVERYTHING and covers(key, path)), key=len, default="")
        if longest and longest not in stated:
            covering = [key for key in stated if covers(key, path)]
            sources[path] = stated[max(covering, key=len)] if covering else assumed
            document.unreadable.add(("sources", path))  # what is wrong with it is reported where it stands
