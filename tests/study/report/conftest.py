"""A study of three arms and three seeds as its runs would have left it, without any training; one arm is unfinished."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from volta_switch.files import write_json
from volta_switch.study.plan import load_study
from volta_switch.study.planned_runs import note_finished
from volta_switch.study.records import StudyResults
from volta_switch.study.run_plan import RunPlan, plan_of
from volta_switch.study.study_data import world_folder
from volta_switch.study.table import make_tables
from volta_switch.world import write_world

HOSTILE = '<script>alert("run")</script><img src=x onerror=alert(1)> & "it"'
SCORES = {"ctrl_uniter": (60.0, 62.0, 61.0), "switchbert": (75.0, 77.2, 76.1), "top-1": (75.5, 76.0, 70.0)}
STUDY: dict[str, Any] = {
    "name": "small & <b>bold</b>",
    "world": {"seed": 0, "images": 20, "eval_images": 10, "render": False, "data_sets": ["concap", "refer"]},
    "seeds": [0, 1, 2],
    "minimum_effect": 30.0,
    "models": ["demo/ctrl_uniter", "demo/switchbert"],
    "arms": {"top-1": {"model": "demo/switchbert", "set": ["switch.top_k=1"]}},
    "pretraining": {"num_train_epochs": 2, "learning_rate": 1e-3},
    "tasks": {"TASK10": {"train": {"num_epoch": 2}, "test": {"split": "test"}}},
    "routes": {"arms": ["switchbert", "top-1"], "seeds": 2},
    "tables": {
        "main": {
            "title": f"Side by side {HOSTILE}",
            "arms": ["ctrl_uniter", "switchbert"],
            "published": {"switchbert": {"refcoco+ accuracy": HOSTILE}},
            "claims": [
                {"text": HOSTILE, "better": "switchbert", "worse": "ctrl_uniter", "task": "TASK10",
                 "metric": "accuracy", "source": HOSTILE},
                {"text": "By twenty points", "better": "switchbert", "worse": "ctrl_uniter", "task": "TASK10",
                 "metric": "accuracy", "at_least": 20},
                {"text": "By fifteen", "better": "switchbert", "worse": "ctrl_uniter", "task": "TASK10",
                 "metric": "accuracy", "at_least": 15},
            ],
        },
        "top-k": {
            "title": "Active modes",
            "arms": ["top-1", "switchbert"],
            "varies": ["model.switch.top_k"],
            "flops": True,
            "dial": {"label": HOSTILE, "series": {HOSTILE: {"top-1": 1, "switchbert": 4}}},
            "claims": [
                {"text": "Four beat one", "better": "switchbert", "worse": "top-1", "task": "TASK10",
                 "metric": "accuracy"},
            ],
        },
    },
}  # fmt: skip
CHOSEN = ["J SS1", "J SS1", "CS J0", "CS J0", "SS SC2"]  # two layers
ROUTES: dict[str, Any] = {
    **{"task": "TASK10", "name": "refcoco+", "split": "test", "metric": "accuracy", "samples": 5},
    "switch": {"modes": ["SS", "SC", "CS", "J"], "inputs": ["l-1", "text l-2", "vision l-2"]},
    "metrics": {"accuracy": 75.0},
    "flops per pair": {"training_executed": 2e6, "inference_executed": 1e6, "training_paths": 3e6,
                       "inference_paths": 9e5},
    "architectures": {
        **{"different": 3, "entropy": 1.5},
        "most frequent": [
            {"route": route, "share": CHOSEN.count(route) / 5, "samples": CHOSEN.count(route)}
            for route in dict.fromkeys(CHOSEN)
        ],
    },
    "layers": [
        {"layer": 1, "modes": {"SS": 0.2, "SC": 0.0, "CS": 0.4, "J": 0.4}},
        {"layer": 2, "modes": {"SS": 0.4, "SC": 0.2, "CS": 0.0, "J": 0.4}},
    ],
    "cross-layer": {"text from l-2": 0.4, "vision from l-2": 0.2},
    "whole routes": [
        {"kind": "most frequent", "samples": 5, "rerouted": 3, "accuracy": 74.5, "change": -0.5},
        {"kind": "shuffled", "samples": 5, "rerouted": 4, "accuracy": 73.0, "change": -2.0},
    ],
    "interventions": [
        {"kind": kind, "block": block, "layer": layer, "option": option, "samples": 5, "rerouted": 2, "change": -1.5,
         "accuracy": 73.5}
        for kind in ("force", "forbid")
        for block, layer, option in (("modes", 1, "J"), ("modes", 2, "SS"), ("inputs", 2, "text l-2"))
    ],
    "per sample": {
        **{"ids": list("abcde"), "images": list("12345"), "texts": [HOSTILE] * 5, "routes": CHOSEN},
        "text length": [3, 4, 5, 6, 7],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """A study's plan over its folder, and its tables as far as they are finished."""

    plan: RunPlan
    tables: StudyResults


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Written:
    """Read-only. Of top-1, seed 2 has begun its task and is not finished, and its seeds 0 and 1 ran elsewhere."""
    return write_study(tmp_path_factory.mktemp("report"), {("top-1", 2): "begun"})


