"""Strong scaling from one process to two on this machine: a pre-training step of one global batch, piece by piece.

    python benchmarks/scaling.py --models ctrl_uniter_base switchbert [--batch 32 --rounds 5]
    python benchmarks/scaling.py --arithmetic [--assume utilisation=0.3 ...]      # the tables of docs/scaling.md

Two processes (gloo, the CPU, one thread each) hold the model whole (DDP) and divided (FSDP2), through the classes that
training uses, and step in turn, medians over rounds:

- 1 process: the first one takes the whole batch, the other waits;
- 2, no exchange: each takes its half and its optimiser's step, and sends nothing: what computing alone takes;
- 2, DDP and 2, FSDP2: as training does; what they take longer is communication, and waiting for each other;
- the same with each half in ``--parts`` accumulation steps;
- all-reduce: as many numbers as the model has parameters, by itself.

Seconds are wall-clock ones, both processes included; CPU seconds are a process's own (the mean of both). What others on
the machine take meanwhile is counted (/proc/stat), and so are the bytes that travel on the loopback (/proc/net/dev).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
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
from train_step import BATCHES, UNITER, as_loaded, shortened, some_batch

from volta_switch import BertForVLPreTraining, load_config
from volta_switch.config import Config
from volta_switch.data.batches.collate import Batch
from volta_switch.errors import UserError
from volta_switch.train.arguments import run_command
from volta_switch.train.memory import keep_freed_memory
from volta_switch.train.optimisation import Hyperparameters, build_optimizer, clipped_step
from volta_switch.train.pretraining import Pretraining
from volta_switch.train.ranks import Ranks, ranks
from volta_switch.train.replicas import Replicas

CPU = torch.device("cpu")
PROCESSES = 2
ALONE, APART, ALL_REDUCE = "1 process", "2, no exchange", "all-reduce"
Found = dict[str, list[dict[str, float]]]  # by way: a measurement of each round


def main(argv: Sequence[str]) -> None:
    """Measure each model, or print the tables of docs/scaling.md."""
    parser = flags(__doc__, batch=32, rounds=5)
    parser.add_argument("--models", nargs="+", default=[UNITER, "switchbert"], help="configurations of this project")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than configured, single-stream models only")
    parser.add_argument("--parts", type=int, default=2, help="accumulation steps where there are several")
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
    else:
        for model in args.models:
            found = measured(model, argv)
            size = Size.of(load_config(shortened(model, args.layers)))
            layers = f", {args.layers} layers" if args.layers else ""
            print(f"\n{model}{layers}, {size.parameters / 1e6:.1f} M parameters, global batch {args.batch}:\n")
            print(report(found, size, args.parts))


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


def all_ways(args: argparse.Namespace, rank: Ranks) -> dict[str, Callable[[int], None]]:
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
    ddp, fsdp = (Side(config, rank, sharded) for sharded in (False, True))
    numbers = torch.zeros(Size.of(config).parameters)
    parts = f", {args.parts} parts"
    return {
        ALONE: lambda number: ddp.step(whole[number % BATCHES], exchange=False) if rank.first else None,
        APART: lambda number: ddp.step(half[number % BATCHES], exchange=False),
        "2, DDP": lambda number: ddp.step(half[number % BATCHES]),
        "2, FSDP2": lambda number: fsdp.step(half[number % BATCHES]),
        f"2, DDP{parts}": lambda number: ddp.step(parted[number % BATCHES]),
        f"2, FSDP2{parts}": lambda number: fsdp.step(parted[number % BATCHES]),
        ALL_REDUCE: lambda number: distributed.all_reduce(numbers),
    }


class Side:
    """A model on both processes with its optimiser, stepped as the training loop steps it."""

    def __init__(self, config: Config, rank: Ranks, sharded: bool):
        torch.manual_seed(0)
        self.learner = Pretraining(BertForVLPreTraining(config), objective=1)
        self.replicas = Replicas(self.learner, rank, CPU, sharded)
        self.optimizer = build_optimizer(
            self.learner.model, Hyperparameters(epochs=1, batch_size=1, learning_rate=1e-4)
        )
        self.learner.train()

    def step(self, parts: list[Batch], exchange: bool = True) -> None:
        """One optimiser step on this process's parts; without exchange, as if there were no other process."""
        own, names = [self.learner.counts(batch) for batch in parts], self.learner.losses
        sums = [float(sum(counts[name] for counts in own)) for name in names]
        rank = self.replicas.ranks if exchange else Ranks()
        total = dict(zip(names, rank.sums(sums), strict=True))
        for number, (batch, counts) in enumerate(zip(parts, own, strict=True)):
            with self.replicas.accumulating(last=exchange and number == len(parts) - 1):
                losses = self.replicas(batch.to(CPU))
                shares = [loss * (counts[name] / max(total[name], 1)) for name, loss in losses.items()]
                (torch.stack(shares).sum() * rank.count).backward()
        clipped_step(self.optimizer, 5.0)
        self.optimizer.zero_grad(set_to_none=True)


