"""VOLTA's H5 files: written, read, read in other processes, and refused."""

from __future__ import annotations

import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from corruption import SOME_BYTES, read_with_changes
from small_regions import same, some_regions
from volta_switch.data.feature_files import image_format, open_features
from volta_switch.data.formats.h5 import H5Features, write_h5
from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord, UserError

h5py = pytest.importorskip("h5py")


@pytest.fixture
def images(regions_of) -> list[Regions]:
    return [regions_of("100", 1, 3), regions_of("train-0-0-img0", 2, 36)]


def test_every_field_comes_back(tmp_path, images) -> None:
    write_h5(tmp_path / "x.h5", iter(images))
    store = open_features(tmp_path / "x.h5", feature_size=6, detections=True)
    assert isinstance(store, H5Features) and store.keys() == ["100", "train-0-0-img0"] and len(store) == 2
    assert all(same(store[image.image_id], image) for image in images)
    assert [file.name for file in tmp_path.iterdir()] == ["x.h5"]


def test_detections_are_read_only_when_asked(tmp_path, images) -> None:
    write_h5(tmp_path / "x.h5", images)
    assert open_features(tmp_path / "x.h5")["100"].arrays().keys() == {"features", "boxes"}


def test_the_data_sets_are_those_of_voltas_scripts(tmp_path, images) -> None:
    bare = replace(images[0], cls_prob=None, attr_scores=None)
    write_h5(tmp_path / "x.h5", [bare])
    with h5py.File(tmp_path / "x.h5") as file:
        names = {"features", "boxes", "obj_id", "obj_conf", "attr_id", "attr_conf", "img_w", "img_h"}
        assert set(file["100"]) == names and file["100/img_w"][()] == 120
        assert file["100/features"].dtype == np.float32 and file["100/obj_id"].dtype == np.int64


def test_a_file_of_voltas_making_is_read(tmp_path, images) -> None:
    image = images[0]
    with h5py.File(tmp_path / "features", "w") as file:  # no ending: the content tells
        group = file.create_group("COCO_train2014_000000000009")
        group["features"], group["boxes"] = image.features, image.boxes
        group["obj_id"], group["obj_conf"] = image.objects_id, image.objects_conf
        group["attr_id"], group["attr_conf"] = image.attrs_id, image.attrs_conf
        group["img_w"], group["img_h"], group["num_objects"] = 120, 100, 3
        group["captions"] = np.array(["a dog"], dtype=h5py.string_dtype())
    store = open_features(tmp_path / "features", detections=True)
    expected = replace(image, image_id="9", cls_prob=None, attr_scores=None)
    assert store.keys() == ["9"] and 9 in store and "COCO_train2014_000000000009" in store
    assert all(same(store[key], expected) for key in (9, "9", "COCO_train2014_000000000009"))


def _first_box(job: tuple[H5Features, int]) -> float:
    store, _ = job
    return sum(float(store[key].boxes.sum()) for key in store)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_is_read_in_other_processes(tmp_path, images, method) -> None:
    write_h5(tmp_path / "x.h5", images)
    store = H5Features(tmp_path / "x.h5")
    expected = _first_box((store, 0))  # opens the file here first
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.map(_first_box, [(store, i) for i in range(6)]) == [expected] * 6
    assert _first_box((store, 0)) == expected


def _read_inherited(store: H5Features, expected: float, result) -> None:
    result.put(all(_first_box((store, 0)) == expected for _ in range(20)))


def test_an_open_file_survives_a_fork(tmp_path, images) -> None:
    write_h5(tmp_path / "x.h5", images)
    store = H5Features(tmp_path / "x.h5")
    expected = _first_box((store, 0))
    context = multiprocessing.get_context("fork")
    result = context.Queue()
    children = [context.Process(target=_read_inherited, args=(store, expected, result)) for _ in range(3)]
    for child in children:
        child.start()  # nothing is pickled: the children hold the parent's open file
    assert all(_first_box((store, 0)) == expected for _ in range(20))
    assert [result.get(timeout=30) for _ in children] == [True] * 3
    for child in children:
        child.join()


def test_without_h5py_one_line_says_so(tmp_path, images, monkeypatch) -> None:
    write_h5(tmp_path / "x.h5", images)
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert image_format(tmp_path / "x.h5").name == "h5"
    with pytest.raises(UserError, match=r"x\.h5: H5 files need h5py; pip install 'volta-switch\[h5\]'"):
        open_features(tmp_path / "x.h5")


@pytest.mark.parametrize("image_id", ["train/1", "", "."])
def test_an_id_that_cannot_name_a_group_is_refused(tmp_path, images, image_id) -> None:
    with pytest.raises(ValueError, match="cannot hold the image id"):
        write_h5(tmp_path / "x.h5", [replace(images[0], image_id=image_id)])
    assert list(tmp_path.iterdir()) == []


def test_groups_of_one_image_are_refused(tmp_path, images) -> None:
    names = ("COCO_train2014_000000000009", "9")
    write_h5(tmp_path / "x.h5", [replace(images[0], image_id=name) for name in names])
    with pytest.raises(UserError, match="are one image; keep one of them"):
        open_features(tmp_path / "x.h5")


def test_a_damaged_group_is_named_and_the_others_are_read(tmp_path, images) -> None:
    write_h5(tmp_path / "x.h5", images)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        del file["100/boxes"]
        file.create_dataset("huge/boxes", shape=(1 << 40, 4), dtype="<f4", chunks=(1024, 4))  # promised, never written
        file["loose"] = 5
    store = open_features(tmp_path / "x.h5")
    with pytest.raises(BadRecord, match=r"x\.h5, image '100': it has no boxes or bbox, only features"):
        store["100"]
    for key in ("huge", "loose"):
        with pytest.raises(BadRecord, match=rf"x\.h5, image '{key}': not a record of region features"):
            store[key]
    assert same(store["train-0-0-img0"], Regions("train-0-0-img0", images[1].features, images[1].boxes, 120, 100))


def test_a_file_cut_short_is_refused(tmp_path, images) -> None:
    write_h5(tmp_path / "x.h5", images)
    (tmp_path / "x.h5").write_bytes((tmp_path / "x.h5").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"x\.h5: not a readable H5 file"):
        open_features(tmp_path / "x.h5")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> tuple[Path, bytes]:
    """A place to write, and a sound file's bytes."""
    path = tmp_path_factory.mktemp("damaged") / "x.h5"
    write_h5(path, [some_regions("1", count=2), some_regions("2", count=1)])
    return path, path.read_bytes()


@settings(max_examples=500, deadline=None)
@SOME_BYTES
def test_changed_bytes_give_data_or_one_clear_error(damaged, changes, kept) -> None:
    store = read_with_changes(*damaged, changes, kept)
    if store is not None:
        store._open().close()  # the next example's file has the same name
