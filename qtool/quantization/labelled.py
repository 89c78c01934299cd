"""The drop of a metric with labels, of the model that is written: measured on samples that did not choose its plan."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qtool.core.compute import Compute
from qtool.core.errors import UsageError, arg
from qtool.core.records.evaluation import Evaluation, MaxDrop
from qtool.core.scratch import scratch_folder
from qtool.evaluation.decoding.user import DecodeSpec
from qtool.evaluation.evaluate import compare, probe
from qtool.evaluation.gates import check_gates, judge
from qtool.evaluation.metrics.registry import MetricSpec, check_decode, resolve_metric
from qtool.feeds import Feeds, LabelledOptions
from qtool.feeds.batching import record_of
from qtool.graph import model_io
from qtool.graph.serialized import Serialized


@dataclass(frozen=True, slots=True)
class Reporting:
    """The samples of data that did not choose, with their labels; called, it yields both by name, a batch each.

    chose: the samples that did, by the index of the first of each batch or sequence.
    """

    feeds: Feeds
    chose: Collection[int] = ()

    @property
    def __name__(self) -> str:
        """What to call the data in messages and results."""
        return f"{self.feeds.name} (those that did not choose the plan)" if self.chose else self.feeds.name

    def __call__(self) -> Iterator[dict[str, Any]]:
        """Yield dictionaries of inputs and labels by name."""
        for batch in self.feeds:
            if batch.start not in self.chose:
                yield record_of(batch, self.feeds.states)


@dataclass(frozen=True, slots=True)
class DropLimit:
    """A limit on what a metric with labels may lose.

    metric: as in `evaluate`, None for the one that it takes by itself. decode, labels: as there.
    """

    max_drop: MaxDrop
    metric: MetricSpec | None
    decode: DecodeSpec | None
    labels: str | Path | None = None

    @classmethod
    def of(
        cls,
        max_drop: MaxDrop | str | float | None,
        metric: MetricSpec | None,
        decode: DecodeSpec | None,
        reading: LabelledOptions,
        *,
        has_data: bool,
    ) -> "DropLimit | None":
        """Return what the arguments of a public function ask for, None for nothing.

        Raises:
            UsageError: a metric that nothing is asked of, or is unknown; a drop that cannot be measured, or that every
                model has.
        """
        given = {"metric": metric, "decode": decode, "labels": reading.get("labels")}
        named = next((name for name, value in given.items() if value is not None), None)
        if max_drop is None:
            if named is not None:
                raise UsageError(
                    f"{arg(named)} says nothing without {arg('max_drop')}, the gate on what the metric loses; give "
                    "both, or measure without a gate by `qtool eval`"
                )
            return None
        limit = MaxDrop.parse(max_drop)
        if not has_data:
            raise UsageError(
                f"{arg('max_drop', limit)}: is measured on labels, which no calibration file holds; give "
                f"{arg('data')} with labels instead, or ask `qtool eval` for it"
            )
        chosen = () if metric is None else (resolve_metric(metric),)
        check_decode(chosen, decode)
        if chosen:
            check_gates([one.info for one in chosen], limit, None)
        return cls(limit, metric, decode, reading.get("labels"))

    @property
    def asked(self) -> dict[str, object]:
        """The options of the command line that ask for it, by name."""
        return {
            "metric": self.metric,
            "max_drop": str(self.max_drop),
            "decode": self.decode,
            "labels": self.labels,
        }

    def check(self, model: str | Path, feeds: Feeds) -> None:
        """Measure the float model on the first batch, so that what is missing is said before any work.

        Raises:
            UsageError, DataError: see `evaluate`.
        """
        found = probe(model, Reporting(feeds), self.metric, self.decode, **feeds.again)
        check_gates(found.metrics, self.max_drop, None, found.unlabelled)

    def measured(
        self,
        model: str | Path,
        made: Serialized,
        output: Path,
        feeds: Feeds | None,
        chose: Collection[int],
        compute: Compute,
    ) -> Evaluation:
        """Return the figures of the float model and of the one that will be written, before it is, and the gates.

        What ran on the CPU when it was chosen does here too. Where every sample chose, all of them report, and a
        warning says so.

        Args:
            model: the float one.
            made: the other, which goes to `output`.
            feeds: the data.
            chose: the samples that chose, see `Reporting`.
            compute: how many threads.

        Raises:
            DataError: see `evaluate`.
        """
        assert feeds is not None, "DropLimit.of has asked for data"
        records, doubts = Reporting(feeds, chose), feeds.notes
        if all(batch.start in chose for batch in feeds):
            records = Reporting(feeds)
            doubts += (f"{feeds.name}: every sample chose the plan too; give more, so that others tell the drop",)
        on_cpu = Compute(compute.threads, progress=compute.progress)
        with scratch_folder() as folder:
            # the file's name stands in the names of its external data
            path = folder / output.name
            model_io.write(made, path)
            found = compare(model, [path], records, self.metric, self.decode, on_cpu, feeds.again)
        exact = replace(found.float_model, name=Path(model).name)
        written = tuple(replace(one, name=output.name, path=str(output)) for one in found.candidates)
        return replace(
            found,
            float_model=exact,
            candidates=written,
            gates=judge(exact, written, found.metrics, self.max_drop, None),
            warnings=(*doubts, *found.warnings),
        )
