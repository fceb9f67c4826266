"""Retrieval's test: where a split's captions lie, COCO's folds, and VOLTA's ties."""

import json
from dataclasses import replace

import numpy as np
import pytest

from volta_switch import UserError
from volta_switch.tasks import retrieval
from volta_switch.tasks.metrics import mean_of_folds, retrieval_metrics
from volta_switch.tasks.retrieval import annotations_of


@pytest.fixture(scope="module")
def config(world):
    return world.config("ctrl_uniter")


@pytest.fixture
def captions_of(world, config):
    """The index of each test caption's image."""
    return world.task("retrieval", config).dataset("test", training=False).annotations.caption_image


def test_a_multiple_of_the_fold_is_also_ranked_fold_by_fold(world, config, captions_of, monkeypatch):
    images = int(captions_of.max()) + 1
    scores = np.random.default_rng(0).random((len(captions_of), images), dtype=np.float32)
    task = world.task("retrieval", config)
    whole = retrieval_metrics(scores, captions_of)
    assert images % 2 == 0 and task.ranked(scores, captions_of).metrics == whole  # 1000 are a fold
    monkeypatch.setattr(retrieval, "FOLD", images)
    assert task.ranked(scores, captions_of).metrics == whole  # one fold is the whole
    monkeypatch.setattr(retrieval, "FOLD", images // 2)
    folds = {f"{name}_1k": value for name, value in mean_of_folds(scores, captions_of, images // 2).items()}
    assert task.ranked(scores, captions_of).metrics == whole | folds and folds["ir_r1_1k"] > whole["ir_r1"]
    monkeypatch.setattr(retrieval, "FOLD", images - 1)
    assert task.ranked(scores, captions_of).metrics == whole  # no multiple


def test_ties_are_no_wins_unless_voltas_sorting_is_asked_for(world, config, captions_of, monkeypatch):
    images = int(captions_of.max()) + 1
    scores = np.zeros((len(captions_of), images), dtype=np.float32)
    ours, voltas = (
        world.task("retrieval", config, volta_compat=compat).ranked(scores, captions_of) for compat in (False, True)
    )
    assert ours.metrics["ir_r1"] == 0 and ours.metrics["ir_mean_rank"] == images
    assert voltas.metrics == retrieval_metrics(scores, captions_of, volta_ties=True)
    assert voltas.metrics["ir_r1"] == pytest.approx(100 / images)  # one image comes first for every caption
    assert ours.results[0] == list(range(min(images, 20)))
    assert voltas.results[0] == np.argsort(-scores[0].astype(np.float64))[:20].tolist()
    monkeypatch.setattr(retrieval, "FOLD", 1)
    assert world.task("retrieval", config).ranked(scores, captions_of).metrics["ir_r1_1k"] == 100


@pytest.mark.parametrize("compat", [False, True])
def test_the_flag_reaches_the_negatives(world, config, compat):
    dataset = world.task("retrieval", config, volta_compat=compat).dataset("train", training=True)
    drawn = {int(row["id"]) for index in range(len(dataset)) for row in dataset[index][1::2]}
    assert (max(drawn) < 5) == compat


def test_other_splits_lie_beside_under_voltas_names(world, config, tmp_path):
    task = world.task("retrieval", config)
    lines = [{"id": 7, "sentences": ["a", "b"]}, {"id": 581929, "sentences": ["c"]}]
    for name in ("valid", "test", "test1k"):
        (tmp_path / f"{name}_ann.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    paths = {"train_annotations_jsonpath": "", "val_annotations_jsonpath": str(tmp_path / "test_ann.jsonl")}
    task.spec = replace(task.spec, name="RetrievalCOCO", val_split="test", **paths)
    for split, name in (("test", "test"), ("test1k", "test1k"), ("val", "valid")):
        assert annotations_of(task.spec, split).source == str(tmp_path / f"{name}_ann.jsonl")
        assert task.dataset(split, training=False).annotations.image_ids == ["7", "581929"]  # COCO's ids
    with pytest.raises(UserError, match=r"test2_ann\.jsonl: no such file"):
        task.dataset("test2", training=False)
