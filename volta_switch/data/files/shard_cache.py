"""Shards that were fetched, in a folder that all processes of a machine share.

A shard lies under its checksum: shards of several data sets can share a folder, and one that was written anew is
another file. Who fetches a shard has the lock of its name; who needs it meanwhile waits. A shard that is removed stays
readable to the processes that have it open. Fetching is tried again where the network fails; where it stays so, one
line says it.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import importlib
import mmap
import os
import re
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from volta_switch.errors import UserError

T = TypeVar("T")
PAUSES = [1.0, 2.0, 4.0, 8.0]  # seconds between two tries
_SILENCE = 60  # seconds without a byte, after which a server is taken for gone
_PIECE = 1 << 20  # bytes read at once
_PASSING = (408, 425, 429)  # of the answers 400 to 499 those that may be others next time
MOST_RECORDS = 10**8  # pairs that eight digits can name
_WHOLE, _PART = ".tar", ".part"
_TRIES = 10  # to open a shard that others may remove as soon as it is there
GIB = 1 << 30


@dataclass(frozen=True)
class Shard:
    """One file. records: its pairs; bytes, sha256: of the whole file."""

    name: str
    records: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        """Raises ValueError for what no shard has: an index may say anything."""
        if not (type(self.records) is int and 0 < self.records < MOST_RECORDS):
            raise ValueError(f"records {self.records!r:.30}")
        if not (type(self.bytes) is int and 0 < self.bytes < 2**50):
            raise ValueError(f"bytes {self.bytes!r:.30}")
        if not (isinstance(self.sha256, str) and re.fullmatch("[0-9a-f]{64}", self.sha256)):
            raise ValueError(f"sha256 {self.sha256!r:.30}")


def default_cache_folder() -> Path:
    """Returns a folder below $XDG_CACHE_HOME, or below the system's temporary folder, one for each user."""
    given = os.environ.get("XDG_CACHE_HOME")
    return Path(given) / "volta-switch" if given else Path(tempfile.gettempdir()) / f"volta-switch-{os.getuid()}"


@dataclass(frozen=True)
class ShardCache:
    """A folder of at most ``limit`` bytes; who fetches a shard removes those that were opened longest ago."""

    folder: Path
    limit: int

    def opened(self, address: str, shard: Shard) -> memoryview:
        """Returns a shard's bytes, fetched where they are not there. Raises ShardError where they cannot be had."""
        path = self._path(shard)
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):  # another process has removed it
                if not _whole(path, shard):
                    self._fetch(address, shard)
                os.utime(path)
                return mapped(path)
        raise ShardError(
            f"{self.folder}: shards are removed as soon as they are there; give a larger --shard_cache_gib"
        )

    def holds(self, shard: Shard) -> bool:
        """Whether a shard is there."""
        return _whole(self._path(shard), shard)

    def forget(self, shard: Shard) -> None:
        """Removes a shard, to fetch it anew."""
        self._path(shard).unlink(missing_ok=True)

    def _path(self, shard: Shard, suffix: str = _WHOLE) -> Path:
        return self.folder / f"{shard.sha256}{suffix}"

    def _fetch(self, address: str, shard: Shard) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _locked(_lock_of(self._path(shard))):
                if _whole(self._path(shard), shard):  # another process was faster
                    return
                part = self._path(shard, _PART)
                try:
                    self._make_room(shard, part)
                    self._fetch_twice(address, shard, part)
                    part.replace(self._path(shard))
                finally:
                    part.unlink(missing_ok=True)
        except OSError as error:
            raise ShardError(
                f"{self.folder}: cannot be written ({error.strerror}); make room, or give another --shard_cache"
            ) from None

    @staticmethod
    def _fetch_twice(address: str, shard: Shard, part: Path) -> None:
        for last in (False, True):
            with part.open("r+b") as file:
                try:
                    fetch_shard(address, shard, file)
                    return
                except Damaged:
                    if last:
                        raise ShardError(
                            f"{address}: damaged, its checksum is not that of the index; copy the shard again, or "
                            "write the shards again"
                        ) from None

    def _make_room(self, shard: Shard, part: Path) -> None:
        """Makes a file of the shard's size, and before it room, in the folder's limit."""
        with _locked(self.folder / "room.lock"):
            part.unlink(missing_ok=True)  # of a process that was killed
            files = sorted(_files(self.folder))
            total = sum(size for _, size, _ in files) + shard.bytes
            for _, size, path in files:
                if total <= self.limit:
                    break
                if path.suffix == _WHOLE or _abandoned(path):
                    path.unlink(missing_ok=True)
                    total -= size
            with part.open("wb") as file:
                file.truncate(shard.bytes)


