"""The compact store: what comes back of every field, whatever the images are like, and what a record costs."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import lmdb
import numpy as np
import pytest

from small_regions import same, some_regions
from volta_switch.checksums import SUMS, Changed
from volta_switch.data.files.compact_record import RecordCodec, RecordLayout, top_scores
from volta_switch.data.formats.compact import MANIFEST, CompactFeatures, CompactFile, CompactPairs, record_key
from volta_switch.data.formats.concap import write_concap
from volta_switch.data.formats.h5 import write_h5
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.formats.tsv import write_tsv
from volta_switch.data.regions import Regions, TopScores
from volta_switch.data_tools.repack import repack
from volta_switch.errors import BadRecord, UserError

VOLTA_BYTES = 585_777  # of one pair in VOLTA's file, its share of page ends included


def store_of(tmp_path, images, **options):
    write_features(tmp_path / "source", images)
    repack([tmp_path / "source"], tmp_path / "store", **options)
    return CompactFeatures(tmp_path / "store")


def dense(regions: Regions) -> Regions:
    """With the full arrays of what is stored as its highest scores, and labels of VOLTA's type."""
    arrays = {
        name: array.dense() if isinstance(array, TopScores) else array.astype(np.int64) if "_id" in name else array
        for name, array in regions.arrays().items()
    }
    return replace(regions, **arrays)


def test_float32_with_all_scores_gives_every_field_back_bit_for_bit(tmp_path) -> None:
    images = [some_regions(str(i), i, count) for i, count in enumerate([5, 1, 36, 100, 5])]
    store = store_of(tmp_path, images, dtype="float32")
    assert list(store) == [image.image_id for image in images] and len(store) == 5
    assert all(same(dense(store[image.image_id]), image) for image in images)


def test_float16_features_are_off_by_half_a_unit_in_the_last_place(tmp_path) -> None:
    images = [some_regions(str(i), i, 8) for i in range(4)]
    wide = np.random.default_rng(0).uniform(-60, 60, (8, 6)).astype(np.float32)
    images.append(replace(images[0], image_id="wide", features=wide))
    store = store_of(tmp_path, images)
    for image in images:
        back = store[image.image_id]
        assert back.features.dtype == np.float16
        assert np.array_equal(back.features, image.features.astype(np.float16))
        assert (np.abs(back.features.astype(np.float32) - image.features) <= 2.0**-11 * np.abs(image.features)).all()
        assert np.array_equal(back.boxes, image.boxes) and back.boxes.dtype == np.float32
        for name in ("objects_conf", "attrs_conf", "objects_id", "attrs_id"):
            assert np.array_equal(getattr(back, name), getattr(image, name))
        assert (back.image_w, back.image_h) == (120, 100)


def test_the_highest_scores_are_kept_and_the_others_share_the_rest(tmp_path) -> None:
    image = some_regions("1", 3, 20)
    top = store_of(tmp_path, [image], top_classes=3, top_attributes=1)["1"].cls_prob
    highest = np.sort(image.cls_prob, axis=1)[:, ::-1][:, :3]
    assert isinstance(top, TopScores) and top.shape == (20, 7) and top.scores.dtype == np.float16
    assert np.array_equal(top.scores, highest.astype(np.float16))
    assert np.array_equal(np.take_along_axis(image.cls_prob, top.ids.astype(np.int64), axis=1), highest)
    full = top.dense()
    assert full.sum(axis=1) == pytest.approx(image.cls_prob.sum(axis=1), abs=1e-6)
    others = np.ones((20, 7), dtype=bool)
    np.put_along_axis(others, top.ids.astype(np.int64), False, axis=1)
    assert full[others].reshape(20, 4) == pytest.approx(np.repeat(top.rest[:, None] / 4, 4, axis=1))
    assert (full[others].reshape(20, 4).sum(axis=1) + top.scores.sum(axis=1, dtype=np.float32)) == pytest.approx(1)


def test_of_equal_scores_the_first_columns_are_kept() -> None:
    top = top_scores(np.array([[0.2, 0.3, 0.2, 0.3], [0.25] * 4], dtype=np.float32), 3, "float32")
    assert top.ids.tolist() == [[1, 3, 0], [0, 1, 2]]
    assert top.rest == pytest.approx([0.2, 0.25])


def test_a_store_of_a_store_keeps_fewer_scores_and_loses_no_mass(tmp_path) -> None:
    image = some_regions("1", 3, 9)
    store_of(tmp_path, [image], dtype="float32")
    repack([tmp_path / "store"], tmp_path / "same", dtype="float32")
    repack([tmp_path / "store"], tmp_path / "fewer", top_classes=2)
    repack([tmp_path / "fewer"], tmp_path / "again")
    assert same(dense(CompactFeatures(tmp_path / "same")["1"]), image)
    for name in ("fewer", "again"):
        top = CompactFeatures(tmp_path / name)["1"].cls_prob
        expected = top_scores(image.cls_prob, 2, "float16")
        assert np.array_equal(top.ids, expected.ids) and np.array_equal(top.scores, expected.scores)
        assert top.rest == pytest.approx(expected.rest, abs=1e-7)


