"""A model in one folder: what a run leaves, an import writes, and every command that takes weights takes.

| file | content |
|---|---|
| ``config.json`` | its configuration |
| ``model.safetensors``, else ``pytorch_model_best.bin`` | its weights; a run keeps them under VOLTA's name alone |
| ``vocab.txt`` | its vocabulary, which counts before ``bert_model``; for other programs as ``tokenizer.json``, too |
| ``task.yml`` | of a fine-tuned one: its task as a task file has it, without the places of data |
| ``labels.json`` | of one with a list of answers: by task, what each row of its head stands for |
| ``preprocessor.json`` | what its region features are, and of which detector where their files say it |
| ``training.json``, ``README.md`` | how it came about and what it scored, for programs and for people |

``--from_pretrained FOLDER`` stands for all of them: the weights and, unless other flags say otherwise, configuration,
vocabulary and task. Data alone are missing: ``--data_root``, or a task file. A folder that is moved or renamed is the
same model. On the hub it is a repository, and ``hf://owner/name`` stands for it (``hub_models``).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from volta_switch.checksums import is_there, read_recorded, verify
from volta_switch.config.loading import CONFIG, OWN_KEY, described_foreign, find_config, read_json_object
from volta_switch.config.schema import Config
from volta_switch.errors import UserError
from volta_switch.files import first_there, json_bytes, parse_json, read_yaml
from volta_switch.hub import VOCABULARY, find_vocabulary, is_weight_file
from volta_switch.hub_models import is_address, pinned, repository_name, settings_folder, weights_of

WEIGHTS = ("model.safetensors", "pytorch_model_best.bin")
TASK = "task.yml"
LABELS = "labels.json"
REGIONS = "preprocessor.json"
DETECTOR = "detector"  # in it: facts about the features (``data.detector_facts``)
TRAINING = "training.json"
CARD = "README.md"
TOKENIZER = "tokenizer.json"
BESIDE = (VOCABULARY, TOKENIZER, LABELS, REGIONS, TRAINING)  # of a folder: what its model does not say itself
DEFAULT = "switchbert"  # the configuration where none is given
TASKS = "config_tasks/ctrl_trainval_tasks.yml"  # the task file where none is given


def is_model_folder(source: str | Path) -> bool:
    """Returns whether this is a folder, or an address, with a model of this project; a BERT's is none.

    Raises:
        UserError: its configuration is damaged, or the hub does not give it.
    """
    return OWN_KEY in (_settings(source) or ())


def _settings(source: str | Path) -> dict[str, Any] | None:
    """Returns what a folder's ``config.json`` holds; None where it has none."""
    path = local_folder(source) / CONFIG
    if not os.path.isfile(path):
        return None
    return read_json_object(path)


def local_folder(source: str | Path) -> Path:
    """Returns a folder as it is, and of an address the one in the hub's cache, weights perhaps left out."""
    return settings_folder(str(source)) if is_address(source) else Path(source)


def folder_around(weights: str | Path) -> Path:
    """Returns the folder in which a file of weights lies, or that of an address."""
    return local_folder(weights) if is_address(weights) else Path(weights).parent


def weights_in(folder: str | Path) -> Path:
    """Returns the file of weights of a model's folder or address.

    Raises:
        UserError: there is none, or the hub does not give it.
    """
    if is_address(folder):
        return weights_of(str(folder))
    if found := first_there(folder, WEIGHTS):
        return found
    raise UserError(
        f"{folder}: holds neither {' nor '.join(WEIGHTS)}; has its run written weights? (its epochs' files, "
        "pytorch_model_<epoch>.bin, can be given by themselves)"
    )


def files_of(
    config: Config,
    tokenizer: str,
    task: Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
    *,
    detector: Mapping[str, Any] | None = None,
    regions: str = "as in the feature files that training.json names",
    vocabulary: bytes = b"",
) -> dict[str, bytes]:
    """Returns what belongs to a model beside configuration and weights: name -> content.

    Args:
        config: its configuration.
        tokenizer: what ``tokenizer.json`` holds; empty where the vocabulary is not known: then neither is among them.
        task: of a fine-tuned one, what ``task.yml`` holds.
        labels: what each row of its head stands for; () where it has no labels.
        detector: facts about the features that it was trained on (``data.detector_facts``); None where no file says
            them.
        regions: where its region features come from, in words.
        vocabulary: what ``vocab.txt`` holds; empty: what the configuration's has.

    Raises:
        UserError: there is no vocabulary.
    """
    found = {REGIONS: json_bytes(region_facts(config, regions, detector))}
    if tokenizer:
        found[VOCABULARY] = vocabulary or read_recorded(find_vocabulary(config.bert_model))
        found[TOKENIZER] = tokenizer.encode()
    if task is not None:
        found[TASK] = task_bytes(task)
        found |= {LABELS: json_bytes({key: list(labels) for key in task})} if labels else {}
    return found


