"""Open files and shared memory are looked at before a worker is started, which would hang or be killed without them."""

import os
import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

from volta_switch import UserError
from volta_switch.data.batches import loader
from volta_switch.data.batches.loader import check_worker_limits, lost_workers_explained


@pytest.fixture
def limits(monkeypatch):
    """Sets the limit on open files as this process would see it; gives what it was set to."""
    found = {"is": (1024, 4096)}
    monkeypatch.setattr(loader.resource, "getrlimit", lambda which: found["is"])
    monkeypatch.setattr(loader.resource, "setrlimit", lambda which, pair: found.update({"is": pair}))
    return found


def test_enough_is_left_as_it_is(limits):
    check_worker_limits(4, 10, 2**20)
    assert limits["is"] == (1024, 4096)


def test_the_limit_on_open_files_is_raised_as_far_as_it_may(limits):
    limits["is"] = (32, 4096)
    check_worker_limits(8, 10, 0)
    assert 32 + 8 * 20 < limits["is"][0] < 400 and limits["is"][1] == 4096
    limits["is"] = (32, resource.RLIM_INFINITY)
    check_worker_limits(8, 10, 0)
    assert limits["is"][0] > 200


@pytest.mark.parametrize("workers", [8, 64])
def test_too_few_open_files_are_refused_with_the_number_that_is_needed(limits, workers):
    limits["is"] = (32, 64)
    with pytest.raises(
        UserError, match=rf"{workers} data workers need about \d+ open files, the limit is 64; raise it"
    ):
        check_worker_limits(workers, 10, 0)


@pytest.mark.parametrize(("free", "said"), [(16 * 2**10, "16 KiB"), (3 * 2**20, r"3\.0 MiB"), (0, "0 KiB")])
def test_too_little_shared_memory_is_refused(monkeypatch, free, said):
    found = SimpleNamespace(f_bavail=free // 1024, f_frsize=1024)
    monkeypatch.setattr(loader.os, "statvfs", lambda path: found)
    with pytest.raises(UserError, match=rf"/dev/shm has {said} free, 4 data workers send batches of 1\.0 MiB through"):
        check_worker_limits(4, 10, 2**20)


def test_a_run_with_too_few_open_files_says_so_and_ends(world, tmp_path):
    """As ``ulimit -n 32`` has it; without the check it would wait for ever."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    argv = world.flags("train_concap", tmp_path, "ctrl_uniter")
    command = [sys.executable, os.path.join(root, "train_concap.py"), *map(str, argv), "--num_workers", "8"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -n 40; "$@"', "bash", *command], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2 and "open files, the limit is 40; raise it (ulimit -n " in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_a_worker_that_found_shared_memory_full_is_explained():
    words = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's"
    with pytest.raises(UserError, match=r"found /dev/shm full; make it larger"), lost_workers_explained():
        raise RuntimeError(words)
