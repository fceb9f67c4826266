from __future__ import annotations

import numpy as np
import pytest

from volta_switch.data.regions import (
    Regions,
    global_feature,
    locations,
    pairwise_iou,
)

SQUARE = Regions(
    image_id="1",
    features=np.array([[2.0, 4.0], [4.0, 8.0], [9.0, 0.0]], dtype=np.float32),
    boxes=np.array([[10, 20, 60, 70], [0, 0, 100, 200], [50, 100, 100, 200]], dtype=np.float32),
    image_w=100,
    image_h=200,
)


def test_four_locations_are_corners_as_shares_of_the_image() -> None:
    assert np.allclose(locations(SQUARE, 4)[0], [0.1, 0.1, 0.6, 0.35])


def test_five_locations_add_the_share_of_the_area() -> None:
    assert np.allclose(locations(SQUARE, 5)[:, 4], [0.125, 1.0, 0.25])


def test_seven_locations_add_width_height_and_area() -> None:
    assert np.allclose(locations(SQUARE, 7)[0], [0.1, 0.1, 0.6, 0.35, 0.5, 0.25, 0.125])


def test_other_numbers_of_locations_are_refused() -> None:
    with pytest.raises(ValueError, match="num_locs is 6"):
        locations(SQUARE, 6)


def test_the_global_feature_is_the_mean() -> None:
    assert global_feature(SQUARE.features).tolist() == [5.0, 4.0]
    assert global_feature(SQUARE.features.astype(np.float16)).dtype == np.float32


def test_overlap_counts_the_pixels_of_both_ends() -> None:
    boxes = np.array([[0, 0, 9, 9]])  # 10 x 10 pixels
    others = np.array([[0, 0, 9, 9], [5, 0, 14, 9], [9, 9, 18, 18], [10, 0, 19, 9]])
    assert np.allclose(pairwise_iou(boxes, others), [[1, 50 / 150, 1 / 199, 0]])


def test_first_regions_are_cut_from_every_field(regions_of) -> None:
    regions = regions_of("1", count=5).first(2)
    assert {len(getattr(regions, name)) for name in ("features", "boxes", "cls_prob", "attrs_id")} == {2}
    assert regions.first(None) is regions and regions.first(9) is regions
