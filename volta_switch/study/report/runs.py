"""What a study's runs did: their commands, environments and times, and what each arm costs."""

from __future__ import annotations

import json
import re
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from volta_switch.config import Config
from volta_switch.cost.counts import BatchCounts, some_batch
from volta_switch.cost.executed import inference, parameters, training_step
from volta_switch.cost.paths import inference_paths, training_paths
from volta_switch.data.files.json_files import read_object
from volta_switch.study.arms import Arm, flat
from volta_switch.study.planned_runs import PRETRAINING, FinishedRun, RunRecord, find_record, works_of
from volta_switch.study.records import Record, Settings
from volta_switch.study.report.route_counts import CollectedRoutes
from volta_switch.study.run_plan import RunPlan
from volta_switch.train.step_log import EXECUTED, PATHS

PAIRS = 32  # image-text pairs that FLOPs are the mean of


@dataclass(frozen=True)
class RunSummary(Record):
    """A run: whether it is finished, how long it took, its commands as given, and where it ran."""

    cell: str
    """Its name."""
    arm: str
    seed: int
    finished: bool
    begun: bool
    seconds: float | None
    commands: tuple[str, ...]
    environment: Settings


@dataclass(frozen=True)
class RunGroup(Record):
    """Runs of an arm that were given the same commands but for the seed's number."""

    work: str
    """``refcoco+``."""
    commands: tuple[str, ...]
    """Of the first."""
    runs: int
    seeds: tuple[int, ...]
    finished: int
    begun: int
    """And not finished."""
    seconds: float | None
    """The finished ones' mean time."""


@dataclass(frozen=True)
class Environments(Record):
    """Where runs ran: what is the same in all that recorded it, and what differs."""

    runs: int
    same: Mapping[str, str]
    differing: Mapping[str, Mapping[str, Sequence[str]]]
    """Field -> value -> the runs that had it."""


def every_run(plan: RunPlan, done: Mapping[str, FinishedRun]) -> tuple[RunSummary, ...]:
    """Sums up every run of a plan."""
    found = []
    for run in plan.runs:
        record, finished = find_record(run), run.key in done
        # run.json holds the training's command; what follows it (a test) is as planned.
        written = [shlex.join(["python", *record.command])] if record and record.command else []
        found.append(
            RunSummary(
                cell=run.name,
                arm=run.arm,
                seed=run.seed,
                finished=finished,
                begun=record is not None,
                seconds=done[run.key].seconds if finished else None,
                commands=(*written, *run.typed[len(written) :]),
                environment=flat((record or RunRecord()).environment or {}),
            )
        )
    return tuple(found)


def commands_of(runs: Iterable[RunSummary]) -> dict[str, tuple[RunGroup, ...]]:
    """Returns arm -> its runs in groups that were given the same commands but for the seed's number."""
    found: dict[str, dict[tuple[str, ...], list[RunSummary]]] = {}
    for run in runs:
        work = run.cell.split("/", 2)[2]
        blank = [re.sub(rf"(seed ?){run.seed}\b", r"\1N", command) for command in run.commands]
        found.setdefault(run.arm, {}).setdefault((work, *blank), []).append(run)
    return {arm: tuple(_as_one(work, group) for (work, *_), group in groups.items()) for arm, groups in found.items()}


def _as_one(work: str, runs: Sequence[RunSummary]) -> RunGroup:
    seconds = [run.seconds for run in runs if run.seconds is not None]
    return RunGroup(
        work=work,
        commands=runs[0].commands,
        runs=len(runs),
        seeds=tuple(run.seed for run in runs),
        finished=len(seconds),
        begun=sum(run.begun and not run.finished for run in runs),
        seconds=statistics.fmean(seconds) if seconds else None,
    )


def environments(runs: Sequence[RunSummary]) -> Environments:
    """Compares where runs ran."""
    recorded = [run for run in runs if run.environment]
    fields = {field: None for run in recorded for field in run.environment}
    same: dict[str, str] = {}
    differing: dict[str, dict[str, list[str]]] = {}
    for field in fields:
        by_value: dict[str, list[str]] = {}
        for run in recorded:
            by_value.setdefault(str(run.environment.get(field, "not recorded")), []).append(run.cell)
        if len(by_value) == 1:
            same[field] = next(iter(by_value))
        else:
            differing[field] = by_value
    return Environments(len(recorded), same, differing)


