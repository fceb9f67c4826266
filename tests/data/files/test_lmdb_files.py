from __future__ import annotations

import multiprocessing
import pickle

import lmdb
import msgpack
import numpy as np
import pytest

from small_regions import same
from volta_switch.data.feature_files import open_features
from volta_switch.data.files.lmdb_environment import environment, writing
from volta_switch.data.files.lmdb_pages import LmdbPages
from volta_switch.data.formats.concap import ConcapFile, write_concap
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.regions import Regions
from volta_switch.errors import UserError


def entries(path) -> dict[bytes, bytes]:
    with environment(path, "").begin() as transaction:
        return dict(transaction.cursor())


def test_concap_pairs_come_back_as_written(tmp_path, regions_of) -> None:
    pairs = [(regions_of(str(i), i, count=1 + 7 * i, width=3 + i), f"caption {i} é") for i in range(4)]
    write_concap(tmp_path / "training_feat_all.lmdb", iter(pairs))
    file = ConcapFile(tmp_path / "training_feat_all.lmdb")
    assert len(file) == 4 and [file[i][1] for i in range(4)] == [caption for _, caption in pairs]
    assert all(same(file[i][0], regions) for i, (regions, _) in enumerate(pairs))
    assert [path.name for path in tmp_path.iterdir()] == ["training_feat_all.lmdb"]


def test_concap_bytes_equal_those_of_voltas_writer(tmp_path, volta_data) -> None:
    name = "conceptual_captions/resnet101_faster_rcnn_genome_imgfeats/volta/validation_feat_all.lmdb"
    file = ConcapFile(volta_data / name)
    write_concap(tmp_path / "copy.lmdb", (file[i] for i in range(len(file))))
    assert entries(tmp_path / "copy.lmdb") == entries(volta_data / name)


def test_concap_reads_directories_and_listed_keys(tmp_path, regions_of) -> None:
    write_concap(tmp_path / "single.lmdb", [(regions_of("5"), "a dog")])
    record = entries(tmp_path / "single.lmdb")[b"00000000"]
    with writing(tmp_path / "directory.lmdb", directory=True) as put:
        put(b"5.jpg", record)
        put(b"__keys__", msgpack.packb([b"5.jpg"], use_bin_type=True))
    file = ConcapFile(tmp_path / "directory.lmdb")
    assert len(file) == 1 and file[0][1] == "a dog"


