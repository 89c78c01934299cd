"""The settings by which uint8 images become a model's input, their files and their presets."""

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from qtool.core.errors import UsageError, arg
from qtool.core.numerics.affine import FLOAT32_MAX
from qtool.core.reading import SETTINGS_LIMIT, read_text
from qtool.core.records.codec import parsed, parsed_toml
from qtool.core.text import amount, meant

LAYOUTS = ("NCHW", "NHWC", "AUTO")
COLORS = ("RGB", "BGR", "GRAY")
RESIZES = ("stretch", "center-crop", "letterbox", "pad")
PADDED = ("letterbox", "pad")
"""The resizes that keep the proportions and fill up what is left."""
INTERPOLATIONS = ("bilinear", "bicubic", "linear")
CATEGORIES = ("index", "id")
_GREY = (114,)
_WORDS = {
    "layout": LAYOUTS,
    "color": COLORS,
    "resize": RESIZES,
    "interpolation": INTERPOLATIONS,
    "categories": CATEGORIES,
}
_TINY = 2.0**-126
MOST_PIXELS = 2**27
"""Of a picture, also while it is resized: 400 MB in colour."""
_LEAST_CROP = 0.01


@dataclass(frozen=True, slots=True)
class Preprocess:
    """The settings of preprocessing: x = (u8 * scale - mean) / std for every channel, then the layout.

    Channels are in the model's order.

    Attributes:
        layout: the model's axes; AUTO reads them off the model's input shape.
        color: the model's channel order; GRAY is one channel (ITU-R 601 luma of a colour picture).
        scale, mean, std: in units of the 0..255 pixel values; one number, or one a channel for mean and std.
        size: height and width that the model takes; None means the model's own where fixed, else each
            image's.
        resize: "stretch" to that size; or "center-crop": keep the proportions, cover the size, cut the middle
            out; or keep the proportions, fit into the size and fill up the rest, on all sides with "letterbox"
            (ultralytics), at the right and the bottom with "pad" (YOLOX). Images that have the size already are left
            alone.
        crop: with "center-crop", which part of the resized picture is kept along its tighter side; 0.875
            resizes to 256 and keeps 224.
        pad: what "letterbox" and "pad" fill up with, 0 to 255, one value or one a channel; None is what becomes 0
            ("mean" in a file).
        interpolation: "bilinear" or "bicubic" with antialiasing (Pillow), or "linear", bilinear without it (OpenCV's
            INTER_LINEAR).
        edges: where neither the model nor `size` says the size: the shorter side becomes the first number, unless the
            longer one would be more than the second (DETR).
        input_name: the input that takes the images, where the model has several.
        label_offset: what is added to integer labels.
        categories: the class of a COCO category: "index", its place among the sorted identifiers, or "id", the
            identifier itself.

    Raises:
        UsageError: a value is impossible.
    """

    layout: str = "AUTO"
    color: str = "RGB"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None
    resize: str = "stretch"
    crop: float = 1.0
    pad: tuple[int, ...] | None = _GREY
    interpolation: str = "bilinear"
    edges: tuple[int, int] | None = None
    input_name: str | None = None
    label_offset: int = 0
    categories: str = "index"

    def __post_init__(self) -> None:
        for key, valid in _WORDS.items():
            value = getattr(self, key)
            if value not in valid:
                raise UsageError(f"preprocess: {key} is {reprlib.repr(value)}; use one of {', '.join(valid)}")
        self._check_values()
        self._check_sizes()
        if abs(self.label_offset) >= 2**31:
            raise UsageError("preprocess: label_offset does not fit into 32 bits; give a smaller number")

    def _check_values(self) -> None:
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, self.channels):
                raise UsageError(
                    f"preprocess: {key} has {amount(len(numbers), 'value')} for {amount(self.channels, 'channel')} "
                    f"({self.color}); give one, or one a channel"
                )
        if not all(math.isfinite(x) for x in (self.scale, *self.mean, *self.std)):
            raise UsageError("preprocess: scale, mean and std must be finite numbers; correct them")
        if 0.0 in self.std or self.scale == 0:
            raise UsageError("preprocess: scale and std must not be 0; leave out what changes nothing")
        if not all(_TINY <= abs(x) <= FLOAT32_MAX for x in (self.scale, *filter(None, self.mean), *self.std)):
            raise UsageError("preprocess: float32 does not hold scale, mean or std; give numbers nearer to 1")
        pad = self.pad or _GREY
        if (self.pad is not None and len(self.pad) not in (1, self.channels)) or not all(0 <= x <= 255 for x in pad):
            raise UsageError(
                f"preprocess: pad is {list(self.pad or ())}; give one from 0 to 255, or one a channel ({self.color})"
            )

    def _check_sizes(self) -> None:
        if self.size is not None and not (min(self.size) >= 1 and math.prod(self.size) <= MOST_PIXELS):
            raise UsageError(
                f"preprocess: size is {list(self.size)}; give a height and a width of at least 1, and together no more "
                f"than {MOST_PIXELS:,} pixels"
            )
        if not _LEAST_CROP <= self.crop <= 1:
            raise UsageError(f"preprocess: crop is {self.crop}; give a part from {_LEAST_CROP} to 1")
        if self.edges is not None and not (1 <= self.edges[0] <= self.edges[1] <= MOST_PIXELS // self.edges[0]):
            raise UsageError(
                f"preprocess: edges is {list(self.edges)}; give the shorter side, then the most that the longer may be"
            )
        if self.pad != _GREY and self.resize not in PADDED:
            raise UsageError("preprocess: pad needs resize = 'letterbox' or 'pad'; set it, or leave pad out")
        if self.crop != 1 and self.resize != "center-crop":
            raise UsageError("preprocess: crop needs resize = 'center-crop'; set it, or leave crop out")

    @property
    def channels(self) -> int:
        """The number of channels that the model's input has."""
        return 1 if self.color == "GRAY" else 3


_IMAGENET: dict[str, Any] = {
    "scale": 1 / 255,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "resize": "center-crop",
    "crop": 0.875,
}
_NORMALIZED: dict[str, Any] = {key: _IMAGENET[key] for key in ("scale", "mean", "std")}

PRESETS: dict[str, Preprocess] = {
    "imagenet": Preprocess(layout="NCHW", **_IMAGENET),
    "imagenet-nhwc": Preprocess(layout="NHWC", **_IMAGENET),
    "caffe": Preprocess(color="BGR", mean=(103.939, 116.779, 123.68)),
    "tf": Preprocess(scale=2 / 255, mean=(1.0,)),
    "unit": Preprocess(scale=1 / 255),
    "unit-gray": Preprocess(scale=1 / 255, color="GRAY"),
    "raw": Preprocess(),
    "yolo": Preprocess(scale=1 / 255, resize="letterbox", interpolation="linear"),
    "yolox": Preprocess(color="BGR", resize="pad", interpolation="linear"),
    "ssd": Preprocess(color="BGR", mean=(104.0, 117.0, 123.0), interpolation="linear"),
    "ssd-mobilenet": Preprocess(mean=(127.0,), std=(128.0,), interpolation="linear"),
    "detr": Preprocess(**_NORMALIZED, resize="pad", pad=None, edges=(800, 1333), categories="id"),
    "deeplab": Preprocess(scale=2 / 255, mean=(1.0,), resize="pad", pad=None, edges=(513, 513)),
    "unet": Preprocess(scale=1 / 255, interpolation="bicubic"),
}
"""The presets by name.

| name | the model's input |
|---|---|
| imagenet | torchvision's: 0..1 less (0.485, 0.456, 0.406), by (0.229, 0.224, 0.225); centre crop; NCHW |
| imagenet-nhwc | the same, NHWC |
| caffe | BGR, 0..255 minus mean (103.939, 116.779, 123.68); layout as the model says |
| tf | -1..1, RGB; layout as the model says |
| unit | 0..1, RGB; layout as the model says |
| unit-gray | 0..1, one channel; layout as the model says |
| raw | 0..255, RGB; layout as the model says |
| yolo | ultralytics' (YOLOv5 and later): letterbox in the middle of grey (114), 0..1, RGB |
| yolox | YOLOX's: letterbox at the top left, grey (114) behind it, BGR, 0..255 |
| ssd | SSD's as published (Caffe): stretched, BGR, 0..255 minus mean (104, 117, 123) |
| ssd-mobilenet | pytorch-ssd's: stretched, RGB, (x - 127) / 128 |
| detr | DETR's: ImageNet's mean and std, proportions kept, 0 behind them; a free size becomes 800, at most 1333 |
| deeplab | DeepLab's (TensorFlow): -1..1, the longer side fits (513 where the size is free), 0 behind it |
| unet | Pytorch-UNet's: stretched (bicubic), 0..1, RGB |
"""
DETECTORS: dict[str, tuple[str, ...]] = {
    "yolo": ("yolov8", "yolov5", "yolo-nms"),
    "yolox": ("yolox", "yolov5"),
    "ssd": ("ssd", "boxes"),
    "ssd-mobilenet": ("ssd", "boxes"),
    "detr": ("detr",),
}
"""The presets of detectors, and the decoders that read what these say."""
_PRESET = "preset"
"""The key of a file or mapping that names what it starts from."""


def load_preprocess(spec: "Preprocess | str | Path | Mapping[str, Any]") -> Preprocess:
    """Return the settings of a JSON or TOML file, a preset's name, or a mapping with the same keys.

    Raises:
        UsageError: no such file or preset, an unknown key or an impossible value; it names the valid ones.
    """
    if isinstance(spec, Preprocess):
        return spec
    if isinstance(spec, Mapping):
        return _from_mapping("preprocess", spec)
    text, path = str(spec), Path(spec)
    if text in PRESETS and not isinstance(spec, Path):
        return PRESETS[text]
    if path.suffix.lower() not in (".json", ".toml"):
        raise UsageError(
            f"{arg('preprocess', text)}: no such preset{meant(text, PRESETS)}; use {', '.join(PRESETS)}, or a "
            ".json or .toml file"
        )
    return _from_mapping(text, _read(path))


def preset_of(spec: "Preprocess | str | Path | Mapping[str, Any] | None") -> str | None:
    """Return the name of the preset that settings are, or start from; None where there is none, or it is not known.

    Raises:
        UsageError: as `load_preprocess`.
    """
    if spec is None or isinstance(spec, Preprocess):
        return next((name for name, preset in PRESETS.items() if preset == spec), None)
    content = spec if isinstance(spec, Mapping) else {_PRESET: spec} if spec in PRESETS else _read(Path(spec))
    found = content.get(_PRESET)
    return found if isinstance(found, str) else None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = read_text(path, SETTINGS_LIMIT)
        content = parsed(text, strict=False) if path.suffix.lower() == ".json" else parsed_toml(text)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: does not exist; give a preprocess file, or one of {', '.join(PRESETS)}") from error
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); give a .json or .toml file, saved as UTF-8"
        ) from error
    except ValueError as error:
        kind = path.suffix[1:].upper()
        raise UsageError(f"{path}: is not valid {kind} ({' '.join(str(error).split())}); correct it") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: holds no table of settings; write keys such as 'scale', 'mean' and 'std'")
    return content


