"""uint8 images -> the array that an image input takes."""

from typing import TYPE_CHECKING

import numpy as np

from qtool.core.errors import DataError, arg
from qtool.core.extras import installed_by
from qtool.core.tensorspec import InputSpec, describe
from qtool.core.text import amount
from qtool.feeds.checks import Described
from qtool.feeds.geometry import Geometry, check_sized, geometry_of, laid
from qtool.feeds.preprocess import Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

NO_PILLOW = f"needs Pillow: {installed_by('images')}"


class Pixels:
    """A `Preprocess` bound to the input that it feeds: layout and size are known, contradictions are refused.

    Raises:
        DataError: the input is no image input, or its shape contradicts the settings.
    """

    def __init__(self, settings: Preprocess, spec: InputSpec) -> None:
        self.spec = spec
        self.settings = settings
        self.channels = settings.channels
        shape = spec.shape
        if shape is not None and len(shape) != 4:
            raise DataError(
                f"preprocess: the model's input '{spec.name}' is {describe(spec.dtype, shape)}, not an "
                f"image with 4 axes; leave {arg('preprocess')} out and give arrays"
            )
        self.layout = _layout(settings, spec)
        self.size = _size(settings, spec, self.layout)
        self._scale = np.float32(settings.scale)
        self._mean = np.broadcast_to(np.array(settings.mean, np.float32), self.channels)
        self._std = np.broadcast_to(np.array(settings.std, np.float32), self.channels)
        check_sized(settings, self.size)
        self._check_values()

    def geometry(self, picture: tuple[int, int]) -> Geometry:
        """Return how a picture of this height and width comes to lie in the input."""
        return geometry_of(self.settings, self.size, picture)

    def _check_values(self) -> None:
        values = np.arange(256, dtype=np.float32)[:, None]
        with np.errstate(all="ignore"):
            values = (values * self._scale - self._mean) / self._std
            kept = values.astype(self.spec.dtype)
        if self.spec.dtype.kind == "f":
            good = bool(np.isfinite(kept).all())
        else:
            good = self.spec.dtype.kind in "iu" and bool((kept == values).all())
        if not good:
            raise DataError(
                f"preprocess: scale, mean and std give values that the model's input '{self.spec.name}' "
                f"({self.spec.dtype}) cannot hold; check them, or use {arg('preprocess', 'raw')}"
            )

    def output_shape(self, images: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that `apply` gives for images of shape (N, H, W, C)."""
        height, width = self.geometry((images[1], images[2])).outer
        if self.layout == "NCHW":
            return (images[0], self.channels, height, width)
        return (images[0], height, width, self.channels)

    def images_shape(self, where: str, array: Described, *, stacked: bool) -> tuple[int, ...]:
        """Return the shape (N, H, W, C) that `array` has as images.

        Args:
            where: the file or the data's name, for the message.
            array: uint8, of shape (N, H, W, C), or (N, H, W) for grey; unless `stacked`, also (H, W, C) or (H, W).
            stacked: whether the first axis counts images in any case.

        Raises:
            DataError: it is not that.
        """
        if array.dtype != np.uint8:
            raise DataError(
                f"{where}: the data for the input '{self.spec.name}' is {array.dtype}, but {arg('preprocess')} "
                f"applies to uint8 images; leave {arg('preprocess')} out, or give uint8"
            )
        gray = self.channels == 1
        shape = (1, *array.shape) if not stacked and self.is_single(array.shape) else array.shape
        if gray and len(shape) == 3:
            shape = (*shape, 1)
        if len(shape) != 4 or (shape[3] != self.channels and not (gray and shape[3] == 3)):
            raise DataError(
                f"{where}: the data for the input '{self.spec.name}' is "
                f"{describe(array.dtype, array.shape)}; "
                f"{arg('preprocess')} takes uint8 images of shape [samples, height, width, {self.channels}] "
                f"(color is {self.settings.color})"
            )
        if 0 in shape[1:]:
            raise DataError(f"{where}: holds images without pixels {list(array.shape)}; remove them")
        return shape

    def is_single(self, shape: tuple[int, ...]) -> bool:
        """Return whether an array of this shape is one image rather than a stack of them."""
        return len(shape) == 2 or (len(shape) == 3 and (self.channels != 1 or shape[-1] in (1, 3)))

    def apply(self, where: str, images: np.ndarray, laid_as: Geometry | None = None) -> np.ndarray:
        """Return the model's input for uint8 images of shape (N, H, W, C), colour images in RGB order.

        `laid_as`: how each came to lie in these, where `fitted` made them.

        It is x = (u8 * scale - mean) / std in float32, operation by operation, so the bits are those of the plain NumPy
        formula.

        Raises:
            DataError: a resize or a colour conversion is needed and Pillow is not there.
        """
        geometry = laid_as or self.geometry((images.shape[1], images.shape[2]))
        if images.shape[3] != self.channels or (laid_as is None and geometry.moves):
            images = np.stack([self.fitted(where, _as_picture(where, image)) for image in images])
        if self.settings.color == "BGR":
            images = images[..., ::-1]
        result = self._planes(images) if self.layout == "NCHW" else self._rows(images)
        if self.settings.pad is None and geometry.inner != geometry.outer:
            kept = (..., *geometry.inside) if self.layout == "NCHW" else (slice(None), *geometry.inside)
            picture = result[kept]
            result = np.zeros_like(result)
            result[kept] = picture
        return result.astype(self.spec.dtype, copy=False)

    def _planes(self, images: np.ndarray) -> np.ndarray:
        count, height, width, channels = images.shape
        out = np.empty((count, channels, height, width), np.float32)
        for sample, image in zip(out, images, strict=True):
            for channel in range(channels):
                plane = sample[channel]
                np.multiply(image[..., channel], self._scale, out=plane, dtype=np.float32)
                plane -= self._mean[channel]
                plane /= self._std[channel]
        return out

    def _rows(self, images: np.ndarray) -> np.ndarray:
        width = images.shape[2]
        out = images.astype(np.float32, order="C")
        # broadcasting over an innermost axis of 3 is several times slower than over a row of pixels
        rows = out.reshape(-1, width * self.channels)
        rows *= self._scale
        rows -= np.tile(self._mean, width)
        rows /= np.tile(self._std, width)
        return out

    def undone(self, values: np.ndarray) -> np.ndarray:
        """Return the picture that `apply` made one sample of: uint8 [height, width, 3], in RGB, with its padding."""
        planes = values.astype(np.float64)
        planes = np.moveaxis(planes, 0, -1) if self.layout == "NCHW" else planes
        pixels = np.rint((planes * self._std + self._mean) / self._scale).clip(0, 255).astype(np.uint8)
        if self.channels == 1:
            return np.repeat(pixels, 3, axis=2)
        return pixels[..., ::-1] if self.settings.color == "BGR" else pixels

    def fitted(self, where: str, picture: "Image") -> np.ndarray:
        """Return a picture in the settings' colour and size: uint8 (H, W, C); `where` is what to call it in messages.

        Raises:
            DataError: it would take too much memory.
        """
        mode = "L" if self.channels == 1 else "RGB"
        if picture.mode != mode:
            picture = picture.convert(mode)
        pixels = laid(where, picture, self.geometry((picture.height, picture.width)), self.settings)
        return pixels[..., None] if self.channels == 1 else pixels


def _layout(settings: Preprocess, spec: InputSpec) -> str:
    channels = settings.channels
    shape = spec.shape
    if shape is None:
        if settings.layout == "AUTO":
            raise DataError(
                f"preprocess: the model does not say the shape of '{spec.name}'; set layout to NCHW or NHWC"
            )
        return settings.layout
    fits = {"NCHW": shape[1] == channels, "NHWC": shape[3] == channels}
    if settings.layout != "AUTO":
        axis = settings.layout.index("C")
        if isinstance(shape[axis], int) and not fits[settings.layout]:
            raise DataError(
                f"preprocess: layout {settings.layout} with {amount(channels, 'channel')} ({settings.color}) does "
                "not fit the "
                f"model's input '{spec.name}', {describe(spec.dtype, shape)}; set layout and color to "
                "match it"
            )
        return settings.layout
    found = [layout for layout, fit in fits.items() if fit]
    if len(found) != 1:
        raise DataError(
            f"preprocess: the layout of {amount(channels, 'channel')} ({settings.color}) is not plain from the "
            "model's input "
            f"'{spec.name}', {describe(spec.dtype, shape)}; set layout to NCHW or NHWC, and color to match"
        )
    return found[0]


def _size(settings: Preprocess, spec: InputSpec, layout: str) -> tuple[int, int] | None:
    if spec.shape is None:
        return settings.size
    height, width = spec.shape[layout.index("H")], spec.shape[layout.index("W")]
    if settings.size is None:
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None
    for have, want in zip(settings.size, (height, width), strict=True):
        if isinstance(want, int) and want != have:
            raise DataError(
                f"preprocess: size {list(settings.size)} does not fit the model's input '{spec.name}', "
                f"{describe(spec.dtype, spec.shape)}; set size to match it, or leave it out"
            )
    return settings.size


def _as_picture(where: str, image: np.ndarray) -> "Image":
    try:
        from PIL.Image import fromarray
    except ImportError as error:
        raise DataError(f"{where}: converting images to the size and colour of the model {NO_PILLOW}") from error
    picture: Image = fromarray(np.ascontiguousarray(image[..., 0] if image.shape[2] == 1 else image))
    return picture
