"""A page's first words are true of worlds with a number of test images of their own."""

from types import SimpleNamespace

import pytest

from volta_switch.study.report.scope import _world
from volta_switch.study.study_data import is_synthetic


def plan_of(*worlds):
    arms = {str(number): SimpleNamespace(world=world) for number, world in enumerate(worlds)}
    return SimpleNamespace(study=SimpleNamespace(arms=arms))


@pytest.mark.parametrize(
    ("world", "images"), [({}, "200"), ({"eval_images": 50}, "50"), ({"test_images": 1000}, "1,000")]
)
def test_the_number_of_test_images_is_the_worlds(world, images):
    assert is_synthetic(plan_of(world).study)
    assert f"and up to {images} test images." in _world(plan_of(world))
