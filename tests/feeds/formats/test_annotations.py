"""Boxes and masks beside a folder of pictures: COCO, YOLO and masks, and what is wrong with such files."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qtool.core.errors import DataError, UsageError
from qtool.core.tensorspec import InputSpec
from qtool.feeds import open_feeds
from qtool.feeds.formats.annotations import AUTO
from tests.support.detectors import (
    boxes_of,
    coco,
    masks_of,
    squares,
    write_coco,
    write_masks,
    write_pictures,
    write_yolo,
)

SPEC = InputSpec("x", np.dtype(np.float32), ("N", 3, 64, 64))
PICTURES, FOUND = squares(5)
WANTED = boxes_of(FOUND)


def read(folder, labels, **options):
    feeds = open_feeds(folder, [SPEC], preprocess=options.pop("preprocess", "yolo"), batch_size=3, labels=labels)
    batches = list(feeds)
    return {name: np.concatenate([b.labels[name] for b in batches]) for name in batches[0].labels}, batches


def same_boxes(labels):
    order = [np.lexsort(boxes.T) for boxes in labels["boxes"]]
    wanted = [np.lexsort(boxes.T) for boxes in WANTED["boxes"]]
    for index, (one, other) in enumerate(zip(order, wanted, strict=True)):
        np.testing.assert_allclose(labels["boxes"][index][one], WANTED["boxes"][index][other], atol=1e-9)
        np.testing.assert_array_equal(labels["classes"][index][one], WANTED["classes"][index][other])
    return not labels["crowd"].any()


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "images", PICTURES)
    return tmp_path / "images"


def test_coco_and_yolo_say_the_same(pictures, tmp_path):
    write_coco(tmp_path / "coco.json", FOUND)
    write_yolo(tmp_path / "texts", FOUND)
    for labels in (tmp_path / "coco.json", tmp_path / "texts"):
        found, batches = read(pictures, labels)
        assert [batch.size for batch in batches] == [3, 2]
        assert same_boxes(found)


@pytest.mark.parametrize("place", ["images", "labels", "images/labels", "coco"])
def test_boxes_are_found_beside_pictures(place, pictures, tmp_path):
    if place == "coco":
        write_coco(pictures / "_annotations.coco.json", FOUND)
    else:
        write_yolo(tmp_path / place, FOUND)
    found, _ = read(pictures, AUTO)
    assert same_boxes(found)
    # a folder in which there is only another one, and a set within `images`
    (pictures / "val").mkdir()
    for path in pictures.glob("*.png"):
        path.rename(pictures / "val" / path.name)
    if place == "labels":
        (tmp_path / "labels").rename(tmp_path / "moved")
        (tmp_path / "labels").mkdir()
        (tmp_path / "moved").rename(tmp_path / "labels" / "val")
        assert same_boxes(read(pictures / "val", AUTO)[0])
        assert same_boxes(read(pictures, AUTO)[0])
    elif place == "coco":
        assert same_boxes(read(pictures, AUTO)[0])


def test_without_any_labels_there_are_none(pictures):
    assert read(pictures, AUTO)[0] == {}


def test_pictures_that_are_not_listed_are_left_out(pictures, tmp_path):
    document = coco(FOUND)
    document["images"] = document["images"][1:3]
    document["annotations"] = [row for row in document["annotations"] if row["image_id"] in (101, 102)]
    document["images"].append({"id": 7, "file_name": "elsewhere.png", "height": 1, "width": 1})
    (tmp_path / "some.json").write_text(json.dumps(document))
    found, batches = read(pictures, tmp_path / "some.json")
    assert [len(found["boxes"]), batches[0].origin] == [2, "images/001.png to images/002.png"] or batches[0].size == 2
    np.testing.assert_array_equal(np.sort(found["classes"][0]), np.sort(WANTED["classes"][1]))
    feeds = open_feeds(pictures, [SPEC], preprocess="yolo", labels=tmp_path / "some.json")
    assert feeds.notes == (f"{pictures}: 3 of 5 pictures have no labels and are left out: 000.png, 003.png, 004.png",)
    # of YOLO's a picture without a file has no objects
    write_yolo(tmp_path / "labels", FOUND)
    assert open_feeds(pictures, [SPEC], preprocess="yolo", labels=tmp_path / "labels").notes == ()


def test_masks_that_are_missing_are_told(pictures, tmp_path):
    write_masks(tmp_path / "masks", masks_of(FOUND)[:1])
    (note,) = open_feeds(pictures, [SPEC], preprocess="yolo", labels=tmp_path / "masks").notes
    assert note.endswith("4 of 5 pictures have no labels and are left out: 001.png, 002.png, 003.png and 1 more")


def test_categories_by_identifier_and_by_place(pictures, tmp_path):
    write_coco(tmp_path / "coco.json", FOUND, ids=(90, 5))
    by_place = read(pictures, "coco.json")[0]["classes"]
    by_id = read(pictures, "coco.json", preprocess={"preset": "yolo", "categories": "id", "label_offset": -1})[0]
    there = WANTED["classes"] >= 0
    np.testing.assert_array_equal(by_place[there], 1 - WANTED["classes"][there])
    np.testing.assert_array_equal(by_id["classes"][there], np.where(WANTED["classes"][there] == 0, 89, 4))
    assert (by_id["classes"][~there] == -1).all()


def test_crowds_polygons_and_paths(pictures, tmp_path):
    document = coco(FOUND)
    for image in document["images"]:
        image["file_name"] = f"images/{image['file_name']}"
    document["annotations"][0]["iscrowd"] = 1
    (tmp_path / "coco.json").write_text(json.dumps(document))
    assert read(pictures, "coco.json")[0]["crowd"].sum() == 1
    (tmp_path / "polygons").mkdir()
    (tmp_path / "polygons" / "000.txt").write_text("1 0.25 0.5 0.5 0.5 0.375 0.75\n\n")
    found, _ = read(pictures, "polygons")
    np.testing.assert_allclose(found["boxes"][0, 0], [16, 32, 32, 48])
    assert (found["classes"][1:] == -1).all()


def test_masks_and_their_names(pictures, tmp_path):
    masks = masks_of(FOUND)
    write_masks(tmp_path / "masks", masks)
    found, _ = read(pictures, "masks")
    np.testing.assert_array_equal(found["masks"], masks)
    for path in (tmp_path / "masks").glob("*.png"):
        palette = Image.open(path).convert("P")
        palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
        palette.putdata(list(Image.open(path).getdata()))
        palette.save(path.with_name(f"{path.stem}_mask.png"))
        path.unlink()
    (tmp_path / "masks" / "004_mask.png").unlink()
    (tmp_path / "masks").rename(pictures / "masks")
    found, _ = read(pictures, pictures / "masks")
    np.testing.assert_array_equal(found["masks"], masks[:4])
    Image.fromarray(masks[0].astype(np.uint16) + 300).save(pictures / "masks" / "000_mask.png")
    assert read(pictures, pictures / "masks")[0]["masks"].max() in (301, 302)


def changed(**values):
    def change(document):
        document["annotations"][0] |= values

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("categories"), "is no COCO annotations, which have the lists images, annotations, categories"),
        (lambda d: d["images"].append(d["images"][0]), "images holds the id 100 twice"),
        (lambda d: d["categories"].append({"name": "x"}), r"categories\[2\] has no id"),
        (lambda d: d["images"][0].pop("file_name"), "the image 100 has no file_name"),
        (lambda d: d["images"][0].pop("height"), "the image 100 has no height and width"),
        (
            lambda d: d["images"][0].update(height=480, width=640),
            r"000.png: is 64 x 64 pixels, and 640 x 480 by its ann",
        ),
        (lambda d: [i.update(file_name="z" + i["file_name"]) for i in d["images"]], "lists none of the pictures of"),
        (lambda d: d.update(images=[], annotations=[]), "it lists none"),
        (lambda d: d["annotations"].insert(0, 3), r"annotations\[0\] is no object"),
        (changed(image_id=9), r"annotations\[0\] is of image 9"),
        (changed(image_id=[1]), r"annotations\[0\] is of image \[1\]"),
        (changed(category_id=1), r"annotations\[0\] has category 1"),
        (changed(category_id="3"), r"annotations\[0\] has category 3"),
        (changed(bbox=[1, 2, 3]), r"annotations\[0\] has the bbox \[1, 2, 3\]"),
        (changed(bbox=[1, 2, -3, 4]), "has the bbox"),
        (changed(bbox=[1, 2, float("nan"), 4]), "has the bbox"),
        (changed(bbox=[1, 2, 10**400, 4]), "has thousands of digits|has the bbox"),
        (changed(bbox="1,2,3,4"), "has the bbox"),
        (changed(iscrowd=2), "has iscrowd 2"),
    ],
)
def test_annotations_that_are_wrong(change, message, pictures, tmp_path):
    document = coco(FOUND)
    change(document)
    (tmp_path / "coco.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=message) as error:
        read(pictures, "coco.json")
    assert "\n" not in str(error.value) and "; " in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.25", r"000.txt, line 1: has 4 numbers; write class"),
        ("0 0.5 0.5 0.25 0.25 0.9", "line 1: has 6 numbers"),
        ("0 0.5 0.5 0.25 0.25\nred 0.5 0.5 0.25 0.25", "line 2: holds something else than numbers"),
        ("0.5 0.5 0.5 0.25 0.25", "the class '0.5' is no whole number"),
        ("-1 0.5 0.5 0.25 0.25", "the class '-1' is no whole number"),
        ("nan 0.5 0.5 0.25 0.25", "the class 'nan'"),
        ("0 32 32 16 16", "a coordinate is not within 0 and 1; divide"),
        ("0 nan 0.5 0.25 0.25", "a coordinate is not within"),
    ],
)
def test_text_files_that_are_wrong(text, message, pictures, tmp_path):
    write_yolo(tmp_path / "texts", FOUND)
    (tmp_path / "texts" / "000.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read(pictures, "texts")
    (tmp_path / "texts" / "000.txt").write_bytes(b"\xff\xfe0\x00")
    with pytest.raises(DataError, match=r"000.txt: cannot be read"):
        read(pictures, "texts")


def test_labels_that_are_not_there(pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("{")
    write_masks(tmp_path / "masks", masks_of(FOUND)[:, :32])
    (tmp_path / "both").mkdir()
    for name in ("000.txt", "000.png"):
        (tmp_path / "both" / name).write_text("")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "else.txt").write_text("0 0.5 0.5 0.2 0.2")
    Image.fromarray(PICTURES[0]).save(tmp_path / "empty" / ".hidden.png")
    (tmp_path / "colour").mkdir()
    Image.fromarray(PICTURES[0]).save(tmp_path / "colour" / "000.png")
    for labels, message in {
        "nothing": "labels='nothing': does not exist; give a COCO .json, a folder of YOLO",
        "nothing.json": "labels='nothing.json': does not exist",
        "bad.json": "bad.json: is not valid JSON",
        "empty": "labels='empty': holds no labels",
        "both": "labels='both': holds both .txt and .png files",
        "others": "labels='others': none of its files is named like a picture",
        "masks": "masks/000.png: is 64 x 32 pixels, and its picture 000.png 64 x 64",
        "colour": "colour/000.png: is a colour picture",
        "images": "labels='images': holds no labels",
    }.items():
        with pytest.raises(DataError, match=message):
            read(pictures, labels)
    with pytest.raises(UsageError, match=r"labels='masks': is for a folder of pictures, which the data is not"):
        open_feeds({"x": np.zeros((1, 3, 64, 64), np.float32)}, [SPEC], labels="masks")
    with pytest.raises(DataError, match="images: holds no pictures beside its labels"):
        read(pictures, Path())
