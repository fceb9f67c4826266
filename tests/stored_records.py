"""Repacking in tests: what goes in, ends that come early, and all that a compact store holds, to compare two."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from small_regions import some_regions
from volta_switch.data.regions import Regions
from volta_switch.data_tools.repack import repack
from volta_switch.errors import UserError


def content(store: Path) -> tuple[str, str, list[str]]:
    """A compact store's manifest, a checksum of all entries of the data, and the files."""
    digest = hashlib.sha256()
    with lmdb.open(str(store / "data.mdb"), subdir=False, readonly=True, lock=False) as env, env.begin() as transaction:
        for key, value in transaction.cursor():
            digest.update(key + b"\0" + value)
    return (store / "manifest.json").read_text(), digest.hexdigest(), sorted(path.name for path in store.iterdir())


def images(count: int = 4, first: int = 100, width: int = 6) -> list[Regions]:
    """Images 100, 101 and so on, of 1 to 5 regions."""
    return [some_regions(str(first + i), i, 1 + i % 5, width) for i in range(count)]


def refused(inputs: list[Path], out: Path, **options) -> str:
    """The one line with which repacking is refused."""
    with pytest.raises(UserError) as caught:
        repack(inputs, out, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Stopped(Exception):
    """Ends a run from within, as a signal might."""


def stop_after(blocks: int) -> Callable[[int, int], None]:
    """A `progress` that stops the run."""

    def progress(done: int, total: int) -> None:
        nonlocal blocks
        blocks -= 1
        if blocks == 0:
            raise Stopped

    return progress