@pytest.mark.parametrize("variant", ["tsv", "h5", "npy", "h5 file", "tsv file", "compact"])
def test_images_without_regions_stand_among_the_others(tmp_path, variant) -> None:
    images = [some_regions("none", 0, 0), some_regions("two", 1, 2), some_regions("no other", 2, 0)]
    source = tmp_path / "source"
    if variant == "h5 file":
        write_h5(source, images)
    elif variant == "tsv file":
        write_tsv(source, images)
    elif variant == "compact":
        write_features(tmp_path / "first", images)
        repack([tmp_path / "first"], source, dtype="float32")
    else:
        write_features(source, images, variant=variant)
    manifest = repack([source], tmp_path / "store", dtype="float32")
    store = CompactFeatures(tmp_path / "store", feature_size=6, detections=True)
    assert manifest["records"] == 3 and manifest["regions"] == 2
    for name in ("none", "no other"):
        assert store[name].features.shape == (0, 6) and store[name].boxes.shape == (0, 4)
        assert store[name].cls_prob.dense().shape == (0, 7)
    assert np.array_equal(store["two"].features, images[1].features)
    assert np.array_equal(store["two"].cls_prob.dense(), images[1].cls_prob)


def test_images_without_any_region_make_a_store(tmp_path) -> None:
    store = store_of(tmp_path, [some_regions("a", 0, 0), some_regions("b", 0, 0)])
    assert len(store["a"]) == 0 and store.file.manifest["regions"] == 0 and store.file.damaged_blocks() == []


@pytest.mark.parametrize("width", [1, 7, 2048])
def test_features_have_any_width(tmp_path, width) -> None:
    images = [some_regions(str(i), i, 1 + i, width) for i in range(3)]
    store = store_of(tmp_path, images, dtype="float32")
    assert all(np.array_equal(store[image.image_id].features, image.features) for image in images)
    with pytest.raises(BadRecord, match=f"features are {width} wide, the model expects 5; set v_feature_size"):
        CompactFeatures(tmp_path / "store", 5)["0"]


@pytest.mark.parametrize(
    "missing",
    [
        ["cls_prob"],
        ["attr_scores"],
        ["cls_prob", "attr_scores"],
        ["objects_conf", "attrs_id", "attrs_conf", "attr_scores"],  # what an npy LMDB lacks
        ["objects_id", "objects_conf", "attrs_id", "attrs_conf", "cls_prob", "attr_scores"],
    ],
)
def test_fields_that_the_source_lacks_are_none(tmp_path, missing) -> None:
    image = replace(some_regions("1", 1), **dict.fromkeys(missing))
    back = store_of(tmp_path, [image], dtype="float32")["1"]
    assert same(dense(back), image) and set(back.arrays()) == set(image.arrays())


def test_ids_are_any_text_even_what_looks_like_a_key_of_the_stores_own(tmp_path) -> None:
    names = ["state", "i", "r", "c", "r\0\0\0\0\0\0\0\1", "i1", "1", "Straße/日本 🙂", " ", "x" * 510, "é" * 255]
    images = [some_regions(name, i, 1 + i) for i, name in enumerate(names)]
    write_features(tmp_path / "source", images)
    repack([tmp_path / "source"], tmp_path / "store", dtype="float32")
    store = CompactFeatures(tmp_path / "store")
    assert list(store) == names and all(same(dense(store[image.image_id]), image) for image in images)
    for other in ("", "x" * 511, "é" * 256, "x" * 509, "\0", "tate"):
        assert other not in store
        with pytest.raises(BadRecord, match=r"no image .* among its 11 .*; extract its features"):
            store[other]


@pytest.fixture
def pairs() -> list[tuple[Regions, str]]:
    captions = ["a dog", "", "ein Straßenhund – 犬 🙂\n\t", "a dog", "x" * 5000]
    return [(some_regions("7" if i == 3 else str(i), i, 1 + i), caption) for i, caption in enumerate(captions)]


@pytest.fixture
def pair_store(tmp_path, pairs):
    write_concap(tmp_path / "pairs.lmdb", pairs)
    repack([tmp_path / "pairs.lmdb"], tmp_path / "store", dtype="float32")
    return tmp_path / "store"


@pytest.mark.parametrize("in_memory", [False, True])
def test_pairs_are_read_by_their_index(pair_store, pairs, in_memory) -> None:
    store = CompactPairs(pair_store, in_memory)
    assert len(store) == 5
    for _ in range(2):
        for index in (4, 0, 2, 1, 3):
            regions, caption = store[index]
            assert same(dense(regions), pairs[index][0]) and caption == pairs[index][1]
    assert (store[2][0] is store[2][0]) == in_memory
    for index in (-1, 5):
        with pytest.raises(IndexError):
            store[index]


