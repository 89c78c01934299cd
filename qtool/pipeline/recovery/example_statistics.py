"""One pass of the float graph over the examples: all that the steps of recovery and the choice of forms ask of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qtool.core.concurrency import side_by_side
from qtool.core.numerics.padding import Padding
from qtool.graph import compose, edit
from qtool.graph.bodies import tensors_inside
from qtool.graph.edit import Array, Model
from qtool.graph.layers import Layer
from qtool.graph.parts import saturating_ends
from qtool.graph.positions import padding_of
from qtool.pipeline.recovery.input_means import biased_layers, input_names, input_sums, smoothed_means
from qtool.pipeline.recovery.smoothing import divided_inputs, divided_names, smoothable_tensors
from qtool.runtime.bodies import BodyRuns
from qtool.runtime.session import Session, kept

Arrays = Mapping[str, np.ndarray]
Examples = Sequence[Arrays]


@dataclass(frozen=True, slots=True)
class Channels:
    """The mean squares (float64, [C]) and the extremes ([E, C]) of a tensor's channels over E examples.

    The tensor is [..., C].
    """

    squares: Array
    lows: Array
    highs: Array

    def divided(self, scale: Sequence[float]) -> "Channels":
        """Return the statistics of the tensor whose channels are divided by these positive numbers ([C])."""
        by = np.asarray(scale)
        return Channels(self.squares / by**2, self.lows / by, self.highs / by)


@dataclass(frozen=True, slots=True)
class ExampleStatistics:
    """The outputs of the graph on the examples, and the means and channels of its tensors.

    outputs: of each example, by name, and beside them what `saturating_ends` read. means: layer with a bias -> the
    means of its input (`input_sums`). channels: of the tensors that smoothing may serve. macs: how many
    multiply-accumulates the layers that read either took on all examples together.
    """

    outputs: tuple[Arrays, ...]
    means: dict[str, Array]
    channels: dict[str, Channels]
    macs: int

    def smoothed(self, model: Model, scales: Mapping[str, tuple[float, ...]]) -> "ExampleStatistics":
        """Return the statistics of the graph that computes the same with tensors divided by `scales`.

        `model` is the graph that was run.
        """
        names = divided_names(model)
        channels = {t: seen for t, seen in self.channels.items() if t not in scales}
        channels |= {names[t]: seen.divided(scales[t]) for t, seen in self.channels.items() if t in scales}
        return replace(self, means=smoothed_means(model, self.means, scales), channels=channels)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Of one example; `rows` is the number of rows of each of the tensors."""

    outputs: Arrays
    sums: dict[str, tuple[Array, int]]
    rows: dict[str, int]
    channels: dict[str, Channels]


def observe_examples(model: Model, examples: Examples, *, biases: bool = True) -> ExampleStatistics:
    """Run the prepared graph on the examples, at least one, and return what was seen.

    Of padded positions, where the graph's metadata name a mask, nothing is in `channels`.

    `biases`: whether the means are wanted.

    Raises:
        DataError: the graph cannot run on an example.
    """
    ends = [end.reads for end in saturating_ends(model)]
    outputs = list(dict.fromkeys([*(str(v.name) for v in model.graph.outputs), *ends]))
    inputs = input_names(model) if biases else {}
    layers = {name: layer for layer in biased_layers(model) if (name := str(layer.node.name)) in inputs}
    tensors = smoothable_tensors(model)
    fed = {v.name for v in model.graph.inputs}
    inside = tensors_inside(model, set(inputs.values()))
    runs = BodyRuns(model, inside, name="the prepared model")
    in_bodies = {tensor for tensors in inside.values() for tensor in tensors}
    here = {name: layer for name, layer in layers.items() if inputs[name] not in in_bodies}
    wanted = list(
        dict.fromkeys([*outputs, *(t for t in (*inputs.values(), *tensors) if t not in fed and t not in in_bodies)])
    )
    session = Session(compose.with_outputs(model, wanted), name="the prepared model")
    padding = padding_of(model, [t for t in tensors if t not in fed]) or Padding("")

    def see(example: Arrays) -> _Seen:
        arrays = {**example, **session.run(example)}
        sums = {name: input_sums(layer, arrays[inputs[name]]) for name, layer in here.items()}
        for run in runs.run(example):
            for name in layers.keys() - here.keys():
                if inputs[name] in run.found:
                    more, count = input_sums(layers[name], run.found[inputs[name]])
                    before, counted = sums.get(name, (0.0, 0))
                    sums[name] = more + before, count + counted
        kept_positions = padding.kept(example)
        seen = {t: padding.selected(t, arrays[t], kept_positions) for t in tensors}
        flat = {t: x.reshape(-1, x.shape[-1]) for t, x in seen.items()}
        return _Seen(
            kept({o: arrays[o] for o in outputs}),
            sums,
            {t: len(x) for t, x in flat.items()},
            {t: _of(x) for t, x in flat.items()},
        )

    seen = list(side_by_side(see, examples))
    means = {
        name: sum(found[1:], found[0]) / max(sum(s.sums[name][1] for s in seen if name in s.sums), 1)
        for name in layers
        if (found := [s.sums[name][0] for s in seen if name in s.sums])
    }
    macs = sum(_macs(model, s) for s in seen)
    return ExampleStatistics(tuple(s.outputs for s in seen), means, {t: _joined(t, seen) for t in tensors}, macs)


def _macs(model: Model, seen: _Seen) -> int:
    """Of one example: each number of a weight is multiplied once a row or position."""
    terms = {name: count for name, (_, count) in seen.sums.items()}
    terms |= {name: seen.rows[tensor] for name, tensor in divided_inputs(model).items()}
    layers = [Layer.of(node) for node in model.graph if node.name in terms]
    return sum(terms[str(x.node.name)] * edit.constant(x.weight).size for x in layers if x is not None)


def _of(rows: Array) -> Channels:
    """Of one example; sums of squares."""
    return Channels(
        np.einsum("ij,ij->j", rows, rows, dtype=np.float64),
        rows.min(axis=0, initial=np.inf)[None],
        rows.max(axis=0, initial=-np.inf)[None],
    )


def _joined(tensor: str, seen: Sequence[_Seen]) -> Channels:
    parts = [s.channels[tensor] for s in seen]
    squares = np.sum([part.squares for part in parts], axis=0) / max(sum(s.rows[tensor] for s in seen), 1)
    return Channels(
        squares, np.concatenate([part.lows for part in parts]), np.concatenate([part.highs for part in parts])
    )
