"""Python code in a process of its own, of which every process writes to a file of its own.

Processes that share a stream cut each other's lines in two, and a test that reads lines fails now and then.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

BEGIN = """
import os, sys

FOLDER = sys.argv.pop(1)

def tell(*values):  # what the program itself says; no process that it starts does
    with open(f"{FOLDER}/told", "a") as file:
        print(*values, file=file)

def write_apart():  # all that a process writes otherwise, C code included
    file = os.open(f"{FOLDER}/{os.getpid()}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1), os.dup2(file, 2), os.close(file)

write_apart()
os.register_at_fork(after_in_child=write_apart)
"""


class Apart:
    """A running program, which may ``tell(...)`` lines, and the processes that it forks."""

    def __init__(self, folder: Path, code: str, arguments: Sequence[Any], cwd: Path):
        folder.mkdir(parents=True)
        self.folder = folder
        environment = {name: value for name, value in os.environ.items() if name != "TENSORPACK_SERIALIZE"}
        with (folder / "0.txt").open("w") as before_it_begins:
            self.process = subprocess.Popen(
                [sys.executable, "-c", BEGIN + textwrap.dedent(code), str(folder), *map(str, arguments)],
                cwd=cwd, env={**environment, "OMP_NUM_THREADS": "1"}, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=before_it_begins, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def told(self) -> list[str]:
        """The lines that the program has told so far."""
        told = self.folder / "told"
        return told.read_text().splitlines() if told.is_file() else []

    @property
    def written(self) -> dict[int, str]:
        """What each process has written so far, by its number; the program's own is ``process.pid``."""
        return {int(file.stem): file.read_text(errors="replace") for file in self.folder.glob("*.txt")}

    def ends(self, seconds: float) -> int | None:
        """Its exit code; None where it does not end in time. Whatever still runs of it is killed."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):  # all have ended
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def child_writes(self, text: str, seconds: float) -> bool:
        """Whether a process that it forked writes a text in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if any(text in written for number, written in self.written.items() if number != self.process.pid):
                return True
            time.sleep(0.05)
        return False
