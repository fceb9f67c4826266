"""What a study's runs did: their commands, environments and times, and what each arm costs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from volta_switch.checksums import is_there
from volta_switch.cost.executed import parameters
from volta_switch.data.files.json_files import read_object
from volta_switch.study.arms import Arm, flat
from volta_switch.study.json_records import Record
from volta_switch.study.planned_runs import (
    PRETRAINING,
    FinishedRun,
    PlannedRun,
    RunKind,
    RunRecord,
    Work,
    find_record,
    works_of,
)
from volta_switch.study.records import Settings
from volta_switch.study.report.chart import in_units
from volta_switch.study.report.route_counts import CollectedRoutes
from volta_switch.study.run_plan import RunPlan
from volta_switch.train.log_file import lines_of
from volta_switch.train.step_log import EXECUTED, PATHS


@dataclass(frozen=True)
class RunSummary(Record):
    """A run: whether it is finished, how long it took, its commands, and where it ran."""

    cell: str
    """Its name."""
    arm: str
    seed: int
    finished: bool
    begun: bool
    seconds: float | None
    commands: tuple[str, ...]
    """As they are typed in a shell, in this study's folder."""
    environment: Settings
    ended: float | None = None
    """When its log ends, in seconds since 1970."""


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
        found.append(
            RunSummary(
                cell=run.name,
                arm=run.arm,
                seed=run.seed,
                finished=finished,
                begun=record is not None,
                seconds=done[run.key].seconds if finished else None,
                commands=tuple(run.typed),
                environment=flat((record or RunRecord()).environment or {}),
                ended=_ended(run),
            )
        )
    return tuple(found)


def _ended(run: PlannedRun) -> float | None:
    """Returns when a run's log ends; None where there is none, or it does not say it."""
    log = run.folder / "log.jsonl"
    times = [line["time"] for line in lines_of(log) if "time" in line] if is_there(log) else []
    return times[-1] if times else None


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


def work_name(plan: RunPlan, arm: str, work: Work) -> str:
    """Returns ``pre-training``, or the task's name as an arm's data have it."""
    return RunKind.PRETRAINING.value if work == PRETRAINING else plan.spec(arm, work.task).name


# --- Cost -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeanTime(Record):
    """The mean time of some finished runs."""

    mean: float
    """Seconds."""
    runs: int


@dataclass(frozen=True)
class RunCost(Record):
    """What one kind of run costs an arm: FLOPs of a pair of image and text, as its finished runs tracked them.

    Means over seeds; None where no run tracked it.
    """

    work: str
    """``pre-training``, ``refcoco+``."""
    training_executed: float | None = None
    training_paths: float | None = None
    """Of all active paths, each paid for."""
    inference_executed: float | None = None
    """Of the test split's pairs, by the routes that they took in the first seed's report of routes."""
    inference_paths: float | None = None
    time: MeanTime | None = None


@dataclass(frozen=True)
class ArmCost(Record):
    """What an arm costs."""

    parameters: int
    works: tuple[RunCost, ...] = ()

    def of(self, work: str) -> RunCost:
        """Returns the cost of one kind of run."""
        return next((cost for cost in self.works if cost.work == work), RunCost(work))


@dataclass(frozen=True)
class Costs(Record):
    """What arms cost."""

    arms: Mapping[str, ArmCost]

    @property
    def on_tasks(self) -> tuple[float, ...]:
        """The costs of training on the tasks, which the pictures show; empty where nothing was tracked."""
        costs = (cost for arm in self.arms.values() for cost in arm.works if cost.work != RunKind.PRETRAINING.value)
        return tuple(filter(None, (end for cost in costs for end in (cost.training_executed, cost.training_paths))))

    @property
    def unit(self) -> tuple[float, str]:
        """The page's one unit of FLOPs: a divisor, and words, ``(1e6, ", millions")``."""
        costs = (cost for arm in self.arms.values() for cost in arm.works)
        every = (end for cost in costs for end in (cost.training_executed, cost.training_paths))
        return in_units(max(filter(None, every), default=1.0))


def costs_of(plan: RunPlan, done: Mapping[str, FinishedRun], routes: Sequence[CollectedRoutes]) -> Costs:
    """Returns each arm's parameters, and what its finished runs tracked and took."""
    tested = {(each.arm, each.task): each.report.flops or {} for each in routes if each.report}
    names = {name: None for table in plan.study.tables for name in table.arms}
    return Costs({name: _cost_of(plan, plan.study.arms[name], done, tested) for name in names})


def _cost_of(
    plan: RunPlan,
    arm: Arm,
    done: Mapping[str, FinishedRun],
    tested: Mapping[tuple[str, str], Mapping[str, float]],
) -> ArmCost:
    works = []
    for work in works_of(plan.study.tasks):
        runs = [plan.run_of(arm.name, seed, work) for seed in arm.seeds if plan.has(arm.name, seed, work)]
        runs = [run for run in runs if run.key in done]
        if not runs:
            continue
        name = work_name(plan, arm.name, work)
        inference = tested.get((arm.name, name), {})
        works.append(
            RunCost(
                name,
                **_tracked(runs),
                inference_executed=inference.get("inference_executed"),
                inference_paths=inference.get("inference_paths"),
                time=MeanTime(statistics.fmean(done[run.key].seconds for run in runs), len(runs)),
            )
        )
    return ArmCost(parameters(plan.config(arm.name)), tuple(works))


def _tracked(runs: Iterable[PlannedRun]) -> dict[str, float]:
    """Returns the mean FLOPs of a pair in training, of those runs that tracked them."""
    metrics = [read_object(run.folder / "metrics.json") for run in runs]
    kept = [each for each in metrics if EXECUTED in each]
    if not kept:
        return {}
    return {
        "training_executed": statistics.fmean(each[EXECUTED] for each in kept),
        "training_paths": statistics.fmean(each.get(PATHS, each[EXECUTED]) for each in kept),
    }
