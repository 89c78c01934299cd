"""The files of candidates, beside what these compute: how much of them runs in integers, and what calibrated them."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qtool.anatomy.share import integer_share
from qtool.core.errors import ModelError
from qtool.core.records.doubts import reading_doubts, reading_noted
from qtool.core.records.evaluation import Evaluation, ModelResult
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
