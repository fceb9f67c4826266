"""VOLTA's flags, with METHOD's hyperparameters as defaults, and what the four entry points share."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from volta_switch.config import Config, find_config, load_config
from volta_switch.data.tokenizer import Tokenizer, check_vocab_size
from volta_switch.errors import UserError
from volta_switch.tasks import DataOptions, TaskSpec, load_task
from volta_switch.train.device import choose_device
from volta_switch.train.memory import keep_freed_memory
from volta_switch.train.ranks import Ranks
from volta_switch.train.stopping import Stopped

# Flags that VOLTA's scripts take and that mean nothing here; accepted so that its command lines run unchanged.
WITHOUT_EFFECT = {
    "local_rank": "torchrun says it by its variables",
    "distributed": "torchrun says it by its variables",
    "cache": "samples are shuffled over the whole epoch",
    "adam_correct_bias": "AdamW is always bias-corrected",
    "use_chunk": "unused in VOLTA too",
    "num_subiters": "images are batched by --batch_size",
    "caps_per_image": "read from the annotations",
    "drop_last": "every sample counts",
    "eval_steps": "validation follows every epoch",
    "max_val_batches": "the whole split is validated",
    "save_every_num_epochs": "--save_best_only keeps one",
}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Flags of VOLTA's that would change what is computed, with the only value supported here.
FIXED = {"optim": "AdamW", "lr_scheduler": "warmup_linear", "loss": "", "is_m3p": ""}


def run_command(main: Callable[[Sequence[str]], object], argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0, 2 with one line for bad input, 130 when interrupted."""
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries would bury the one line of an error
    try:
        main(sys.argv[1:] if argv is None else list(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Stopped as stopped:
        print(str(stopped), end="\n" if str(stopped) else "", file=sys.stderr)  # one of several processes says it
        raise SystemExit(128 + stopped.signal) from None
    except KeyboardInterrupt as interruption:
        resume = "interrupted; run the same command with --resume to continue from the last checkpoint"
        print(str(interruption) or resume, file=sys.stderr)
        raise SystemExit(130) from None


def parser(description: str, seed: int) -> argparse.ArgumentParser:
    """Flags of all four entry points."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    model = flags.add_argument_group("model")
    model.add_argument("--config_file", "--config", default="switchbert", help="a name in config/, or a path")
    model.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides a field")
    model.add_argument(
        "--from_pretrained",
        default="",
        help="weights of another run, a BERT (folder or hub name), or '' for random initial weights",
    )
    output = flags.add_argument_group("output")
    output.add_argument("--output_dir", default="checkpoints", help="run folders are made here")
    output.add_argument("--save_name", default="", help="appended to the run folder's name")
    data = flags.add_argument_group("data")
    data.add_argument(
        *("--max-bad-records", "--max_bad_records"),
        type=int,
        default=0,
        help="records that cannot be used and are passed over, counted and reported, before the run is stopped",
    )
    data.add_argument(
        *("--volta-compat", "--volta_compat"),
        action="store_true",
        help="VOLTA's data with its known errors, to compare with published numbers (docs/volta-differences.md)",
    )
    machine = flags.add_argument_group("machine")
    machine.add_argument("--seed", type=int, default=seed, help="fixes initial weights, order, masks and noise")
    machine.add_argument("--num_workers", type=int, default=0, help="loader processes; 0 reads in this process")
    machine.add_argument("--in_memory", nargs="?", const=True, default=False, type=_truth, help="keep images decoded")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    machine.add_argument("--precision", default="auto", choices=(*PRECISIONS, "auto"), help="auto: bf16 on CUDA")
    machine.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's default")
    for name, reason in WITHOUT_EFFECT.items():
        flags.add_argument(f"--{name}", nargs="?", help=f"accepted and ignored: {reason}", default=argparse.SUPPRESS)
    for name, value in FIXED.items():
        flags.add_argument(f"--{name}", nargs="?", choices=(value,), help="the only choice", default=argparse.SUPPRESS)
    return flags


def add_training_flags(flags: argparse.ArgumentParser, weight_decay: float, clip_grad_norm: float) -> None:
    """Flags of the two training entry points."""
    flags.set_defaults(from_pretrained="bert-base-uncased")
    training = flags.add_argument_group("training")
    training.add_argument("--logdir", default="logs", help="TensorBoard's folder")
    fraction = (
        "train on this share of the samples, 0 < share <= 1: the same samples for every model and --seed; "
        "negatives of retrieval come from all images of the split"
    )
    training.add_argument("--data-fraction", "--data_fraction", type=_share, default=1.0, help=fraction)
    training.add_argument("--data-fraction-seed", "--data_fraction_seed", type=int, default=0, help="draws the share")
    resume = "go on from the run folder's newest checkpoint, or start where there is none"
    training.add_argument("--resume", action="store_true", help=resume)
    training.add_argument("--resume_file", default="", help="go on from this checkpoint, a folder checkpoints/step-…")
    training.add_argument("--warmup_proportion", type=float, default=0.1)
    training.add_argument("--warmup_steps", type=float, default=None, help="overrides --warmup_proportion")
    training.add_argument("--adam_epsilon", type=float, default=1e-6)
    training.add_argument("--adam_betas", type=float, nargs=2, default=(0.9, 0.999))
    training.add_argument("--weight_decay", type=float, default=weight_decay)
    training.add_argument("--clip_grad_norm", type=float, default=clip_grad_norm, help="0: none")
    training.add_argument("--save_best_only", action="store_true", help="do not keep every epoch's weights")
    _add_survival_flags(flags)
    _add_division_flags(flags)


def _add_survival_flags(flags: argparse.ArgumentParser) -> None:
    survival = flags.add_argument_group("checkpoints and watchfulness")
    every = (
        "write a checkpoint every so many optimiser steps (500) or minutes (30m), beside those at epochs' ends; 0: none"
    )
    survival.add_argument("--save-every", "--save_every", type=_saving, default="30m", metavar="N|Nm", help=every)
    kept = "how many of the newest checkpoints are kept"
    survival.add_argument("--keep-checkpoints", "--keep_checkpoints", type=_positive, default=2, help=kept)
    skipped = "optimiser steps left out because a loss or gradient was not finite, before the run is stopped"
    survival.add_argument("--max-skipped-steps", "--max_skipped_steps", type=int, default=10, help=skipped)
    late = "seconds without a batch from the loader's processes, after which the run is stopped; 0: wait for ever"
    survival.add_argument("--worker-timeout", "--worker_timeout", type=float, default=600, help=late)
    survival.add_argument(
        *("--log-every", "--log_every"), type=_positive, default=20, metavar="N", help="optimiser steps of a line"
    )
    survival.add_argument("--log-ids", "--log_ids", action="store_true", help="write every step's samples down")


def _add_division_flags(flags: argparse.ArgumentParser) -> None:
    division = flags.add_argument_group("dividing a step (torchrun starts several processes)")
    parts = "parts, one after the other, that each process's share of a batch is divided into"
    division.add_argument("--gradient_accumulation_steps", dest="accumulate", type=_positive, default=1, help=parts)
    division.add_argument("--fsdp", action="store_true", help="divide the model, too, among the processes (FSDP2)")
    exact = (
        "dropout and Gumbel noise by seed, epoch, sample and layer, so that the same is learnt however a step is "
        "divided; takes more time"
    )
    division.add_argument("--deterministic", action="store_true", help=exact)
    again = "compute each layer again in the backward pass rather than keep its activations"
    division.add_argument("--gradient-checkpointing", "--gradient_checkpointing", action="store_true", help=again)
    division.add_argument("--compile", action="store_true", help="compile the layers (torch.compile); slow to start")


def shared_hyperparameters(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of ``Hyperparameters`` that both training entry points take from flags of one name."""
    names = ("warmup_proportion", "warmup_steps", "adam_epsilon", "weight_decay", "clip_grad_norm")
    return {name: getattr(args, name) for name in (*names, "seed")} | {"adam_betas": tuple(args.adam_betas)}


def add_task_flags(flags: argparse.ArgumentParser) -> None:
    """Flags of the entry points that read a task file."""
    task = flags.add_argument_group("task")
    task.add_argument("--tasks_config_file", default="config_tasks/ctrl_trainval_tasks.yml", help="VOLTA's task file")
    task.add_argument("--task", default="", help="number, key or name: 10, TASK10, refcoco+")
    for split in ("train", "val"):
        task.add_argument(f"--{split}_annotations_jsonpath", default="", help="overrides the task file's (retrieval)")
    boxes = "referring expressions: the detector's boxes, or the annotated ones of features_h5path2"
    task.add_argument("--boxes", choices=("detected", "gt"), default="detected", help=boxes)
    task.add_argument("--val_features_lmdbpath", default="", help="overrides the task file's")
    task.add_argument("--num_val_workers", type=int, default=None, help="loader processes of validation and test")


def load_task_spec(args: argparse.Namespace) -> TaskSpec:
    """The task that the flags name, with the annotation files that they override."""
    spec = load_task(args.tasks_config_file, args.task)
    names = ("train_annotations_jsonpath", "val_annotations_jsonpath")
    return dataclasses.replace(spec, **{name: getattr(args, name) for name in names if getattr(args, name)})


def data_options(
    args: argparse.Namespace,
    device: torch.device,
    features: str,
    num_workers: int | None = None,
    ranks: Ranks | None = None,
) -> DataOptions:
    """How a task's data are read, by the flags; ``features`` and ``num_workers`` where given replace what they say."""
    return DataOptions(
        pin_memory=device.type == "cuda",
        rank=0 if ranks is None else ranks.number,
        ranks=1 if ranks is None else ranks.count,
        parts=getattr(args, "accumulate", 1),
        seed=args.seed,
        num_workers=args.num_workers if num_workers is None else num_workers,
        in_memory=args.in_memory,
        features=features,
        boxes=args.boxes,
        volta_compat=args.volta_compat,
        max_bad_records=args.max_bad_records,
        worker_timeout=getattr(args, "worker_timeout", 0.0),
        data_fraction=getattr(args, "data_fraction", 1.0),
        data_fraction_seed=getattr(args, "data_fraction_seed", 0),
    )


def data_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Which samples a run is trained on, as its record states it; must agree when it is resumed."""
    return {name: getattr(args, name) for name in ("volta_compat", "data_fraction", "data_fraction_seed")}


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"expected more than 0 and at most 1, found {text}")
    return share


def _truth(text: str) -> bool:
    if text.lower() in ("1", "true", "yes"):
        return True
    if text.lower() in ("0", "false", "no", ""):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, found {text}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text}")
    return int(text)


def _saving(text: str) -> tuple[int, float]:
    """Optimiser steps and minutes between checkpoints; 0: not by these."""
    number, in_minutes = text.removesuffix("m"), text.endswith("m")
    try:
        value = float(number) if in_minutes else int(number)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected steps (500) or minutes (30m), found {text}")
    return (0, value) if in_minutes else (int(value), 0.0)


def prepare_device(args: argparse.Namespace, ranks: Ranks | None = None) -> tuple[torch.device, torch.dtype]:
    """The device and the precision of the forward pass.

    Args:
        args: the flags.
        ranks: the processes that share the work; each takes the GPU of its number on its machine. None: this script
            is for one process.

    Raises:
        UserError: a device that is not there, or several processes where one is meant.
    """
    if ranks is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("several processes are for training and eval_retrieval.py; start one process, without torchrun")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device, ranks or Ranks())
    if device.type == "cpu":
        keep_freed_memory()
    if args.precision == "auto":
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return device, torch.bfloat16 if bf16 else torch.float32
    return device, PRECISIONS[args.precision]


def load_model_config(args: argparse.Namespace, fusion_method: str | None = None) -> Config:
    """The configuration that the flags name; a task may override its fusion method, as in VOLTA."""
    overrides = [*args.set]
    if fusion_method is not None:
        overrides.append(f"fusion_method={fusion_method}")
    return load_config(args.config_file, overrides)


def load_tokenizer(config: Config, max_seq_length: int) -> Tokenizer:
    """The configuration's tokenizer, checked against its vocabulary size and the longest text that it may be given."""
    if not 2 < max_seq_length <= config.max_position_embeddings:
        raise UserError(
            f"max_seq_length is {max_seq_length}, expected 3 to {config.max_position_embeddings}, the model's "
            "max_position_embeddings; change one of them"
        )
    tokenizer = Tokenizer(config.bert_model, config.do_lower_case)
    check_vocab_size(tokenizer, config.vocab_size)
    return tokenizer


def run_name(args: argparse.Namespace, prefix: str = "") -> str:
    """VOLTA's name of a run: ``[<task>_]<config>[-<save_name>]``."""
    name = find_config(args.config_file).stem
    return prefix + name + (f"-{args.save_name}" if args.save_name else "")
