"""A pre-training step of this checkout against the same step of another one, in turn (A B B A ...): old / new.

    git worktree add ../before HEAD~1
    python benchmarks/checkouts.py ../before --model ctrl_uniter_base switchbert --pairs 30

Each checkout runs in a process of its own, with its own ``train_step.py``, the same batches and the same number of
threads; one takes a step while the other waits. Times are CPU seconds. A ratio above 1: this checkout is faster. The
interval is that of the mean of the pairs' log ratios (Student's t).
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scipy.stats import t as student

HERE = Path(__file__).parents[1]
WORKER = """
import sys, time
root, model, layers, batch = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
sys.path[:0] = [root, root + "/benchmarks"]
import torch, train_step
from volta_switch import load_config
from volta_switch.train.device import keep_freed_memory
torch.set_num_threads(1)
keep_freed_memory()
batches = [train_step.some_batch(batch, seed) for seed in range(train_step.BATCHES)]
config = load_config(train_step.shortened(model, layers))
step = train_step.OurStep(train_step.Setting(config, torch.device("cpu"), torch.float32), batches)
for line in sys.stdin:
    before = time.process_time()
    step(int(line))
    print(time.process_time() - before, flush=True)
"""


class Checkout:
    """A process that takes steps of one checkout's model when it is told to."""

    def __init__(self, root: Path, model: str, *, layers: int, batch: int):
        words = [sys.executable, "-c", WORKER, str(root.resolve()), model, str(layers), str(batch)]
        self._process = subprocess.Popen(words, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self, number: int) -> float:
        """Takes a step on the batch of a number; returns its CPU seconds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def pairs_of(before: Checkout, now: Checkout, pairs: int) -> list[tuple[float, float]]:
    """Returns the seconds of both checkouts for each pair of steps, after two pairs that are not counted."""
    found = []
    for number in range(pairs + 2):
        order = (before, now) if number % 2 else (now, before)
        seconds = {id(one): one.step(number) for one in order}
        found.append((seconds[id(before)], seconds[id(now)]))
    return found[2:]


def summary(model: str, times: Sequence[tuple[float, float]]) -> str:
    """Returns a line: the ratio of geometric means with its 95 % interval, and the medians."""
    logs = [math.log(old / new) for old, new in times]
    half = float(student.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / len(logs) ** 0.5
    low, middle, high = (math.exp(statistics.fmean(logs) + change) for change in (-half, 0.0, half))
    old, new = (statistics.median(side) for side in zip(*times, strict=True))
    ratio = f"{middle:.3f} ({low:.3f} to {high:.3f})"
    return f"{model}: old / new {ratio}, {len(logs)} pairs, medians {old:.2f} and {new:.2f} s"


def main(argv: Sequence[str] | None = None) -> None:
    """Steps both checkouts in turn, prints a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--model", nargs="+", default=["ctrl_uniter_base", "switchbert"])
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than configured, single-stream models only")
    args = parser.parse_args(argv)
    for model in args.model:
        sides = [Checkout(root, model, layers=args.layers, batch=args.batch) for root in (args.before, HERE)]
        print(summary(model, pairs_of(*sides, args.pairs)), flush=True)
        for side in sides:
            side.close()


if __name__ == "__main__":
    main()
