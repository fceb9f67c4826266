"""The command lines of a study's cells: what the study says itself, then the flags that its file gives.

A later flag wins on a command line, so that a given flag must not be one that the study says itself:
``given_flags`` refuses those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volta_switch.study.arms import Arm

DATA_KEYS = ("tasks_config_file", "features_path", "annotations_path")  # of a study's section data
DATA_ROOT = "data_root"  # which it may have, too


@dataclass(frozen=True)
class Places:
    """Where an arm's data lie."""

    tasks_config_file: Path
    features_path: Path
    annotations_path: Path
    data_root: str = ""  # where the task file's paths begin
    overrides: tuple[str, ...] = ()  # the world's vocabulary
    identity: Any = None  # what the data are, wherever they lie


def pretraining_command(arm: Arm, seed: int, where: Places, row: Path) -> list[str]:
    """Of ``train_concap``, but for the flags of the arm's ``pretraining``."""
    data = ["--annotations_path", str(where.annotations_path), "--features_path", str(where.features_path)]
    return [*_common(arm, seed, where, row), *data, "--logdir", str(row / "logs"), "--resume"]


def training_command(arm: Arm, seed: int, where: Places, task: str, row: Path, start: str) -> list[str]:
    """Of ``train_task``, but for the flags of the task's ``train``; ``start``: the pre-training's weights, if any."""
    command = [*_common(arm, seed, where, row), *_task(where, task), "--logdir", str(row / "logs"), "--resume"]
    return [*command, "--from_pretrained", start] if start else command


def test_command(arm: Arm, seed: int, where: Places, task: str, tuned: Path) -> list[str]:
    """Of an evaluation of the fine-tuned weights in a run's folder, but for the flags of the task's ``test``."""
    best = ["--from_pretrained", str(tuned / "pytorch_model_best.bin")]
    return [*_common(arm, seed, where, tuned.parent), *_task(where, task), *best, "--overwrite"]


def routes_command(arm: Arm, seed: int, where: Places, task: str, tuned: Path, out: Path) -> list[str]:
    """Of ``routes`` of the fine-tuned weights, but for the flags of the study's ``routes``."""
    return [*test_command(arm, seed, where, task, tuned), "--out", str(out)]


def planned_command(entry: str, pretrained: bool) -> list[str]:
    """What a study says itself to an entry point, with other values: to know the flags by.

    ``pretrained``: whether a fine-tuning run starts from a pre-training run of the study.
    """
    arm, where, folder = Arm("", "switchbert"), Places(Path(), Path(), Path(), "data", overrides=("a=1",)), Path("run")
    commands: dict[str, Callable[[], list[str]]] = {
        "train_concap": lambda: pretraining_command(arm, 0, where, folder),
        "train_task": lambda: training_command(arm, 0, where, "1", folder, "weights" if pretrained else ""),
        "eval_task": lambda: test_command(arm, 0, where, "1", folder),
        "eval_retrieval": lambda: test_command(arm, 0, where, "1", folder),
        "routes": lambda: routes_command(arm, 0, where, "1", folder, folder / "routes.json"),
    }
    return commands[entry]()


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """``{"lr": 1e-3, "adam_betas": [0.9, 0.98], "resume": true}`` as command-line flags; false and null: left out."""
    flags: list[str] = []
    for key, value in values.items():
        if value is False or value is None:
            continue
        flags.append(f"--{key}")
        if isinstance(value, list):
            flags += [str(item) for item in value]
        elif value is not True:
            flags.append(str(value))
    return flags


def _task(where: Places, task: str) -> list[str]:
    root = ["--data_root", where.data_root] if where.data_root else []
    return ["--tasks_config_file", str(where.tasks_config_file), *root, "--task", task]


def _common(arm: Arm, seed: int, where: Places, folder: Path) -> list[str]:
    overrides = [part for override in (*arm.overrides, *where.overrides) for part in ("--set", override)]
    return ["--config_file", arm.model, *overrides, "--seed", str(seed), "--output_dir", str(folder)]
