"""What torchrun, or whatever else starts several processes, tells each of them by environment variables."""

from __future__ import annotations

import os

from volta_switch.errors import UserError


def told(name: str, default: int) -> int:
    """The number that a variable holds; ``default`` where it is not set or empty.

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


def is_told(name: str) -> bool:
    """Whether a variable is set."""
    return bool(os.environ.get(name, "").strip())
