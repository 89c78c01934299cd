"""The inputs that a model is measured on: samples of the user's data, or what its signature lets one make up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Unpack

import numpy as np

from qtool.anatomy.opened import Opened
from qtool.anatomy.planned import planned_layers
from qtool.core.errors import DataError, ModelError, UsageError, arg
from qtool.core.records.verification import MADE_UP
from qtool.core.tensorspec import InputSpec
from qtool.core.text import amount
from qtool.feeds import ReadOptions
from qtool.feeds.formats.sequences import unrolled
from qtool.feeds.invented import NotInventedError, flaw, invented_inputs
from qtool.feeds.open import Data, open_for_model
from qtool.feeds.reading import refuse_mask
from qtool.graph import edit, model_io
from qtool.graph.edit import Model
from qtool.inspection.makers import strange_operators
from qtool.inspection.pictures import as_picture
from qtool.inspection.refusals import impossible, likely, shortened
from qtool.runtime.session import Session, one_line

SAMPLES = 8
"""So many samples of the data are taken."""
_IDLE = "the model does not run"

Example = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Examples:
    """Batches of inputs.

    said: where they come from, in words. made_up: whether nobody gave them. absent: why there is none. fails: why
    onnxruntime does not run the model, or only without its optimisations.
    """

    batches: Sequence[Example]
    said: str
    made_up: bool = False
    absent: str = ""
    fails: str = ""


def examples_of(model: Model, session: Session, data: Data | None, **options: Unpack[ReadOptions]) -> Examples:
    """Return the inputs that a model is measured on; none where nobody gives data and none can be made up.

    Raises:
        DataError, UsageError: the data does not fit the model, or options of reading stand without data.
    """
    refuse_mask(options)
    if data is None:
        given = [name for name, value in options.items() if value]
        if given:
            raise UsageError(f"{arg(given[0])}: says how data is read; give {arg('data')}")
        return _made_up(model, session)
    feeds = open_for_model(model, data, samples=SAMPLES, **options)
    if feeds.states:
        feeds = unrolled(feeds, session.run)
    batches = tuple(batch.inputs for batch in islice(feeds, SAMPLES))
    if not batches:
        raise DataError(f"{feeds.name}: holds no samples; give data with at least one")
    said = f"{amount(len(batches), 'sample')} of {feeds.name}"
    try:
        session.run(batches[0])
    except DataError as error:
        if not impossible(model, planned_layers(model)):
            # raises as well where it is the data that does not fit
            _plain(model, session.name).run(batches[0])
        return Examples((), said, absent=_IDLE, fails=_why(model, error))
    return Examples(batches, said)


def _why(model: Model, error: DataError) -> str:
    """Why a model does not run: what the file shows, and what onnxruntime says."""
    layers = planned_layers(model)
    found, said = impossible(model, layers) or likely(layers), f"onnxruntime: {shortened(str(error))}"
    return f"{found} ({said})" if found else said


def _says_all(model: Model, specs: Sequence[InputSpec]) -> bool:
    """Whether a model that fails on made-up inputs fails on all: by its scales, or where any numbers fit its inputs."""
    fixed = all(
        spec.dtype.kind == "f" and spec.shape is not None and all(isinstance(d, int) and d > 0 for d in spec.shape)
        for spec in specs
    )
    return fixed or bool(impossible(model, planned_layers(model)))


def _made_up(model: Model, session: Session) -> Examples:
    reason, failed = "", None
    try:
        specs = edit.input_specs(model)
        likely = [as_picture(spec) for spec in specs]
        # most models of pictures of any size take tiny ones too, of which nothing can be learned
        first = islice(invented_inputs(likely), 1) if likely != specs else ()
        for proposal in chain(first, invented_inputs(specs, edit.axis_lengths(model))):
            try:
                wrong = flaw(session.run(proposal))
            except DataError as error:
                if not reason and _runs_plain(model, proposal):
                    return Examples((), MADE_UP, made_up=True, absent=_IDLE, fails=_why(model, error))
                failed = failed or error
                wrong = f"{MADE_UP} do not fit ({error})"
            if not wrong:
                return Examples((proposal,), MADE_UP, made_up=True)
            reason = reason or wrong
        if failed is not None and _says_all(model, specs):
            return Examples((), MADE_UP, made_up=True, absent=_IDLE, fails=_why(model, failed))
    except (NotInventedError, ModelError) as error:
        reason = str(error)
    return Examples((), "", made_up=True, absent=f"{reason}; give data")


def loaded(opened: Opened) -> Session:
    """Return a default session of a quantised model.

    Raises:
        ModelError: onnxruntime does not load it, or only without the optimisations that make integers of Q/DQ.
    """
    try:
        return Session(opened.path)
    except ModelError as error:
        try:
            Session(opened.path, optimize=False)
        except ModelError:
            whose = strange_operators(opened)
            if whose:
                raise ModelError(f"{opened.path}: onnxruntime does not run it: {whose}") from error
            raise error from None
        why = one_line(error.__cause__ or error)
        raise ModelError(
            f"{opened.path}: onnxruntime's optimisations fail on it, and without them it loads: {why}; quantise the "
            "float model with qtool, which proves that what it writes loads, or run this one with "
            "ORT_DISABLE_ALL, in float"
        ) from error


def _plain(model: Model, name: str = "the model") -> Session:
    """The model as its file says, without onnxruntime's optimisations."""
    return Session(model_io.serialize(model), optimize=False, name=name)


def _runs_plain(model: Model, example: Example) -> bool:
    try:
        return not flaw(_plain(model).run(example))
    except (ModelError, DataError):
        return False


def fed_to(session: Session, example: Example) -> Example:
    """Return a batch under the names of another model's inputs: by name, else in their order.

    Raises:
        ModelError: that model has other inputs.
    """
    names = [spec.name for spec in session.inputs]
    if set(names) <= set(example):
        return {name: example[name] for name in names}
    if len(names) != len(example):
        raise ModelError(
            f"{session.name}: has other inputs than the int8 model; give the float model that it is made of"
        )
    return dict(zip(names, example.values(), strict=True))
