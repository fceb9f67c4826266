"""Writing shards: what other readers find in them, the same bytes every time, runs that are killed, what is refused."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset

from kill_points import killed_at
from small_regions import same, some_regions
from stored_records import Stopped, images, stop_after
from volta_switch.checksums import SUMS
from volta_switch.cli import main
from volta_switch.data.files.compact_record import RecordCodec, RecordLayout
from volta_switch.data.formats.compact import CompactPairs
from volta_switch.data.formats.concap import write_concap
from volta_switch.data.formats.shards import ShardPairs, open_shards, record_places
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.formats.tsv import write_tsv
from volta_switch.data_tools import packing
from volta_switch.data_tools import repack as repacking
from volta_switch.data_tools.check import check_features
from volta_switch.data_tools.repack import repack, shard
from volta_switch.errors import BadRecord, UserError

PAIRS = [(some_regions(str(100 + i), i, 1 + i % 5, 64), f"a dog, ünd {i}") for i in range(40)]
SIZE = 10_000  # bytes, for some ten shards


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "training_feat_all.lmdb"
    write_concap(path, PAIRS)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def refused(*args, **options) -> str:
    with pytest.raises(UserError) as caught:
        shard(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    shard([source], out, "train", shard_size=SIZE)
    return out / "training"


def test_webdatasets_own_reader_finds_every_pair(whole) -> None:
    index = json.loads((whole / "index.json").read_text())
    codec = RecordCodec(RecordLayout(**index["layout"]))
    urls = [str(whole / entry["name"]) for entry in index["shards"]]
    found = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode())
    assert len(urls) > 5 and [sample["__key__"] for sample in found] == [f"{i:08d}" for i in range(40)]
    for sample, (regions, caption) in zip(found, PAIRS, strict=True):
        mine, own = codec.decode(sample["record"], int(sample["__key__"]))
        assert sample["txt"] == own == caption and mine.image_id == regions.image_id


def test_pairs_are_those_of_a_compact_store(source, whole, tmp_path) -> None:
    repack([source], tmp_path / "store")
    store, shards = CompactPairs(tmp_path / "store"), ShardPairs(whole)
    assert len(shards) == len(store) == 40 == shards.blocks.sum() and shards.layout == store.layout
    for index in range(40):
        (mine, caption), (theirs, other) = shards[index], store[index]
        assert caption == other == PAIRS[index][1]
        for name, array in theirs.arrays().items():
            if name in ("cls_prob", "attr_scores"):
                assert np.array_equal(getattr(mine, name).dense(), array.dense())
        plain = {"cls_prob": None, "attr_scores": None}
        assert same(replace(mine, **plain), replace(theirs, **plain))
    with pytest.raises(IndexError):
        shards[40]


def test_the_index_says_what_the_shards_are(source, whole) -> None:
    index = json.loads((whole / "index.json").read_text())
    assert index["kind"] == "pairs" and index["split"] == "training" and index["records"] == 40
    assert index["sources"][0]["name"] == source.name and index["losses"]["feature_error_max"] > 0
    assert index["options"] == {
        "dtype": "float16",
        "top_classes": 100,
        "top_attributes": 16,
        "split": "training",
        "shard_size": SIZE,
    }
    for number, entry in enumerate(index["shards"]):
        content = (whole / entry["name"]).read_bytes()
        assert entry["name"] == f"shard-{number:06d}.tar" and entry["bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    sizes = [entry["bytes"] for entry in index["shards"]]
    assert all(SIZE <= size < SIZE + 20_000 for size in sizes[:-1])  # one pair more, and a tar file's end
    assert sorted(files(whole)) == ["index.json", *(entry["name"] for entry in index["shards"]), SUMS]


def test_the_bytes_say_nothing_of_when_and_who(source, whole, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("time.time", lambda: 5e8)
    shard([source], tmp_path, "train", shard_size=SIZE)
    assert files(tmp_path / "training") == files(whole)
    with tarfile.open(whole / "shard-000000.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


def test_shards_come_from_every_source_of_pairs(source, whole, tmp_path) -> None:
    repack([source], tmp_path / "store", dtype="float32", top_classes=7)
    shard([tmp_path / "store"], tmp_path, "train", shard_size=SIZE)
    both = shard([source, whole], tmp_path / "both", "valid")
    assert both["records"] == 80 and [entry["format"] for entry in both["sources"]] == ["concap", "shards"]
    named = {name: content for name, content in files(tmp_path / "training").items() if name.endswith(".tar")}
    assert named == {name: content for name, content in files(whole).items() if name.endswith(".tar")}
    again = tmp_path / "again"
    repack([whole], again)  # and back
    assert CompactPairs(again)[7][1] == PAIRS[7][1]


def test_images_without_captions_are_refused(source, tmp_path) -> None:
    write_tsv(tmp_path / "x.tsv", images())
    assert refused([tmp_path / "x.tsv"], tmp_path, "train") == (
        f"{tmp_path / 'x.tsv'}: holds images of a task, shards hold image-caption pairs; add captions first "
        "(volta-switch data convert --to concap --captions FILE)"
    )
    write_features(tmp_path / "y", images())
    assert "repack them into two stores" in refused([tmp_path / "y", source], tmp_path, "train")


def test_bad_records_are_left_out_and_named(tmp_path, capfd) -> None:
    corrupted = [PAIRS[0], (replace(PAIRS[1][0], features=PAIRS[1][0].features * np.nan), "nan"), *PAIRS[2:10]]
    write_concap(tmp_path / "p.lmdb", corrupted)
    assert "features hold numbers that are not finite" in refused([tmp_path / "p.lmdb"], tmp_path, "train")
    index = shard([tmp_path / "p.lmdb"], tmp_path, "train", max_bad_records=1, shard_size=1)
    assert index["records"] == 9 and len(index["passed_over"]) == 1 and len(index["shards"]) == 9
    assert [ShardPairs(tmp_path / "training")[i][0].image_id for i in range(3)] == ["100", "102", "103"]


# Runs that end early


def test_a_finished_set_is_left_as_it_is_and_another_is_refused(source, whole) -> None:
    times = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    assert shard([source], whole.parent, "train", shard_size=SIZE)["records"] == 40
    assert {path: path.stat().st_mtime_ns for path in times} == times
    message = refused([source], whole.parent, "train", shard_size=SIZE + 1)
    assert message == (
        f"{whole}: a set of shards of other inputs or options (shard_size was {SIZE}, now it is {SIZE + 1}); "
        "give another OUT"
    )


def test_an_unfinished_set_of_other_options_is_refused(source, tmp_path) -> None:
    with pytest.raises(Stopped):
        shard([source], tmp_path, "train", shard_size=SIZE, progress=stop_after(2))
    assert "(dtype was float16, now it is float32)" in refused(
        [source], tmp_path, "train", shard_size=SIZE, dtype="float32"
    )
    unfinished = tmp_path / "training.unfinished"
    (unfinished / "shard-000000.tar").write_bytes(b"short")
    message = refused([source], tmp_path, "train", shard_size=SIZE)
    assert message.startswith(f"{unfinished}: not an unfinished set of shards (shard-000000.tar has another size)")
    for content in (b"{", b"[]", b'{"format": "x"}', b"\xff"):
        (unfinished / "index.json").write_bytes(content)
        assert "delete it to start anew" in refused([source], tmp_path, "train", shard_size=SIZE)


POINTS = [
    (repacking, "write_json", 1, "before"),  # the first shard is whole, and nothing says so
    (repacking, "write_json", 3, "after"),
    (repacking._Hashed, "write", 2, "after"),  # inside the first shard
    (repacking._Hashed, "write", 9, "after"),  # inside a later one
    (os, "fsync", 3, "before"),  # before a shard is on the disk
    (Path, "chmod", 5, "before"),  # before it has its name
    (packing, "write_json", 1, "before"),  # before the index
    (packing, "write_json", 1, "after"),  # between the index and the folder's name
    (packing.os, "replace", 1, "after"),  # everything is done, but for the lock
]


@pytest.mark.parametrize(("owner", "name", "call", "when"), POINTS)
def test_killed_at_any_point_the_same_call_goes_on(source, whole, tmp_path, owner, name, call, when) -> None:
    def run(dies: bool) -> None:
        if dies:
            killed_at(owner, name, call, when)
        shard([source], tmp_path, "train", shard_size=SIZE)

    for dies, code in ((True, -signal.SIGKILL), (False, 0)):
        process = multiprocessing.get_context("fork").Process(target=run, args=(dies,))
        process.start()
        process.join(60)
        assert process.exitcode == code
    assert files(tmp_path / "training") == files(whole) and [path.name for path in tmp_path.iterdir()] == ["training"]


def test_going_on_writes_no_whole_shard_again(source, whole, tmp_path) -> None:
    with pytest.raises(Stopped):
        shard([source], tmp_path, "train", shard_size=SIZE, progress=stop_after(3))
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "training.unfinished").glob("*.tar")}
    shard([source], tmp_path, "train", shard_size=SIZE)
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "training").glob("*.tar")}
    assert len(before) == 3 and before.items() <= after.items() and files(tmp_path / "training") == files(whole)


# The command line, and damaged shards


def test_the_command_writes_and_check_reads(source, tmp_path, capsys) -> None:
    argv = ["data", "shard", str(source), str(tmp_path), "--split", "validation", "--shard-size", "1"]
    main(argv)
    assert f"{tmp_path / 'validation'}: 40 records, 120 regions, 1 shards" in capsys.readouterr().out
    main(argv)
    assert "it was there already; nothing was written" in capsys.readouterr().out
    main(["data", "check", str(tmp_path)])
    out = capsys.readouterr().out
    assert "WebDataset shards, image-caption pairs" in out and "shards 1" in out and "all fine" in out
    assert len(open_shards(tmp_path, "valid")) == 40
    (tmp_path / "training").symlink_to(tmp_path / "validation")
    with pytest.raises(UserError, match="these pairs are for validation; copy those for training there"):
        open_shards(tmp_path, "train")


def copy(whole: Path, to: Path) -> Path:
    to.mkdir()
    for path in whole.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_check_says_which_shards_are_damaged(whole, tmp_path) -> None:
    folder = copy(whole, tmp_path / "training")
    assert check_features(folder).fine
    flipped = bytearray((folder / "shard-000001.tar").read_bytes())
    flipped[1500] ^= 1
    (folder / "shard-000001.tar").write_bytes(flipped)
    (folder / "shard-000002.tar").unlink()
    (folder / "shard-000003.tar").write_bytes(flipped[:700])
    report = check_features(folder)
    assert [problem.split(":")[0].rsplit("/")[-1] for problem in report.problems] == [
        "shard-000001.tar",
        "shard-000002.tar",
        "shard-000003.tar",
    ]
    assert "its checksum is not that of the index" in report.problems[0]
    assert len(check_features(folder, sample=5).problems) == 2  # a sample reads no checksums


RNG = np.random.default_rng(1)
CHANGES = [(RNG.random(), int(RNG.integers(256)), RNG.random()) for _ in range(150)]


def test_a_damaged_shard_or_index_is_refused_in_one_line_and_nothing_is_unpickled(whole, tmp_path, monkeypatch) -> None:
    def unpickled(*args):
        raise AssertionError("a pickle was read")

    monkeypatch.setattr("pickle.loads", unpickled)
    monkeypatch.setattr("pickle.load", unpickled)
    folder = copy(whole, tmp_path / "training")
    contents = files(whole)
    refusals = 0
    for number, (place, value, kept) in enumerate(CHANGES):
        name = "index.json" if number % 2 else "shard-000001.tar"
        content = bytearray(contents[name])
        content[int(place * (len(content) if number % 4 < 2 else 600))] = value
        (folder / name).write_bytes(content if number % 3 else content[: int(kept * len(content))])
        try:
            pairs = ShardPairs(folder)
        except UserError as error:
            assert str(folder / "index.json") in str(error) and len(str(error)) < 500
            refusals += 1
            (folder / name).write_bytes(contents[name])
            continue
        for index in range(len(pairs)):
            try:
                pairs[index][0].copied()
            except (BadRecord, UserError) as error:
                assert str(folder) in str(error) and "\n" not in str(error)
                refusals += 1
        (folder / name).write_bytes(contents[name])
    assert refusals > 50


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"format": "x"}, "format is 'x', expected 'volta_switch shards 1'"),
        ({"split": "test"}, "incomplete (split or kind)"),
        ({"records": 41}, "incomplete (records)"),
        ({"shards": []}, "incomplete (records)"),
        ({"layout": {}}, "incomplete ("),
        ({"shards": [{"name": "../../x", "records": 40, "bytes": 9, "sha256": "0" * 64}]}, "(names of shards)"),
        ({"shards": [{"name": "shard-000000.tar", "records": 40, "bytes": -1, "sha256": "0" * 64}]}, "bytes -1"),
        ({"shards": [{"name": "shard-000000.tar", "records": 40, "bytes": 1, "sha256": "../x"}]}, "sha256 '../x'"),
    ],
)
def test_an_index_that_does_not_hold_together_is_refused(whole, tmp_path, change, what) -> None:
    index = json.loads((whole / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(index | change))
    with pytest.raises(UserError) as caught:
        ShardPairs(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'index.json'}: ") and what in str(caught.value)


def test_a_shard_with_more_pairs_than_the_index_says_is_refused(whole) -> None:
    data = memoryview((whole / "shard-000000.tar").read_bytes())
    records = ShardPairs(whole).index.shards[0].records
    assert len(record_places(data, 0, records)) == records
    with pytest.raises(ValueError, match=f"bytes after its {records - 1} pairs"):
        record_places(data, 0, records - 1)
