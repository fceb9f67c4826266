"""``--world``: the same command on a small synthetic world that it writes by itself.

| below ``runs/world`` | |
|---|---|
| ``data`` | the world, written once |
| ``checkpoints``, ``logs``, ``results`` | what commands with ``--world`` write: never where a real run writes |

The model is the configuration's: its layers and widths. Of the data come the vocabulary, the width of region features
and the numbers of classes and attributes. Weights are random, or those of another run on the world.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from volta_switch.command import environment_number
from volta_switch.config import load_config
from volta_switch.config.model_folder import WEIGHTS, take_model
from volta_switch.errors import UserError
from volta_switch.tasks.task_file import load_task
from volta_switch.train.flag_values import load_model_config, load_pretraining_config, run_name

FOLDER = Path("runs/world")
DATA, RUNS, LOGS, RESULTS = (FOLDER / name for name in ("data", "checkpoints", "logs", "results"))
BATCH_SIZE, STEPS, EVAL_BATCH_SIZE = 8, 2, 32
# What the world brings by itself; given beside --world, each contradicts it.
BROUGHT = (
    "annotations_path", "features_path", "tasks_config_file", "data_root", "train_annotations_jsonpath",
    "val_annotations_jsonpath", "train_features_lmdbpath", "val_features_lmdbpath", "output_dir", "logdir",
)  # fmt: skip
FIELDS = ("bert_model", "vocab_size", "v_feature_size", "v_num_classes", "v_num_attributes")  # of a configuration


def on_world(entry: str, parser: Callable[[], argparse.ArgumentParser], argv: Sequence[str]) -> argparse.Namespace:
    """Reads an entry point's flags on the world, which is written where it is not there yet.

    Args:
        entry: "train_concap", "train_task", "eval_task" or "eval_retrieval".
        parser: makes its parser; flags that are given win over the world's values.
        argv: the command line.

    Raises:
        UserError: a flag contradicts ``--world``, or the world cannot be written.
    """
    _check_flags(parser(), argv)
    flags = parser()
    flags.set_defaults(**_defaults(entry))
    args = flags.parse_args(argv)
    take_model(args)
    args.set = [*_fields(args), *args.set]
    if getattr(args, "resume", False):
        args.overwrite = False
    load = load_pretraining_config if entry == "train_concap" else load_model_config
    load(args)  # a setting that cannot be is told before the world is written
    _write_world()
    if entry.startswith("eval"):
        _evaluate_on_world(args)
    _say(entry, args)
    return args


def _check_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    parser.set_defaults(**dict.fromkeys(BROUGHT), from_pretrained="")
    args = parser.parse_args(argv)
    for name in BROUGHT:
        if getattr(args, name) is not None:
            raise UserError(f"--{name}: --world brings its own data and writes to {FOLDER}; leave out one of the two")
    for field in FIELDS:
        if any(override.partition("=")[0].strip() == field for override in args.set):
            raise UserError(f"--set {field}: with --world it is the world's; leave out one of the two")
    source = args.from_pretrained
    if source and FOLDER.resolve() not in Path(source).resolve().parents:
        raise UserError(
            f"--from_pretrained {source}: --world has a vocabulary and features of its own, so that it starts from "
            f"random weights, or from those of another run on the world (below {RUNS}); leave out one of the two"
        )


def _write_world() -> None:
    """Writes the world unless it is there."""
    from volta_switch.world.build import ensure_world  # here, not above: it takes NumPy

    ensure_world(DATA, **_parameters())


def _parameters() -> dict[str, Any]:
    """Returns the world's parameters: of all data sets as much as a few steps and a quick validation need."""
    return {"seed": 0, "images": 100, "eval_images": 10, "render": False}


def _defaults(entry: str) -> dict[str, Any]:
    """Returns what flags are with ``--world`` where they are not given."""
    from volta_switch.world.task_file import CONCAP, CONCAP_FEATURES

    training = {
        "output_dir": str(RUNS), "logdir": str(LOGS), "from_pretrained": "", "max_steps": STEPS, "save_best_only": True,
        "overwrite": True,
    }  # fmt: skip
    tasks = {"tasks_config_file": str(DATA / "tasks.yml"), "data_root": str(DATA), "overwrite": True}
    return {
        "train_concap": {
            **training,
            "annotations_path": str(DATA / CONCAP / "annotations"),
            "features_path": str(DATA / CONCAP_FEATURES),
            "train_batch_size": BATCH_SIZE,
        },
        "train_task": {**training, **tasks, "batch_size": BATCH_SIZE, "eval_batch_size": EVAL_BATCH_SIZE},
        "eval_task": {**tasks, "output_dir": str(RESULTS), "batch_size": EVAL_BATCH_SIZE},
        "eval_retrieval": {**tasks, "output_dir": str(RESULTS), "batch_size": EVAL_BATCH_SIZE},
    }[entry]


def _fields(args: argparse.Namespace) -> list[str]:
    """Returns the fields of the configuration that the world decides, as ``--set`` takes them."""
    from volta_switch.world.phrases import DIRECTORY, Lexicon
    from volta_switch.world.spec import WorldSpec

    spec = WorldSpec(**_parameters())
    words = len(Lexicon(spec).vocabulary())
    sizes = (spec.feature_size, spec.num_classes, spec.num_attributes)
    fields = [f"{name}={value}" for name, value in zip(FIELDS, (DATA / DIRECTORY, words, *sizes), strict=True)]
    if load_config(args.config_file).image_embeddings == "vl-bert":  # whose coordinates are as wide as two features
        fields.append(f"v_coordinate_embeddings_dim={spec.feature_size // 8}")
    return fields


def _evaluate_on_world(args: argparse.Namespace) -> None:
    """Takes what training on the world left, unless other weights are given, and VQA's test images from their file."""
    from volta_switch.world.task_file import VQA_TEST_FEATURES

    spec = load_task(args.tasks_config_file, args.task)
    args.from_pretrained = args.from_pretrained or str(
        RUNS / run_name(args, "" if args.zero_shot else f"{spec.name}_") / WEIGHTS[1]
    )
    if spec.name == "VQA" and args.split.startswith("test"):
        args.val_features_lmdbpath = str(DATA / VQA_TEST_FEATURES)


def _say(entry: str, args: argparse.Namespace) -> None:
    if environment_number("RANK", 0) > 0:
        return
    said = f"--world: a small synthetic world ({DATA}) in place of real data"
    if entry.startswith("train"):
        batch_size = args.train_batch_size if entry == "train_concap" else args.batch_size
        start = f"weights from {args.from_pretrained}" if args.from_pretrained else "random initial weights"
        if args.resume:
            start += " unless there is a checkpoint"
        steps = f"{args.max_steps} steps" if args.max_steps else "all epochs"
        said += f", {start}, {steps} with batches of {batch_size}"
    print(f"{said}; the numbers mean nothing, and all is written below {FOLDER}", file=sys.stderr)
