"""The image-caption pairs of a pre-training split, in whatever files they lie."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from volta_switch.data.files.compact_record import RecordLayout
from volta_switch.data.files.compact_store import CompactPairs, is_compact
from volta_switch.data.files.concap_lmdb import ConcapFile
from volta_switch.data.files.pair_files import find_pairs, is_address
from volta_switch.data.files.shard_cache import ShardCache
from volta_switch.data.files.shard_pairs import open_shards
from volta_switch.data.regions import Regions
from volta_switch.errors import UserError


class Pairs(Protocol):
    """Regions and caption by index."""

    @property
    def path(self) -> Path | str:
        """What errors name."""

    @property
    def layout(self) -> RecordLayout | None:
        """The widths of all records, where the files say them."""

    @property
    def blocks(self) -> np.ndarray | None:
        """The sizes of the runs of pairs that lie in one shard each: (runs,); None where there are no shards."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Regions, str]: ...


class JoinedPairs:
    """The pairs of several files, one file after the other."""

    def __init__(self, parts: list[Pairs], path: Path) -> None:
        self.path = path
        self.layout, self.blocks = parts[0].layout, None
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> tuple[Regions, str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][index - int(self._ends[part]) + len(self._parts[part])]


class ChosenPairs:
    """Some pairs of another sequence, by their places in it."""

    def __init__(self, pairs: Pairs, places: np.ndarray) -> None:
        self.path, self.layout = pairs.path, pairs.layout
        self.blocks = None if pairs.blocks is None else _chosen_of(pairs.blocks, places)
        self._pairs = pairs
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Regions, str]:
        return self._pairs[int(self.places[index])]


def _chosen_of(blocks: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return how many places, in rising order, are in each block, without the blocks that have none."""
    before = np.searchsorted(places, np.cumsum(blocks))
    counts = np.diff(before, prepend=0)
    return counts[counts > 0]


def open_pairs(
    features_path: str | Path,
    split: Literal["train", "valid"],
    in_memory: bool = False,
    check: bool = True,
    cache: ShardCache | None = None,
) -> Pairs:
    """Open a split's pairs below VOLTA's features_path; in_memory and check are those of ConcapFile, cache ShardPairs'.

    They lie where `find_pairs` says; each file is VOLTA's, or a compact store of that name. Raises UserError where
    there is none of them, and for parts of which one is missing.
    """
    found = find_pairs(features_path, split)
    if found.shards:
        return open_shards(features_path, split, in_memory, check, cache if is_address(features_path) else None)
    parts = [_open(path, in_memory, check) for path in found.files]
    if len(parts) == 1 and found.files[0] == found.name:
        return parts[0]
    if len({part.layout for part in parts}) > 1:
        raise UserError(f"{found.name}: the parts are stored in different ways; repack all of them, or none")
    return JoinedPairs(parts, found.name)


def _open(path: Path, in_memory: bool, check: bool) -> Pairs:
    return CompactPairs(path, in_memory, check) if is_compact(path) else ConcapFile(path, in_memory, check)
