"""`volta-switch data check` of a task file: which tasks it looks at, and what it says that it did not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from small_regions import DETECTIONS
from volta_switch import cli
from volta_switch.data.feature_files import open_features
from volta_switch.data_tools.check import Report, reports_text
from volta_switch.data_tools.check_annotations import check_annotations
from volta_switch.data_tools.check_tasks import check_paths
from volta_switch.data_tools.repack import repack
from volta_switch.errors import UserError


@pytest.fixture
def partly(world, tmp_path) -> Path:
    """The task file of somebody who has VQA's data alone; all but the first task's lie elsewhere."""
    tasks = yaml.safe_load((world.path / "tasks.yml").read_text())
    for key, task in tasks.items():
        for name, value in task.items():
            if isinstance(value, str) and value.startswith("datasets/"):
                task[name] = str(world.path / value) if key == "TASK1" else f"elsewhere/{value}"
    path = tmp_path / "tasks.yml"
    path.write_text(yaml.safe_dump(tasks))
    return path


def of(reports: list[Report], key: str) -> Report:
    return next(report for report in reports if report.path.endswith(f", {key}"))


def check(argv, capsys) -> tuple[int, str]:
    code = 0
    try:
        cli.main(["data", "check", *map(str, argv)])
    except SystemExit as error:
        code = error.code
    return code, capsys.readouterr().out


def test_other_tasks_that_are_not_there_are_not_wrong(partly, capsys) -> None:
    code, out = check([partly, "--sample", 2], capsys)
    assert code == 0 and "WRONG" not in out
    assert "note: not looked at: its dataroot elsewhere/datasets" in out and "all fine; " in out
    assert out.strip().endswith("notes say what was not looked at")


def test_a_task_that_is_asked_for_must_be_there(partly, capsys) -> None:
    assert check([partly, "--sample", 2, "--task", "VQA"], capsys)[0] == 0
    for name in ("TASK8", "8", "RetrievalFlickr30k"):
        code, out = check([partly, "--sample", 2, "--task", "1", "--task", name], capsys)
        assert code == 2 and "WRONG: dataroot: elsewhere/datasets" in out and "TASK10" not in out
    with pytest.raises(UserError, match="no task 'nosuch'"):
        check_paths([partly], 1, ["nosuch"])
    with pytest.raises(UserError, match="--task 1: no task file is named; add one"):
        check_paths([partly.parent], 1, ["1"])


def test_where_no_task_is_there_all_are_wrong(partly) -> None:
    tasks = yaml.safe_load(partly.read_text())
    del tasks["TASK1"]
    partly.write_text(yaml.safe_dump(tasks))
    assert not any(report.fine for report in check_paths([partly]))


@pytest.mark.parametrize("labels", [5, 3129])
def test_a_head_of_another_size_than_the_answers_is_wrong(partly, labels) -> None:
    tasks = yaml.safe_load(partly.read_text())
    assert of(check_paths([partly], 1), "TASK1").fine
    answers = tasks["TASK1"]["num_labels"]
    tasks["TASK1"]["num_labels"] = labels
    partly.write_text(yaml.safe_dump(tasks))
    (problem,) = of(check_paths([partly], 1), "TASK1").problems
    assert (
        f"the head has {labels} outputs, trainval_ans2label.pkl {answers} answers; set num_labels to {answers}"
        in problem
    )


def test_what_a_check_did_not_look_at_is_said(world, tmp_path) -> None:
    root = shutil.copytree(world.path / "datasets" / "vqa" / "annotations", tmp_path / "annotations")
    (root / "README.txt").write_text("x")
    (root / "cache" / "VQA_train_bert_23.pkl").write_bytes(b"x")
    (root / "other.json").write_text('{"x": [1]}')
    report = check_paths([root])[-1]
    assert report.notes == ["not looked at: README.txt, cache/VQA_train_bert_23.pkl, other.json"]
    assert report.fine and not report.looked_at
    flickr = shutil.copytree(world.path / "datasets" / "flickr30k" / "annotations", tmp_path / "flickr30k")
    shutil.copy(flickr / "valid_ann.jsonl", flickr / "mine_ann.jsonl")
    tasks = yaml.safe_load((world.path / "tasks.yml").read_text())
    names = {f"{part}_annotations_jsonpath": str(flickr / f"{file}_ann.jsonl") for part, file in
             (("train", "train"), ("val", "valid"))}  # fmt: skip
    features = str(world.path / "datasets/flickr30k" / DETECTIONS / "flickr30k_feat.lmdb")
    task = {**tasks["TASK8"], **names, "dataroot": str(flickr), "features_h5path1": features}
    (tmp_path / "tasks.yml").write_text(yaml.safe_dump({"TASK8": task}))
    notes = of(check_paths([tmp_path / "tasks.yml"], 1), "TASK8").notes
    assert any(note.startswith("not looked at: mine_ann.jsonl") for note in notes)


def test_a_sample_of_a_compact_store_says_that_checksums_were_not_compared(world, tmp_path) -> None:
    repack([world.path / "datasets/flickr30k" / DETECTIONS / "flickr30k_feat.lmdb"], tmp_path / "store")
    assert "checksums were not compared (--sample)" in check_paths([tmp_path / "store"], 2)[0].notes
    assert "checksums" not in reports_text(check_paths([tmp_path / "store"]))


def test_images_are_compared_in_any_spelling(world, tmp_path) -> None:
    store = open_features(world.path / "datasets/flickr30k" / DETECTIONS / "flickr30k_feat.lmdb")
    line = {"sentences": ["a"], "img_path": f"COCO_val2014_{int(store.keys()[0]):012d}.jpg"}
    (tmp_path / "train_ann.jsonl").write_text(json.dumps(line))
    reports = check_paths([store.path, tmp_path / "train_ann.jsonl"], 1)
    assert all(report.fine for report in reports) and reports[1].image_ids == {"train": {store.keys()[0]}}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train.jsonl", {"Flickr30K_ID": "7", "sentence2": None, "gold_label": "neutral"}, "sentence2 is null"),
        ("train.jsonl", {"identifier": "a-0", "sentence": 5, "label": True}, "sentence is 5, expected a text"),
        ("train.jsonl", {"sentences": [None], "id": "7"}, "sentences is no list of texts"),
        ("train.json", {"questions": [{"question_id": 1, "image_id": 1, "question": None}]}, "question is null"),
        ("testdev.json", {"1": {"imageId": "1", "question": ["a"]}}, "question is a list"),
    ],
)
def test_texts_that_are_none_are_bad_entries(tmp_path, name, content, says) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    (report,) = check_annotations(tmp_path / name)
    assert report.bad_records == 1 and says in report.bad_examples[0]


def test_annotated_boxes_are_compared_with_their_images(tmp_path) -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(100, 200, (8, 2)).tolist()
    boxes = [{"id": i, "image_id": i, "bbox": [x, y, x + 90, y + 90]} for i, (x, y) in enumerate(corners)]
    sizes = [{"id": i, "width": 300, "height": 300} for i in range(7)]
    (tmp_path / "instances.json").write_text(json.dumps({"images": sizes, "annotations": boxes, "categories": []}))
    (report,) = check_annotations(tmp_path / "instances.json")
    assert "have boxes outside of the image; most likely they fit as x1, y1, x2, y2" in report.problems[0]
    assert "boxes of 1 images were not compared with the image" in report.notes[-1]
