"""A finished study of two models on one task, run once through real processes."""

from concurrent.futures import Future

import pytest
import yaml

from synthetic_world import SIZES
from volta_switch.study.plan import WORLDS_FIELDS, load_study
from volta_switch.study.run import run_study

WORLD = {"seed": 0, "images": 20, "eval_images": 10, "render": False}


@pytest.fixture(scope="session")
def plan(world):
    """A small study as its file would hold it; tests change it."""
    fields = {**world.overrides, **SIZES}
    return {
        "name": "small",
        "world": WORLD,
        "models": ["demo/ctrl_uniter", "demo/switchbert"],
        "set": [f"{key}={value}" for key, value in fields.items() if key not in WORLDS_FIELDS],
        "pretraining": {"num_train_epochs": 2, "train_batch_size": 10, "learning_rate": 5e-3, "save_best_only": True},
        "tasks": {"TASK10": {"train": {"num_epoch": 2, "batch_size": 16, "lr": 5e-3}, "test": {"split": "test"}}},
        "routes": {"arms": ["switchbert"], "interventions": True},
    }


@pytest.fixture
def study_of(tmp_path):
    """Writes a plan to a file and loads it."""

    def load(plan):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(plan))
        return load_study(path)

    return load


@pytest.fixture(scope="session")
def finished(plan, tmp_path_factory):
    """The study and its folder; read-only."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    study = load_study(folder / "plan.yaml")
    run_study(study, folder / "out", jobs=2)
    return study, folder / "out"


class InThisProcess:
    """Stands in for a pool of processes where a test needs none."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def submit(self, function, *arguments):
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr("volta_switch.study.run.ProcessPoolExecutor", InThisProcess)
