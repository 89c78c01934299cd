"""The worst samples of each model, found while the data streams by, and the files that are made of them."""

import json
import math
import re
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

import numpy as np

from qtool.core.errors import UsageError, arg
from qtool.core.extras import installed_by
from qtool.core.files import (
    check_folder,
    made_folder,
    place_of,
    remove_with_outputs,
    together,
    write_bytes,
    write_text,
)
from qtool.core.numerics.sqnr import loudness
from qtool.core.reading import SETTINGS_LIMIT, read_text
from qtool.core.records.codec import parsed
from qtool.core.records.evaluation import WorstSample, WorstSamples
from qtool.core.records.header import without_header
from qtool.evaluation.metrics.heads import Heads
from qtool.evaluation.metrics.observation import Observation
from qtool.evaluation.metrics.registry import Metric
from qtool.evaluation.metrics.similarity import Sqnr
from qtool.evaluation.worst.drawing import drawn
from qtool.evaluation.worst.views import Scores, View, find_view, sample_of
from qtool.feeds.batching import Place
from qtool.feeds.shown import PictureInput

INDEX = "worst.json"
"""The file in the folder that lists the pictures."""
_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_OWN = re.compile(r"[A-Za-z0-9._-]+-sample-\d+\.png")
_LONGEST = 60
_UNKNOWN = Place()


def worst_folder(number: int, folder: str | Path, read: Iterable[object]) -> Path:
    """Check what is asked of `save_worst`; return the folder.

    Args:
        number: of samples of each model.
        folder: where their pictures shall be.
        read: what is read meanwhile, data and labels; paths of folders among it must not hold it.

    Raises:
        UsageError: it makes no sense, or Pillow is not there.
        OutputError: the folder holds other files than those of an earlier run, or cannot be written.
    """
    if number < 1:
        raise UsageError(f"{arg('save_worst', number)}: give 1 or more")
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{arg('save_worst')}: drawing needs Pillow: {installed_by('images')}") from error
    place = Path(folder).resolve()
    for one in read:
        if isinstance(one, str | Path) and Path(one).is_dir() and place.is_relative_to(Path(one).resolve()):
            raise UsageError(
                f"{arg('save_worst', folder)}: is in {one}, which is read: its pictures would be data the next time; "
                "name a folder elsewhere"
            )
    return check_folder(folder, _written_before)


@contextmanager
def reserved_index(
    wanted: tuple[int, str] | None, read: Iterable[object], others: Mapping[str, str | None]
) -> Iterator[str | None]:
    """Yield the path of the index that `save_worst` will write, its folder made meanwhile; None where none is wanted.

    others: what else is written, option to path. Arguments and errors are those of `worst_folder`; one of the others in
    the folder, which would be refused the next time, is a `UsageError` too.
    """
    if wanted is None:
        yield None
        return
    folder = worst_folder(*wanted, read)
    for option, path in others.items():
        if path is not None and place_of(path).parent == place_of(folder):
            raise UsageError(
                f"{option} {path}: is in the folder of {arg('save_worst')}, which holds its pictures and nothing else; "
                "name a file elsewhere"
            )
    with made_folder(folder):
        yield str(folder / INDEX)


def _written_before(folder: Path) -> Sequence[str]:
    """The files of an earlier run, as its index lists them."""
    try:
        document = parsed(read_text(folder / INDEX, SETTINGS_LIMIT), strict=False)
    except (OSError, ValueError):
        return ()
    version, content = without_header(document, WorstSamples.SCHEMA[0])
    rows = content.get("samples")
    if version is None or not isinstance(rows, list):
        return ()
    names = [row.get("picture") for row in rows if isinstance(row, dict)]
    return [INDEX, *(name for name in names if isinstance(name, str) and _OWN.fullmatch(name))]


@dataclass(frozen=True, slots=True)
class _Shown:
    """A sample and its picture. order: the worst has the least."""

    order: tuple[float, float, int]
    sample: WorstSample
    png: bytes


