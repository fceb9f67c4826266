"""The exceptions a user is meant to read."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class UserError(Exception):
    """Bad input: one line that names the file, the record or key, what was expected and what to do.

    Every command prints it as ``error: <message>`` and exits with code 2, without a traceback. Line breaks that come
    with a name from a file become spaces. ``details``: further lines, where one cannot hold what a user must know.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(" ".join(message.splitlines()))
        self.details = tuple(" ".join(line.splitlines()) for line in details)


def first_line(error: BaseException) -> str:
    """Returns the first line of what a library says, shortened; the error's kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Returns the known name that a mistyped one comes nearest to, capitals aside; "" where none is near.

    Args:
        name: as it was typed.
        known: what there is.
        cutoff: the least likeness, 0 to 1.
    """
    folded = {each.casefold(): each for each in known}
    found = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return folded[found[0]] if found else ""


def unknown_key(key: object, known: Iterable[str]) -> str:
    """Returns what there is to say of a key that nothing reads: the nearest known one, or all of them."""
    known = tuple(known)
    near = nearest(str(key), known)
    return f"unknown key {key!r:.60}" + (f", did you mean {near}?" if near else f" ({', '.join(known)})")


class BadRecord(UserError):
    """One record of a data file cannot be used; the others can. ``--max-bad-records``: how many are passed over."""


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop has written what it needs to go on; ``signal`` is what it was asked by."""

    def __init__(self, message: str, by: int) -> None:
        super().__init__(message)
        self.signal = by

    def __reduce__(self) -> tuple[Any, ...]:  # it may come from another process
        return type(self), (str(self), self.signal)
