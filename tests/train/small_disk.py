"""A small disk in memory, for tests that fill it."""

import os
import subprocess
from contextlib import contextmanager

import pytest


@contextmanager
def small_disk(folder, size, files=0):
    """Mounts a tmpfs of ``size`` bytes (with room for ``files`` names) at a folder; skips where it may not."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size}" + (f",nr_inodes={files}" if files else "")
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("a small disk cannot be mounted here: no mount command")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def free_bytes(folder):
    """How many bytes may still be written to a folder's disk."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def leave_free(folder, count):
    """Fills a folder's disk until ``count`` bytes are free, to a page (4096 bytes); ``make_room`` undoes it."""
    with (folder / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free_bytes(folder) - count)


def make_room(folder):
    """Removes what ``leave_free`` filled the disk with."""
    (folder / "filler").unlink()
