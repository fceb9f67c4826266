"""``volta-switch weights list``, ``fetch`` and ``verify``: published weights by name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from volta_switch.errors import UserError
from volta_switch.flag_parser import FlagParser
from volta_switch.ranges import ANY_TEXT, PATH, Number
from volta_switch.train.flags import evaluation_flags

_TIMEOUT = Number(0.1, 3600.0)


def add_registry_commands(commands: Any) -> None:
    """Adds the three to those below ``volta-switch weights``."""
    listed = commands.add_parser("list", help="print the published weights that are known, and which are here")
    listed.set_defaults(run=_list)
    fetched = commands.add_parser("fetch", help="fetch published weights and write them as a model's folder")
    fetched.add_argument(
        "--to",
        type=ANY_TEXT,
        default="",
        metavar="FOLDER",
        help="the folder to write (default: one in the user's cache)",
    )
    data = "the task's folder of annotations: keep a fine-tuned file's head of answers, its rows in their order"
    fetched.add_argument("--answers-of", type=ANY_TEXT, default="", metavar="FOLDER", help=data)
    fetched.set_defaults(run=_fetch)
    about = "evaluate weights on a task, and print the score beside the published one"
    verified = commands.add_parser("verify", help=about, parents=[_verification_flags()], add_help=False)
    verified.set_defaults(run=_verify)
    for command in (fetched, verified):
        command.add_argument("name", type=PATH, metavar="NAME", help="a name that `volta-switch weights list` prints")
        silence = "give a server up after so many seconds without a byte"
        command.add_argument("--timeout", type=_TIMEOUT, default=10.0, metavar="SECONDS", help=silence)
    for command in (listed, fetched, verified):
        other = "another registry than the shipped one"
        command.add_argument("--registry", type=ANY_TEXT, default="", metavar="FILE", help=other)


def _verification_flags() -> FlagParser:
    flags = evaluation_flags("Compares a model's score on a task with the published one.")
    source = "weights that are here: a run's folder or a file; default: NAME's own, fetched where they are not here"
    flags.add_argument("--from", dest="from_pretrained", type=ANY_TEXT, metavar="SOURCE", help=source)
    flags.set_defaults(tasks_config_file="config_tasks/ctrl_test_tasks.yml", model_task=None)
    flags.set_defaults(world=False, shard=None, restart=False, keep_scores=False, pool_images=None)
    return flags


def _list(args: argparse.Namespace) -> None:
    from volta_switch.weight_tools.registered.entries import load_registry, registry_text
    from volta_switch.weight_tools.registered.models import models_here

    entries = load_registry(args.registry)
    print(registry_text(entries, models_here(entries)))


def _fetch(args: argparse.Namespace) -> None:
    from volta_switch.tasks.vqa_files import load_labels
    from volta_switch.weight_tools.commands import import_text, next_command
    from volta_switch.weight_tools.registered.entries import find_entry, load_registry
    from volta_switch.weight_tools.registered.models import obtain

    entry = find_entry(load_registry(args.registry), args.name)
    wanted = load_labels(Path(args.answers_of)) if args.answers_of else []
    model = obtain(entry, args.to, wanted, args.timeout)
    if model.imported is not None:
        print(import_text(model.imported), end="\n\n")
    print(f"{entry.name} {'was here already' if model.was_here else 'is here'}: {model.source}")
    print(f"next: {next_command(model.source, bool(entry.task or wanted), entry.task or '')}")


def _verify(args: argparse.Namespace) -> None:
    """Raises UserError where nothing can be compared; before anything is fetched, if that is known before."""
    from volta_switch.config import load_config
    from volta_switch.config.model_folder import take_model
    from volta_switch.data.files.json_files import read_object
    from volta_switch.tasks.task_file import KINDS
    from volta_switch.tasks.vqa_files import load_labels
    from volta_switch.train import needed_files
    from volta_switch.train.entry_points import ENTRY_POINTS
    from volta_switch.train.flag_values import load_task_spec, print_ineffective_settings, run_name
    from volta_switch.weight_tools.registered.entries import find_entry, load_registry
    from volta_switch.weight_tools.registered.models import obtain
    from volta_switch.weight_tools.registered.verifying import (
        comparison_text,
        other_configuration,
        published_for,
        refuse_without_head,
    )

    entry = find_entry(load_registry(args.registry), args.name)
    if args.from_pretrained:
        if args.config_file is None and os.path.isfile(args.from_pretrained):
            args.config_file = entry.config
        take_model(args)
    if not args.task:
        raise UserError("--task: name the task that the score is of, such as --task TASK1")
    spec = load_task_spec(args)
    scores = published_for(entry, spec.name)
    if not args.from_pretrained:
        refuse_without_head(entry, spec.key)
        wanted = load_labels(spec.path(spec.dataroot), spec.num_labels) if entry.answers else []
        args.from_pretrained = obtain(entry, "", wanted, args.timeout).source
        take_model(args)
    name = "eval_retrieval" if KINDS[spec.type].process == "retrieval" else "eval_task"
    needed_files.require(ENTRY_POINTS[name].needed(args))
    print_ineffective_settings(args)
    from volta_switch.train.evaluation import (  # now that all is there: imports PyTorch
        evaluate_retrieval,
        evaluate_task,
    )
    from volta_switch.train.run_data import deciding_config

    found = (evaluate_retrieval if name == "eval_retrieval" else evaluate_task)(args, [])
    if found is None:  # one of several processes, of which the first compares
        return
    split = args.split or spec.val_split
    folder = Path(args.output_dir) / run_name(args, f"{spec.name}_")
    evaluation = read_object(folder / f"{split}_metrics.json")["of"]
    print(comparison_text(entry, scores, found.metrics, evaluation, os.path.normpath(args.from_pretrained)))
    if entry.config:
        registered = deciding_config(load_config(entry.config))
        if line := other_configuration(entry, registered, evaluation["config"]):
            print(line)
