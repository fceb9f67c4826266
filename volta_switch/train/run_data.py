"""How the entry points read data once their flags are read: a task's options, the tokenizer, what was read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from volta_switch.checksums import is_there
from volta_switch.config import Config
from volta_switch.config.model_folder import detector_in, folder_around, is_model_folder
from volta_switch.data.detector_facts import difference, facts_of
from volta_switch.data.files.json_files import read_object
from volta_switch.data.files.pair_files import CAPTIONS, find_pairs
from volta_switch.data.fingerprints import Fingerprint, file_fingerprint, store_fingerprint
from volta_switch.data.tokenizer import Tokenizer, check_vocab_size
from volta_switch.errors import UserError
from volta_switch.hub import find_vocabulary, is_weight_file
from volta_switch.hub_models import is_address
from volta_switch.tasks import DataOptions, TaskSpec, read_files
from volta_switch.tasks.task_file import WORLD
from volta_switch.train.ranks import Ranks


def data_options(
    args: argparse.Namespace,
    device: torch.device,
    features: str,
    num_workers: int | None = None,
    ranks: Ranks | None = None,
) -> DataOptions:
    """Returns how a task's data are read, by the flags; ``features``, ``num_workers`` replace what they say."""
    return DataOptions(
        pin_memory=device.type == "cuda",
        rank=0 if ranks is None else ranks.number,
        ranks=1 if ranks is None else ranks.count,
        parts=getattr(args, "accumulate", 1),
        seed=args.seed,
        num_workers=args.num_workers if num_workers is None else num_workers,
        in_memory=args.in_memory,
        features=features,
        boxes=args.boxes,
        volta_compat=args.volta_compat,
        max_bad_records=args.max_bad_records,
        worker_timeout=getattr(args, "worker_timeout", 0.0),
        data_fraction=getattr(args, "data_fraction", 1.0),
        data_fraction_seed=getattr(args, "data_fraction_seed", 0),
    )


def load_tokenizer(config: Config, max_seq_length: int) -> Tokenizer:
    """Loads the configuration's tokenizer; checks its vocabulary size and the longest text that it may be given."""
    if not 2 < max_seq_length <= config.max_position_embeddings:
        raise UserError(
            f"max_seq_length is {max_seq_length}, expected 3 to {config.max_position_embeddings}, the model's "
            "max_position_embeddings; change one of them"
        )
    tokenizer = Tokenizer(config.bert_model, config.do_lower_case)
    check_vocab_size(tokenizer, config.vocab_size)
    if tokenizer.pad_id != config.pad_token_id:
        raise UserError(
            f"{tokenizer.source}: [PAD] is token {tokenizer.pad_id}, the configuration's pad_token_id is "
            f"{config.pad_token_id}; take the vocabulary that the model was made with, or set pad_token_id"
        )
    return tokenizer


def deciding_config(config: Config) -> dict[str, Any]:
    """Returns a configuration without its vocabulary's place; the fingerprint stands with the data's."""
    return {name: value for name, value in config.to_dict().items() if name != "bert_model"}


def task_fingerprints(spec: TaskSpec, boxes: str, splits: Iterable[tuple[str, bool, str]]) -> dict[str, Fingerprint]:
    """Returns what is read of a task's splits, by split and file name.

    Args:
        spec: the task.
        boxes: as ``features_path`` takes them.
        splits: name, whether it is trained on, and the feature file that a flag names for it, or "".

    Raises:
        UserError: a file cannot be read.
    """
    found: dict[str, Fingerprint] = {}
    for split, training, features in splits:
        annotations, store = read_files(spec, split, training, features, boxes)
        found |= {f"{split}: {path.name}": file_fingerprint(path) for path in annotations}
        found[f"{split}: features"] = store_fingerprint(store)
    return found


def pair_fingerprints(annotations_path: str | Path, features_path: str | Path) -> dict[str, Fingerprint]:
    """Returns what pre-training reads: captions and pairs; as ``task_fingerprints``."""
    found: dict[str, Fingerprint] = {}
    splits: tuple[Literal["train"], Literal["valid"]] = ("train", "valid")
    for split in splits:
        captions, stores = Path(annotations_path) / CAPTIONS[split], _stores_of(features_path, split)
        found[f"{split}: {captions.name}"] = file_fingerprint(captions)
        for number, store in enumerate(stores):
            found[f"{split}: features" + (f" {number}" if len(stores) > 1 else "")] = store_fingerprint(store)
    return found


def pair_stores(features_path: str | Path) -> list[Path | str]:
    """Returns the files of pairs that pre-training reads, those that are trained on first."""
    return [*_stores_of(features_path, "train"), *_stores_of(features_path, "valid")]


def _stores_of(features_path: str | Path, split: Literal["train", "valid"]) -> Sequence[Path | str]:
    pairs = find_pairs(features_path, split)
    return [pairs.shards] if pairs.shards else pairs.files


def world_of(path: str | Path) -> dict[str, Any] | None:
    """Returns the parameters of the synthetic world that a file or folder of data lies in; None where it lies in none.

    Raises:
        UserError: the world's own description is damaged.
    """
    for folder in Path(path).resolve().parents:
        if is_there(folder / WORLD):
            return dict(read_object(folder / WORLD)["spec"])
    return None


def vocabulary_fingerprint(config: Config) -> dict[str, Fingerprint]:
    """Returns that of a configuration's vocabulary, under that name; UserError where it cannot be read."""
    return {"vocabulary": file_fingerprint(find_vocabulary(config.bert_model))}


def detector_of(stores: Sequence[Path | str], weights: str, tell: bool) -> dict[str, Any] | None:
    """Returns the facts about the features that a run trains on, or is tested on: those of the first file.

    Other files whose features come from another detector or selection, and a model that was trained on such, get a
    warning in words on stderr: shapes do not tell them apart, and scores only fall.

    Args:
        stores: files of features, as the run reads them.
        weights: what the run begins with, as ``--from_pretrained`` has it.
        tell: whether this process prints the warnings.

    Raises:
        UserError: what a file says of its features is damaged.
    """
    found = [(store, facts) for store in dict.fromkeys(map(str, stores)) if (facts := facts_of(store)) is not None]
    expected = _detector_of_model(weights) if found else None
    source = f"what {weights} was trained on"
    for store, facts in found:
        expected = facts if expected is None else expected
        if tell and (told := difference(expected, facts)):
            print(f"warning: {store} holds other features than {source}: {told}", file=sys.stderr)
        if expected is facts:
            source = f"those of {store}"
    return found[0][1] if found else None


def _detector_of_model(weights: str) -> dict[str, Any] | None:
    if not weights or not (is_address(weights) or is_weight_file(weights)):  # nothing, or a BERT's name
        return None
    folder = folder_around(weights)
    try:
        return detector_in(folder) if is_model_folder(folder) else None
    except UserError as error:  # no reason to lose a run
        print(f"warning: {error}; the features are not compared with those of the model", file=sys.stderr)
        return None
