"""Shards that were fetched, in a folder that all processes of a machine share.

A shard lies under its checksum: shards of several data sets can share a folder, and one that was written anew is
another file. Who fetches a shard has the lock of its name; who needs it meanwhile waits. A shard that is removed stays
readable to the processes that have it open.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from volta_switch.data.files.shard_fetching import Damaged, ShardError, fetch_shard
from volta_switch.data.files.shard_index import Shard

_WHOLE, _PART = ".tar", ".part"
_TRIES = 10  # to open a shard that others may remove as soon as it is there
GIB = 1 << 30


def default_cache_folder() -> Path:
    """Return a folder below $XDG_CACHE_HOME, or below the system's temporary folder, one for each user."""
    given = os.environ.get("XDG_CACHE_HOME")
    return Path(given) / "volta-switch" if given else Path(tempfile.gettempdir()) / f"volta-switch-{os.getuid()}"


@dataclass(frozen=True)
class ShardCache:
    """A folder of at most `limit` bytes; who fetches a shard removes those that were opened longest ago."""

    folder: Path
    limit: int

    def opened(self, address: str, shard: Shard) -> memoryview:
        """Return a shard's bytes, fetched where they are not there. Raises ShardError where they cannot be had."""
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
        """Remove a shard, to fetch it anew."""
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
        """Make a file of the shard's size, and before it room, in the folder's limit."""
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
    """Return a file's bytes, read where they are looked at."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _whole(path: Path, shard: Shard) -> bool:
    """Whether a shard is there: it gets its name only with the right bytes."""
    try:
        return path.stat().st_size == shard.bytes
    except OSError:  # what else is wrong with the folder shows when it is written to
        return False


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Go through the shards: when each was opened last, its size and its path."""
    for path in folder.iterdir():
        if path.suffix in (_WHOLE, _PART):
            with suppress(FileNotFoundError):
                stat = path.stat()
                yield stat.st_mtime, stat.st_size, path


def _lock_of(path: Path) -> Path:
    """Return the lock of a shard; one for several, so that there is an end to them."""
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
