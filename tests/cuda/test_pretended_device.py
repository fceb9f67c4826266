"""The entry points on a pretended CUDA device (pretended.py): each file of on_device/ in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pretended import why_not

HERE = Path(__file__).parent
TESTS = sorted(HERE.glob("on_device/*_on_device.py"))


def on_device(*command, world=""):
    """A pytest command on the device."""
    environment = {**os.environ, "SMALL_WORLD": str(world), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, str(HERE / "pretended.py"), "pytest", "-q", "-p", "no:cacheprovider", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=HERE.parents[1], env=environment)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("tests", TESTS, ids=lambda path: path.stem)
def test_entry_points_run_on_a_cuda_device(tests, world):
    ran = on_device(str(tests), world=world.path)
    assert ran.returncode == 0, ran.stdout[-10000:] + ran.stderr[-2000:]
