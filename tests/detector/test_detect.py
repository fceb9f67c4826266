"""The detector as a whole: the golden file, batches, boxes from outside, small pictures, facts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from small_detectors import GOLDEN, golden_regions, patterned, small_detector
from volta_switch.detector.selection import Selection
from volta_switch.errors import BadRecord

DETECTOR = small_detector()
TWELVE = Selection("maxnms", 12, 12)


def test_it_says_what_the_golden_file_says():
    assert GOLDEN.stat().st_size < 200_000
    expected, found = load_file(GOLDEN), golden_regions()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_the_golden_pictures_have_different_regions_in_the_two_selections():
    expected = load_file(GOLDEN)
    for size in ("128x96", "96x150"):
        caffe, maxnms = (expected[f"{size}/{kind}/boxes"] for kind in ("caffe", "maxnms"))
        assert (caffe - maxnms).abs().max() > 1
        assert len(expected[f"{size}/maxnms/objects_id"].unique()) > 1


@pytest.mark.parametrize("kind", ["caffe", "maxnms"])
@pytest.mark.parametrize("sizes", [[(128, 96)] * 3, [(128, 96), (96, 150), (160, 40), (3, 90)]], ids=["one", "several"])
def test_batches_equal_pictures_one_by_one(kind, sizes):
    """Of one size, and of several, whose padding is masked."""
    selection = Selection(kind, 12, 12)
    pictures = [(str(place), patterned(*size, seed=place)) for place, size in enumerate(sizes)]
    alone = [DETECTOR([picture], selection)[0] for picture in pictures]
    together = DETECTOR(pictures, selection)
    for one, other in zip(alone, together, strict=True):
        assert one.image_id == other.image_id and len(one) == len(other)
        for name, array in one.arrays().items():
            np.testing.assert_allclose(getattr(other, name), array, rtol=1e-4, atol=1e-4, err_msg=name)


def test_regions_hold_everything_that_voltas_files_hold():
    (regions,) = DETECTOR([("9", patterned(300, 200))], TWELVE)
    regions.check()
    assert (regions.image_id, regions.image_w, regions.image_h, len(regions)) == ("9", 300, 200, 12)
    assert regions.features.shape == (12, 128) and regions.features.dtype == np.float32
    assert regions.cls_prob.shape == (12, 21) and regions.attr_scores.shape == (12, 9)
    np.testing.assert_allclose(regions.cls_prob.sum(axis=1), 1, rtol=1e-5)
    assert (regions.cls_prob[:, 1:].argmax(axis=1) == regions.objects_id).all()
    assert (regions.attr_scores[:, 1:].max(axis=1) == regions.attrs_conf).all()
    assert (regions.boxes >= 0).all() and (regions.boxes <= [300, 200, 300, 200]).all() and regions.boxes.max() > 160
    assert (np.diff(regions.objects_conf) <= 0).all()


def test_given_boxes_are_the_regions_in_their_order():
    boxes = np.array([[10, 10, 200, 150], [0, 0, 300, 200], [299, 199, 300, 200], [50, 60, 90, 70]], np.float32)
    picture = ("9", patterned(300, 200))
    (found,) = DETECTOR([picture], TWELVE, [boxes])
    assert (found.boxes == boxes).all() and found.features.shape == (4, 128)
    (reversed_,) = DETECTOR([picture], TWELVE, [boxes[::-1]])
    np.testing.assert_allclose(reversed_.features[::-1], found.features, rtol=1e-4, atol=1e-5)
    both = DETECTOR([picture, ("10", patterned(100, 100))], TWELVE, [boxes, np.empty((0, 4))])
    assert len(both[1]) == 0 and both[1].features.shape == (0, 128)
    np.testing.assert_allclose(both[0].features, found.features, rtol=1e-4, atol=1e-4)


def test_a_proposal_given_from_outside_has_the_feature_that_it_had():
    """Features are of the proposal, not of the moved box."""
    caffe = Selection("caffe", 12, 12)
    (found,) = DETECTOR([("9", patterned(128, 96))], caffe)
    (again,) = DETECTOR([("9", patterned(128, 96))], caffe, [found.boxes])
    np.testing.assert_allclose(again.features, found.features, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(again.cls_prob, found.cls_prob, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(again.attr_scores, found.attr_scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (500, 2), (7, 3)])
@pytest.mark.parametrize("kind", ["caffe", "maxnms"])
def test_thin_pictures_have_regions_inside_of_them(size, kind):
    (found,) = DETECTOR([("9", patterned(*size))], Selection(kind, 12, 12))
    assert 1 <= len(found) <= 12
    assert (found.boxes >= 0).all() and (found.boxes <= [*size, *size]).all()


def test_facts_say_what_decides_features():
    facts = DETECTOR.facts(TWELVE)
    assert facts == {
        "detector": "a sixteenth",
        "weights": DETECTOR.weights,
        "selection": "maxnms",
        "number": "12",
        "input": {"short_side": 96, "long_side": 160, "resizing": "pillow"},
        "width": 128,
    }
    assert DETECTOR.facts(Selection("caffe", 10, 100))["number"] == "10-100"
    assert DETECTOR.facts(TWELVE, given=True)["selection"] == "maxnms, given boxes"
    assert small_detector(seed=2).weights != DETECTOR.weights == small_detector().weights


def test_numbers_that_are_not_finite_are_refused():
    broken = small_detector()
    with torch.no_grad():
        broken.network.roi_heads.box_predictor.attr_score.bias.fill_(float("nan"))
    with pytest.raises(BadRecord, match=r"image '9': .*not finite"):
        broken([("9", patterned(128, 96))], TWELVE)


@pytest.mark.parametrize(
    "box", [(50, 40, 10, 10), (5, 5, 5, 20), (500, 400, 600, 600), (0, 0, 10, 99.5), (-3, 0, 10, 10), (0, 0, 1e8, 9)]
)
def test_a_given_box_that_is_not_of_its_picture_is_refused(box):
    fine = np.array([[0, 0, 60, 50], [-1.5, 0, 129, 97]], np.float32)  # as others round
    assert len(DETECTOR([("9", patterned(128, 96))], TWELVE, [fine])[0]) == 2
    with pytest.raises(BadRecord, match=r"image '9': box 3 is .*; expected x1, y1, x2, y2 within the picture, 128"):
        DETECTOR([("9", patterned(128, 96))], TWELVE, [np.array([*fine, box], np.float32)])
