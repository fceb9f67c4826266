"""Where the image-caption pairs of a pre-training split lie: whole files, parts, shards, or an address.

Nothing here opens a file or imports what takes time: a command that lacks one says so first.
"""

from __future__ import annotations

import re
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from volta_switch.errors import UserError

Split = Literal["train", "valid"]
INDEX = "index.json"  # of shards
CAPTIONS: dict[Split, str] = {"train": "caption_train.json", "valid": "caption_valid.json"}
FOLDERS: dict[Split, str] = {"train": "training", "valid": "validation"}
_NAMES: dict[Split, str] = {"train": "training_feat", "valid": "validation_feat"}


@dataclass(frozen=True)
class PairFiles:
    """A split's pairs: files, one after the other, or shards below ``shards``, a folder or an address."""

    files: tuple[Path, ...] = ()
    name: Path = Path()  # of all files together
    shards: str = ""

    def needed(self) -> list[Path]:
        """Returns what must be on this machine; of shards at an address nothing."""
        if not self.shards:
            return list(self.files)
        folder = local_folder(self.shards)
        return [] if folder is None else [folder / INDEX]


def find_pairs(features_path: str | Path, split: Split) -> PairFiles:
    """Returns where a split's pairs lie below VOLTA's features_path.

    ``training_feat_all.lmdb`` or ``validation_feat_all.lmdb``, else every ``..._part_<rank>.lmdb`` (VOLTA writes one
    for each GPU), in the order of the ranks, else shards; where none of them is there, the first, which is then
    missing. An address (https://..., s3://..., ...) has shards.

    Raises:
        UserError: one of several parts is missing.
    """
    if is_address(features_path):
        return PairFiles(shards=f"{str(features_path).rstrip('/')}/{FOLDERS[split]}")
    folder, name = Path(features_path), _NAMES[split]
    whole = folder / f"{name}_all.lmdb"
    parts = {
        int(match[1]): path
        for path in folder.glob(f"{name}_part_*.lmdb")
        if (match := re.search(r"_(\d+)\.", path.name))
    }
    if not whole.exists() and not parts and is_sharded(folder / FOLDERS[split]):
        return PairFiles(shards=str(folder / FOLDERS[split]))
    if whole.exists() or not parts:
        return PairFiles((whole,), whole)
    missing = sorted(set(range(max(parts) + 1)) - set(parts))
    if missing:
        raise UserError(f"{folder}: {name}_part_{missing[0]}.lmdb is missing; copy all parts, or the one {whole.name}")
    return PairFiles(tuple(parts[rank] for rank in sorted(parts)), folder / f"{name}_part_*.lmdb")


def is_sharded(path: str | Path) -> bool:
    """Whether a folder holds shards of one split, by its index."""
    return (Path(path) / INDEX).is_file()


def is_address(path: str | Path) -> bool:
    """Whether a path is an address such as https://host/folder, and no file's name."""
    return isinstance(path, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", path) is not None


def local_folder(path: str | Path) -> Path | None:
    """Returns the folder that a path or a file: address names; None for other addresses."""
    if not is_address(path):
        return Path(path)
    parts = urllib.parse.urlsplit(str(path))
    return Path(urllib.request.url2pathname(parts.path)) if parts.scheme == "file" else None
