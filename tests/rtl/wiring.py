"""Pieces of circuit that the RTL modules share. Everything is two's complement."""

from __future__ import annotations

from collections.abc import Iterable

import pyrtl


def signed_sum(terms: Iterable[pyrtl.WireVector]) -> pyrtl.WireVector:
    """Return an adder tree over two's-complement wires, wide enough never to overflow."""
    level = list(terms)
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [pair[0] if len(pair) == 1 else _signed_add(*pair) for pair in pairs]
    return level[0]


def _signed_add(left: pyrtl.WireVector, right: pyrtl.WireVector) -> pyrtl.WireVector:
    width = max(len(left), len(right)) + 1
    return (left.sign_extended(width) + right.sign_extended(width))[:width]


def shifted(wire: pyrtl.WireVector, places: int) -> pyrtl.WireVector:
    """Return a wire moved left by a fixed number of places."""
    return pyrtl.concat(wire, pyrtl.Const(0, bitwidth=places)) if places else wire


def delayed(wire: pyrtl.WireVector, cycles: int) -> pyrtl.WireVector:
    """Return a wire behind ``cycles`` registers."""
    for _ in range(cycles):
        register = pyrtl.Register(len(wire))
        register.next <<= wire
        wire = register
    return wire


def held(port: pyrtl.WireVector, hold: pyrtl.WireVector) -> pyrtl.WireVector:
    """Return what a port shows, or what it showed last while ``hold`` was 0."""
    kept = pyrtl.Register(len(port))
    value = pyrtl.select(hold, kept, port)
    kept.next <<= value
    return value


def output(name: str, wire: pyrtl.WireVector) -> None:
    """Lead a wire out of the circuit."""
    port = pyrtl.Output(len(wire), name)
    port <<= wire


def accumulate(
    term: pyrtl.WireVector, arrives: pyrtl.WireVector, begins: pyrtl.WireVector, ends: pyrtl.WireVector, pipeline: int
) -> None:
    """Add up terms behind ``pipeline`` registers; the outputs are ``sum``, and ``done`` where it is complete.

    ``arrives``: there is a term in this cycle; ``begins``, ``ends``: it is the first, the last of its sum.
    """
    total = pyrtl.Register(len(term))
    before = pyrtl.select(delayed(begins, pipeline), pyrtl.Const(0, len(term)), total)
    after = (before + delayed(term, pipeline))[: len(term)]
    total.next <<= pyrtl.select(delayed(arrives, pipeline), after, total)
    output("sum", total)
    output("done", delayed(ends, pipeline + 1))
