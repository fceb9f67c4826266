"""Memory that a step frees serves the next one; measured by the pages that the system had to clear, not by time."""

import subprocess
import sys

import pytest

from volta_switch.train.device import keep_freed_memory

MEBIBYTES = 80  # of each block
PAGE = 4096
# Where freed blocks lie side by side is a matter of the heap's layout, another in every process: the first few steps
# (four at most, in 43 processes) still ask for a block or two.
SETTLED = 12
PROGRAM = f"""
import resource, sys, torch
from volta_switch.train.device import keep_freed_memory

assert keep_freed_memory(sys.argv[1] == "keep")
for step in range({SETTLED} + 4):
    if step == {SETTLED}:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones({MEBIBYTES} * 2**18) for _ in range(3)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_cleared(how):
    """Pages that four steps asked of the system, after SETTLED that came before them."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc's allocator can be told")
def test_kept_memory_is_not_asked_of_the_system_again():
    every = 4 * 3 * MEBIBYTES * 2**20 // PAGE
    assert pages_cleared("give back") > every / 2 or huge_pages_come_unasked()
    assert pages_cleared("keep") < every / 5  # a system short of memory may take some away


def huge_pages_come_unasked():
    """Whether the system hands out pages of 2 MiB by itself, of which a step needs few."""
    with open("/sys/kernel/mm/transparent_hugepage/enabled") as file:
        return "[always]" in file.read()


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
