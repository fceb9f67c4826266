"""What a command was asked for and does not do, said once at its start."""

from __future__ import annotations

import argparse
import sys

from volta_switch.tasks.task_file import UNREAD
from volta_switch.train.flag_values import load_model_config, load_task_spec
from volta_switch.train.flags import WITHOUT_EFFECT
from volta_switch.train.launch import told

AS_TOLD = ("adam_correct_bias",)  # of ``WITHOUT_EFFECT``: what these ask for happens in any case
BY_TORCHRUN = ("local_rank", "distributed")  # so does what these ask for where torchrun has started the process


def say_without_effect(args: argparse.Namespace) -> None:
    """Says in one line what was asked for and does nothing here; of several processes the first says it."""
    ignored = without_effect(args)
    if ignored and told("RANK", 0) == 0:
        print(f"without effect here: {', '.join(ignored)}", file=sys.stderr)


def without_effect(args: argparse.Namespace) -> list[str]:
    """What was asked for, by flags or by a task's entry, and does nothing here; with the reason each."""
    happens = AS_TOLD + (BY_TORCHRUN if told("WORLD_SIZE", 1) > 1 else ())
    given = [name for name in WITHOUT_EFFECT if hasattr(args, name) and name not in happens]
    said = [f"--{name} ({WITHOUT_EFFECT[name]})" for name in given]
    if getattr(args, "routing", "hard") != "hard" and load_model_config(args).switch is None:
        said.append(f"--routing {args.routing} (the model switches nothing)")
    if getattr(args, "data_fraction_seed", 0) and args.data_fraction == 1:
        said.append("--data_fraction_seed (all samples are taken)")
    if hasattr(args, "tasks_config_file"):
        spec = load_task_spec(args)
        said += [f"{name} of {spec.key} ({UNREAD[name]})" for name in spec.extra if UNREAD[name]]
    return said
