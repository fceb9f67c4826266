import numpy as np

from volta_switch.data.regions import pairwise_iou
from volta_switch.world.scenes import DIRECTIONS, draw_scenes, members
from volta_switch.world.spec import CANVAS_HEIGHT, CANVAS_WIDTH


def scenes(seed=0):
    return draw_scenes(np.random.default_rng(seed), list(range(200)), 3, 9)


def test_the_same_generator_draws_the_same_scenes():
    assert scenes(4) == scenes(4)
    assert scenes(4) != scenes(5)


def test_objects_lie_on_the_canvas_and_apart_from_one_another():
    for scene in scenes():
        boxes = np.array(scene.boxes)
        assert (
            (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= CANVAS_WIDTH).all() and (boxes[:, 3] <= CANVAS_HEIGHT).all()
        )
        overlap = pairwise_iou(boxes, boxes)
        assert overlap[~np.eye(len(boxes), dtype=bool)].max() == 0


def test_no_two_objects_of_a_scene_are_alike_in_everything():
    assert all(len(set(scene.objects)) == len(scene.objects) for scene in scenes())


def test_the_number_of_objects_covers_its_whole_range():
    assert {len(scene.objects) for scene in scenes()} == set(range(3, 10))


def test_directions_are_those_of_the_boxes():
    scene = scenes()[0]
    left = DIRECTIONS.index("left of")
    for anchor in range(len(scene.objects)):
        for index in range(len(scene.objects)):
            lead = (scene.centre(anchor)[0] - scene.centre(index)[0]) / CANVAS_WIDTH
            assert (index in members(scene.sure[left][anchor])) == (lead > 0.04)
            assert (index in members(scene.possible[left][anchor])) == (lead > -0.04 and index != anchor)