def timed(way: Callable[[], None], rank: Ranks) -> dict[str, float]:
    """Run it on both processes, from one barrier to the next."""
    rank.wait()
    started, own, busy, sent = time.perf_counter(), time.process_time(), busy_seconds(), loopback_bytes()
    way()
    own = time.process_time() - own
    rank.wait()
    seconds = time.perf_counter() - started
    of_both = rank.sums([own])[0]
    return {
        "seconds": seconds,
        "cpu": of_both / rank.count,
        "others": max(busy_seconds() - busy - of_both, 0.0) / seconds,
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
        gained = "" if name == ALL_REDUCE else f"{_ratio(found, ALONE, name):.2f}"
        megabytes = [f"{count / 1e6:.1f}" for count in (_median(each, "sent"), expected[name])]
        row = [f"{statistics.median(seconds):.3f}", f"{min(seconds):.3f} to {max(seconds):.3f}", gained]
        rows.append([name, *row, f"{_median(each, 'cpu'):.3f}", f"{_median(each, 'others'):.2f}", *megabytes])
    heads = ["step of", "seconds", "range", "times as fast", "CPU s each", "cores of others", "MB counted", "computed"]
    lines = [tabulate(rows, heads, tablefmt="github", disable_numparse=True), ""]
    lines.append(f"half a batch, nothing exchanged, takes {1 / _ratio(found, ALONE, APART):.3f} of a whole one's time")
    for name in ("2, DDP", "2, FSDP2"):
        more, cpu = (_median(found[name], key) - _median(found[APART], key) for key in ("seconds", "cpu"))
        lines.append(f"{name}: communication and waiting take {more:.3f} s of a step, {cpu:.3f} s of it computing")
    rate = expected[ALL_REDUCE] / _median(found[ALL_REDUCE], "seconds")
    lines.append(f"all-reduce by itself sends {rate / 1e9:.2f} GB/s from each process")
    return "\n".join(lines)


def expected_bytes(size: Size, parts: int) -> dict[str, float]:
    """Bytes that a process sends in each way, in closed form."""
    ddp = ddp_bytes(size, PROCESSES)
    return {
        **{ALONE: 0.0, APART: 0.0, "2, DDP": ddp, f"2, DDP, {parts} parts": ddp, ALL_REDUCE: ddp},
        **{"2, FSDP2": fsdp_bytes(size, PROCESSES), f"2, FSDP2, {parts} parts": fsdp_bytes(size, PROCESSES, parts)},
    }


def _median(each: Sequence[Mapping[str, float]], key: str) -> float:
    return statistics.median(one[key] for one in each)


def _ratio(found: Mapping[str, Sequence[Mapping[str, Any]]], slow: str, fast: str) -> float:
    """How many times as fast, in the same rounds; the median."""
    return statistics.median(a["seconds"] / b["seconds"] for a, b in zip(found[slow], found[fast], strict=True))


if __name__ == "__main__":
    run_command(main)
