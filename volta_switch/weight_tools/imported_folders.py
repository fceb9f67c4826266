"""Imported weights as a model's folder, and what its record says of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from volta_switch.cards.origin import describe_configuration, describe_origin, weights_digest
from volta_switch.cards.record import FORMAT, architecture_of, write_record
from volta_switch.checksums import read_recorded, record_bytes, record_json
from volta_switch.config import Config
from volta_switch.config.loading import CONFIG
from volta_switch.config.model_folder import files_of
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.files import writing_folder
from volta_switch.hub import HUB_WEIGHTS, VOCABULARY
from volta_switch.weight_tools.importing import ImportedModel
from volta_switch.weights.files import write_weights


def write_model(model: ImportedModel, folder: Path, vocabulary: bytes = b"") -> None:
    """Writes the model's folder whole or not at all.

    Args:
        model: what was read.
        folder: must not exist, or be empty.
        vocabulary: what ``vocab.txt`` holds; empty: that of the file beside the weights, where there is one.

    Raises:
        UserError: the folder is there and not empty, or the vocabulary is damaged.
        OSError: it cannot be written; nothing is left.
    """
    beside = model.source.with_name(VOCABULARY)
    if not vocabulary and beside.is_file():
        vocabulary = read_recorded(beside)
    with writing_folder(folder) as unfinished:
        for name, content in _files(model, vocabulary, str(beside)).items():
            record_bytes(unfinished / name, content)
        record_json(unfinished / CONFIG, model.config.to_dict())
        write_weights(unfinished / HUB_WEIGHTS[0], model.state, recorded=True)
        write_record(unfinished, _record(model, unfinished / HUB_WEIGHTS[0]))


def _files(model: ImportedModel, vocabulary: bytes, source: str) -> dict[str, bytes]:
    """Returns what lies beside configuration and weights. Raises UserError where the vocabulary is none."""
    tokenizer = Tokenizer.of_content(vocabulary, source, model.config.do_lower_case).to_json() if vocabulary else ""
    regions, task = model.layout.regions, model.task or None
    return files_of(model.config, tokenizer, task, model.labels, regions=regions, vocabulary=vocabulary)


def _record(model: ImportedModel, weights: Path) -> dict[str, Any]:
    """Returns what ``training.json`` says of an import; ``weights``: the file that was written."""
    origin = describe_origin(str(model.source), "")
    taken = {
        "project": model.project,
        "layout": model.layout.name,
        "file": model.source.name,
        "sha256": origin["sha256"],
        "heads": list(model.heads),
        "left_out": left_out_by_reason(model.left_out),
        "initial": modules_of(model.initial),
        "overrides": [each for each in model.overrides if not each.startswith("bert_model=")],
    }
    return import_record(model.config, model.layout.base, model.parameters, weights, origin, taken, model.task)


def import_record(
    config: Config,
    base: str,
    parameters: int,
    weights: Path,
    start: Mapping[str, Any],
    imported: Mapping[str, Any],
    task: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Returns what ``training.json`` says of weights that were trained elsewhere.

    Args:
        config: the model's.
        base: the shipped configuration that it is a variant of.
        parameters: their number.
        weights: the file in the model's folder.
        start: what it was made of, as ``cards.origin`` describes it.
        imported: whose file it was, and what became of its names.
        task: what ``task.yml`` holds, where there is a head.
    """
    return {
        "format": FORMAT,
        "kind": "import",
        "model": {
            "architecture": architecture_of(config),
            "configuration": describe_configuration(base, config),
            "parameters": parameters,
        },
        "weights": {"file": weights.name, "sha256": weights_digest(weights)},
        **({"task": {"key": next(iter(task)), **next(iter(task.values()))}} if task else {}),
        "start": start,
        "imported": imported,
        "tests": [],
        "comparison": [],
    }


def left_out_by_reason(left_out: Mapping[str, str]) -> dict[str, list[str]]:
    """Returns why parts of a file are left out -> their modules."""
    found: dict[str, list[str]] = {}
    for name, why in left_out.items():
        found.setdefault(why, []).append(name)
    return {why: modules_of(names) for why, names in found.items()}


def modules_of(names: Iterable[str]) -> list[str]:
    """Returns the modules of names, once each; ``*`` for the number of a layer."""
    modules = (re.sub(r"\.\d+\.", ".*.", name.rpartition(".")[0] or name) for name in names)
    return list(dict.fromkeys(modules))
