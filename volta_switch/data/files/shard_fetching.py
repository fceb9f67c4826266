"""Fetching files from where addresses point: tried again where the network fails, one line where it stays so."""

from __future__ import annotations

import hashlib
import http.client
import importlib
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from volta_switch.data.files.shard_index import Shard
from volta_switch.errors import UserError

T = TypeVar("T")
PAUSES = [1.0, 2.0, 4.0, 8.0]  # seconds between two tries
_SILENCE = 60  # seconds without a byte, after which a server is taken for gone
_PIECE = 1 << 20  # bytes read at once
_PASSING = (408, 425, 429)  # of the answers 400 to 499 those that may be others next time


class ShardError(UserError):
    """A shard cannot be had.

    PyTorch's loader makes the error of a worker anew from its traceback: the message is the last line of it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rstrip().rsplit(f"{type(self).__name__}: ", 1)[-1])


class Damaged(Exception):
    """What was fetched is not what its index says."""


def fetch_index(address: str) -> bytes:
    """Return a small file; raises ShardError."""
    return _fetch(address, lambda stream: stream.read())


def fetch_shard(address: str, shard: Shard, file: BinaryIO) -> None:
    """Write a shard to a file. Raises ShardError where it cannot be had, Damaged where it is another file."""

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
    """Write to the cache; the network is not to blame for its errors."""
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
    """Return what `take` makes of what an address gives."""
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
    """Open an address for reading."""
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
