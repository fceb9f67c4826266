"""A loader's worker processes: what the system must grant them, and what is said where one is late or gone.

Without enough open files PyTorch's processes wait for ever, without shared memory for the batches that they send they
are killed; both are looked at before any is started.
"""

from __future__ import annotations

import os
import re
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from volta_switch.errors import UserError

SHARED_MEMORY = Path("/dev/shm")
LARGER_SHARED_MEMORY = "make it larger (docker run --shm-size 8g), or take fewer --num_workers (0: none is needed)"
PREFETCHED = 2  # batches that each worker has ready, PyTorch's default
_FILES_OF_A_WORKER = 8  # pipes of its queues, and what starting it takes
_OWN_FILES = 32  # that are opened later: data, logs, checkpoints


def check_worker_limits(workers: int, tensors: int, batch_bytes: int) -> None:
    """Raises this process's limit on open files as far as it may, and looks at both limits.

    Args:
        workers: processes.
        tensors: of a batch; each takes an open file until it is received.
        batch_bytes: of a batch.

    Raises:
        UserError: one is too small; says what to set.
    """
    there = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    needed = there + _OWN_FILES + workers * (_FILES_OF_A_WORKER + PREFETCHED * tensors)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise UserError(
                f"{workers} data workers need about {needed} open files, the limit is {hard}; raise it (ulimit -n "
                f"{needed}), or take fewer --num_workers"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    if SHARED_MEMORY.is_dir():
        found = os.statvfs(SHARED_MEMORY)
        free = found.f_bavail * found.f_frsize
        if free < workers * batch_bytes:
            raise UserError(
                f"{SHARED_MEMORY} has {_size(free)} free, {workers} data workers send batches of {_size(batch_bytes)} "
                f"through it; {LARGER_SHARED_MEMORY}"
            )


def _size(count: float) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


@contextmanager
def lost_workers_explained() -> Iterator[None]:
    """Raises UserError where PyTorch finds a loader's worker late or gone: gone also between two batches."""
    try:
        yield
    except RuntimeError as error:
        message = str(error).splitlines()[0] if str(error) else ""
        if not message.startswith("DataLoader"):  # PyTorch's words; it has no class for them
            raise
        late = re.search(r"timed out after (\d+)", message)
        if late:
            raise UserError(
                f"a data worker has given nothing for {late[1]} s; look at the disk that the features lie on, or raise "
                "--worker_timeout"
            ) from None
        if "Bus error" in message:
            raise UserError(f"a data worker found {SHARED_MEMORY} full; {LARGER_SHARED_MEMORY}") from None
        raise UserError(
            f"a data worker was ended from outside ({message.split('. ')[0]}); where memory ran out, take fewer "
            "--num_workers"
        ) from None


def leave_signals(worker: int) -> None:
    """Ctrl-C, SIGTERM and SIGHUP reach a whole group of processes; the first of them decides when the workers end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
