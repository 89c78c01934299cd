"""Many random graphs through qtool, in each form, and what went wrong, a line each.

`python -m tests.support.campaign --graphs 1000 --seed 0 --forms static,dynamic,weight-only --exclude`; a finding is
seen again with `--graphs 1 --seed SEED`, and `--save FOLDER` writes its model and data. `--forms auto` is what a user
gets who says nothing; `--unusual` grows graphs of what few networks have, of opsets 7 to 23.

Each graph is quantised by the public functions, in this process. A graph must not be refused, nor end in a traceback or
a warning; the model that was written must compute the same optimised as unoptimised, as far as its 8-bit steps tell;
and its outputs must not lie further from the float ones than uniform noise of those steps explains.
"""

import argparse
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

import qtool
from qtool.core.errors import NothingToQuantizeError, QtoolError, UsageError
from qtool.core.records.options import FORMS, Form
from qtool.core.records.plan import Plan
from qtool.graph import model_io
from qtool.pipeline.prepare import prepare
from qtool.pipeline.recovery.steps import apply
from tests.support.fuzz import confine
from tests.support.noise import predicted_db, sqnr_db
from tests.support.random_kinds import unusual_case
from tests.support.random_models import RandomCase, random_case, run_float

TriedForm = Form | Literal["auto"]
TRIED_FORMS: tuple[TriedForm, ...] = (*FORMS, "auto")
"""The forms of `qtool.quantize`; `auto` is last, where the data decides between two of them."""

