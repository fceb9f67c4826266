"""How much of a pre-training step is waiting for data: steps on what a loader gives, and on batches at hand.

    python benchmarks/data_wait.py --workers 2 [--device cuda --dtype bfloat16 --compile --batch 256 --workers 14]

The loader reads a compact store, made as ``loader.py`` makes it, small enough to lie in the system's cache. In turn,
medians of wall-clock time: so many steps on the loader's next batches, after as many untimed ones as it may have had
ready, and so many on four of its batches that are kept. What the former take longer is the wait.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from interleaved import flags
from loader import make_data, our_batches
from tabulate import tabulate
from train_step import BATCHES, UNITER, OurStep, Setting, shortened

from volta_switch import load_config
from volta_switch.command import run_command
from volta_switch.data.batches.collate import Batch


def main(argv: Sequence[str]) -> None:
    """Make the data, step in turn, print the table."""
    parser = flags(__doc__, batch=32, rounds=3)
    parser.add_argument("--model", default=UNITER)
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than configured, single-stream models only")
    parser.add_argument("--compile", action="store_true", help="compile this project's encoder layers")
    parser.add_argument("--steps", type=int, default=4, help="timed together")
    parser.add_argument("--records", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--data", default="", help="where the records are, or are made; default: a temporary folder")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    config = load_config(shortened(args.model, args.layers))
    step = OurStep(Setting(config, device, getattr(torch, args.dtype), args.compile), [])
    ready = 2 * args.workers + 1  # a worker makes two batches ahead
    needed = BATCHES + args.rounds * (args.steps + ready) + ready
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(args.data or scratch)
        make_data(data, args.records)
        records = len(json.loads((data / "caption_train.json").read_text()))
        repeats = -(-needed * args.batch // records)
        loaded = our_batches(data / "compact", args.batch, args.workers, repeats, pinned=device.type == "cuda")
        kept = list(itertools.islice(loaded, BATCHES))
        at_hand = itertools.cycle(kept)
        taken(step, kept, device)
        times: dict[str, list[float]] = {"from the loader": [], "at hand": []}
        for _ in range(args.rounds):
            taken(step, itertools.islice(loaded, ready), device)
            for name, batches in (("from the loader", loaded), ("at hand", at_hand)):
                times[name].append(taken(step, itertools.islice(batches, args.steps), device) / args.steps)
        del loaded  # its workers end before their data do
    median = {name: statistics.median(each) for name, each in times.items()}
    rows = [(name, f"{seconds:.4g}", f"{args.batch / seconds:.0f}") for name, seconds in median.items()]
    print(tabulate(rows, ("batches", "seconds", "samples/s"), tablefmt="github", disable_numparse=True))
    print(f"waiting for data: {100 * (1 - median['at hand'] / median['from the loader']):.1f} % of a step")


def taken(step: OurStep, batches: Iterable[Batch], device: torch.device) -> float:
    """Take a step on each batch; wall-clock seconds of all."""
    started = time.perf_counter()
    for batch in batches:
        step.take(batch)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


if __name__ == "__main__":
    run_command(main)
