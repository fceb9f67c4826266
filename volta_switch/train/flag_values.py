"""What flags stand for (task, configuration, the run's name), and which do nothing; nothing here imports PyTorch."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from volta_switch.command import environment_number
from volta_switch.config import Config, load_config
from volta_switch.config.checks import check_region_loss
from volta_switch.config.model_folder import TASK, TASKS, config_name, folder_around
from volta_switch.errors import UserError
from volta_switch.hub import is_path
from volta_switch.hub_models import is_address
from volta_switch.tasks.task_file import UNREAD, TaskSpec, load_model_task, load_task
from volta_switch.train.flags import WITHOUT_EFFECT

LONGEST_NAME = 240  # bytes; file systems take 255, and files are written beside under longer names
ALWAYS_DONE = ("adam_correct_bias",)  # of ``WITHOUT_EFFECT``: what they ask for happens in any case
DONE_BY_TORCHRUN = ("local_rank", "distributed")  # what they ask for happens under torchrun


def load_task_spec(args: argparse.Namespace) -> TaskSpec:
    """Returns the task that the flags name, with the annotation files that they override.

    Without a task file, the task that a model was fine-tuned on has that model's settings.

    Raises:
        UserError: there is no such task, or the task file has another one under the key of the model's.
    """
    if args.tasks_config_file is None and args.model_task is not None:
        key, kept = args.model_task
        spec = load_model_task(TASKS, key, kept, args.data_root, folder_around(args.from_pretrained) / TASK)
    else:
        if not args.task:
            _refuse_missing_model(args.from_pretrained)
        spec = load_task(args.tasks_config_file or TASKS, args.task, args.data_root)
        _refuse_other_task(args, spec)
    names = ("train_annotations_jsonpath", "val_annotations_jsonpath")
    given = {name: getattr(args, name) for name in names if getattr(args, name)}
    absolute: dict[str, Any] = {name: str(spec.given_path(path).absolute()) for name, path in given.items()}
    return dataclasses.replace(spec, **absolute)


def _refuse_missing_model(weights: str) -> None:
    """Raises UserError where the model is not there that would have said which task is asked for."""
    if weights and not is_address(weights) and is_path(weights) and not Path(weights).exists():
        raise UserError(
            f"{weights}: no such model, which would say which task it is for; train it first, or check "
            "--from_pretrained"
        )


def _refuse_other_task(args: argparse.Namespace, spec: TaskSpec) -> None:
    """Raises UserError where a task file numbers its tasks otherwise than the one that the model was tuned by."""
    name = None if args.model_task is None else args.model_task[1].get("name")
    if name not in (None, spec.name):
        raise UserError(
            f"{args.tasks_config_file}: {spec.key} is {spec.name} there, and {name} in the model's {TASK}; give a task "
            "file that has the model's task under its key"
        )


def evaluated_spec(args: argparse.Namespace) -> tuple[TaskSpec, str]:
    """Returns the task that is evaluated and the split; annotations and pools that the flags name are that split's."""
    spec = load_task_spec(args)
    split = args.split or spec.val_split
    if getattr(args, "pool_images", None) is not None:
        spec = dataclasses.replace(spec, pool_images=args.pool_images)
    return (dataclasses.replace(spec, val_split=split) if args.val_annotations_jsonpath else spec), split


def training_splits(args: argparse.Namespace, spec: TaskSpec) -> tuple[str, str]:
    """Returns the splits that ``train_task.py`` trains on and validates with.

    Raises:
        UserError: neither the flags nor the task file name one to train on.
    """
    train = args.train_split or spec.train_split
    if not train:
        raise UserError(
            f"{spec.key} ({spec.name}): the task file names no train_split; give --train_split, or another task file"
        )
    return train, args.val_split or spec.val_split


def load_model_config(args: argparse.Namespace, fusion_method: str | None = None) -> Config:
    """Returns the configuration that the flags name; a task may override its fusion method, as in VOLTA."""
    overrides = [*args.set]
    if fusion_method is not None:
        overrides.append(f"fusion_method={fusion_method}")
    return load_config(args.config_file, overrides)


def load_pretraining_config(args: argparse.Namespace) -> Config:
    """Does what ``load_model_config`` does, for a model that can be pre-trained."""
    config = load_model_config(args)
    check_region_loss(config)
    return config


def run_name(args: argparse.Namespace, prefix: str = "") -> str:
    """Returns VOLTA's name of a run: ``[<task>_]<config>[-<save_name>]``; a folder's task is named once."""
    if "/" in args.save_name:
        raise UserError(
            f"--save_name {args.save_name}: expected a name without /; --output_dir says where runs are written"
        )
    model = config_name(args.config_file).removeprefix(prefix)
    name = prefix + model + (f"-{args.save_name}" if args.save_name else "")
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise UserError(
            f"--save_name {args.save_name}: the run's folder would have a name of {len(os.fsencode(name))} bytes, more "
            f"than {LONGEST_NAME}; give a shorter name"
        )
    return name


def data_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Returns which samples a run is trained on, as its record states it; must agree when it is resumed."""
    return {name: getattr(args, name) for name in ("volta_compat", "data_fraction", "data_fraction_seed")}


def shared_hyperparameters(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields of ``Hyperparameters`` that both training entry points take from flags of one name."""
    names = ("warmup_proportion", "warmup_steps", "adam_epsilon", "weight_decay", "clip_grad_norm")
    return {name: getattr(args, name) for name in (*names, "seed")} | {"adam_betas": tuple(args.adam_betas)}


def print_ineffective_settings(args: argparse.Namespace) -> None:
    """Says in one line what was asked for and does nothing here; of several processes the first says it."""
    ignored = ineffective_settings(args)
    if ignored and environment_number("RANK", 0) == 0:
        print(f"without effect here: {', '.join(ignored)}", file=sys.stderr)


def ineffective_settings(args: argparse.Namespace) -> list[str]:
    """Returns what was asked for, by flags or by a task's entry, and does nothing here; with the reason each."""
    happens = ALWAYS_DONE + (DONE_BY_TORCHRUN if environment_number("WORLD_SIZE", 1) > 1 else ())
    given = [name for name in WITHOUT_EFFECT if hasattr(args, name) and name not in happens]
    said = [f"--{name} ({WITHOUT_EFFECT[name]})" for name in given]
    if getattr(args, "routing", "hard") != "hard" and load_model_config(args).switch is None:
        said.append(f"--routing {args.routing} (the model switches nothing)")
    if getattr(args, "data_fraction_seed", 0) and args.data_fraction == 1:
        said.append("--data_fraction_seed (all samples are taken)")
    if hasattr(args, "task"):
        spec = load_task_spec(args)
        said += [f"{name} of {spec.key} ({UNREAD[name]})" for name in spec.extra if UNREAD[name]]
    return said
