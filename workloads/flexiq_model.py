"""FlexiQ on a trained network: what its channels cost to lower, and its outputs with some of them lowered.

All trained layers run in 8 bits, symmetric: weights with one scale an output channel, activations with one a tensor,
from calibration data. Of each layer the input channels that a selection names are lowered to 4 bits
(``workloads.flexiq``).
Layers that read the same channels lower the same ones, since these have one order in memory (``channel_classes``).
Layers with groups of channels, and products of two activations, which stay in FP32 here, are never lowered.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from simulator.channel_split import ChannelSplit
from simulator.errors import NetworkError, Problem
from simulator.precision import LayerPrecision
from workloads.calibration import (
    ActivationSite,
    activation_sites,
    calibrate,
    can_batch,
    fitting_feeds,
    input_types,
    open_session,
    trained_model,
)
from workloads.channel_classes import channel_classes, reordered
from workloads.export_operands import at_opset
from workloads.fake_quantised_model import trained_weight
from workloads.flexiq import (
    WIDE_BITS,
    Extraction,
    Mask,
    Unit,
    channel_errors,
    channel_order,
    lowered,
    narrow_counts,
    shifts,
    units_of,
    unused_bits,
)
from workloads.flexiq_graph import CONSTANTS, HIGHEST, NARROW_HIGH, NARROW_LOW, lowering_nodes
from workloads.input_moments import recorded_runs
from workloads.network import Network
from workloads.quantisation import Quantised, activation_parameters, quantise
from workloads.quantised_graph import rewired, site_prefix, weight_name
from workloads.tasks.task import Feed, Run, batches, typed_feed

Lowered = Mapping[str, Mask]
"""Layer → which of its input channels are lowered; layers left out lower none."""


@dataclass(frozen=True)
class _LayerData:
    """What lowering a layer needs.

    Attributes:
        site: where its activations come in.
        input_axis, weight_axis: axes of the input channels, in tensors of the model; None where they are not lowered.
        channel_class: of the input channels; None where they are not lowered.
        weight: 8-bit codes with scales.
        scale: of the activations.
        weight_shifts, input_shifts: by channel; static.
    """

    site: ActivationSite
    input_axis: int | None
    weight_axis: int | None
    channel_class: int | None
    weight: Quantised
    scale: float
    weight_shifts: NDArray[np.int64]
    input_shifts: NDArray[np.int64]


class FlexiqSession:
    """One onnxruntime session for all selections of lowered channels.

    Args:
        network: with trained weights.
        feeds: calibration data: scales, static shifts, channel errors, and ``distance``.
        extraction: of activations' effective bits: ``static``, from the calibration data, or ``dynamic``, from each
            tensor (of one example at a time) as it comes.
        threads: of onnxruntime; 0 lets it choose.

    Attributes:
        classes: which channels go together.
        layers: trained layers that run in 8 bits, in the order of the network.
        lowerable: those whose channels may be lowered.

    Raises ``NetworkError`` where the model cannot be instrumented or run, or the data do not fit it or are missing.
    """

    def __init__(
        self, network: Network, feeds: Sequence[Feed], *, extraction: Extraction = "static", threads: int = 0
    ) -> None:
        if extraction not in ("static", "dynamic"):
            raise NetworkError(Problem("no such extraction of effective bits", path="extraction",
                                       value=repr(extraction), allowed=("static", "dynamic")))
        self.network = network
        feeds = fitting_feeds(network, feeds, f"{network.name}: calibration data")
        self._types = input_types(trained_model(network))
        self.classes = channel_classes(network)
        self._one_by_one = bool(feeds) and not can_batch(network, feeds[0], threads)
        self._feeds = tuple(one for feed in feeds for one in batches(feed, 1)) if self._one_by_one else feeds
        self._dynamic = extraction == "dynamic"
        self._threads = threads
        ranges = calibrate(network, self._feeds, threads=threads)
        self._data: dict[str, _LayerData] = {}
        self._errors: dict[str, tuple[NDArray[np.float64], float]] = {}
        self._prepare({site.layer: site for site in activation_sites(network) if site.operand == "input"},
                      {tensor: max(-span.low, span.high) for tensor, span in ranges.items()})
        self.layers = tuple(self._data)
        self.lowerable = tuple(name for name, data in self._data.items() if data.channel_class is not None)
        self._session = open_session(self._model(), threads)
        self._reference: list[list[NDArray[Any]]] | None = None

    def _prepare(self, sites: Mapping[str, ActivationSite], bounds: Mapping[str, float]) -> None:
        """Quantise all layers; then measure their channels on the calibration data: first the shifts, then errors."""
        for layer in self.network.trained_layers:
            binding, site = self.network.bindings[layer.name], sites.get(layer.name)
            weight = trained_weight(self.network, layer.name)
            if weight is None or site is None:
                continue
            codes = quantise(weight, f"int{WIDE_BITS}", channel_axes=binding.weight_channel_axes, group=-1)
            found = self.classes.of_layer(self.network, layer.name)
            axes = [[axis for axis, loops in enumerate(side) if any(loop.startswith("C") for loop in loops)]
                    for side in (binding.weight_loops, binding.input_loops)]
            if any(len(axis) != 1 for axis in axes):
                found = None
            weight_axis, input_axis = (None, None) if found is None else (axes[0][0], axes[1][0])
            bound = bounds[site.tensor]
            scale = activation_parameters(-bound, bound, f"int{WIDE_BITS}", "symmetric").scale
            by = np.zeros(0, np.int64) if weight_axis is None else shifts(unused_bits(codes.codes, weight_axis))
            self._data[layer.name] = _LayerData(site, input_axis, weight_axis, found, codes, scale, by, by)
        lowerable = {name: data for name, data in self._data.items() if data.channel_class is not None}
        tensors = tuple(dict.fromkeys(data.site.tensor for data in lowerable.values()))
        least: dict[str, NDArray[np.int64]] = {}
        for values in recorded_runs(self.network, self._feeds, tensors, self._threads):
            for name, data in lowerable.items():
                assert data.input_axis is not None
                unused = unused_bits(_wide_codes(values[data.site.tensor], data.scale), data.input_axis)
                least[name] = np.minimum(least.get(name, unused), unused)
        for name in lowerable:
            self._data[name] = _with_input_shifts(self._data[name], shifts(least[name]))
        self._measure_errors(tensors, tuple(lowerable))

    def _measure_errors(self, tensors: tuple[str, ...], names: tuple[str, ...]) -> None:
        errors: dict[str, NDArray[np.float64]] = {}
        energies: dict[str, float] = {}
        count = 0
        for values in recorded_runs(self.network, self._feeds, tensors, self._threads):
            count += 1
            for name in names:
                data = self._data[name]
                assert data.input_axis is not None and data.weight_axis is not None
                codes = _wide_codes(values[data.site.tensor], data.scale)
                by = shifts(unused_bits(codes, data.input_axis)) if self._dynamic else data.input_shifts
                inputs, narrow = (
                    np.moveaxis(part * data.scale, data.input_axis, 0)[None]
                    for part in (codes, lowered(codes, by, data.input_axis)[1])
                )
                weights, narrow_weights = (
                    np.moveaxis(part.astype(np.float64), data.weight_axis, 0)
                    for part in (data.weight.values, self._lowered_weight(name)[1])
                )
                found = channel_errors(inputs, narrow, weights, narrow_weights)
                errors[name] = errors[name] + found if name in errors else found
                # Nothing lowered against nothing kept: what the sums of all channels are worth.
                whole = channel_errors(inputs, inputs * 0, weights, weights)
                energies[name] = energies.get(name, 0.0) + float(whole.sum())
        self._errors = {name: (errors[name] / count, energies[name] / count) for name in names}

    @property
    def feeds(self) -> tuple[Feed, ...]:
        """The calibration data, one example each where the network takes no batches."""
        return self._feeds

    def errors(self, layer: str, *, relative: bool = False) -> NDArray[np.float64]:
        """Error of lowering each input channel of a layer, on the calibration data: float64 [channels].

        In squares of the layer's outputs, summed over output channels and places; ``relative`` divides by the sum of
        all channels' own squares, which makes layers comparable. Raises ``NetworkError`` for a layer not lowered.
        """
        if layer not in self._errors:
            raise NetworkError(Problem("has no channels that can be lowered", where=self.network.name, path=layer,
                                       allowed=self.lowerable))
        found, energy = self._errors[layer]
        return found / energy if relative and energy else found

    def units(
        self, width: int = 1, *, gains: Mapping[str, float] | None = None, relative: bool = True
    ) -> tuple[Unit, ...]:
        """What can be lowered, in groups of ``width`` channels (docs/quantisers.md says how wide a machine asks for).

        ``gains``: time that a layer saves as a whole, by name; None: its multiplications. ``relative``: errors of each
        layer in shares of its outputs; else as they are.
        """
        readers: dict[int, list[str]] = {}
        for name in self.lowerable:
            index = self._data[name].channel_class
            assert index is not None
            readers.setdefault(index, []).append(name)
        found: list[Unit] = []
        for index, names in readers.items():
            errors = np.sum([self.errors(name, relative=relative) for name in names], axis=0)
            gain = sum(self._gain(name) if gains is None else gains[name] for name in names)
            found += units_of(index, errors, max(gain, np.finfo(np.float64).tiny) / len(errors), width,
                              movable=index not in self.classes.pinned, readers=len(names))
        return tuple(found)

    def _gain(self, name: str) -> float:
        macs: int = self.network.graph.nodes[name]["op"].macs
        return float(macs)

    def lowered_channels(self, units: Sequence[Unit], mask: Mask) -> dict[str, Mask]:
        """Masks of channels of all layers, from one of units."""
        narrow: dict[int, list[int]] = {}
        for unit, is_narrow in zip(units, mask, strict=True):
            if is_narrow:
                narrow.setdefault(unit.channel_class, []).extend(unit.channels)
        masks = {}
        for name in self.lowerable:
            index = self._data[name].channel_class
            assert index is not None
            own = np.zeros(self.classes.extents[index], bool)
            own[narrow.get(index, [])] = True
            masks[name] = own
        return masks

    def precisions(self, units: Sequence[Unit], mask: Mask) -> dict[str, LayerPrecision]:
        """What the simulator runs for a selection: ``w8a8`` with the first channels of each layer in ``w4a4``."""
        counts = narrow_counts(units, mask)
        wide = LayerPrecision.parse(f"w{WIDE_BITS}a{WIDE_BITS}")
        found = {}
        for name, data in self._data.items():
            count = counts.get(data.channel_class, 0) if data.channel_class is not None else 0
            share = count / self.classes.extents[data.channel_class] if data.channel_class is not None else 0.0
            found[name] = wide.model_copy(update={"split": ChannelSplit(share=share)}) if count else wide
        return found

    def reordered(self, units: Sequence[Unit], masks: Sequence[Mask]) -> Network:
        """The network with its channels in the order in which nested masks lower them; it computes the same."""
        orders = {index: order for index, order in channel_order(units, masks).items()
                  if index not in self.classes.pinned}
        return reordered(self.network, orders, self.classes)

    def check(self, channels: Lowered) -> None:
        """Raise ``NetworkError`` for masks that do not fit."""
        problems = [
            Problem("must mark each input channel of a layer that can be lowered", where=self.network.name, path=name,
                    value=f"shape {np.shape(mask)}", allowed=self.lowerable)
            for name, mask in channels.items()
            if name not in self.lowerable or np.shape(mask) != self._data[name].input_shifts.shape
        ]
        if problems:
            raise NetworkError(problems)

    def runner(self, channels: Lowered) -> Run:
        """What runs the network with channels lowered: feed → outputs. Raises ``NetworkError`` for wrong masks.

        Numbers of another width become those of the network's inputs.
        """
        self.check(channels)
        arrays: dict[str, NDArray[Any]] = {}
        for name, data in self._data.items():
            own = channels.get(name, np.zeros(data.input_shifts.shape, bool))
            arrays |= self._arrays(name, data, own)

        def run(feed: Feed) -> list[NDArray[Any]]:
            feed = typed_feed(feed, self._types, f"{self.network.name}: data")
            parts = [self._session.run(None, {**arrays, **part})
                     for part in (batches(feed, 1) if self._one_by_one else [feed])]
            return [np.concatenate(outputs) if len(parts) > 1 else outputs[0] for outputs in zip(*parts, strict=True)]

        return run

    def distance(self, channels: Lowered) -> float:
        """Mean squared difference of all float outputs to the 8-bit network's, on the calibration data."""
        if self._reference is None:
            wide = self.runner({})
            self._reference = [wide(feed) for feed in self._feeds]
        run, total, count = self.runner(channels), 0.0, 0
        for feed, expected in zip(self._feeds, self._reference, strict=True):
            for output, right in zip(run(feed), expected, strict=True):
                if np.issubdtype(right.dtype, np.floating):
                    total += float(np.square((output - right).astype(np.float64)).sum())
                    count += right.size
        error = total / max(count, 1)
        return error if np.isfinite(error) else float("inf")

    def weight(self, layer: str, narrow: Mask) -> Quantised:
        """A layer's weights in 8 bits, the input channels of a mask lowered: codes, and the values they stand for."""
        data = self._data[layer]
        if data.weight_axis is None or not narrow.any():
            return data.weight
        place = narrow.reshape([-1 if axis == data.weight_axis else 1 for axis in range(data.weight.values.ndim)])
        codes, values = self._lowered_weight(layer)
        return replace(data.weight, codes=np.where(place, codes, data.weight.codes),
                       values=np.where(place, values, data.weight.values))

    def _lowered_weight(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Codes and values of weights with all input channels lowered."""
        data = self._data[name]
        assert data.weight_axis is not None
        codes = lowered(data.weight.codes, data.weight_shifts, data.weight_axis)[1]
        axes = self.network.bindings[name].weight_channel_axes
        return codes, _scaled(codes, data.weight.scale, axes)

    def _arrays(self, name: str, data: _LayerData, narrow: Mask) -> dict[str, NDArray[Any]]:
        kind = trained_weight(self.network, name)
        assert kind is not None
        weight = np.ascontiguousarray(self.weight(name, narrow).values.astype(kind.dtype))
        return {weight_name(name): weight, **self.vectors(name, narrow)}

    def vectors(self, layer: str, narrow: Mask) -> dict[str, NDArray[np.float32]]:
        """The vectors that ``flexiq_graph.lowering_nodes`` read, by name; none for a layer that cannot be lowered."""
        data = self._data[layer]
        if data.input_axis is None:
            return {}
        named = {"low": np.where(narrow, NARROW_LOW, -HIGHEST), "high": np.where(narrow, NARROW_HIGH, HIGHEST)}
        if self._dynamic:
            named["narrow"] = narrow
        else:
            named["step"] = np.where(narrow, 1 << data.input_shifts, 1)
        # One value a channel, broadcast along the tensor's other axes.
        shape = [-1 if axis == data.input_axis else 1 for axis in range(self._rank(layer))]
        prefix = site_prefix(data.site)
        return {prefix + key: value.astype(np.float32).reshape(shape) for key, value in named.items()}

    def _rank(self, layer: str) -> int:
        return len(self.network.bindings[layer].input_loops)

    def graph(self, lowering: Collection[str], opset: int = 0) -> onnx.ModelProto:
        """The model with all layers in 8 bits, and the activations of ``lowering`` lowered.

        It reads each layer's ``weight_name`` and ``vectors``, which are left to be added. ``opset``: what a model of an
        older one is brought to; raises ``NetworkError`` where that cannot be done, and as ``rewired`` does.
        """
        network = at_opset(self.network, opset)
        version = next(
            entry.version for entry in trained_model(network).opset_import if entry.domain in ("", "ai.onnx")
        )
        kind: Extraction = "dynamic" if self._dynamic else "static"
        model = rewired(network, self.layers, {
            data.site: lowering_nodes(
                data.site, kind if name in lowering else "none", data.input_axis, self._rank(name), version
            ) for name, data in self._data.items()
        })
        scales = {site_prefix(data.site) + "scale": np.array(data.scale, np.float32) for data in self._data.values()}
        used = {tensor for node in model.graph.node for tensor in node.input}
        model.graph.initializer.extend(
            numpy_helper.from_array(array, key) for key, array in {**CONSTANTS, **scales}.items() if key in used
        )
        return model

    def _model(self) -> onnx.ModelProto:
        """The model of the session: what selections change are inputs."""
        model = self.graph(self.lowerable)
        for name, data in self._data.items():
            for key, array in self._arrays(name, data, np.zeros(data.input_shifts.shape, bool)).items():
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                model.graph.input.append(helper.make_tensor_value_info(key, kind, array.shape))
        return model


def _wide_codes(values: NDArray[Any], scale: float) -> NDArray[np.int64]:
    codes = np.clip(np.rint(np.asarray(values, np.float32) / np.float32(scale)), -HIGHEST, HIGHEST)
    return np.asarray(codes, dtype=np.int64)


def _with_input_shifts(data: _LayerData, by: NDArray[np.int64]) -> _LayerData:
    return _LayerData(data.site, data.input_axis, data.weight_axis, data.channel_class, data.weight, data.scale,
                      data.weight_shifts, by)


def _scaled(codes: NDArray[np.int64], scale: NDArray[np.float32], channel_axes: tuple[int, ...]) -> NDArray[np.float32]:
    """Codes times the scale of their output channel."""
    front = np.moveaxis(codes, channel_axes, range(len(channel_axes))).astype(np.float32)
    by_channel = scale.reshape(*front.shape[: len(channel_axes)], *(1,) * (codes.ndim - len(channel_axes)))
    return np.moveaxis(front * by_channel, range(len(channel_axes)), channel_axes)
