"""`inspect_model`: what a model is, what onnxruntime runs of it, what that costs, and what to do about it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qtool.core.arguments import checked_types
from qtool.core.records.inspection import Inspection, InspectedLayer
from qtool.inspection.executed import Executed, inspected_nodes, is_integer, layer_kernels
from qtool.inspection.makers import form_of, maker_of
from qtool.inspection.opened import Opened, open_model, parameters
from qtool.inspection.planned import PlannedLayer, grid_or_none, macs_of, planned_layers, shapes_in
from qtool.runtime.census import take_census

Example = Mapping[str, np.ndarray]


@checked_types
def inspect_model(model: str | Path) -> Inspection:
    """Return what a model is and what onnxruntime runs of it; nothing is written.

    Raises:
        ModelError: the model cannot be read, or onnxruntime does not load it.
    """
    opened = open_model(model)
    return inspect_quantized(opened)


def inspect_quantized(opened: Opened) -> Inspection:
    """Return the inspection of a model that holds Q/DQ or integer operators."""
    _, census = take_census(opened.serialized)
    executed = Executed(census.nodes)
    planned = planned_layers(opened.model)
    layers = _layers(planned, executed, None, opened)
    names = frozenset(str(node.name) for node in opened.nodes)
    maker = maker_of(opened)
    return Inspection(
        model=str(opened.path),
        sha256=opened.digest,
        bytes=opened.size,
        kind="int8" if opened.is_quantized else "float",
        maker="" if maker is None else maker.name,
        form=form_of(opened),
        verdict="",
        next="",
        inputs=opened.inputs,
        outputs=opened.outputs,
        opset=opened.opset,
        parameters=parameters(opened.model),
        macs=None,
        suggestions=(),
        unusual=(),
        layers=layers,
        nodes=inspected_nodes(executed, layer_kernels(executed, planned), names),
        findings=(),
        speed=None,
        errors=(),
        targets=(),
        float_model=None,
        inputs_from="",
        not_measured=(),
    )


def _layers(
    planned: Sequence[PlannedLayer], executed: Executed, example: Example | None, opened: Opened
) -> tuple[InspectedLayer, ...]:
    kernels = layer_kernels(executed, planned)
    known = shapes_in(opened.model, example)
    macs = {layer.name: macs_of(layer, known) for layer in planned}
    counted = sum(number for number in macs.values() if number is not None)
    whole = counted if counted and all(number is not None for number in macs.values()) else None
    result = []
    for layer in planned:
        number = kernels.get(layer.name)
        own = macs[layer.name]
        result.append(
            InspectedLayer(
                name=layer.name,
                op=layer.node.op_type,
                output=str(layer.node.outputs[0].name),
                inside=layer.inside,
                macs=own,
                share=None if whole is None or own is None else own / whole,
                planned=layer.planned,
                kernel="" if number is None else executed.nodes[number].op_type,
                integer=number is not None and is_integer(executed.nodes[number]),
                input=grid_or_none(layer.x),
                weight=grid_or_none(layer.w),
                result=grid_or_none(layer.y),
                ms=None if number is None else executed.time([number]),
                float_ms=None,
                sqnr_db=None,
                alone_db=None,
                cause="",
                remedy="",
            )
        )
    return tuple(result)
