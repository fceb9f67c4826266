"""Where a pre-training step's time goes on a GPU: launches, kernels by kind, the longest kernels, time without any.

    python benchmarks/profile_step.py --model ctrl_uniter_base switchbert --device cuda --dtype bfloat16 --batch 256

One model after the other, each printed when it is done. A step is timed without the profiler first, and then profiled;
what is said of kernels is read from the profiler's trace, which ``--trace`` keeps for the last model (for
ui.perfetto.dev). A step is that of ``train_step.py``. On a CPU, for a rehearsal, PyTorch's operators stand for kernels.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from interleaved import flags, machine, timed
from tabulate import tabulate
from train_step import BATCHES, UNITER, OurStep, Setting, shortened

from volta_switch import load_config
from volta_switch.command import run_command
from volta_switch.cost.counts import some_batch

# Kinds of kernels, by a part of their names; the first that fits. Operators' names are there for a CPU.
KINDS = (
    ("compiled (Triton)", r"^triton_"),
    ("matrix products", r"gemm|gemv|nvjet|cutlass|xmma|splitK|cublas|aten::(mm|addmm|bmm|baddbmm)\b"),
    ("fused attention", r"flash|fmha|mem_eff|scaled_dot_product"),
    ("softmax", r"softmax"),
    ("dropout, random bits", r"dropout|random|philox|distribution|bernoulli|exponential"),
    ("LayerNorm", r"layer_?norm|GammaBeta"),
    ("optimiser, gradient norm", r"Adam|adam|multi_tensor|foreach"),
    ("gathers and scatters", r"index|gather|scatter|embedding|select"),
    ("copies, casts, zeros", r"Memcpy|Memset|copy|Copy|CatArray|aten::cat|[Ff]ill|zero_"),
    ("sums and other reductions", r"reduce|Reduce|aten::(sum|mean|amax|max)\b"),
    ("other pointwise", r"elementwise|aten::(add|mul|div|sub|gelu|tanh|exp|where|lerp)"),
)
KERNELS = {"cuda": ("kernel", "gpu_memcpy", "gpu_memset"), "cpu": ("cpu_op",)}  # categories of a trace
LAUNCH = re.compile(r"cu(da)?LaunchKernel")
WAITS = re.compile(r"cuda\w*Synchronize")
SHOWN = 15  # kernels in the table


@dataclass
class Profile:
    """What a trace of some steps holds; times in microseconds, of all steps together."""

    steps: int
    launches: int = 0
    waits: int = 0
    busy: float = 0.0  # with at least one kernel on the device
    kernels: dict[str, tuple[int, float]] = field(default_factory=dict)  # name: how many, how long

    @classmethod
    def of(cls, trace: Iterable[Mapping[str, Any]], device: str, steps: int) -> Profile:
        """Of a trace's events."""
        found = cls(steps)
        lanes: dict[tuple[Any, Any], list[tuple[float, float, str]]] = defaultdict(list)
        for event in trace:
            if event.get("ph") != "X":
                continue
            if event.get("cat") in KERNELS[device]:
                start = float(event["ts"])
                lanes[event.get("pid"), event.get("tid")].append((start, start + float(event["dur"]), event["name"]))
            found.launches += bool(LAUNCH.match(event["name"]))
            found.waits += bool(WAITS.match(event["name"]))
        times: dict[str, list[float]] = defaultdict(list)
        for lane in lanes.values():
            for name, own in own_times(lane):
                times[name].append(own)
        found.kernels = {name: (len(each), sum(each)) for name, each in times.items()}
        found.busy = covered(sorted((start, end) for lane in lanes.values() for start, end, _ in lane))
        return found

    def by_kind(self) -> dict[str, tuple[int, float]]:
        """How many kernels of each kind, and how long they took, the longest kind first."""
        kinds: dict[str, tuple[int, float]] = {}
        for name, (count, taken) in self.kernels.items():
            kind = kind_of(name)
            before = kinds.get(kind, (0, 0.0))
            kinds[kind] = before[0] + count, before[1] + taken
        return dict(sorted(kinds.items(), key=lambda item: -item[1][1]))


