"""Networks: read from ONNX files, taken from the library, or built from published shapes."""

from workloads.library import NetworkInfo, list_networks, open_network
from workloads.network import LayerBinding, Network
from workloads.onnx_import import import_model, load_onnx

__all__ = [
    "LayerBinding",
    "Network",
    "NetworkInfo",
    "import_model",
    "list_networks",
    "load_onnx",
    "open_network",
]
