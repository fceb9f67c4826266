"""Runs that several tests look at, each trained once."""

from functools import cache

import pytest

from train.short_runs import FINETUNING, PRETRAINING


@pytest.fixture(scope="session")
def pretrained(world, tmp_path_factory):
    """A model's name -> the folder of a short pre-training run."""

    @cache
    def run(model):
        return world.run("train_concap", tmp_path_factory.mktemp("pretrained"), model, *PRETRAINING)

    return run


@pytest.fixture(scope="session")
def finetuned(world, pretrained, tmp_path_factory):
    """A model's name and a task -> the folder of a short fine-tuning run that started from ``pretrained``."""

    @cache
    def run(model, task):
        start = pretrained(model) / "pytorch_model_best.bin"
        out = tmp_path_factory.mktemp("finetuned")
        return world.run("train_task", out, model, *FINETUNING, "--from_pretrained", start, task=task)

    return run
