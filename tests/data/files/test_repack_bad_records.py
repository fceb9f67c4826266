"""Repacking where records cannot be used, or the disk is full."""

from __future__ import annotations

import json
import resource
from dataclasses import replace

import numpy as np
import pytest

from stored_records import Stopped, content, images, refused, stop_after
from volta_switch.cli import main
from volta_switch.data.formats.compact import CompactFeatures, CompactPairs
from volta_switch.data.formats.concap import write_concap
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.regions import Regions
from volta_switch.data_tools import packing
from volta_switch.data_tools.check import check_features
from volta_switch.data_tools.repack import repack


@pytest.fixture
def source(tmp_path):
    write_features(tmp_path / "a_feat.lmdb", images())
    return tmp_path / "a_feat.lmdb"


def test_a_full_disk_is_named_and_the_same_command_goes_on(tmp_path, capfd) -> None:
    write_features(tmp_path / "source", images(600, width=64))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # as a full disk, writing fails in the middle
    try:
        message = refused([tmp_path / "source"], tmp_path / "store")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert message.startswith(f"{tmp_path / 'store.unfinished' / 'data.mdb'}: cannot be written (")
    assert "make room on the disk" in message and not (tmp_path / "store").exists()
    steps = []
    repack([tmp_path / "source"], tmp_path / "store", progress=lambda done, total: steps.append(done))
    assert steps[0] > 128 and steps[-1] == 600  # not from the start
    repack([tmp_path / "source"], tmp_path / "whole")
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_no_room_for_the_manifest_is_named(source, tmp_path, monkeypatch) -> None:
    def full(path, value):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(packing, "write_json", full)
        message = refused([source], tmp_path / "store")
    assert message.startswith(f"{tmp_path / 'store.unfinished' / 'manifest.json'}: cannot be written (No space left")
    assert repack([source], tmp_path / "store")["records"] == 4


def corrupted(places: dict[int, str], count: int = 300) -> list[Regions]:
    """Images of which some cannot be used."""
    result = images(count)
    for place, how in places.items():
        features = result[place].features.copy()
        features[0, 0] = {"nan": np.nan, "large": 1e5}.get(how, 1)
        width = {"features": np.ones((len(features), 9), np.float32)} if how == "wide" else {"features": features}
        result[place] = replace(result[place], **width)
    return result


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan", "features hold numbers that are not finite; extract its features again"),
        ("large", "features reach 100000, float16 ends at 65504; take --dtype float32"),
        ("wide", "feature_size is 9, but 6 in the records before it; a store holds one detector's"),
    ],
)
@pytest.mark.parametrize("place", [0, 5, 299])
def test_a_bad_record_is_named(tmp_path, how, message, place) -> None:
    if how == "wide" and place == 0:
        place = 1  # the first one says what the others must be like
    write_features(tmp_path / "source", corrupted({place: how}))
    told = refused([tmp_path / "source"], tmp_path / "store")
    assert f"image '{100 + place}'" in told and message in told
    assert told.endswith("; --max-bad-records N passes over N such records") and not (tmp_path / "store").exists()


def test_bad_pairs_are_named_by_their_place(tmp_path) -> None:
    bad = [(image, "a dog") for image in corrupted({2: "nan"}, 4)]
    write_concap(tmp_path / "p.lmdb", bad)
    assert "p.lmdb: record b'00000002' is not a list" in refused([tmp_path / "p.lmdb"], tmp_path / "store")
    manifest = repack([tmp_path / "p.lmdb"], tmp_path / "store", max_bad_records=1)
    assert manifest["records"] == 3 and CompactPairs(tmp_path / "store")[2][0].image_id == "103"


BAD = {0: "nan", 7: "large", 130: "nan", 131: "wide", 298: "nan", 299: "nan"}  # the first, the last, a block's first


def test_bad_records_are_passed_over_counted_and_named(tmp_path, capsys) -> None:
    write_features(tmp_path / "source", corrupted(BAD))
    out = tmp_path / "store"
    assert main(["data", "repack", str(tmp_path / "source"), str(out), "--max-bad-records", "6"]) is None
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert len(lines) == 6 and lines[5].startswith("bad record passed over (6 of at most 6): ")
    assert all(f"image '{100 + place}'" in line for place, line in zip(BAD, lines, strict=True))
    assert "bad records passed over: 6" in told.out
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["records"] == 294 and [line.split(": ", 1)[1] for line in lines] == manifest["passed_over"]
    assert list(CompactFeatures(out)) == [str(100 + i) for i in range(300) if i not in BAD]
    assert check_features(out).fine


def test_passing_over_survives_an_interruption_and_takes_more_patience_later(tmp_path, capsys) -> None:
    write_features(tmp_path / "source", corrupted(BAD))
    whole = repack([tmp_path / "source"], tmp_path / "whole", max_bad_records=6)
    with pytest.raises(Stopped):
        repack([tmp_path / "source"], tmp_path / "store", max_bad_records=4, progress=stop_after(1))
    message = refused([tmp_path / "source"], tmp_path / "store", max_bad_records=4)
    assert "image '398'" in message and "(4 were passed over before)" in message
    assert repack([tmp_path / "source"], tmp_path / "store", max_bad_records=6) == whole
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_a_file_of_bad_records_alone_makes_no_store(tmp_path) -> None:
    write_features(tmp_path / "source", corrupted({i: "nan" for i in range(3)}, 3))
    message = refused([tmp_path / "source"], tmp_path / "store", max_bad_records=9)
    assert "image '100'" in message and message.endswith("no record can be used")
