"""Single records in which something is wrong, in files that are sound: each is refused by name, or holds together."""

import base64
import json
import pickle

import lmdb
import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corruption import CASES, corrupted, holds, read_all, refused_or
from small_regions import some_regions
from volta_switch.data.files.compact_record import RecordCodec, RecordLayout
from volta_switch.data.files.feature_records import encode_h5, encode_npy, encode_tsv
from volta_switch.data.files.lmdb_pages import LmdbPages
from volta_switch.data.formats.compact import CompactFeatures, CompactPairs, image_key, record_key
from volta_switch.data.formats.concap import ConcapFile, write_concap
from volta_switch.data.formats.task_lmdb import LmdbFeatures
from volta_switch.data.formats.tsv import COLUMNS, TsvFeatures
from volta_switch.data_tools.repack import repack
from volta_switch.errors import BadRecord

IMAGE = some_regions("100", 1, 3)
ENCODE = {"tsv": encode_tsv, "h5": encode_h5, "npy": encode_npy}
ARRAYS = st.sampled_from(
    [np.zeros(0), np.full((3, 4), np.nan), np.full((3, 6), 1e300), np.arange(7), np.array("text"),
     np.array(["a", "b"]),
     np.zeros((3, 2, 2)), np.full(3, -1), np.full(3, 10**9), np.zeros(3, dtype=complex), np.float32(3),
     np.zeros((0, 4)),
     np.zeros((3, 0)), np.zeros(3, dtype=bool), np.array(b"\xff")]
)  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5), st.binary(max_size=9),
    st.sampled_from(["nan", "1e400", "-1", "0", "1_0", "٣", "AAAA", "AAAA" * 16, b"AAAA", b"\xff\xff\xc0\x7f" * 6]),
    st.binary(min_size=12, max_size=72).map(base64.b64encode), st.just([]), st.just({}), st.just([[1.0] * 4] * 3),
    ARRAYS,
)  # fmt: skip


def write(path, records):
    """A file of its own each time, which nobody waits for to reach the disk."""
    path.unlink(missing_ok=True)
    with lmdb.open(str(path), subdir=False, lock=False, sync=False, map_size=2**22) as env, env.begin(write=True) as t:
        for key, value in records.items():
            t.put(key, value)


@pytest.mark.parametrize("variant", ENCODE)
@CASES
@given(data=st.data())
def test_a_feature_record_with_a_wrong_value_is_refused_or_holds_together(tmp_path, variant, data):
    record = ENCODE[variant](IMAGE)
    for name in data.draw(st.lists(st.sampled_from(list(record)), min_size=1, max_size=2)):
        if data.draw(st.booleans()):
            record.pop(name, None)
        else:
            record[name] = data.draw(VALUES)
    whole = (
        data.draw(st.sampled_from([record, [record], None, "text", 3])) if data.draw(st.integers(0, 9)) == 0 else record
    )
    path = tmp_path / "x.lmdb"
    write(path, {b"keys": pickle.dumps([b"100"]), b"100": pickle.dumps(whole)})
    read_all(path, lambda: LmdbFeatures(path, detections=True))
    refused_or(path, lambda: LmdbFeatures(path, feature_size=6)["100"])


@pytest.mark.parametrize("variant", ENCODE)
@CASES
@given(data=st.data())
def test_a_feature_record_with_wrong_bytes_is_refused_or_holds_together(tmp_path, variant, data):
    path = tmp_path / "x.lmdb"
    record = pickle.dumps(ENCODE[variant](IMAGE), protocol=data.draw(st.integers(0, 5)))
    write(path, {b"keys": pickle.dumps([b"100"]), b"100": data.draw(corrupted(record))})
    read_all(path, lambda: LmdbFeatures(path, detections=True))


@CASES
@given(st.data())
def test_a_corrupted_list_of_images_is_refused_or_names_them(tmp_path, data):
    path = tmp_path / "x.lmdb"
    values = st.one_of(VALUES, st.lists(VALUES, max_size=3), st.just([b"100", b"100"]), st.just([b"", b"x" * 600]))
    listed = data.draw(st.one_of(corrupted(pickle.dumps([b"100", b"7"])), values.map(pickle.dumps)))
    write(path, {b"keys": listed, b"100": pickle.dumps(encode_h5(IMAGE))})
    read_all(path, lambda: LmdbFeatures(path, detections=True))


@pytest.fixture(scope="module")
def concap_record(tmp_path_factory):
    path = tmp_path_factory.mktemp("concap") / "x.lmdb"
    write_concap(path, [(IMAGE, "a dog é")])
    return bytes(LmdbPages(path, "x").get(b"00000000"))


@CASES
@given(data=st.data())
def test_a_concap_record_with_wrong_bytes_is_refused_or_holds_together(tmp_path, concap_record, data):
    """The sound record before it leaves its places behind, which the next is read by where they fit."""
    path = tmp_path / "x.lmdb"
    write(path, {b"00000000": concap_record, b"00000001": data.draw(corrupted(concap_record))})
    assert read_all(path, lambda: ConcapFile(path), detections=False) >= 1


