"""`quantize`, stage by stage. No click, no printing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, Unpack

from qtool.core.arguments import checked_types
from qtool.core.compute import Compute
from qtool.core.errors import DataError, LayerError, ModelError, UsageError, VerificationError, arg
from qtool.core.files import together
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.numerics.weights import WeightMemo
from qtool.core.progress import Progress, silent
from qtool.core.records.doubts import calibration_doubts, grid_doubts
from qtool.core.records.options import Correction, Form, Names, Scheme
from qtool.core.records.placement import Amendment
from qtool.core.records.plan import Plan, checked, load_plan
from qtool.core.records.recipe import ASKED, text_of
from qtool.core.records.results import MUCH_SMALLER, Quantized, Trial
from qtool.core.records.statistics import Statistics
from qtool.core.records.verification import MADE_UP, Verification
from qtool.feeds import Data, Feeds, ReadOptions, open_for_model
from qtool.feeds.invented import NotInventedError, flaw, invented_inputs
from qtool.feeds.reading import Reading
from qtool.graph import edit, model_io, shapes
from qtool.graph.contents import contents
from qtool.graph.edit import Array
from qtool.graph.model_files import model_size
from qtool.graph.serialized import Serialized
from qtool.pipeline.calibration.advice import advising
from qtool.pipeline.calibration.run import count_prepared
from qtool.pipeline.calibration.tensors import find_tensors
from qtool.pipeline.planning.check import fit_plan
from qtool.pipeline.planning.leave import leave_float
from qtool.pipeline.planning.place import place
from qtool.pipeline.planning.settle import Settler
from qtool.pipeline.prepare import Prepared, prepare
from qtool.pipeline.prepare.fixed_inputs import Fixing, parse_fixed, with_fixed
from qtool.pipeline.recovery.steps import apply, apply_recorded, chosen_steps, statistics_for
from qtool.pipeline.rewrite.unfold import rewritten
from qtool.pipeline.verify import verify
from qtool.pipeline.verify.original import Original
from qtool.quantization.candidates import Candidate, best_plan
from qtool.quantization.graphs import look_at
from qtool.quantization.halves import Halves, halved
from qtool.quantization.request import Goal, Request
from qtool.quantization.timing import timed
from qtool.runtime.providers import find_provider
from qtool.runtime.session import Session
from qtool.targets.tables import TARGETS, find_target

PathLike = str | Path
_ROUNDS = 4
_MOST_NUMBERS = 2**26
"""In one tensor of a model that runs on made-up inputs, where its signature leaves their shapes open."""


@checked_types
def quantize(
    model: PathLike,
    output: PathLike,
    *,
    calibration: PathLike | Statistics | None = None,
    data: Data | None = None,
    calibrator: Calibrator | str | None = None,
    scheme: Scheme | None = None,
    include_ops: Names = (),
    exclude_ops: Names = (),
    exclude: Names = (),
    target: str = "auto",
    form: Form | Literal["auto"] = "auto",
    bias_correction: Correction = "auto",
    smoothing: Correction = "auto",
    optimize_for: Goal = "accuracy",
    equalize: bool = False,
    absorb_biases: bool = False,
    fix: Fixing = (),
    plan: PathLike | Plan | None = None,
    save_plan: PathLike | None = None,
    samples: int | None = None,
    batch_size: int = 1,
    threads: int = 1,
    provider: str = "cpu",
    progress: Progress = silent,
    **reading: Unpack[ReadOptions],
) -> Quantized:
    """Write the int8 model, after checking what onnxruntime will really run; return what was done and measured.

    Args:
        model: path of a float ONNX model.
        output: where to write the int8 model.
        calibration: a calibration file, or the statistics themselves.
        data: calibrates first instead; see `calibrate`, also for samples, batch_size, threads, provider and reading.
        calibrator: how ranges are chosen; None or "auto" tries `qtool.core.numerics.calibrators.CANDIDATES` on the
            examples that the statistics hold and keeps the best by SQNR of the outputs.
        scheme: representation, granularity, and what stays float.
        include_ops, exclude_ops, exclude: operator types, and names of nodes or globs; as in `Scheme`, which must not
            have the same one.
        target: where the model shall run; `auto` is this machine.
        bias_correction: let the biases take back the shift that rounding the weights makes, measured on the examples;
            `auto` keeps it where the outputs' SQNR is better with it.
        equalize, absorb_biases: with data, see `calibrate`; a calibration file that was made with them has them
            already, one that was made without them is refused.
        fix: with data or without any, see `calibrate`; a calibration file and a plan have it already.
        plan: apply this plan (a file or a value) instead of making one, to the graph that it was made for; it needs no
            data. Without, the arithmetic is checked on made-up inputs, and accuracy is not measured.
        save_plan: where to write the plan.
        form: of the layers. `dynamic` and `weight-only` need no data; `auto` measures static and dynamic ones where
            layers over tokens allow both, and takes what is better.
        smoothing: migrate outliers of activations into weights (SmoothQuant); `auto` where it measures better.
        optimize_for: `latency` times the candidates on this machine, takes the fastest of those near the best SQNR, and
            lets a profile decide what stays float. `size` leaves nothing in float for speed; by default, what is faster
            there by the target's table of times stays float, which is the same on any machine.

    Raises:
        UsageError: options that contradict each other.
        ModelError, DataError, CalibrationError, OutputError: as their names say; nothing has been written then.
        VerificationError: the model would compute something else than planned; nothing has been written then.
    """
    _check_files(model, output, save_plan, {"calibration": calibration, "data": data, "plan": plan})
    blind = _blind(form, calibration, data, reading, planned=plan is not None)
    if data is None and provider != "cpu":
        raise UsageError(f"provider {provider} is where data calibrates; give {arg('data')}, or leave it out")
    compute = Compute(threads, provider, progress=progress)
    find_provider(provider)
    if blind and ("on" in (bias_correction, smoothing) or optimize_for != "accuracy"):
        raise UsageError(
            f"bias correction, smoothing and latency are measured on data; give {arg('data')} or "
            f"{arg('calibration')}, or leave them out"
        )
    selection = {"include_ops": include_ops, "exclude_ops": exclude_ops, "exclude": exclude}
    wanted = (scheme or Scheme()).selecting(**selection)
    request = Request.of(
        wanted,
        find_target(target),
        form=form,
        calibrator=calibrator,
        correction="off" if blind else bias_correction,
        smoothing="off" if blind else smoothing,
        goal=optimize_for,
        progress=progress,
    )
    steps = chosen_steps(equalize=equalize, absorb_biases=absorb_biases)
    if plan is not None:
        _refuse_decided(
            calibrator=calibrator not in (None, "auto"),
            scheme=scheme not in (None, Scheme()),
            **{name: bool(names) for name, names in selection.items()},
            target=target != "auto",
            form=form != "auto",
            bias_correction=bias_correction != "auto",
            smoothing=smoothing != "auto",
            optimize_for=optimize_for != "accuracy",
            fix=bool(fix),
            **{ASKED[step]: True for step in steps},
        )
    prepared = prepare(model_io.load(model), parse_fixed(fix))
    given, absent = None, "the calibration holds no examples"
    if plan is not None:
        prepared, given = _given(plan, prepared)

    def opened(prepared: Prepared, data: Data) -> Feeds:
        return open_for_model(prepared.model, data, samples=samples, batch_size=batch_size, **reading)

    if data is not None:
        with advising(prepared, partial(opened, prepared, data)):
            if request.form is not None:
                place(prepared.model, request.target, request.scheme, name=prepared.name, folded=prepared.folded)
            tensors = find_tensors(prepared)
        feeds = opened(prepared, data)
        prepared, statistics = count_prepared(prepared, steps, feeds, tensors, compute)
    else:
        if calibration is None:
            statistics, absent = _without_data(prepared)
        else:
            statistics = statistics_for(prepared, calibration)
        if given is None:
            prepared = _as_calibrated(prepared, statistics, steps)
    _check_raised(prepared, statistics)
    half = halved(prepared, statistics)
    original = Original(Path(model), prepared.widened, half.reporting, absent)
    with advising(prepared, None):
        decided = _decided(prepared, half, request, original) if given is None else _Decision(prepared, given)
    decided, proven, proof = _proven(decided, original)
    final, trials, prepared = decided.plan, decided.trials, decided.prepared
    proof = _arithmetic_alone(proof) if blind else replace(proof, held_out=half.held_out)
    timing = timed(original, prepared.model, final, proven, blind=blind)
    with together(*([] if save_plan is None else [save_plan]), output):
        if save_plan is not None:
            final.save(save_plan)
        size = model_io.write(proven, output)
    inputs = {str(v.name) for v in prepared.model.graph.inputs}
    warnings = (*calibration_doubts(statistics), *grid_doubts(statistics, final, inputs)) if not blind else ()
    parts = contents(proven) if model_size(model) < MUCH_SMALLER * size else ()
    return Quantized(
        final, proof, trials, prepared.changes, Path(output), size, model_size(model), warnings, parts, timing
    )


def _check_files(model: PathLike, output: PathLike, save_plan: PathLike | None, read: Mapping[str, object]) -> None:
    """Refuse outputs that cannot be written, that are one file, or that would overwrite what is read, by argument."""
    written = [("output", output), *([] if save_plan is None else [("save_plan", save_plan)])]
    for _, path in written:
        model_io.check_output(path, model)
    taken = {Path(path).resolve(): name for name, path in read.items() if isinstance(path, str | Path)}
    for name, path in written:
        place = Path(path).resolve()
        if place in taken:
            raise UsageError(f"{arg(name, path)}: is {arg(taken[place])} already; name another file")
        taken[place] = name


def _refuse_decided(**given: bool) -> None:
    """Refuse what is given beside a plan that has decided it."""
    for name, is_given in given.items():
        if is_given:
            raise UsageError(f"{arg(name)} says nothing to {arg('plan')}, which has decided it; leave one of them out")


@dataclass(frozen=True, slots=True)
class _Decision:
    """A plan, the graph that it is for, and what was tried. candidate: where it comes from; None: it was given."""

    prepared: Prepared
    plan: Plan
    trials: tuple[Trial, ...] = ()
    candidate: Candidate | None = None

    def again(self, layers: Mapping[str, str], examples: Sequence[Mapping[str, Array]]) -> "_Decision":
        """The same with layers (name -> why) in float; of a given plan, also those with which no model runs."""
        if self.candidate is not None:
            found = self.candidate.rejecting(layers)
            return replace(self, plan=found.plan, candidate=found)
        model, name = self.prepared.model, self.prepared.name
        look = look_at(model, TARGETS[self.plan.target], examples, WeightMemo())

        def make(amendment: Amendment) -> Plan:
            return leave_float(model, self.plan, amendment.floating, name=name)

        settler = Settler(model, make, look, lambda _, amendment, layer, why: amendment.leaving({layer: why}))
        return replace(self, plan=make(settler.settle(Amendment(floating=layers))))


def _decided(prepared: Prepared, half: Halves, request: Request, original: Original) -> _Decision:
    best, trials = best_plan(prepared, half.choosing, request, replace(original, examples=half.choosing.examples))
    return _Decision(best.graph.prepared, best.plan, trials, best)


def _proven(decided: _Decision, original: Original) -> tuple[_Decision, Serialized, Verification]:
    """Layers that compute something else than planned are left in float, in a few rounds.

    Raises:
        VerificationError: what is left does so too.
    """
    for rounds_left in reversed(range(_ROUNDS)):
        prepared, plan = decided.prepared, decided.plan
        proven, shifted = rewritten(prepared.model, plan)
        try:
            return decided, proven, verify(original, prepared.model, shifted, proven, plan, TARGETS[plan.target])
        except LayerError as error:
            new = {layer: why for layer, why in error.layers.items() if plan.skipped.get(layer) != why}
            if not (new and rounds_left):
                raise
            decided = decided.again(new, original.examples)
        except (ModelError, DataError):
            # a candidate's model has been loaded before
            if decided.candidate is not None or not rounds_left:
                raise
            decided = decided.again({}, original.examples)
            if decided.plan == plan:
                raise
    raise AssertionError("the last round returns or raises")


def _given(plan: PathLike | Plan, prepared: Prepared) -> tuple[Prepared, Plan]:
    """The plan, and the graph that it was made for."""
    name = "the plan" if isinstance(plan, Plan) else str(plan)
    try:
        final = checked(plan) if isinstance(plan, Plan) else load_plan(plan)
    except ValueError as error:
        raise UsageError(f"{name}: damaged plan ({error}); make it again") from error
    if final.model_digest != prepared.digest:
        raise UsageError(f"{name}: made for another model than {prepared.name}; make it again with {arg('save_plan')}")
    if final.target not in TARGETS:
        raise UsageError(
            f"{name}: for target {final.target!r}, which is unknown (not {', '.join(TARGETS)}); make it again with "
            f"{arg('save_plan')}"
        )
    try:
        prepared = apply(prepared, final.recipe)
    except ValueError as error:
        raise UsageError(
            f"{name}: damaged preparation ({error}); make the plan again with {arg('save_plan')}"
        ) from error
    fit_plan(prepared.model, final, TARGETS[final.target], name)
    return prepared, final


def _blind(form: str, calibration: object, data: object, reading: ReadOptions, *, planned: bool) -> bool:
    """Whether there is no data at all. Raises `UsageError` where that, or two kinds of it, cannot be."""
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
            f"{arg('form', 'dynamic')}, {arg('form', 'weight-only')} and {arg('plan')} need neither"
        )
    return blind


def _without_data(prepared: Prepared) -> tuple[Statistics, str]:
    """Statistics of nothing, with made-up inputs that the model runs on: they check arithmetic, not accuracy.

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


