"""Boxes that cannot be what they are taken for stop a task before it begins, and a ceiling next to 0 an evaluation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from volta_switch import UserError
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.tasks.refer import ReferDataset
from volta_switch.train import evaluation, finetuning

CPU = torch.device("cpu")


def as_shares(boxes, size):
    return boxes / size


def as_widths(boxes, _):
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def far_away(boxes, _):
    return np.tile([0, 0, 3, 3], (len(boxes), 1))


def features(world, name, path, change) -> Path:
    """Write a task's features with other boxes."""
    task = world.task(name, world.config("ctrl_uniter"))
    store = task.store(task.spec.train_split)
    images = []
    for regions in map(store.__getitem__, store.keys()):
        size = np.array([regions.image_w, regions.image_h] * 2)
        images.append(replace(regions, boxes=change(regions.boxes, size).astype(np.float32)))
    write_features(path, images)
    return path


def with_features(task, path):
    task.options = replace(task.options, features=str(path))
    return task


@pytest.mark.parametrize("name", ["refer", "vqa", "retrieval"])
@pytest.mark.parametrize(("change", "says"), [(as_shares, "shares of the image"), (as_widths, "fit as x, y, width")])
def test_every_task_refuses_strange_boxes(world, tmp_path, name, change, says) -> None:
    task = with_features(
        world.task(name, world.config("ctrl_uniter")), features(world, name, tmp_path / "x_feat.lmdb", change)
    )
    with pytest.raises(UserError, match=rf"x_feat\.lmdb: .* images .* have boxes .*{says}"):
        task.loader(task.spec.train_split, 4, training=True)


@pytest.mark.parametrize("start", [finetuning.main, evaluation.main])
def test_a_command_stops_in_one_line_before_anything_is_written(world, tmp_path, start) -> None:
    path = features(world, "vqa", tmp_path / "x_feat.lmdb", as_shares)
    script = "train_task" if start is finetuning.main else "eval_task"
    flags = [*world.flags(script, tmp_path / "out", "ctrl_uniter", "vqa"), "--val_features_lmdbpath", path]
    if script == "train_task":
        flags += ["--train_features_lmdbpath", path]
    else:
        model = world.task_model(world.task("vqa", world.config("ctrl_uniter")))
        torch.save(model.state_dict(), tmp_path / "weights.pt")
        flags += ["--from_pretrained", tmp_path / "weights.pt"]
    with pytest.raises(UserError, match="shares of the image"):
        start([str(flag) for flag in flags])
    assert not list((tmp_path / "out").rglob("*.bin"))


CHANGES = {
    "corners": (lambda x, y, w, h: [x, y, x + w, y + h], "most likely they fit as x1, y1, x2, y2, where COCO's"),
    "shares": (lambda x, y, w, h: [x / 480, y / 360, w / 480, h / 360], "all within 0..1"),
    "no area": (lambda x, y, w, h: [x, y, 0, 0], "without area"),
    "negative": (lambda x, y, w, h: [x, y, -w, -h], "with x2 < x1"),
    "another size": (lambda x, y, w, h: [9 * x + 500, 9 * y + 500, 9 * w, 9 * h], "outside of the image"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_annotated_boxes_that_are_strange_are_refused(world, tmp_path, name) -> None:
    task = world.task("refer", world.config("ctrl_uniter"))
    change, says = CHANGES[name]
    root = shutil.copytree(task.spec.path(task.spec.dataroot), tmp_path / "annotations")
    path = root / task.spec.name / "instances.json"
    content = json.loads(path.read_text())
    for item in content["annotations"]:
        item["bbox"] = change(*item["bbox"])
    path.write_text(json.dumps(content))
    task.spec = replace(task.spec, dataroot=str(root))
    with pytest.raises(UserError, match=rf"instances\.json: of the annotated boxes, .*{says}"):
        task.dataset("train", training=True)


def test_regions_of_other_images_are_refused_by_their_ceiling(world, tmp_path, monkeypatch) -> None:
    path = features(world, "refer", tmp_path / "x_feat.lmdb", far_away)
    task = with_features(world.task("refer", world.config("ctrl_uniter")), path)
    says = r"x_feat\.lmdb: a region overlaps .* for 0 of \d+ expressions, .*oracle ceiling 0%.*instances\.json"
    with pytest.raises(UserError, match=says):
        task.dataset("train", training=True)
    monkeypatch.setattr(ReferDataset, "check_boxes", lambda *_: None)
    with pytest.raises(UserError, match=says):
        task.test(world.task_model(task), "test", 16, CPU)
