"""Networks from their published shapes: a cost, and no weights.

Each function below builds the graph that its paper (or its reference code) describes, for one inference of batch
1. Batch normalisation is folded into the convolution before it, as every deployment does; norms, softmax,
activation functions, rotary embeddings, residual additions, pooling and cache traffic are vector operations with
the counts that the ONNX import gives to the same operators. Attention products are layers of two activations.
"""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx

from simulator.errors import NetworkError, Problem, closest
from simulator.layer import Dim, Layer, VectorKind, VectorOp
from workloads.network import Network
from workloads.onnx_operators.fusion import mark_fused
from workloads.onnx_operators.vector import VECTOR_RULES


class _Graph:
    """A graph under construction. Every method adds an operation and returns its name."""

    def __init__(self) -> None:
        self.graph: nx.DiGraph = nx.DiGraph()
        self._fusable: set[str] = set()
        self._last = ""

    def _add(self, op: Layer | VectorOp, reads: tuple[str, ...]) -> str:
        self.graph.add_node(op.name, op=op)
        self.graph.add_edges_from((source, op.name) for source in reads)
        self._last = op.name
        return op.name

    def count(self, name: str) -> int:
        """Elements that an operation writes."""
        return int(self.graph.nodes[name]["op"].output_count)

    def convolution(
        self, name: str, source: str | None, channels: tuple[int, int], size: int, kernel: int, *,
        stride: int = 1, groups: int = 1, padding: int | None = None,
    ) -> str:
        """Square convolution with bias: ``channels`` in and out, ``size`` the input's rows and columns."""
        padding = kernel // 2 if padding is None else padding
        extent = (size + 2 * padding - kernel) // stride + 1
        layer = Layer(
            name=name,
            dims={"G": groups, "K": channels[1] // groups, "C": channels[0] // groups,
                  "P": extent, "Q": extent, "R": kernel, "S": kernel},
            stride=(stride, stride),
            padding_begin=(padding, padding),
            input_size=(size, size),
            has_bias=True,
        )
        return self._add(layer, (source,) if source else ())

    def linear(self, name: str, source: str, rows: int, reduced: int, columns: int, *, bias: bool = True) -> str:
        """Matrix product of ``rows × reduced`` activations with trained weights."""
        return self._add(
            Layer(name=name, dims={"P": rows, "C": reduced, "K": columns}, has_bias=bias), (source,)
        )

    def product(self, name: str, reads: tuple[str, ...], dims: dict[Dim, int]) -> str:
        """Matrix product of two activations."""
        return self._add(Layer(name=name, dims=dims, weight_is_activation=True), reads)

    def vector(
        self, name: str, operator: str, reads: tuple[str, ...], *, output: int | None = None,
        processed: int | None = None, constants: int = 0, input_count: int | None = None, table: bool = False,
        operations: int | None = None,
    ) -> str:
        """Vector operation; by default it writes, and processes, as many elements as its first operand has.

        ``constants`` counts trained elements that it reads besides; ``table``: too many for the drain path.
        """
        rule = VECTOR_RULES[operator]
        written = self.count(reads[0]) if output is None else output
        if operations is None:
            assert isinstance(rule.operations, int), f"{operator} has no fixed number of operations"
            operations = rule.operations
        read = sum(self.count(source) for source in reads) if input_count is None else input_count
        op = VectorOp(
            name=name,
            operator=operator,
            kind=rule.kind,
            input_count=read + constants,
            output_count=written,
            processed_count=written if processed is None else processed,
            operations_per_element=operations,
        )
        if rule.kind is VectorKind.ELEMENTWISE and len(reads) == 1 and not table:
            self._fusable.add(name)
        return self._add(op, reads)

    def network(self, name: str, source: str) -> Network:
        """Finish: mark what runs on the drain path."""
        mark_fused(self.graph, self._fusable, {self._last})
        return Network(name, self.graph, source=source)


def resnet18() -> Network:
    """ResNet-18 at 224×224 (He et al. 2016, table 1), batch norms folded: 1.814 G MACs."""
    net = _Graph()
    net.convolution("conv1", None, (3, 64), 224, 7, stride=2)
    relu = net.vector("relu1", "Relu", ("conv1",))
    last = net.vector("maxpool", "MaxPool", (relu,), output=64 * 56 * 56, processed=64 * 56 * 56 * 9)
    size, width = 56, 64
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            prefix = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            shortcut = last
            out = size // stride
            net.convolution(f"{prefix}.conv1", last, (width, channels), size, 3, stride=stride)
            relu = net.vector(f"{prefix}.relu1", "Relu", (f"{prefix}.conv1",))
            net.convolution(f"{prefix}.conv2", relu, (channels, channels), out, 3)
            if stride == 2:
                shortcut = net.convolution(f"{prefix}.downsample", last, (width, channels), size, 1, stride=2)
            total = net.vector(f"{prefix}.add", "Add", (f"{prefix}.conv2", shortcut))
            last = net.vector(f"{prefix}.relu2", "Relu", (total,))
            size, width = out, channels
    pooled = net.vector("avgpool", "GlobalAveragePool", (last,), output=512, processed=512 * 49)
    net.linear("fc", pooled, 1, 512, 1000)
    return net.network("resnet18", "He et al., Deep Residual Learning, CVPR 2016")


