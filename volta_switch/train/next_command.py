"""The next command, which a run prints at its end: fine-tuning, an evaluation, or a report of routes.

It takes the model from the folder that the run has written, and the data from where the run took them. It runs as it is
printed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from volta_switch.command import typed_program
from volta_switch.tasks.task_file import WORLD, names_of_tasks
from volta_switch.train.command_names import COMMANDS

PRETRAINED_FOR = "refcoco+"  # the task that a pre-trained model is tuned for in what is printed
CAPTIONS = Path("datasets", "conceptual_captions", "annotations")  # below a data root, by VOLTA's layout
# Flags of the data that a later command reads as this one did.
OF_DATA = (
    *("tasks_config_file", "data_root", "val_annotations_jsonpath", "val_features_lmdbpath"),
    *("boxes", "volta_compat", "max_bad_records"),
)
OF_MODEL = ("config_file", "set", "task")


def given_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """Returns what a command line gives itself: flags -> values, without defaults."""
    parser.set_defaults(**dict.fromkeys(vars(parser.parse_args(argv))))
    return {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}


def next_command(entry: str, args: argparse.Namespace, given: Mapping[str, Any], result: Any, typed: str) -> str:
    """Returns what can be done with a run's result; empty where there is nothing.

    Args:
        entry: the entry point.
        args: its flags.
        given: those of them that its command line gives (``given_flags``).
        result: what its work returned.
        typed: what it was called, if not by the name of its script: "volta-switch finetune".
    """
    if entry == "train_concap":
        return command_line("train_task", typed, {"from_pretrained": result, **_tuning(args, given)})
    if entry == "train_task":
        return _after_training(args, given, result, typed)
    return _after_evaluation(args, given, result)


def _tuning(args: argparse.Namespace, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns task and data of the fine-tuning: the same root as that of the captions, where they lie below one."""
    same = {name: given[name] for name in ("world", "volta_compat", "max_bad_records") if name in given}
    captions, below = Path(args.annotations_path), CAPTIONS.parts
    root = Path(*captions.parts[: -len(below)]) if captions.parts[-len(below) :] == below else Path()
    task = PRETRAINED_FOR
    if not args.world and (root / WORLD).is_file():
        same["tasks_config_file"] = root / "tasks.yml"
        task = _task_to_tune(root / "tasks.yml")
    elif not args.world and root != Path():
        same["data_root"] = root
    return {"task": task, **same}


def _task_to_tune(file: Path) -> str:
    """Returns a task that a world has: the usual one, else its first."""
    names = names_of_tasks(file)
    return PRETRAINED_FOR if PRETRAINED_FOR in names or not names else names[0]


def _after_training(args: argparse.Namespace, given: Mapping[str, Any], run: Path, typed: str) -> str:
    from volta_switch.tasks import task_class  # here, not above: it imports the task's own module
    from volta_switch.train.flag_values import load_task_spec, training_splits

    spec = load_task_spec(args)
    split = {"split": training_splits(args, spec)[1]}
    flags = {"from_pretrained": run, **split, **_kept(given, ("world", *OF_DATA, "overwrite"))}
    return command_line(task_class(spec).entry_point, typed, flags)


def _after_evaluation(args: argparse.Namespace, given: Mapping[str, Any], result: Any) -> str:
    """Returns the report of a switcher's routes; a shard has no result, and a pre-trained model no task's routes."""
    from volta_switch.train.flag_values import evaluated_spec, load_model_config, run_name

    if result is None or args.zero_shot or load_model_config(args).switch is None:
        return ""
    spec, split = evaluated_spec(args)
    out = Path(args.output_dir, run_name(args, f"{spec.name}_"), f"{split}_routes.json")
    flags = {"from_pretrained": given.get("from_pretrained", Path(args.from_pretrained).parent)}
    if args.world:  # which has no flag there: what it stands for is said
        found = {name: getattr(args, name) for name in ("tasks_config_file", "val_features_lmdbpath")}
        flags |= {name: value for name, value in found.items() if value} | _kept(given, ("set", "task"))
    else:
        flags |= _kept(given, OF_MODEL)
    flags |= {"split": split, **_kept(given, OF_DATA), "out": out}
    return shlex.join([*typed_program(), "routes", *_words(flags | ({"overwrite": True} if args.overwrite else {}))])


def _kept(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given}


def command_line(entry: str, typed: str, flags: Mapping[str, Any]) -> str:
    """Returns a command as it is typed.

    Args:
        entry: the entry point.
        typed: what ``volta-switch`` command it stands beside; empty: it is typed by its script's name.
        flags: flag -> value; True alone, a list for a flag that stands there several times.
    """
    if typed:
        return shlex.join([*typed_program(), COMMANDS[entry], *_words(flags)])
    folder = os.path.dirname(sys.argv[0])  # the scripts' own, as this one's was typed
    return shlex.join(["python", os.path.join(folder, f"{entry}.py"), *_words(flags)])


def _words(flags: Mapping[str, Any]) -> list[str]:
    """Returns flags as they are typed; what is true alone, what stands there several times so often."""
    words: list[str] = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        for one in values:
            words += [f"--{name}"] if one is True else [f"--{name}", str(one)]
    return words
