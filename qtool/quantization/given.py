"""The files, plans and statistics that are given beside a model, held against it."""

from collections.abc import Mapping
from pathlib import Path

from qtool.core.errors import UsageError, arg
from qtool.core.records.options import Scheme
from qtool.core.records.plan import Plan, checked, load_plan
from qtool.core.records.recipe import ASKED, text_of
from qtool.core.records.statistics import Statistics
from qtool.graph import model_io
from qtool.pipeline.planning.check import fit_plan
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.recovery.steps import apply, apply_recorded
from qtool.targets.tables import TARGETS

PathLike = str | Path


def check_files(model: PathLike, outputs: Mapping[str, PathLike | None], read: Mapping[str, object]) -> None:
    """Refuse outputs that cannot be written, that are one file, or that would overwrite what is read, by argument.

    Raises:
        OutputError, UsageError: as their names say.
    """
    written = [(name, path) for name, path in outputs.items() if path is not None]
    for _, path in written:
        model_io.check_output(path, model)
    taken = {Path(path).resolve(): name for name, path in read.items() if isinstance(path, str | Path)}
    for name, path in written:
        place = Path(path).resolve()
        if place in taken:
            raise UsageError(f"{arg(name, path)}: is {arg(taken[place])} already; name another file")
        taken[place] = name


def given_plan(plan: PathLike | Plan, prepared: Prepared) -> tuple[Prepared, Plan]:
    """Return the graph that a plan was made for, and the plan, a file or a value.

    Raises:
        UsageError: it is damaged, or does not fit the model.
    """
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


def as_calibrated(prepared: Prepared, statistics: Statistics, steps: tuple[str, ...]) -> Prepared:
    """Return the graph that the statistics were collected on; `steps` are those that the caller expects of it.

    Raises:
        CalibrationError: the statistics are of another graph.
        UsageError: they were collected without what is asked for.
    """
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


def grid_given(scheme: Scheme) -> dict[str, bool]:
    """Return which parts of a scheme are given, by the names that messages have for them."""
    plain = Scheme()
    named = {"granularity": scheme.granularity, "include_ops": scheme.include_ops, "exclude_ops": scheme.exclude_ops}
    named["exclude"] = scheme.exclude
    rest = (scheme.activations, scheme.form, scheme.dynamic) != (plain.activations, plain.form, plain.dynamic)
    return {"scheme": rest, **{name: value != getattr(plain, name) for name, value in named.items()}}


def refuse_decided(**given: bool) -> None:
    """Refuse what is given beside a plan that has decided it. Raises `UsageError`."""
    for name, is_given in given.items():
        if is_given:
            raise UsageError(f"{arg(name)} says nothing to {arg('plan')}, which has decided it; leave one of them out")
