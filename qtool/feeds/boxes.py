"""Labels that lie in pictures: boxes with their classes, and masks; they move with the picture that they are of."""

from collections.abc import Mapping

import numpy as np

from qtool.feeds.geometry import NOTHING, Geometry

BOXES, CLASSES, CROWD, MASKS = "boxes", "classes", "crowd", "masks"
"""Of N pictures: x1, y1, x2, y2 in pixels [N, M, 4]; whole numbers [N, M], -1 where there is no box; truth values
[N, M]; the class of every pixel [N, height, width]."""
VOID = 255
"""The class in an 8-bit mask that stands for none."""


def moved(labels: Mapping[str, np.ndarray], geometry: Geometry) -> dict[str, np.ndarray]:
    """Return labels with boxes and masks laid into the input as their pictures were.

    Whatever else has these names, and another shape, stays as it is.
    """
    found = dict(labels)
    if not geometry.moves:
        return found
    boxes, classes, masks = (labels.get(name) for name in (BOXES, CLASSES, MASKS))
    # one box a picture [N, 4] may be of anything; the boxes of a single picture have classes
    several = boxes is not None and (boxes.ndim == 3 or (classes is not None and classes.shape == boxes.shape[:-1]))
    if boxes is not None and several and boxes.shape[-1] == 4 and boxes.dtype.kind in "iuf":
        found[BOXES] = geometry.boxes(boxes)
        if min(geometry.offset) < 0 and classes is not None and classes.shape == boxes.shape[:-1]:
            sides = found[BOXES][..., 2:] - found[BOXES][..., :2]
            found[CLASSES] = np.where((sides > 0).all(axis=-1), classes, NOTHING)
    if masks is not None and masks.shape[-2:] == geometry.picture and masks.dtype.kind in "iub":
        found[MASKS] = geometry.mask(masks)
    return found


def shifted_classes(labels: Mapping[str, np.ndarray], offset: int) -> dict[str, np.ndarray]:
    """Return labels with `offset` added to the classes of boxes and pixels, but not to what stands for none."""
    found = dict(labels)
    for name, beside in ((CLASSES, BOXES), (MASKS, MASKS)):
        array = labels.get(name)
        if offset and array is not None and beside in labels and array.dtype.kind in "iu":
            none = (array < 0) | ((array == VOID) & (name == MASKS))
            found[name] = np.where(none, array.astype(np.int64), array.astype(np.int64) + offset)
    return found
