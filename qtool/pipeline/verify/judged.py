"""The judge of a model's outputs: by parts that differ in kind, and in front of a Sigmoid or Softmax too.

Scores that are 0 or 1 in nearly all examples say next to nothing of the model that comes close to them, and the squares
of its differences come from one place in a thousand. What the Sigmoid reads is judged then as well.
"""

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from qtool.core.numerics.padding import Padding
from qtool.core.numerics.sqnr import OutputNoise, Parts, Uneven, loudness, measured_outputs, worst
from qtool.graph.edit import Array, Model
from qtool.graph.parts import Saturating, output_parts, parted_tensors, place_outputs, saturating_ends
from qtool.graph.positions import padding_of
from qtool.pipeline.verify.macs import shapes_of

Arrays = Mapping[str, Array]
_FLAT = 0.05
"""A Sigmoid whose slope is on average less than this share of its largest is saturated; so is a Softmax whose largest
probability lacks less than that to 1."""
_NEAR = 8.0
"""Logits: a Sigmoid is 0.0003 there, and less than that beyond."""
_NOTHING = 1e-12
"""A variance that is a smaller share of the mean square is none."""


class OutputJudge:
    """Judges models by the outputs of one float graph.

    Args:
        prepared: the float graph.
        example: a batch of its inputs.
        outputs: what it gives of that.
    """

    def __init__(self, prepared: Model, example: Arrays, outputs: Arrays) -> None:
        self.names = measured_outputs({str(v.name): outputs[str(v.name)] for v in prepared.graph.outputs})
        self.places = place_outputs(prepared)
        self.ends = tuple(end for end in saturating_ends(prepared) if end.output in self.names)
        self.parts = find_parts(prepared, example)
        self.padding = padding_of(prepared, self.names)

    def start(self) -> "Judged":
        """Return sums that hold nothing yet, for one model."""
        return Judged(self.names, self.parts, self.ends, self.places, self.padding)


def find_parts(prepared: Model, example: Arrays) -> dict[str, Parts]:
    """Return the parts of each output of the prepared graph that has several, by its run on a batch of inputs."""
    tensors = parted_tensors(prepared)
    return output_parts(prepared, shapes_of(prepared, example, tensors)) if tensors else {}


class Judged:
    """The sums of one model's differences, of which `add` adds those of an example."""

    def __init__(
        self,
        names: Sequence[str],
        parts: Mapping[str, Parts],
        ends: Sequence[Saturating],
        places: Collection[str] = (),
        padding: Padding | None = None,
    ) -> None:
        self._padding = padding
        self.outputs = {name: OutputNoise(parts.get(name), each=True) for name in names}
        # those of several levels of a detector are of one kind
        kinds = dict.fromkeys((end.output, end.axis, end.chooses) for end in ends)
        self._reads = {kind: _Reads(kind[1]) for kind in kinds}
        self._ends = ends
        self._same = {name: _Same() for name in names if name in places}

    def add(self, exact: Arrays, made: Arrays) -> None:
        """Add the outputs of the float graph, and those of the model; of both what a Sigmoid reads, where it is known.

        The latter by the name that it has in the float graph. Padded positions count as neither signal nor noise, where
        the mask of the inputs stands among `exact`.
        """
        padding = self._padding or Padding("")
        kept = padding.kept(exact)
        for name, output in self.outputs.items():
            output.add(*(padding.blanked(name, array, kept) for array in (exact[name], made[name])))
        for name, same in self._same.items():
            same.add(exact[name], made[name])
        for end in self._ends:
            one, other = exact.get(end.reads), made.get(end.reads)
            if one is not None and other is not None and one.shape == other.shape:
                self._reads[end.output, end.axis, end.chooses].add(one.astype(np.float64), other.astype(np.float64))

    def before(self) -> dict[str, float]:
        """Return the SQNR in dB of what saturated Sigmoids and Softmaxes, and ArgMaxes read, the worst of each output.

        Where an ArgMax reads the same as in float it is inf.
        """
        result: dict[str, float] = {}
        for (output, _, chooses), reads in self._reads.items():
            clear = self.outputs[output].clear and not chooses
            db = reads.db(clear=clear)
            if db is None and chooses and reads.equal:
                db = math.inf
            if db is not None and (reads.flat or not clear):
                result[output] = min(db, result.get(output, db))
        return result

    def by_output(self) -> dict[str, float | None]:
        """Return each output's SQNR in dB: of its worst part, or in front of its end where all is too faint to say.

        None of one that says places.
        """
        before = self.before()
        found = {name: noise.db_of_clear for name, noise in self.outputs.items() if name not in self._same}
        faint = {name for name, db in found.items() if db is None or (db == np.inf and name in before)}
        found |= {name: before.get(name, self.outputs[name].db) for name in faint}
        return {name: found.get(name) for name in self.outputs}

    def agreement(self) -> dict[str, float]:
        """Return the share of entries that are float's, 0 to 1, of each output that says places."""
        return {name: same.share for name, same in self._same.items() if same.share is not None}

    def unlike(self) -> dict[str, int]:
        """Return how many entries of an output are NaN or Inf in one alone, or differently so, where any is."""
        return {name: noise.unlike for name, noise in self.outputs.items() if noise.unlike}

    def uneven(self) -> Uneven | None:
        """Return what one example makes of the noise of the worst output, where it alone decides the figure."""
        figures = {name: db for name, db in self.by_output().items() if db is not None}
        if not figures:
            return None
        return self.outputs[min(figures, key=lambda name: loudness(figures[name]))].uneven

    def figure(self) -> float | None:
        """Return what models are compared by: the worst of all in dB; None where nothing is measured."""
        return worst([*self.by_output().values(), *self.before().values()])