# --- Cost -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairCost(Record):
    """Parameters of a model, and FLOPs of a pair of image and text in pre-training (``some_batch``)."""

    parameters: int
    training_executed: float
    inference_executed: float
    training_paths: float
    inference_paths: float


@dataclass(frozen=True)
class MeanTime(Record):
    """The mean time of some finished runs."""

    mean: float
    """Seconds."""
    runs: int


@dataclass(frozen=True)
class ArmCost(PairCost):
    """What an arm costs, as counted and as its runs tracked it."""

    trained: Mapping[str, float]
    """FLOPs of a pair as its finished pre-training runs tracked them, the mean over seeds; empty where none did."""
    top_k: int | None
    seconds: Mapping[str, MeanTime]
    """Kind of run -> the time of its finished runs."""
    tracked: Mapping[str, Mapping[str, float]]
    """Task -> FLOPs of a pair by the routes that its samples took."""


@dataclass(frozen=True)
class Costs(Record):
    """What arms cost."""

    pairs: int
    """That FLOPs are the mean of."""
    arms: Mapping[str, ArmCost]


def costs_of(plan: RunPlan, done: Mapping[str, FinishedRun], routes: Sequence[CollectedRoutes]) -> Costs:
    """Returns each arm's parameters, FLOPs of a pair in pre-training, and times of its finished runs."""
    tracked: dict[str, dict[str, Mapping[str, float]]] = {}
    for route in routes:
        if route.report:
            tracked.setdefault(route.arm, {})[route.task] = route.report.flops or {}
    arms: dict[str, ArmCost] = {}
    counted: dict[str, PairCost] = {}
    for name in {name: None for table in plan.study.tables for name in table.arms}:
        arm, config = plan.study.arms[name], plan.config(name)
        key = json.dumps(config.to_dict(), sort_keys=True)
        if key not in counted:
            counted[key] = _cost_of_pair(config)
        arms[name] = ArmCost(
            **vars(counted[key]),
            trained=_trained(plan, arm, done),
            top_k=None if config.switch is None else config.switch.active_modes,
            seconds=_seconds(plan, arm, done),
            tracked=tracked.get(name, {}),
        )
    return Costs(PAIRS, arms)


def _cost_of_pair(config: Config) -> PairCost:
    counts = BatchCounts.from_batch(config, some_batch(PAIRS, config=config))
    return PairCost(
        parameters=parameters(config),
        training_executed=training_step(config, counts) / PAIRS,
        inference_executed=inference(config, counts) / PAIRS,
        training_paths=training_paths(config, counts) / PAIRS,
        inference_paths=inference_paths(config, counts) / PAIRS,
    )


def _trained(plan: RunPlan, arm: Arm, done: Mapping[str, FinishedRun]) -> dict[str, float]:
    """Returns FLOPs of a pair as an arm's finished pre-training runs tracked them."""
    runs = [plan.run_of(arm.name, seed) for seed in arm.seeds if plan.has(arm.name, seed)]
    metrics = [read_object(run.folder / "metrics.json") for run in runs if run.key in done]
    kept = [each for each in metrics if EXECUTED in each]
    names = {"training_executed": EXECUTED, "training_paths": PATHS}
    sums = {name: sum(each.get(key, each[EXECUTED]) for each in kept) for name, key in names.items()}
    return {name: total / len(kept) for name, total in sums.items() if kept}


def _seconds(plan: RunPlan, arm: Arm, done: Mapping[str, FinishedRun]) -> dict[str, MeanTime]:
    """Returns kind of run -> the time of its finished runs."""
    found = {}
    for work in works_of(plan.study.tasks):
        runs = [plan.run_of(arm.name, seed, work) for seed in arm.seeds if plan.has(arm.name, seed, work)]
        times = [done[run.key].seconds for run in runs if run.key in done]
        if times:
            name = "pre-training" if work == PRETRAINING else plan.spec(arm.name, work.task).name
            found[name] = MeanTime(sum(times) / len(times), len(times))
    return found
