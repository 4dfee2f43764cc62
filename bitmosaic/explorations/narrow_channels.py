"""Which input channels FlexiQ runs in 4 bits: a channel order for each layer, and how many of it are narrow.

It stands in an assignment's file beside the precisions, which say how many channels are narrow but not which::

    flexiq:
      activations: symmetric
      extraction: static
      ratios: [0.25, 0.5, 0.75, 1.0]
      layers:
        conv2:
          max_4bit_ch: 2
          at_ratios: [2, 4, 4, 4]
          order: [3, 0, 1, 2]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, model_validator

from bitmosaic.explorations.records import PointRecord, SelectionRecord
from bitmosaic.explorations.store import RecordFile
from simulator.layer import Frozen
from simulator.precision import LayerPrecision
from workloads.flexiq import Extraction
from workloads.network import Network


class LayerChannels(Frozen):
    """The input channels of a layer; those in 4 bits are the first ``max_4bit_ch`` of ``order``.

    Attributes:
        max_4bit_ch: how many are narrow in this assignment.
        at_ratios: how many are at each of the selection's ratios; empty where that is not told.
        order: all of them by their numbers in the network, those that are narrow at the lowest ratio first.
    """

    max_4bit_ch: int = Field(ge=0)
    at_ratios: tuple[int, ...] = ()
    order: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> LayerChannels:
        if sorted(self.order) != list(range(len(self.order))):
            raise ValueError("order: must hold every channel from 0 on once")
        if max((self.max_4bit_ch, *self.at_ratios)) > len(self.order):
            raise ValueError(f"max_4bit_ch, at_ratios: the layer has {len(self.order)} channels")
        if list(self.at_ratios) != sorted(self.at_ratios) or min(self.at_ratios, default=0) < 0:
            raise ValueError("at_ratios: must ascend")
        return self

    @property
    def narrow(self) -> tuple[int, ...]:
        """Numbers of the channels in 4 bits."""
        return self.order[: self.max_4bit_ch]


class NarrowChannels(Frozen):
    """What FlexiQ's networks are measured with, beside the precisions of their layers.

    Attributes:
        activations: they have no zero point.
        extraction: of effective bits of activations: ``static``, from the calibration data, or ``dynamic``, from each
            example's tensor.
        ratios: shares of all input channels for which channels were selected, ascending.
        layers: those whose channels can be lowered; empty where none is.
    """

    activations: Literal["symmetric"] = "symmetric"
    extraction: Extraction = "static"
    ratios: tuple[float, ...] = ()
    layers: dict[str, LayerChannels] = Field(default_factory=dict)

    def mistakes(
        self, network: Network, precisions: Mapping[str, LayerPrecision]
    ) -> Iterator[tuple[tuple[str, ...], str]]:
        """What does not go with a network and the precisions beside it: place below ``flexiq``, and the rule."""
        known = {layer.name: layer for layer in network.layers}
        for name, own in self.layers.items():
            layer = known.get(name)
            if layer is None:
                yield ("layers", name), f"{network.name} has no such layer"
                continue
            if len(own.order) != layer.extent("C"):
                yield ("layers", name, "order"), f"must hold the {layer.extent('C')} input channels of the layer"
                continue
            split = precisions[name].split if name in precisions else None
            count = 0 if split is None else split.channels(layer)
            if own.max_4bit_ch != count:
                yield ("layers", name, "max_4bit_ch"), f"must be {count}, as the layer's precision says"
        for name, precision in precisions.items():
            if name in known and precision.split is not None and name not in self.layers:
                yield ("layers",), f"must say which channels of {name} are narrow: its precision is {precision.label}"


def channels_of(record: PointRecord, selections: RecordFile[SelectionRecord]) -> NarrowChannels | None:
    """The channels of a point that FlexiQ proposed; None for others, and in folders where they are not recorded."""
    selection = None if record.selection is None else selections.get(record.selection)
    if selection is None or selection.extraction is None or record.origin_value not in selection.ratios:
        return None
    place = selection.ratios.index(record.origin_value)
    layers = {}
    for name in selection.narrow[-1]:
        tiers = [narrow.get(name, ()) for narrow in selection.narrow]
        order = tuple(dict.fromkeys(channel for tier in tiers for channel in tier))
        counts = tuple(map(len, tiers))
        layers[name] = LayerChannels(max_4bit_ch=counts[place], at_ratios=counts, order=order)
    return NarrowChannels(extraction=selection.extraction, ratios=selection.ratios, layers=layers)
