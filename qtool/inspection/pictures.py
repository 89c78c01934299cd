"""The preprocessing that a model of pictures asks for: read off its metadata, its outputs and its first nodes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from qtool.core.records.inspection import ANY_PRESET
from qtool.core.tensorspec import InputSpec
from qtool.graph import edit
from qtool.graph.edit import Model, Value

_CHANNELS, _LEAST, _USUAL = (1, 3), 16, 224
"""Of pictures; the least height and width of what may be one; and a usual one."""
_NO_PICTURE = ("frame", "time", "sample", "seq", "mel", "bin", "step")
"""Parts of names of axes along which no picture has its height or width."""
_STRIDES = (8, 16, 32)
"""Of the cells of a YOLO detector: one for each square of so many pixels."""
_ANCHORS = 3
_CLASSES = {1000: "1000 classes, as ImageNet has", 1001: "1001 classes, as TensorFlow's models of ImageNet have"}
_IN_FRONT = ("Cast", "Identity", "Transpose", "Reshape", "Slice", "Concat", "Gather", "Unsqueeze", "Squeeze")
_PIXELS = 2.0
"""A mean, or a divisor, that is larger is one of pixel values of 0 to 255."""


def picture_suggestions(model: Model, inputs: Sequence[InputSpec], path: Path) -> Iterator[str]:
    """Return what preprocessing the first of the inputs that takes pictures asks for, if one does: a line at most."""
    found = next(((spec, layout) for spec in inputs if (layout := _layout(spec)) is not None), None)
    if found is None:
        return
    spec, layout = found
    beside = path.parent / "preprocess.json"
    if beside.is_file():
        yield f"preprocess='{beside}': it lies beside the model, whose input '{spec.name}' takes pictures"
        return
    preset, why = _preset(model, spec, layout)
    takes = f"input '{spec.name}' takes {'grey ' if _channels(spec, layout) == 1 else ''}pictures ({layout})"
    yield f"preprocess='{preset}': {takes}; {why}"


def as_picture(spec: InputSpec) -> InputSpec:
    """Return an input with usual numbers for a height and width that it leaves free, where it may take pictures."""
    layout = _layout(spec)
    if layout is None or spec.shape is None:
        return spec
    sides = (2, 3) if layout == "NCHW" else (1, 2)
    free = [axis for axis in sides if not isinstance(spec.shape[axis], int) or spec.shape[axis] == 0]
    return replace(spec, shape=tuple(_USUAL if axis in free else dim for axis, dim in enumerate(spec.shape)))


def _layout(spec: InputSpec) -> str | None:
    """Where the channels are, of what may be pictures; None of what is none."""
    shape = spec.shape or ()
    if len(shape) != 4 or spec.dtype.name not in ("float32", "float16", "uint8"):
        return None
    for layout, channels, sides in (("NCHW", shape[1], shape[2:]), ("NHWC", shape[3], shape[1:3])):
        named = any(isinstance(d, str) and any(part in d.lower() for part in _NO_PICTURE) for d in sides)
        small = any(isinstance(d, int) and 0 < d < _LEAST for d in sides)
        # a spectrogram has one channel, too, and is hardly ever square
        square = channels != 1 or (sides[0] == sides[1] and isinstance(sides[0], int))
        if channels in _CHANNELS and not named and not small and square:
            return layout
    return None


def _channels(spec: InputSpec, layout: str) -> int:
    channels = (spec.shape or ())[1 if layout == "NCHW" else 3]
    return channels if isinstance(channels, int) else 3


def _preset(model: Model, spec: InputSpec, layout: str) -> tuple[str, str]:
    """The preset, and what says so. Where nothing does, the value says that one is to be chosen."""
    value = next(v for v in model.graph.inputs if v.name == spec.name)
    grey = _channels(spec, layout) == 1
    if spec.dtype == np.uint8:
        return "raw", "it takes bytes"
    detector = _detector(model, spec, layout)
    if detector is not None:
        return detector
    inside = _inside(value)
    if inside is not None:
        return inside
    if grey:
        return "unit-gray", "that is the usual one of grey pictures; check which units it was trained on"
    outputs = {spec.name: spec.shape or () for spec in edit.output_specs(model)}
    classes = next((d for s in outputs.values() if len(s) == 2 and (d := s[1]) in _CLASSES), None)
    if classes is None:
        return ANY_PRESET, "nothing in the file says in which units; imagenet, unit, raw, tf and caffe are usual"
    preset = "tf" if classes == 1001 else "imagenet" if layout == "NCHW" else "imagenet-nhwc"
    others = "tf or caffe are others'" if layout == "NCHW" else "tf or caffe are Keras'"
    more = "" if preset == "tf" else f"; {others}: check how it was trained"
    return preset, f"it has {_CLASSES[int(classes)]}{more}"


def _detector(model: Model, spec: InputSpec, layout: str) -> tuple[str, str] | None:
    """The preset of a detector, by metadata or by the names and shapes of its outputs."""
    metadata = model.metadata_props
    if "ultralytics" in f"{metadata.get('author', '')}{metadata.get('description', '')}".lower():
        return "yolo", "its metadata are those of ultralytics"
    outputs = {out.name: out.shape or () for out in edit.output_specs(model)}
    if any("pred_boxes" in name for name in outputs):
        return "detr", "its outputs are named as DETR's"
    sides = (spec.shape or ())[2:] if layout == "NCHW" else (spec.shape or ())[1:3]
    for shape in outputs.values():
        known = [d for d in (*sides, *shape) if isinstance(d, int)]
        if len(shape) != 3 or len(known) < 4:
            continue
        cells = sum(math.prod(d // stride for d in sides if isinstance(d, int)) for stride in _STRIDES)
        if shape[2] == cells:
            return "yolo", f"an output {list(shape)} is laid out as YOLOv8's"
        if shape[1] == _ANCHORS * cells:
            return "yolo", f"an output {list(shape)} is laid out as YOLOv5's"
        if shape[1] == cells:
            return "yolox", f"an output {list(shape)} is laid out as YOLOX's"
    return None


def _inside(value: Value) -> tuple[str, str] | None:
    """The preset for a model that shifts and scales the pictures itself, by the constants that it does so with."""
    current = value
    for _ in range(len(_IN_FRONT)):
        node = edit.single_consumer(current)
        if node is None:
            return None
        if edit.is_main_op(node, *_IN_FRONT):
            current = node.outputs[0]
            continue
        constants = [c for v in node.inputs if (c := edit.known_constant(v)) is not None]
        if not edit.is_main_op(node, "Sub", "Add", "Mul", "Div") or not constants or not constants[0].size:
            return None
        size = float(np.abs(constants[0]).max())
        pixels = size > _PIXELS if node.op_type != "Mul" else 0.0 < size < 1 / _PIXELS**2
        if node.op_type in ("Sub", "Add") and not pixels and size == 0.0:
            return None
        words = f"its first step is {node.op_type} of {np.array2string(constants[0].reshape(-1)[:3], precision=4)}"
        return ("raw", f"{words}, which is for 0 to 255") if pixels else ("unit", f"{words}, which is for 0 to 1")
    return None
