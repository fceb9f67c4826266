"""The core of switched attention, forward and backward, beside joint attention: in one process, in turn, medians.

    python benchmarks/attention.py --text 38 --regions 37
    python benchmarks/attention.py --text 128 --regions 576 --batch 4

``joint`` is one attention over both modalities, as in UNITER; ``merged`` the mixture of all four modes from one score
matrix; ``naive`` one attention for each mode. Random queries, keys and values, all real, no dropout. Useful work is
that of the joint attention, six products of all queries with all keys; utilisation is against the matrix products of a
feed-forward layer with as many rows, as in ``train_step.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from interleaved import Ceiling, Step, add_measures, flags, in_turn, peak, peak_apart, table, utilisation
from torch import Tensor
from train_step import attend_each

from volta_switch.command import run_command
from volta_switch.cost.executed import count_flops
from volta_switch.model.attention import attend, attend_mixed

MODES = ("SS", "SC", "CS", "J")
Way = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def main(argv: Sequence[str]) -> None:
    """Make the inputs, attend in turn, print the table."""
    parser = flags(__doc__, batch=32, rounds=7)
    add_measures(parser)
    parser.add_argument("--text", type=int, default=38)
    parser.add_argument("--regions", type=int, default=37)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    B, N, D = args.batch, args.text + args.regions, args.heads * args.width
    inputs = torch.randn((3, B, args.heads, N, args.width), device=device, dtype=dtype)
    real = tuple(torch.ones(B, count, dtype=torch.bool, device=device) for count in (args.text, args.regions))
    weights = torch.randn(B, len(MODES), device=device).softmax(-1)
    ways: dict[str, Way] = {
        "joint": lambda q, k, v, _: attend(q, k, v, real=torch.cat(real, 1)),
        "merged": lambda q, k, v, p: attend_mixed(q, k, v, real=real, weights=p, modes=MODES),
        "naive": lambda q, k, v, p: attend_each(q, k, v, real=real, weights=p, modes=MODES, text_queries=args.text),
    }
    steps: dict[str, Step] = {name: partial(both_ways, way, (*inputs, weights)) for name, way in ways.items()}
    if args.peak_of:
        print(peak(lambda: steps[args.peak_of], device))
        return
    work = 12.0 * B * N * N * D
    ceiling = Ceiling(B * N, D, 4 * D, device, dtype)
    times = in_turn(steps, device, args.rounds, at_once=args.steps, around=ceiling)
    further = {
        "GFLOP": {name: f"{work / 1e9:.2f}" for name in steps},
        "GFLOP executed": {name: f"{count_flops(partial(step, 0)) / 1e9:.2f}" for name, step in steps.items()},
        "% of ceiling": {name: utilisation([work] * args.rounds, taken, ceiling) for name, taken in times.items()},
    }
    if args.memory:
        further["peak GiB"] = {name: peak_apart(name) for name in steps}
    print(f"ceiling in {args.dtype}: {ceiling}")
    print(table(times, B, "joint", further))


def both_ways(way: Way, inputs: Sequence[Tensor], number: int) -> None:
    """Forward and backward pass of one way to attend; there is one batch, whatever the number."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = way(*leaves)
    out.backward(torch.ones_like(out))


if __name__ == "__main__":
    run_command(main)
