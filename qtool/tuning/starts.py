"""The float graphs that tuning starts from, calibrated when they are first wanted, and the judges of their plans."""

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from qtool.core.compute import Compute
from qtool.core.numerics.calibrators import Calibrator
from qtool.core.records.doubts import calibration_doubts
from qtool.core.records.options import Scheme
from qtool.core.records.recipe import ABSORB_BIASES, ASKED, EQUALIZE
from qtool.core.text import amount
from qtool.evaluation.run import Reference
from qtool.pipeline.calibration.run import count_prepared
from qtool.pipeline.calibration.tensors import CalibratedTensors
from qtool.pipeline.prepare import Prepared
from qtool.pipeline.verify.original import Original
from qtool.quantization.candidates import mixed_scheme, schemes_by_form
from qtool.quantization.graphs import FloatGraph, migrated, observed_graph
from qtool.quantization.halves import halved, original_of
from qtool.runtime.session import Session
from qtool.targets.rules import Target
from qtool.tuning.aim import Aim
from qtool.tuning.budget import Budget
from qtool.tuning.judge import Judge
from qtool.tuning.search import Attempt
from qtool.tuning.shares import KEPT, Shares


@dataclass(slots=True)
class Starts:
    """The float graphs that `quantize` tries, and those with channels rescaled between layers.

    Each is calibrated when it is first wanted. doubts: what is odd about the data that calibrates.
    """

    model: Path
    prepared: Prepared
    tensors: CalibratedTensors
    target: Target
    scheme: Scheme
    aim: Aim
    parts: Shares
    folder: Path
    budget: Budget
    compute: Compute
    originals: dict[tuple[str, ...], Original] = field(default_factory=dict)
    judges: list[Judge] = field(default_factory=list)
    reference: Reference | None = None
    examples: int | None = None
    known: dict[tuple[str, ...], FloatGraph | None] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()

    def attempts(self) -> list[Attempt]:
        """Return the attempts in the order in which they are tried: what mostly serves first."""
        result = []
        for label, graph in (("smoothed, ", self._smoothed), ("", self._plain)):
            result += [
                Attempt(label, self._by_form(graph, "static")),
                Attempt(f"{label}dynamic, ", self._by_form(graph, "dynamic"), every=False),
                Attempt(f"{label}mixed, ", self._mixed(graph), every=False),
            ]
        for label, steps in (("equalised", (EQUALIZE,)), ("equalised and biases absorbed", (EQUALIZE, ABSORB_BIASES))):
            result.append(Attempt(f"{label}, ", self._by_form(functools.partial(self._stepped, *steps), "static")))
        return result

    def _by_form(self, graph: Callable[[], FloatGraph | None], form: str) -> Callable[[Calibrator], Judge | None]:
        def make(_: Calibrator) -> Judge | None:
            found = graph()
            scheme = None if found is None else schemes_by_form(found.model, self.target, self.scheme).get(form)
            return None if found is None or scheme is None else self._judge(found, scheme)

        return make

    def _mixed(self, graph: Callable[[], FloatGraph | None]) -> Callable[[Calibrator], Judge | None]:
        def make(calibrator: Calibrator) -> Judge | None:
            found = graph()
            if found is None:
                return None
            schemes = schemes_by_form(found.model, self.target, self.scheme)
            if "dynamic" not in schemes:
                return None
            scheme = mixed_scheme(found, schemes["static"], self.target, calibrator)
            return None if scheme is None else self._judge(found, scheme)

        return make

    def _plain(self) -> FloatGraph:
        found = self._calibrated()
        assert found is not None
        return found

    def _smoothed(self) -> FloatGraph | None:
        base = self._plain()
        if not self.target.on_cpu:
            return None
        static = schemes_by_form(base.model, self.target, self.scheme)["static"]
        if ("smoothed",) not in self.known:
            integer = base.planner(self.target, static, dynamic=True).placement().integer
            self.known["smoothed",] = migrated(base, tuple(integer))
        return self.known["smoothed",]

    def _stepped(self, *steps: str) -> FloatGraph | None:
        found = self._calibrated(*steps)
        assert found is not None
        return None if found.prepared.recipe.idle else found

    def _calibrated(self, *steps: str) -> FloatGraph | None:
        if steps not in self.known:
            begun = time.monotonic()
            prepared, statistics = count_prepared(self.prepared, steps, self.parts.feeds, self.tensors, self.compute)
            most = self.budget.examples((time.monotonic() - begun) / max(statistics.samples, 1))
            if most is not None and most < len(statistics.examples):
                self.examples = most
                statistics = replace(statistics, examples=statistics.examples[:most])
            if not steps:
                self.doubts = calibration_doubts(statistics)
            half = halved(prepared, statistics)
            self.originals[steps] = original_of(prepared, half)
            hasten = self.target if self.target.on_cpu and not steps else None
            self.known[steps] = observed_graph(
                prepared, half.choosing, self.originals[steps], hasten=hasten, biases=True, needed=True
            )
        return self.known[steps]

    def _judge(self, graph: FloatGraph, scheme: Scheme) -> Judge:
        judge = Judge(
            self.model,
            graph.planner(self.target, scheme, dynamic=True),
            # what masks are made mild of and outliers migrated in has the examples of the graph as it came
            self.originals[tuple(step for step in graph.prepared.recipe.steps if step in ASKED)],
            self.aim,
            self.parts.choosing,
            self.folder,
            self.budget,
            self.compute,
            self.parts.feeds.again,
            self._shared(),
        )
        self.judges.append(judge)
        return judge

    def _shared(self) -> Reference:
        """What the float model computes on the data that chooses, which all judges compare with."""
        if self.reference is None:
            self.reference = Reference(Session(self.model, provider=self.compute.provider), KEPT)
        return self.reference

    @property
    def chosen(self) -> int | None:
        """The number of samples that choose, None before a model was judged."""
        return next((judge.samples for judge in reversed(self.judges) if judge.samples is not None), None)

    def cut(self) -> Iterator[str]:
        """Yield how much of the data the time budget let calibrate and choose, where that is not all of it."""
        graph = self.known.get(())
        if self.parts.calibrating.cut is not None and graph is not None:
            yield f"the time budget let only {amount(graph.statistics.samples, 'sample')} calibrate"
        if self.examples is not None:
            yield f"the time budget let only {amount(self.examples, 'example')} prove models"
        if self.parts.choosing.cut is not None and self.chosen:
            yield f"the time budget let only {amount(self.chosen, 'sample')} choose"