def _from_mapping(where: str, content: Mapping[str, Any]) -> Preprocess:
    known = [field.name for field in fields(Preprocess)]
    base = content.get(_PRESET)
    if base is not None and not (isinstance(base, str) and base in PRESETS):
        raise UsageError(f"{where}: {_PRESET} is {reprlib.repr(base)}; use one of {', '.join(PRESETS)}")
    for key in content:
        if key not in (*known, _PRESET):
            raise UsageError(
                f"{where}: unknown key {reprlib.repr(key)}{meant(str(key), known)}; the keys are {', '.join(known)}"
            )
    values = {key: _parsed(where, key, value) for key, value in content.items() if key != _PRESET}
    try:
        return Preprocess(**values) if base is None else replace(PRESETS[base], **values)
    except UsageError as error:
        raise UsageError(f"{where}: {str(error).removeprefix('preprocess: ')}") from error


def _parsed(where: str, key: str, value: Any) -> Any:
    if key in _WORDS and isinstance(value, str):
        return value.upper() if key in ("layout", "color") else value.lower()
    if key in ("size", "edges"):
        return _parsed_size(where, key, value)
    if key in ("scale", "crop") and _is_number(value):
        return float(value)
    numbers = value if isinstance(value, list | tuple) else [value]
    if key in ("mean", "std") and numbers and all(_is_number(x) for x in numbers):
        return tuple(float(x) for x in numbers)
    if key == "pad" and numbers and all(type(x) is int for x in numbers):
        return tuple(numbers)
    if key == "pad" and value in (None, "mean"):
        value = None
    elif not (key == "input_name" and isinstance(value, str | None)) and not (
        key == "label_offset" and type(value) is int
    ):
        raise UsageError(f"{where}: {key} is {reprlib.repr(value)}; {_WANTED[key]}")
    return value


def _parsed_size(where: str, key: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    pair = [value, value] if isinstance(value, int) else value
    if isinstance(pair, list | tuple) and len(pair) == 2 and all(type(x) is int and x > 0 for x in pair):
        return cast("tuple[int, int]", tuple(pair))
    raise UsageError(f"{where}: {key} is {reprlib.repr(value)}; {_WANTED[key]}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FLOAT32_MAX


_WANTED = {
    **{key: f"use one of {', '.join(valid)}" for key, valid in _WORDS.items()},
    "scale": "give a number that float32 holds",
    "crop": f"give a number from {_LEAST_CROP} to 1",
    "mean": "give a number that float32 holds, or a list with one a channel",
    "std": "give a number that float32 holds, or a list with one a channel",
    "size": "give a number of pixels, [height, width], or null",
    "pad": "give a whole number from 0 to 255, a list with one a channel, or 'mean'",
    "edges": "give [shorter side, the most that the longer may be], or null",
    "input_name": "give the name of an input of the model",
    "label_offset": "give a whole number",
}
