"""Shards of image-caption pairs (WebDataset), in a folder or behind an address.

A folder for each split (``training``, ``validation``) with index.json and ordinary WebDataset shards,
``shard-000000.tar`` and so on. A pair has two members, ``<place>.record`` (the compact store's bytes) and
``<place>.txt`` (the caption, for other readers), ``<place>`` being its place among all pairs of the split in eight
digits. ``data_tools.repack`` writes them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.checksums import read_recorded
from volta_switch.data.feature_files import Candidate, Format
from volta_switch.data.files.compact_record import RecordCodec, RecordLayout
from volta_switch.data.files.pair_files import FOLDERS, INDEX, Split, local_folder
from volta_switch.data.files.shard_cache import (
    GIB,
    MOST_RECORDS,
    Shard,
    ShardCache,
    ShardError,
    default_cache_folder,
    fetch_index,
    mapped,
)
from volta_switch.data.files.stores import Inspection, PairStore
from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord, UserError

VERSION = "volta_switch shards 1"
WINDOW = 16  # shards whose pairs are shuffled among each other
BLOCK = 512  # bytes: a tar file's unit
_OPEN = 4 * WINDOW  # shards that a process keeps open


@dataclass(frozen=True)
class ShardIndex:
    """What index.json says, as far as reading needs it."""

    split: str
    layout: RecordLayout
    shards: tuple[Shard, ...]


def shard_name(number: int) -> str:
    """Returns the name of a split's shard."""
    return f"shard-{number:06d}.tar"


def member_key(place: int) -> str:
    """Returns what the names of a pair's members begin with."""
    return f"{place:08d}"


def read_index(folder: Path) -> dict[str, Any]:
    """Returns what a folder's index.json holds; raises UserError where it is missing, damaged or of another version."""
    file = folder / INDEX
    try:
        content = read_recorded(file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); expected shards in {folder}") from None
    return parse_index(content, str(file))[1]


def parse_index(content: bytes, source: str) -> tuple[ShardIndex, dict[str, Any]]:
    """Checks an index, and returns it beside all that it holds; raises UserError that names its ``source``."""
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: not JSON ({error}); copy it again, or write the shards again") from None
    format_ = found.get("format") if isinstance(found, dict) else None
    if format_ != VERSION:
        raise UserError(
            f"{source}: format is {format_!r:.50}, expected {VERSION!r}; write the shards with this version"
        )
    try:
        shards = tuple(Shard(**entry) for entry in found["shards"])
        if [shard.name for shard in shards] != [shard_name(number) for number in range(len(shards))]:
            raise ValueError("names of shards")  # they become parts of paths and addresses
        if not shards or found["records"] != sum(shard.records for shard in shards) or found["records"] > MOST_RECORDS:
            raise ValueError("records")
        if found["split"] not in FOLDERS.values() or found["kind"] != "pairs":
            raise ValueError("split or kind")
        return ShardIndex(found["split"], RecordLayout(**found["layout"]), shards), found
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}: incomplete ({error}); copy it again, or write the shards again") from None


def record_places(data: memoryview, first: int, records: int) -> np.ndarray:
    """Finds the records of a shard whose first pair has the place ``first``: (records, 2) int64, first byte and length.

    Only the members' heads are read.

    Raises:
        ValueError: the file is not what ``shard`` writes.
    """
    places = np.empty((records, 2), dtype=np.int64)
    offset = 0
    for number in range(records):
        key = member_key(first + number)
        length = _member(data, offset, f"{key}.record")
        places[number] = offset + BLOCK, length
        offset += BLOCK + padded_length(length)
        offset += BLOCK + padded_length(_member(data, offset, f"{key}.txt"))
    if any(data[offset : offset + 2 * BLOCK]):
        raise ValueError(f"bytes after its {records} pairs")
    return places


