"""``volta-switch world-detector``: a world's scenes as pictures, and a small detector for them.

The flags are read without PyTorch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from volta_switch.ranges import COUNT, LEARNING_RATE, PATH, SEED


def add_photograph_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("world", type=PATH, metavar="WORLD", help="a world's folder")
    about = "new folder: pictures/<data set>/<id>.png of all scenes, and detector/"
    parser.add_argument("out", type=PATH, metavar="OUT", help=about)
    parser.add_argument("--seed", type=SEED, default=0, metavar="N", help="of weights and of the order of scenes")
    parser.add_argument("--steps", type=COUNT, default=300, metavar="N", help="batches of 8 scenes")
    parser.add_argument("--rate", type=LEARNING_RATE, default=3e-3, metavar="X", help="the highest learning rate")


STEPS_SAID = 50  # steps between two lines about the training


def run_photographs(args: argparse.Namespace) -> None:
    """Writes pictures and detector, and says what can be done with them."""
    from tqdm import tqdm

    from volta_switch.detector.losses import Training
    from volta_switch.world.photographs import write_photographs

    bars: dict[str, Any] = {}

    def progress(what: str, number: int, loss: float) -> None:
        if what not in bars:
            total = args.steps if what == "step" else None
            bars[what] = tqdm(desc=f"{what}s", unit=what, total=total, leave=False, disable=None)
        bars[what].update(number - bars[what].n)
        if what == "step":
            bars[what].set_postfix(loss=f"{loss:.2f}")
        if what == "step" and (number in (1, args.steps) or number % STEPS_SAID == 0):
            print(f"step {number} of {args.steps}: loss {loss:.2f}", file=sys.stderr)

    training = Training(steps=args.steps, rate=args.rate, seed=args.seed)
    counts = write_photographs(args.world, args.out, training, progress)
    for bar in bars.values():
        bar.close()
    out = Path(args.out)
    print(f"{out}: {', '.join(f'{count} pictures of {name}' for name, count in counts.items())}, and a detector")
    name = next(iter(counts))
    print(
        f"features of them: volta-switch data extract {out / 'pictures' / name} FEATURES --detector {out / 'detector'} "
        "--regions 12"
    )
