"""``make test-cuda`` where there is no GPU: it refuses, the suite skips it visibly, a rehearsal runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from test_needed_packages import ALL, BARE_GPU_MACHINE

ROOT = Path(__file__).parents[1]
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA GPU is here")


def rehearsed(*chosen, missing, **more):
    """A rehearsal on the CPU of some of the tests, where packages are missing."""
    folders = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "MISSING_PACKAGES": missing, "PYTHONPATH": folders, "REHEARSE_ON": "cpu", **more}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    flags = ("-p", "missing_packages", "-p", "no:cacheprovider", "--confcutdir=tests/gpu", "-q")
    command = [sys.executable, "-m", "pytest", *flags, *chosen]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def make(target, **more):
    command = ["make", "--no-print-directory", target, f"PYTHON={sys.executable}"]
    environment = {**os.environ, **more}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@needs_no_gpu
def test_without_a_gpu_it_refuses_in_one_line():
    done = make("test-cuda", REHEARSE_ON="")
    said = [line for line in done.stderr.splitlines() if not re.match(r"make(\[\d+\])?: ", line)]
    assert done.returncode != 0 and done.stdout == "" and len(said) == 1
    assert said[0].startswith("error: no CUDA device: Python ")


@needs_no_gpu
def test_the_suite_skips_every_test_of_it_and_says_what_runs_them():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"]
    environment = {name: value for name, value in os.environ.items() if name != "REHEARSE_ON"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    reasons = {line.split(": ", 1)[1] for line in done.stdout.splitlines() if line.startswith("SKIPPED")}
    assert done.returncode == 0 and reasons == {"needs a CUDA GPU: make test-cuda"}
    assert "passed" not in done.stdout.splitlines()[-1]


def test_with_torch_numpy_and_pytest_alone_the_comparison_with_the_cpu_runs():
    done = rehearsed("tests/gpu", "-k", "of_the_cpu or blind", missing=ALL)
    assert done.returncode == 0 and "14 passed" in done.stdout, done.stdout
    assert "needs msgpack" in done.stdout and "needs lmdb" in done.stdout


def test_a_step_of_the_real_loop_is_rehearsed_without_what_a_gpu_machine_lacks():
    chosen = "sees_the_steps and switchbert or grid and hard"
    done = rehearsed("tests/gpu", "-k", chosen, missing=BARE_GPU_MACHINE)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout


def test_what_time_does_not_allow_is_no_pass():
    chosen = ("tests/gpu/test_cuda_equals_cpu.py", "-k", "blind")
    done = rehearsed(*chosen, missing="", TEST_CUDA_SECONDS="0")
    assert done.returncode == 1 and "2 tests were not begun, time was up: this is no pass" in done.stdout
