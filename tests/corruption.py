"""Corrupting files for tests, and what may come of reading them: data that hold together, or an error in one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from suites import is_included
from volta_switch.data.feature_files import open_features
from volta_switch.data.files.stores import FeatureStore
from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord, UserError

CASES = settings(
    max_examples=500 if is_included("long") else 100,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # a failing case is small already
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
SOME_BYTES = given(  # changes: place as a share of the file, and value; kept: share of the file
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    kept=st.one_of(st.just(1.0), st.floats(0, 1)),
)
_MOST = 50  # records
_BYTES = st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), st.integers(0, 255))


@lru_cache(2)
def _said(whole: bytes) -> list[int]:
    """The places of bytes that are not 0, and a few others: most of a file of pages is empty."""
    return [place for place, byte in enumerate(whole) if byte or place % 50 == 0]


@st.composite
def corrupted(draw: st.DrawFn, whole: bytes) -> bytes:
    """Returns bytes with one to three changes: overwritten, cut out, put in, moved, or cut off at the end."""
    said = _said(whole)
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        place = min(draw(st.integers(0, len(said) - 1).map(said.__getitem__)), max(len(data) - 1, 0))
        length = draw(st.one_of(st.integers(1, 8), st.integers(1, 600)))
        match draw(
            st.sampled_from(["overwrite", "overwrite", "overwrite", "flip", "cut out", "put in", "move", "end"])
        ):
            case "overwrite":
                data[place : place + 1] = bytes([draw(_BYTES)])
            case "flip" if data:
                data[place] ^= 1 << draw(st.integers(0, 7))
            case "cut out":
                del data[place : place + length]
            case "put in":
                data[place:place] = draw(st.binary(max_size=16)) or bytes([draw(_BYTES)]) * length
            case "move":
                source = draw(st.integers(0, len(whole) - 1))
                data[place : place + length] = whole[source : source + length]
            case "end":
                del data[place:]
    return bytes(data)


def replace(path: Path, data: bytes) -> None:
    """Put another file in a file's place, so that who has the old one open keeps it."""
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    os.replace(new, path)


def holds(regions: Regions, detections: bool = True) -> bool:
    """Whether regions hold together in shapes, types and values; without detections, as far as every model reads."""
    regions.check()
    assert regions.features.dtype in (np.float32, np.float16) and regions.boxes.dtype == np.float32
    assert isinstance(regions.image_id, str) and type(regions.image_w) is type(regions.image_h) is int
    for scores in (regions.cls_prob, regions.attr_scores):
        assert scores is None or (len(scores.shape) == 2 and len(scores) == len(regions))
    regions.copied()  # reads every byte
    return True


def refused_or(path: Path, read: Callable[[], Any]) -> Any:
    """Returns what a reader reads; None where it refuses the file at ``path`` as it should."""
    try:
        return read()
    except UserError as error:
        message = str(error)
        assert len(message.splitlines()) == 1 and str(path) in message and len(message) < 2000, message
        return None


def read_all(path: Path, open_: Callable[[], Any], detections: bool = True) -> int:
    """Read a store's or a file's every record; return how many of them could be read."""
    file = refused_or(path, open_)
    if file is None:
        return 0
    keys = refused_or(path, file.keys) if hasattr(file, "keys") else range(min(len(file), _MOST))
    count = 0
    for key in (keys or [])[:_MOST]:
        record = refused_or(path, lambda key=key: file[key])
        if record is not None:
            count += holds(record[0] if isinstance(record, tuple) else record, detections)
    return count


def read_with_changes(path: Path, whole: bytes, changes: list[tuple[float, int]], kept: float) -> FeatureStore | None:
    """Read a feature file after SOME_BYTES were changed: every image holds together or gives one clear error.

    Returns the store, None where it cannot be opened, which gives one clear error, too.
    """
    content = bytearray(whole)
    for place, value in changes:
        content[int(place * len(content))] = value
    path.write_bytes(content[: int(kept * len(content))])
    try:
        store = open_features(path, detections=True)
    except UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None
    for key in store:
        try:
            store[key].check()
        except BadRecord as error:
            assert "\n" not in str(error) and str(path) in str(error)
    return store
