"""Work: a layer (a loop nest of multiply-accumulates) and a vector operation.

A layer is eight nested loops. Convolutions, matrix products and attention products are all the same nest::

    for g, n, k, c, p, q, r, s in G × N × K × C × P × Q × R × S:
        output[g, n, k, p, q] += weight[g, k, c, r, s] * input[g, n, c, p·stride + r·dilation - pad, q·…]

``G`` counts groups (a depthwise convolution has G = channels and K = C = 1; the heads of an attention product
are groups too), ``K`` and ``C`` are the output and input channels *of one group*. A matrix product has P = rows
of the left operand, K = columns of the right one, C = the reduced dimension. Where both operands are
activations, the right one still plays the part of ``weight``: ``weight_is_activation`` says so.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Dim = Literal["G", "N", "K", "C", "P", "Q", "R", "S"]
Operand = Literal["weight", "input", "output"]

DIMS: tuple[Dim, ...] = ("G", "N", "K", "C", "P", "Q", "R", "S")
OPERANDS: tuple[Operand, ...] = ("weight", "input", "output")
REDUCTION_DIMS: frozenset[Dim] = frozenset(("C", "R", "S"))
RELEVANT_DIMS: dict[Operand, frozenset[Dim]] = {
    "weight": frozenset(("G", "K", "C", "R", "S")),
    "input": frozenset(("G", "N", "C", "P", "Q", "R", "S")),
    "output": frozenset(("G", "N", "K", "P", "Q")),
}


class Frozen(BaseModel):
    """Base of every value that crosses a border: immutable, strict, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Layer(Frozen):
    """One loop nest ``G N K C P Q R S`` with stride, dilation and the input it reads.

    Attributes:
        name: unique within its network.
        dims: extent of each loop; a dimension left out is 1.
        stride: steps along rows and columns of the input.
        dilation: distance between kernel taps along rows and columns.
        padding_begin: rows above and columns left of the input that are zero and are never fetched.
        input_size: rows and columns of the stored input; None: exactly what the kernel touches (no padding).
        weight_is_activation: the ``weight`` operand is computed, not trained (attention products).
        has_bias: one accumulator-wide bias for each of the G·K output channels.
    """

    name: str
    dims: dict[Dim, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding_begin: tuple[int, int] = (0, 0)
    input_size: tuple[int, int] | None = None
    weight_is_activation: bool = False
    has_bias: bool = False

    @model_validator(mode="after")
    def _check(self) -> Layer:
        for dim, extent in self.dims.items():
            if extent < 1:
                raise ValueError(f"dims.{dim}={extent}: must be at least 1")
        if min(self.stride) < 1 or min(self.dilation) < 1 or min(self.padding_begin) < 0:
            raise ValueError("stride and dilation must be at least 1, padding_begin at least 0")
        if self.input_size is not None and min(self.input_size) < 1:
            raise ValueError(f"input_size={self.input_size}: must be at least 1")
        return self

    def __hash__(self) -> int:
        return hash((self.name, *self.shape, self.stride, self.dilation, self.padding_begin, self.input_size))

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents in the order of ``DIMS``."""
        return tuple(self.dims.get(dim, 1) for dim in DIMS)

    def extent(self, dim: Dim) -> int:
        """Extent of one loop."""
        return self.dims.get(dim, 1)

    @property
    def stored_input_size(self) -> tuple[int, int]:
        """Rows and columns of the input as stored (padding is not stored)."""
        if self.input_size is not None:
            return self.input_size
        pairs: tuple[tuple[Dim, Dim], tuple[Dim, Dim]] = (("P", "R"), ("Q", "S"))
        rows, columns = (
            (self.extent(position) - 1) * self.stride[axis]
            + (self.extent(tap) - 1) * self.dilation[axis]
            + 1
            - self.padding_begin[axis]
            for axis, (position, tap) in enumerate(pairs)
        )
        return rows, columns

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole nest, those with padding zeros included."""
        return math.prod(self.shape)

    def describe(self) -> str:
        """The extents of the loop nest in one line, those of 1 left out.

        >>> Layer(name="fc", dims={"K": 10, "C": 64}).describe()
        'K10 C64'
        """
        return " ".join(f"{dim}{self.extent(dim)}" for dim in DIMS if self.extent(dim) > 1)

    @property
    def weight_count(self) -> int:
        """Elements of the weight operand."""
        return math.prod(self.extent(dim) for dim in ("G", "K", "C", "R", "S"))

    @property
    def output_count(self) -> int:
        """Elements of the output."""
        return math.prod(self.extent(dim) for dim in ("G", "N", "K", "P", "Q"))

    def as_matrix_product(self) -> Layer:
        """Return the same work lowered by im2col: C·R·S becomes one reduced dimension, N·P·Q the rows.

        The input then is the expanded matrix. This is what SCALE-Sim runs, and what the Bit Fusion
        simulator does with a network's first convolution.
        """
        return Layer(
            name=self.name,
            dims={
                "G": self.extent("G"),
                "K": self.extent("K"),
                "C": self.extent("C") * self.extent("R") * self.extent("S"),
                "P": self.extent("N") * self.extent("P") * self.extent("Q"),
            },
            weight_is_activation=self.weight_is_activation,
            has_bias=self.has_bias,
        )


class VectorKind(StrEnum):
    """What a vector operation does to its elements; decides how many passes of the vector unit it takes."""

    ELEMENTWISE = "elementwise"
    REDUCTION = "reduction"
    NORMALISATION = "normalisation"
    MOVEMENT = "movement"


class VectorOp(Frozen):
    """Everything that is not a loop nest of multiply-accumulates: activation functions, pooling, softmax, …

    It costs cycles on the vector unit and traffic to DRAM; nothing in a graph is free.

    Attributes:
        name: unique within its network.
        operator: the operator's type in the source graph, e.g. ``Softmax``.
        kind: class of operation.
        input_count: elements read (all inputs, constants included).
        output_count: elements written.
        operations_per_element: vector-unit operations for each processed element (≥ 1).
        processed_count: elements that pass through the vector unit (a 3×3 pooling processes 9 an output).
        fused: runs on the drain path of the layer before it, so its data never goes to DRAM.
    """

    name: str
    operator: str
    kind: VectorKind = Field(strict=False)
    input_count: int = Field(ge=0)
    output_count: int = Field(ge=0)
    processed_count: int = Field(ge=0)
    operations_per_element: int = Field(default=1, ge=1)
    fused: bool = False
