"""The places where Q/DQ go, before any number is known: the result of `place`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from qtool.core.numerics.affine import TensorSpec

Reader = tuple[str, int]
"""(node name, input index)."""
NEEDS_RANGES = "its integer kernel needs calibrated ranges"
"""Why a layer stays float in a form that has none."""


@dataclass(frozen=True, slots=True)
class Site:
    """An activation that is quantised.

    tensor: its name in the prepared graph.
    root: the tensor whose range it takes; its own name, or that of the tensor it is passed through from.
    union: the tensors whose ranges together are its range (a concatenation), instead of its own statistics.
    bounds: of the Clip or Relu that the grid must absorb, or None.
    readers: inputs that read it through DQ.
    float_readers: inputs of layers that must stay float; they read it through a DQ of their own, which onnxruntime
        does not match because its scale is a vector.
    twin_axis, twin_size: the axis and length of that vector; None without float readers.
    produced: an integer kernel makes it, so that everyone, graph outputs too, reads it through DQ.
    origins: the tensors that it is passed through from, the nearest first: they hold its numbers, and more.
    barred_readers: inputs of other nodes that must stay float; a barrier stands between the DQ and them.
    barred: the node that makes it must stay float, and passes on its numbers: the scale of the Q is a vector as a
        twin's, or, where `twin_axis` is None, a barrier stands in front of it.
    """

    tensor: str
    root: str
    spec: TensorSpec
    bounds: tuple[float, float] | None
    readers: tuple[Reader, ...]
    float_readers: tuple[Reader, ...]
    twin_axis: int | None
    twin_size: int | None
    produced: bool
    union: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    barred_readers: tuple[Reader, ...] = ()
    barred: bool = False


@dataclass(frozen=True, slots=True)
class ConstantSite:
    """A constant operand of an elementwise layer, quantised like an activation from its own minimum and maximum."""

    tensor: str
    spec: TensorSpec
    readers: tuple[Reader, ...]


@dataclass(frozen=True, slots=True)
class WeightSite:
    """A weight: quantised once for all its readers. `axis` is that of the output channels; None: per tensor."""

    tensor: str
    axis: int | None
    readers: tuple[Reader, ...]


@dataclass(frozen=True, slots=True)
class BiasSite:
    """A bias: its scale is derived from the input's and the weight's."""

    tensor: str
    input: str
    weight: str
    reader: Reader


@dataclass(frozen=True, slots=True)
class Placement:
    """Everything that `place` decides.

    integer: node -> the kernels that it may become.
    layers: the weighted nodes, quantised or not, in graph order; those inside of If, Loop and Scan too.
    skipped: node -> why it stays float (nodes that the target could run as integers otherwise).
    float_biases: biases that the target keeps in float; onnxruntime's CPU kernels, which prove the model, round them
        to the same scale, and they must fit.
    dynamic: weights of layers that quantise their input anew in each run.
    stored: weights that are stored as integers, while the input of the layer stays float.
    """

    sites: tuple[Site, ...]
    constants: tuple[ConstantSite, ...]
    weights: tuple[WeightSite, ...]
    biases: tuple[BiasSite, ...]
    integer: dict[str, tuple[str, ...]]
    layers: tuple[str, ...]
    skipped: dict[str, str]
    float_biases: tuple[BiasSite, ...] = ()
    dynamic: tuple[WeightSite, ...] = ()
    stored: tuple[WeightSite, ...] = ()

    @property
    def calibrated(self) -> tuple[str, ...]:
        """The tensors whose statistics are needed, in graph order."""
        return tuple(dict.fromkeys(site.root for site in self.sites))


def joined(placements: Sequence[Placement], skipped: Mapping[str, str]) -> Placement:
    """Return the placements of a model and of the bodies in it as one; the first is the model's.

    A weight that several of them quantise along one axis has one grid, and so has another constant. `skipped`: what
    stays float besides, and why.
    """
    first = placements[0]
    integer = {layer: kernels for one in placements for layer, kernels in one.integer.items()}
    return Placement(
        sites=tuple(site for one in placements for site in one.sites),
        constants=_shared_constants(site for one in placements for site in one.constants),
        weights=_shared(site for one in placements for site in one.weights),
        biases=tuple(site for one in placements for site in one.biases),
        integer=integer,
        layers=first.layers,
        skipped={layer: why for one in placements for layer, why in one.skipped.items()} | dict(skipped),
        float_biases=tuple(site for one in placements for site in one.float_biases),
        dynamic=_shared(site for one in placements for site in one.dynamic),
        stored=_shared(site for one in placements for site in one.stored),
    )


def _shared_constants(sites: Iterable[ConstantSite]) -> tuple[ConstantSite, ...]:
    readers: dict[tuple[str, TensorSpec], tuple[Reader, ...]] = {}
    for site in sites:
        key = (site.tensor, site.spec)
        readers[key] = readers.get(key, ()) + site.readers
    return tuple(ConstantSite(tensor, spec, found) for (tensor, spec), found in readers.items())


def _shared(sites: Iterable[WeightSite]) -> tuple[WeightSite, ...]:
    readers: dict[tuple[str, int | None], tuple[Reader, ...]] = {}
    for site in sites:
        key = (site.tensor, site.axis)
        readers[key] = readers.get(key, ()) + site.readers
    return tuple(WeightSite(tensor, axis, found) for (tensor, axis), found in readers.items())


@dataclass(frozen=True, slots=True)
class Amendment:
    """The exceptions from the target's table for one graph, since onnxruntime was seen not to run it so.

    closed: layers, by name, whose output is quantised for their kernel. dynamic: layers that take the range of each run
    instead. floating: node -> why it stays float.
    """

    closed: frozenset[str] = frozenset()
    dynamic: frozenset[str] = frozenset()
    floating: Mapping[str, str] = field(default_factory=dict)

    def leaving(self, layers: Mapping[str, str]) -> "Amendment":
        """Return an amendment with these layers (name -> why) in float as well."""
        names = frozenset(layers)
        return Amendment(self.closed - names, self.dynamic - names, {**self.floating, **layers})

    def closing(self, layer: str) -> "Amendment":
        """Return an amendment with the output of one more layer quantised."""
        return replace(self, closed=self.closed | {layer})

    def turning_dynamic(self, layer: str) -> "Amendment":
        """Return an amendment with one more layer dynamic."""
        return replace(self, closed=self.closed - {layer}, dynamic=self.dynamic | {layer})


NOTHING_AMENDED = Amendment()
