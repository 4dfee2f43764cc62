"""Which tool's files a user gave, and the design in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bitmosaic.interchange import accelforge, timeloop, zigzag
from bitmosaic.interchange.design import Design
from bitmosaic.interchange.einsum import Einsum
from bitmosaic.interchange.foreign_yaml import load
from bitmosaic.interchange.from_bitmosaic import design_of
from bitmosaic.mapping_files import load_layer, load_mapping
from hw_configs import list_presets, open_accelerator
from simulator.accelerator import Accelerator
from simulator.errors import ConfigurationError, Problem, closest
from simulator.layer import Layer, Operand
from simulator.mapping import Mapping
from simulator.precision import LayerPrecision

Part = Literal["architecture", "layer", "mapping", "energies"]
FORMATS = (
    "Bitmosaic: a preset, or YAML with bitmosaic_version, layer_version or mapping_version",
    "ZigZag: accelerator (operational_array), workload (equation), mapping (spatial_mapping), places (temporal)",
    "AccelForge: arch, workload, mapping",
    "Timeloop: architecture, problem, mapping, ERT",
)


@dataclass
class _Found:
    """Files of one kind each: tool, path and content by part."""

    tool: str = ""
    parts: dict[str, tuple[Path, Any]] = field(default_factory=dict)
    opened: Path = Path()

    def take(self, part: str) -> tuple[Path, Any]:
        """Path and content of a part; it is the one that is read from now on."""
        self.opened = self.parts[part][0]
        return self.parts[part]


def read_files(paths: Sequence[str], layer: str | None, precision: LayerPrecision | None) -> Design:
    """Return the design in some files: an architecture, and perhaps a layer and a mapping of it.

    Args:
        layer: which layer of a workload; None: the only one, or the one of a mapping.
        precision: None: that of the workload, else w8a8.

    Raises a ``BitmosaicError`` with every mistake of the first file that is wrong.
    """
    found = _sort(paths)
    if found.tool == "Bitmosaic":
        return _bitmosaic(found, precision)
    try:
        if found.tool == zigzag.TOOL:
            design = _zigzag(found, layer)
        elif found.tool == timeloop.TOOL:
            design = _timeloop(found)
        else:
            design = _accelforge(found, layer)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        # Readers look at fields one by one; a list where a number belongs shows up only when it is used.
        detail = " ".join(str(error).split())[:120]
        raise ConfigurationError(Problem(f"something is of another kind than {found.tool} has there: {detail}",
                                         where=str(found.opened))) from error
    return replace(design, precision=precision) if precision is not None else design


def _sort(paths: Sequence[str]) -> _Found:
    found = _Found()
    presets = {preset.name for preset in list_presets()}
    for text in paths:
        path = Path(text)
        if text in presets and not path.exists():
            tool, part, data = "Bitmosaic", ["architecture"], None
        else:
            data = load(path)
            tool, part = _kind(path, data)
        if found.tool and tool != found.tool:
            raise ConfigurationError(Problem(f"is of {tool}, and the files before it are of {found.tool}",
                                             where=str(path)))
        for name in part:
            earlier = found.parts.get(name)
            if earlier is not None and zigzag.is_result(data) and zigzag.is_mapping(earlier[1]):
                # The places of tiles, beside the order of loops that ZigZag reads, say more.
                found.parts[name] = path, data
                continue
            if earlier is not None and zigzag.is_mapping(data) and zigzag.is_result(earlier[1]):
                continue
            if earlier is not None:
                raise ConfigurationError(Problem(f"is a second {name}: {earlier[0]} is one already",
                                                 where=str(path)))
            found.parts[name] = path, data
        found.tool = tool
    return found


def _accelforge_parts(data: Any) -> list[str]:
    return [part for key, part in (("arch", "architecture"), ("workload", "layer"), ("mapping", "mapping"))
            if key in data]


def _kind(path: Path, data: Any) -> tuple[str, list[str]]:
    """Whose file this is, and which parts of a design."""
    if isinstance(data, dict):
        for key, part in (("bitmosaic_version", "architecture"), ("layer_version", "layer"),
                          ("mapping_version", "mapping")):
            if key in data:
                return "Bitmosaic", [part]
    for is_one, tool, part in (
        (zigzag.is_accelerator, zigzag.TOOL, "architecture"), (zigzag.is_workload, zigzag.TOOL, "layer"),
        (zigzag.is_mapping, zigzag.TOOL, "mapping"), (zigzag.is_result, zigzag.TOOL, "mapping"),
    ):
        if is_one(data):
            return tool, [part]
    if any(is_one(data) for is_one in (accelforge.is_architecture, accelforge.is_workload, accelforge.is_mapping)):
        return accelforge.TOOL, _accelforge_parts(data)
    if found := timeloop.parts_of(data):
        return timeloop.TOOL, found
    raise ConfigurationError(Problem("is no file that is understood", where=str(path), allowed=FORMATS))


def _chosen(layers: dict[str, Any], wanted: str | None, path: Path) -> Any:
    if wanted is None and len(layers) == 1:
        return next(iter(layers.values()))
    if wanted not in layers:
        names = tuple(layers)
        raise ConfigurationError(Problem(
            "name one of its layers" if wanted is None else "the workload has no such layer", where=str(path),
            path="--layer", value="" if wanted is None else wanted, allowed=names,
            did_you_mean="" if wanted is None else closest(wanted, names)))
    return layers[wanted]


def _need_layer(found: _Found) -> None:
    if "mapping" in found.parts and "layer" not in found.parts:
        raise ConfigurationError(Problem("a mapping needs its layer: give the workload's file too",
                                         where=str(found.parts["mapping"][0])))


def _zigzag(found: _Found, wanted: str | None) -> Design:
    _need_layer(found)
    design = Design(zigzag.TOOL)
    if "architecture" in found.parts:
        path, data = found.take("architecture")
        design = zigzag.read_machine(data, str(path))
    if "layer" not in found.parts:
        return design
    path, data = found.take("layer")
    mapping = found.parts.get("mapping")
    if wanted is None and mapping is not None and zigzag.is_result(mapping[1]) and "layer" in mapping[1]:
        wanted = str(mapping[1]["layer"])
    einsum, precision = _chosen(zigzag.read_layers(data, str(path)), wanted, path)
    assert isinstance(einsum, Einsum)
    design = replace(design, layer=einsum.layer, precision=precision)
    if mapping is None:
        return design
    path, data = found.take("mapping")
    if zigzag.is_result(data):
        try:
            return replace(design, nest=zigzag.read_result(data, einsum.dims))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(Problem(f"is no mapping of this layer: {error}", where=str(path))) from error
    return replace(design, nest=zigzag.read_mapping(data, str(path), einsum))


def _accelforge(found: _Found, wanted: str | None) -> Design:
    _need_layer(found)
    design = Design(accelforge.TOOL)
    if "architecture" in found.parts:
        path, data = found.take("architecture")
        design = accelforge.read_machine(data, str(path), path.stem)
    if "layer" not in found.parts:
        return design
    path, data = found.take("layer")
    layers = accelforge.read_layers(data, str(path))
    einsum, precision, tensors = _chosen(layers, wanted, path)
    operands: dict[str, Operand] = tensors
    design = replace(design, layer=einsum.layer, precision=precision)
    if "mapping" in found.parts:
        path, data = found.take("mapping")
        design = replace(design, nest=accelforge.read_mapping(data, str(path), einsum, operands))
        assert design.nest is not None
        design = design.with_notes(*accelforge.refetch_notes(design.nest))
    return design


def _timeloop(found: _Found) -> Design:
    _need_layer(found)
    layer = mapping = energies = None
    if "energies" in found.parts:
        path, data = found.take("energies")
        energies = timeloop.read_energies(data, str(path))
    if "layer" in found.parts:
        path, data = found.take("layer")
        layer = timeloop.read_layer(data, str(path))
    if "architecture" not in found.parts:
        if layer is None or "mapping" in found.parts:
            raise ConfigurationError(Problem("needs its architecture: give that file too", where=str(path)))
        return Design(timeloop.TOOL, layer=layer[0].layer)
    path, data = found.take("architecture")
    architecture = timeloop.read_architecture(data, str(path), path.stem)
    if "mapping" in found.parts:
        path, mapping = found.take("mapping")
    return timeloop.design_of(architecture, energies, str(path), layer, mapping)


def _bitmosaic(found: _Found, precision: LayerPrecision | None) -> Design:
    if "architecture" not in found.parts:
        raise ConfigurationError(Problem("a layer or a mapping of ours needs its accelerator: give a preset or a file",
                                         where=", ".join(str(path) for path, _ in found.parts.values())))
    accelerator: Accelerator = open_accelerator(str(found.parts["architecture"][0]))
    layer: Layer | None = load_layer(found.parts["layer"][0]) if "layer" in found.parts else None
    mapping: Mapping | None = load_mapping(found.parts["mapping"][0]) if "mapping" in found.parts else None
    if mapping is not None and layer is None:
        _need_layer(found)
    return design_of(accelerator, precision or LayerPrecision(), layer, mapping)
