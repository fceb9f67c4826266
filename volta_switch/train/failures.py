"""What goes wrong on the way and is no bug: said in one line, with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from volta_switch.errors import UserError


@contextmanager
def out_of_memory_explained(advice: Callable[[], str]) -> Iterator[None]:
    """Turns a failed allocation inside the block into a ``UserError`` with advice."""
    try:
        yield
    except RuntimeError as error:
        # torch.OutOfMemoryError on a GPU; a plain RuntimeError of the CPU's allocator.
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(f"out of memory: {advice()}") from None
    except MemoryError:
        raise UserError(f"out of memory: {advice()}") from None
