"""Reading records of an LMDB file that somebody else wrote, without trusting any number in it.

The LMDB library believes what a file's pages say: one flipped bit in them can kill the process. This reader of finished
files looks up one record at a time, or lists the keys, and checks every place that it is led to against the page and
the file. Layout: LMDB 0.9 as lmdb writes it on 64-bit little-endian machines, one database, no duplicates.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from struct import Struct
from typing import Any

from volta_switch.errors import BadRecord, UserError

_HEADER = Struct("<QHHHH")  # page number, padding, kind, end of the pointers, start of the nodes
_META = Struct("<II16x48xIHHQQQQQ")  # magic, version; of the main database: pad, flags, depth, pages, entries, root
_META_END = Struct("<QQ")  # last page, transaction
_PAGE_SIZE = Struct("<I")
_NODE = Struct("<HHHH")  # two halves of the value's size or child's page, flags or a third part, bytes of the key
_PAGE = Struct("<Q")
_MAGIC = (0xBEEFC0DE, 1)
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 1, 2, 4, 8
_KINDS = 0x6F  # the bits that say how a page is laid out
_IN_OVERFLOW = 1  # a node whose value stands in pages of its own
_NO_PAGE = 2**64 - 1
_DEEPEST = 32  # levels, LMDB's own limit
_MAPPED = 256 << 20  # bytes of records that a process keeps mapped: else a large file would count as its memory


def is_lmdb(head: bytes) -> bool:
    """Whether a file that begins with some bytes is an LMDB: it has a number of its own on its first page."""
    return head[_HEADER.size : _HEADER.size + 4] == _MAGIC[0].to_bytes(4, "little")


class LmdbPages:
    """The records of a file, or of ``data.mdb`` in a directory, by key. Opened at the first look; fork- and spawn-safe.

    Args:
        path: the file or directory. One that is made shorter while it is open kills the process, as with any memory
            map.
        what: what errors say that the file holds.

    Raises:
        UserError: on opening a file that is missing, cut short or no LMDB 0.9 file.
    """

    def __init__(self, path: str | Path, what: str) -> None:
        self._path = Path(path)
        self._what = what
        self._map: mmap.mmap | None = None
        self._given = 0  # bytes of records since the map was last emptied
        self._branches: dict[int, tuple[list[bytes], list[int]]] = {}  # page -> keys from the second on, children

    @property
    def entries(self) -> int:
        """How many records the file says that it holds."""
        self._opened()
        return self._entries

    def get(self, key: bytes) -> memoryview | None:
        """Returns a view of a record, or None where there is none; raises BadRecord where a damaged page is in the way.

        The view stays valid as long as it is kept, even after the file was replaced.
        """
        data = self._opened()
        page = self._root
        if page == _NO_PAGE:
            return None
        try:
            for _ in range(_DEEPEST):
                if page in self._branches:
                    keys, children = self._branches[page]
                    page = children[bisect_right(keys, key)]
                elif self._kind(data, page) == _BRANCH:
                    self._branches[page] = self._branch(data, page)
                else:
                    return self._find(data, page, key)
        except _DamagedError as error:
            raise BadRecord(f"{self._path}, record {key!r}: {error}; copy or write the file again") from None
        raise BadRecord(f"{self._path}, record {key!r}: its pages lead in a circle; copy or write the file again")

    def keys(self, prefix: bytes = b"") -> Iterator[bytes]:
        """Goes through the keys that begin with a prefix, in their order; raises BadRecord as ``get`` does."""
        data = self._opened()
        pages = [] if self._root == _NO_PAGE else [self._root]
        left = 2 * self._last + 2  # pages to look at: more than there are, unless they lead in a circle
        try:
            while pages:
                page, left = pages.pop(), left - 1
                if not left:
                    raise _DamagedError("its pages lead in a circle")
                if self._kind(data, page) == _BRANCH:
                    keys, children = self._branch(data, page)
                    first = bisect_right(keys, prefix)
                    after = [place for place, key in enumerate(keys) if key > prefix and not key.startswith(prefix)]
                    pages += children[first : after[0] + 1 if after else None][::-1]
                    continue
                lower, count = self._nodes(data, page)
                for place in range(count):
                    key = self._node(data, page, place, lower)[4]
                    if key.startswith(prefix):
                        yield key
        except _DamagedError as error:
            raise BadRecord(
                f"{self._path}: its keys cannot be listed ({error}); copy or write the file again"
            ) from None

    def _opened(self) -> mmap.mmap:
        if self._map is None:
            path = self._path / "data.mdb" if self._path.is_dir() else self._path
            try:
                with path.open("rb") as file:
                    self._size = os.fstat(file.fileno()).st_size
                    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self._size else None
            except OSError as error:
                raise UserError(
                    f"{self._path}: {self._what} not found ({error.strerror}); check the path, or write the file first"
                ) from error
            try:
                if data is None:
                    raise _DamagedError("it is empty")
                self._read_meta(data)
            except _DamagedError as error:
                raise UserError(
                    f"{path}: {self._what} is not a readable LMDB file ({error}); copy or write it again"
                ) from None
            self._map = data
        return self._map

    def _read_meta(self, data: mmap.mmap) -> None:
        """Takes page size, root and last page from the newer of the two first pages."""
        if len(data) < 64 or data[16:24] != _MAGIC[0].to_bytes(4, "little") + _MAGIC[1].to_bytes(4, "little"):
            raise _DamagedError("it does not begin as one of format 1")
        (size,) = _PAGE_SIZE.unpack_from(data, 40)
        if size & (size - 1) or not 256 <= size <= 65536:
            raise _DamagedError(f"pages of {size} bytes")
        if len(data) < 2 * size:
            raise UserError(f"{self._path}: {self._what} is cut short ({len(data)} bytes); copy or write it again")
        newest = -1
        for start in (0, size):
            magic, version, _, flags, _, _, _, _, entries, root = _META.unpack_from(data, start + 16)
            last, transaction = _META_END.unpack_from(data, start + 16 + _META.size)
            kind = _HEADER.unpack_from(data, start)[2]
            if (magic, version) != _MAGIC or not kind & _META_PAGE or flags & 0x7FFF:
                raise _DamagedError("its first pages are damaged, or it has duplicate or number keys")
            if transaction > newest:
                newest, self._entries, self._root, self._last = transaction, entries, root, last
        self._page_size = size
        expected = (self._last + 1) * size
        if len(data) < expected:
            raise UserError(
                f"{self._path}: {self._what} is cut short ({len(data)} bytes, {expected} expected); "
                "copy or write it again"
            )
        if self._entries > len(data) // _NODE.size or (self._root == _NO_PAGE) != (self._entries == 0):
            raise _DamagedError(f"{self._entries} records in {len(data)} bytes")

    def _kind(self, data: mmap.mmap, page: int) -> int:
        if not 2 <= page <= self._last:
            raise _DamagedError(f"page {page} is not in the file")
        number, _, kind, _, _ = _HEADER.unpack_from(data, page * self._page_size)
        if number != page or kind & _KINDS not in (_BRANCH, _LEAF, _OVERFLOW):
            raise _DamagedError(f"page {page} is damaged")
        return kind & _KINDS

    def _nodes(self, data: mmap.mmap, page: int) -> tuple[int, int]:
        """Returns where a page's nodes may begin, and how many there are."""
        _, _, _, lower, upper = _HEADER.unpack_from(data, page * self._page_size)
        if not _HEADER.size < lower <= upper <= self._page_size or lower % 2:
            raise _DamagedError(f"page {page} is damaged")
        return lower, (lower - _HEADER.size) // 2

    def _node(self, data: mmap.mmap, page: int, place: int, lower: int) -> tuple[int, int, int, int, bytes]:
        """Returns first and second half of the size, flags, where the value begins in the file, and the key."""
        start = page * self._page_size
        at = int.from_bytes(data[start + _HEADER.size + 2 * place : start + _HEADER.size + 2 * place + 2], "little")
        if not lower <= at <= self._page_size - _NODE.size:
            raise _DamagedError(f"page {page} is damaged")
        low, high, flags, length = _NODE.unpack_from(data, start + at)
        if at + _NODE.size + length > self._page_size:
            raise _DamagedError(f"page {page} is damaged")
        value = start + at + _NODE.size + length
        return low, high, flags, value, data[value - length : value]

    def _branch(self, data: mmap.mmap, page: int) -> tuple[list[bytes], list[int]]:
        lower, count = self._nodes(data, page)
        nodes = [self._node(data, page, place, lower) for place in range(count)]
        keys = [node[4] for node in nodes[1:]]  # the first child holds all that is smaller
        if any(left >= right for left, right in pairwise(keys)):
            raise _DamagedError(f"page {page} is damaged")
        return keys, [low | high << 16 | flags << 32 for low, high, flags, _, _ in nodes]

    def _find(self, data: mmap.mmap, page: int, key: bytes) -> memoryview | None:
        if self._kind(data, page) != _LEAF:
            raise _DamagedError(f"page {page} is damaged")
        lower, count = self._nodes(data, page)
        first, end = 0, count
        while first < end:
            middle = (first + end) // 2
            low, high, flags, value, found = self._node(data, page, middle, lower)
            if found == key:
                return self._value(data, page, low | high << 16, flags, value)
            first, end = (middle + 1, end) if found < key else (first, middle)
        return None

    def _value(self, data: mmap.mmap, page: int, size: int, flags: int, start: int) -> memoryview:
        end_of_page = (page + 1) * self._page_size
        if flags == _IN_OVERFLOW and start + _PAGE.size <= end_of_page:
            (own,) = _PAGE.unpack_from(data, start)
            if self._kind(data, own) != _OVERFLOW:
                raise _DamagedError(f"page {own} is damaged")
            start, end_of_page = own * self._page_size + _HEADER.size, (self._last + 1) * self._page_size
            flags = 0
        if flags or start + size > end_of_page:
            raise _DamagedError(f"page {page} is damaged")
        self._given += size
        if self._given > _MAPPED:  # views stay valid: what they show is brought back from the system's cache
            data.madvise(mmap.MADV_DONTNEED)
            self._given = 0
        return memoryview(data)[start : start + size]

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_what": self._what, "_map": None, "_given": 0, "_branches": {}}


class _DamagedError(Exception):
    """What is wrong with a page."""
