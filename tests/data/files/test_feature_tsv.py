"""The detector's TSV files: written, read by byte offsets, and refused."""

from __future__ import annotations

import base64
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from corruption import SOME_BYTES, read_with_changes
from small_regions import same, some_regions
from volta_switch.data.feature_files import image_format, open_features
from volta_switch.data.formats.tsv import TsvFeatures, write_tsv
from volta_switch.data.image_ids import image_key
from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord, UserError


@pytest.fixture
def images(regions_of) -> list[Regions]:
    return [regions_of("100", 1, 3), regions_of("train-0-0-img0", 2, 36)]


def text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def test_every_field_comes_back(tmp_path, images) -> None:
    write_tsv(tmp_path / "x.tsv", iter(images))
    store = open_features(tmp_path / "x.tsv", feature_size=6, detections=True)
    assert isinstance(store, TsvFeatures) and store.keys() == ["100", "train-0-0-img0"] and len(store) == 2
    assert all(same(store[image.image_id], image) for image in reversed(images))
    assert [file.name for file in tmp_path.iterdir()] == ["x.tsv"]


def test_images_without_scores_have_ten_columns_and_with_them_thirteen(tmp_path, images) -> None:
    bare = replace(images[0], cls_prob=None, attr_scores=None)
    write_tsv(tmp_path / "x.tsv", [bare, images[1]])
    lines = (tmp_path / "x.tsv").read_text().splitlines()
    assert [line.count("\t") + 1 for line in lines] == [10, 13]
    store = open_features(tmp_path / "x.tsv", detections=True)
    assert same(store["100"], bare) and same(store["train-0-0-img0"], images[1])


def test_fields_that_are_not_there_stay_away(tmp_path, images) -> None:
    bare = Regions("100", images[0].features, images[0].boxes, 120, 100)
    write_tsv(tmp_path / "x.tsv", [bare])
    assert same(open_features(tmp_path / "x.tsv", detections=True)["100"], bare)


def test_a_file_of_the_detectors_making_is_read(tmp_path, images) -> None:
    image = images[0]
    cells = ["COCO_val2014_000000000042", "100", "120", text(image.objects_id), text(image.objects_conf)]
    cells += [text(image.attrs_id), text(image.attrs_conf), "3", text(image.boxes), text(image.features)]
    (tmp_path / "features").write_bytes(("\t".join(cells) + "\r\n").encode())  # csv.DictWriter's line ends
    store = open_features(tmp_path / "features", detections=True)
    expected = replace(image, image_id="42", cls_prob=None, attr_scores=None)
    assert store.keys() == ["42"] and 42 in store and "COCO_val2014_000000000042" in store and "43" not in store
    assert all(same(store[key], expected) for key in (42, "42", "COCO_val2014_000000000042"))


def test_the_six_columns_of_the_first_release_are_read(tmp_path, images) -> None:
    cells = ["7", "120", "100", "3", text(images[0].boxes), text(images[0].features)]
    (tmp_path / "x.tsv").write_text("\t".join(cells))  # no line end either
    expected = Regions("7", images[0].features, images[0].boxes, 120, 100)
    assert same(open_features(tmp_path / "x.tsv", detections=True)["7"], expected)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("COCO_train2014_000000000009", "9"),
        ("COCO_test2015_000000581929", "581929"),
        ("100000", "100000"),
        ("0042", "0042"),
        ("train-0-0-img0", "train-0-0-img0"),
        ("COCO_9x", "COCO_9x"),
        ("n161313", "n161313"),
        ("my_photo_12", "my_photo_12"),
    ],
)
def test_only_cocos_file_names_become_numbers(name, key) -> None:
    assert image_key(name) == key


def test_of_repeated_images_the_last_line_counts(tmp_path, images) -> None:
    write_tsv(tmp_path / "x.tsv", [images[1], images[0], replace(images[1], image_id="100")])
    store = open_features(tmp_path / "x.tsv", detections=True)
    assert store.keys() == ["train-0-0-img0", "100"] and store.repeated == ["100"]
    assert same(store["100"], replace(images[1], image_id="100"))


def _sizes(store: TsvFeatures) -> list[int]:
    return [len(store[key]) for key in store for _ in range(5)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_are_handed_the_index(tmp_path, images, method) -> None:
    write_tsv(tmp_path / "x.tsv", images)
    store = TsvFeatures(tmp_path / "x.tsv")
    expected = _sizes(store)  # opens the file here first
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(_sizes, [store] * 4) == [expected] * 4
    assert pickle.loads(pickle.dumps(store))._lines == store._lines


@pytest.mark.parametrize("image_id", ["a\tb", "a\nb", ""])
def test_an_id_that_fits_no_cell_is_refused(tmp_path, images, image_id) -> None:
    with pytest.raises(ValueError, match="cannot hold the image id"):
        write_tsv(tmp_path / "x.tsv", [images[0], replace(images[0], image_id=image_id)])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_line_is_named_and_the_others_are_read(tmp_path, images) -> None:
    write_tsv(tmp_path / "x.tsv", [*images, replace(images[0], image_id="200")])
    first, second, third = (tmp_path / "x.tsv").read_text().splitlines()
    cells = third.split("\t")
    cells[7] = "4"
    (tmp_path / "x.tsv").write_text("\n".join([first, second[: len(second) // 2], "\t".join(cells)]) + "\n")
    store = open_features(tmp_path / "x.tsv")
    with pytest.raises(BadRecord, match=r"x\.tsv, image 'train-0-0-img0': its line has 11 columns, expected 6, 7, 8"):
        store["train-0-0-img0"]
    with pytest.raises(BadRecord, match=r"image '200': boxes: 48 bytes, num_boxes is 4 .64 of float32."):
        store["200"]
    assert len(store["100"]) == 3


def test_a_line_without_an_id_is_named_when_the_file_is_opened(tmp_path, images) -> None:
    write_tsv(tmp_path / "x.tsv", images)
    with (tmp_path / "x.tsv").open("a") as file:
        file.write("no tab here\n")
    with pytest.raises(UserError, match=r"x\.tsv, line 3: expected an image id and a tab"):
        open_features(tmp_path / "x.tsv")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"\x1f\x8b\x08 more", "a gzip archive"),
        (b"PK\x03\x04 more", "a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b'{"a": 1}', "JSON"),
        (pickle.dumps([1]), "a pickle"),
        (b"1\t2\n", r"bytes b'1\\t2\\n'"),
    ],
)
def test_what_is_no_feature_file_is_said(tmp_path, content, found) -> None:
    (tmp_path / "features.tsv").write_bytes(content)
    with pytest.raises(UserError, match=rf"features\.tsv: {found}.*expected an LMDB, H5 or TSV file"):
        image_format(tmp_path / "features.tsv")


def test_a_directory_without_features_is_said(tmp_path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    with pytest.raises(UserError, match=r"a directory without data\.mdb \(it holds readme\.txt\)"):
        image_format(tmp_path)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> tuple[Path, bytes]:
    """A place to write, and a sound file's bytes."""
    path = tmp_path_factory.mktemp("damaged") / "x.tsv"
    write_tsv(path, [some_regions("1", count=2), some_regions("2", count=1)])
    return path, path.read_bytes()


@settings(max_examples=500, deadline=None)
@SOME_BYTES
def test_changed_bytes_give_data_or_one_clear_error(damaged, changes, kept) -> None:
    read_with_changes(*damaged, changes, kept)
