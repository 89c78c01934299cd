"""Panels side by side, with boxes and captions, as PNG. Needs Pillow."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qtool.evaluation.decoding.boxes import Detections

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

LABELLED, FLOAT, MODEL = (90, 230, 90), (60, 190, 255), (255, 150, 30)
"""The colours of what is labelled, of what float says and of what the model says, RGB."""
_LEAST = 320
"""Pixels to a side, which smaller pictures are enlarged to."""
_MOST = 1600
_LINE, _GAP = 14, 4
_LETTER = 6
"""The width of most letters, in pixels."""
_DARK, _WHITE = (24, 24, 24), (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture, uint8 [height, width, 3], with its title and boxes, both in `color`."""

    title: str
    pixels: np.ndarray
    color: tuple[int, int, int] = _WHITE
    boxes: Detections | None = None
    scored: bool = True


@dataclass(frozen=True, slots=True)
class Sheet:
    """Panels that lie side by side, and lines below them."""

    panels: Sequence[Panel]
    captions: Sequence[str] = ()


def drawn(sheet: Sheet) -> bytes:
    """Return a sheet as a PNG file, each panel below its title.

    Small pictures are enlarged by a whole factor, so that their boxes and titles can be read.
    """
    from PIL import Image, ImageDraw

    shown = [_sized(panel) for panel in sheet.panels]
    width = sum(pixels.shape[1] + _GAP for pixels, _ in shown) + _GAP
    tallest = max(pixels.shape[0] for pixels, _ in shown)
    canvas = Image.new("RGB", (width, _LINE + tallest + _GAP + _LINE * len(sheet.captions)), _DARK)
    draw = ImageDraw.Draw(canvas)
    left = _GAP
    for panel, (pixels, factor) in zip(sheet.panels, shown, strict=True):
        here = Image.fromarray(pixels)
        if panel.boxes is not None:
            _draw_boxes(ImageDraw.Draw(here), panel, factor)
        canvas.paste(here, (left, _LINE))
        _write(draw, (left, 1), panel.title, panel.color, pixels.shape[1])
        left += pixels.shape[1] + _GAP
    for number, caption in enumerate(sheet.captions):
        _write(draw, (_GAP, _LINE + tallest + _GAP + _LINE * number), caption, _WHITE, width)
    file = io.BytesIO()
    canvas.save(file, format="PNG")
    return file.getvalue()


def _sized(panel: Panel) -> tuple[np.ndarray, float]:
    """The pixels as large as they are shown, and how much larger that is."""
    longest = max(panel.pixels.shape[:2])
    factor = -(-_LEAST // longest)
    step = -(-longest // _MOST)
    if step > 1:
        return np.ascontiguousarray(panel.pixels[::step, ::step]), 1 / step
    return panel.pixels.repeat(factor, axis=0).repeat(factor, axis=1), float(factor)


def _draw_boxes(draw: "ImageDraw", panel: Panel, factor: float) -> None:
    found = panel.boxes
    assert found is not None
    # the best ones last, so that they lie above the others
    for index in np.argsort(found.scores, kind="stable").tolist():
        x1, y1, x2, y2 = (found.boxes[index] * factor).round().tolist()
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=panel.color, width=2)
        words = f"{found.classes[index]}" + (f" {found.scores[index]:.2f}" if panel.scored else "")
        top = y1 - _LINE if y1 >= _LINE else y1
        draw.rectangle((x1, top, x1 + _LETTER * len(words) + 3, top + _LINE - 1), fill=panel.color)
        _write(draw, (x1 + 2, top + 1), words, _DARK, _MOST)


def _write(draw: "ImageDraw", place: tuple[float, float], text: str, color: tuple[int, int, int], room: int) -> None:
    # Pillow's own small font knows few letters
    plain = text.encode("ascii", "replace").decode()
    most = max(4, room // _LETTER)
    draw.text(place, plain if len(plain) <= most else f"{plain[: most - 3]}...", fill=color)
