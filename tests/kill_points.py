"""Commands in processes of their own, forked, so that many of them start quickly; dying at one point of a program."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess

from volta_switch.cli import main


def forked(run: Callable[[], object]) -> BaseProcess:
    """Runs a function in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def started(argv: list[str], before: Callable[[], object] = lambda: None) -> BaseProcess:
    """Runs a command, whose output nobody sees, in a process of its own."""

    def run() -> None:
        before()
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        main(argv)

    return forked(run)


def ended(process: BaseProcess, seconds: float = 120) -> int:
    """Returns the exit code of a process, which ends by itself or was killed."""
    process.join(seconds)
    assert process.exitcode is not None
    return process.exitcode


def killed_at(owner, name: str, call: int, when: str) -> None:
    """Patches a function so that the process, a forked one, dies before or after a call of it, chosen by its number."""
    function, calls = getattr(owner, name), 0

    def dying(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)
