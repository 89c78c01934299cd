"""DATA -> batches: `.npz`, folders of arrays or images, ONNX test data, Python hooks; always streamed."""

from qtool.feeds.batching import Batch, Feeds
from qtool.feeds.formats.functions import load_function, raised, refuse_to_stop
from qtool.feeds.open import Data, open_feeds, open_for_model, open_source
from qtool.feeds.preprocess import PRESETS, Preprocess, load_preprocess
from qtool.feeds.reading import LabelledOptions, ReadOptions

__all__ = [
    "PRESETS",
    "Batch",
    "Data",
    "Feeds",
    "LabelledOptions",
    "Preprocess",
    "ReadOptions",
    "load_function",
    "load_preprocess",
    "open_feeds",
    "open_for_model",
    "open_source",
    "raised",
    "refuse_to_stop",
]