def _check_raised(prepared: Prepared, statistics: Statistics) -> None:
    """Refuse a model at another opset where nothing can show that it still computes the same."""
    if "opset" in prepared.changes and not statistics.examples:
        raise VerificationError(
            f"{prepared.name}: its opset was raised to {prepared.changes['opset']}, and it does not run on made-up "
            f"inputs, which would show that it computes the same there; give {arg('data')}, or export it with opset "
            f"{prepared.changes['opset']} or later"
        )


def _arithmetic_alone(proof: Verification) -> Verification:
    """The proof without what inputs that were made up say of accuracy."""
    tensors = tuple(replace(tensor, sqnr_db=math.nan) for tensor in proof.tensors)
    return replace(proof, examples=0, output_sqnr_db=math.nan, sqnr_db_by_output={}, unlike={}, tensors=tensors)


def _as_calibrated(prepared: Prepared, statistics: Statistics, steps: tuple[str, ...]) -> Prepared:
    """The graph that the statistics were collected on; `steps` are those that the caller expects of it."""
    for name, numbers in (prepared.recipe.fixed or {}).items():
        if (statistics.recipe.fixed or {}).get(name) != numbers:
            raise UsageError(
                f"{statistics.name}: calibrated without {arg('fix', text_of(name, numbers))}; calibrate again with it, "
                "or leave it out here"
            )
    for step in steps:
        if step not in statistics.recipe.steps:
            raise UsageError(
                f"{statistics.name}: calibrated without {arg(ASKED[step])}; calibrate again with it, or leave "
                "it out here"
            )
    return apply_recorded(prepared, statistics)