def kind_of(name: str) -> str:
    """The kind of a kernel of this name."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name)), "other")


def own_times(lane: Iterable[tuple[float, float, str]]) -> list[tuple[str, float]]:
    """Each event's time without that of the events inside it; of kernels, which never nest, all of it."""
    own: list[list[Any]] = []  # name, time
    open_: list[tuple[float, int]] = []  # end and place of what encloses the next event
    for start, end, name in sorted(lane, key=lambda event: (event[0], -event[1])):
        while open_ and open_[-1][0] <= start:
            open_.pop()
        if open_:
            own[open_[-1][1]][1] -= end - start
        open_.append((end, len(own)))
        own.append([name, end - start])
    return [(name, max(taken, 0.0)) for name, taken in own]


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of what sorted intervals cover together."""
    total, reached = 0.0, float("-inf")
    for start, end in intervals:
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def main(argv: Sequence[str]) -> None:
    """Time, profile and print each model."""
    parser = flags(__doc__, batch=32, rounds=3)
    parser.add_argument("--model", nargs="+", default=[UNITER], help="configurations of this project")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than configured, single-stream models only")
    parser.add_argument("--compile", action="store_true", help="compile this project's encoder layers")
    parser.add_argument("--steps", type=int, default=2, help="profiled")
    parser.add_argument("--trace", default="", help="a file .json.gz for one profiled step of the last model")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    print(machine(device), flush=True)
    batches = [some_batch(args.batch, seed) for seed in range(BATCHES)]
    for name in args.model:
        setting = Setting(load_config(shortened(name, args.layers)), device, getattr(torch, args.dtype), args.compile)
        step = OurStep(setting, batches)
        for number in range(BATCHES):
            step(number)
        seconds = statistics.median(timed(step, device, BATCHES, BATCHES) for _ in range(args.rounds))
        print(f"{name}: {seconds:.4g} s a step without the profiler", flush=True)
        found, trace = profiled(step, device, args.steps)
        print(described(name, found, seconds, device.type), flush=True)
        if args.trace and name == args.model[-1]:
            Path(args.trace).write_bytes(trace)
        del step
        if device.type == "cuda":
            torch.cuda.empty_cache()


def profiled(step: OurStep, device: torch.device, steps: int) -> tuple[Profile, bytes]:
    """Profile so many steps; also the trace of one, compressed."""
    counted, _ = _traced(step, device, steps)
    _, trace = _traced(step, device, 1)
    return counted, trace


def _traced(step: OurStep, device: torch.device, steps: int) -> tuple[Profile, bytes]:
    activity = torch.profiler.ProfilerActivity
    activities = [activity.CPU, *([activity.CUDA] if device.type == "cuda" else [])]
    with torch.profiler.profile(activities=activities) as profiler:
        timed(step, device, BATCHES, steps)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "trace.json"
        profiler.export_chrome_trace(str(path))
        text = path.read_bytes()
    return Profile.of(json.loads(text)["traceEvents"], device.type, steps), gzip.compress(text)


def described(name: str, found: Profile, seconds: float, device: str) -> str:
    """The tables of one model."""
    per = 1e3 * found.steps  # microseconds of all steps to milliseconds of one
    all_of_them = sum(taken for _, taken in found.kernels.values()) or 1.0
    what = "kernels" if device == "cuda" else "operators"

    def row(label: str, count: int, taken: float) -> tuple[str, str, str, str]:
        return label, f"{count / found.steps:.0f}", f"{taken / per:.3f}", f"{100 * taken / all_of_them:.1f}"

    kinds = [row(kind, *of_kind) for kind, of_kind in found.by_kind().items()]
    longest = sorted(found.kernels.items(), key=lambda item: -item[1][1])[:SHOWN]
    width = min(100, shutil.get_terminal_size((160, 1)).columns)
    tops = [row(kernel[:width].replace("|", "/"), *of_kernel) for kernel, of_kernel in longest]
    step_ms = 1e3 * seconds
    lines = [
        f"\n### {name}\n",
        f"a step takes {step_ms:.2f} ms; {what} are at work in {found.busy / per:.2f} ms of it, "
        f"{100 * found.busy / per / step_ms:.0f} %",
        f"launches a step: {found.launches / found.steps:.0f}; calls that wait for the device, in {found.steps} steps: "
        f"{found.waits}, two of them the measurement's own",
        "",
        tabulate(kinds, ("kind", what, "ms a step", "%"), tablefmt="github", disable_numparse=True),
        "",
        tabulate(tops, (what[:-1], "times", "ms a step", "%"), tablefmt="github", disable_numparse=True),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main)
