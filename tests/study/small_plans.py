"""Plans of a study as its file would hold them; tests change them."""

from pathlib import Path

DEMO = Path(__file__).parents[2] / "studies" / "demo.yaml"
MINIMAL = {"models": ["demo/ctrl_uniter"], "tasks": {"TASK10": None}, "world": {}}
ARMS = {"first": {"model": "demo/switchbert"}, "second": {"model": "demo/switchbert"}}
SHARED = {
    "models": None,
    "tasks": {"TASK10": {"train": {"lr": 1e-3, "batch_size": 8}}},
    "world": {"images": 20},
    "pretraining": {"learning_rate": 1e-3, "train_batch_size": 64},
    "seeds": [0, 1],
}


def of_arms(other, **table):
    arms = {**ARMS, "second": {**ARMS["second"], **other}}
    return {**SHARED, "arms": arms, "tables": {"t": table}}
