"""`quantize` without data: what needs none, and the made-up inputs that its arithmetic is checked on."""

import math
from dataclasses import replace

from qtool.core.errors import DataError, UsageError, VerificationError, arg
from qtool.core.records.statistics import Statistics
from qtool.core.records.verification import MADE_UP, Verification
from qtool.feeds import ReadOptions
from qtool.feeds.invented import NotInventedError, flaw, invented_inputs
from qtool.feeds.reading import Reading
from qtool.graph import edit, model_io, shapes
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.prepare.fixed_inputs import with_fixed
from qtool.runtime.session import Session

_MOST_NUMBERS = 2**26
"""In one tensor of a model that runs on made-up inputs, where its signature leaves their shapes open."""


def is_blind(form: str, calibration: object, data: object, reading: ReadOptions, *, planned: bool) -> bool:
    """Return whether there is no data at all. Raises `UsageError` where that, or two kinds of it, cannot be."""
    if calibration is not None and data is not None:
        raise UsageError(
            f"give either a calibration file or data to calibrate with ({arg('calibration')}, {arg('data')}), "
            "and not both"
        )
    if data is None and Reading.of(reading) != Reading():
        given = ", ".join(arg(name) for name, value in reading.items() if value)
        raise UsageError(f"{given}: says how to read data, and here none is read; give {arg('data')}, or leave it out")
    blind = calibration is None and data is None
    if blind and not planned and form not in ("dynamic", "weight-only"):
        raise UsageError(
            f"give a calibration file or data to calibrate with ({arg('calibration')}, {arg('data')}); only "
            f"{arg('form', 'dynamic')}, {arg('form', 'weight-only')}, {arg('weights')} and {arg('plan')} need neither"
        )
    return blind


def without_data(prepared: Prepared) -> tuple[Statistics, str]:
    """Return statistics of nothing, with made-up inputs that the model runs on: they check arithmetic, not accuracy.

    Where there are none, also the reason.
    """
    nothing = Statistics("no data", prepared.digest, 0, {}, (), recipe=prepared.recipe)
    if any(not edit.is_tensor(value) for value in prepared.model.graph.inputs):
        return nothing, "it is fed with what is no tensor"
    reason = ""
    # what the model as it came computes for nobody may take other lengths than the rest
    sessions = (Session(prepared.path), Session(model_io.serialize(prepared.model), name=prepared.name))
    try:
        proposals = invented_inputs(edit.input_specs(prepared.model), edit.axis_lengths(prepared.model))
        for number, proposal in enumerate(proposals):
            lengths = {name: array.shape for name, array in proposal.items()}
            if number and shapes.most_numbers(prepared.model, lengths) > _MOST_NUMBERS:
                continue
            invented = with_fixed(proposal, prepared.recipe.fixed)
            try:
                wrong = next((why for session in sessions if (why := flaw(session.run(invented)))), "")
            except DataError as error:
                wrong = f"{MADE_UP} do not fit ({error})"
            if not wrong:
                return replace(nothing, examples=(invented,)), ""
            reason = reason or wrong
    except NotInventedError as error:
        reason = str(error)
    return nothing, reason


def check_raised(prepared: Prepared, statistics: Statistics) -> None:
    """Refuse a model at another opset where nothing can show that it still computes the same.

    Raises:
        VerificationError: it is one.
    """
    if "opset" in prepared.changes and not statistics.examples:
        raise VerificationError(
            f"{prepared.name}: its opset was raised to {prepared.changes['opset']}, and it does not run on made-up "
            f"inputs, which would show that it computes the same there; give {arg('data')}, or export it with opset "
            f"{prepared.changes['opset']} or later"
        )


def arithmetic_alone(proof: Verification) -> Verification:
    """Return the proof without what inputs that were made up say of accuracy."""
    tensors = tuple(replace(tensor, sqnr_db=math.nan) for tensor in proof.tensors)
    proof = replace(proof, sqnr_db_by_output={}, sqnr_db_before={}, agreement_by_output={}, unlike={}, uneven=None)
    return replace(proof, examples=0, output_sqnr_db=math.nan, tensors=tensors)
