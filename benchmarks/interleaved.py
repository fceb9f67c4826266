"""What the benchmarks of models share: flags, steps in turn (A B A B ...), the ceiling of matrix products, memory.

Times are CPU seconds of this process on a CPU, so that others on the machine count less; seconds on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gc
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from volta_switch.errors import UserError
from volta_switch.train.device import keep_freed_memory

Step = Callable[[int], Any]  # of the batch of a number; sides take the same ones


def flags(description: str | None, batch: int, rounds: int) -> argparse.ArgumentParser:
    """Make a parser with the flags of every benchmark of models."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=1)
    return parser


def add_volta(parser: argparse.ArgumentParser, dtype: str | None) -> None:
    """Add the flags of VOLTA's side; its type by default, None being that of the others."""
    choices = ("float32", "bfloat16")
    parser.add_argument("--volta-dtype", choices=choices, default=dtype, help="default: as --dtype, but for retrieval")
    memory = "what the CPU's allocator does with memory that VOLTA's side has freed; this project's runs keep it"
    parser.add_argument("--volta-memory", choices=("default", "kept"), default="default", help=memory)


def add_measures(parser: argparse.ArgumentParser) -> None:
    """Add the flags of what is measured beside a step's time."""
    parser.add_argument("--steps", type=int, default=1, help="taken at once and timed together; on a GPU at least 10")
    memory = "also measure each side's peak, in a process of its own; train_step.py on a GPU measures it anyway"
    parser.add_argument("--memory", action="store_true", help=memory)
    parser.add_argument("--peak-of", default="", help=argparse.SUPPRESS)  # one side's peak, in this process


def giving_back(sides: Iterable[str], args: argparse.Namespace) -> list[str]:
    """The sides that run with the allocator's default, see ``in_turn``: VOLTA's, unless ``--volta-memory kept``."""
    return [name for name in sides if name.startswith("VOLTA") and args.volta_memory == "default"]


def in_turn(
    steps: Mapping[str, Step],
    device: torch.device,
    rounds: int,
    *,
    at_once: int = 1,
    warm_up: int = 1,
    around: Callable[[], Any] | None = None,
    by_default: Container[str] = (),
    until: float = math.inf,
    peaks: GpuPeaks | None = None,
) -> dict[str, list[float]]:
    """Take the steps in turn, each ``at_once`` times a round; seconds of one.

    Before its first round each is taken ``warm_up`` times. ``around`` is called at the beginning and at the end of
    every round. On a CPU freed memory is kept, as in this project's runs, but for the sides ``by_default``, which are
    run with the allocator's default; the first of the others behind one of them takes a step untimed.

    Every figure is printed when it has been measured, so that a process that is killed leaves what it had found. From
    ``until`` on, seconds since the epoch, no further round is begun. ``peaks`` notes what each side holds on a GPU.
    """
    memory = Memory(device, by_default)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        if number and time.time() > until:
            print(f"{number} of {rounds} rounds: time is up", flush=True)
            break
        first = warm_up + number * at_once
        if around is not None:
            around()
        for name, step in steps.items():
            gc.collect()  # what the side before has left
            kept_anew = memory.for_side(name)
            if not number:
                _warm_up(name, step, device, warm_up)
            elif kept_anew:
                step(first)
            with nullcontext() if peaks is None else peaks.of(name):
                times[name].append(timed(step, device, first, at_once))
            print(f"{name}: {times[name][-1]:.4g} s a step, round {number + 1}", flush=True)
        if around is not None:
            around()
    return times


def _warm_up(name: str, step: Step, device: torch.device, count: int) -> None:
    started = time.perf_counter()
    for number in range(count):
        step(number)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    print(f"{name}: {time.perf_counter() - started:.1f} s for the first {count} steps", flush=True)


class GpuPeaks:
    """Bytes that each side's steps need on a GPU at most, above what lies there between them."""

    def __init__(self, device: torch.device):
        self._device = device
        self.above: dict[str, int] = {}

    def of(self, name: str) -> AbstractContextManager[None]:
        """A block of one side's steps."""
        return self._measured(name) if self._device.type == "cuda" else nullcontext()

    @contextlib.contextmanager
    def _measured(self, name: str) -> Iterator[None]:
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        yield
        found = torch.cuda.max_memory_allocated(self._device) - before
        self.above[name] = max(found, self.above.get(name, 0))


class Memory:
    """What the CPU's allocator does with freed memory while a side runs."""

    def __init__(self, device: torch.device, by_default: Container[str]):
        self._device, self._by_default = device, by_default
        self._kept = False

    def for_side(self, name: str) -> bool:
        """Set it for a side; whether memory is kept from now on, after it was not."""
        before, self._kept = self._kept, name not in self._by_default
        if self._device.type != "cpu" or before == self._kept:
            return False
        keep_freed_memory(self._kept)
        return self._kept


