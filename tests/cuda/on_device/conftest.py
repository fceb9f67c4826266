"""The files of this folder are run on the pretended device, by test_pretended_device.py; see pretended.py."""

import os
from pathlib import Path

import pytest

from synthetic_world import SyntheticWorld


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """The tiny world, as one process wrote it for all."""
    given = os.environ.get("SMALL_WORLD")
    if given:
        return SyntheticWorld(Path(given))
    from synthetic_world import write_synthetic_world

    return write_synthetic_world(tmp_path_factory.mktemp("small") / "world")


@pytest.fixture(autouse=True)
def flags_of_pytorch():
    """What ``--deterministic`` asks of PyTorch for the whole process ends with the test."""
    import torch

    yield
    torch.use_deterministic_algorithms(False)
