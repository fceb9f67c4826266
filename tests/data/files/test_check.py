"""`volta-switch data check`: what it finds in sound files, and what it says of damaged ones."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import yaml

from small_regions import DETECTIONS, some_regions
from volta_switch import cli
from volta_switch.data.feature_files import open_features
from volta_switch.data.files import safe_pickle
from volta_switch.data.formats.concap import write_concap
from volta_switch.data.formats.h5 import write_h5
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.formats.tsv import write_tsv
from volta_switch.data_tools.check import Report, check_features, cross_check
from volta_switch.data_tools.check_annotations import check_annotations, split_of, splits_in
from volta_switch.data_tools.check_tasks import check_paths
from volta_switch.data_tools.repack import repack


def check(argv, capsys) -> tuple[int, str]:
    """Exit code and output of the command."""
    try:
        cli.main(["data", "check", *map(str, argv)])
    except SystemExit as error:
        return error.code, capsys.readouterr().out
    return 0, capsys.readouterr().out


def only(items: list) -> Any:
    assert len(items) == 1, items
    return items[0]


def images(count: int = 4) -> list:
    return [some_regions(str(100 + i), i, 1 + i) for i in range(count)]


WRITERS = {"LMDB": write_features, "H5": write_h5, "TSV": write_tsv}


@pytest.mark.parametrize("name", [*WRITERS, "compact"])
def test_counts_and_statistics_are_those_of_the_written_images(tmp_path, name) -> None:
    WRITERS.get(name, write_features)(tmp_path / "file", images())
    if name == "compact":
        repack([tmp_path / "file"], tmp_path / "store", dtype="float32")
    report = check_features(tmp_path / ("store" if name == "compact" else "file"))
    values = np.concatenate([image.features for image in images()]).astype(np.float64)
    assert name in report.format and report.fine and report.image_ids[""] == {"100", "101", "102", "103"}
    boxes = {"min": 1, "mean": 2.5, "max": 4}
    assert report.counts == {"images": 4, "boxes": boxes, "feature_width": 6, "classes": 7, "attributes": 4}
    expected = {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
    assert report.statistics == pytest.approx({**expected, "zeros": 0.0, "non_finite": 0}, rel=1e-6)


def test_pairs_are_counted_with_their_captions(tmp_path) -> None:
    write_concap(tmp_path / "x.lmdb", [(image, caption) for image, caption in zip(images(), "abc ", strict=True)])
    report = check_features(tmp_path / "x.lmdb")
    assert report.format == "Conceptual Captions (LMDB), image-caption pairs" and report.counts["pairs"] == 4
    assert report.problems == ["1 records have an empty caption; leave these pairs out"]


def test_a_sample_is_read_and_said(tmp_path) -> None:
    write_features(tmp_path / "x", images(4))
    report = check_features(tmp_path / "x", sample=2)
    assert report.counts["boxes"] == {"min": 1, "mean": 2.5, "max": 4} and len(report.image_ids[""]) == 4
    assert report.notes == ["read 2 of 4 records (--sample)"]


def test_bad_records_are_counted_and_the_first_named(tmp_path, capsys) -> None:
    sound = images(8)
    features = sound[1].features.copy()
    features[0, :2] = np.nan, np.inf
    sound[1] = replace(sound[1], features=features)
    write_features(tmp_path / "x_feat.lmdb", sound)
    env = lmdb.open(str(tmp_path / "x_feat.lmdb"), lock=False)
    with env.begin(write=True) as transaction:
        for key in (b"102", b"103", b"104", b"105", b"106"):
            transaction.delete(key)
    env.close()
    code, out = check([tmp_path / "x_feat.lmdb"], capsys)
    assert code == 2 and "WRONG: 6 bad records" in out and "... and 1 more" in out
    assert "image '101': features hold" in out and "not finite; extract its features again" in out
    assert "non finite 2" in out
    assert "image '102': listed in 'keys', but its record is missing" in out
    assert out.endswith("1 checked: 1 with something wrong\n")


def test_bad_pairs_are_counted(tmp_path) -> None:
    sound = images(3)
    sound[1] = replace(sound[1], boxes=np.full_like(sound[1].boxes, np.nan))
    write_concap(tmp_path / "x.lmdb", [(image, "a dog") for image in sound])
    report = check_features(tmp_path / "x.lmdb")
    assert report.bad_records == 1 and "not finite" in report.bad_examples[0] and report.counts["boxes"]["mean"] == 2


def test_widths_that_differ_and_features_of_zeros_are_wrong(tmp_path) -> None:
    write_features(tmp_path / "widths", [some_regions("1", width=6), some_regions("2", width=7)])
    problem = only([check_features(tmp_path / "widths")]).problems[0]
    assert problem == "feature_width differ between records: [6, 7]; extract all with one detector"
    write_features(tmp_path / "zeros", [replace(images()[0], features=np.zeros((1, 6), dtype=np.float32))])
    assert "every feature value is 0" in check_features(tmp_path / "zeros").problems[0]


def test_an_empty_file_is_wrong(tmp_path) -> None:
    write_features(tmp_path / "x", [])
    assert check_features(tmp_path / "x").problems == ["no records; write the file again"]


def test_a_changed_compact_store_is_found_by_its_checksums(tmp_path) -> None:
    write_features(tmp_path / "x", images())
    repack([tmp_path / "x"], tmp_path / "store", dtype="float32")
    data = bytearray((tmp_path / "store" / "data.mdb").read_bytes())
    place = data.index(images()[2].features.tobytes())
    data[place] ^= 1
    (tmp_path / "store" / "data.mdb").write_bytes(data)
    assert check_features(tmp_path / "store").problems == [
        "records from 0 on do not have their checksum; repack the store again"
    ]


def test_voltas_own_files_are_fine(volta_data, capsys) -> None:
    parts = [volta_data / "vqa" / "annotations", volta_data / "mscoco" / DETECTIONS / "trainval_feat.lmdb"]
    code, out = check(parts, capsys)
    assert code == 0 and "feature width 2048, classes 1601, attributes 401" in out and "all fine" in out
    code, out = check([volta_data / "conceptual_captions" / DETECTIONS, volta_data / "refcoco+_unc"], capsys)
    assert code == 0 and "image-caption pairs" in out and "referring expressions (refs)" in out


def test_json_holds_the_whole_report(volta_data, capsys) -> None:
    code, out = check([volta_data / "mscoco" / DETECTIONS / "trainval_feat.lmdb", "--json", "--sample", 2], capsys)
    (report,) = json.loads(out)
    assert code == 0 and report["fine"] and report["counts"]["images"] == 5 and report["bad_records"] == 0


def test_images_without_features_are_named_with_the_fix(flickr_directory, tmp_path, capsys) -> None:
    write_features(tmp_path / "few_feat.lmdb", [*images(6), some_regions("7")])
    code, out = check([flickr_directory / "train_ann.jsonl", tmp_path / "few_feat.lmdb"], capsys)
    assert code == 2
    assert "2 of 8 images have no features in few_feat.lmdb; extract features of 106, 107\n" in out
    assert "8 images needed, 1 of the 7 in few_feat.lmdb not among them" in out


def test_a_feature_file_of_other_images_is_said_to_be_the_wrong_one() -> None:
    annotations = Report("a.jsonl", "", image_ids={"train": {"1", "2"}})
    cross_check(annotations, [Report("f.lmdb", "", image_ids={"": {"x"}})], "features_h5path1 of TASK8")
    assert annotations.problems == [
        "2 of 2 images have no features in f.lmdb; point features_h5path1 of TASK8 at the feature file that belongs "
        "to these annotations (it has x, ...)"
    ]


def test_only_the_splits_that_matter_need_features() -> None:
    annotations = Report("refs", "", image_ids={"train": {"1"}, "testA": {"2"}})
    cross_check(annotations, [Report("f", "", image_ids={"": {"1"}})], splits=splits_in("train"))
    assert annotations.fine
    cross_check(annotations, [Report("f", "", image_ids={"": {"1"}})], splits=splits_in("test"))
    assert not annotations.fine


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("v2_OpenEnded_mscoco_train2014_questions.json", "train"),
        ("valid_ann.jsonl", "val"),
        ("testdev_balanced_questions.json", "test"),
        ("trainval_target.pkl", "trainval"),
        ("dev.jsonl", "val"),
        ("hard_negative.pkl", ""),
    ],
)
def test_a_files_name_tells_its_split(name, split) -> None:
    assert split_of(Path(name)) == split


ANNOTATIONS = {
    "refcoco+_unc/annotations/refcoco+/refs(unc).p": "referring expressions (refs)",
    "refcoco+_unc/annotations/refcoco+/instances.json": "COCO instances",
    "vqa/annotations/v2_OpenEnded_mscoco_val2014_questions.json": "VQA questions",
    "vqa/annotations/cache/val_target.pkl": "VQA or GQA soft targets",
    "vqa/annotations/trainval_ans2label.pkl": "answer to label",
    "vqa/annotations/trainval_label2ans.pkl": "label to answer",
    "flickr30k/annotations/valid_ann.jsonl": "retrieval captions",
    "flickr30k/hard_negative.pkl": "hard negatives",
    "nlvr2/annotations/dev.jsonl": "NLVR2 statements",
    "conceptual_captions/annotations/caption_valid.json": "Conceptual Captions' captions",
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_annotations_are_known_by_their_content(world, tmp_path, name) -> None:
    renamed = shutil.copy(world.path / "datasets" / name, tmp_path / f"x{Path(name).suffix}")
    report = only(check_annotations(Path(renamed)))
    assert report.format == ANNOTATIONS[name] and report.fine and report.counts


LINES = {
    "GQA questions": '{"201": {"imageId": "n1", "question": "is it red"}}',
    "SNLI-VE pairs": '{"Flikr30kID": "42.jpg", "sentence2": "a dog", "gold_label": "neutral"}\n' * 2,
    "VQA answers": '{"annotations": [{"question_id": 1, "image_id": 2, "answers": []}]}',
    "NLVR2 statements": '{"identifier": "dev-1-0-1", "sentence": "two dogs", "label": "True"}\n' * 2,
}


@pytest.mark.parametrize("name", LINES)
def test_other_annotations_are_known(tmp_path, name) -> None:
    (tmp_path / "dev.json").write_text(LINES[name])
    report = only(check_annotations(tmp_path / "dev.json"))
    assert report.format == name and report.fine
    expected = {"GQA questions": {"n1"}, "SNLI-VE pairs": {"42"}, "NLVR2 statements": {"dev-1-0-img0", "dev-1-0-img1"}}
    assert report.image_ids.get("val", None) == expected.get(name)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "train.jsonl",
            '{"sentences": ["a"], "img_path": "1.jpg"}\n{"sentences": []}',
            "entry 2: no id among its sentences",
        ),
        (
            "train.jsonl",
            '{"identifier": "a-0", "sentence": "b"}\n{"identifier": "a-0"}',
            "entry 2: no sentence among its label, identifier",
        ),
        ("train.jsonl", '{"Flikr30kID": "x.jpg", "sentence2": "b"}', "entry 1: no gold_label among its Flikr30kID"),
        (
            "train.json",
            '{"questions": [{"question_id": 1, "question": "why"}]}',
            "entry 1: no image_id among its question_id",
        ),
    ],
)
def test_bad_entries_are_named(tmp_path, name, content, expected) -> None:
    (tmp_path / name).write_text(content)
    report = only(check_annotations(tmp_path / name))
    assert report.bad_records == 1 and expected in report.bad_examples[0]


class Hostile:
    def __reduce__(self):
        return print, ("run",)


def test_files_that_cannot_be_read_are_reported_and_the_others_still_checked(tmp_path, capsys) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([Hostile()]))
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text("[1, 2]")
    (tmp_path / "d.jsonl").write_text('{"identifier": "a-0-1", "sentence": "two dogs"}')
    (tmp_path / "cut.lmdb").write_bytes(b"cut")
    code, out = check([*sorted(tmp_path.iterdir()), tmp_path / "nowhere"], capsys)
    assert code == 2 and "run" not in out.replace("was not run", "")
    assert "asks for builtins.print" in out and "b.json: not JSON" in out and "NLVR2 statements" in out
    assert "c.json: not a known annotation file" in out and "no such file or directory" in out
    assert "cut.lmdb: unreadable" in out and out.endswith("6 checked: 5 with something wrong\n")


def test_files_of_different_releases_are_found(volta_data, tmp_path) -> None:
    root = shutil.copytree(volta_data / "vqa" / "annotations", tmp_path / "vqa")
    targets = safe_pickle.load(root / "cache" / "val_target.pkl")
    safe_pickle.dump(root / "cache" / "val_target.pkl", [{**target, "question_id": 10**9} for target in targets])
    safe_pickle.dump(root / "trainval_ans2label.pkl", {"yes": 0})
    problems = [problem for report in check_annotations(root) for problem in report.problems]
    assert any("6 targets have no counterpart in v2_OpenEnded_mscoco_val2014_questions.json" in p for p in problems)
    assert any("but trainval_ans2label.pkl has 1 answers" in problem for problem in problems)
    root = shutil.copytree(volta_data / "refcoco+_unc" / "annotations", tmp_path / "refer")
    instances = json.loads((root / "refcoco+" / "instances.json").read_text())
    instances["annotations"] = instances["annotations"][:-1]
    (root / "refcoco+" / "instances.json").write_text(json.dumps(instances))
    refs = safe_pickle.load(root / "refcoco+" / "refs(unc).p")
    known = {item["id"] for item in instances["annotations"]}
    missing = sum(ref["ann_id"] not in known for ref in refs)
    problems = [problem for report in check_annotations(root) for problem in report.problems]
    assert missing and problems[0].startswith(f"{missing} refs have no counterpart in instances.json")


def test_every_task_of_a_task_file_is_checked(world, capsys) -> None:
    code, out = check([world.path / "tasks.yml", "--sample", 2], capsys)
    tasks = yaml.safe_load((world.path / "tasks.yml").read_text())
    assert code == 0 and all(f"{key}: task {task['name']}" in out for key, task in tasks.items())


def write_task(world, path: Path, key: str, **settings) -> Path:
    tasks = yaml.safe_load((world.path / "tasks.yml").read_text())
    task = {
        name: str(world.path / value) if isinstance(value, str) and value.startswith("datasets/") else value
        for name, value in tasks[key].items()
    }
    path.write_text(yaml.safe_dump({key: {**task, **settings}}))
    return path


def test_a_tasks_missing_features_are_named_by_their_setting(world, tmp_path, capsys) -> None:
    other = world.path / "datasets/flickr30k" / DETECTIONS / "flickr30k_feat.lmdb"
    path = write_task(world, tmp_path / "tasks.yml", "TASK1", features_h5path1=str(other))
    code, out = check([path, "--sample", 1], capsys)
    assert code == 2 and "point features_h5path1 of TASK1 at the feature file that belongs" in out
    path = write_task(world, tmp_path / "tasks.yml", "TASK1", features_h5path1="nowhere.lmdb", dataroot="nowhere")
    code, out = check([path], capsys)
    assert code == 2 and "features_h5path1: nowhere.lmdb not found" in out and "dataroot: nowhere not found" in out


def test_features_of_the_test_images_alone_are_fine_for_testing(world, tmp_path) -> None:
    features = world.path / "datasets/mscoco" / DETECTIONS / "test_feat.lmdb"
    path = write_task(world, tmp_path / "tasks.yml", "TASK1", features_h5path1=str(features), val_split="test")
    reports = check_paths([path])
    assert all(report.fine for report in reports)
    notes = [note for report in reports for note in report.notes]
    assert "features_h5path1 has no image of train: for testing only" in notes
    assert "images of val not compared: the task names train, test" in notes


def test_annotations_are_a_tasks_split_whatever_their_name(world, tmp_path) -> None:
    root = world.path / "datasets" / "flickr30k" / "annotations"
    captions = shutil.copy(root / "valid_ann.jsonl", tmp_path / "mine.jsonl")
    with Path(captions).open("a") as file:
        file.write('{"sentences": ["a"], "img_path": "999999.jpg"}\n')
    path = write_task(world, tmp_path / "tasks.yml", "TASK8", val_annotations_jsonpath=str(captions))
    problems = [problem for report in check_paths([path]) for problem in report.problems]
    assert "images have no features in flickr30k_feat.lmdb; extract features of 999999" in only(problems)


def test_a_split_without_annotations_is_named(world, tmp_path) -> None:
    root = shutil.copytree(world.path / "datasets" / "nlvr2" / "annotations", tmp_path / "nlvr2")
    (root / "dev.jsonl").unlink()
    path = write_task(world, tmp_path / "tasks.yml", "TASK12", dataroot=str(root))
    problems = [problem for report in check_paths([path]) for problem in report.problems]
    assert only(problems) == f"dataroot: no annotations of split dev in {root}; copy them there"


def test_an_incomplete_entry_is_reported(tmp_path) -> None:
    (tmp_path / "tasks.yml").write_text("TASK1: {name: VQA}")
    assert "TASK1 lacks type" in only(check_paths([tmp_path / "tasks.yml"])).problems[0]


def test_features_read_by_the_check_are_those_the_store_gives(flickr_directory) -> None:
    path = flickr_directory / "flickr30k_feat.lmdb"
    assert check_features(path).image_ids[""] == set(open_features(path).keys())
