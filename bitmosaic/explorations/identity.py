"""What makes two results the same: canonical JSON of everything that affects them, hashed.

A key names a computation by its content. Names, descriptions and sources do not affect a result and are left
out; the version is always in.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx

from bitmosaic._version import __version__
from simulator.tiled import Machine
from workloads.network import Network

Json = dict[str, "Json"] | list["Json"] | tuple["Json", ...] | str | int | float | bool | None


def canonical_json(value: Json) -> str:
    """Write JSON in the one form that is hashed and stored: sorted keys, no blanks, no NaN.

    >>> canonical_json({"b": 1, "a": [1, 2.5]})
    '{"a":[1,2.5],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_key(kind: str, value: Json) -> str:
    """SHA-256 (hexadecimal) of a kind of result, the version, and what affects the result."""
    text = canonical_json({"kind": kind, "version": __version__, "of": value})
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def accelerator_identity(accelerator: Machine) -> Json:
    """What of an accelerator affects a cost: everything but its name, description and sources.

    A floating-point unit that is not there stays out: keys of machines of before it stay valid.
    """
    identity: dict[str, Json] = accelerator.model_dump(mode="json", exclude={"name", "description", "sources"})
    if identity.get("floating_point_unit", "") is None:
        del identity["floating_point_unit"]
    return identity


def network_identity(network: Network) -> Json:
    """What of a network affects cost and accuracy: its graph, and the trained model's bytes."""
    graph = network_shapes(network)
    model = None if network.model is None else hashlib.sha256(model_bytes(network.model)).hexdigest()
    return {"graph": graph, "model": model}


def subject_key(network: Network, task: str | None, data: str | None = None) -> str:
    """Key of a network, the task that it is scored on (None: there is none), and data of the user's in its place."""
    return content_key("subject", {"network": network_identity(network), "task": task, "data": data})


def network_shapes(network: Network) -> Json:
    """The graph as JSON: operations in order, and edges from producer to consumer."""
    return {
        "operations": [
            {"type": type(operation).__name__, **operation.model_dump(mode="json")}
            for operation in network.operations
        ],
        "edges": [[producer, consumer] for producer, consumer in sorted(network.graph.edges)],
    }


def model_bytes(model: onnx.ModelProto) -> bytes:
    """The model in a form that does not depend on how it was put together."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content