def padded_length(length: int) -> int:
    """Returns how many bytes a member's content takes."""
    return -(-length // BLOCK) * BLOCK


def _member(data: memoryview, offset: int, name: str) -> int:
    """Returns the length of the member that begins at a byte."""
    head = bytes(data[offset : offset + BLOCK])
    if len(head) < BLOCK or head[:100].rstrip(b"\0") != name.encode() or head[156:157] not in (b"0", b"\0"):
        raise ValueError(f"no member {name} at byte {offset}")
    digits = head[124:136].rstrip(b"\0 ")
    if not re.fullmatch(rb"[0-7]+", digits):
        raise ValueError(f"the length of {name} is {digits!r:.30}")
    length = int(digits, 8)
    if offset + BLOCK + length > len(data):
        raise ValueError(f"{name} is cut short")
    return length


class ShardPairs(PairStore):
    """Pairs from shards; the counterpart of ConcapFile and CompactPairs.

    Args:
        source: the folder or address of one split, which holds index.json. A folder's shards are read where they lie;
            others are fetched, whole, when one of their pairs is asked for.
        in_memory, check: as in ``PairStore``.
        cache: where fetched shards are kept; None: ``default_cache_folder``, 16 GiB.

    Raises:
        UserError: as in ``PairStore``, and where the cache is too small for the order in which pairs are read.
        ShardError: on reading a pair whose shard cannot be had, or is not what the index says.
    """

    def __init__(
        self,
        source: str | Path,
        in_memory: bool = False,
        check: bool = True,
        cache: ShardCache | None = None,
    ) -> None:
        super().__init__(source, in_memory, check)
        self._folder = local_folder(source)
        self.path = str(source).rstrip("/") if self._folder is None else self._folder
        self._cache = cache or ShardCache(default_cache_folder(), 16 * GIB)
        self.index = self._read_index()
        self.layout = self.index.layout
        self._codec = RecordCodec(self.layout)
        self.blocks = np.array([shard.records for shard in self.index.shards])
        self._ends = np.cumsum(self.blocks)
        self._opened: OrderedDict[int, tuple[memoryview, np.ndarray]] = OrderedDict()  # by number, used last at the end
        if self._folder is None:
            self._require_room()

    def _read_index(self) -> ShardIndex:
        if self._folder is None:
            source = f"{self.path}/{INDEX}"
            return parse_index(fetch_index(source), source)[0]
        file = self._folder / INDEX
        try:
            return parse_index(read_recorded(file), str(file))[0]
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); expected shards in {self._folder}") from None

    def _require_room(self) -> None:
        """Raises UserError unless two windows are in the cache at once, so that no shard is fetched twice for one."""
        sizes = [shard.bytes for shard in self.index.shards]
        needed = min(sum(sizes), 2 * WINDOW * max(sizes))
        if self._cache.limit < needed:
            raise UserError(
                f"{self.path}: the cache of {self._cache.limit / GIB:.3g} GiB is too small for these shards; give "
                f"--shard_cache_gib {needed / GIB + 0.001:.3f} or more"
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": OrderedDict()}

    def _read(self, index: int) -> tuple[Regions, str]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        data, places = self._shard(number)
        start, length = places[index - int(self._ends[number])].tolist()
        try:
            regions, caption = self._codec.decode(data[start : start + length], index)
            self._check(regions)
        except ValueError as error:
            raise BadRecord(f"{self._name(number)}: record {index} is damaged ({error}); write it again") from None
        return regions, caption

    def _shard(self, number: int) -> tuple[memoryview, np.ndarray]:
        """Returns a shard's bytes, and where its records stand in them: (records, 2) int64, first byte and length."""
        found = self._opened.get(number)
        if found is None:
            found = self._open(number)
            self._close_some()
            self._opened[number] = found
        self._opened.move_to_end(number)
        return found

    def _open(self, number: int) -> tuple[memoryview, np.ndarray]:
        shard, name = self.index.shards[number], self._name(number)
        first = int(self._ends[number]) - shard.records
        for last in (self._folder is not None, True):  # one from the cache is fetched again
            try:
                data = self._bytes(shard, name)
                return data, record_places(data, first, shard.records)
            except ValueError as error:
                if last:
                    raise ShardError(f"{name}: damaged ({error}); copy it again, or write the shards again") from None
                self._cache.forget(shard)
        raise AssertionError  # the last try returns or raises

    def _bytes(self, shard: Shard, name: str) -> memoryview:
        if self._folder is None:
            return self._cache.opened(name, shard)
        try:
            found = Path(name).stat().st_size
            if found != shard.bytes:
                raise ValueError(f"{found} bytes, the index says {shard.bytes}")
            return mapped(Path(name))
        except OSError as error:
            raise ShardError(f"{name}: cannot be read ({error.strerror}); copy the shard there") from None

    def check_shard(self, number: int, whole: bool) -> None:
        """Raises UserError unless a shard's members are what they should be, and, if asked for, all its bytes."""
        shard, name = self.index.shards[number], self._name(number)
        data, _ = self._open(number)
        if whole and hashlib.sha256(data).hexdigest() != shard.sha256:
            raise ShardError(f"{name}: its checksum is not that of the index; copy it again, or write the shards again")

    def identity(self) -> bytes:
        """Returns what the index says, with each shard's checksum."""
        return repr(self.index).encode()

    def inspect(self, whole: bool) -> Inspection:
        """Looks at the shards as files; the pairs of those that are damaged are not usable."""
        usable: list[int] = []
        found = Inspection({"shards": len(self.index.shards)}, usable=usable)
        found.left_out = "" if whole else "checksums were not compared"
        for number, end in enumerate(self._ends.tolist()):
            try:
                self.check_shard(number, whole)
                usable += range(end - self.index.shards[number].records, end)
            except UserError as error:
                found.problems.append(str(error))
        return found

    def _close_some(self) -> None:
        """Lets go of the shards that were used longest ago, and of those that are in the cache no more."""
        shards = self.index.shards
        for number in [number for number in self._opened if self._folder is None]:
            if not self._cache.holds(shards[number]):
                del self._opened[number]
        while len(self._opened) >= _OPEN:
            self._opened.popitem(last=False)

    def _name(self, number: int) -> str:
        return f"{self.path}/{self.index.shards[number].name}"


def open_shards(
    root: str | Path,
    split: Split,
    in_memory: bool = False,
    check: bool = True,
    cache: ShardCache | None = None,
) -> ShardPairs:
    """Opens a split's shards below a root, which is a folder or an address; arguments and errors are ShardPairs'."""
    pairs = ShardPairs(f"{str(root).rstrip('/')}/{FOLDERS[split]}", in_memory, check, cache)
    if pairs.index.split != FOLDERS[split]:
        raise UserError(f"{pairs.path}: these pairs are for {pairs.index.split}; copy those for {FOLDERS[split]} there")
    return pairs


def _fits(candidate: Candidate) -> bool:
    return candidate.address or (candidate.path / INDEX).is_file()


FORMAT = Format("shards", "WebDataset shards", "set of shards", _fits, pairs=ShardPairs, order=20)
