"""How long a study will take, by what was measured of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median

from volta_switch.checksums import is_there
from volta_switch.config import load_config
from volta_switch.cost.counts import BatchCounts, some_batch
from volta_switch.cost.executed import training_step
from volta_switch.study.plan import Study
from volta_switch.study.planned_runs import (
    ABLATION,
    PRETRAINING,
    FinishedRun,
    PlannedRun,
    Work,
    begun_runs,
    find_record,
    finished_runs,
    runs_of_share,
)
from volta_switch.study.run_plan import RunPlan, plan_ahead
from volta_switch.tasks.task import WHOLE, Share
from volta_switch.train.log_file import lines_of

SpeedClass = tuple[Work, str, str]  # runs of like speed: their work, and the arm or model that they share


def dry_run(study: Study, folder: Path, share: Share = WHOLE) -> str:
    """Tells what ``run_study`` would do: every run of a share, and how long it takes by what was measured.

    Writes nothing. Measured are the runs of the same work that are finished or have begun to train: those of the same
    arm, or else of the same model, or else of any. A run is estimated at their speed in operations a second.
    """
    with plan_ahead(study, folder) as plan:
        rows, seconds, missing = _forecast(plan, finished_runs(folder), begun_runs(folder), share)
    left = sum(state != "finished" for _, state in rows)
    total = f"{len(rows)} cells, {left} to run{_in_words(left, missing, seconds)}"
    tables = [f"{table.name}: {', '.join(table.arms)} on {', '.join(table.tasks)}" for table in study.tables]
    return "\n".join([*tables, "", *(f"{name}  {state}" for name, state in rows), "", total])


def _in_words(left: int, missing: int, seconds: float) -> str:
    """Tells how long the runs that are left will take, of which ``missing`` are like none that was measured."""
    if not left:
        return ""
    if missing == left:
        return ": how long is unknown, for nothing like them was measured"
    unknown = f", and unknown time for {missing} that are like none that was measured" if missing else ""
    return f": {seconds / 3600:.1f} hours of one process{unknown}"


def _forecast(
    plan: RunPlan, done: Mapping[str, FinishedRun], started: Mapping[str, Path], share: Share
) -> tuple[list[tuple[str, str]], float, int]:
    """Returns (name, what is known) of each run, the seconds of those that are estimated, and the number of others."""
    begun = {run.name: found for run in plan.runs if run.key in started and (found := _begun(run))}
    whole = {name: seconds for name, (seconds, _) in begun.items()}
    speeds = _speeds(plan, measured_seconds(plan, done) | whole)
    rows, missing, seconds = [], 0, 0.0
    for run in runs_of_share(plan.runs, share):
        if run.key in done:
            rows.append((run.name, "finished"))
            continue
        left = begun[run.name][1] if run.name in begun else _expected_seconds(plan, run, speeds)
        state = "not measured yet" if left is None else f"{left / 60:.1f} min"
        missing += left is None
        seconds += left or 0.0
        rows.append((run.name, f"begun, {state} left" if run.name in begun else state))
    return rows, seconds, missing


def _begun(run: PlannedRun) -> tuple[float, float] | None:
    """Returns all seconds of a run that has begun to train, and those left, at the speed since it last started."""
    record, log = find_record(run), run.folder / "log.jsonl"
    if record is None or not is_there(log):
        return None
    steps, lines = record.steps, lines_of(log)
    starts = [line for line in lines if line["kind"] == "start"]
    if not steps or not starts or lines[-1]["step"] == starts[-1]["step"]:
        return None
    of_one = (lines[-1]["time"] - starts[-1]["time"]) / (lines[-1]["step"] - starts[-1]["step"])
    return of_one * steps, of_one * (steps - lines[-1]["step"])


def measured_seconds(plan: RunPlan, done: Mapping[str, FinishedRun]) -> dict[str, float]:
    """Returns run's name -> seconds, of finished runs."""
    return {run.name: done[run.key].seconds for run in plan.runs if run.key in done}


def _expected_seconds(plan: RunPlan, run: PlannedRun, speeds: Mapping[SpeedClass, float]) -> float | None:
    """Estimates by the finished runs most like this one, at their median speed."""
    found = next((speeds[kind] for kind in _speed_classes(plan, run) if kind in speeds), None)
    return None if found is None else _size(plan, run) / found


def _speeds(plan: RunPlan, measured: Mapping[str, float]) -> dict[SpeedClass, float]:
    """Returns operations a second of each class of runs: the median, which a night of other work leaves alone."""
    speeds: defaultdict[SpeedClass, list[float]] = defaultdict(list)
    for run in plan.runs:
        for kind in _speed_classes(plan, run) if run.name in measured else ():
            speeds[kind].append(_size(plan, run) / max(measured[run.name], 1e-3))
    return {kind: median(found) for kind, found in speeds.items()}


def _speed_classes(plan: RunPlan, run: PlannedRun) -> tuple[SpeedClass, ...]:
    """Returns what runs it is like, nearest first: the same work of its arm, of its model, of any."""
    return (run.work, "arm", run.arm), (run.work, "model", plan.study.arms[run.arm].model), (run.work, "", "")


def _size(plan: RunPlan, run: PlannedRun) -> float:
    """Returns operations of a run's training, but for the number of samples, the same in all runs of its class."""
    arm = plan.study.arms[run.arm]
    if run.work == PRETRAINING:
        flags, epochs = arm.pretraining, arm.pretraining.get("num_train_epochs", 10)
    elif run.work == ABLATION:
        return _flops(arm.model, arm.overrides)
    else:
        flags = arm.tasks[plan.task_of(run)].train
        epochs = flags.get("num_epoch", 20)
    return _flops(arm.model, arm.overrides) * epochs * flags.get("data_fraction", 1.0)


@cache
def _flops(model: str, overrides: tuple[str, ...]) -> float:
    """Returns operations of training on a few pairs of 12 word pieces and 36 regions."""
    config = load_config(model, overrides)
    return training_step(config, BatchCounts.from_batch(config, some_batch(4, config=config), None))


def time_ahead(
    plan: RunPlan, left: Sequence[PlannedRun], measured: Mapping[str, float], begun: int, minutes: float, jobs: int
) -> str:
    """Tells about how long the runs that are left will take: by what was measured, or as long as those before.

    Args:
        plan: the plan.
        left: runs that are not finished.
        measured: name -> seconds, of finished runs.
        begun: how many runs there were at the beginning.
        minutes: since then.
        jobs: runs at once.
    """
    if not left:
        return ""
    usual = 60 * minutes * jobs / max(begun - len(left), 1)
    speeds = _speeds(plan, measured)
    found = [_expected_seconds(plan, run, speeds) for run in left]
    seconds = sum(usual if each is None else each for each in found) / jobs
    return f", about {seconds / 60:.0f} min left"