def test_concap_records_need_every_detection(tmp_path, regions_of) -> None:
    bare = Regions("7", regions_of("7").features, regions_of("7").boxes, 10, 10)
    with pytest.raises(ValueError, match=r"image 7: .* cls_prob"):
        write_concap(tmp_path / "x.lmdb", [(bare, "a dog")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("in_memory", [False, True])
def test_concap_indices_beyond_the_file_are_index_errors(concap_directory, in_memory) -> None:
    file = ConcapFile(concap_directory / "training_feat_all.lmdb", in_memory=in_memory)
    for index in (40, -1):
        with pytest.raises(IndexError):
            file[index]


def test_concap_keeps_pairs_in_memory_when_told(concap_directory) -> None:
    path = concap_directory / "training_feat_all.lmdb"
    kept, read = ConcapFile(path, in_memory=True), ConcapFile(path)
    assert kept[3] is kept[3] and read[3] is not read[3]


@pytest.mark.parametrize("variant", ["tsv", "h5", "npy"])
def test_features_come_back_from_every_variant(tmp_path, regions_of, variant) -> None:
    images = [regions_of("100", 1, 3), regions_of("train-0-0-img0", 2, 36)]
    write_features(tmp_path / "x_feat.lmdb", images, variant)
    store = open_features(tmp_path / "x_feat.lmdb", feature_size=6)
    assert store.keys() == ["100", "train-0-0-img0"] and len(store) == 2
    for image in images:
        bare = Regions(image.image_id, image.features, image.boxes, image.image_w, image.image_h)
        assert same(store[image.image_id], bare)


def test_tsv_features_hold_the_detections_as_strings(tmp_path, regions_of) -> None:
    write_features(tmp_path / "x_feat.lmdb", [regions_of("100")])
    assert same(open_features(tmp_path / "x_feat.lmdb", detections=True)["100"], regions_of("100"))
    content = entries(tmp_path / "x_feat.lmdb")
    assert set(map(type, pickle.loads(content[b"100"]).values())) == {str}
    assert pickle.loads(content[b"keys"]) == [b"100"]


def test_an_image_is_found_by_number_and_by_text(flickr_directory) -> None:
    store = open_features(flickr_directory / "flickr30k_feat.lmdb", in_memory=True)
    assert 100 in store and "100" in store and 99 not in store
    assert store[100] is store["100"]


def test_an_image_without_regions_is_read(tmp_path) -> None:
    empty = Regions("1", np.zeros((0, 6), dtype=np.float32), np.zeros((0, 4), dtype=np.float32), 10, 10)
    write_features(tmp_path / "x_feat.lmdb", [empty])
    assert open_features(tmp_path / "x_feat.lmdb", feature_size=6)["1"].features.shape == (0, 6)


def _first_caption(file: ConcapFile) -> str:
    return file[0][1]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_files_are_read_in_other_processes(concap_directory, method) -> None:
    file = ConcapFile(concap_directory / "training_feat_all.lmdb")
    expected = file[0][1]  # opens the file here first
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(_first_caption, [file] * 2) == [expected] * 2
    assert file[0][1] == expected


def test_a_file_is_opened_once_and_again_after_it_was_replaced(tmp_path, regions_of) -> None:
    path = tmp_path / "x.lmdb"
    write_concap(path, [(regions_of("1"), "old")])
    first, second = ConcapFile(path), ConcapFile(path)
    write_concap(path, [(regions_of("1"), "new")])
    assert (first[0][1], second[0][1], ConcapFile(path)[0][1]) == ("old", "old", "new")


def test_a_failed_writer_leaves_the_old_file(tmp_path, regions_of) -> None:
    path = tmp_path / "x.lmdb"
    write_concap(path, [(regions_of("1"), "old")])

    def pairs():
        yield regions_of("1"), "new"
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_concap(path, pairs())
    assert ConcapFile(path)[0][1] == "old" and [file.name for file in tmp_path.iterdir()] == ["x.lmdb"]


def test_the_map_grows_with_what_is_written(tmp_path) -> None:
    value = bytes(10 << 20)
    with writing(tmp_path / "x.lmdb", directory=False) as put:
        for index in range(8):
            put(str(index).encode(), value)
    assert {len(v) for v in entries(tmp_path / "x.lmdb").values()} == {10 << 20}


def test_a_missing_feature_file_is_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"flickr30k_feat\.lmdb: image features not found"):
        open_features(tmp_path / "flickr30k_feat.lmdb")
    with pytest.raises(UserError, match=r"training_feat_all\.lmdb: Conceptual Captions features not found"):
        ConcapFile(tmp_path / "training_feat_all.lmdb")


def test_a_missing_image_is_named_with_its_file(flickr_directory) -> None:
    store = open_features(flickr_directory / "flickr30k_feat.lmdb")
    with pytest.raises(UserError, match=r"flickr30k_feat\.lmdb: no image '999' among its 8"):
        store[999]


def test_another_feature_width_states_both(flickr_directory) -> None:
    store = open_features(flickr_directory / "flickr30k_feat.lmdb", feature_size=2048)
    with pytest.raises(UserError, match=r"image '100': features are 6 wide, the model expects 2048"):
        store["100"]


def test_the_two_formats_are_not_taken_for_each_other(concap_directory, flickr_directory) -> None:
    with pytest.raises(UserError, match="no record 00000000 and no list of keys"):
        ConcapFile(flickr_directory / "flickr30k_feat.lmdb")
    with pytest.raises(UserError, match="Conceptual Captions pairs, the pre-training file"):
        open_features(concap_directory / "training_feat_all.lmdb")


def test_a_file_that_is_no_lmdb_is_named(tmp_path) -> None:
    (tmp_path / "x.lmdb").write_bytes(b"not an LMDB" * 1000)
    with pytest.raises(UserError, match=r"x\.lmdb: bytes b'not an LMDBn'\.\.\.; expected an LMDB, H5 or TSV file"):
        open_features(tmp_path / "x.lmdb")


def test_a_file_cut_short_is_refused_before_it_is_read(tmp_path, regions_of) -> None:
    path = tmp_path / "x.lmdb"
    write_concap(path, [(regions_of(str(i), count=30), "a dog") for i in range(20)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="is cut short"):
        ConcapFile(path)


@pytest.mark.parametrize(
    "record",
    [
        b"\x93\x01\x02\x03",  # a list of three
        b"\xc1",  # no msgpack
        msgpack.packb(
            [{b"data": b"", b"type": "<f4", b"shape": [0]}] * 8 + ["3", "1", "1", "x", "y"], use_bin_type=True
        ),
    ],
)
def test_a_damaged_concap_record_is_named(tmp_path, record) -> None:
    with writing(tmp_path / "x.lmdb", directory=False) as put:
        put(b"00000000", record)
    with pytest.raises(UserError, match=r"x\.lmdb: record b'00000000' is not a list of 13"):
        ConcapFile(tmp_path / "x.lmdb")[0]


def test_a_damaged_feature_record_is_named(tmp_path) -> None:
    with writing(tmp_path / "x_feat.lmdb", directory=True) as put:
        put(b"keys", pickle.dumps([b"1", b"2"]))
        put(b"1", pickle.dumps({"features": "AAAA"}))
        put(b"2", pickle.dumps({"features": "AAAA", "boxes": "AAAAAAAAAAAAAAAAAAAAAA==", "img_h": "1", "img_w": "1"}))
    store = open_features(tmp_path / "x_feat.lmdb")
    for key, said in (("1", "it has no boxes or bbox, only features; add it"), ("2", "features: 3 bytes")):
        with pytest.raises(UserError, match=rf"x_feat\.lmdb, image '{key}': {said}"):
            store[key]


def test_another_lmdb_library_is_refused_where_it_would_write(monkeypatch, tmp_path, regions_of) -> None:
    monkeypatch.setattr(lmdb, "version", lambda: (1, 0, 0))
    with pytest.raises(UserError, match=r"lmdb library 1\.0\.0 cannot read LMDB 0\.9 files"):
        write_concap(tmp_path / "x.lmdb", [(regions_of("1"), "a dog")])


@pytest.mark.parametrize("size", [0, 3, 40, 5000])
def test_every_record_is_found_as_the_library_finds_it(tmp_path, size) -> None:
    rng = np.random.default_rng(size)
    written = {rng.bytes(int(rng.integers(1, 300))): rng.bytes(int(rng.integers(0, 3000))) for _ in range(size)}
    with writing(tmp_path / "x.lmdb", directory=False) as put:
        for key, value in written.items():
            put(key, value)
    pages = LmdbPages(tmp_path / "x.lmdb", "records")
    assert pages.entries == len(written) == len(entries(tmp_path / "x.lmdb"))
    assert all(pages.get(key) == value for key, value in written.items())
    others = [key[:-1] for key in written] + [key + b"x" for key in written] + [b"", b"\0", b"\xff" * 511]
    assert all(pages.get(key) is None for key in others if key not in written)
