"""The files of candidates, beside what these compute: how much of them runs in integers, and what calibrated them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from qtool.anatomy.share import integer_share
from qtool.core.errors import ModelError
from qtool.core.records.doubts import reading_doubts, reading_noted
from qtool.core.records.evaluation import Evaluation, ModelResult
from qtool.core.text import in_utf8
from qtool.feeds import Feeds
from qtool.graph.model_files import metadata_of


def with_share(model: ModelResult, sample: Mapping[str, np.ndarray]) -> ModelResult:
    """Return a candidate with the share of its work that is in integers, unknown where its file cannot be looked into.

    sample: name of an input -> a batch for it.
    """
    try:
        return replace(model, integer_share=integer_share(model.path, sample))
    except ModelError:
        return model


def read_otherwise(found: Evaluation, feeds: Feeds) -> tuple[str, ...]:
    """Return a line for each candidate of qtool's own that was calibrated on data that was read otherwise."""
    reading = dict(feeds.source.read_by())
    return tuple(
        doubt
        for model in found.candidates
        for doubt in reading_doubts(reading_noted(metadata_of(model.path)), reading, model.name)
    )


def display_names(paths: Sequence[Path]) -> list[str]:
    """Return names for models: by file; by path where two files are called alike, numbered where the paths are too."""
    short = Counter(path.name for path in set(paths))
    names = [path.name if short[path.name] == 1 else str(path) for path in paths]
    seen: Counter[str] = Counter()
    unique: list[str] = []
    for name in names:
        seen[name] += 1
        printable = in_utf8(name).encode("utf-8", "replace").decode("utf-8")
        unique.append(printable if seen[name] == 1 else f"{printable} ({seen[name]})")
    return unique