def test_images_in_memory_are_decoded_once_and_outlive_the_file(tmp_path) -> None:
    store_of(tmp_path, [some_regions("1", 1)])
    store = CompactFeatures(tmp_path / "store", in_memory=True)
    assert store["1"] is store["1"] and store["1"].features.flags.owndata


def test_a_store_of_the_other_kind_is_refused(tmp_path, pair_store) -> None:
    with pytest.raises(UserError, match="store: holds image-caption pairs for pre-training; expected images of a task"):
        CompactFeatures(pair_store)
    write_features(tmp_path / "source", [some_regions("1", 1)])
    repack([tmp_path / "source"], tmp_path / "images")
    with pytest.raises(UserError, match="images: holds images of a task; expected image-caption pairs"):
        CompactPairs(tmp_path / "images")


def fingerprints(store, keys, results) -> None:
    results.put(
        [float(np.sum(store[key][0].features if isinstance(key, int) else store[key].features)) for key in keys]
    )


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("kind", ["images", "pairs"])
def test_stores_are_handed_to_workers(tmp_path, pairs, method, kind) -> None:
    if kind == "images":
        keys = ["0", "1", "2"]
        store = store_of(tmp_path, [some_regions(key, int(key)) for key in keys])
        before = [float(np.sum(store[key].features)) for key in keys]
    else:
        write_concap(tmp_path / "pairs.lmdb", pairs)
        repack([tmp_path / "pairs.lmdb"], tmp_path / "store")
        keys, store = [0, 1, 2], CompactPairs(tmp_path / "store")
        before = [float(np.sum(store[key][0].features)) for key in keys]
    context = multiprocessing.get_context(method)
    results = context.Queue()
    workers = [context.Process(target=fingerprints, args=(store, keys, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=60) for _ in workers] == [before] * 2
    for worker in workers:
        worker.join()
    assert [float(np.sum((store[key] if kind == "images" else store[key][0]).features)) for key in keys] == before


@contextmanager
def corrupting(tmp_path) -> Iterator[lmdb.Transaction]:
    """Write into a copy of the store, which no test has open."""
    shutil.copytree(tmp_path / "store", tmp_path / "corrupted")
    with lmdb.open(str(tmp_path / "corrupted" / "data.mdb"), subdir=False) as env, env.begin(write=True) as transaction:
        yield transaction


def test_a_changed_byte_is_found_in_its_block(tmp_path) -> None:
    store = store_of(tmp_path, [some_regions(str(i), i, 1) for i in range(300)])
    assert store.file.damaged_blocks() == []
    with corrupting(tmp_path) as transaction:
        record = bytearray(transaction.get(record_key(130)))
        record[30] ^= 1
        transaction.put(record_key(130), bytes(record))
    assert CompactFile(tmp_path / "corrupted").damaged_blocks() == [128]


def test_damage_is_named(tmp_path) -> None:
    store_of(tmp_path, [some_regions(str(i), i, 1) for i in range(4)])
    with corrupting(tmp_path) as transaction:
        first = bytes(transaction.get(record_key(0)))
        transaction.put(record_key(0), first[:-1])
        transaction.put(record_key(1), first)
        transaction.delete(record_key(2))
        transaction.put(b"i3", b"")
    store = CompactFeatures(tmp_path / "corrupted")
    for image in ("0", "1"):
        with pytest.raises(BadRecord, match=f"record {image} is damaged .its checksum is not its content's, or it is "):
            store[image]
    with pytest.raises(BadRecord, match="record 2 is missing; repack it again"):
        store["2"]
    with pytest.raises(BadRecord, match="the place of image '3' is damaged; repack it again"):
        store["3"]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "not JSON"),
        ("[]", "format is None, expected 'volta_switch compact store 1'"),
        ('{"format": "volta_switch compact store 9"}', "repack the store with this version"),
        ('{"format": "volta_switch compact store 1"}', "incomplete .'layout'.; repack the store again"),
    ],
)
def test_a_corrupted_manifest_is_named(tmp_path, manifest, message) -> None:
    store_of(tmp_path, [some_regions("1")])
    (tmp_path / "store" / MANIFEST).write_text(manifest)
    with pytest.raises(Changed):
        CompactFile(tmp_path / "store")
    (tmp_path / "store" / SUMS).unlink()
    with pytest.raises(UserError, match=message) as caught:
        CompactFile(tmp_path / "store")
    assert str(caught.value).startswith(str(tmp_path / "store" / MANIFEST)) and "\n" not in str(caught.value)


