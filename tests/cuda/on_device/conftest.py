"""The files of this folder are run on the pretended device, by test_pretended_device.py; see pretended.py."""

import os
from pathlib import Path

import pytest

from small_world import SmallWorld


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The tiny world, as one process wrote it for all."""
    given = os.environ.get("SMALL_WORLD")
    if given:
        return SmallWorld(Path(given))
    from small_world import write_small_world

    return write_small_world(tmp_path_factory.mktemp("small") / "world")


@pytest.fixture(autouse=True)
def flags_of_pytorch():
    """What ``--deterministic`` asks of PyTorch for the whole process ends with the test."""
    import torch

    yield
    torch.use_deterministic_algorithms(False)
