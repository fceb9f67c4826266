"""A file in VOLTA's layout as a model's folder: compared with the registry's configuration, and described."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from volta_switch.cards.origin import weights_digest
from volta_switch.cards.record import write_record
from volta_switch.checksums import record, record_bytes, record_json
from volta_switch.config import Config
from volta_switch.config.loading import CONFIG
from volta_switch.config.model_folder import WEIGHTS, files_of
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.errors import UserError
from volta_switch.hub import VOCABULARY
from volta_switch.model.bert import BertForVLPreTraining
from volta_switch.weight_tools.imported_folders import import_record
from volta_switch.weight_tools.registered.entries import VOLTA, Entry
from volta_switch.weights.files import read_weights
from volta_switch.weights.loading import fitted, is_of_a_run, some, to_volta

_REGIONS = "boxes of the Visual Genome Faster R-CNN (bottom-up attention), as VOLTA's own features have them"
_HEADS = ("cls.", "clfs_dict.")


def check_weights(path: Path, config: Config, entry: Entry) -> list[str]:
    """Compares a file in VOLTA's layout with the configuration that the registry names, and returns its heads.

    Raises:
        UserError: a name or a shape is another model's.
    """
    state = read_weights(path)
    said = f"{entry.weights.key}: refused: what was fetched"
    if not is_of_a_run(state):
        raise UserError(f"{said} holds no weights in VOLTA's layout")
    with torch.device("meta"):
        own = to_volta(BertForVLPreTraining(config))
    lost = [name for name in own if name not in state and not name.startswith("cls.")]
    strange = [name for name in state if name not in own and not name.startswith(("cls.", "clfs_dict."))]
    if lost or strange:
        what = f"lacks {some(lost)}" if lost else f"has {some(strange)}"
        raise UserError(f"{said} {what}, so that it is no {entry.config}")
    if entry.task and not any(name.startswith(f"clfs_dict.{entry.task}.") for name in state):
        raise UserError(f"{said} has no head of {entry.task}, and the registry says that it has")
    fitted(own, {name: state[name] for name in own if name in state}, said, f"it is no {entry.config}")
    return sorted({".".join(name.split(".")[:2]) for name in state if name.startswith(_HEADS)})


def fill_folder(folder: Path, entry: Entry, config: Config, vocabulary: bytes, weights: Path, heads: list[str]) -> None:
    """Fills a new folder with a file that was checked, which is moved there, and all that belongs to a model.

    ``heads``: those of the file, as ``check_weights`` found them.

    Raises:
        UserError: the vocabulary is none.
    """
    tokenizer = Tokenizer.of_content(vocabulary, VOCABULARY, config.do_lower_case)
    for name, content in files_of(config, tokenizer.to_json(), regions=_REGIONS, vocabulary=vocabulary).items():
        record_bytes(folder / name, content)
    record_json(folder / CONFIG, config.to_dict())
    place = folder / WEIGHTS[1]  # VOLTA's name
    os.replace(weights, place)
    record(place)
    with torch.device("meta"):
        model = BertForVLPreTraining(config)
    digest = weights_digest(place)
    taken = {
        "project": "VOLTA",
        "layout": VOLTA,
        "file": entry.weights.key,
        "sha256": digest,
        "heads": heads,
        "left_out": {},
        "initial": [],
        "overrides": [],
    }
    start = {"words": "", "kind": "file", "sha256": digest}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    write_record(folder, import_record(config, str(entry.config), parameters, place, start, taken))