def test_a_manifest_of_other_records_is_found(tmp_path) -> None:
    store_of(tmp_path, [some_regions(str(i), i) for i in range(3)])
    path = tmp_path / "store" / MANIFEST
    manifest = json.loads(path.read_text())
    (tmp_path / "store" / SUMS).unlink()
    path.write_text(json.dumps({**manifest, "sha256": "0" * 64}))
    with pytest.raises(UserError, match="not the manifest of these records"):
        CompactFile(tmp_path / "store").damaged_blocks()
    path.write_text(json.dumps({**manifest, "records": 4}))
    with pytest.raises(UserError, match="fewer records than the 4 of its manifest"):
        CompactFile(tmp_path / "store")


def test_what_the_numbers_types_cannot_hold_is_refused() -> None:
    image = some_regions("1", 1)
    codec = RecordCodec(RecordLayout.of(image, "float16", 7, 4))
    large = image.features.copy()
    large[0, 0] = 1e5
    for changes, message in (
        ({"features": large}, "features reach 100000, float16 ends at 65504; take --dtype float32"),
        ({"objects_id": image.objects_id + 40_000}, "objects_id holds labels beyond 32767"),
        ({"image_w": 2**32}, "the image is 4294967296 x 100 pixels"),
        ({"features": large[:, :5]}, "feature_size is 5, but 6 in the records before it"),
        ({"cls_prob": np.zeros((5, 40_000), np.float32)}, "scores have 40000 columns, a compact store names 32768"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.encode(replace(image, **changes))


def test_a_record_at_voltas_sizes_takes_at_most_three_tenths_of_voltas(tmp_path) -> None:
    rng = np.random.default_rng(0)

    def regions(i: int) -> Regions:
        classes = rng.dirichlet(np.ones(1601), size=36).astype(np.float32)
        return Regions(
            image_id=str(3_000_000_000 + i),
            features=rng.exponential(size=(36, 2048)).astype(np.float32),
            boxes=rng.uniform(0, 500, (36, 4)).astype(np.float32),
            image_w=640,
            image_h=480,
            objects_id=classes[:, 1:].argmax(axis=1),
            objects_conf=classes.max(axis=1),
            attrs_id=rng.integers(400, size=36),
            attrs_conf=rng.random(36, dtype=np.float32),
            cls_prob=classes,
            attr_scores=rng.dirichlet(np.ones(401), size=36).astype(np.float32),
        )

    count = 130  # more than one block
    write_concap(tmp_path / "pairs.lmdb", ((regions(i), "a dog near a tree " * 3) for i in range(count)))
    repack([tmp_path / "pairs.lmdb"], tmp_path / "store")
    used = (tmp_path / "store" / "data.mdb").stat().st_size / count
    assert used <= 0.3 * VOLTA_BYTES
    assert (tmp_path / "pairs.lmdb").stat().st_size / count == pytest.approx(VOLTA_BYTES, rel=0.01)


def test_every_changed_byte_of_a_record_is_found_when_it_is_read() -> None:
    image = some_regions("1", 1)
    codec = RecordCodec(replace(RecordLayout.of(image, "float16", 7, 4), checksum_seed=5))
    record = codec.encode(image, "a dog", 3)
    assert codec.decode(record, 3)[1] == "a dog"
    for place in range(len(record)):
        changed = record[:place] + bytes([record[place] ^ 4]) + record[place + 1 :]
        with pytest.raises(ValueError, match="its checksum is not its content's, or it is another record's"):
            codec.decode(changed, 3)
    other = RecordCodec(replace(codec.layout, checksum_seed=6))  # a store of other records
    for reader, at in ((codec, 4), (other, 3)):
        with pytest.raises(ValueError, match="or it is another record's"):
            reader.decode(record, at)
    for few in (b"", record[:3], record[:-1]):
        with pytest.raises(ValueError, match="its checksum"):
            codec.decode(few, 3)


def test_records_that_have_changed_places_are_found_when_they_are_read(tmp_path) -> None:
    store_of(tmp_path, [some_regions(str(i), i, 1) for i in range(4)])
    with corrupting(tmp_path) as transaction:
        first, second = (bytes(transaction.get(record_key(place))) for place in (0, 1))
        transaction.put(record_key(0), second)
        transaction.put(record_key(1), first)
    for place in (0, 1):
        with pytest.raises(BadRecord, match="another record's"):
            CompactFile(tmp_path / "corrupted")[place]


def test_a_store_of_an_earlier_version_is_read(tmp_path) -> None:
    image = some_regions("1", 1)
    codec = RecordCodec(RecordLayout.of(image, "float16", 7, 4))
    record = codec.encode(image, "a dog")
    assert codec.decode(record, 7)[1] == "a dog"
    kept = {name: value for name, value in codec.layout.to_dict().items() if name != "checksum_seed"}
    assert RecordLayout(**kept) == codec.layout
