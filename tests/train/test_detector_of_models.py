"""A model remembers which detector its features came from; those of another one give a warning in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from synthetic_world import TASKS
from volta_switch.data.detector_facts import keep_facts
from volta_switch.tasks import features_path, load_task

FACTS = {
    "detector": "the world's",
    "weights": "0123456789",
    "selection": "maxnms",
    "number": "12",
    "input": {"short_side": 360},
    "width": 64,
}
OTHER = {**FACTS, "selection": "caffe"}


@pytest.fixture(scope="module")
def tested(world, tmp_path_factory):
    """A copy of the world, and a model trained on features whose file says where they come from."""
    folder = tmp_path_factory.mktemp("facts")
    copy = world.copy(folder / "world")
    keep_facts(features(copy, "train"), FACTS)
    run = copy.run("train_task", folder / "runs", "ctrl_uniter", "--max_steps", 1, task="vqa")
    return copy, Path(run)


def features(world, split: str) -> Path:
    return features_path(load_task(world.tasks_file, TASKS["vqa"]), split)


def said_of(run: Path) -> dict:
    return json.loads((run / "preprocessor.json").read_text())


def test_facts_travel_from_the_features_to_the_model(tested, world, tmp_path):
    _, run = tested
    assert said_of(run)["detector"] == FACTS and said_of(run)["locations"] == 5
    plain = world.run("train_task", tmp_path, "ctrl_uniter", "--max_steps", 1, task="vqa")
    assert "detector" not in said_of(Path(plain))
    card = (run / "README.md").read_text()
    assert "the world&#39;s" in card or "the world's" in card


def test_features_of_another_selection_are_a_warning_in_words(tested, tmp_path, capsys):
    world, run = tested
    flags = ["--from_pretrained", run, "--split", "val"]
    world.run("eval_task", tmp_path / "same", "ctrl_uniter", *flags, task="vqa")
    assert "warning" not in capsys.readouterr().err
    keep_facts(features(world, "val"), OTHER)
    try:
        world.run("eval_task", tmp_path / "other", "ctrl_uniter", *flags, task="vqa")
        line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("warning"))
        assert "holds other features than what" in line and "regions are chosen by caffe, not maxnms" in line
        again = world.run(
            "train_task", tmp_path / "tuned", "ctrl_uniter", "--max_steps", 1, "--from_pretrained", run, task="vqa"
        )
        assert "regions are chosen by caffe, not maxnms" in capsys.readouterr().err
        assert said_of(Path(again))["detector"] == OTHER
    finally:
        keep_facts(features(world, "val"), FACTS)


def test_pretraining_remembers_the_features_of_its_pairs(tested, tmp_path, capsys):
    world, _ = tested
    folder = world.captions / "resnet101_faster_rcnn_genome_imgfeats" / "volta"
    keep_facts(folder / "training_feat_all.lmdb", FACTS)
    keep_facts(folder / "validation_feat_all.lmdb", OTHER)
    run = world.run("train_concap", tmp_path, "ctrl_uniter", "--max_steps", 1)
    assert said_of(Path(run))["detector"] == FACTS
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("warning"))
    assert "validation_feat_all.lmdb holds other features than those of" in line
