"""The request that plans are made for: what is asked for, and what of it contradicts itself."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from qtool.core.errors import UsageError, arg
from qtool.core.numerics.calibrators import Calibrator, chosen_calibrators
from qtool.core.progress import Progress, silent
from qtool.core.records.options import (
    CORRECTIONS,
    FORMS,
    Bits,
    BlockWise,
    Correction,
    Form,
    Rounding,
    Scheme,
    Written,
)
from qtool.core.records.plan import Plan
from qtool.graph import model_io
from qtool.graph.edit import Model
from qtool.pipeline.planning.exclusion import is_called
from qtool.pipeline.prepare import Prepared, prepare
from qtool.pipeline.prepare.fixed_inputs import Fixed
from qtool.targets.rules import Target

Goal = Literal["accuracy", "latency", "size"]
GOALS: tuple[Goal, ...] = ("accuracy", "latency", "size")


@dataclass(frozen=True, slots=True)
class Request:
    """The request that a plan is made for: its scheme, its target and what is to be tried.

    form: that of all layers; None lets measurements choose. calibrators: what to try, one or several.
    smoothing: whether outliers are migrated into weights; auto where it measures better. refinement: whether weights
    are rounded to what their layers compute; auto where they are coarse and it measures better.
    goal: what decides between candidates. blocks: how weights are in blocks; None: they are not.

    Raises:
        UsageError: an unknown value.
    """

    scheme: Scheme
    target: Target
    form: Form | None
    calibrators: tuple[Calibrator, ...]
    correction: Correction
    smoothing: Correction
    goal: Goal
    progress: Progress
    refinement: Correction = "off"
    blocks: BlockWise | None = None

    def __post_init__(self) -> None:
        named: dict[str, tuple[str, tuple[str, ...]]] = {
            "bias_correction": (self.correction, CORRECTIONS),
            "smoothing": (self.smoothing, CORRECTIONS),
            "refine": (self.refinement, CORRECTIONS),
            "optimize_for": (self.goal, GOALS),
            "form": (self.form or "static", FORMS),
        }
        for what, (value, known) in named.items():
            if value not in known:
                raise UsageError(f"{arg(what, value)}: is unknown; choose one of {', '.join(known)}")
        if self.form not in (None, "static") and not any(rule.stored for rule in self.target.rules.values()):
            asked = arg("form", self.form) if self.blocks is None else arg("weights", self.blocks.bits)
            raise UsageError(
                f"{asked}: target {self.target.name} has only layers with calibrated ranges; leave one of them out"
            )
        if self.refinement == "on" and self.form not in (None, "static"):
            raise UsageError(
                f"{arg('refine', 'on')} says nothing to {arg('form', self.form)}: weights of layers with calibrated "
                "ranges are refined; leave one of them out"
            )
        if self.smoothing == "on" and not self.target.on_cpu:
            raise UsageError(
                f"{arg('smoothing', 'on')}: is for targets on the CPU, not {self.target.name}; leave it out"
            )

    def left(self, model: Model) -> dict[str, bool]:
        """Return what of a model as it came is not rewritten, since it would be float then: see `Recipe.left`."""
        scheme = self.scheme
        excluded = "GRU" in scheme.exclude_ops
        excluded |= bool(scheme.include_ops) and "GRU" not in scheme.include_ops
        excluded |= any(is_called(n, p) for n in model.graph.all_nodes() if n.op_type == "GRU" for p in scheme.exclude)
        return {
            "transposed": self.form in ("dynamic", "weight-only"),
            "recurrent": excluded or self._stores_alone or not self.target.on_cpu,
        }

    @property
    def _stores_alone(self) -> bool:
        """Whether a product in a body computes in float; in blocks of onnxruntime's operators it does not."""
        in_blocks = self.blocks is not None and self.blocks.written != "qdq"
        return self.form == "weight-only" and not in_blocks

    def ways(self, plan: Plan) -> list[tuple[Calibrator, bool]]:
        """Return the calibrators that a plan may be made by, with biases corrected (True) and without, as asked."""
        corrected = (True, False) if self.correction == "auto" else (bool(plan.shifts),)
        chosen = self.calibrators if plan.activations else ()
        return [(calibrator, one) for calibrator in chosen for one in corrected]

    @classmethod
    def of(
        cls,
        wanted: Scheme,
        target: Target,
        *,
        form: Form | Literal["auto"],
        calibrator: Calibrator | str | None,
        correction: Correction,
        smoothing: Correction,
        goal: Goal = "accuracy",
        progress: Progress = silent,
        blocks: BlockWise | None = None,
    ) -> "Request":
        """Return the request that the arguments of a public function make.

        Raises:
            UsageError: an unknown value, or one that says nothing to the others.
        """
        asked = chosen_form(form, wanted)
        if blocks is not None:
            _refuse_form(blocks.bits, asked)
            if wanted.granularity != Scheme().granularity:
                raise UsageError(
                    f"{arg('granularity', wanted.granularity)} says nothing to {arg('weights', blocks.bits)}, of which "
                    "each block has a scale; leave one of them out"
                )
            asked = "weight-only"
        ignored = {"calibrator": calibrator not in (None, "auto")}
        ignored["scheme"] = blocks is None and wanted.activations != Scheme().activations
        for name, given in ignored.items():
            if given and asked not in (None, "static"):
                raise UsageError(
                    f"{arg(name)} says nothing to {arg('form', asked)}, which has no calibrated ranges; leave one of "
                    "them out"
                )
        # biases take back what static layers shift; outliers are migrated where inputs are rounded
        useless = {"bias_correction": correction == "on"} if asked in ("dynamic", "weight-only") else {}
        if asked == "weight-only":
            # one candidate, whose kernels are float's
            useless |= {"smoothing": smoothing == "on", "optimize_for": goal == "latency"}
        for name, given in useless.items():
            if given:
                value = goal if name == "optimize_for" else "on"
                raise UsageError(f"{arg(name, value)} says nothing to {arg('form', asked)}; leave one of them out")
        calibrators = chosen_calibrators(calibrator)
        scheme = replace(wanted, form=asked or "static")
        return cls(scheme, target, asked, calibrators, correction, smoothing, goal, progress, blocks=blocks)


