"""A question that may never be answered, asked for a bounded time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def in_time(ask: Callable[[], Answer], seconds: float) -> Answer:
    """Returns what ``ask`` returns; whatever it waits for, such as a name's address, which has no time limit.

    Raises:
        TimeoutError: there was nothing within so many seconds; ``ask`` is left to itself.
        Exception: what ``ask`` raised.
    """
    answers: list[Answer] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:
            errors.append(error)

    asking = threading.Thread(target=run, daemon=True)
    asking.start()
    asking.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError
    return answers[0]
