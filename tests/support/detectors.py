"""A detector of coloured squares, exact by construction, with pictures and labels; and a segmenter of the same."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.patterns import Net

SIDE, STEP, SQUARE = 64, 8, 16
CELLS = (SIDE - SQUARE) // STEP + 1


def detector(path: Path, *, batch: int | str = "N", flip: bool = False) -> Path:
    """YOLOv8's form: x [N, 3, 64, 64] of 0..1 -> y [N, 4 + 2, 49]; `flip` takes green for red."""
    net = Net(3, SIDE, SIDE, batch=batch)
    weights = np.full((2, 3, SQUARE, SQUARE), -0.5, np.float32)
    for label in (0, 1):
        weights[label, 1 - label if flip else label] = 1.0
    conv = net("Conv", "x", net.const(weights * 40 / SQUARE**2), net.const([-24.0, -24.0]), strides=[STEP, STEP])
    scores = net("Sigmoid", net("Reshape", conv, net.const([0, 2, -1], dtype=np.int64)))
    first = net("Slice", scores, *(net.const([v], dtype=np.int64) for v in (0, 1, 1)))
    rows, columns = np.mgrid[:CELLS, :CELLS] * STEP + SQUARE / 2
    sides = np.full(CELLS**2, SQUARE)
    boxes = net.const(np.stack([columns.ravel(), rows.ravel(), sides, sides])[None])
    net("Concat", net("Add", net("Mul", first, net.const(0.0)), boxes), scores, axis=1, name="y")
    return net.save(path, "y_out")


def segmenter(path: Path, *, classes: int = 3) -> Path:
    """x [N, 3, 64, 64] of 0..1 -> y [N, classes, 64, 64]: how dark, how red, how green; or with one class how red."""
    net = Net(3, SIDE, SIDE)
    weights = np.array([[-1, -1, 0], [1, -1, 0], [-1, 1, 0]], np.float32)[:, :, None, None]
    bias = np.array([0.8, 0, 0], np.float32)
    if classes == 1:
        weights, bias = 8 * weights[1:2], np.array([-4], np.float32)
    net("Conv", "x", net.const(weights), net.const(bias), name="y")
    return net.save(path, "y_out")


def squares(count: int, seed: int = 0, objects: int = 3) -> tuple[np.ndarray, list[np.ndarray]]:
    """Pictures, uint8 [count, 64, 64, 3], and the squares in each: class, left, top [n, 3]; every fifth has none."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 60, (count, SIDE, SIDE, 3), dtype=np.uint8)
    found = []
    for index, picture in enumerate(pictures):
        own = []
        for place in rng.choice(9, 0 if index % 5 == 4 else objects, replace=False):
            label, left, top = int(rng.integers(2)), int(place) % 3 * 24, int(place) // 3 * 24
            picture[top : top + SQUARE, left : left + SQUARE] = np.eye(3)[label] * 255
            own.append((label, left, top))
        found.append(np.array(own, np.int64).reshape(-1, 3))
    return pictures, found


def boxes_of(found: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The labels as arrays, filled up with -1."""
    most = max(len(own) for own in found)
    boxes, classes = np.zeros((len(found), most, 4), np.float32), np.full((len(found), most), -1)
    for index, own in enumerate(found):
        boxes[index, : len(own)] = np.hstack([own[:, 1:], own[:, 1:] + SQUARE])
        classes[index, : len(own)] = own[:, 0]
    return {"boxes": boxes, "classes": classes}


def write_pictures(folder: Path, pictures: np.ndarray) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / f"{index:03}.png" for index in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    return paths


def write_yolo(folder: Path, found: list[np.ndarray]) -> None:
    """A text file a picture, none where there is no square."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, own in enumerate(found):
        rows = [f"{c} {(x + SQUARE / 2) / SIDE} {(y + SQUARE / 2) / SIDE} 0.25 0.25" for c, x, y in own.tolist()]
        if rows:
            (folder / f"{index:03}.txt").write_text("\n".join(rows) + "\n")


def coco(found: list[np.ndarray], ids: tuple[int, int] = (3, 17)) -> dict[str, list[dict[str, object]]]:
    """COCO's annotations with these identifiers for the two classes."""
    images = [{"id": 100 + i, "file_name": f"{i:03}.png", "height": SIDE, "width": SIDE} for i in range(len(found))]
    rows = [(i, row) for i, own in enumerate(found) for row in own.tolist()]
    return {
        "images": images,
        "annotations": [
            {"id": n, "image_id": 100 + i, "category_id": ids[c], "bbox": [x, y, SQUARE, SQUARE], "iscrowd": 0}
            for n, (i, (c, x, y)) in enumerate(rows)
        ],
        "categories": [{"id": number, "name": name} for number, name in zip(ids, ("red", "green"), strict=True)],
    }


def write_coco(path: Path, found: list[np.ndarray], ids: tuple[int, int] = (3, 17)) -> Path:
    path.write_text(json.dumps(coco(found, ids)))
    return path


def masks_of(found: list[np.ndarray]) -> np.ndarray:
    """0, 1 for red, 2 for green, uint8 [N, 64, 64]."""
    masks = np.zeros((len(found), SIDE, SIDE), np.uint8)
    for mask, own in zip(masks, found, strict=True):
        for label, left, top in own.tolist():
            mask[top : top + SQUARE, left : left + SQUARE] = 1 + label
    return masks


def write_masks(folder: Path, masks: np.ndarray) -> Path:
    folder.mkdir(parents=True)
    for index, mask in enumerate(masks):
        Image.fromarray(mask).save(folder / f"{index:03}.png")
    return folder