def prepared_for(request: Request | None, model: str | Path, fixed: Fixed | None = None) -> Prepared:
    """Load a model, and prepare it for a request; None: as for every model. Raises what `prepare` does."""
    loaded = model_io.load(model)
    return prepare(loaded, fixed, **({} if request is None else request.left(loaded.model)))


def chosen_form(form: Form | Literal["auto"], scheme: Scheme) -> Form | None:
    """Return the form that is asked for, by itself or in the scheme; None where measurements choose.

    Raises:
        UsageError: the two contradict each other.
    """
    if scheme.form == "static":
        return None if form == "auto" else form
    if form not in ("auto", scheme.form):
        raise UsageError(f"{arg('form', form)}: the scheme says {scheme.form}; leave one of them out")
    return scheme.form


def blocks_of(
    form: Form | Literal["auto"],
    weights: Bits | None,
    block: int | None,
    rounding: Rounding | None,
    weight_format: Written | None,
) -> tuple[Form | Literal["auto"], BlockWise | None]:
    """Return the form that is asked for, and how weights are in blocks, of the arguments of a public function.

    None where they are not.

    Raises:
        UsageError: an unknown value, or one that says nothing without `weights`.
    """
    given = {"block": block, "rounding": rounding, "weight_format": weight_format}
    if weights is None:
        for name, value in given.items():
            if value is not None:
                raise UsageError(
                    f"{arg(name, str(value))} says nothing without {arg('weights')}; give it, or leave this out"
                )
        return form, None
    _refuse_form(weights, None if form == "auto" else form)
    plain = BlockWise(weights)
    blocks = BlockWise(
        weights,
        plain.block if block is None else block,
        plain.rounding if rounding is None else rounding,
        plain.written if weight_format is None else weight_format,
    )
    return "weight-only" if form == "auto" else form, blocks


def _refuse_form(bits: Bits, form: Form | None) -> None:
    if form not in (None, "weight-only"):
        raise UsageError(
            f"{arg('weights', bits)} stores weights alone, and says nothing to {arg('form', form)}; "
            "leave one of them out"
        )


def refuse_beside_blocks(blocks: BlockWise | None, *, blind: bool, max_float_macs: bool) -> None:
    """Refuse what says nothing to weights in blocks. Raises `UsageError`."""
    if blocks is None:
        return
    if blind and blocks.rounding == "gptq":
        raise UsageError(
            f"{arg('rounding', 'gptq')}: is found on data; give {arg('data')} or {arg('calibration')}, or leave it out"
        )
    if max_float_macs:
        raise UsageError(
            f"{arg('max_float_macs')} says nothing to {arg('weights', blocks.bits)}, which leaves no layer in float; "
            "leave one of them out"
        )
