"""Boxes that cannot be what they are taken for: counted, explained, refused before a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from small_regions import some_regions
from volta_switch.data.batches.concap_dataset import ConcapDataset
from volta_switch.data.formats.concap import write_concap
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.geometry import Geometry, geometry_of, refuse_strange_boxes
from volta_switch.data.regions import Regions
from volta_switch.data_tools.check import check_features
from volta_switch.errors import UserError

IMAGES = [some_regions(str(i), i, 20) for i in range(10)]
SIDES = np.array([120, 100] * 2, dtype=np.float32)


def changed(change: Callable[[np.ndarray], np.ndarray], images: list[Regions] = IMAGES, **sizes: int) -> list[Regions]:
    """Return the images with other boxes."""
    return [replace(image, boxes=change(image.boxes.copy()).astype(np.float32), **sizes) for image in images]


def as_widths(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


STRANGE = {
    "normalised": (lambda b: b / SIDES, "all within 0..1; most likely they are shares of the image"),
    "normalised, over the edge": (lambda b: b / SIDES * 1.008, "shares of the image"),
    "x y w h": (as_widths, "with x2 < x1 or y2 < y1; most likely they fit as x, y, width, height: add x and y"),
    "corners exchanged": (lambda b: b[:, [2, 3, 0, 1]], "with x2 < x1 or y2 < y1; most likely their columns stand for"),
    "x1 x2 y1 y2": (lambda b: b[:, [0, 2, 1, 3]], "with x2 < x1 or y2 < y1"),
    "no area": (lambda b: b[:, [0, 1, 0, 1]], "without area; most likely one corner stands there twice"),
    "no height": (lambda b: b[:, [0, 1, 2, 1]], "without area"),
    "another size of the image": (lambda b: b * 2, "outside of the image; most likely they belong to another size"),
    "negative": (lambda b: b - 200, "outside of the image"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strange_boxes_are_refused_with_the_likely_cause(name) -> None:
    change, says = STRANGE[name]
    with pytest.raises(UserError, match=rf"x\.lmdb: .* of 10 images \(.*%\) have boxes .*({says})"):
        refuse_strange_boxes(changed(change), "x.lmdb")


def test_width_and_height_exchanged_are_told_by_the_boxes_that_fit_then() -> None:
    wide = changed(lambda b: b * [2, 1, 2, 1], image_w=100, image_h=240)
    with pytest.raises(UserError, match="fit only with width and height exchanged; most likely exchange image_w"):
        refuse_strange_boxes(wide, "x")


SOUND = {
    "as detectors give them": lambda b: b,
    "a box of the whole image": lambda b: np.concatenate([[[0, 0, 120, 100]], b]),
    "boxes of the whole image alone": lambda b: np.array([[0, 0, 119, 99]]),
    "rounded over the edge": lambda b: np.concatenate([[[-0.6, -1, 121.3, 100.9]] * 9, b]),
    "one of twenty without area": lambda b: np.concatenate([b[:19], [[5, 5, 5, 5]]]),
    "one of twenty reversed": lambda b: np.concatenate([b[:19], [[5, 5, 4, 9]]]),
    "no box": lambda b: b[:0],
    "numbers that are none": lambda b: b * np.nan,
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_boxes_are_left_alone(name) -> None:
    boxes = [SOUND[name](image.boxes) for image in IMAGES]
    geometry = Geometry()
    for own in boxes:
        geometry.add(np.asarray(own, dtype=np.float32), 120, 100)
    assert geometry.problem() is None and not geometry.shares()


def test_fewer_than_most_images_are_told_and_not_refused() -> None:
    mixed = changed(lambda b: b / SIDES)[:4] + IMAGES[4:]
    geometry = geometry_of(mixed)
    assert geometry.shares() == {"normalised": 0.4} and geometry.problem() is None
    assert geometry.notes() == ["4 of 10 images (40.0%) have boxes all within 0..1"]
    assert geometry_of(mixed[:4] + IMAGES[:3]).problem() is not None
    one = Geometry()
    one.add(np.concatenate([IMAGES[0].boxes[:19], [[5, 5, 5, 5]]]), 120, 100)
    assert one.notes() == ["1 boxes without area"]


def test_one_image_with_shares_for_boxes_is_no_accident() -> None:
    shares = changed(lambda b: b / SIDES, IMAGES[:1])
    assert "1 of 1 images (100%) have boxes all within 0..1" in (geometry_of(shares).problem() or "")
    assert geometry_of(changed(lambda b: b - 200, IMAGES[:1])).problem() is None


def test_annotated_boxes_as_corners_are_told_from_detected_ones_as_widths() -> None:
    geometry = Geometry()
    for image in IMAGES:
        boxes = np.concatenate([image.boxes[:, :2], image.boxes[:, :2] + image.boxes[:, 2:]], axis=1)  # read as widths
        geometry.add(boxes, 120, 100, annotated=True)
    assert "they fit as x1, y1, x2, y2, where COCO's are x, y, width, height" in geometry.problem()


def test_the_check_reports_the_shares(tmp_path) -> None:
    write_features(tmp_path / "x_feat.lmdb", changed(as_widths)[:8] + IMAGES[8:])
    report = check_features(tmp_path / "x_feat.lmdb")
    assert not report.fine and report.counts["strange_boxes"] == {"reversed": 0.8}
    assert "8 of 10 images (80%) have boxes with x2 < x1" in report.problems[0]
    write_concap(tmp_path / "x.lmdb", [(image, "a dog") for image in changed(lambda b: b / SIDES)])
    assert "shares of the image" in check_features(tmp_path / "x.lmdb").problems[0]
    write_features(tmp_path / "y_feat.lmdb", IMAGES)
    assert check_features(tmp_path / "y_feat.lmdb").fine


def test_pretraining_refuses_strange_boxes(tmp_path, tokenizer) -> None:
    (tmp_path / "caption_train.json").write_text('{"1": "a dog", "2": "a cat"}')
    for images, says in ((changed(lambda b: b / SIDES), "all within 0..1"), (changed(as_widths), "x2 < x1")):
        write_concap(tmp_path / "training_feat_all.lmdb", [(image, "a dog") for image in images])
        with pytest.raises(UserError, match=rf"training_feat_all\.lmdb: 10 of 10 images .*{says}"):
            ConcapDataset(tmp_path, tmp_path, "train", tokenizer, num_locs=5)
