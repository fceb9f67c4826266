"""``training.json``: how a model came about and what it scored.

| key | content |
|---|---|
| ``format`` | of this file, a number: 1 |
| ``kind`` | ``pre-training``, ``fine-tuning``, ``import`` or ``python``: saved by a program of one's own |
| ``model`` | architecture, shipped configuration with what was changed of it, parameters |
| ``weights`` | the file's name and sha256: what the rest is about |
| ``task`` | of a fine-tuned model: key, name, head |
| ``start`` | what it started from (``origin``), in words and as a chain of records |
| ``data`` | fingerprints of what was read; of a synthetic world its parameters |
| ``hyperparameters``, ``settings``, ``seeds``, ``precision``, ``processes``, ``steps``, ``epochs`` | of the run |
| ``compatibility`` | which of VOLTA's known errors were on |
| ``environment`` | commit, versions, device |
| ``best_validation`` | of the epoch whose weights these are; epochs are counted from 0 |
| ``tests`` | one entry for each evaluation that differs in anything but its numbers |
| ``comparison`` | one entry for each table of a study that the model is part of |
| ``imported`` | of an import: whose file, what was left out, what has initial values |

Everything is taken from what the run itself wrote (``run.json``, ``metrics.json``); places of files are left out.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from volta_switch.cards.card import renew_card
from volta_switch.cards.origin import ancestor_of, weights_digest
from volta_switch.checksums import is_there, read_recorded, record_json
from volta_switch.config import Config, load_config
from volta_switch.config.loading import CONFIG, read_json_object
from volta_switch.config.model_folder import TRAINING, WEIGHTS, task_in, tasks_in, weights_in
from volta_switch.errors import UserError
from volta_switch.files import first_there

Record = dict[str, Any]
FORMAT = 1
_ENVIRONMENT = ("commit", "python", "versions", "threads", "device")  # ``platform`` may have a machine's own name
_OF_RUN = ("entry_point", "hyperparameters", "settings", "precision", "processes", "accumulation_steps")
_SWITCHED = ("tt_attn_sublayers", "tv_attn_sublayers", "vt_attn_sublayers", "vv_attn_sublayers")


def architecture_of(config: Config) -> str:
    """Returns the key in ``papers.json`` of the architecture that a configuration is of, or comes nearest to."""
    if config.switch is not None:
        return "switch-bert"
    if config.image_embeddings == "uniter":
        joint = len({tuple(getattr(config, name)) for name in _SWITCHED}) == 1
        return "uniter" if joint else "interbert"
    return config.image_embeddings


def write_run_record(folder: Path) -> None:
    """Writes ``training.json`` and the card of a run that has ended; tests and comparisons of the same weights stay.

    Raises:
        UserError: what the run wrote is damaged, or the system refused to write.
    """
    weights = first_there(folder, WEIGHTS)
    if weights is None:  # nothing that could be used
        return
    run, metrics = (read_json_object(folder / name) for name in ("run.json", "metrics.json"))
    config = load_config(folder / CONFIG)
    found = task_in(folder)
    settings, hyper = run["settings"], run["hyperparameters"]
    world = run.get("synthetic_world")
    record: Record = {
        "format": FORMAT,
        "kind": "pre-training" if run["entry_point"] == "train_concap" else "fine-tuning",
        "model": {
            "architecture": architecture_of(config),
            "configuration": run.get("configuration", {}),
            "parameters": run["parameters"],
        },
        "weights": {"file": weights.name, "sha256": weights_digest(weights)},
        **({"task": {"key": found[0], **found[1]}} if found else {}),
        "start": run.get("origin", {}),
        "data": {**({"synthetic_world": world} if world else {}), "fingerprints": run["data"]["fingerprints"]},
        **{name: run[name] for name in _OF_RUN},
        "seeds": {"training": hyper["seed"], "data_fraction": settings["data_fraction_seed"]},
        "steps": metrics.get("finished", run.get("steps")),
        "epochs": hyper["epochs"],
        "compatibility": {"volta_compat": settings["volta_compat"]},
        "environment": {name: run["environment"][name] for name in _ENVIRONMENT if name in run["environment"]},
        "best_validation": _numbers(metrics.get("best_validation", {})),
        "tests": [],
        "comparison": [],
    }
    before = find_record(folder)
    if before is not None and before.get("weights") == record["weights"]:
        record |= {name: before.get(name, []) for name in ("tests", "comparison")}
    write_record(folder, record, before)


def write_saved_record(folder: Path, parameters: int, loaded: Mapping[str, Any] | None, changed: bool) -> None:
    """Writes ``training.json`` and the card of a model that was saved from Python.

    Args:
        folder: the model's, with its weights.
        parameters: their number.
        loaded: the record of the folder that it was loaded from; None where there is none.
        changed: whether its weights or settings are other ones by now, which that record is not about.
    """
    weights = weights_in(folder)
    file = {"file": weights.name, "sha256": weights_digest(weights)}
    config, tasks = load_config(folder / CONFIG), list(tasks_in(folder).items())
    if loaded is not None and not changed and (tasks or "task" not in loaded):
        write_record(folder, {**loaded, "weights": file})
        return
    start: Record = {"kind": "nothing", "words": ""}
    if loaded is not None:
        words = (
            f"a {loaded['kind']}, whose weights (sha256 {loaded['weights']['sha256'][:12]}) or settings were changed"
        )
        start = {"kind": "file", "words": words, "sha256": loaded["weights"]["sha256"], "training": ancestor_of(loaded)}
    record = {
        "format": FORMAT,
        "kind": "python",
        "model": {"architecture": architecture_of(config), "configuration": {}, "parameters": parameters},
        "weights": file,
        **({"task": {"key": tasks[0][0], **tasks[0][1]}} if len(tasks) == 1 else {}),
        "start": start,
        "tests": [],
        "comparison": [],
    }
    write_record(folder, record)


def parse_record(content: bytes, source: str | Path) -> Record:
    """Returns what ``training.json`` holds; UserError, which names ``source``, where it is none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    expected = {"kind": str, "model": Mapping, "weights": Mapping, "start": Mapping, "tests": list, "comparison": list}
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in expected.items()):
        raise UserError(f"{source}: not as this project writes it; remove it, or copy it again")
    return found


