"""A model in one folder: what a run leaves, an import writes, and every command that takes weights takes.

| file | content |
|---|---|
| ``config.json`` | its configuration |
| ``model.safetensors``, else ``pytorch_model_best.bin`` | its weights; a run keeps them under VOLTA's name alone |
| ``vocab.txt`` | its vocabulary; it counts before the configuration's ``bert_model``, wherever that may be |
| ``task.yml`` | of a fine-tuned one: its task as a task file has it, without the places of data |
| ``labels.json`` | of one with a list of answers: what each row of its head stands for, a JSON list |
| ``preprocessor.json`` | what its region features are |
| ``training.json``, ``README.md`` | how it came about and what it scored, for programs and for people |

``--from_pretrained FOLDER`` stands for all of them: the weights and, unless other flags say otherwise, configuration,
vocabulary and task. Data alone are missing: ``--data_root``, or a task file. A folder that is moved or renamed is the
same model.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volta_switch.checksums import is_there, read_recorded, verify
from volta_switch.config.loading import CONFIG, find_config
from volta_switch.config.schema import Config
from volta_switch.errors import UserError
from volta_switch.files import first_there, parse_json, read_yaml
from volta_switch.hub import VOCABULARY, find_vocabulary

WEIGHTS = ("model.safetensors", "pytorch_model_best.bin")
TASK = "task.yml"
LABELS = "labels.json"
REGIONS = "preprocessor.json"
TRAINING = "training.json"
CARD = "README.md"
DEFAULT = "switchbert"  # the configuration where none is given
TASKS = "config_tasks/ctrl_trainval_tasks.yml"  # the task file where none is given
_OURS = "tt_attn_sublayers"  # a key of this project's and VOLTA's configurations, and of no BERT's


def is_model_folder(source: str | Path) -> bool:
    """Returns whether this is a folder with a model of this project; a BERT's folder is none.

    Raises:
        UserError: its configuration is damaged.
    """
    path = Path(source) / CONFIG
    if not os.path.isdir(source) or not os.path.isfile(path):
        return False
    try:
        values = parse_json(read_recorded(path).decode("utf-8"))
    except ValueError:
        raise UserError(f"{path}: could not be read as JSON; give another folder, or a file of weights") from None
    return isinstance(values, dict) and _OURS in values


def weights_in(folder: str | Path) -> Path:
    """Returns a model folder's file of weights.

    Raises:
        UserError: there is none.
    """
    if found := first_there(folder, WEIGHTS):
        return found
    raise UserError(
        f"{folder}: holds neither {' nor '.join(WEIGHTS)}; has its run written weights? (its epochs' files, "
        "pytorch_model_<epoch>.bin, can be given by themselves)"
    )


def files_of(config: Config, task: Mapping[str, Any] | None = None) -> dict[str, bytes]:
    """Returns what belongs to a model beside configuration and weights: name -> content.

    Args:
        config: its configuration.
        task: of a fine-tuned one, what ``task.yml`` holds.

    Raises:
        UserError: there is no vocabulary.
    """
    found = {VOCABULARY: read_recorded(find_vocabulary(config.bert_model))}
    if task is not None:
        found[TASK] = task_bytes(task)
    return found


def task_bytes(task: Mapping[str, Any]) -> bytes:
    """Returns what ``task.yml`` holds of a task: its key and, below it, its entry."""
    import yaml  # here, not above: only who has read a task file needs it

    return yaml.safe_dump(dict(task), sort_keys=False, allow_unicode=True).encode()


def take_model(args: argparse.Namespace) -> None:
    """Puts a folder's weights in the place of ``--from_pretrained``, its configuration and task where none is given.

    Args:
        args: flags of an entry point; changed in place. ``config_file`` is None where it is not given. Where the
            command has a task, ``model_task`` becomes the folder's (``task_in``), or None if another one is asked for.

    Raises:
        UserError: the folder holds no weights, or something damaged.
    """
    folder = args.from_pretrained if args.from_pretrained and is_model_folder(args.from_pretrained) else ""
    if folder:
        args.from_pretrained = str(weights_in(folder))
    if "task" in args:
        _take_task(args, folder)
    if args.config_file is None:
        args.config_file = str(Path(folder, CONFIG)) if folder else DEFAULT


def _take_task(args: argparse.Namespace, folder: str) -> None:
    found = task_in(folder) if folder else None
    args.model_task = None
    if found is None:
        return
    key, entry = found
    if args.task.strip() in ("", key, key.removeprefix("TASK"), entry.get("name")):
        args.model_task, args.task = found, key


def task_in(folder: str | Path) -> tuple[str, dict[str, Any]] | None:
    """Returns key and entry of the task that a model was fine-tuned on; None where there is none.

    Raises:
        UserError: its task file is damaged, or holds several.
    """
    path = Path(folder, TASK)
    if not is_there(path):
        return None
    verify(path)
    entries: Any = read_yaml(path, "task", "it is written by fine-tuning")
    found = list(entries.items()) if isinstance(entries, dict) else []
    if len(found) != 1 or not isinstance(found[0][1], dict):
        raise UserError(f"{path}: expected one task, as fine-tuning writes it; name the task with --task")
    return str(found[0][0]), found[0][1]


def config_name(source: str | Path) -> str:
    """Returns what runs call a configuration: its file's name, or that of the folder in which ``config.json`` lies."""
    path = find_config(source)
    return path.absolute().parent.name if path.name == CONFIG else path.stem
