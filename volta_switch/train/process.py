"""What a process is told from outside: its place among others by environment variables, and to stop by signals."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from volta_switch.errors import UserError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def environment_number(name: str, default: int) -> int:
    """Returns the number that a variable holds; ``default`` where it is not set or empty.

    Raises:
        UserError: it holds something else.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise UserError(
            f"the environment variable {name} is {text!r}, expected a whole number; unset it, or use torchrun"
        )
    return int(text)


def is_in_environment(name: str) -> bool:
    """Returns whether a variable is set."""
    return bool(os.environ.get(name, "").strip())


class StopRequest:
    """Whether somebody has asked this process to stop, and by which signal (0: nobody)."""

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes the first signal inside the block; a second one does what it does by default.

        Only the main thread can listen; elsewhere the block changes nothing. A SIGHUP that is ignored stays so: that
        is what nohup asks for.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        if before[signal.SIGHUP] == signal.SIG_IGN:
            del before[signal.SIGHUP]

        def note(number: int, frame: FrameType | None) -> None:
            self.signal = number
            for each in before:
                signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
