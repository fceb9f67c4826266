"""Converting between the formats: what comes back, what is lost, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import lmdb
import numpy as np
import pytest

from small_regions import DETECTIONS, same, some_regions
from volta_switch import cli
from volta_switch.data.feature_files import open_features, open_source
from volta_switch.data.files.lmdb_environment import environment
from volta_switch.data.formats.concap import ConcapFile, write_concap
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.formats.tsv import write_tsv
from volta_switch.data.regions import Regions
from volta_switch.data_tools.convert import TARGETS, Loss, convert
from volta_switch.data_tools.repack import repack
from volta_switch.errors import UserError

LOSSLESS = ("tsv-lmdb", "h5-lmdb", "h5", "tsv")
IMAGES = (*LOSSLESS, "npy-lmdb", "compact")


def images(count: int = 4) -> list[Regions]:
    return [some_regions(str(100 + i), i, 1 + i) for i in range(count)]


@pytest.fixture
def source(tmp_path):
    write_features(tmp_path / "source_feat.lmdb", images())
    return tmp_path / "source_feat.lmdb"


def lost(result) -> dict:
    """What a conversion says is not the same."""
    fields = {name: measures for name, measures in result.losses.items() if any(measures.values())}
    return fields | {name: count for name, count in result.changed.items() if count}


@pytest.mark.parametrize("to", LOSSLESS)
def test_voltas_variants_hold_everything(source, tmp_path, to) -> None:
    result = convert(source, tmp_path / "out", to)
    store = open_features(tmp_path / "out", detections=True)
    assert all(same(store[image.image_id], image) for image in images())
    assert result.records == 4 and lost(result) == {} and set(result.losses) > {"features", "boxes", "cls_prob"}


def test_a_chain_through_every_lossless_variant_ends_where_it_began(source, tmp_path) -> None:
    paths = [source, *(tmp_path / f"out-{to}" for to in (*LOSSLESS, "tsv-lmdb"))]
    paths[-1] = tmp_path / "end"
    for (before, after), to in zip(pairwise(paths), (*LOSSLESS, "tsv-lmdb"), strict=True):
        convert(before, after, to)
    assert content(paths[-1]) == content(source)


def content(path) -> dict[bytes, bytes]:
    with environment(path, "").begin() as transaction:
        return dict(transaction.cursor())


def test_npy_has_no_place_for_confidences_and_attributes(source, tmp_path) -> None:
    result = convert(source, tmp_path / "out", "npy-lmdb")
    missing = {name: measures["missing_records"] for name, measures in result.losses.items()}
    assert missing == {
        "features": 0, "boxes": 0, "objects_conf": 4, "attrs_conf": 4, "cls_prob": 0, "attr_scores": 4
    }  # fmt: skip
    assert {name for name, count in result.changed.items() if count} == {"attrs_id"}
    record = pickle.loads(content(tmp_path / "out")[b"100"])
    assert isinstance(record["features"], bytes) and record["num_boxes"] == 1 and record["feature_path"] == "100"


def test_a_compact_store_loses_what_is_measured(source, tmp_path) -> None:
    features = images()[3].features + np.float32(1e-4)
    write_features(tmp_path / "odd", [replace(images()[3], features=features)])
    result = convert(tmp_path / "odd", tmp_path / "out", "compact")
    error = np.abs(features.astype(np.float64) - features.astype(np.float16).astype(np.float64))
    assert result.losses["features"]["max"] == pytest.approx(error.max())
    assert result.losses["features"]["mean"] == pytest.approx(error.mean())
    exact = convert(source, tmp_path / "exact", "compact", dtype="float32")
    assert exact.losses["features"]["max"] == 0 and exact.losses["boxes"]["max"] == 0


def test_a_compact_store_goes_back_to_every_variant(source, tmp_path) -> None:
    repack([source], tmp_path / "store", dtype="float32", top_classes=3)
    there = open_features(tmp_path / "store", detections=True)
    for to in LOSSLESS:
        result = convert(tmp_path / "store", tmp_path / to, to)
        assert lost(result) == {}
        back = open_features(tmp_path / to, detections=True)
        for image in images():
            assert np.array_equal(back[image.image_id].cls_prob, there[image.image_id].cls_prob.dense())
            assert np.array_equal(back[image.image_id].features, image.features)


def test_total_variation_is_half_the_summed_differences() -> None:
    loss = Loss()
    loss.add(np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), np.array([[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]]))
    assert loss.to_dict(True) == {
        "max": 0.25, "mean": 0.5 / 6, "total_variation_mean": 0.125, "total_variation_max": 0.25, "missing_records": 0
    }  # fmt: skip


def test_conceptual_captions_go_through_a_compact_store_and_back(concap_directory, tmp_path) -> None:
    path = concap_directory / "validation_feat_all.lmdb"
    convert(path, tmp_path / "store", "compact", dtype="float32")
    result = convert(tmp_path / "store", tmp_path / "back.lmdb", "concap")
    assert lost(result) == {}
    before, after = ConcapFile(path), ConcapFile(tmp_path / "back.lmdb")
    assert [before[i][1] for i in range(6)] == [after[i][1] for i in range(6)]
    assert all(np.array_equal(before[i][0].features, after[i][0].features) for i in range(6))
    assert (tmp_path / "back.lmdb").is_file()


@pytest.mark.parametrize("to", IMAGES)
def test_voltas_own_files_go_to_every_variant_and_back(volta_data, tmp_path, to) -> None:
    path = volta_data / "refcoco+_unc" / DETECTIONS / "refcoco+_unc_dets36_feat.lmdb"
    convert(path, tmp_path / "there", to, dtype="float32")
    result = convert(tmp_path / "there", tmp_path / "back", "tsv-lmdb")
    before, after = open_features(path), open_features(tmp_path / "back")
    assert set(before) == set(after) and result.records == len(before)
    assert all(same(before[key], after[key]) for key in before)  # what the tasks read


@pytest.mark.parametrize("to", [to for to in TARGETS if to != "concap"])
def test_voltas_pairs_lose_their_captions_only_where_there_is_no_place(volta_data, tmp_path, to) -> None:
    path = volta_data / "conceptual_captions" / DETECTIONS / "validation_feat_all.lmdb"
    result = convert(path, tmp_path / "out", to)
    assert result.changed["caption"] == (0 if to == "compact" else 2)
    source, there = open_source(path), open_source(tmp_path / "out")
    by_id = {there[place][0].image_id: there[place][0] for place in range(2)}
    for place in range(2):
        regions = source[place][0]
        assert np.abs(by_id[regions.image_id].features - regions.features).max() <= 0.01
        assert np.array_equal(by_id[regions.image_id].boxes, regions.boxes)


def test_images_become_pairs_with_their_captions(source, tmp_path) -> None:
    (tmp_path / "captions.json").write_text(json.dumps({str(100 + i): f"dog {i}" for i in range(4)}))
    convert(source, tmp_path / "x.lmdb", "concap", captions=tmp_path / "captions.json")
    file = ConcapFile(tmp_path / "x.lmdb")
    assert [file[i][1] for i in range(4)] == ["dog 0", "dog 1", "dog 2", "dog 3"]
    assert same(replace(file[2][0]), images()[2])
    with pytest.raises(UserError, match="holds no captions; name a JSON file"):
        convert(source, tmp_path / "y.lmdb", "concap")


def test_a_record_without_a_caption_is_a_bad_one(source, tmp_path) -> None:
    (tmp_path / "captions.json").write_text('{"101": "a dog"}')
    result = convert(source, tmp_path / "x.lmdb", "concap", captions=tmp_path / "captions.json", max_bad_records=3)
    assert result.records == 1 and len(result.passed_over) == 3 and "no caption of image '100'" in result.passed_over[0]


def damage(path, key: bytes) -> None:
    env = lmdb.open(str(path), lock=False)
    with env.begin(write=True) as transaction:
        transaction.put(key, b"no pickle")
    env.close()


@pytest.mark.parametrize("to", ["tsv-lmdb", "h5", "tsv"])
def test_bad_records_stop_it_and_leave_nothing(source, tmp_path, to) -> None:
    damage(source, b"102")
    with pytest.raises(UserError, match=r"more than 0 bad records .* nothing was written: .*image '102': not a read"):
        convert(source, tmp_path / "out", to)
    assert [path.name for path in tmp_path.iterdir()] == ["source_feat.lmdb"]


def test_bad_records_are_passed_over_when_told_and_named(source, tmp_path, capsys) -> None:
    damage(source, b"102")
    cli.main(["data", "convert", str(source), str(tmp_path / "out"), "--to", "h5", "--max-bad-records", "1"])
    out = capsys.readouterr().out
    assert f"{tmp_path / 'out'}: 3 records" in out and "passed over 1 bad records:" in out and "image '102'" in out
    store = open_features(tmp_path / "out", detections=True)
    assert store.keys() == ["100", "101", "103"] and same(store["103"], images()[3])


def test_pairs_of_one_image_are_named(tmp_path) -> None:
    write_concap(tmp_path / "x.lmdb", [(images()[0], "a dog"), (images()[0], "a cat")])
    with pytest.raises(UserError, match=r"x\.lmdb, record 1: image '100' stands twice; tsv holds every image once"):
        convert(tmp_path / "x.lmdb", tmp_path / "out", "tsv")


@pytest.mark.parametrize(
    ("to", "image_id", "reason"),
    [("h5", "train/1", "without '/'"), ("tsv", "a\tb", "no tab"), ("npy-lmdb", "x" * 512, "keys have 1 to 511")],
)
def test_an_id_without_a_place_in_the_target_is_named(tmp_path, to, image_id, reason) -> None:
    write_concap(tmp_path / "x.lmdb", [(replace(images()[0], image_id=image_id), "a dog")])
    with pytest.raises(UserError, match=f"record 0: .*{reason}"):
        convert(tmp_path / "x.lmdb", tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_cocos_names_become_the_keys_of_voltas_lmdb(tmp_path) -> None:
    write_tsv(tmp_path / "x.tsv", [replace(images()[0], image_id="COCO_train2014_000000000009")])
    result = convert(tmp_path / "x.tsv", tmp_path / "out", "tsv-lmdb")
    assert pickle.loads(content(tmp_path / "out")[b"keys"]) == [b"9"] and lost(result) == {}


def test_what_exists_is_not_replaced(source, tmp_path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out: exists; delete it, or give another OUT"):
        convert(source, tmp_path / "out", "tsv")
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("to", "option"),
    [("tsv", {"captions": "x.json"}), ("compact", {"captions": "x.json"}), ("compact", {"max_bad_records": 1})],
)
def test_options_that_a_target_has_no_use_for_are_refused(source, tmp_path, to, option) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(option)).replace('_', '-')}: "):
        convert(source, tmp_path / "out", to, **option)


def test_an_unknown_target_and_an_empty_source_are_refused(source, tmp_path) -> None:
    with pytest.raises(UserError, match="--to zip: expected one of tsv-lmdb, "):
        convert(source, tmp_path / "out", "zip")
    write_features(tmp_path / "empty", [])
    with pytest.raises(UserError, match="no records to convert"):
        convert(tmp_path / "empty", tmp_path / "out", "tsv")


def test_the_command_prints_what_is_lost(source, tmp_path, capsys) -> None:
    cli.main(["data", "convert", str(source), str(tmp_path / "h5"), "--to", "h5"])
    assert capsys.readouterr().out == f"{tmp_path / 'h5'}: 4 records, read back bit for bit: nothing is lost\n"
    cli.main(["data", "convert", str(source), str(tmp_path / "npy"), "--to", "npy-lmdb"])
    out = capsys.readouterr().out
    assert "objects_conf: the format has no place for it (lost in 4 of 4 records)" in out
    assert "attrs_id: not kept in 4 records" in out


def test_repack_prints_its_manifest(source, tmp_path, capsys) -> None:
    argv = ["data", "repack", str(source), str(tmp_path / "store"), "--top-classes", "3", "--dtype", "float32"]
    cli.main(argv)
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'store'}: 4 records, 10 regions, sha256 ") and "class rest mean" in out
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert manifest["sha256"] in out and manifest["layout"]["top_classes"] == 3


def test_vqa_targets_prints_its_counts(world, tmp_path, capsys) -> None:
    root = world.copy(tmp_path / "world").path / "datasets" / "vqa" / "annotations"
    cli.main(["data", "vqa-targets", str(root), "--min-occurrences", "1"])
    out = capsys.readouterr().out
    assert out.startswith(f"{root}: 30 answers, ") and "train" in out and "val" in out


def test_memory_does_not_grow_with_the_file(tmp_path) -> None:
    size = 36 * 2048 * 4  # bytes of an image's features
    write_features(tmp_path / "x", (some_regions(str(i), i, 36, 2048) for i in range(60)))
    tracemalloc.start()
    convert(tmp_path / "x", tmp_path / "out", "tsv")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 15 * size, peak / size


@pytest.mark.skipif("VOLTA_HOME" not in os.environ, reason="VOLTA_HOME names no VOLTA")
def test_voltas_own_converters_read_our_tsv_and_h5(tmp_path) -> None:
    wide = [some_regions(f"COCO_test2015_{i:012}", i, 3, 2048) for i in (9, 25)]
    write_tsv(tmp_path / "test2015_obj36-36.tsv", wide)
    convert(tmp_path / "test2015_obj36-36.tsv", tmp_path / "ours.h5", "h5")
    for script, flags in (
        ("data/mscoco/convert_coco_lmdb.py", ["--indir", ".", "--outdir", ".", "--split", "test"]),
        ("features_extraction/tsv_to_h5.py", ["--tsv_path", "test2015_obj36-36.tsv", "--h5_path", "theirs.h5"]),
        ("features_extraction/h5_to_lmdb.py", ["--h5", "ours.h5", "--lmdb", "from_h5.lmdb"]),
    ):
        command = [sys.executable, str(Path(os.environ["VOLTA_HOME"]) / script), *flags]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    for name, scores in (("test_feat.lmdb", True), ("theirs.h5", False), ("from_h5.lmdb", True)):
        store = open_features(tmp_path / name, detections=True)
        assert set(store) == {"9", "25"}
        for image in wide:
            key = str(int(image.image_id.split("_")[-1]))
            expected = image if scores else replace(image, cls_prob=None, attr_scores=None)
            assert same(store[key], replace(expected, image_id=key))
