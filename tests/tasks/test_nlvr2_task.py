"""NLVR2: VOLTA's loss, accuracy and consistency, ties, validation features, MaRVL's files, the official CSV."""

import json
from dataclasses import replace

import pytest
import torch

from volta_switch.data.tokenizer import Tokenizer
from volta_switch.tasks import DataOptions, build_task, load_task
from volta_switch.tasks.nlvr2 import submission

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def make_task(world):
    def make(**changes):
        config = world.config("ctrl_uniter")
        spec = replace(load_task(world.tasks_file, "NLVR2"), **changes)
        return build_task(spec, config, Tokenizer(config.bert_model), DataOptions())

    return make


@pytest.fixture
def task(make_task):
    return make_task()


def first_batch(task, size):
    dataset = task.dataset("dev", training=False)
    return dataset.collate([dataset[index] for index in range(size)], task.layout)


def test_the_loss_is_the_mean_cross_entropy_of_the_two_labels(world, task):
    batch = first_batch(task, 6)
    with torch.inference_mode():
        scores = task.scores(world.task_model(task), batch)
    assert scores.shape == batch.target.shape == (6, 2) and batch.target.sum(1).tolist() == [1.0] * 6
    probability, target = scores.double().sigmoid(), batch.target.double()
    each = -(target * probability.log() + (1 - target) * (1 - probability).log())
    assert task.loss(scores, batch).item() == pytest.approx(each.mean().item(), rel=1e-5)


def test_a_statement_is_judged_by_both_of_its_images(world, task):
    """Row 2i and row 2i + 1 are one statement's; exchanging the images of one changes its scores and no other's."""
    batch, model = first_batch(task, 3), world.task_model(task)
    with torch.inference_mode():
        before = task.scores(model, batch)
        for name in ("image_feat", "image_loc", "image_attention_mask"):
            batch.inputs[name] = batch.inputs[name][[0, 1, 3, 2, 4, 5]]
        after = task.scores(model, batch)
    assert (before - after).abs().amax(1).gt(1e-4).tolist() == [False, True, False]


def test_every_statement_counts_once_and_consistency_is_by_sentence(world, task):
    model = world.task_model(task)
    whole, odd = (task.evaluate(model, task.loader("dev", size, False), CPU) for size in (64, 7))
    lines = [json.loads(line) for line in (task.spec.path(task.spec.dataroot) / "dev.jsonl").read_text().splitlines()]
    by_name = {line["identifier"]: line for line in lines}
    assert sorted(result["identifier"] for result in whole.results) == sorted(by_name)
    hits = {}
    for result in whole.results:
        line = by_name[result["identifier"]]
        assert set(result) == {"identifier", "sentence", "prediction", "label"}
        assert result["sentence"] == line["sentence"] and bool(result["label"]) == (line["label"] == "True")
        hits.setdefault(line["sentence"], []).append(result["prediction"] == result["label"])
    right = [hit for some in hits.values() for hit in some]
    assert whole.score == whole.metrics["accuracy"] == pytest.approx(100 * sum(right) / len(right))
    assert whole.metrics["consistency"] == pytest.approx(100 * sum(map(all, hits.values())) / len(hits))
    assert odd.metrics == pytest.approx(whole.metrics, rel=1e-5)
    assert max(map(len, hits.values())) > 1  # or consistency would be accuracy


def test_a_tie_is_no_win(task):
    batch = first_batch(task, 4)
    labels = batch.target.argmax(1)
    scores = torch.zeros(4, 2)
    scores[1, labels[1]] = 1
    scores[2, 1 - labels[2]] = 1
    scores[3] = float("nan")
    assert task.hits(scores, batch).tolist() == [False, True, False, False]
    predictions = [result["prediction"] for result in task.results(scores, batch)]
    assert predictions == [-1, labels[1], 1 - labels[2], -1]


def test_validation_may_have_a_feature_file_of_its_own(make_task, tmp_path):
    task = make_task(features_h5path2=str(tmp_path / "dev_feat.lmdb"))
    task.dataset("train", training=True)
    with pytest.raises(Exception, match=r"dev_feat\.lmdb"):
        task.dataset("dev", training=False)


def test_another_file_of_annotations_may_be_marvls(make_task, world, tmp_path):
    line = json.loads((world.path / "datasets/nlvr2/annotations/dev.jsonl").read_text().splitlines()[0])
    pair = line["identifier"].rpartition("-")[0]
    marvl = {"left_img": f"x/{pair}-img0.jpg", "right_img": f"{pair}-img1.jpg", "caption": "a ball", "label": True}
    path = tmp_path / "marvl.jsonl"
    path.write_text(json.dumps(marvl) + "\n")
    task = make_task(val_annotations_jsonpath=str(path))
    evaluation = task.test(world.task_model(task), "dev", 4, CPU)
    assert [(result["sentence"], result["label"]) for result in evaluation.results] == [("a ball", 1)]
    assert len(task.dataset("train", training=True)) > 1


def test_the_official_file_has_a_line_for_each_statement():
    results = [{"identifier": f"test1-0-0-{n}", "prediction": choice} for n, choice in enumerate((1, 0, -1))]
    assert submission(results) == "test1-0-0-0,true\ntest1-0-0-1,false\ntest1-0-0-2,false\n"


def test_a_model_is_trained_and_tested_through_the_entry_points(world, tmp_path):
    flags = ("--task", "NLVR2", "--num_epoch", 1, "--batch_size", 40)
    run = world.run("train_task", tmp_path, "ctrl_uniter", *flags, task="vqa")
    best = run / "pytorch_model_best.bin"
    flags = ("--task", "NLVR2", "--from_pretrained", best, "--split", "test")
    evaluation = world.run("eval_task", tmp_path, "ctrl_uniter", *flags, task="vqa")
    written = json.loads((tmp_path / "NLVR2_ctrl_uniter" / "test_metrics.json").read_text())
    assert written["task"] == "TASK12" and written["consistency"] == evaluation.metrics["consistency"]
    results = json.loads((tmp_path / "NLVR2_ctrl_uniter" / "test_result.json").read_text())
    assert len(submission(results).splitlines()) == len(results) > 0
