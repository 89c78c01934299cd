"""The figures that several documents have of one model: each is shown from one of them, which is named."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qtool.core.text import amount, rounded
from qtool.report.html.documents import Document, of_kind
from qtool.report.html.figures import real

Content = Mapping[str, Any]
Spread = tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """The speed of a model beside float.

    document: it comes from. exact, own: medians of one run of float and of the model, ms. speedup: the former over the
    latter. spreads: 10th and 90th percentile of each. noisy: whether it says nothing. how: it was measured, in words.
    """

    document: Document
    exact: float
    own: float
    speedup: float
    spreads: tuple[Spread, Spread]
    noisy: bool
    how: str

    @property
    def words(self) -> str:
        """The ratio to float, in words."""
        if self.noisy:
            return f"too noisy to say which is faster (about {self.speedup:.2g}x)"
        return (
            f"{self.speedup:.2f}x as fast as float" if self.speedup >= 1 else f"SLOWER than float: {self.speedup:.2f}x"
        )

    @property
    def source(self) -> str:
        """The medians that the ratio is of, where they come from, and their spread."""
        parts = [f"float {_ms(self.exact)} over {_ms(self.own)} ms, {self.how}"]
        if all(self.spreads):
            ends = (f"{_ms(low)} to {_ms(high)}" for low, high in filter(None, self.spreads))
            parts.append(f"p10 to p90: float {', int8 '.join(ends)}")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class MeasuredNoise:
    """The SQNR of a model's outputs, dB; None where no number is measured. document: it comes from. on: what data."""

    document: Document
    db: float | None
    on: str


def speed_of(documents: Sequence[Document], model: str | None = None) -> MeasuredSpeed | None:
    """Return how fast a model is: what was timed for that comes first, then what was timed on the way.

    model: the name of its file; None: of the first model that was timed.
    """
    for name, found in _speeds(documents):
        if model is None or name == Path(model).name:
            return found
    return None


def noise_of(documents: Sequence[Document], model: str | None = None) -> MeasuredNoise | None:
    """Return the SQNR of a model's outputs: on data that evaluates, else on examples, else on what was inspected.

    model: the name of its file; None: of the first model that was measured.
    """
    for name, found in _noises(documents):
        if model is None or name == Path(model).name:
            return found
    return None


def models_of(documents: Sequence[Document]) -> tuple[str, ...]:
    """Return the names of the files of the int8 models that documents speak of, each once."""
    written = [one.of for one in of_kind(documents, "quantize", "tune", "finetune")]
    judged = [model["name"] for one in of_kind(documents, "evaluation") for model in one.content["candidates"]]
    seen = [one.of for one in of_kind(documents, "inspect") if one.content["kind"] != "float"]
    return tuple(dict.fromkeys((*judged, *written, *seen)))


def of_model(documents: Sequence[Document], model: str) -> list[Document]:
    """Return what documents say of one int8 model, and of none: evaluations without the others."""
    found = []
    for one in documents:
        if one.kind == "evaluation":
            own = [row for row in one.content["candidates"] if row["name"] == model]
            found += [replace(one, content={**one.content, "candidates": own})] if own else []
        elif one.of == model or one.kind not in ("quantize", "tune", "finetune", "inspect"):
            found.append(one)
    return found


def samples_of(proof: Content) -> str:
    """Return what a verification measured on, in words."""
    return amount(proof["examples"], "calibration sample")


def _evaluated(documents: Sequence[Document], kind: str) -> Iterator[tuple[Document, Content]]:
    for one in of_kind(documents, kind):
        yield one, one.content if kind == "evaluation" else one.content["evaluation"]


def _speeds(documents: Sequence[Document]) -> Iterator[tuple[str, MeasuredSpeed]]:
    for one, content in _evaluated(documents, "evaluation"):
        yield from _compared(one, content)
    for one in of_kind(documents, "quantize", "finetune"):
        timing = one.content.get("timing") or {}
        exact, own, speedup = (real(timing.get(key)) for key in ("float_ms", "int8_ms", "speedup"))
        if exact is not None and own is not None and speedup is not None:
            spreads = (_spread(timing.get("float_spread_ms")), _spread(timing.get("int8_spread_ms")))
            how = f"medians of {amount(timing['rounds'], 'round')} of qtool {one.kind}"
            yield one.of, MeasuredSpeed(one, exact, own, speedup, spreads, bool(timing.get("noisy")), how)
    for one, content in _evaluated(documents, "tune"):
        yield from _compared(one, content)
    for one in of_kind(documents, "inspect"):
        speed = one.content["speed"]
        if speed and real(speed["speedup"]) is not None:
            (exact, *first), (own, *second) = speed["float_ms"], speed["ms"]
            how = f"medians of {amount(speed['rounds'], 'round')} of qtool inspect"
            spreads = (_spread(first), _spread(second))
            yield one.of, MeasuredSpeed(one, exact, own, speed["speedup"], spreads, speed["noisy"], how)


def _compared(document: Document, content: Content) -> Iterator[tuple[str, MeasuredSpeed]]:
    exact, setup = content["float_model"]["latency"], content["latency"]
    for model in content["candidates"]:
        own = model["latency"]
        if exact and own and setup:
            how = f"medians of {amount(setup['runs'], 'run')} of qtool {'eval' if document.kind != 'tune' else 'tune'}"
            spreads = (_spread([exact["p10_ms"], exact["p90_ms"]]), _spread([own["p10_ms"], own["p90_ms"]]))
            medians = (exact["median_ms"], own["median_ms"])
            yield model["name"], MeasuredSpeed(document, *medians, own["speedup"], spreads, own["noisy"], how)


def _noises(documents: Sequence[Document]) -> Iterator[tuple[str, MeasuredNoise]]:
    for kind in ("evaluation", "quantize", "finetune", "tune"):
        if kind in ("evaluation", "tune"):
            for one, content in _evaluated(documents, kind):
                on = f"{amount(content['samples'], 'sample')} of {Path(content['data']).name or content['data']}"
                for model in content["candidates"]:
                    yield model["name"], MeasuredNoise(one, real(model["sqnr_db"]), on)
        for one in of_kind(documents, kind) if kind in ("quantize", "finetune") else ():
            proof = one.content["verification"]
            if proof["examples"]:
                yield one.of, MeasuredNoise(one, real(proof["output_sqnr_db"]), samples_of(proof))


def _spread(ends: Any) -> Spread:
    if not ends or any(real(end) is None for end in ends):
        return None
    low, high = ends
    return float(low), float(high)


def _ms(time: float) -> str:
    return rounded(time)
