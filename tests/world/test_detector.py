import numpy as np
import pytest

from volta_switch.data.regions import pairwise_iou
from volta_switch.world.scenes import COLOUR, SHAPE, Detector, draw_scenes
from volta_switch.world.spec import COLOURS, WorldSpec

SCENES = draw_scenes(np.random.default_rng(0), list(range(150)), 7, 9)


def detections(**parameters):
    return list(Detector(WorldSpec(**parameters)).detect(np.random.default_rng(1), SCENES, scores=True))


def nonadditivity(depth):
    """How far the features of objects are from a sum of one vector per attribute, relative to their size."""
    detector = Detector(WorldSpec(vision_depth=depth))
    # the attributes of four objects: two sizes crossed with two colours
    small_red, small_green, large_red, large_green = detector.embed(
        np.array([[0, 0, 1, 2], [0, 1, 1, 2], [1, 0, 1, 2], [1, 1, 1, 2]])
    )
    return np.linalg.norm(small_red - small_green - large_red + large_green) / np.linalg.norm(small_red)


def test_features_without_a_network_are_a_sum_over_attributes():
    assert nonadditivity(0) < 1e-12


def test_a_deeper_network_mixes_the_attributes_more():
    depths = [nonadditivity(depth) for depth in range(4)]
    assert depths == sorted(depths) and depths[3] > 2 * depths[1] > 0.1


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_the_scale_of_features_does_not_depend_on_the_depth(depth):
    spread = np.concatenate([found.features for found in detections(vision_depth=depth)]).std()
    assert 0.8 < spread < 1.3


def test_each_object_has_one_region_that_fits_it_and_others_that_do_not():
    for scene, found in zip(SCENES, detections(), strict=True):
        overlap = pairwise_iou(found.boxes, np.array(scene.boxes))
        assert ((overlap > 0.5).sum(axis=0) == 1).all() and ((overlap > 0.5).sum(axis=1) == 1).all()


def test_regions_are_in_random_order():
    places = [int(pairwise_iou(found.boxes, np.array(scene.boxes[:1])).argmax()) for scene, found in
              zip(SCENES, detections(), strict=True)]  # fmt: skip
    assert set(places) >= set(range(7))


def test_clutter_fills_up_to_the_wanted_number_and_fits_no_object():
    for scene, found in zip(SCENES, detections(boxes=36), strict=True):
        assert len(found) == 36
        fitting = (pairwise_iou(found.boxes, np.array(scene.boxes)) > 0.5).any(axis=1)
        assert fitting.sum() == len(scene.objects)
        assert found.cls_prob[~fitting, 0].mean() > 0.5 > 0.1 > found.cls_prob[fitting, 0].mean()


def test_distributions_have_the_wanted_width_sum_to_one_and_mostly_name_the_right_class():
    hits = []
    for scene, found in zip(SCENES, detections(num_classes=1601, num_attributes=401, feature_size=16), strict=True):
        assert found.features.shape[1] == 16
        assert found.cls_prob.shape[1] == 1601 and found.attr_scores.shape[1] == 401
        np.testing.assert_allclose(found.cls_prob.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(found.attr_scores.sum(axis=1), 1, rtol=1e-5)
        objects = np.array(scene.objects)[pairwise_iou(found.boxes, np.array(scene.boxes)).argmax(axis=1)]
        hits.extend(found.objects_id == objects[:, SHAPE] * len(COLOURS) + objects[:, COLOUR])
    assert 0.8 < np.mean(hits) < 1


def test_equal_seeds_see_equal_features_and_others_do_not():
    first, again, other = detections()[3], detections()[3], detections(seed=1)[3]
    np.testing.assert_array_equal(first.features, again.features)
    assert not np.allclose(first.features, other.features)
