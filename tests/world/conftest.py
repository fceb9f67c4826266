import pytest

from volta_switch.world.content import draw_world
from volta_switch.world.spec import WorldSpec


@pytest.fixture(scope="session")
def drawn():
    """The content of a world, in memory."""
    return draw_world(WorldSpec(images=300, eval_images=100))