def region_facts(config: Config, regions: str, detector: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns what ``preprocessor.json`` says of a model's region features.

    Args:
        config: the model's.
        regions: where they come from.
        detector: facts about the detector; None where they are not known.
    """
    found = {
        "regions": regions,
        "width": config.v_feature_size,
        "locations": config.num_locs,
        "global_region": config.add_global_imgfeat,
    }
    return found if detector is None else found | {DETECTOR: dict(detector)}


def detector_in(folder: str | Path) -> dict[str, Any] | None:
    """Returns the facts about the features that a folder's model was trained on; None where they are not known.

    Raises:
        UserError: ``preprocessor.json`` is damaged.
    """
    path = local_folder(folder) / REGIONS
    if not is_there(path):
        return None
    try:
        found = read_json_object(path).get(DETECTOR)
    except UserError as error:
        raise UserError(f"{error}; remove it, or copy it again") from None
    return found if isinstance(found, dict) else None


def read_labels(content: bytes, source: str) -> dict[str, list[str]]:
    """Returns what ``labels.json`` says: task -> what each row of its head stands for.

    Raises:
        UserError: it says something else; ``source`` is named.
    """
    try:
        found = parse_json(content.decode("utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(_are_labels(labels) for labels in found.values()):
        raise UserError(f"{source}: expected a JSON object, task -> list of answers, as fine-tuning writes it")
    return found


def labels_in(folder: str | Path) -> dict[str, list[str]]:
    """Returns what a folder's ``labels.json`` says, as ``read_labels``; {} where there is none."""
    path = local_folder(folder) / LABELS
    return read_labels(read_recorded(path), str(path)) if is_there(path) else {}


def _are_labels(labels: Any) -> bool:
    return isinstance(labels, list) and all(isinstance(label, str) for label in labels)


def refuse_other_labels(weights: str | Path, task: str, labels: Sequence[str]) -> None:
    """Compares what a model's head was trained to mean with what the data at hand call its rows.

    Args:
        weights: as ``--from_pretrained`` has it; the labels lie beside a file of weights, where it is a model's.
        task: the head's.
        labels: the data's.

    Raises:
        UserError: the two differ: right answers would count as wrong ones.
    """
    if not labels or not (is_address(weights) or is_weight_file(weights)):  # nothing, or a BERT's name
        return
    folder = folder_around(weights)
    known = labels_in(folder).get(task) if is_model_folder(folder) else None
    if known is None or known == list(labels):
        return
    place = next((row for row, (one, other) in enumerate(zip(known, labels, strict=False)) if one != other), None)
    told = f"{len(known)} answers, the data {len(labels)}"
    if place is not None:
        told = f"answer {place} is {known[place]!r}, in the data {labels[place]!r}"
    raise UserError(
        f"{folder / LABELS}: not the answers of the data that are named: {told}; take the data that it was trained on"
    )


def task_bytes(task: Mapping[str, Any]) -> bytes:
    """Returns what ``task.yml`` holds of a task: its key and, below it, its entry."""
    import yaml  # here, not above: only who has read a task file needs it

    return yaml.safe_dump(dict(task), sort_keys=False, allow_unicode=True).encode()


def take_model(args: argparse.Namespace) -> None:
    """Puts a folder's weights in the place of ``--from_pretrained``, its configuration and task where none is given.

    Addresses become those of the commits that they name now: all that is read comes from one commit, and records name
    it. Their weights are fetched when they are read.

    Args:
        args: flags of an entry point; changed in place. ``config_file`` is None where it is not given. Where the
            command has a task, ``model_task`` becomes the folder's (``task_in``), or None if another one is asked for.

    Raises:
        UserError: the folder holds no weights, or something damaged; or an address is none, or holds no model that can
            be used.
    """
    _pin(args)
    folder = args.from_pretrained if args.from_pretrained and is_model_folder(args.from_pretrained) else ""
    if is_address(args.from_pretrained) and not folder:
        values = _settings(args.from_pretrained) or {}
        if values.get("model_type", "bert") != "bert":
            raise UserError(f"{args.from_pretrained}: {described_foreign(values, args.from_pretrained)}")
    if folder and not is_address(folder):
        args.from_pretrained = str(weights_in(folder))
    if "task" in args:
        _take_task(args, folder)
    if args.config_file is None:
        args.config_file = folder if is_address(folder) else str(Path(folder, CONFIG)) if folder else DEFAULT


def _pin(args: argparse.Namespace) -> None:
    """Puts the commits that they name now into the addresses of an entry point's flags."""
    for name in ("from_pretrained", "config_file"):
        if is_address(getattr(args, name)):
            setattr(args, name, pinned(getattr(args, name)))
    start = "bert_model="
    values = (each.removeprefix(start) if each.startswith(start) else "" for each in args.set)
    args.set = [
        start + pinned(value) if is_address(value) else each for each, value in zip(args.set, values, strict=True)
    ]


def tasks_in(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Returns the tasks that a model has heads of, key -> entry; {} where it was not fine-tuned.

    Raises:
        UserError: its task file is damaged.
    """
    path = local_folder(folder) / TASK
    if not is_there(path):
        return {}
    verify(path)
    entries: Any = read_yaml(path, "task", "it is written by fine-tuning")
    if not isinstance(entries, dict) or not entries or not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{path}: expected one task, as fine-tuning writes it; name the task with --task")
    return {str(key): entry for key, entry in entries.items()}


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
    entries = tasks_in(folder)
    if len(entries) > 1:
        raise UserError(f"{Path(folder, TASK)}: expected one task, found {', '.join(entries)}; name one with --task")
    return next(iter(entries.items()), None)


def config_name(source: str | Path) -> str:
    """Returns what runs call a configuration.

    It is its file's name, that of the folder in which ``config.json`` lies, or that of the repository on the hub.
    """
    if is_address(source):
        return repository_name(str(source))
    path = find_config(source)
    return path.absolute().parent.name if path.name == CONFIG else path.stem
