"""Repacking: from every format, several files into one, what is refused, and running it again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from small_regions import some_regions
from stored_records import Stopped, content, images, refused, stop_after
from volta_switch.data.feature_files import open_features
from volta_switch.data.formats.compact import CompactFeatures, CompactFile, CompactPairs
from volta_switch.data.formats.concap import ConcapFile, write_concap
from volta_switch.data.formats.h5 import write_h5
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.formats.tsv import write_tsv
from volta_switch.data.regions import Regions
from volta_switch.data_tools.check import check_features
from volta_switch.data_tools.repack import repack

EXACT = {"dtype": "float32", "top_classes": 7, "top_attributes": 4}


def pairs(count: int = 4) -> list[tuple[Regions, str]]:
    return [(image, f"a dog {i}") for i, image in enumerate(images(count))]


@pytest.fixture
def source(tmp_path) -> Path:
    write_features(tmp_path / "a_feat.lmdb", images())
    return tmp_path / "a_feat.lmdb"


@pytest.mark.parametrize("kind", ["tsv", "h5", "npy", "h5 file", "tsv file", "compact"])
def test_images_of_every_format_come_to_the_same(tmp_path, kind) -> None:
    path = tmp_path / "source"
    if kind == "h5 file":
        write_h5(path, images())
    elif kind == "tsv file":
        write_tsv(path, images())
    elif kind == "compact":
        write_features(tmp_path / "first", images())
        repack([tmp_path / "first"], path, **EXACT)
    else:
        write_features(path, images(), variant=kind)
    manifest = repack([path], tmp_path / "store", **EXACT)
    before, after = open_features(path, detections=True), CompactFeatures(tmp_path / "store")
    assert manifest["kind"] == "images" and manifest["records"] == 4 and manifest["regions"] == 1 + 2 + 3 + 4
    assert list(after) == list(before)
    for key in before:
        assert np.array_equal(after[key].features, before[key].features)
        assert set(after[key].arrays()) == set(before[key].arrays())
        assert np.array_equal(after[key].objects_id, before[key].objects_id)
    assert manifest["losses"]["feature_error_max"] == 0 and check_features(tmp_path / "store").fine


@pytest.mark.parametrize("kind", ["concap", "compact"])
def test_pairs_of_every_format_come_to_the_same(tmp_path, kind) -> None:
    write_concap(tmp_path / "first.lmdb", pairs())
    path = tmp_path / "first.lmdb"
    if kind == "compact":
        repack([path], tmp_path / "first", **EXACT)
        path = tmp_path / "first"
    manifest = repack([path], tmp_path / "store", **EXACT)
    before, after = ConcapFile(tmp_path / "first.lmdb"), CompactPairs(tmp_path / "store")
    assert manifest["kind"] == "pairs" and manifest["records"] == len(after) == 4
    for index in range(4):
        assert after[index][1] == before[index][1]
        assert np.array_equal(after[index][0].features, before[index][0].features)
        assert np.array_equal(after[index][0].cls_prob.dense(), before[index][0].cls_prob)
    assert check_features(tmp_path / "store").fine


def test_several_files_become_one_store_in_their_order(tmp_path) -> None:
    write_features(tmp_path / "a", images(3, first=100))
    write_h5(tmp_path / "b", images(200, first=200))
    repack([tmp_path / "a"], tmp_path / "c")
    write_tsv(tmp_path / "d", images(2, first=500))
    parts = [tmp_path / name for name in "bad"]
    manifest = repack(parts, tmp_path / "store")
    names = [str(200 + i) for i in range(200)] + ["100", "101", "102", "500", "501"]
    assert list(CompactFeatures(tmp_path / "store")) == names
    assert [(entry["name"], entry["format"], entry["records"]) for entry in manifest["sources"]] == [
        ("b", "h5", 200),
        ("a", "lmdb", 3),
        ("d", "tsv", 2),
    ]
    assert CompactFile(tmp_path / "store").damaged_blocks() == []


def test_the_manifest_says_what_is_lost(tmp_path) -> None:
    image = some_regions("1", 1, 20)
    write_features(tmp_path / "source", [image])
    losses = repack([tmp_path / "source"], tmp_path / "store", top_classes=2)["losses"]
    error = np.abs(image.features - image.features.astype(np.float16).astype(np.float32))
    rest = 1 - np.sort(image.cls_prob, axis=1)[:, -2:].astype(np.float16).sum(axis=1, dtype=np.float64)
    assert losses["feature_error_max"] == error.max() > 0
    assert losses["feature_error_mean"] == pytest.approx(error.mean(), rel=1e-6)
    assert losses["class_rest_max"] == pytest.approx(rest.max()) and losses["class_rest_mean"] == pytest.approx(
        rest.mean()
    )
    assert losses["attribute_rest_max"] == pytest.approx(0, abs=2e-3)  # all four are kept


# What is refused


def test_a_second_file_of_another_width_is_refused_and_named(source, tmp_path) -> None:
    write_features(tmp_path / "b", images(3, first=200, width=8))
    message = refused([source, tmp_path / "b"], tmp_path / "store")
    assert message.startswith(
        f"{tmp_path / 'b'}, record 0 (image '200'): feature_size is 8, but 6 in the records before"
    )
    assert not (tmp_path / "store").exists()


def test_an_image_that_stands_twice_is_refused_and_named(source, tmp_path) -> None:
    write_h5(tmp_path / "b", images(3, first=103))
    message = refused([source, tmp_path / "b"], tmp_path / "store")
    assert message == f"{tmp_path / 'b'}: image '103' stands in another input too, or twice; leave one of them out"


def test_pairs_and_images_are_not_mixed(source, tmp_path) -> None:
    write_concap(tmp_path / "p.lmdb", pairs())
    message = refused([source, tmp_path / "p.lmdb"], tmp_path / "store")
    assert message == (
        f"{source} holds images of a task, {tmp_path / 'p.lmdb'} image-caption pairs; repack them into two stores"
    )
    assert not (tmp_path / "store.unfinished").exists()


def test_what_is_no_store_of_these_inputs_is_not_replaced(source, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for name in ("file", "folder"):
        assert (
            refused([source], tmp_path / name) == f"{tmp_path / name}: exists and is no compact store; give another OUT"
        )
    repack([source], tmp_path / "store")
    before = content(tmp_path / "store")
    write_features(tmp_path / "b", images(5))
    for inputs, options, why in (
        ([tmp_path / "b"], {}, "the inputs are not the same files"),
        ([source, tmp_path / "b"], {}, "the inputs are not the same files"),
        ([source], {"dtype": "float32"}, "dtype was float16, now it is float32"),
        ([source], {"top_classes": 3}, "top_classes was 100, now it is 3"),
    ):
        assert refused(inputs, tmp_path / "store", **options) == (
            f"{tmp_path / 'store'}: a compact store of other inputs or options ({why}); give another OUT"
        )
    assert content(tmp_path / "store") == before
    (tmp_path / "folder" / "manifest.json").write_text('{"name": "of a web page"}')
    assert "format is None, expected 'volta_switch compact store 1'" in refused([source], tmp_path / "folder")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "--dtype int8: expected float16 or float32"),
        ({"top_classes": 0}, "--top-classes and --top-attributes: expected 1 or more scores to keep"),
    ],
)
def test_options_that_mean_nothing_are_refused(source, tmp_path, options, message) -> None:
    assert refused([source], tmp_path / "store", **options) == message


def test_missing_and_empty_inputs_are_refused(tmp_path) -> None:
    assert "missing: image features not found" in refused([tmp_path / "missing"], tmp_path / "store")
    write_features(tmp_path / "none", [])
    assert refused([tmp_path / "none"], tmp_path / "store") == f"{tmp_path / 'none'}: no records to repack"


def test_an_output_below_a_file_is_refused(source, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "cannot be written (" in refused([source], tmp_path / "file" / "store")


def test_an_unfinished_store_of_other_inputs_or_options_is_refused(tmp_path) -> None:
    write_features(tmp_path / "a", images(300))
    write_features(tmp_path / "b", images(301))
    with pytest.raises(Stopped):
        repack([tmp_path / "a"], tmp_path / "store", progress=stop_after(1))
    for inputs, options, why in (
        (["b"], {}, "the inputs are not the same files"),
        (["a"], {"top_attributes": 2}, "top_attributes was 16, now it is 2"),
    ):
        message = refused([tmp_path / name for name in inputs], tmp_path / "store", **options)
        assert message == (
            f"{tmp_path / 'store.unfinished'}: an unfinished store of other inputs or options ({why}); "
            "give the same as before, delete it to start anew, or give another OUT"
        )
    assert repack([tmp_path / "a"], tmp_path / "store")["records"] == 300


def test_a_second_run_at_once_is_refused(source, tmp_path) -> None:
    refusals = []

    def progress(done: int, total: int) -> None:
        command = [sys.executable, "-c", "from volta_switch.cli import main; main()"]
        argv = ["data", "repack", str(source), str(tmp_path / "store")]
        refusals.append(subprocess.run([*command, *argv], capture_output=True, text=True, timeout=60))

    repack([source], tmp_path / "store", progress=progress)
    (second,) = refusals
    assert second.returncode == 2 and second.stdout == ""
    message = f"{tmp_path / 'store.unfinished'}: another process is writing this store; wait for it"
    assert second.stderr == f"error: {message}\n"
    assert len(CompactFeatures(tmp_path / "store")) == 4


def test_a_run_that_waited_for_the_other_to_end_finds_its_store(source, tmp_path, monkeypatch) -> None:
    manifest = repack([source], tmp_path / "store")
    before = content(tmp_path / "store")
    exists, answers = Path.exists, iter([False])  # looked before the other run was done
    monkeypatch.setattr(
        Path, "exists", lambda path: next(answers, True) if path == tmp_path / "store" else exists(path)
    )
    assert repack([source], tmp_path / "store") == manifest
    assert content(tmp_path / "store") == before and not exists(tmp_path / "store.unfinished")


# Runs that end early


def test_a_finished_store_is_left_as_it_is(source, tmp_path) -> None:
    manifest = repack([source], tmp_path / "store")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "store", *(tmp_path / "store").iterdir())}
    steps = []
    assert repack([source], tmp_path / "store", progress=lambda done, total: steps.append(done)) == manifest
    assert steps == [] and {path: path.stat().st_mtime_ns for path in times} == times
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_feat.lmdb", "store"]


def test_a_moved_source_is_the_same(source, tmp_path) -> None:
    manifest = repack([source], tmp_path / "store")
    (tmp_path / "elsewhere").mkdir()
    moved = source.rename(tmp_path / "elsewhere" / source.name)
    assert repack([moved], tmp_path / "store") == manifest


def test_a_store_of_pairs_goes_on_too(tmp_path) -> None:
    write_concap(tmp_path / "p.lmdb", pairs(300))
    repack([tmp_path / "p.lmdb"], tmp_path / "whole")
    with pytest.raises(Stopped):
        repack([tmp_path / "p.lmdb"], tmp_path / "store", progress=stop_after(2))
    repack([tmp_path / "p.lmdb"], tmp_path / "store")
    assert content(tmp_path / "store") == content(tmp_path / "whole")
