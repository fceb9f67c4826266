"""The core of switched attention, forward and backward, beside joint attention: in one process, in turn, medians.

    python benchmarks/attention.py --text 38 --regions 37
    python benchmarks/attention.py --text 128 --regions 576 --batch 4

``joint`` is one attention over both modalities, as in UNITER; ``merged`` the mixture of all four modes from one score
matrix; ``naive`` one attention for each mode. Random queries, keys and values, all real, no dropout.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from interleaved import flags, in_turn, table
from torch import Tensor
from train_step import attend_each

from volta_switch.model.attention import KeyMask, attend, attend_mixed

MODES = ("SS", "SC", "CS", "J")


def main() -> None:
    """Make the inputs, attend in turn, print the table."""
    parser = flags(__doc__, batch=32, rounds=7)
    parser.add_argument("--text", type=int, default=38)
    parser.add_argument("--regions", type=int, default=37)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    shape = (3, args.batch, args.heads, args.text + args.regions, args.width)
    inputs = torch.randn(shape, device=device, dtype=getattr(torch, args.dtype))
    real = KeyMask(
        *(torch.ones(args.batch, count, dtype=torch.bool, device=device) for count in (args.text, args.regions))
    )
    weights = torch.randn(args.batch, len(MODES), device=device).softmax(-1)
    ways: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
        "joint": lambda q, k, v, _: attend(q, k, v, real.joint, 0.0),
        "merged": lambda q, k, v, p: attend_mixed(q, k, v, real, p, MODES, 0.0),
        "naive": lambda q, k, v, p: attend_each(q, k, v, real, p, MODES, 0.0, args.text),
    }

    def step_of(way: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
        def step() -> Tensor:
            leaves = [tensor.detach().requires_grad_() for tensor in (*inputs, weights)]
            out = way(*leaves)
            out.backward(torch.ones_like(out))
            return out

        return step

    steps = {name: step_of(way) for name, way in ways.items()}
    print(table(in_turn(steps, device, args.rounds), args.batch, "joint"))


if __name__ == "__main__":
    main()
