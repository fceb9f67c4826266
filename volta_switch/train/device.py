"""Where a run computes, in which precision, and what it does with memory: freed memory is kept, a lack is explained."""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from volta_switch.command import environment_number, is_in_environment
from volta_switch.errors import UserError
from volta_switch.train.ranks import Ranks

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# glibc's numbers of mallopt's parameters (malloc.h).
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4
KEEPING = {MMAP_MAX: 0, TRIM_THRESHOLD: -1, TOP_PAD: 64 * 2**20}
# As glibc adjusts them by itself in a process that allocates large blocks.
GIVING_BACK = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20, TOP_PAD: 128 * 2**10}


def prepare_device(args: argparse.Namespace, ranks: Ranks | None = None) -> tuple[torch.device, torch.dtype]:
    """Returns the device and the precision of the forward pass.

    Args:
        args: the flags.
        ranks: the processes that share the work; each takes the GPU of its number on its machine. None: this script
            is for one process.

    Raises:
        UserError: a device that is not there, or several processes where one is meant.
    """
    if ranks is None and environment_number("WORLD_SIZE", 1) > 1:
        raise UserError("several processes are for training and eval_retrieval.py; start one process, without torchrun")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device, ranks or Ranks())
    if device.type == "cpu":
        keep_freed_memory()
    if args.precision == "auto":
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return device, torch.bfloat16 if bf16 else torch.float32
    return device, PRECISIONS[args.precision]


def choose_device(name: str, ranks: Ranks) -> torch.device:
    """Returns the device that ``--device`` names, and its use by default; a GPU always with its number.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:<n>``.
        ranks: of several processes, each takes the GPU of its number on its machine.

    Raises:
        UserError: there is no such device, or several processes are sent to one GPU.
    """
    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        kind = torch.device(wanted).type
    except RuntimeError:
        kind = "unknown"
    if kind not in ("cpu", "cuda"):
        raise _no_device(name, "expected auto or the name of a device; choose cpu, cuda or cuda:<n>")
    device = torch.device(wanted)
    if device.type == "cuda" and ranks.count > 1 and not is_in_environment("LOCAL_RANK"):
        raise _no_device(name, "LOCAL_RANK is not set, by which each process takes a GPU of its own; use torchrun")
    if device.type == "cuda" and device.index is None:  # torch.cuda.set_device takes no device without a number
        device = torch.device("cuda", ranks.on_this_machine)
    elif device.type == "cuda" and ranks.count > 1:
        raise _no_device(name, f"would put {ranks.count} processes on one GPU; give cuda, one for each process")
    try:
        torch.empty(0, device=device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        reason = f"{device}: {reason}; choose cpu, or cuda on a machine with a GPU for each process"
        raise _no_device(name, reason) from None
    return device


def _no_device(name: str, reason: str) -> UserError:
    return UserError(f"--device {name}: {reason}")


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Returns a block whose matrix products run in a precision; float32 leaves everything as it is."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def compute_deterministically(device: torch.device) -> None:
    """Asks PyTorch for kernels that give the same result every time, where it has them."""
    if device.type == "cuda":
        # cuBLAS reads it when its first product is asked for; without it, products may differ from run to run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def keep_freed_memory(keep: bool = True) -> bool:
    """Keeps freed memory in the process for what is allocated next; False gives it back to the system, as by default.

    Every step allocates the same activations and gradients anew. glibc maps large blocks from the system and gives them
    back, so that the system clears each of their pages again in every step; kept, they cost nothing. The memory needed
    at the peak is about the same (benchmarks/RESULTS.md has both).

    Returns:
        Whether the allocator could be told; only glibc's can.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        mallopt = libc.mallopt
    except (OSError, AttributeError):  # another C library
        return False
    wanted = KEEPING if keep else GIVING_BACK
    accepted = all([mallopt(ctypes.c_int(name), ctypes.c_int(value)) for name, value in wanted.items()])
    if not keep:
        libc.malloc_trim(ctypes.c_size_t(0))
    return accepted


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