def mobilenet_v2() -> Network:
    """MobileNetV2 1.0 at 224×224 (Sandler et al. 2018, table 2), batch norms folded: 0.301 G MACs."""
    net = _Graph()
    size, width = 112, 32
    net.convolution("features.0", None, (3, width), 224, 3, stride=2)
    last = net.vector("features.0.relu6", "Clip", ("features.0",))
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    index = 0
    for expansion, channels, repeats, first_stride in stages:
        for repeat in range(repeats):
            index += 1
            prefix, block_input = f"features.{index}", last
            stride = first_stride if repeat == 0 else 1
            hidden = width * expansion
            if expansion > 1:
                net.convolution(f"{prefix}.expand", last, (width, hidden), size, 1)
                last = net.vector(f"{prefix}.expand.relu6", "Clip", (f"{prefix}.expand",))
            net.convolution(f"{prefix}.depthwise", last, (hidden, hidden), size, 3, stride=stride, groups=hidden)
            size //= stride
            relu = net.vector(f"{prefix}.depthwise.relu6", "Clip", (f"{prefix}.depthwise",))
            last = net.convolution(f"{prefix}.project", relu, (hidden, channels), size, 1)
            if stride == 1 and width == channels:
                last = net.vector(f"{prefix}.add", "Add", (last, block_input))
            width = channels
    net.convolution("features.18", last, (width, 1280), size, 1)
    relu = net.vector("features.18.relu6", "Clip", ("features.18",))
    pooled = net.vector("avgpool", "GlobalAveragePool", (relu,), output=1280, processed=1280 * 49)
    net.linear("classifier", pooled, 1, 1280, 1000)
    return net.network("mobilenet_v2", "Sandler et al., MobileNetV2, CVPR 2018")


def _attention(net: _Graph, prefix: str, source: str, tokens: int, width: int, heads: int) -> str:
    """Multi-head self-attention with biases, up to and with the output projection."""
    head = width // heads
    query, key, value = (
        net.linear(f"{prefix}.{part}", source, tokens, width, width) for part in ("query", "key", "value")
    )
    scores = net.product(f"{prefix}.qk", (query, key), {"G": heads, "P": tokens, "K": tokens, "C": head})
    scaled = net.vector(f"{prefix}.scale", "Mul", (scores,))
    softmax = net.vector(f"{prefix}.softmax", "Softmax", (scaled,))
    mixed = net.product(f"{prefix}.av", (softmax, value), {"G": heads, "P": tokens, "K": head, "C": tokens})
    return net.linear(f"{prefix}.output", mixed, tokens, width, width)


def _feed_forward(net: _Graph, prefix: str, source: str, tokens: int, width: int, hidden: int) -> str:
    """Two linear layers with GELU between them."""
    up = net.linear(f"{prefix}.up", source, tokens, width, hidden)
    gelu = net.vector(f"{prefix}.gelu", "Gelu", (up,))
    return net.linear(f"{prefix}.down", gelu, tokens, hidden, width)


def bert_base() -> Network:
    """BERT-base, 128 tokens (Devlin et al. 2019): 12 post-norm blocks and the pooler, 11.17 G MACs."""
    tokens, width, hidden, heads = 128, 768, 3072, 12
    count = tokens * width
    net = _Graph()
    words = net.vector("embeddings.words", "Gather", (), output=count, input_count=count + tokens)
    positions = net.vector("embeddings.add", "Add", (words,), constants=2 * count, table=True, operations=2)
    last = net.vector("embeddings.norm", "LayerNormalization", (positions,), constants=2 * width)
    for index in range(12):
        prefix = f"encoder.{index}"
        attended = _attention(net, f"{prefix}.attention", last, tokens, width, heads)
        added = net.vector(f"{prefix}.attention.add", "Add", (attended, last))
        middle = net.vector(f"{prefix}.attention.norm", "LayerNormalization", (added,), constants=2 * width)
        fed = _feed_forward(net, f"{prefix}.mlp", middle, tokens, width, hidden)
        added = net.vector(f"{prefix}.mlp.add", "Add", (fed, middle))
        last = net.vector(f"{prefix}.mlp.norm", "LayerNormalization", (added,), constants=2 * width)
    first = net.vector("pooler.token", "Slice", (last,), output=width, input_count=width)
    net.linear("pooler", first, 1, width, width)
    net.vector("pooler.tanh", "Tanh", ("pooler",))
    return net.network("bert_base", "Devlin et al., BERT, NAACL 2019; 128 tokens")