class Keeper:
    """The worst samples of each candidate so far, as many of each as were asked for.

    A sample is the worse the more its score (`qtool.evaluation.worst.views`) is below float's, then the lower the SQNR
    of its outputs, then the earlier it is. What is kept is drawn at once, so that memory holds pictures, not outputs.

    Args:
        number: of samples of each candidate.
        folder: where they are written, checked by `worst_folder`.
        models: the names of the candidates.
        shown: the input that is shown.
    """

    def __init__(self, number: int, folder: Path, models: Sequence[str], shown: PictureInput) -> None:
        self._number = number
        self._folder = folder
        self._shown = shown
        self._models = models
        self._files = _file_names(models)
        self._kept: list[list[_Shown]] = [[] for _ in models]
        self._view: View | None = None
        self._heads: Heads | None = None

    def begin(
        self, metrics: Sequence[Metric], heads: Heads, exact: Observation, inputs: Mapping[str, np.ndarray]
    ) -> None:
        """Choose how samples are shown, by float's first batch. Raises `UsageError` where they cannot be."""
        self._heads = heads
        self._view = find_view(metrics, heads, exact, self._shown.picture(0, inputs, None))

    def update(
        self,
        exact: Observation,
        found: Sequence[Observation],
        inputs: Mapping[str, np.ndarray],
        places: Sequence[Place],
    ) -> None:
        """Take one batch into account.

        Args:
            exact: float's outputs.
            found: the candidates'.
            inputs: what they were fed.
            places: of the samples, empty where nothing is known of them.

        Raises:
            UsageError, DataError: the samples cannot be shown or have no scores.
        """
        places = places or [_UNKNOWN] * exact.size
        for model, seen in enumerate(found):
            assert self._view is not None
            for sample, scores in enumerate(self._view.scores(exact, seen)):
                self._take(model, sample, scores, exact, seen, inputs, places[sample])

    def _take(
        self,
        model: int,
        sample: int,
        scores: Scores,
        exact: Observation,
        seen: Observation,
        inputs: Mapping[str, np.ndarray],
        place: Place,
    ) -> None:
        assert self._view is not None and self._heads is not None
        noise = Sqnr(self._heads.parts, self._heads.places)
        noise.update(sample_of(seen, sample))
        db = noise.measured()
        order = (-_fallen(scores), math.inf if db is None else loudness(db), seen.start + sample)
        kept = self._kept[model]
        if len(kept) == self._number and order >= kept[-1].order:
            return
        picture = self._shown.picture(sample, inputs, place.laid)
        sheet = self._view.sheet(sample, exact, seen, picture)
        record = WorstSample(
            self._models[model], 0, seen.start + sample, place.file, "", *scores, db, picture.how, tuple(sheet.captions)
        )
        insort(kept, _Shown(order, record, drawn(sheet)), key=lambda one: one.order)
        del kept[self._number :]

    def save(self) -> WorstSamples:
        """Write the pictures, and the index that lists them; return what was written.

        All appear together, in place of those of an earlier run. Raises `OutputError`.
        """
        assert self._view is not None
        pictures: dict[str, bytes] = {}
        samples: list[WorstSample] = []
        for file, kept in zip(self._files, self._kept, strict=True):
            for rank, one in enumerate(kept, 1):
                name = f"{file}-{rank:0{len(str(self._number))}}-sample-{one.sample.sample}.png"
                pictures[name] = one.png
                samples.append(replace(one.sample, rank=rank, picture=name))
        found = WorstSamples(str(self._folder), self._view.measure, tuple(samples), self._view.score)
        former = set(_written_before(self._folder)) - {INDEX, *pictures}
        with made_folder(self._folder), together(self._folder / INDEX, *(self._folder / name for name in pictures)):
            for name, png in pictures.items():
                write_bytes(self._folder / name, png)
            write_text(self._folder / INDEX, json.dumps(found.to_dict(), indent=2, allow_nan=False) + "\n")
            for name in former:
                remove_with_outputs(self._folder / name)
        return found


def _fallen(scores: Scores) -> float:
    """By how much a score is below float's; all that can be where it is NaN."""
    exact, found = scores
    if exact is None or found is None or math.isnan(exact):
        return 0.0
    return math.inf if math.isnan(found) else exact - found


def _file_names(models: Sequence[str]) -> list[str]:
    """A beginning for the names of each model's files, no two alike."""
    names: list[str] = []
    for number, model in enumerate(models, 1):
        # a path, where the names of files are alike; its end tells most
        plain = _ODD.sub("-", model.replace(".onnx", ""))[-_LONGEST:].strip("-.") or "model"
        taken = {name.casefold() for name in names}
        several = (f"{plain}-model-{n}" for n in count(number))
        names.append(next(name for name in chain([plain], several) if name.casefold() not in taken))
    return names
