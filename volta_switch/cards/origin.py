"""Where a model's weights come from, in a form that can be published: hub names and checksums, no places."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from volta_switch.checksums import recorded
from volta_switch.config import Config, load_config
from volta_switch.config.loading import CONFIG_FOLDERS, find_config
from volta_switch.config.model_folder import TRAINING
from volta_switch.files import find_object, measured
from volta_switch.hub import find_bert, is_weight_file
from volta_switch.hub_models import SCHEME, is_address, weights_of
from volta_switch.identities import differences

_SNAPSHOT = re.compile(r"/models--([^/]+)/snapshots/([^/]+)/")  # of the hub's cache: a model's name, a revision
ANCESTOR = ("kind", "model", "task", "weights", "start", "data", "hyperparameters", "steps", "imported")


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
        ``kind`` is "nothing", "hub" (with ``name`` and, where it is known, ``revision``) or "file"; with the weights'
        ``sha256`` and, where they are a model's of this project, ``training``: what its own record says. ``words``
        without the place of a file.
    """
    found = _origin(source)
    if source:
        words = words.replace(source, found.get("name") or f"a file (sha256 {found['sha256'][:12]})")
    return {"words": words, **found}


def _origin(source: str) -> dict[str, Any]:
    if not source:
        return {"kind": "nothing"}
    found: dict[str, Any] = {"kind": "file"}
    if is_address(source):
        path = weights_of(source, fetch=False)
        found = {"kind": "hub", "name": source.removeprefix(SCHEME).partition("@")[0], **_revision(path)}
    else:
        path = Path(source) if is_weight_file(source) else find_bert(source, fetch=False)
        if not os.path.lexists(source):
            found = {"kind": "hub", "name": source, **_revision(path)}
        elif snapshot := in_hub_cache(path):
            found = {"kind": "hub", "name": snapshot, **_revision(path)}
    digest = weights_digest(path)
    record = find_object(path.with_name(TRAINING)) or {}
    if record.get("weights", {}).get("sha256") == digest:
        found["training"] = {name: record[name] for name in ANCESTOR if record.get(name) is not None}
    return {**found, "sha256": digest}


def in_hub_cache(path: Path) -> str:
    """Returns the hub name of the model whose cached snapshot a file lies in; "" where it lies elsewhere."""
    found = _SNAPSHOT.search(os.path.abspath(path))
    return found[1].replace("--", "/") if found else ""


def _revision(path: Path) -> dict[str, str]:
    found = _SNAPSHOT.search(os.path.abspath(path))
    return {"revision": found[2]} if found else {}


def hub_model(origin: dict[str, Any]) -> str:
    """Returns the hub name of the nearest model in a chain of starts; "" without one."""
    while origin:
        if origin.get("kind") == "hub":
            return str(origin["name"])
        origin = origin.get("training", {}).get("start", {})
    return ""


def describe_configuration(config_file: str, config: Config) -> dict[str, Any]:
    """Returns the name of a shipped configuration, and what a model has otherwise; {} of any other file.

    Args:
        config_file: as ``--config_file`` has it.
        config: the model's.
    """
    path = find_config(config_file).resolve()
    for folder in CONFIG_FOLDERS:
        if path.is_relative_to(folder.resolve()):
            name = path.relative_to(folder.resolve()).with_suffix("").as_posix()
            changed = differences(load_config(path).to_dict(), config.to_dict())
            return {"name": name, "changed": {field: now for field, _, now in changed if field != "bert_model"}}
    return {}