class _Same:
    """Counts the entries of an output that are equal; where its shape is another none is."""

    def __init__(self) -> None:
        self._equal, self._all = 0, 0

    def add(self, exact: Array, made: Array) -> None:
        self._all += exact.size
        self._equal += int((exact == made).sum()) if exact.shape == made.shape else 0

    @property
    def share(self) -> float | None:
        return self._equal / self._all if self._all else None


class _Reads:
    """The sums of what a Sigmoid or, along an axis, a Softmax reads.

    A constant is no signal: of -60 in all data but for some, the SQNR would be good whatever became of these.
    """

    def __init__(self, axis: int | None) -> None:
        self._axis = axis
        self._all, self._near = _Variation(), _Variation()
        self._slopes, self._places = 0.0, 0

    def add(self, exact: Array, made: Array) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            if self._axis is None:
                # as a share of the largest
                slopes = 1.0 / np.cosh(exact / 2) ** 2
                self._near.add(*(np.clip(x, -_NEAR, _NEAR) for x in (exact, made)))
            else:
                exact, made = (x - x.max(axis=self._axis, keepdims=True) for x in (exact, made))
                # what the largest probability lacks to 1
                slopes = 1.0 - 1.0 / np.exp(exact).sum(axis=self._axis)
                self._near.add(*(np.maximum(x, -_NEAR) for x in (exact, made)))
                exact, made = (x - x.mean(axis=self._axis, keepdims=True) for x in (exact, made))
        self._all.add(exact, made)
        self._slopes += float(slopes[np.isfinite(slopes)].sum())
        self._places += slopes.size

    @property
    def flat(self) -> bool:
        """Whether it is saturated nearly everywhere."""
        return self._slopes < _FLAT * self._places

    @property
    def equal(self) -> bool:
        """Whether there is a signal and no noise."""
        return self._all.signal > 0.0 and self._all.noise == 0.0

    def db(self, *, clear: bool) -> float | None:
        """The SQNR in dB; None where there is no signal, or no noise.

        Where the output is clear, what is far from the threshold counts as no farther than `_NEAR`.
        """
        near = self._near.db if clear else None
        return self._all.db if near is None else near


class _Variation:
    """The variance of values, and the sum of squares of what another model makes of them."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares, self._noise = 0, 0.0, 0.0, 0.0

    def add(self, exact: Array, made: Array) -> None:
        finite = np.isfinite(exact) & np.isfinite(made)
        x, wrong = exact[finite], made[finite] - exact[finite]
        self._count += x.size
        self._sum += float(x.sum())
        self._squares += float(x @ x)
        self._noise += float(wrong @ wrong)

    @property
    def noise(self) -> float:
        return self._noise

    @property
    def signal(self) -> float:
        found = self._squares - self._sum**2 / max(self._count, 1)
        return found if found > _NOTHING * self._squares else 0.0

    @property
    def db(self) -> float | None:
        if self.signal == 0.0 or self._noise == 0.0:
            return None
        return 10.0 * math.log10(self.signal / self._noise)