def mapped(path: Path) -> memoryview:
    """Returns a file's bytes, read where they are looked at."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _whole(path: Path, shard: Shard) -> bool:
    """Whether a shard is there: it gets its name only with the right bytes."""
    try:
        return path.stat().st_size == shard.bytes
    except OSError:  # what else is wrong with the folder shows when it is written to
        return False


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Goes through the shards: when each was opened last, its size and its path."""
    for path in folder.iterdir():
        if path.suffix in (_WHOLE, _PART):
            with suppress(FileNotFoundError):
                stat = path.stat()
                yield stat.st_mtime, stat.st_size, path


def _lock_of(path: Path) -> Path:
    """Returns the lock of a shard; one for several, so that there is an end to them."""
    return path.with_name(f"{path.stem[:2]}.lock")


def _abandoned(part: Path) -> bool:
    """Whether nobody is writing a shard any more."""
    with _lock_of(part).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(lock, fcntl.LOCK_UN)
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:  # closing is not enough where a process was forked meanwhile
            fcntl.flock(lock, fcntl.LOCK_UN)


class ShardError(UserError):
    """A shard cannot be had.

    PyTorch's loader makes the error of a worker anew from its traceback: the message is the last line of it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rstrip().rsplit(f"{type(self).__name__}: ", 1)[-1])


class Damaged(Exception):
    """What was fetched is not what its index says."""


def fetch_index(address: str) -> bytes:
    """Returns a small file; raises ShardError."""
    return _fetch(address, lambda stream: stream.read())


def fetch_shard(address: str, shard: Shard, file: BinaryIO) -> None:
    """Writes a shard to a file. Raises ShardError where it cannot be had, Damaged where it is another file."""

    def take(stream: Any) -> None:
        digest, size = hashlib.sha256(), 0
        file.seek(0)
        while size <= shard.bytes and (piece := stream.read(_PIECE)):
            digest.update(piece)
            size += len(piece)
            _write(file, piece if size <= shard.bytes else b"")
        if size < shard.bytes:
            raise ConnectionError(f"it ended after {size} of {shard.bytes} bytes")
        if size > shard.bytes or digest.hexdigest() != shard.sha256:
            raise Damaged
        _write(file, b"", flush=True)

    _fetch(address, take)


def _write(file: BinaryIO, data: bytes, flush: bool = False) -> None:
    """Writes to the cache; the network is not to blame for its errors."""
    try:
        file.write(data)
        if flush:
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ShardError(
            f"{Path(file.name).parent}: a shard cannot be kept there ({error.strerror}); make room, or give another "
            "--shard_cache"
        ) from None


def _fetch(address: str, take: Callable[[Any], T]) -> T:
    """Returns what ``take`` makes of what an address gives."""
    for pause in [*PAUSES, None]:
        try:
            with _opened(address) as stream:
                return take(stream)
        except (OSError, http.client.HTTPException) as error:
            if pause is None or _final(error):
                tries = "" if _final(error) else f" in {len(PAUSES) + 1} tries"
                raise ShardError(
                    f"{address}: cannot be fetched{tries} ({error or type(error).__name__}); check the address and "
                    "the connection, then give the same command again"
                ) from None
            time.sleep(pause)
    raise AssertionError  # the last try returns or raises


def _final(error: Exception) -> bool:
    """Whether trying again is of no use: nothing is there, or no program that could fetch it."""
    if isinstance(error, urllib.error.HTTPError):
        return 400 <= error.code < 500 and error.code not in _PASSING
    return isinstance(error, FileNotFoundError)


def _opened(address: str) -> AbstractContextManager[Any]:
    """Opens an address for reading."""
    scheme = address.split(":", 1)[0].lower()
    if scheme in ("http", "https"):
        return urllib.request.urlopen(address, timeout=_SILENCE)
    try:
        webdataset = importlib.import_module("webdataset.gopen")
    except ImportError:
        raise ShardError(f"{address}: needs webdataset; pip install 'volta-switch[stream]'") from None
    if scheme == "s3" and "s3" not in webdataset.gopen_schemes:  # webdataset leaves it to others
        return webdataset.Pipe(["aws", "s3", "cp", address, "-"], mode="rb")
    if scheme in ("pipe", "file") or scheme not in webdataset.gopen_schemes:
        raise ShardError(
            f"{address}: no way to fetch {scheme}: addresses; expected https, http, s3, gs, hf or a folder"
        )
    return webdataset.gopen(address, "rb")
