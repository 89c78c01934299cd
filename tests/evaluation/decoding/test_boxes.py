"""Non-maximum suppression against its definition, box by box."""

import numpy as np
import pytest

from qtool.evaluation.decoding.boxes import Detections, best_of, corners


def overlap(a, b):
    shared = np.prod(np.maximum(0, np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])))
    return shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def by_definition(found, threshold, most):
    order = sorted(range(len(found.scores)), key=lambda i: (-found.scores[i], i))
    kept = []
    for i in order:
        same = [k for k in kept if found.classes[k] == found.classes[i]]
        if all(overlap(found.boxes[k], found.boxes[i]) <= threshold for k in same):
            kept.append(i)
    return kept[:most]


@pytest.mark.parametrize("threshold", [0.3, 0.6])
@pytest.mark.parametrize(("count", "most"), [(0, 300), (1, 300), (150, 300), (150, 20)])
def test_it_is_what_its_definition_says(count, most, threshold):
    rng = np.random.default_rng(count)
    corner = rng.random((count, 2)) * 40
    boxes = np.hstack([corner, corner + rng.random((count, 2)) * 30 + 1])
    # many equal scores
    found = Detections(boxes, rng.integers(0, 30, count) / 30, rng.integers(0, 3, count))
    kept = best_of(found, threshold, most)
    wanted = found.among(np.array(by_definition(found, threshold, most), np.int64))
    np.testing.assert_array_equal(kept.boxes, wanted.boxes)
    np.testing.assert_array_equal(kept.scores, wanted.scores)
    np.testing.assert_array_equal(kept.classes, wanted.classes)
    every = best_of(found, None, most)
    np.testing.assert_array_equal(every.scores, np.sort(found.scores)[::-1][:most])


def test_boxes_without_area_stay():
    flat = Detections(np.array([[1.0, 1, 1, 5], [1, 1, 1, 5]]), np.array([0.5, 0.4]), np.zeros(2, np.int64))
    assert len(best_of(flat, 0.5, 9).scores) == 2
    np.testing.assert_array_equal(corners(np.array([[10.0, 20, 4, 6]])), [[8, 17, 12, 23]])
