"""Scenes to find digits in: coloured handwritten digits at random places on noise, with their boxes and masks.

    python calib_data/scenes_data.py --out FOLDER [--samples N]

writes pictures, COCO annotations, YOLO labels and masks. Needs numpy, and Pillow to write; makes the scenes of
digits_calib.npz and digits_eval.npz. The same inputs give the same pictures, boxes and masks.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIDE = 96
"""Of a scene, in pixels."""

CLASSES = 10
MOST = 5
"""Digits in a scene."""

SMALLEST, LARGEST = 16, 40
"""Of a digit of 8x8 pixels, in pixels of the scene."""

INK = 0.4
"""From this share of ink on a pixel belongs to the digit."""

BRIGHTER = 90.0
"""How much at least a digit differs from what is behind it, in the channel that differs most (of 255)."""

OVERLAP = 0.1
"""The largest intersection over union of two boxes."""

CALIBRATION = 1
EVALUATION = 2
TRAINING = 1000
"""Seeds; training adds the epoch's number."""

HERE = Path(__file__).parent

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scenes:
    """Pictures, uint8 (N, 96, 96, 3), and what is in them.

    `boxes` (N, 5, 4) are x1 y1 x2 y2 in pixels, `classes` (N, 5) their digits, -1 where there is no box; `masks`, uint8
    (N, 96, 96), are 0 in the background and 1..10 on the digits 0..9.
    """

    pictures: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    masks: NDArray[np.uint8]

    @property
    def input(self) -> NDArray[np.float32]:
        """What the networks take, float32 (N, 3, 96, 96) in [0, 1]: as `--preprocess yolo` makes it of the pictures."""
        return np.ascontiguousarray(self.pictures.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def enlarged(image: Floats, side: int) -> Floats:
    """A square image (h, h) or (h, h, channels) in `side` x `side` pixels, bilinear; sums in a fixed order, no BLAS."""
    most = len(image) - 1
    place = np.clip((np.arange(side) + 0.5) * len(image) / side - 0.5, 0, most)
    low = np.minimum(place.astype(np.intp), most - 1)
    share = (place - low).reshape(-1, *[1] * (image.ndim - 1))
    rows = image[low] * (1 - share) + image[low + 1] * share
    rows = rows.swapaxes(0, 1)
    rows = rows[low] * (1 - share) + rows[low + 1] * share
    return np.ascontiguousarray(rows.swapaxes(0, 1))


def background(random: np.random.RandomState) -> Floats:
    """A patchwork of soft colours, with noise of a random strength: (96, 96, 3) in 0..255."""
    patches = random.randint(30, 226, (random.randint(2, 7),) * 2 + (3,)).astype(np.float64)
    noise = random.randint(-64, 65, (SIDE, SIDE, 3)) * random.uniform(0.05, 0.5)
    return enlarged(patches, SIDE) + noise


def overlap(box: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """The largest intersection over union of `box` with `others`, 0 without others."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.clip(sides, 0, None).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1)
    return float((common / ((box[2:] - box[:2]).prod() + areas - common)).max(initial=0.0))


def colour(random: np.random.RandomState, behind: Floats) -> Floats:
    """A colour that can be told from the mean colour `behind`."""
    while True:
        drawn = random.randint(0, 256, 3).astype(np.float64)
        if np.abs(drawn - behind).max() >= BRIGHTER:
            return drawn


def make_scenes(images: NDArray[np.float32], labels: NDArray[np.int64], count: int, seed: int) -> Scenes:
    """Draw `count` scenes of the digits `images` (N, 1, 8, 8) in [0, 1] with `labels` (N,)."""
    # RandomState, not Generator: NumPy promises its stream never changes (NEP 19).
    random = np.random.RandomState(seed)
    scenes = Scenes(
        np.empty((count, SIDE, SIDE, 3), np.uint8),
        np.zeros((count, MOST, 4), np.float32),
        np.full((count, MOST), -1, np.int64),
        np.zeros((count, SIDE, SIDE), np.uint8),
    )
    for number in range(count):
        canvas, mask = background(random), scenes.masks[number]
        placed = 0
        for _ in range(random.randint(1, MOST + 1)):
            which, side = random.randint(len(images)), random.randint(SMALLEST, LARGEST + 1)
            y, x = random.randint(0, SIDE - side + 1, 2)
            share = enlarged(images[which, 0].astype(np.float64), side)
            ink = share >= INK
            rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
            box = np.array([x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1], np.float32)
            if overlap(box, scenes.boxes[number, :placed]) > OVERLAP:
                continue
            window = canvas[y : y + side, x : x + side]
            drawn = colour(random, window.reshape(-1, 3).sum(0) / side**2)
            window += (drawn - window) * share[..., None]
            mask[y : y + side, x : x + side][ink] = labels[which] + 1
            scenes.boxes[number, placed], scenes.classes[number, placed] = box, labels[which]
            placed += 1
        scenes.pictures[number] = np.clip(np.rint(canvas), 0, 255)
    return scenes


def calibration_scenes(count: int = 200) -> Scenes:
    """Scenes of the digits in digits_calib.npz, to calibrate with."""
    return _scenes_of("digits_calib.npz", count, CALIBRATION)


def evaluation_scenes(count: int = 300) -> Scenes:
    """Scenes of the digits in digits_eval.npz, which no network was trained on."""
    return _scenes_of("digits_eval.npz", count, EVALUATION)


def _scenes_of(name: str, count: int, seed: int) -> Scenes:
    with np.load(HERE / name) as digits:
        return make_scenes(digits["input"], digits["labels"], count, seed)


def write_pictures(out: Path, calibration: Scenes, evaluation: Scenes) -> None:
    """Write both into the folder `out`, the labels of `evaluation` in every form that qtool reads.

    calibration/NNN.png are pictures to calibrate with. images/NNN.png are those to evaluate with: instances.json (COCO)
    or labels/NNN.txt (YOLO) has their boxes, masks/NNN.png their masks.
    """
    from PIL import Image

    for folder in ("calibration", "images", "labels", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(calibration.pictures):
        Image.fromarray(picture).save(out / "calibration" / f"{number:03}.png")
    images, annotations = [], []
    for number, (picture, mask) in enumerate(zip(evaluation.pictures, evaluation.masks, strict=True)):
        Image.fromarray(picture).save(out / "images" / f"{number:03}.png")
        Image.fromarray(mask).save(out / "masks" / f"{number:03}.png")
        images.append({"id": number, "file_name": f"{number:03}.png", "width": SIDE, "height": SIDE})
        rows = []
        for box, digit in zip(evaluation.boxes[number].tolist(), evaluation.classes[number].tolist(), strict=True):
            if digit < 0:
                continue
            x1, y1, x2, y2 = box
            width, height = x2 - x1, y2 - y1
            annotation = {"bbox": [x1, y1, width, height], "area": width * height, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": digit + 1, **annotation})
            shares = [value / SIDE for value in ((x1 + x2) / 2, (y1 + y2) / 2, width, height)]
            rows.append(" ".join(map(str, [digit, *shares])))
        (out / "labels" / f"{number:03}.txt").write_text("\n".join(rows), encoding="utf-8")
    categories = [{"id": digit + 1, "name": str(digit)} for digit in range(CLASSES)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (out / "instances.json").write_text(json.dumps(document), encoding="utf-8")


def main() -> None:
    """Write the scenes as files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--samples", type=int, default=300, help="to evaluate with; two thirds as many to calibrate")
    options = parser.parse_args()
    calibration = calibration_scenes(-(-options.samples * 2 // 3))
    evaluation = evaluation_scenes(options.samples)
    write_pictures(options.out, calibration, evaluation)
    print(f"{options.out}: {len(calibration.pictures)} pictures to calibrate with, {options.samples} to evaluate with")


if __name__ == "__main__":
    main()
