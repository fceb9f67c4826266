"""Runs in folders whose names must appear on no card, each trained once."""

import shutil
from functools import cache

import pytest

from train.conftest import finetuned, pretrained  # noqa: F401  fixtures

TASKS = {"refer": ("train_task", "eval_task", "test"), "retrieval": ("train_task", "eval_retrieval", "val")}
TASKS |= {"vqa": ("train_task", "eval_task", "val")}


@pytest.fixture(scope="session")
def evaluated(world, finetuned, tmp_path_factory):  # noqa: F811
    """A task -> the folder of a fine-tuned model that was tested, its results elsewhere."""

    @cache
    def run(task):
        _, entry, split = TASKS[task]
        own = tmp_path_factory.mktemp("secretplace")
        model = own / "secretname"
        shutil.copytree(finetuned("ctrl_uniter", task), model)
        flags = ("--from_pretrained", model / "pytorch_model_best.bin", "--split", split)
        world.run(entry, own / "results", "ctrl_uniter", *flags, task=task)
        return model

    return run
