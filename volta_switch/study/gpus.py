"""Which GPU each of a study's jobs has: by ``CUDA_VISIBLE_DEVICES``, which CUDA reads when it is first used."""

from __future__ import annotations

import os
from collections.abc import Sequence

from volta_switch.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def chosen_gpus(flag: str, seen: int | None = None) -> tuple[str, ...]:
    """The names of the GPUs that a study's jobs may have, as ``CUDA_VISIBLE_DEVICES`` takes them.

    Args:
        flag: "" for all that PyTorch sees; "2" for the first two of them, "0" for none; "1,3" for those, by their
            numbers among them, and "3," for one.
        seen: how many PyTorch sees; None: ask it.

    Raises:
        UserError: the flag asks for a GPU that is not there, for one twice, or is none of these forms.
    """
    if seen is None:
        import torch  # here, not above: --help and other commands wait for nothing

        seen = torch.cuda.device_count()
    asked = [part.strip() for part in flag.split(",") if part.strip()]
    if not all(part.isascii() and part.isdecimal() for part in asked) or (flag and not asked):
        raise UserError(f"--gpus {flag}: expected how many (2), or their numbers with commas (0,2 or 3,)")
    numbers = [int(part) for part in asked] if "," in flag else list(range(int(asked[0]) if asked else seen))
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--gpus {flag}: one stands there twice")
    if numbers and max(numbers) >= seen:
        there = f"this machine has {seen}, numbered from 0" if seen else "PyTorch sees none"
        raise UserError(f"--gpus {flag}: {there}")
    names = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return tuple(names[number] if number < len(names) else str(number) for number in numbers)


def slots(jobs: int, gpus: Sequence[str]) -> list[str]:
    """The GPU of each job: one of its own where there are as many, else several jobs share one; "" without GPUs."""
    return [gpus[job % len(gpus)] if gpus else "" for job in range(jobs)]


def take_gpu(gpu: str) -> None:
    """Leaves this process one GPU, and those that it starts; before CUDA is used."""
    if gpu:
        os.environ[VISIBLE] = gpu
