"""Small models with random weights, and the features that their images are in."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from predict.asked_tasks import features_of, model_folder, task_of


@pytest.fixture(scope="session")
def asked(world, tmp_path_factory):
    """asked(key): a model of a task, its folder, the features of its test split; made once."""
    made = {}

    def of(key, model="switchbert"):
        if (key, model) not in made:
            task = task_of(world, key, model)
            folder = model_folder(task, tmp_path_factory.mktemp("models") / "model")
            made[key, model] = SimpleNamespace(task=task, folder=folder, features=features_of(task, "test"))
        return made[key, model]

    return of
