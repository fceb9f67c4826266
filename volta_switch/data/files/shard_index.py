"""Shards of image-caption pairs: what lies in their folder, and where in a shard each record stands.

A folder for each split (`training`, `validation`) with index.json and ordinary WebDataset shards, `shard-000000.tar`
and so on. A pair has two members, `<place>.record` (the compact store's bytes) and `<place>.txt` (the caption, for
other readers), `<place>` being its place among all pairs of the split in eight digits. `shard` writes them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.checksums import read_recorded
from volta_switch.data.files.compact_record import RecordLayout
from volta_switch.data.files.pair_files import FOLDERS, INDEX
from volta_switch.errors import UserError

FORMAT = "volta_switch shards 1"
WINDOW = 16  # shards whose pairs are shuffled among each other
BLOCK = 512  # bytes: a tar file's unit
_MOST = 10**8  # pairs that eight digits can name


@dataclass(frozen=True)
class Shard:
    """One file. records: its pairs; bytes, sha256: of the whole file."""

    name: str
    records: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        """Raise ValueError for what no shard has: an index may say anything."""
        if not (type(self.records) is int and 0 < self.records < _MOST):
            raise ValueError(f"records {self.records!r:.30}")
        if not (type(self.bytes) is int and 0 < self.bytes < 2**50):
            raise ValueError(f"bytes {self.bytes!r:.30}")
        if not (isinstance(self.sha256, str) and re.fullmatch("[0-9a-f]{64}", self.sha256)):
            raise ValueError(f"sha256 {self.sha256!r:.30}")


@dataclass(frozen=True)
class ShardIndex:
    """What index.json says, as far as reading needs it."""

    split: str
    layout: RecordLayout
    shards: tuple[Shard, ...]


def shard_name(number: int) -> str:
    """Return the name of a split's shard."""
    return f"shard-{number:06d}.tar"


def member_key(place: int) -> str:
    """Return what the names of a pair's members begin with."""
    return f"{place:08d}"


def read_index(folder: Path) -> dict[str, Any]:
    """Return what a folder's index.json holds; raises UserError where it is missing, damaged or of another version."""
    file = folder / INDEX
    try:
        content = read_recorded(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); expected shards in {folder}") from None
    return parse_index(content, str(file))[1]


def parse_index(content: bytes, where: str) -> tuple[ShardIndex, dict[str, Any]]:
    """Check an index, and return it beside all that it holds; raises UserError that names `where` it is from."""
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); copy it again, or write the shards again") from None
    format_ = found.get("format") if isinstance(found, dict) else None
    if format_ != FORMAT:
        raise UserError(f"{where}: format is {format_!r:.50}, expected {FORMAT!r}; write the shards with this version")
    try:
        shards = tuple(Shard(**entry) for entry in found["shards"])
        if [shard.name for shard in shards] != [shard_name(number) for number in range(len(shards))]:
            raise ValueError("names of shards")  # they become parts of paths and addresses
        if not shards or found["records"] != sum(shard.records for shard in shards) or found["records"] > _MOST:
            raise ValueError("records")
        if found["split"] not in FOLDERS.values() or found["kind"] != "pairs":
            raise ValueError("split or kind")
        return ShardIndex(found["split"], RecordLayout(**found["layout"]), shards), found
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: incomplete ({error}); copy it again, or write the shards again") from None


def record_places(data: memoryview, first: int, records: int) -> np.ndarray:
    """Find the records of a shard whose first pair has the place `first`: (records, 2) int64, first byte and length.

    Only the members' heads are read. Raises ValueError where the file is not what `shard` writes.
    """
    places = np.empty((records, 2), dtype=np.int64)
    at = 0
    for number in range(records):
        key = member_key(first + number)
        length = _member(data, at, f"{key}.record")
        places[number] = at + BLOCK, length
        at += BLOCK + padded_length(length)
        at += BLOCK + padded_length(_member(data, at, f"{key}.txt"))
    if any(data[at : at + 2 * BLOCK]):
        raise ValueError(f"bytes after its {records} pairs")
    return places


def padded_length(length: int) -> int:
    """Return how many bytes a member's content takes."""
    return -(-length // BLOCK) * BLOCK


def _member(data: memoryview, at: int, name: str) -> int:
    """Return the length of the member that begins at a byte."""
    head = bytes(data[at : at + BLOCK])
    if len(head) < BLOCK or head[:100].rstrip(b"\0") != name.encode() or head[156:157] not in (b"0", b"\0"):
        raise ValueError(f"no member {name} at byte {at}")
    digits = head[124:136].rstrip(b"\0 ")
    if not re.fullmatch(rb"[0-7]+", digits):
        raise ValueError(f"the length of {name} is {digits!r:.30}")
    length = int(digits, 8)
    if at + BLOCK + length > len(data):
        raise ValueError(f"{name} is cut short")
    return length
