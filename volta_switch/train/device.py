"""Where a run computes, and in which precision."""

from __future__ import annotations

import argparse
import os

import torch

from volta_switch.errors import UserError
from volta_switch.train.launch import is_told, told
from volta_switch.train.memory import keep_freed_memory
from volta_switch.train.ranks import Ranks

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def prepare_device(args: argparse.Namespace, ranks: Ranks | None = None) -> tuple[torch.device, torch.dtype]:
    """The device and the precision of the forward pass.

    Args:
        args: the flags.
        ranks: the processes that share the work; each takes the GPU of its number on its machine. None: this script
            is for one process.

    Raises:
        UserError: a device that is not there, or several processes where one is meant.
    """
    if ranks is None and told("WORLD_SIZE", 1) > 1:
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
    """The device that ``--device`` names, and its use by default; a GPU always with its number.

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
    if device.type == "cuda" and ranks.count > 1 and not is_told("LOCAL_RANK"):
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
    """A block whose matrix products run in a precision; float32 leaves everything as it is."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def compute_deterministically(device: torch.device) -> None:
    """Asks PyTorch for kernels that give the same result every time, where it has them."""
    if device.type == "cuda":
        # cuBLAS reads it when its first product is asked for; without it, products may differ from run to run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
