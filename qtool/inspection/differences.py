"""The comparison that shows what onnxruntime computes wrongly: its optimised layers, each alone, against the file.

The graph is cut at each QuantizeLinear, as `qtool.pipeline.verify` does it for its own models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qtool.anatomy.integers import NBITS
from qtool.anatomy.planned import is_layer
from qtool.core.errors import DataError, ModelError
from qtool.core.numerics.sqnr import SignalToNoise, measured_outputs
from qtool.graph import compose, edit
from qtool.graph.edit import Array, Model
from qtool.inspection.inputs import Example
from qtool.runtime.session import Session

_MEAN_STEPS = 0.5
_ROUNDING = 1
"""Steps that rounding alone makes: where sums lie half way between two steps (1 + erf on grids of which one is twice as
coarse as the other), a kernel may round each of them to the other side.
"""
_FAR = 2
_FAR_SHARE = 1e-2
"""Of all numbers of a tensor, so many may lie more than two steps apart."""
_OUTPUT_DB = 40.0
_EXACT_INPUTS = {"session.qdq_matmulnbits_accuracy_level": "1"}
_HALF = 2


@dataclass(frozen=True, slots=True)
class Differences:
    """The result of a comparison.

    found: layer -> in words, how far its kernel is off. whole_db: the worst output, optimised against unoptimised;
    None where it was not measured. absent: why nothing was compared.
    """

    found: Mapping[str, str]
    whole_db: float | None = None
    absent: str = ""


def differences(model: Model, examples: Sequence[Example], kernels: Mapping[str, int]) -> Differences:
    """Return what onnxruntime's optimised layers compute otherwise than the file says, on some examples.

    kernels: the layers that run as some kernel; of what differs the layer is named that makes it.
    """
    if not examples:
        return Differences({}, absent="no inputs")
    model = _with_exact_products(model)
    pieces, cuts = compose.cut(model)
    outputs = [str(v.name) for v in model.graph.outputs]
    try:
        plain = Session(
            compose.with_outputs(model, list(dict.fromkeys([*cuts, *outputs]))), optimize=False, name="the model"
        )
        alone = Session(pieces, config=_EXACT_INPUTS, name="the layers of the model")
        steps: dict[str, list[float]] = {}
        tails: dict[str, SignalToNoise] = {}
        for example in examples[:_HALF]:
            exact = plain.run(example)
            fed = {spec.name for spec in alone.inputs}
            feeds = {
                **{n: a for n, a in example.items() if n in fed},
                **{f: exact[t] for t, f in cuts.items() if f in fed},
            }
            found = alone.run(feeds)
            for tensor in cuts:
                if tensor in found and exact[tensor].dtype.kind in "iu":
                    steps.setdefault(tensor, []).append(_off(exact[tensor], found[tensor]))
            for name in measured_outputs({n: exact[n] for n in outputs}):
                tails.setdefault(name, SignalToNoise()).add(exact[name], found[name])
    except (ModelError, DataError) as error:
        return Differences({}, absent=str(error))
    off = {tensor: f"{max(each):.2g} steps on average" for tensor, each in steps.items() if max(each) > 0}
    for name, noise in tails.items():
        if noise.db is not None and noise.db < _OUTPUT_DB and noise.signal.total > 0:
            off[name] = f"{noise.db:.1f} dB between them"
    named = {_maker(model, tensor, frozenset(cuts), kernels): words for tensor, words in off.items()}
    return Differences(named, min((n.db for n in tails.values() if n.db is not None), default=None))


def _with_exact_products(model: Model) -> Model:
    """The model, its products of weights in blocks in float.

    That these round blocks of their input to 8 bits is asked for by the file (accuracy_level), and next to each border
    between two roundings a sum in another order falls on the other side.
    """
    if not any(node.op_type == NBITS for node in model.graph.all_nodes()):
        return model
    copy = edit.clone(model)
    for node in copy.graph.all_nodes():
        if node.op_type == NBITS:
            edit.set_attribute(node, "accuracy_level", 1)
    return copy


def _off(one: Array, other: Array) -> float:
    """Steps that one run of a layer is off the other on average; 0 where no more than rounding explains."""
    if one.shape != other.shape or not one.size:
        return 0.0
    distance = np.abs(one.astype(np.int32) - other.astype(np.int32))
    if distance.max() <= _ROUNDING:
        return 0.0
    wrong = distance.mean() > _MEAN_STEPS or np.count_nonzero(distance > _FAR) > _FAR_SHARE * distance.size
    return float(distance.mean()) if wrong else 0.0


def _maker(model: Model, tensor: str, stops: frozenset[str], kernels: Mapping[str, int]) -> str:
    """The layer that makes a tensor from the 8-bit ones before it; the tensor itself where there is none."""
    waiting, seen = [edit.named_values(model.graph).get(tensor)], set()
    while waiting:
        value = waiting.pop(0)
        node = None if value is None else value.producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        if is_layer(node) and str(node.name) in kernels:
            return str(node.name)
        waiting += [v for v in node.inputs if v is not None and v.name not in stops and not v.is_initializer()]
    return tensor
