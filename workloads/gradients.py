"""Where gradients come from: the rules of ``workloads.vector_jacobian``, or torch.

``TorchPass`` is ``ReversePass`` with autograd: onnxruntime runs the whole model, torch runs the nodes between slots and
outputs once more, and goes back from them. Everything else those nodes read (shapes, places, constants, what lies in
front of the slots) is onnxruntime's. Outputs are compared, so that an operator that torch takes in another way is an
error and not a wrong gradient.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import onnx

from simulator.errors import ConfigurationError, MissingPackageError, NetworkError, Problem, closest
from workloads.reverse_pass import ForwardPass, ReversePass, Slot
from workloads.tasks.task import Feed
from workloads.torch_operators import OPERATORS, Tensor
from workloads.vector_jacobian import Array, Call, Gradients

GRADIENTS: tuple[Gradients, ...] = get_args(Gradients)

# Largest difference of an output, over its largest value: torch and onnxruntime add up in different orders.
_TOLERANCE = 1e-3
_HALF_TOLERANCE = 5e-2  # of outputs in 16 bits


@dataclass(frozen=True, eq=False)
class TorchForwardPass(ForwardPass):
    """Values of one run, and the graph that autograd goes back along.

    Attributes:
        read: slot → tensor that its node read, of that use alone.
        made: name → tensor, of everything that torch computed.
    """

    read: Mapping[Slot, Tensor]
    made: Mapping[str, Tensor]


class TorchPass(ReversePass):
    """As ``ReversePass``, with the same arguments, quantities and errors; the backward pass is torch's.

    Torch's own setting decides its threads. Raises ``MissingPackageError`` where torch is not installed.
    """

    gradients = "torch"

    def __init__(self, model: onnx.ModelProto, slots: Collection[Slot], threads: int = 0) -> None:
        self._torch = _torch()
        super().__init__(model, slots, threads)

    def forward(self, feed: Feed) -> TorchForwardPass:
        """Run the model on one feed, in onnxruntime and between slots and outputs in torch.

        Raises ``NetworkError`` naming the node where torch refuses one, or where its values are others.
        """
        run = super().forward(feed)
        read: dict[Slot, Tensor] = {}
        made: dict[str, Tensor] = {}
        with self._torch.enable_grad():
            for step in self._steps:
                node, values = step.node, run.values
                expected = tuple(values.get(name) for name in node.output)
                call = Call(node.name, node.op_type, self._opset, step.attributes, (), expected, step.wanted)
                inputs = []
                for slot, name in enumerate(node.input):
                    tensor = None if not name else made[name] if name in made else self._tensor(values[name])
                    if slot in step.wanted:
                        # A view of its own for each use, so that uses of one tensor have gradients of their own.
                        tensor = read[node.name, slot] = self._use(call, slot, tensor, is_made=name in made)
                    inputs.append(tensor)
                outputs = self._run(call, tuple(inputs))
                made.update((name, tensor) for name, tensor in zip(node.output, outputs, strict=False) if name)
        found = TorchForwardPass(run.values, run.outputs, read, made)
        self._check(found)
        return found

    def backward(self, run: ForwardPass, output_gradients: Mapping[str, Array]) -> dict[Slot, Array]:
        """As ``ReversePass.backward``; ``run`` is what ``forward`` gave. Any number of times."""
        assert isinstance(run, TorchForwardPass)
        wanted = {slot: run.read[slot] for slot in self.slots if slot in run.read}
        found = self._gradients(run, output_gradients, wanted)
        if not all(np.isfinite(gradient).all() for gradient in found.values()):
            self._name_not_finite(run, output_gradients)
        # Where no output depends on a slot its gradient is zero.
        return {slot: found.get(slot, np.zeros(())) for slot in self.slots}

    def _gradients(
        self, run: TorchForwardPass, output_gradients: Mapping[str, Array], wanted: Mapping[Slot, Tensor]
    ) -> dict[Slot, Array]:
        over = {name: gradient for name, gradient in output_gradients.items() if name in run.made}
        if not over or not wanted:
            return {}
        outputs = [run.made[name] for name in over]
        parts = self._torch.autograd.grad(
            outputs, list(wanted.values()),
            [self._tensor(gradient).to(output.dtype) for gradient, output in zip(over.values(), outputs, strict=True)],
            retain_graph=True, allow_unused=True,
        )
        return {slot: part.numpy() for slot, part in zip(wanted, parts, strict=True) if part is not None}

    def _name_not_finite(self, run: TorchForwardPass, output_gradients: Mapping[str, Array]) -> None:
        """Raise for the node at which, on the way back, a gradient first is not finite."""
        every = self._gradients(run, output_gradients, run.read)
        for step in reversed(self._steps):
            for slot in step.wanted:
                if not np.isfinite(every.get((step.node.name, slot), 0.0)).all():
                    path = f"{step.node.name} ({step.node.op_type})"
                    raise NetworkError(Problem("gradient: is not finite", path=path))

    def _tensor(self, array: Array) -> Tensor:
        return self._torch.from_numpy(np.require(array, requirements=("C", "W")))

    def _use(self, call: Call, slot: int, tensor: Tensor, is_made: bool) -> Tensor:
        if not tensor.is_floating_point():
            raise call.error(f"is not known for input {slot}, of type {tensor.dtype}")
        return tensor.view_as(tensor) if is_made else tensor.requires_grad_()

    def _run(self, call: Call, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        call = Call(call.node, call.operator, call.opset, call.attributes, inputs, call.outputs, call.wanted)
        try:
            outputs = OPERATORS[call.operator](self._torch, call)
        except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise call.error(f"torch cannot run this form of the operator ({first}); try gradients='own'") from error
        return tuple(outputs) if isinstance(outputs, tuple | list) else (outputs,)

    def _check(self, run: TorchForwardPass) -> None:
        """Raise ``NetworkError`` where an output is not onnxruntime's, for the first node whose value is not."""
        if not any(_differs(run.made[name], right) for name, right in run.outputs.items() if name in run.made):
            return
        for step in self._steps:
            for name in step.node.output:
                right = run.values.get(name)
                if name in run.made and right is not None and _differs(run.made[name], right):
                    path = f"{step.node.name} ({step.node.op_type})"
                    rule = "gradient: torch's value is not onnxruntime's, so its gradient is not to be trusted; try " \
                           "gradients='own'"
                    raise NetworkError(Problem(rule, path=path))


