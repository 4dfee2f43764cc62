"""What a report shows, apart from how: points with their costs, layers, hardware, and the command for each.

Whatever stands at many points is kept once, and points refer to it by its place: layers, parts of machines,
descriptions of machines, and how far energies can be trusted. ``Shared`` gathers such things.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Generic, Literal, TypeVar

from pydantic import Field, model_validator

from simulator.layer import Frozen

Kind = Literal["exploration", "comparison", "sweep"]
KINDS: tuple[Kind, ...] = ("exploration", "comparison", "sweep")
Direction = Literal["min", "max"]
LayerKind = Literal["layer", "vector"]
H = TypeVar("H", bound=Hashable)


class Measure(Frozen):
    """A number that every point may have. ``direction``: which way is better; None where it is no objective.

    ``key`` is the name that the frames give the column, ``unit`` may be empty.
    """

    key: str = Field(min_length=1)
    label: str
    unit: str = ""
    direction: Direction | None = None


class Reference(Frozen):
    """A value of a measure to compare with: the accuracy in FP32."""

    measure: str
    value: float
    label: str


class Fact(Frozen):
    """What a report says of itself in a word: ``hardware``, ``bit_fusion``."""

    label: str
    text: str


class LayerEntry(Frozen):
    """A layer of a point, or all of its vector operations of one type (``kind``).

    Attributes:
        count: operations in the entry.
        precision: as a label; empty for vector operations.
        weight_bits, input_bits: of the formats; of a layer split by channels the mean over its channels.
        cycles: by ``Report.cycle_kinds``; they add up to what the layer takes.
        energy_pj: by ``Report.components``.
        pe_utilization_percent: useful products of those that grid and cycles would allow.
        gap_percent: proven limit of what another mapping could save.
        harm: rated, in the method's unit; ``inf`` where outputs were not finite; None where it was not rated.
        dram_bits: read and written; None in records of versions that did not write it down.
        peak_macs_per_cycle: of the whole grid at this precision; None where it is not known.
    """

    name: str
    kind: LayerKind
    count: int = 1
    precision: str = ""
    weight_bits: float | None = None
    input_bits: float | None = None
    tile: str = ""
    macs: int = 0
    cycles: tuple[int, ...]
    energy_pj: tuple[float, ...]
    pe_utilization_percent: float | None = None
    gap_percent: float | None = None
    status: str = ""
    mapping: str = ""
    harm: float | Literal["inf"] | None = None
    dram_bits: int | None = None
    peak_macs_per_cycle: float | None = None


class PartEntry(Frozen):
    """A part of a machine that takes room or leaks. None: not modelled; an area also where the part is off the chip."""

    name: str
    copies: int
    area_mm2: float | None
    leakage_mw: float | None


class Change(Frozen):
    """A value of a machine that differs from its base's; ``place``: keys and indices that lead to it."""

    place: tuple[str | int, ...]
    value: Any


class MachineEntry(Frozen):
    """A machine: ``Report.descriptions[base]`` with some values changed.

    Attributes:
        name: what results call it.
        file: name under which the page saves its description, for ``--hardware``.
        fields: what a sweep gives anew, by its places, as it was given.
        changes: all that differs from the base, what follows those fields too.
        area_mm2, leakage_mw: of what is on the chip; None where that of any part is not modelled.
        parts: places in ``Report.parts``.
    """

    name: str
    file: str
    base: int
    fields: dict[str, Any] = Field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    pe_count: int
    buffer_bits: int
    area_mm2: float | None
    leakage_mw: float | None
    bandwidth_bits_per_cycle: int
    parts: tuple[int, ...]


class Trust(Frozen):
    """How far the energies of a point can be trusted: component → confidence (empty: not stated), what is left out."""

    confidence: tuple[tuple[str, str], ...]
    not_modelled: tuple[str, ...] = ()


