"""From the indices of three tensors to our loop nest: which loop of a tool is which of ours.

The tools describe a layer by the indices of its tensors, with loops of any names. Which of our loops one is follows
from where it occurs: in weight and output but not in the input it is K, and so on (``simulator.layer``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from simulator.errors import NetworkError, Problem
from simulator.layer import DIMS, OPERANDS, Dim, Layer, Operand

Index = Mapping[str, int]
"""One index of a tensor: loop → what it is multiplied by, ``{"p": 2, "r": 1}``."""


@dataclass(frozen=True)
class Einsum:
    """A layer, and its loops by the names of another tool.

    Attributes:
        dims: the tool's loop → ours.
    """

    layer: Layer
    dims: dict[str, Dim]

    @property
    def names(self) -> dict[Dim, str]:
        """Our loop → the tool's."""
        return {dim: name for name, dim in self.dims.items()}


# Loops that occur in exactly these operands, in the order in which they take the names.
_PLAIN: dict[frozenset[Operand], tuple[Dim, ...]] = {
    frozenset(("weight", "input", "output")): ("G",),
    frozenset(("weight", "output")): ("K",),
    frozenset(("weight", "input")): ("C", "R", "S"),
    frozenset(("input", "output")): ("N", "P", "Q"),
}
_SLIDING: tuple[tuple[Dim, Dim], ...] = (("P", "R"), ("Q", "S"))


def read_einsum(name: str, accesses: Mapping[Operand, Iterable[Index]], sizes: Mapping[str, int],
                where: str = "") -> Einsum:
    """Return a layer from the indices of its tensors and the extents of its loops.

    Raises ``NetworkError`` with everything that is no convolution or product.
    """
    problems: list[Problem] = []
    indices = {operand: [dict(index) for index in accesses[operand]] for operand in OPERANDS}
    within = {operand: {loop for index in indices[operand] for loop in index} for operand in OPERANDS}
    named = [loop for operand in OPERANDS for index in indices[operand] for loop in index]
    loops = list(dict.fromkeys([*sizes, *named]))
    for operand in OPERANDS:
        for index in indices[operand]:
            text = " + ".join(f"{factor}·{loop}" for loop, factor in index.items())
            if operand != "input" and (len(index) != 1 or set(index.values()) != {1}):
                problems.append(Problem("only an index of the input may be a sum", where=where, path=operand,
                                        value=text))
            elif len(index) > 2:
                problems.append(Problem("an index may be the sum of a position and a kernel tap", where=where,
                                        path=operand, value=text))
    for loop in loops:
        if loop not in sizes:
            problems.append(Problem("the loop has no size", where=where, path=loop))
        elif sum(loop in within[operand] for operand in OPERANDS) < 2 and sizes[loop] > 1:
            problems.append(Problem("the loop occurs in fewer than two tensors", where=where, path=loop))
    if problems:
        raise NetworkError(problems)

    dims: dict[str, Dim] = {}
    stride, dilation = [1, 1], [1, 1]
    sliding = [index for index in indices["input"] if len(index) == 2]
    for index in sliding:
        positions = [loop for loop in index if loop in within["output"] and loop not in within["weight"]]
        taps = [loop for loop in index if loop in within["weight"] and loop not in within["output"]]
        # A direction of its own name goes to its own place: x, w and q are columns.
        axis = next((axis for axis in (0, 1) if _SLIDING[axis][0] not in dims.values()), None)
        if len(positions) != 1 or len(taps) != 1 or axis is None:
            problems.append(Problem("must be one position of the output and one tap of the kernel, in at most two "
                                    "indices", where=where, path="input", value=" + ".join(index)))
            continue
        if len(sliding) == 1 and positions[0].lower() in ("ox", "q", "w", "x"):
            axis = 1
        dims[positions[0]], dims[taps[0]] = _SLIDING[axis]
        stride[axis], dilation[axis] = index[positions[0]], index[taps[0]]
    # A loop of its own name keeps it where it may have it, so that files we wrote come back as they were.
    plain = [loop for loop in loops if loop not in dims]
    plain.sort(key=lambda loop: loop.upper() not in ("P", "Q", "R", "S", "OY", "OX", "FY", "FX"))
    for loop in plain:
        found = frozenset(operand for operand in OPERANDS if loop in within[operand])
        choices = _PLAIN.get(found, ("N",) if sizes[loop] == 1 else ())
        wanted = {"OY": "P", "OX": "Q", "FY": "R", "FX": "S"}.get(loop.upper(), loop.upper())
        free = [dim for dim in choices if dim not in dims.values()]
        taken = [dim for dim in free if dim == wanted] or free
        if taken:
            dims[loop] = taken[0]
        elif sizes[loop] > 1:
            problems.append(Problem("no loop of ours is left for it: there is one for groups, one for output channels, "
                                    "three for reduced and three for other dimensions", where=where, path=loop))
    for index in indices["input"]:
        if len(index) == 1:
            (loop, factor), = index.items()
            if factor == 1:
                continue
            if dims.get(loop) in ("P", "Q"):
                stride[0 if dims[loop] == "P" else 1] = factor
            else:
                problems.append(Problem("only a position of the output may have a stride", where=where, path=loop,
                                        value=str(factor)))
    if problems:
        raise NetworkError(problems)
    found_by = {dim: loop for loop, dim in dims.items()}
    extents: dict[Dim, int] = {dim: sizes[found_by[dim]] for dim in DIMS if dim in found_by}
    return Einsum(
        layer=Layer(name=name, dims=extents, stride=(stride[0], stride[1]), dilation=(dilation[0], dilation[1])),
        dims=dims,
    )