def open_pass(
    model: onnx.ModelProto, slots: Collection[Slot], gradients: Gradients = "own", threads: int = 0
) -> ReversePass:
    """What runs a model forward and back. Raises as ``check_gradients`` and ``ReversePass``."""
    check_gradients(gradients)
    return (TorchPass if gradients == "torch" else ReversePass)(model, slots, threads)


def check_gradients(gradients: str) -> None:
    """Raise ``ConfigurationError`` for a name that is none of ``GRADIENTS``, ``MissingPackageError`` without torch."""
    if gradients not in GRADIENTS:
        raise ConfigurationError(
            Problem("no such source of gradients", path="gradients", value=repr(gradients), allowed=GRADIENTS,
                    did_you_mean=closest(gradients, GRADIENTS))
        )
    if gradients == "torch":
        _torch()


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise MissingPackageError(
            Problem("is needed for gradients='torch': pip install 'bitmosaic[torch]'; gradients='own' needs no package",
                    path="package", value="torch")
        ) from error


def _differs(tensor: Tensor, right: Array) -> bool:
    found = tensor.detach().numpy()
    if found.shape != right.shape:
        return True
    finite = np.isfinite(right)
    largest = np.abs(right[finite], dtype=np.float64).max(initial=1e-3)
    distance = np.abs(np.subtract(found, right, dtype=np.float64)[finite]).max(initial=0.0)
    # Not "greater": a value of torch's that is not a number is another one, too.
    return not distance <= (_HALF_TOLERANCE if right.dtype == np.float16 else _TOLERANCE) * largest
