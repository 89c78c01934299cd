"""Bias correction: rounding the weights shifts the mean of each output channel; the bias takes the shift back.

Source: Nagel et al. 2019, "Data-Free Quantization through Weight Equalization and Bias Correction", section 4.2, in its
empirical form: the shift is E[f(x, w_rounded - w)] over samples, on the float network's inputs. Since f is linear, that
is what rounding adds to the weight times the means of what it is multiplied with, padding, strides and groups included.
The grid of the activations plays no part in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qtool.core.numerics.affine import dequantize
from qtool.core.numerics.weights import WeightMemo
from qtool.core.records.plan import BiasShift, Plan
from qtool.graph import edit
from qtool.graph.edit import Array, Model
from qtool.pipeline.recovery.example_statistics import observe_examples
from qtool.pipeline.recovery.input_means import biased_layers, mean_shift


def correct_biases(
    prepared: Model,
    plan: Plan,
    examples: Sequence[Mapping[str, np.ndarray]],
    means: Mapping[str, Array] | None = None,
    memo: WeightMemo | None = None,
) -> Plan:
    """Return the plan with a shift for the bias of every quantised layer that has one.

    Args:
        examples: batches of inputs; only read where `means` is None.
        means: of the layers' inputs, as `observe_examples` finds them on the examples.
        memo: the integers of this graph's weights that are known; is added to.
    """
    memo = memo or WeightMemo()
    layers = {str(layer.node.name): layer for layer in biased_layers(prepared)}
    weights = {
        name: weight
        for weight in plan.weights
        for name, index in weight.readers
        if name in layers and index == layers[name].operator.weights[0]
    }
    if not weights:
        return plan
    if means is None:
        means = observe_examples(prepared, examples).means
    shifts = []
    for name, layer in layers.items():
        bias = layer.operator.bias
        # a body that no example runs has no means
        if name not in weights or bias is None or name not in means:
            continue
        exact, weight = edit.constant(layer.weight), weights[name]
        change = dequantize(weight.quantized(exact, memo), weight.params) - exact
        shift = -mean_shift(layer, change, means[name])
        shifts.append(BiasShift((name, bias), tuple(float(x) for x in shift.astype(np.float32))))
    return replace(plan, shifts=tuple(shifts))