@pytest.fixture(scope="session")
def unfinished(tmp_path_factory) -> Written:
    """Read-only. UNITER alone is finished, Switch-BERT's tasks are not begun."""
    others = {(arm, seed): "not begun" for arm in ("switchbert", "top-1") for seed in range(3)}
    return write_study(tmp_path_factory.mktemp("unfinished"), others)


def write_study(root: Path, states: dict[tuple[str, int], str]) -> Written:
    (root / "study.yaml").write_text(yaml.safe_dump(STUDY))
    study, folder = load_study(root / "study.yaml"), root / "out"
    arm = study.arms["switchbert"]
    write_world(world_folder(study, arm, folder), **STUDY["world"])
    plan = plan_of(study, folder)
    for cell in plan.runs:
        state = states.get((cell.arm, cell.seed), "finished") if cell.work.task else "finished"
        if state == "not begun" or (cell.arm == "top-1" and cell.name.endswith("routes")):
            continue
        if cell.name.endswith("routes"):
            changed = {**ROUTES["whole routes"][1], "change": -2.0 - cell.seed}
            write_json(cell.folder / "routes.json", {**ROUTES, "whole routes": [ROUTES["whole routes"][0], changed]})
        else:
            write_run(cell, state)
        if state == "finished":
            note_finished(folder, cell, 100.0 + 10 * cell.seed)
    plan = plan_of(study, folder)
    make_tables(plan, finished_only=True)
    return Written(plan, StudyResults.from_dict(json.loads((folder / "table.json").read_text())))


def watched(seed: int, epoch: int) -> dict[str, Any]:
    """What a validation says of the switchers; those of seed 0 end with one route for all."""
    seen = (0.5, 12, 1.5) if epoch == 0 else (1.0, 1, 0.01) if seed == 0 else (0.8, 4, 0.61)
    return {"switchers": dict(zip(("commonest_share", "distinct_routes", "mutual_information"), seen, strict=True))}


def write_run(cell, state: str) -> None:
    """The files of a run of two epochs."""
    epochs = 2 if state == "finished" else 1
    score = SCORES[cell.arm][cell.seed]
    entry, arguments = cell.commands[0]
    environment = {"device": "cuda:0" if cell.arm == "top-1" else "cpu", "threads": 1, "versions": {"torch": "2.13.0"}}
    record = {
        "command": [f"{entry}.py", *arguments],
        "entry_point": entry,
        "hyperparameters": {"learning_rate": 1e-3, "seed": cell.seed},
        "settings": {"task": cell.work.task},
        "data": {},
        "precision": "float32",
        "parameters": 1000,
        "environment": environment,
    }
    write_json(cell.folder / "run.json", record)
    lines = [{"kind": "start", "step": 0, "resumed": False}]
    for epoch in range(epochs):
        values = (
            {"score": score - 2 + epoch, "accuracy": score - 2 + epoch} if cell.work.task else {"loss": 7.0 - epoch}
        )
        if cell.arm == "switchbert":  # top-1's runs are of a version that did not watch
            values |= watched(cell.seed, epoch)
        lines.append({"kind": "valid", "epoch": epoch, "step": epoch + 1, "samples": 40 * (epoch + 1), **values})
    if cell.arm != "ctrl_uniter":  # active paths fall from twice what is executed to as much
        for step, paths in ((1, 2e6), (2, 1e6)):
            tracked = {"executed_flops_per_pair": 1e6, "path_flops_per_pair": paths}
            lines.insert(step, {"kind": "train", "step": step, "samples": 40 * step, **tracked})
    (cell.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if state == "finished":
        means = {"executed_flops_per_pair": 1e6 + 1e5 * cell.seed}
        if cell.arm != "ctrl_uniter":
            means["path_flops_per_pair"] = 1.5e6
        write_json(cell.folder / "metrics.json", {"last_validation": lines[-1], **means})
        write_json(cell.folder / "test_metrics.json", {"accuracy": score})