def machine(device: torch.device) -> str:
    """The day, the device, the driver and the versions that a figure belongs to, in one line."""
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    if device.type != "cuda":
        return f"{day}, {platform.processor() or platform.machine()}, {versions}"
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = "unknown"
    return f"{day}, {torch.cuda.get_device_name(device)}, driver {driver}, CUDA {torch.version.cuda}, {versions}"


def table(
    times: Mapping[str, Sequence[float]], B: int, ours: str, further: Mapping[str, Mapping[str, str]] | None = None
) -> str:
    """Lay out medians, how many times as long as ours each takes, and further columns (heading, then name)."""
    median = {name: statistics.median(taken) for name, taken in times.items()}
    columns = further or {}
    rows = [
        (name, f"{median[name]:.4g}", f"{min(taken):.4g} to {max(taken):.4g}", f"{B / median[name]:.1f}",
         f"{median[name] / median[ours]:.3f}", *(column.get(name, "") for column in columns.values()))
        for name, taken in times.items()
    ]  # fmt: skip
    heads = ("step of", "seconds", "range", "samples/s", f"x {ours}", *columns)
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


class Ceiling:
    """The rate of matrix products alone, FLOP/s: the best of those of one feed-forward layer.

    ``(rows, width) x (width, inner)`` and the two products of its backward pass, in the memory layouts of a linear
    layer; each is timed five times (on a GPU 20 products at once) whenever this is called, and its median counts: what
    products alone reach on the machine as it is, beside whatever else runs on it.
    """

    def __init__(self, rows: int, width: int, inner: int, device: torch.device, dtype: torch.dtype):
        shapes = ((rows, width), (inner, width), (rows, inner))
        states, weight, grad = (torch.randn(shape, device=device).to(dtype) for shape in shapes)
        self._pairs = ((states, weight.t()), (grad, weight), (grad.t(), states))
        self._flops = 2.0 * rows * width * inner
        self._device, self._at_once = device, 20 if device.type == "cuda" else 1
        self.rates: list[float] = []
        self()
        self.rates.clear()

    def __call__(self) -> None:
        """Measure once more."""
        taken = [
            statistics.median(timed(lambda _, p=pair: torch.mm(*p), self._device, 0, self._at_once) for _ in range(5))
            for pair in self._pairs
        ]
        self.rates.append(self._flops / max(min(taken), 1e-9))

    def of_round(self, index: int) -> float:
        """The mean of a round's two measurements."""
        return statistics.mean(self.rates[2 * index : 2 * index + 2])

    def __str__(self) -> str:
        """The median over rounds, and the range."""
        rates = [self.of_round(index) / 1e9 for index in range(len(self.rates) // 2)]
        return f"{statistics.median(rates):.0f} GFLOP/s ({min(rates):.0f} to {max(rates):.0f})"


def utilisation(work: Sequence[float], times: Sequence[float], ceiling: Ceiling) -> str:
    """Per cent of the same round's ceiling, the median over rounds; ``work`` in FLOPs of a step of each round."""
    rates = [flops / taken for flops, taken in zip(work, times, strict=True)]
    return f"{100 * statistics.median(rate / ceiling.of_round(index) for index, rate in enumerate(rates)):.1f}"


def peak_apart(side: str) -> str:
    """GiB at the peak of one side of this benchmark, whose own command line runs again in a process of its own."""
    command = [sys.executable, *sys.argv, "--peak-of", side]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"--memory: {side} failed in a process of its own: {done.stderr.strip().splitlines()[-1:]}")
    return f"{float(done.stdout.split()[-1]):.2f}"


def peak(build: Callable[[], Step], device: torch.device, by_default: bool = False) -> float:
    """GiB that a side's building and two of its steps need at most, above what the process held before.

    The second step has the optimiser's state beside the activations. On a CPU it is resident memory at its highest
    (VmHWM), so that the process must not have held more earlier; on a GPU what PyTorch allocated. ``by_default``: the
    side runs with the allocator's default, as in ``in_turn``.
    """
    if device.type == "cpu" and not by_default:
        keep_freed_memory()
    before = _status("VmRSS") if device.type == "cpu" else torch.cuda.memory_allocated(device)
    step = build()
    step(0)
    step(1)
    highest = _status("VmHWM") if device.type == "cpu" else torch.cuda.max_memory_allocated(device)
    return (highest - before) / 2**30


def _status(field: str) -> int:
    """Bytes in a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def timed(step: Step, device: torch.device, first: int, at_once: int) -> float:
    """Take the steps of so many batches, from ``first`` on; seconds of one."""
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize(device)
    started = clock()
    for number in range(first, first + at_once):
        step(number)
    if on_gpu:
        torch.cuda.synchronize(device)
    return (clock() - started) / at_once
