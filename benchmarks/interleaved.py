"""What the benchmarks of models share: flags, taking steps in turn (A B A B ...), and the table of medians."""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping

import torch
from tabulate import tabulate
from torch import Tensor

Step = Callable[[], Tensor]


def flags(description: str | None, batch: int, rounds: int) -> argparse.ArgumentParser:
    """Make a parser with the flags of every benchmark of models."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def in_turn(steps: Mapping[str, Step], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Take each step once a round; seconds, without those of a first round that only warms up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            taken = _timed(step, device)
            if round_:
                times[name].append(taken)
    return times


def table(times: dict[str, list[float]], B: int, ours: str) -> str:
    """Lay out medians, and how many times as long the other side takes."""
    median = {name: statistics.median(taken) for name, taken in times.items()}
    rows = [
        (name, f"{median[name]:.3f}", f"{min(taken):.3f} to {max(taken):.3f}", f"{B / median[name]:.1f}",
         f"{median[name] / median[ours]:.3f}")
        for name, taken in times.items()
    ]  # fmt: skip
    heads = ("step of", "seconds", "range", "samples/s", f"x {ours}")
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


@contextlib.contextmanager
def autocast(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Run in mixed precision unless in float32."""
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        yield


def _timed(step: Step, device: torch.device) -> float:
    """Take one step; seconds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    started = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started
