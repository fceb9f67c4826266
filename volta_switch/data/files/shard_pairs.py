"""The image-caption pairs of a split by index, from shards in a folder or behind an address."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from volta_switch.checksums import read_recorded
from volta_switch.data.files.compact_record import RecordCodec
from volta_switch.data.files.pair_files import FOLDERS, INDEX, local_folder
from volta_switch.data.files.pair_store import PairStore
from volta_switch.data.files.shard_cache import GIB, ShardCache, default_cache_folder, mapped
from volta_switch.data.files.shard_fetching import ShardError, fetch_index
from volta_switch.data.files.shard_index import (
    WINDOW,
    Shard,
    ShardIndex,
    parse_index,
    record_places,
)
from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord, UserError

_OPEN = 4 * WINDOW  # shards that a process keeps open


class ShardPairs(PairStore):
    """Pairs from shards; the counterpart of ConcapFile and CompactPairs.

    source: the folder or address of one split, which holds index.json. A folder's shards are read where they lie;
    others are fetched, whole, into the cache (default: `default_cache_folder`, 16 GiB) when one of their pairs is asked
    for. Making one also raises UserError for a cache that is too small for the order in which pairs are read; reading a
    pair raises ShardError where a shard cannot be had, or is not what the index says.
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
            where = f"{self.path}/{INDEX}"
            return parse_index(fetch_index(where), where)[0]
        file = self._folder / INDEX
        try:
            return parse_index(read_recorded(file), str(file))[0]
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); expected shards in {self._folder}") from None

    def _require_room(self) -> None:
        """Raise UserError unless two windows are in the cache at once, so that no shard is fetched twice for one."""
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
        """Return a shard's bytes, and where its records stand in them: (records, 2) int64, first byte and length."""
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
        """Raise UserError unless a shard's members are what they should be, and, if asked for, all its bytes."""
        shard, name = self.index.shards[number], self._name(number)
        data, _ = self._open(number)
        if whole and hashlib.sha256(data).hexdigest() != shard.sha256:
            raise ShardError(f"{name}: its checksum is not that of the index; copy it again, or write the shards again")

    def _close_some(self) -> None:
        """Let go of the shards that were used longest ago, and of those that are in the cache no more."""
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
    split: Literal["train", "valid"],
    in_memory: bool = False,
    check: bool = True,
    cache: ShardCache | None = None,
) -> ShardPairs:
    """Open a split's shards below a root, which is a folder or an address; arguments and errors are ShardPairs'."""
    pairs = ShardPairs(f"{str(root).rstrip('/')}/{FOLDERS[split]}", in_memory, check, cache)
    if pairs.index.split != FOLDERS[split]:
        raise UserError(f"{pairs.path}: these pairs are for {pairs.index.split}; copy those for {FOLDERS[split]} there")
    return pairs