# what single graphs may lie below the prediction: few numbers, and noise that is no noise
_MARGIN_DB = 9.0
# above this the prediction is of no interest
_GOOD_DB = 45.0
_DRAWS = 10
# two executions may round ties apart, which is less than what rounding costs
_APART_DB = 3.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a graph in one form.

    kind: "fine", "nothing to quantise", "refused", "traceback", "mismatch" (optimised against unoptimised) or "noise".
    message: of what went wrong. measured_db, predicted_db: the worst output's SQNR.
    """

    seed: int
    form: str
    kind: str
    message: str = ""
    measured_db: float = float("nan")
    predicted_db: float = float("nan")

    @property
    def failed(self) -> bool:
        """Whether it is a finding."""
        return self.kind not in ("fine", "nothing to quantise")


def tried(case: RandomCase, form: TriedForm, folder: Path, *, excluding: bool = False, **options: Any) -> Outcome:
    """Quantise a graph in one form, and judge the result.

    `excluding`: leave a random choice of its layers, or of its operators, in float. `options`: of `qtool.quantize`.
    """
    source, result = folder / "model.onnx", folder / f"{form}.onnx"
    onnx.save(case.model, source)
    if excluding:
        options |= exclusion(case, form)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            given: dict[str, Any] = {
                "form": form,
                **({"data": case.data, "partial": False} if form in ("static", "auto") else {}),
                **options,
            }
            plan = qtool.quantize(source, result, **given).plan
    except NothingToQuantizeError:
        return Outcome(case.seed, form, "nothing to quantise")
    except UsageError as error:
        # of an operator that is folded everywhere: what the message says to do instead must do
        remedy = re.search("with exclude='(.+)'$", str(error))
        if remedy and options.pop("exclude_ops", ()):
            return tried(case, form, folder, exclude=remedy[1], **options)
        return Outcome(case.seed, form, "refused", f"{error} {_said(options)}")
    except QtoolError as error:
        return Outcome(case.seed, form, "refused", f"{error} {_said(options)}")
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        return Outcome(case.seed, form, "traceback", f"{type(error).__name__}: {error} ({place}) {_said(options)}")
    return _judged(case, form, source, onnx.load(result), plan, _said(options))


def exclusion(case: RandomCase, form: TriedForm) -> dict[str, tuple[str, ...]]:
    """Draw what to leave in float: names of nodes, or operators; the same for the same seed and form."""
    rng = np.random.default_rng([case.seed, TRIED_FORMS.index(form), 1])
    nodes = case.model.graph.node
    names = sorted({node.name for node in nodes if node.name})
    operators = sorted({node.op_type for node in nodes})
    if names and rng.random() < 0.7:
        return {"exclude": tuple(rng.choice(names, min(int(rng.integers(1, 4)), len(names)), replace=False).tolist())}
    return {"exclude_ops": (str(rng.choice(operators)),)}


def _said(options: dict[str, Any]) -> str:
    return f"[{options}]" if options else ""


def _judged(
    case: RandomCase, form: TriedForm, source: Path, quantized: onnx.ModelProto, plan: Plan, said: str
) -> Outcome:
    exact = {name: array for name, array in run_float(case.model, case.data).items() if array.dtype == np.float32}
    shipped, plain = (run_float(quantized, case.data, optimize=optimize) for optimize in (True, False))
    measured = min(sqnr_db(exact[name], shipped[name]) for name in exact)
    apart = min(sqnr_db(plain[name], shipped[name]) for name in exact)
    prepared = apply(prepare(model_io.load(source)), plan.recipe)
    float_graph = onnx.load_from_string(model_io.to_bytes(prepared.model))
    predicted = predicted_db(float_graph, plan, case.data)
    # MatMulNBits, which weight-only products run as, rounds its input where the unoptimised product does not
    near = min(measured, predicted) - _MARGIN_DB if form == "weight-only" else measured - _APART_DB
    if apart < min(near, _GOOD_DB):
        text = f"optimised and unoptimised {apart:.1f} dB apart, where the float model is {measured:.1f} dB away {said}"
        return Outcome(case.seed, form, "mismatch", text, measured, predicted)
    if measured < min(predicted - _MARGIN_DB, _GOOD_DB):
        # of few numbers, one draw of the noise says little
        predicted = min(predicted, *(predicted_db(float_graph, plan, case.data, draw) for draw in range(1, _DRAWS)))
    if measured < min(predicted - _MARGIN_DB, _GOOD_DB):
        text = f"{measured:.1f} dB where {predicted:.1f} dB are predicted {said}"
        return Outcome(case.seed, form, "noise", text, measured, predicted)
    return Outcome(case.seed, form, "fine", "", measured, predicted)


def campaign(
    seeds: range,
    forms: tuple[TriedForm, ...],
    *,
    make: Callable[[int], RandomCase] = random_case,
    excluding: bool = False,
    save: Path | None = None,
    **options: Any,
) -> Iterator[Outcome]:
    """Try each graph in each form; the files of findings are written to `save`."""
    for seed in seeds:
        case = make(seed)
        for form in forms:
            with tempfile.TemporaryDirectory(prefix="qtool-campaign-") as folder:
                outcome = tried(case, form, Path(folder), excluding=excluding, **options)
            if outcome.failed and save is not None:
                save.mkdir(parents=True, exist_ok=True)
                onnx.save(case.model, save / f"{seed}.onnx")
                np.savez(save / f"{seed}.npz", **case.data)  # type: ignore[arg-type]
            yield outcome


def main() -> None:
    """Run what the command line asks for; exit with 1 where there is a finding."""
    parser = argparse.ArgumentParser(description="Random graphs through qtool.")
    parser.add_argument("--graphs", type=int, default=100, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    parser.add_argument("--forms", default=",".join(FORMS), help="separated by commas")
    parser.add_argument("--exclude", action="store_true", help="leave random layers or operators in float")
    parser.add_argument("--calibrator", help="one instead of the best (quicker)")
    parser.add_argument("--save", type=Path, help="folder for the models and data of findings")
    parser.add_argument("--unusual", action="store_true", help="graphs of tests.support.random_kinds")
    given = parser.parse_args()
    confine()
    forms = tuple(form for form in TRIED_FORMS if form in given.forms.split(","))
    counts: Counter[str] = Counter()
    margins, start = [], time.monotonic()
    extra = {"calibrator": given.calibrator, "smoothing": "off"} if given.calibrator else {}
    seeds = range(given.seed, given.seed + given.graphs)
    make = unusual_case if given.unusual else random_case
    for outcome in campaign(seeds, forms, make=make, excluding=given.exclude, save=given.save, **extra):
        counts[f"{outcome.form}: {outcome.kind}"] += 1
        margins.append(outcome.measured_db - outcome.predicted_db)
        if outcome.failed:
            print(f"{outcome.seed}\t{outcome.form}\t{outcome.kind}\t{outcome.message}", flush=True)
    known = [margin for margin in margins if np.isfinite(margin)]
    for name in sorted(counts):
        print(f"{counts[name]:6d}  {name}")
    if known:
        low, lower, middle, high = np.percentile(known, [1, 5, 50, 99])
        print(f"measured over predicted: {middle:.1f} dB in the middle, {lower:.1f} at the 5th percentile", end="; ")
        print(f"98 % of graphs from {low:.1f} to {high:.1f}")
    print(f"{len(seeds)} graphs in {time.monotonic() - start:.0f} s")
    sys.exit(any(not name.endswith(("fine", "nothing to quantise")) for name in counts))


if __name__ == "__main__":
    main()
