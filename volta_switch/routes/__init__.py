"""A trained Switch-BERT's routes on a task: what the switchers choose, a route's value, and attention maps."""

from __future__ import annotations

from volta_switch.cost import EPSILON
from volta_switch.flag_parser import FlagParser
from volta_switch.ranges import COUNT_OR_NONE, PATH, SEED, Number, whole
from volta_switch.train.flags import evaluation_flags


def route_flags() -> FlagParser:
    """Makes the command's parser: the flags of ``eval_task.py``, and its own."""
    result = evaluation_flags("What Switch-BERT's switchers do on a task.", batch_size=256)
    own = result.group("routes")
    own.add_argument("--out", type=PATH, required=True, help="the JSON file to write")
    own.add_argument(
        "--interventions", action="store_true", help="force and forbid every option at every layer, and whole routes"
    )
    own.add_argument("--attention", action="store_true", help="attention's mass between text and vision, by head")
    some = (
        "look at about so many samples, all those of images drawn at random, and give each number an interval for the "
        "whole split; 0: all"
    )
    own.add_argument("--samples", type=COUNT_OR_NONE, default=0, metavar="N", help=some)
    draws = "draws the images of --samples: the same for every model and --seed"
    own.add_argument("--samples-seed", "--samples_seed", type=SEED, default=0, help=draws)
    over = "folders or files of weights of the same run at other times: their routes' entropy, and what else changes"
    own.add_argument("--checkpoints", nargs="+", type=PATH, default=[], metavar="WEIGHTS", help=over)
    own.add_argument("--permutations", type=whole(0, 1_000_000), default=200, help="of the test of mutual information")
    own.add_argument(
        "--epsilon", type=Number(0.0, 1.0, below=True), default=EPSILON, help="soft weights above it are active paths"
    )
    return result
