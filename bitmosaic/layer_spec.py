"""Which layers a user means: a loop nest in one word, a layer of a network, a YAML file, or a whole network.

``conv:K=64,C=64,P=56,Q=56,R=3,S=3,padding=1`` is a layer by itself, with its name before the colon;
``digits_cnn:conv1`` is a layer of a network; what ends in ``.yaml`` is a file (``mapping_files``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from bitmosaic.mapping_files import load_layer
from simulator.errors import BitmosaicError, NetworkError, Problem, closest
from simulator.layer import DIMS, Dim, Layer
from workloads import Network, list_networks, open_network

_SPEC = re.compile(r"(?P<name>[^:=,]*):(?P<fields>[^:]*=[^:]*)")
_PAIRS = ("stride", "dilation", "padding", "input")
_SWITCHES = ("bias", "activations")
FIELDS = (*DIMS, *_PAIRS, *_SWITCHES)


def parse_layer(text: str) -> Layer:
    """Read a layer in one word: ``NAME:K=64,C=64,…``, loops left out being 1.

    Beside the loops: ``stride=2`` or ``stride=2x1`` (rows × columns), ``dilation`` and ``padding`` (zeros on all four
    sides) likewise, ``input=56x56`` (stored rows and columns, where they are not what the kernel touches), and the
    words ``bias`` and ``activations`` (both operands are computed).

    Raises ``NetworkError`` with every mistake.

    >>> parse_layer("conv:K=8,C=4,P=6,Q=6,R=3,S=3,padding=1").stored_input_size
    (6, 6)
    """
    match = _SPEC.fullmatch(text.strip())
    if match is None:
        raise NetworkError(
            Problem("must be NAME:K=64,C=64,… with a name before the colon and loops behind it", path="layer",
                    value=repr(text), allowed=FIELDS)
        )
    numbers: dict[str, tuple[int, ...]] = {}
    switches: set[str] = set()
    problems = []
    for field in match["fields"].split(","):
        name, equals, value = (part.strip() for part in field.partition("="))
        known = next((each for each in FIELDS if each.lower() == name.lower()), None)
        if known is None:
            problems.append(Problem("no such loop or field", where=f"layer {text!r}", value=field.strip(),
                                    allowed=FIELDS, did_you_mean=closest(name.lower(), FIELDS)))
        elif known in numbers or known in switches:
            problems.append(Problem("stands twice", where=f"layer {text!r}", path=known))
        elif known in _SWITCHES:
            switches.add(known)
            if equals:
                problems.append(Problem("takes no value", where=f"layer {text!r}", path=known, value=value))
        else:
            found = re.fullmatch(r"(\d+)(?:x(\d+))?" if known in _PAIRS else r"(\d+)", value)
            if found is None:
                form = "a whole number or ROWSxCOLUMNS" if known in _PAIRS else "a whole number"
                problems.append(Problem(f"must be {form}", where=f"layer {text!r}", path=known, value=repr(value)))
            else:
                numbers[known] = tuple(int(number) for number in found.groups() if number is not None)
    if problems:
        raise NetworkError(problems)
    return _layer(text, match["name"] or "layer", numbers, switches)


def _layer(text: str, name: str, numbers: Mapping[str, tuple[int, ...]], switches: set[str]) -> Layer:
    def pair(field: str, default: int) -> tuple[int, int]:
        found = numbers.get(field, (default,))
        return found[0], found[-1]

    dims: dict[Dim, int] = {dim: numbers[dim][0] for dim in DIMS if dim in numbers}
    stride, dilation, padding = pair("stride", 1), pair("dilation", 1), pair("padding", 0)
    input_size = pair("input", 0) if "input" in numbers else None
    if input_size is None and "padding" in numbers:
        taps = (dims.get("R", 1), dims.get("S", 1))
        places = (dims.get("P", 1), dims.get("Q", 1))
        rows, columns = (
            (places[axis] - 1) * stride[axis] + (taps[axis] - 1) * dilation[axis] + 1 - 2 * padding[axis]
            for axis in (0, 1)
        )
        input_size = rows, columns
    try:
        return Layer(
            name=name, dims=dims, stride=stride, dilation=dilation, padding_begin=padding, input_size=input_size,
            has_bias="bias" in switches, weight_is_activation="activations" in switches,
        )
    except ValidationError as error:
        raise NetworkError([
            Problem(str(entry["msg"]).removeprefix("Value error, "), where=f"layer {text!r}")
            for entry in error.errors(include_url=False)
        ]) from error


def find_layers(
    text: str, input_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[Network | None, tuple[Layer, ...]]:
    """The layers that a text means, and the network that they are of, if any.

    Raises ``NetworkError`` where there is no such network, layer or file, ``ConfigurationError`` where a file is wrong.
    """
    if text.lower().endswith((".yaml", ".yml")):
        return None, (load_layer(text),)
    if _SPEC.fullmatch(text.strip()) is not None and not Path(text).exists():
        return None, (parse_layer(text),)
    name, _, wanted = text.partition(":")
    is_network = name in {info.name for info in list_networks()} or name.lower().endswith(".onnx")
    if not wanted or not is_network:
        try:
            network = open_network(text, input_shapes=dict(input_shapes) if input_shapes else None)
        except BitmosaicError as error:
            if ":" in text and not is_network:
                raise NetworkError([
                    *error.problems,
                    Problem("nor is it a layer: NAME:K=64,C=64,…, NETWORK:LAYER or a YAML file", path="layer",
                            value=repr(text)),
                ]) from error
            raise
        return network, network.layers
    network = open_network(name, input_shapes=dict(input_shapes) if input_shapes else None)
    found = [layer for layer in network.layers if layer.name == wanted]
    if not found:
        names = tuple(layer.name for layer in network.layers)
        raise NetworkError(
            Problem("the network has no such layer", where=name, path="layer", value=repr(wanted), allowed=names,
                    did_you_mean=closest(wanted, names))
        )
    return network, (found[0],)
