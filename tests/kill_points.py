"""Dying at one point of a program, chosen by the call that it makes there."""

import os
import signal


def killed_at(owner, name: str, call: int, when: str) -> None:
    """Patches a function so that the process, a forked one, dies before or after a call of it."""
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
