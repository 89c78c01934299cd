"""Cross-layer equalisation: channels are rescaled between two layers until both weights use their ranges alike.

Source: Nagel et al. 2019, "Data-Free Quantization through Weight Equalization and Bias Correction", section 4.1:
f(s x) = s f(x) for s > 0, so that W2 f(W1 x + b1) = (W2 S) f(S^-1 W1 x + S^-1 b1), and the ranges r1 and r2 of a
channel in both weights are equal at s = sqrt(r1 r2) / r2. Pairs are visited in turn until nothing changes, which for a
convolution, a depthwise one and another is the solution of the three together.

Activations share one range too: a channel whose weights are next to nothing beside its bias would be blown up, and
take the range from all others. So r1 is here the larger of two shares: of the weight's range, and of the range that the
first layer's outputs have on the data. With no data (ranges of 0) it is the paper's.

Declines for chains as `chains.py` says, and for channels that are zero in either weight. Clip(0, b) commutes with s
only below b: its channels are rescaled where the data stays below b, and so far that it stays there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qtool.graph import edit
from qtool.graph.edit import Array, Model, Value
from qtool.graph.layers import Layer, per_channel
from qtool.pipeline.recovery.chains import Chain, find_chains, upper_bound

_TOLERANCE = 1e-3
_ROUNDS = 100
_TINY = 1e-300

Extremes = Mapping[str, tuple[Array, Array]]
"""Output of a layer -> the least and the greatest value of each channel on the data, [C] each."""


@dataclass(slots=True)
class _Pair:
    """A chain of C channels; all arrays are [C].

    reach: the largest absolute output of the first layer. least: the least scale allowed; inf where it must stay 1.
    scale: what was found so far.
    """

    chain: Chain
    reach: Array
    least: Array
    scale: Array


def find_scales(model: Model, extremes: Extremes) -> dict[str, tuple[float, ...]]:
    """Find what the channels of each first layer are to be divided by (float32, [C]), by the layer's output.

    `extremes` are those of the layers that `equalizable_tensors` names. Layers that do not change are left out.
    """
    pairs = [pair for chain, bound in _chains(model) if (pair := _pair(chain, bound, *extremes[chain.tensor]))]
    weights = {layer: _float64(layer.weight) for pair in pairs for layer in (pair.chain.first, pair.chain.second)}
    for _ in range(_ROUNDS):
        if max((_balance(pair, weights) for pair in pairs), default=0.0) < _TOLERANCE:
            break
    return {p.chain.tensor: tuple(map(float, p.scale.astype(np.float32))) for p in pairs if (p.scale != 1.0).any()}


def equalizable_tensors(model: Model) -> list[str]:
    """Return the names of the layers' outputs whose extremes `find_scales` needs."""
    return [chain.tensor for chain, _ in _chains(model)]


def equalize(model: Model, scales: Mapping[str, Sequence[float]]) -> Model:
    """Return a copy of the prepared graph with the channels rescaled; it computes the same.

    Raises:
        ValueError: the scales do not fit the graph.
    """
    result = edit.clone(model)
    chains = {chain.tensor: chain for chain, _ in _chains(result)}
    weights: dict[Layer, Array] = {}
    names = edit.Names(result.graph)
    for tensor, numbers in scales.items():
        chain, scale = chains.get(tensor), np.asarray(numbers, np.float64)
        if chain is None or scale.shape != (chain.size,):
            raise ValueError(f"it rescales tensor {tensor!r}, which this model does not hold like that")
        first = weights.setdefault(chain.first, _float64(chain.first.weight))
        second = weights.setdefault(chain.second, _float64(chain.second.weight))
        _divide(chain, first, second, scale)
        if chain.first.bias is not None:
            replace_bias(result, chain.first, _float64(chain.first.bias) / scale, names, "equalized")
    for layer, weight in weights.items():
        _replace_input(result, layer, layer.operator.weights[0], weight, names, "equalized")
    return result


def replace_bias(model: Model, layer: Layer, value: Array, names: edit.Names, suffix: str) -> None:
    """Give the layer this bias (any float; stored as float32). Raises `ValueError` where it overflows."""
    assert layer.operator.bias is not None
    _replace_input(model, layer, layer.operator.bias, value, names, suffix)


def _replace_input(model: Model, layer: Layer, index: int, value: Array, names: edit.Names, suffix: str) -> None:
    with np.errstate(over="ignore"):
        exact = value.astype(np.float32)
    node = layer.node
    if not np.isfinite(exact).all():
        raise ValueError(f"it leads to Inf in node {node.name!r}")
    new = edit.add_initializer(model.graph, names.fresh(f"{node.name}_{suffix}"), exact)
    edit.set_input(node, index, new)


def _chains(model: Model) -> list[tuple[Chain, float]]:
    """The chains that can be rescaled, each with the bound that its channels must stay below (inf: none)."""
    return [(chain, bound) for chain in find_chains(model) if (bound := upper_bound(chain)) is not None]


def _pair(chain: Chain, bound: float, low: Array, high: Array) -> _Pair | None:
    """None where the data holds NaN or Inf, which calibration will report."""
    low, high = low.astype(np.float64), high.astype(np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    # a little more than was seen: the rescaled layer rounds differently
    share = np.maximum(high, 0.0) * (1.0 + 1e-5) / bound
    least = np.where(share < 1.0, share, np.inf)
    return _Pair(chain, np.maximum(np.abs(low), np.abs(high)), least, np.ones(chain.size))


def _balance(pair: _Pair, weights: Mapping[Layer, Array]) -> float:
    """One step of one pair, in place; returns the largest change of a factor (its logarithm)."""
    chain = pair.chain
    first, second = weights[chain.first], weights[chain.second]
    rows = np.abs(chain.first.output_channels(first)).reshape(chain.size, -1)
    columns = np.abs(chain.second.input_channels(second, chain.size))
    r1, r2 = rows.max(axis=1), columns.max(axis=tuple(range(2, columns.ndim))).reshape(-1)
    reach = pair.reach / pair.scale
    free = (r1 > 0.0) & (r2 > 0.0) & np.isfinite(pair.least)
    share = np.maximum(r1 / max(r1.max(), _TINY), reach / max(reach.max(), _TINY))
    wanted = np.sqrt(np.divide(share * r1.max(), r2, out=np.ones(chain.size), where=free))
    step = np.where(free, np.maximum(pair.scale * wanted, pair.least) / pair.scale, 1.0)
    _divide(chain, first, second, step)
    pair.scale = pair.scale * step
    return float(np.abs(np.log(step)).max(initial=0.0))


def _divide(chain: Chain, first: Array, second: Array, scale: Array) -> None:
    """Divide the first weight's output channels, multiply the second's input channels; in place."""
    rows = chain.first.output_channels(first)
    rows /= per_channel(scale, rows)
    columns = chain.second.input_channels(second, chain.size)
    columns *= per_channel(scale, columns)


def _float64(value: Value | None) -> Array:
    return edit.constant(value).astype(np.float64, order="C")
