"""One thread per test: small models are erratic with more, and the suite runs on several processes."""

import os
import sys
import threading
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # as when it is activated
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may wait for the network
sys.path.insert(0, str(Path(__file__).parent))

import msgpack
import pytest
import torch
from hypothesis import settings
from tqdm import tqdm

from suites import pytest_addoption, pytest_collection_modifyitems, pytest_configure  # noqa: F401  pytest's hooks

torch.set_num_threads(1)
# Of this process alone: tqdm's own lock is shared by forked processes, and one that is killed while it holds it leaves
# all that are forked later waiting.
tqdm.set_lock(threading.RLock())
# the same cases in every run, so that a failure is a change's; HYPOTHESIS_RANDOM=1 looks for new ones
settings.register_profile("fixed", derandomize=not os.environ.get("HYPOTHESIS_RANDOM"))
settings.load_profile("fixed")
MSGPACK = dict(vars(msgpack))


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A tiny world on disk, and models of its size (tests/synthetic_world.py); read-only."""
    from synthetic_world import write_synthetic_world  # not at the top: most tests need none of what it imports

    return write_synthetic_world(tmp_path_factory.mktemp("small") / "world")


@pytest.fixture(scope="session")
def asked(world, tmp_path_factory):
    """asked(key): a random model of a task, its folder, the features of its test split; made once, read-only."""
    from asked_tasks import AskedModels

    return AskedModels(world, tmp_path_factory)


@pytest.fixture
def hub(tmp_path):
    """A stand-in for the Hugging Face hub, and processes that know it alone (tests/hub_server.py)."""
    from hub_server import HubServer

    made = HubServer(tmp_path)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def plain_msgpack(request):
    """msgpack as it is installed, though some modules import tensorpack, which replaces its functions for good.

    The tests of a module that says NUMPY_MSGPACK run as tensorpack and VOLTA leave it.
    """
    if getattr(request.module, "NUMPY_MSGPACK", False):
        __import__("msgpack_numpy").patch()
    else:
        vars(msgpack).update(MSGPACK)
    yield
    vars(msgpack).update(MSGPACK)
