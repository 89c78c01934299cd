"""The records of a sensitivity analysis: what each layer costs when it is quantised alone, and when it alone is not."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from qtool.core.numerics.sqnr import loudness
from qtool.core.records.codec import Real, called, decoded
from qtool.core.records.evaluation import MetricInfo, MetricKind
from qtool.core.records.header import document, without_header
from qtool.core.records.summary import shortened, summary
from qtool.core.text import amount

_READ = (1, 2)
"""The versions of the document that a run goes on from."""
View = Literal["alone", "without"]
VIEWS: tuple[View, ...] = ("alone", "without")


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures that were measured on one model as executed.

    value: of the metric, None where there is none. drop: how much worse than float, None for metrics that compare with
    float. sqnr_db: of the worst output, against float; None where none can be measured.
    """

    value: Real | None
    drop: Real | None
    sqnr_db: Real | None


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """The sensitivity of one layer: the figures with it alone quantised, and with all quantised but it.

    name: of its node. op: its operator. macs: multiply-accumulates of one batch; share: of the network's, 0 to 1; None
    where unknown.
    alone: it alone quantised, with what fuses into it. without: all quantised but it.
    unmeasured: view -> why there are no figures.
    """

    name: str
    op: str
    macs: int | None
    share: float | None = field(metadata=called("macs_share"))
    alone: Figures | None
    without: Figures | None
    unmeasured: dict[str, str]

    def figures(self, view: View) -> Figures | None:
        """Return the figures of one view."""
        return self.alone if view == "alone" else self.without


@dataclass(frozen=True, slots=True)
class HeadSensitivity:
    """The sensitivity of a head, all of it at once: the figures are as those of a layer.

    name: what it is called. outputs: of the graph, by name. layers: that the plan quantises of it, by name. macs,
    share: of these. alone: all of it quantised, and nothing else. without: all quantised but it. unmeasured: view ->
    why there are no figures. exclude: what to exclude, by name, to leave it in float.
    """

    name: str
    outputs: tuple[str, ...]
    layers: tuple[str, ...]
    macs: int | None
    share: float | None = field(metadata=called("macs_share"))
    alone: Figures | None
    without: Figures | None
    unmeasured: dict[str, str]
    exclude: tuple[str, ...]

    def figures(self, view: View) -> Figures | None:
        """Return the figures of one view."""
        return self.alone if view == "alone" else self.without


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Layers, the most sensitive first, and heads of several layers in the same order.

    model: its path. data: its name. samples: how many were run. metric: that was measured; None for SQNR alone.
    calibrator: of the plan. bias_correction: whether the plan has it. target, scheme, granularity: of the plan. views:
    what was measured. layers: the most sensitive first. heads: likewise. complete: whether all were measured.
    identity: what the figures belong to; a run goes on from a file only where all of it is the same.
    quantized: all layers quantised. float_value: the metric of the float model.
    unranked: layer that the plan leaves in float -> why, such as a recurrent one without an integer kernel.
    """

    SCHEMA: ClassVar[tuple[str, int]] = ("sensitivity", 2)

    model: str
    data: str
    samples: int
    metric: MetricInfo | None
    calibrator: str
    bias_correction: bool
    target: str
    scheme: str
    granularity: str
    views: tuple[View, ...]
    identity: dict[str, str]
    float_value: Real | None
    quantized: Figures
    layers: tuple[LayerSensitivity, ...]
    unranked: dict[str, str] = field(default_factory=dict)
    complete: bool = True
    heads: tuple[HeadSensitivity, ...] = ()

    def __repr__(self) -> str:
        return summary(
            "Sensitivity",
            shortened(self.model),
            f"{amount(self.samples, 'sample')} of {shortened(self.data)}",
            "SQNR" if self.metric is None else f"metric {shortened(self.metric.name)}",
            amount(len(self.layers), "layer"),
            f"most sensitive {shortened(self.layers[0].name)!r}" if self.layers else "",
            "" if self.complete else "unfinished",
        )

    def ranking(self, view: View) -> tuple[str, ...]:
        """Return the layers' names, the most sensitive in this view first."""
        return tuple(layer.name for layer in ranked(self.layers, view, self.metric))

    def to_dict(self) -> dict[str, Any]:
        """Return the sensitivity of the layers as strict JSON; docs/json.md has its keys."""
        return document(self)


@dataclass(frozen=True, slots=True)
class Finished:
    """The part of a sensitivity document that a run goes on from; the fields are those of `Sensitivity`."""

    identity: dict[str, str]
    layers: tuple[LayerSensitivity, ...]
    heads: tuple[HeadSensitivity, ...]


def read_finished(parsed: Any) -> Finished:
    """Return what a run goes on from, of a document that `Sensitivity.to_dict` made.

    Raises:
        ValueError: it is another kind of document, or another version.
    """
    version, content = without_header(parsed, "sensitivity")
    if version not in _READ:
        raise ValueError("another kind of document, or another version")
    # older files have no heads
    return decoded(Finished, {"heads": []} | {key: content[key] for key in _GONE_ON_FROM if key in content})


_GONE_ON_FROM = ("identity", "layers", "heads")
_Row = TypeVar("_Row", LayerSensitivity, HeadSensitivity)


def ranked(layers: tuple[_Row, ...], view: View, metric: MetricInfo | None) -> tuple[_Row, ...]:
    """Return the layers, or heads, the most sensitive first: by the metric, then by SQNR, then in the order given.

    Unmeasured ones come last. Alone, the worse the figures the more sensitive the layer is; left out, the better they
    are.
    """
    sign = 1.0 if view == "alone" else -1.0

    def key(layer: _Row) -> tuple[bool, float, float]:
        found = layer.figures(view)
        if found is None:
            return True, 0.0, 0.0
        sqnr = 0.0 if found.sqnr_db is None else loudness(found.sqnr_db)
        return False, -sign * _badness(found, metric), sign * sqnr

    return tuple(sorted(layers, key=key))


def _badness(found: Figures, metric: MetricInfo | None) -> float:
    if metric is None or found.value is None:
        return 0.0
    if metric.kind is MetricKind.ACCURACY:
        bad = math.nan if found.drop is None else found.drop
    else:
        bad = found.value if metric.lower_is_better else -found.value
    return math.inf if math.isnan(bad) else bad
