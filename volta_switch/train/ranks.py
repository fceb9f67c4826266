"""Several processes that divide one evaluation: started by torchrun, or by anything that sets its variables.

A process that fails ends with a line of its own. torchrun then stops the others at once; without torchrun they notice
the closed connection when they next wait for each other, and end with one line, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as distributed

from volta_switch.errors import UserError

# Nothing is said between two waits, and the slowest process decides: the time is for a machine that went away silently.
_TIMEOUT = timedelta(days=1)


@dataclass(frozen=True)
class Ranks:
    """This process's number, from 0, among all of them."""

    number: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that puts together what all have done."""
        return self.number == 0

    def wait(self) -> None:
        """Returns when all processes have come here.

        Raises:
            UserError: one of them has ended.
        """
        if self.count > 1:
            try:
                distributed.barrier()
            except RuntimeError as error:
                reason = str(error).splitlines()[0].split(". ")[0][:200]
                raise UserError(
                    f"process {self.number} of {self.count}: another one has ended, and its own lines say why "
                    f"({reason}); finished parts are kept, and the same command goes on"
                ) from None


@contextmanager
def ranks() -> Iterator[Ranks]:
    """Meets the other processes that the environment names, if it names any, and parts from them at the end.

    Raises:
        UserError: they cannot meet.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks()
        return
    try:
        distributed.init_process_group("gloo", timeout=_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:200]
        raise UserError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but the processes cannot meet ({reason})") from None
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
