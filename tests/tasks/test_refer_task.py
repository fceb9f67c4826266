"""RefCOCO's test: both parts and the whole, the candidates' boxes and what they allow, and VOLTA's way to count."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from volta_switch import UserError
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.regions import Regions
from volta_switch.tasks.refer import load_refer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(world):
    return world.config("ctrl_uniter")


def entries_of(task, split):
    return {str(entry.sent_id): entry for entry in load_refer(task.spec.path(task.spec.dataroot), "refcoco+", split)}


def test_the_test_is_of_both_parts_together_and_of_each(world, config):
    task = world.task("refer", config)
    model = world.task_model(task)
    whole, part_a, part_b = (task.test(model, split, 16, CPU) for split in ("test", "testA", "testB"))
    assert whole.metrics["accuracy_testA"] == pytest.approx(part_a.score)
    assert whole.metrics["accuracy_testB"] == pytest.approx(part_b.score)
    count_a, count_b = len(part_a.results), len(part_b.results)
    assert count_a and count_b and len(whole.results) == count_a + count_b
    mean = (count_a * part_a.score + count_b * part_b.score) / (count_a + count_b)
    assert whole.score == whole.metrics["accuracy"] == pytest.approx(mean)
    assert not any(name.startswith("accuracy_") for name in part_a.metrics)


def test_the_ceiling_is_the_share_of_expressions_that_some_box_fits(world, config):
    task = world.task("refer", config)
    task.spec = replace(task.spec, max_region_num=2)  # too few for every referent
    evaluation = task.test(world.task_model(task), "test", 16, CPU)
    dataset = task.dataset("test", training=False)
    fits = [dataset[index]["target"].max() > 0.5 for index in range(len(dataset))]
    assert evaluation.metrics["oracle_ceiling"] == pytest.approx(100 * np.mean(fits))
    assert evaluation.score <= evaluation.metrics["oracle_ceiling"] < 100
    assert evaluation.notes == {"boxes": "detected"}


@pytest.fixture
def annotated(world, config, tmp_path):
    """A world whose task file names features of the annotated boxes: here only the first referent of each image."""
    detected = world.task("refer", config)
    store, path = detected.store("test"), tmp_path / "gt.lmdb"
    boxes = {entry.image_id: entry.box for entry in entries_of(detected, "test").values()}
    write_features(path, [first_box(store[image_id], box) for image_id, box in boxes.items()])
    return world.copy(tmp_path / "world", features_h5path2=str(path))


def first_box(regions, box) -> Regions:
    one = regions.first(1)
    return replace(one, boxes=np.array([box], dtype=np.float32))


def test_annotated_boxes_are_candidates_where_asked_for(annotated, config):
    task = annotated.task("refer", config, boxes="gt")
    evaluation = task.test(annotated.task_model(task), "test", 16, CPU)
    assert evaluation.notes == {"boxes": "gt"}
    assert {result["target"] for result in evaluation.results} == {0}
    assert 0 < evaluation.score == evaluation.metrics["oracle_ceiling"]  # the only box is always chosen
    right = {result["id"] for result in evaluation.results if result["IOU"] > 0.999}
    stored = {entry.image_id: entry.box for entry in entries_of(task, "test").values()}
    assert right >= {name for name, entry in entries_of(task, "test").items() if entry.box == stored[entry.image_id]}


def test_annotated_boxes_need_a_feature_file(world, config):
    task = world.task("refer", config, boxes="gt")
    task.spec = replace(task.spec, features_h5path2="")
    with pytest.raises(UserError, match=r"TASK10 \(refcoco\+\): --boxes gt needs features of the annotated boxes"):
        task.dataset("test", training=False)


@pytest.mark.parametrize("name", ["vqa", "retrieval"])
def test_annotated_boxes_are_refused_where_there_are_none(world, config, name):
    task = world.task(name, config, boxes="gt")
    with pytest.raises(UserError, match="--boxes gt is for RefCOCO's tasks"):
        task.dataset("val", training=False)


@pytest.mark.parametrize("place", ["first", "last"])
def test_the_global_region_is_an_answer_only_in_voltas_way(world, place):
    config = world.config("ctrl_uniter", add_global_imgfeat=place)
    ours, voltas = world.task("refer", config), world.task("refer", config, volta_compat=True)
    dataset = ours.dataset("val", training=False)
    voltas.dataset("val", training=False)
    batch = dataset.collate([dataset[index] for index in range(4)], ours.layout)
    whole = 0 if place == "first" else batch.target.shape[1] - 1
    scores = torch.zeros(*batch.target.shape, 1)
    scores[:, whole] = 9
    box = 1 + ours.layout.boxes_from
    scores[:, box] = 5
    entries = entries_of(ours, "val")
    for row, (our, their) in enumerate(zip(ours.results(scores, batch), voltas.results(scores, batch), strict=True)):
        assert our == {"id": batch.ids[row], "target": 1, "IOU": pytest.approx(float(batch.target[row, box]))}
        image = int(entries[batch.ids[row]].image_id)  # of several expressions
        assert their == {"id": image, "target": whole, "IOU": pytest.approx(float(batch.target[row, whole]))}
    batch.target[:, whole], batch.target[:, box] = 0.9, 0.1
    assert not ours.hits(scores, batch).any() and voltas.hits(scores, batch).all()


def test_padding_is_no_answer_in_voltas_way_either(world, config):
    task = world.task("refer", config, volta_compat=True)
    dataset = task.dataset("val", training=False)
    counts = [len(dataset[index]["target"]) for index in range(len(dataset))]
    few, many = int(np.argmin(counts)), int(np.argmax(counts))
    batch = dataset.collate([dataset[few], dataset[many]], task.layout)
    assert counts[few] < counts[many]
    scores = torch.arange(batch.target.shape[1], dtype=torch.float32).expand(2, -1)[..., None]  # the last slot is best
    assert [result["target"] for result in task.results(scores, batch)] == [counts[few], counts[many]]