class ReportPoint(Frozen):
    """A point of a front.

    Attributes:
        id: short, unique in the report, and the same whenever the results are read again: it stands in links.
        group: what shares a colour and a marker.
        subject: points of one subject compare: same network, and where no accuracy tells precisions apart the same
            precision.
        origin: how it came to be, in words.
        chosen: whether the results themselves recommend it.
        status: ``done``; any other point has no values, and ``note`` says why.
        values: by ``Report.measures``; None: not known.
        energy_pj: by ``Report.components``.
        machine, trust: places in ``Report.machines`` and ``Report.trusts``; None: not known.
        layers: places in ``Report.layers``; empty where the results do not hold them.
        command: what makes the point again, layer by layer; empty where it is not known.
        assignment: the text of its assignment's file, and ``assignment_file`` its name; empty where there is none.
        note: what is not there, and why.
    """

    id: str = Field(min_length=1)
    label: str
    group: str = ""
    subject: str = ""
    origin: str = ""
    chosen: bool = False
    status: str = "done"
    values: tuple[float | None, ...]
    energy_pj: tuple[float, ...] = ()
    machine: int | None = None
    trust: int | None = None
    layers: tuple[int, ...] = ()
    command: str = ""
    assignment: str = ""
    assignment_file: str = ""
    note: str = ""


class Report(Frozen):
    """All that a page shows.

    Attributes:
        source: the folder that was read.
        made_by: version of Bitmosaic.
        group_name, subject_name: what groups and subjects are, in the words of the results: ``family``.
        facts, notes: about all points.
        x, y: keys of the measures that the front shows at first.
        subject: that is shown at first; empty: all.
        first: id of the point that is shown at first; empty: none.
        cycle_kinds, components: of cycles and energies, in their order.
    """

    kind: Kind
    title: str
    source: str
    made_by: str
    group_name: str
    subject_name: str
    facts: tuple[Fact, ...] = ()
    notes: tuple[str, ...] = ()
    measures: tuple[Measure, ...]
    references: tuple[Reference, ...] = ()
    x: str
    y: str
    subject: str = ""
    first: str = ""
    cycle_kinds: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    descriptions: tuple[dict[str, Any], ...] = ()
    parts: tuple[PartEntry, ...] = ()
    machines: tuple[MachineEntry, ...] = ()
    trusts: tuple[Trust, ...] = ()
    layers: tuple[LayerEntry, ...] = ()
    points: tuple[ReportPoint, ...]

    @model_validator(mode="after")
    def _check(self) -> Report:
        """Everything that is referred to is there, and values stand beside their names."""
        keys = [measure.key for measure in self.measures]
        if len(set(keys)) < len(keys) or not {self.x, self.y} <= set(keys):
            raise ValueError("measures have keys of their own, and x and y are among them")
        ids = [point.id for point in self.points]
        if len(set(ids)) < len(ids) or self.first not in {"", *ids}:
            raise ValueError("points have ids of their own, and first is one of them")
        for layer in self.layers:
            if (len(layer.cycles), len(layer.energy_pj)) != (len(self.cycle_kinds), len(self.components)):
                raise ValueError(f"layer {layer.name}: a number for each kind of cycle and each component")
        for point in self.points:
            if len(point.values) != len(keys) or len(point.energy_pj) not in (0, len(self.components)):
                raise ValueError(f"point {point.id}: a value for each measure and each component")
            places = [(point.machine, self.machines), (point.trust, self.trusts)]
            places += [(place, self.layers) for place in point.layers]
            if not all(place is None or 0 <= place < len(there) for place, there in places):
                raise ValueError(f"point {point.id} refers to what is not there")
        for machine in self.machines:
            if not (0 <= machine.base < len(self.descriptions)
                    and all(0 <= place < len(self.parts) for place in machine.parts)):
                raise ValueError(f"machine {machine.name} refers to what is not there")
        return self


class Shared(Generic[H]):
    """Things that many refer to: each is kept once, in the order of first sight.

    >>> words = Shared[str]()
    >>> words.places(["a", "b", "a"]), words.all
    ((0, 1, 0), ('a', 'b'))
    """

    def __init__(self) -> None:
        self._places: dict[H, int] = {}

    def place(self, thing: H) -> int:
        """Where a thing stands; it is added where it is new."""
        return self._places.setdefault(thing, len(self._places))

    def places(self, things: Iterable[H]) -> tuple[int, ...]:
        """``place`` of each."""
        return tuple(map(self.place, things))

    @property
    def all(self) -> tuple[H, ...]:
        """The things by their places."""
        return tuple(self._places)