@CASES
@given(data=st.data())
def test_a_concap_record_with_a_wrong_value_is_refused_or_holds_together(tmp_path, concap_record, data):
    fields = msgpack.unpackb(concap_record, strict_map_key=False)
    values = VALUES.filter(lambda value: not isinstance(value, np.ndarray | np.generic))
    values = values.filter(lambda value: type(value) is not int or -(2**63) <= value < 2**63)
    place = data.draw(st.integers(0, 12))
    if place < 8 and data.draw(st.booleans()):
        name = data.draw(st.sampled_from(list(fields[place])))
        shapes = st.lists(st.one_of(st.integers(-2, 40), st.sampled_from([2**31, 2**62, 2**63])), max_size=4)
        fields[place][name] = data.draw(st.one_of(values, shapes))
    else:
        fields[place] = data.draw(values)
    path = tmp_path / "x.lmdb"
    write(path, {b"00000000": msgpack.packb(fields)})
    read_all(path, lambda: ConcapFile(path), detections=False)


@CASES
@given(data=st.data())
def test_a_corrupted_list_of_keys_is_refused_or_leads_to_records(tmp_path, concap_record, data):
    keys = st.one_of(
        VALUES.filter(lambda v: isinstance(v, str | bytes | list | dict | None)), st.just([b"5", b"5", b"6"])
    )
    listed = data.draw(st.one_of(corrupted(msgpack.packb([b"5", b"6"])), keys.map(msgpack.packb)))
    path = tmp_path / "x.lmdb"
    write(path, {b"5": concap_record, b"6": concap_record, b"__keys__": listed})
    read_all(path, lambda: ConcapFile(path), detections=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A compact store of one image and one of one pair, and the record of each."""
    path = tmp_path_factory.mktemp("compact")
    write_concap(path / "pairs.lmdb", [(IMAGE, "a dog é")])
    write(path / "images.lmdb", {b"keys": pickle.dumps([b"100"]), b"100": pickle.dumps(encode_h5(IMAGE))})
    for kind in ("pairs", "images"):
        repack([path / f"{kind}.lmdb"], path / kind, top_classes=3, top_attributes=2)
    return path


@pytest.mark.parametrize("kind", ["pairs", "images"])
@CASES
@given(data=st.data())
def test_a_compact_record_with_wrong_bytes_is_refused_or_holds_together(store, tmp_path, kind, data):
    record = bytes(LmdbPages(store / kind, "x").get(record_key(0)))
    places = corrupted((0).to_bytes(8, "big")) if data.draw(st.booleans()) else st.just(bytes(8))
    (tmp_path / "s").mkdir(exist_ok=True)
    (tmp_path / "s" / "manifest.json").write_bytes((store / kind / "manifest.json").read_bytes())
    write(
        tmp_path / "s" / "data.mdb", {record_key(0): data.draw(corrupted(record)), image_key("100"): data.draw(places)}
    )
    if kind == "pairs":
        read_all(tmp_path / "s", lambda: CompactPairs(tmp_path / "s"), detections=False)
        return
    read_all(tmp_path / "s", lambda: CompactFeatures(tmp_path / "s", detections=True))
    features = CompactFeatures(tmp_path / "s", 6)
    regions = refused_or(tmp_path / "s", lambda: features["100"])
    assert regions is None or holds(regions)


@CASES
@given(data=st.data())
def test_a_manifest_with_a_wrong_value_is_refused_or_its_records_hold_together(store, tmp_path, data):
    manifest = json.loads((store / "images" / "manifest.json").read_bytes())
    values = st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5), st.just([]),
        st.just({}), st.sampled_from(["float16", "float32", "pairs", "images", "boxes", "attrs_id,objects_id"]),
        st.integers(0, 9),
    )  # fmt: skip
    holder = data.draw(st.sampled_from([manifest, manifest["layout"]]))
    name = data.draw(st.sampled_from(list(holder)))
    if data.draw(st.integers(0, 5)) == 0:
        del holder[name]
    else:
        holder[data.draw(st.sampled_from([name, name, name, "more"]))] = data.draw(values)
    (tmp_path / "s").mkdir(exist_ok=True)
    (tmp_path / "s" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "s" / "data.mdb").write_bytes((store / "images" / "data.mdb").read_bytes())
    read_all(tmp_path / "s", lambda: CompactFeatures(tmp_path / "s", detections=True))


@CASES
@given(data=st.data())
def test_a_line_with_a_wrong_cell_is_refused_or_holds_together(tmp_path, data):
    record = encode_tsv(IMAGE)
    cells = [record.get(name, "") for name in COLUMNS[data.draw(st.sampled_from(list(COLUMNS)))]]
    place = data.draw(st.integers(1, len(cells) - 1))
    cell = data.draw(VALUES.map(lambda value: value.decode("latin-1") if isinstance(value, bytes) else str(value)))
    cells[place] = cell.replace("\t", " ").replace("\n", " ").replace("\r", " ")
    path = tmp_path / "x.tsv"
    path.write_text("\t".join(cells) + "\n", encoding="utf-8", errors="replace")
    read_all(path, lambda: TsvFeatures(path, detections=True))


@CASES
@given(st.binary(max_size=300))
def test_any_bytes_are_no_record_or_hold_together(record):
    codec = RecordCodec(RecordLayout.of(IMAGE, "float16", 3, 2))
    whole = codec.encode(IMAGE, "a dog")
    assert holds(codec.decode(whole)[0])
    with pytest.raises(ValueError):  # any of them: who reads it names the record
        codec.decode(record)


def test_what_is_wrong_with_one_record_can_be_passed_over(tmp_path, concap_record):
    write(tmp_path / "x.lmdb", {b"00000000": b"", b"00000001": concap_record})
    file = ConcapFile(tmp_path / "x.lmdb")
    with pytest.raises(BadRecord, match="b'00000000'"):
        file[0]
    assert file[1][1] == "a dog é"
