"""What only a CUDA GPU can show: ``make test-cuda``. Elsewhere these tests are skipped and say so.

``REHEARSE_ON=cpu`` runs them on the CPU, as far as that makes sense: the comparisons of two devices then compare a
device with itself, and what needs a GPU proper is left out by name. It shows that they run, and that they can fail.

Nothing here needs more than PyTorch, NumPy and pytest. A test that needs another package names it and is skipped where
that is missing (``needs``). ``make test-cuda`` loads this file alone (``--confcutdir``), not the one a folder above.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest
import torch

from gpu.device import DEVICE, PRESENT, REHEARSED

HERE = Path(__file__).parent
# The most telling first: where time runs out, what is left has told least.
ORDER = (
    *("test_cuda_equals_cpu", "test_waits", "test_training_on_gpu", "test_repetition", "test_pairs_on_gpu"),
    *("test_processes", "test_whole_commands", "test_compiled"),
)
# Seconds of the whole session after which no further test is begun; the Makefile ends it some seconds later.
SECONDS = float(os.environ.get("TEST_CUDA_SECONDS", "inf"))

_started = time.monotonic()
_measured: list[tuple[str, float, float]] = []  # test, seconds, GiB at the peak
_not_begun: list[str] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    own = [item for item in items if item.path.parent == HERE]
    for item in own:
        item.add_marker(pytest.mark.gpu)
        if not PRESENT:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU: make test-cuda"))
        elif REHEARSED and item.get_closest_marker("gpu_proper"):
            item.add_marker(pytest.mark.skip(reason="a rehearsal: only a CUDA GPU can show this"))
    own.sort(key=lambda item: ORDER.index(item.path.stem))
    items[:] = [item for item in items if item.path.parent != HERE] + own


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begins no test, nor what it is given, when time is up."""
    if time.monotonic() - _started > SECONDS:
        _not_begun.append(item.nodeid)
        pytest.skip(f"not begun: {SECONDS:.0f} s were over")


@pytest.fixture(autouse=True)
def measured(request: pytest.FixtureRequest) -> Iterator[None]:
    """Notes how long a test takes and what it holds on the GPU at most."""
    on_gpu = DEVICE.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    yield
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    _measured.append((request.node.nodeid.rpartition("/")[2], time.monotonic() - started, peak))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _not_begun and not session.exitstatus:
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _measured and not _not_begun:
        return
    terminalreporter.section(f"seconds, and GiB at the peak on {DEVICE}")
    for name, seconds, peak in _measured:
        terminalreporter.write_line(f"{seconds:7.1f} {peak:8.3f}  {name}")
    if _not_begun:
        terminalreporter.write_line(f"{len(_not_begun)} tests were not begun, time was up: this is no pass")
