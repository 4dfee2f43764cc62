"""The codes of a layer's operands, for machines whose time depends on them, and where the codes come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from simulator.errors import ConfigurationError, Problem
from simulator.layer import Layer
from simulator.precision import LayerPrecision

ValueSource = Literal["recorded", "statistical"]
Codes = npt.NDArray[np.integer]


class ValueProvider(Protocol):
    """Gives codes layer by layer: those of a whole network can be too many to keep."""

    @property
    def draws_everything(self) -> bool:
        """Whether equal layers in equal precisions get equal codes."""

    def values(self, layer: Layer, precision: LayerPrecision) -> LayerValues:
        """Codes of one layer's operands."""


@dataclass(frozen=True, eq=False)
class LayerValues:
    """Codes of one layer's operands.

    Attributes:
        weights: whole numbers in the range of the weight format, shape (G, K, C, R, S).
        inputs: whole numbers in the range of the input format, shape (G, N, C, H, W) with ``stored_input_size`` =
            (H, W).
        source: ``recorded``: trained weights and activations of a run; ``statistical``: drawn.
        note: in words, what was recorded or drawn.
    """

    weights: Codes
    inputs: Codes
    source: ValueSource
    note: str = ""

    def check(self, layer: Layer, precision: LayerPrecision) -> None:
        """Raise ``ConfigurationError`` where shapes or codes do not fit a layer and its precision."""
        extent = layer.extent
        problems = []
        for name, codes, number_format, shape in (
            ("weights", self.weights, precision.weight, tuple(extent(d) for d in ("G", "K", "C", "R", "S"))),
            ("inputs", self.inputs, precision.input,
             (extent("G"), extent("N"), extent("C"), *layer.stored_input_size)),
        ):
            if codes.shape != shape:
                problems.append(Problem(f"must have the shape {shape}", where=f"values of {layer.name}", path=name,
                                        value=str(codes.shape)))
            elif not np.issubdtype(codes.dtype, np.integer):
                problems.append(Problem("must be whole numbers", where=f"values of {layer.name}", path=name,
                                        value=str(codes.dtype)))
            elif codes.size:
                low, high = number_format.integer_range
                if int(codes.min()) < low or int(codes.max()) > high:
                    problems.append(
                        Problem(f"must lie in {low} … {high}, the range of {number_format}",
                                where=f"values of {layer.name}", path=name,
                                value=f"{int(codes.min())} … {int(codes.max())}")
                    )
        if problems:
            raise ConfigurationError(problems)
