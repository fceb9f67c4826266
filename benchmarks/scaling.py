"""Strong scaling from one process to two on this machine: a pre-training step of one global batch, piece by piece.

    python benchmarks/scaling.py --models ctrl_uniter_base switchbert [--batch 32 --rounds 5]
    python benchmarks/scaling.py --checkpoint                                     # one process writes and reads one
    python benchmarks/scaling.py --arithmetic [--assume utilisation=0.3 ...]      # the tables of docs/scaling.md

Two processes (gloo, the CPU, one thread each) hold the model whole (DDP) and divided (FSDP2), through the classes that
training uses, beside a plain one, and step in turn, medians over rounds:

- 1 process: the first one takes the whole batch, the other waits;
- 2, no exchange: each takes its half and its optimiser's step, and sends nothing: what computing alone takes;
- 2, DDP and 2, FSDP2: as training does; what they take longer is communication, and waiting for each other;
- the same with each half in ``--parts`` accumulation steps;
- all-reduce: as many numbers as the model has parameters, by itself;
- 100 agreements: what the processes tell each other at the beginning of a step, the samples' and the losses' counts.

Seconds are wall-clock ones, from a barrier to the next; CPU seconds those of the process that had more to do, waiting
left out, so that others on the machine count less. What these took meanwhile is counted (/proc/stat), and so are the
bytes that travel on the loopback (/proc/net/dev).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from interleaved import flags
from scaling_on_paper import Assumptions, Size, ddp_bytes, fsdp_bytes, tables
from tabulate import tabulate
from train_step import BATCHES, UNITER, as_loaded, shortened

from volta_switch import BertForVLPreTraining, load_config
from volta_switch.command import run_command
from volta_switch.config import Config
from volta_switch.cost.counts import some_batch
from volta_switch.data.batches.collate import Batch
from volta_switch.errors import UserError
from volta_switch.train.checkpoints import CheckpointStore, TrainingProgress
from volta_switch.train.device import keep_freed_memory
from volta_switch.train.optimisation import Hyperparameters, build_optimizer, clipped_step
from volta_switch.train.pretraining import Pretraining
from volta_switch.train.ranks import Ranks, ranks
from volta_switch.train.replicas import Replicas
from volta_switch.weights import to_volta

CPU = torch.device("cpu")
PROCESSES = 2
ALONE, APART, ALL_REDUCE, AGREEMENTS = "1 process", "2, no exchange", "all-reduce", "100 agreements"
Found = dict[str, list[dict[str, float]]]  # by way: a measurement of each round


def main(argv: Sequence[str]) -> None:
    """Measure each model, or print the tables of docs/scaling.md."""
    parser = flags(__doc__, batch=32, rounds=5)
    parser.add_argument("--models", nargs="+", default=[UNITER, "switchbert"], help="configurations of this project")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than configured, single-stream models only")
    parser.add_argument("--parts", type=int, default=2, help="accumulation steps where there are several")
    writing = "measure instead how long a checkpoint takes to write and read, in a temporary folder"
    parser.add_argument("--checkpoint", action="store_true", help=writing)
    parser.add_argument("--arithmetic", action="store_true", help="measure nothing, print the tables of the paper side")
    put_in = "another number for the tables, such as utilisation=0.3; may be repeated"
    parser.add_argument("--assume", action="append", default=[], metavar="NAME=VALUE", help=put_in)
    parser.add_argument("--as-worker", action="store_true", help=argparse.SUPPRESS)  # one of the two processes
    args = parser.parse_args(argv)
    if (args.device, args.dtype) != ("cpu", "float32"):
        raise UserError("two processes share the CPU here, in float32: leave --device and --dtype as they are")
    if args.arithmetic:
        print("\n\n".join(tables(assumed(args.assume))))
    elif args.as_worker:
        work(args)
    elif args.checkpoint:
        print(checkpoints(args))
    else:
        for model in args.models:
            found = measured(model, argv)
            size = Size.of(load_config(shortened(model, args.layers)))
            layers = f", {args.layers} layers" if args.layers else ""
            print(f"\n{model}{layers}, {size.parameters / 1e6:.1f} M parameters, global batch {args.batch}:\n")
            print(report(found, size, args.parts), flush=True)


def assumed(pairs: Sequence[str]) -> Assumptions:
    """The assumptions with some numbers replaced.

    Raises:
        UserError: a name that there is not, or no number.
    """
    result = Assumptions()
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in Assumptions.__dataclass_fields__:
            raise UserError(f"--assume {pair}: expected one of {', '.join(Assumptions.__dataclass_fields__)}")
        try:
            result = replace(result, **{name: float(value)})
        except ValueError:
            raise UserError(f"--assume {pair}: expected a number after {name}=") from None
    return result


def measured(model: str, argv: Sequence[str]) -> Found:
    """What two processes find, started by torchrun."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(PROCESSES)]
    torchrun += ["--redirects", ",".join(f"{rank}:1" for rank in range(1, PROCESSES))]  # the first alone prints here
    command = [*torchrun, str(Path(__file__)), *argv, "--models", model, "--as-worker"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise UserError(f"{model}: a process failed: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def work(args: argparse.Namespace) -> None:
    """One of the two processes: all ways in turn; the first prints what was found."""
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    with ranks() as rank:
        ways = all_ways(args, rank)
        found: Found = {name: [] for name in ways}
        for number in range(args.rounds + 1):
            for name, way in ways.items():
                values = timed(lambda way=way, number=number: way(number), rank)  # type: ignore[misc]
                if number:  # the first round is the warm-up
                    found[name].append(values)
        if rank.first:
            print(json.dumps(found), flush=True)


def all_ways(args: argparse.Namespace, rank: Ranks) -> dict[str, Callable[[int], Any]]:
    """What is done in turn, by name; each is given the number of the round."""
    config = load_config(shortened(args.models[-1], args.layers))
    batches = [some_batch(args.batch, seed) for seed in range(BATCHES)]

    def shares(first: int, every: int, parts: int) -> list[list[Batch]]:
        """Of each batch, a share in so many parts."""
        cuts = [slice(first + every * part, None, every * parts) for part in range(parts)]
        return [
            [as_loaded({name: tensor[cut] for name, tensor in batch.items()}, CPU) for cut in cuts] for batch in batches
        ]

    whole, half, parted = shares(0, 1, 1), shares(rank.number, 2, 1), shares(rank.number, 2, args.parts)
    plain, ddp, fsdp = Side(config, Ranks()), Side(config, rank), Side(config, rank, sharded=True)
    numbers = torch.zeros(Size.of(config).parameters)
    parts = f", {args.parts} parts"
    return {
        ALONE: lambda number: plain.step(whole[number % BATCHES]) if rank.first else None,
        APART: lambda number: plain.step(half[number % BATCHES]),
        "2, DDP": lambda number: ddp.step(half[number % BATCHES]),
        "2, FSDP2": lambda number: fsdp.step(half[number % BATCHES]),
        f"2, DDP{parts}": lambda number: ddp.step(parted[number % BATCHES]),
        f"2, FSDP2{parts}": lambda number: fsdp.step(parted[number % BATCHES]),
        ALL_REDUCE: lambda number: distributed.all_reduce(numbers),
        AGREEMENTS: lambda number: [rank.sums([0.0] * 6) for _ in range(100)],
    }


class Side:
    """A model with its optimiser, stepped as the training loop steps it: on both processes, or on this one alone."""

    def __init__(self, config: Config, rank: Ranks, sharded: bool = False):
        torch.manual_seed(0)
        self.learner = Pretraining(BertForVLPreTraining(config), objective=1)
        self.replicas = Replicas(self.learner, rank, CPU, sharded)
        self.optimizer = build_optimizer(
            self.learner.model, Hyperparameters(epochs=1, batch_size=1, learning_rate=1e-4)
        )
        self.learner.train()

    def step(self, parts: list[Batch]) -> None:
        """One optimiser step on this process's parts."""
        own, names = [self.learner.counts(batch) for batch in parts], self.learner.losses
        sums = [float(sum(counts[name] for counts in own)) for name in names]
        rank = self.replicas.ranks
        total = dict(zip(names, rank.sums(sums), strict=True))
        for number, (batch, counts) in enumerate(zip(parts, own, strict=True)):
            with self.replicas.accumulating(last=number == len(parts) - 1):
                losses = self.replicas(batch.to(CPU))
                shares = [loss * (counts[name] / max(total[name], 1)) for name, loss in losses.items()]
                (torch.stack(shares).sum() * rank.count).backward()
        clipped_step(self.optimizer, 5.0)
        self.optimizer.zero_grad(set_to_none=True)


def timed(way: Callable[[], Any], rank: Ranks) -> dict[str, float]:
    """Run it on both processes, from one barrier to the next."""
    rank.wait()
    started, own, busy, sent = time.perf_counter(), time.process_time(), busy_seconds(), loopback_bytes()
    way()
    own = time.process_time() - own
    rank.wait()
    seconds = time.perf_counter() - started
    busy = busy_seconds() - busy
    of_each = rank.gathered(own)
    return {
        "seconds": seconds,
        "cpu": max(of_each),
        "others": max(busy - sum(of_each), 0.0) / seconds,
        "sent": (loopback_bytes() - sent) / rank.count,
    }


def busy_seconds() -> float:
    """CPU seconds of all processes of the machine since it was started."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, *interrupts = map(int, fields[:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def loopback_bytes() -> int:
    """Bytes sent over the loopback interface since it was set up, headers included."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()
    return next(int(line.split(":")[1].split()[8]) for line in lines if line.strip().startswith("lo:"))


def report(found: Mapping[str, Sequence[Mapping[str, float]]], size: Size, parts: int) -> str:
    """A table of the ways, and what follows from it."""
    expected = expected_bytes(size, parts)
    rows = []
    for name, each in found.items():
        seconds = [one["seconds"] for one in each]
        gained = [f"{_ratio(found, ALONE, name, key):.2f}" for key in ("seconds", "cpu")]
        if name in (ALL_REDUCE, AGREEMENTS):
            gained = ["", ""]
        megabytes = [f"{count / 1e6:.1f}" for count in (_median(each, "sent"), expected[name])]
        row = [f"{statistics.median(seconds):.3f}", f"{min(seconds):.3f} to {max(seconds):.3f}", gained[0]]
        row += [f"{_median(each, 'cpu'):.3f}", gained[1], f"{_median(each, 'others'):.2f}"]
        rows.append([name, *row, *megabytes])
    heads = [
        "step of",
        "seconds",
        "range",
        "times as fast",
        "CPU s",
        "times as fast by CPU",
        "cores of others",
        "MB counted",
        "computed",
    ]
    lines = [tabulate(rows, heads, tablefmt="github", disable_numparse=True), ""]
    computing = [1 / _ratio(found, ALONE, APART, key) for key in ("seconds", "cpu")]
    lines.append(
        f"half a batch, nothing exchanged: {computing[0]:.3f} of a whole one's time, {computing[1]:.3f} by CPU"
    )
    for name in ("2, DDP", "2, FSDP2"):
        more, cpu = (_median(found[name], key) - _median(found[APART], key) for key in ("seconds", "cpu"))
        lines.append(f"{name}: communication and waiting take {more:.3f} s of a step, and {cpu:.3f} CPU s")
    rate = expected[ALL_REDUCE] / _median(found[ALL_REDUCE], "seconds")
    lines.append(f"all-reduce by itself sends {rate / 1e9:.2f} GB/s from each process")
    lines.append(f"an agreement takes {10 * _median(found[AGREEMENTS], 'seconds'):.2f} ms")
    return "\n".join(lines)


def expected_bytes(size: Size, parts: int) -> dict[str, float]:
    """Bytes that a process sends in each way, in closed form; gloo's reduce-scatter is an all-reduce."""
    ddp = ddp_bytes(size, PROCESSES)
    fsdp, in_parts = (fsdp_bytes(size, PROCESSES, number) + ddp / 2 for number in (1, parts))
    return {
        **{ALONE: 0.0, APART: 0.0, "2, DDP": ddp, f"2, DDP, {parts} parts": ddp},
        **{ALL_REDUCE: ddp, AGREEMENTS: 100 * 6 * 8.0},
        **{"2, FSDP2": fsdp, f"2, FSDP2, {parts} parts": in_parts},
    }


def checkpoints(args: argparse.Namespace) -> str:
    """A table of what a checkpoint of each model takes; medians over the rounds."""
    torch.set_num_threads(args.threads)
    rows = []
    for name in args.models:
        model = BertForVLPreTraining(load_config(shortened(name, args.layers)))
        named = dict(model.named_parameters())
        moments = {
            f"{kind}/{key}": value.detach().clone()
            for kind in ("exp_avg", "exp_avg_sq")
            for key, value in named.items()
        }
        with tempfile.TemporaryDirectory() as folder:
            store, times = CheckpointStore(Path(folder), keep=1), []
            for step in range(args.rounds):
                started = time.perf_counter()
                path = store.save(TrainingProgress(step=step), {}, {}, to_volta(model), moments)
                written = time.perf_counter()
                store.load(path)
                times.append((written - started, time.perf_counter() - written))
            size = sum(file.stat().st_size for file in path.iterdir())
        writing, reading = (statistics.median(each) for each in zip(*times, strict=True))
        rows.append([name, f"{size / 1e9:.3f}", f"{writing:.2f}", f"{size / writing / 1e9:.2f}", f"{reading:.2f}"])
    heads = ["checkpoint of", "GB", "seconds to write", "GB/s", "seconds to read"]
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)


def _median(each: Sequence[Mapping[str, float]], key: str) -> float:
    return statistics.median(one[key] for one in each)


def _ratio(found: Mapping[str, Sequence[Mapping[str, Any]]], slow: str, fast: str, key: str) -> float:
    """How many times as fast, in the same rounds; the median."""
    return statistics.median(a[key] / max(b[key], 1e-9) for a, b in zip(found[slow], found[fast], strict=True))


if __name__ == "__main__":
    run_command(main)