def vit_s() -> Network:
    """ViT-S/16 at 224×224 (Steiner et al. 2021, DeiT-S of Touvron et al. 2021): 12 pre-norm blocks, 4.6 G MACs."""
    tokens, width, hidden, heads = 197, 384, 1536, 6
    net = _Graph()
    net.convolution("patch_embedding", None, (3, width), 224, 16, stride=16, padding=0)
    joined = net.vector("class_token", "Concat", ("patch_embedding",), output=tokens * width, constants=width)
    last = net.vector("position_embedding", "Add", (joined,), constants=tokens * width, table=True)
    for index in range(12):
        prefix = f"blocks.{index}"
        norm = net.vector(f"{prefix}.norm1", "LayerNormalization", (last,), constants=2 * width)
        attended = _attention(net, f"{prefix}.attention", norm, tokens, width, heads)
        middle = net.vector(f"{prefix}.add1", "Add", (attended, last))
        norm = net.vector(f"{prefix}.norm2", "LayerNormalization", (middle,), constants=2 * width)
        fed = _feed_forward(net, f"{prefix}.mlp", norm, tokens, width, hidden)
        last = net.vector(f"{prefix}.add2", "Add", (fed, middle))
    norm = net.vector("norm", "LayerNormalization", (last,), constants=2 * width)
    first = net.vector("head.token", "Slice", (norm,), output=width, input_count=width)
    net.linear("head", first, 1, width, 1000)
    return net.network("vit_s", "Steiner et al., How to train your ViT, 2021; Touvron et al., DeiT, ICML 2021")


def _llama_block(name: str, tokens: int, context: int) -> Network:
    """One block of LLaMA-3-8B: ``tokens`` new ones, ``context`` keys and values, the new ones included."""
    width, hidden, heads, key_heads, head = 4096, 14336, 32, 8, 128
    shared = heads // key_heads
    net = _Graph()
    hidden_count = tokens * width
    norm = net.vector("attention.norm", "RMSNormalization", (), output=hidden_count, input_count=hidden_count,
                      constants=width)
    query = net.linear("attention.query", norm, tokens, width, width, bias=False)
    key = net.linear("attention.key", norm, tokens, width, key_heads * head, bias=False)
    value = net.linear("attention.value", norm, tokens, width, key_heads * head, bias=False)
    # One sine and one cosine for each pair of elements of a head, the same for all heads.
    turned = net.vector("attention.query.rope", "RotaryEmbedding", (query,), constants=tokens * head, table=True)
    turned_key = net.vector("attention.key.rope", "RotaryEmbedding", (key,), constants=tokens * head, table=True)
    # The new keys and values are appended to the cache; what it held is read by the products below.
    keys = net.vector("attention.key.cache", "Concat", (turned_key,))
    values = net.vector("attention.value.cache", "Concat", (value,))
    rows = shared * tokens
    scores = net.product("attention.qk", (turned, keys), {"G": key_heads, "P": rows, "K": context, "C": head})
    scaled = net.vector("attention.scale", "Mul", (scores,))
    if tokens > 1:
        scaled = net.vector("attention.mask", "Where", (scaled,), constants=tokens * context, table=True)
    softmax = net.vector("attention.softmax", "Softmax", (scaled,))
    mixed = net.product("attention.av", (softmax, values), {"G": key_heads, "P": rows, "K": head, "C": context})
    out = net.linear("attention.output", mixed, tokens, width, width, bias=False)
    # The second operand is the block's own input.
    middle = net.vector("attention.add", "Add", (out,), input_count=2 * hidden_count, table=True)
    norm = net.vector("mlp.norm", "RMSNormalization", (middle,), constants=width)
    gate = net.linear("mlp.gate", norm, tokens, width, hidden, bias=False)
    up = net.linear("mlp.up", norm, tokens, width, hidden, bias=False)
    silu = net.vector("mlp.silu", "Swish", (gate,))
    gated = net.vector("mlp.mul", "Mul", (silu, up))
    down = net.linear("mlp.down", gated, tokens, hidden, width, bias=False)
    net.vector("mlp.add", "Add", (down, middle))
    return net.network(name, "Grattafiori et al., The Llama 3 Herd of Models, 2024, table 3; one of 32 blocks")


def llama_3_8b_prefill() -> Network:
    """One block of LLaMA-3-8B reading a prompt of 2048 tokens; the full square of scores is computed and masked."""
    return _llama_block("llama_3_8b_prefill", 2048, 2048)


def llama_3_8b_decode() -> Network:
    """One block of LLaMA-3-8B writing one token, with a cache of 2048 tokens, that token included."""
    return _llama_block("llama_3_8b_decode", 1, 2048)


PUBLISHED: dict[str, Callable[[], Network]] = {
    build.__name__: build
    for build in (resnet18, mobilenet_v2, bert_base, vit_s, llama_3_8b_prefill, llama_3_8b_decode)
}


def published_network(name: str) -> Network:
    """Build a network of ``PUBLISHED``. Raises ``NetworkError`` for any other name."""
    if name not in PUBLISHED:
        raise NetworkError(
            Problem("no such network", path="name", value=repr(name), allowed=tuple(PUBLISHED),
                    did_you_mean=closest(name, tuple(PUBLISHED)))
        )
    return PUBLISHED[name]()