def write_record(folder: Path, record: Record, before: Record | None = None) -> None:
    """Writes ``training.json`` and the card.

    Args:
        folder: the model's.
        record: what the file is to hold.
        before: what it holds; None where there is none.

    Raises:
        UserError: something of the folder is damaged, or the system refused to write.
    """
    if before != record:
        record_json(folder / TRAINING, record)
    renew_card(folder, record)


def find_record(folder: Path) -> Record | None:
    """Reads a folder's ``training.json``; None where there is none.

    Raises:
        UserError: it is damaged.
    """
    path = folder / TRAINING
    if not is_there(path):
        return None
    return parse_record(read_recorded(path), path)


def change_record(folder: Path, change: Callable[[Record], Record | None]) -> None:
    """Changes ``training.json`` of a model's folder, and renews its card; what is in the way is said in one line.

    Whoever calls this has finished its own work, which must not fail by a card.

    Args:
        folder: the model's; one without ``training.json`` is left alone.
        change: returns a changed record and leaves the one that it is given; None where nothing is to be changed.
    """
    try:
        record = find_record(folder)
        changed = None if record is None else change(record)
        if changed is not None:
            write_record(folder, changed, record)
    except (UserError, OSError) as error:
        print(f"{folder}: the model's card is not renewed: {error}", file=sys.stderr)


def add_test(record: Record, test: Record) -> Record:
    """Returns a record with one test more; one that differs in its numbers alone is replaced."""
    others = [each for each in record.get("tests", []) if each.get("identity") != test["identity"]]
    return {**record, "tests": [*others, test]}


def set_comparisons(record: Record, study: str, tables: Sequence[str], entries: list[Record]) -> Record:
    """Returns a record whose comparisons in some tables of one study are these, and no others."""
    others = [
        each for each in record.get("comparison", []) if each.get("study") != study or each.get("table") not in tables
    ]
    return {**record, "comparison": [*others, *entries]}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Returns the finite numbers among some values; what a validation says of switchers is left to the log."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
