"""What the training runs of an arm wrote down: validation, operations, soft and hard routes, pre-training's loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.data.files.json_files import read_object
from volta_switch.errors import UserError
from volta_switch.study.arms import Arm, PlannedTable
from volta_switch.study.confounds import ConfoundCheck, check_confounds
from volta_switch.study.planned_runs import PRETRAINING, RunRecord, Work, find_record, works_of
from volta_switch.study.records import MeasuredQuantity, TrackedFlops
from volta_switch.study.run_plan import RunPlan
from volta_switch.tasks import task_class
from volta_switch.train.step_log import EXECUTED, PATHS


@dataclass(frozen=True)
class TrainedRun:
    """What a training run wrote down."""

    record: RunRecord
    last_validation: Mapping[str, Any]
    """Of the last epoch: metrics, and what it says of the switchers."""
    metric: str
    """Of the validation, by which the best weights were chosen."""
    executed: float | None
    """FLOPs of training on a pair of image and text, as the run tracked them."""
    paths: float | None


def trained_runs(plan: RunPlan, arm: Arm, tasks: Sequence[str]) -> dict[str, TrainedRun]:
    """Reads every run of an arm: ``refcoco+/seed0`` -> what it wrote down."""
    found = {}
    for seed in arm.seeds:
        runs = {f"pretraining/seed{seed}": (plan.run_of(arm.name, seed), "loss")} if arm.pretraining else {}
        for task in tasks:
            spec = plan.spec(arm.name, task)
            run = plan.run_of(arm.name, seed, Work.fine_tuning(task))
            runs[f"{spec.name}/seed{seed}"] = run, task_class(spec).metric
        for name, (run, metric) in runs.items():
            record = RunRecord.from_dict(read_result(run.folder / "run.json"))
            metrics = read_result(run.folder / "metrics.json")
            executed = metrics.get(EXECUTED)
            last = metrics["last_validation"]
            found[name] = TrainedRun(record, last, metric, executed, metrics.get(PATHS, executed))
    return found


def read_result(path: Path) -> dict[str, Any]:
    """Reads a JSON file of a run; UserError where it is not there."""
    if not path.is_file():
        raise UserError(f"{path}: missing; run the study first (volta-switch study run)")
    return read_object(path)


def training_flops(runs: Mapping[str, TrainedRun]) -> dict[str, TrackedFlops]:
    """Returns each kind of run's operations of training on a pair, as each seed's run tracked them."""
    found: dict[str, list[TrainedRun]] = {}
    for name, run in runs.items():
        found.setdefault(name.split("/")[0], []).append(run)
    return {
        kind: TrackedFlops(tuple(run.executed for run in of_kind), tuple(run.paths for run in of_kind))
        for kind, of_kind in found.items()
    }


def soft_minus_hard(runs: Mapping[str, TrainedRun]) -> dict[str, float]:
    """Returns task run -> how much better soft routes validate than hard ones after the last epoch, in points."""
    differences = {}
    for name, run in runs.items():
        last, metric = run.last_validation, run.metric
        if run.record.entry_point == "train_task" and f"{metric}_soft_routes" in last:
            differences[name] = last[f"{metric}_soft_routes"] - last[metric]
    return differences


def pretraining_losses(runs: Mapping[str, TrainedRun]) -> dict[str, np.ndarray]:
    """Returns the losses of pre-training's last validation, with hard routes, of each seed; none without it."""
    last = [run.last_validation for run in runs.values() if run.record.entry_point == "train_concap"]
    return {name: np.array([each[name] for each in last]) for name in ("loss", "itm") if last and name in last[0]}


def differences(own: Mapping[str, np.ndarray], first: Mapping[str, np.ndarray]) -> dict[str, MeasuredQuantity]:
    """Returns losses less those of the first arm, paired by seed."""
    both = [name for name in own if name in first and len(own[name]) == len(first[name])]
    return {name: MeasuredQuantity.of(own[name] - first[name]) for name in both}


def confounds_of(plan: RunPlan, table: PlannedTable) -> ConfoundCheck:
    """Compares the settings of a table's arms, as planned and as those of their runs that have begun recorded them."""
    return check_confounds(
        table,
        {name: plan.study.arms[name].settings(table.tasks) for name in table.arms},
        {name: _recorded(plan, name, table) for name in table.arms},
        {name: plan.sections(name, table.tasks) for name in table.arms},
    )


def _recorded(plan: RunPlan, arm: str, table: PlannedTable) -> dict[str, RunRecord]:
    """Returns ``pretraining/seed0`` -> what that run wrote down, of those that have begun."""
    found = {}
    for seed in table.seeds_of(plan.study.arms[arm]):
        for work in works_of(table.tasks):
            if plan.has(arm, seed, work):
                record = find_record(plan.run_of(arm, seed, work))
                name = "pretraining" if work == PRETRAINING else plan.spec(arm, work.task).name
                if record:
                    found[f"{name}/seed{seed}"] = record
    return found
