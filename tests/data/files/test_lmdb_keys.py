"""Listing the keys of LMDB files of others: as LMDB lists them, and never led astray by damaged pages."""

from __future__ import annotations

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruption import CASES, corrupted, refused_or, replace
from volta_switch.data.files.lmdb_environment import writing
from volta_switch.data.files.lmdb_pages import LmdbPages

KEYS = [f"{kind}{number:05d}".encode() for kind in ("a", "i", "r") for number in range(700)] + [b"j", b"\xff\xff"]


def write(path, keys, size: int = 8) -> None:
    with writing(path, directory=False) as put:
        for key in keys:
            put(key, b"x" * size)


@pytest.mark.parametrize("prefix", [b"", b"i", b"i0031", b"r00699", b"a", b"j", b"\xff", b"z", b"i00700", b"\0"])
def test_keys_are_those_that_lmdb_lists(tmp_path, prefix) -> None:
    write(tmp_path / "x", KEYS)
    with lmdb.open(str(tmp_path / "x"), subdir=False, lock=False).begin() as transaction:
        listed = [key for key, _ in transaction.cursor() if key.startswith(prefix)]
    assert list(LmdbPages(tmp_path / "x", "records").keys(prefix)) == listed


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_keys_are_listed(tmp_path, count) -> None:
    write(tmp_path / "x", KEYS[:count], size=9000)
    assert list(LmdbPages(tmp_path / "x", "records").keys()) == KEYS[:count]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("lmdb") / "x"
    write(path, KEYS[::7])
    return path.read_bytes()


@CASES
@given(data=st.data())
def test_damaged_pages_end_in_one_line_or_in_keys(tmp_path, whole, data) -> None:
    replace(tmp_path / "x", data.draw(corrupted(whole)))
    keys = refused_or(tmp_path / "x", lambda: list(LmdbPages(tmp_path / "x", "records").keys()))
    assert keys is None or len(keys) <= 100 * len(KEYS)
