"""Files of Conceptual Captions change hands with tensorpack's LMDBSerializer, which VOLTA uses for them."""

from __future__ import annotations

import os
from dataclasses import replace

import lmdb
import numpy as np
import pytest

from small_regions import same, some_regions
from volta_switch.data.files.compact_record import top_scores
from volta_switch.data.formats.concap import ConcapFile, write_concap

os.environ["TENSORPACK_SERIALIZE"] = "msgpack"  # read when tensorpack is imported; its default is pickle since 0.9.9
dataflow = pytest.importorskip("tensorpack.dataflow")
serialize = pytest.importorskip("tensorpack.utils.serialize")

NUMPY_MSGPACK = True  # tensorpack cannot do without
FIELDS = (
    *("features", "cls_prob", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "attr_scores", "boxes"),
    *("num_boxes", "image_h", "image_w", "image_id", "caption"),
)
TEXTS = ["a dog near a tree", "", "Ümläute, “quotes” and 猫"]


@pytest.fixture
def pairs():
    counts = (36, 1, 5)  # VOLTA's own number of regions, and others
    return [(some_regions(str(10 * i), i, count, width=8), TEXTS[i]) for i, count in enumerate(counts)]


def read_by_tensorpack(path) -> list[dict]:
    assert serialize.loads is serialize.MsgpackSerializer.loads
    flow = dataflow.LMDBSerializer.load(str(path), shuffle=False)
    flow.reset_state()
    return [dict(zip(FIELDS, record, strict=True)) for record in flow]


def entries(path) -> dict[bytes, bytes]:
    with lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False) as env, env.begin() as transaction:
        return dict(transaction.cursor())


def test_tensorpack_reads_what_we_wrote(tmp_path, pairs) -> None:
    write_concap(tmp_path / "ours.lmdb", pairs)
    records = read_by_tensorpack(tmp_path / "ours.lmdb")
    assert len(records) == len(pairs)
    for record, (regions, caption) in zip(records, pairs, strict=True):
        for name in FIELDS[:8]:
            expected = getattr(regions, name)
            assert record[name].dtype == expected.dtype and np.array_equal(record[name], expected), name
        strings = (str(len(regions)), str(regions.image_h), str(regions.image_w), regions.image_id, caption)
        assert tuple(record[name] for name in FIELDS[8:]) == strings


@pytest.mark.parametrize("directory", [False, True])
def test_we_read_what_tensorpack_wrote_and_write_the_same_bytes(tmp_path, pairs, directory) -> None:
    write_concap(tmp_path / "ours.lmdb", pairs)
    theirs = tmp_path / "theirs.lmdb"
    if directory:
        theirs.mkdir()
    records = [list(record.values()) for record in read_by_tensorpack(tmp_path / "ours.lmdb")]
    dataflow.LMDBSerializer.save(dataflow.DataFromList(records, shuffle=False), str(theirs))
    file = ConcapFile(theirs)
    assert len(file) == len(pairs)
    for (found, text), (regions, caption) in zip(map(file.__getitem__, range(len(file))), pairs, strict=True):
        assert same(found, regions) and text == caption
    (tmp_path / "copies").mkdir()
    write_concap(tmp_path / "copies" / "again.lmdb", (file[index] for index in range(len(file))))
    assert entries(tmp_path / "copies" / "again.lmdb") == entries(theirs)


def test_tensorpack_reads_what_was_in_a_compact_store(tmp_path, pairs) -> None:
    """Half-precision features and the highest scores become full arrays again."""
    halves = [
        (
            replace(one, features=one.features.astype(np.float16), cls_prob=top_scores(one.cls_prob, 3, "float16")),
            caption,
        )
        for one, caption in pairs
    ]
    write_concap(tmp_path / "ours.lmdb", halves)
    for record, (regions, _) in zip(read_by_tensorpack(tmp_path / "ours.lmdb"), halves, strict=True):
        assert record["features"].dtype == np.float32 and np.array_equal(record["features"], regions.features)
        assert np.array_equal(record["cls_prob"], regions.cls_prob.dense())
