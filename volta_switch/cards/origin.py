"""Where a model's weights come from, in a form that can be published: hub names and checksums, no places."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volta_switch.checksums import recorded
from volta_switch.config import Config, load_config
from volta_switch.config.loading import CONFIG_FOLDERS, find_config
from volta_switch.config.model_folder import TRAINING
from volta_switch.files import find_object, measured
from volta_switch.hub import find_bert
from volta_switch.identities import differences

_SNAPSHOT = re.compile(r"/models--([^/]+)/snapshots/([^/]+)/")  # of the hub's cache: a model's name, a revision
_ANCESTOR = ("kind", "model", "task", "weights", "start", "data", "hyperparameters", "steps", "imported")


def weights_digest(path: Path) -> str:
    """Returns a file's sha256: the one that is kept of it, which whoever read the file has compared, else measured.

    Raises:
        OSError: it cannot be read.
    """
    kept = recorded(path)
    return kept[0] if len(kept) == 1 else str(measured(path)["sha256"])


def describe_origin(source: str, words: str) -> dict[str, Any]:
    """Returns what a run started from, once it has been read.

    Args:
        source: as ``--from_pretrained`` has it.
        words: the run's own (``start`` of ``run.json``), in which the source may stand.

    Returns:
        ``kind`` is "nothing", "hub" (with ``name`` and ``revision``) or "file"; with the weights'
        ``sha256`` and, where they are a model's of this project, ``training``: what its own record says. ``words``
        without the place of a file.
    """
    found = _origin(source)
    if source:
        told = found.get("name") or f"a file (sha256 {found['sha256'][:12]})"
        words = words.replace(f" from {source}", f" from {told}", 1)
    return {"words": words, **found}


def _origin(source: str) -> dict[str, Any]:
    if not source:
        return {"kind": "nothing"}
    path = find_bert(source, fetch=False)  # any file that is there
    digest = weights_digest(path)
    name, revision = in_hub_cache(path)
    found: dict[str, Any] = {"kind": "hub", "name": name, "revision": revision} if name else {"kind": "file"}
    record = find_object(path.with_name(TRAINING)) or {}
    weights = record.get("weights")
    if isinstance(weights, Mapping) and weights.get("sha256") == digest:
        found["training"] = ancestor_of(record)
    return {**found, "sha256": digest}


def ancestor_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a model's record says in those of models that start from it."""
    return {name: record[name] for name in _ANCESTOR if record.get(name) is not None}


def in_hub_cache(path: Path) -> tuple[str, str]:
    """Returns hub name and revision of the model whose cached snapshot a file lies in; ("", "") of other files."""
    found = _SNAPSHOT.search(os.path.abspath(path))
    return (found[1].replace("--", "/"), found[2]) if found else ("", "")


def hub_model(origin: Any) -> str:
    """Returns the hub name of the nearest model in a chain of starts, as records have it; "" without one."""
    while isinstance(origin, Mapping):
        if origin.get("kind") == "hub":
            return str(origin.get("name", ""))
        training = origin.get("training")
        origin = training.get("start") if isinstance(training, Mapping) else None
    return ""


def describe_configuration(config_file: str, config: Config) -> dict[str, Any]:
    """Returns the name of the shipped configuration that a model comes from, and what it has otherwise.

    Args:
        config_file: as ``--config_file`` has it: a shipped one, or that of a model's folder, whose record names one.
        config: the model's.

    Returns:
        ``name`` and ``changed``; {} where no shipped configuration is known.
    """
    path = find_config(config_file).resolve()
    shipped = _shipped(path)
    if shipped is None:
        model = (find_object(path.with_name(TRAINING)) or {}).get("model")
        before = model.get("configuration") if isinstance(model, Mapping) else None
        name = before.get("name") if isinstance(before, Mapping) else None
        files = [(folder / f"{name}.json").resolve() for folder in CONFIG_FOLDERS]
        shipped = next((_shipped(file) for file in files if file.is_file()), None)
    if shipped is None:
        return {}
    file, name = shipped
    changed = differences(load_config(file).to_dict(), config.to_dict())
    return {"name": name, "changed": {field: now for field, _, now in changed if field != "bert_model"}}


def _shipped(path: Path) -> tuple[Path, str] | None:
    """Returns a shipped configuration's file and name; None of any other file."""
    for folder in CONFIG_FOLDERS:
        if path.is_relative_to(folder.resolve()):
            return path, path.relative_to(folder.resolve()).with_suffix("").as_posix()
    return None
