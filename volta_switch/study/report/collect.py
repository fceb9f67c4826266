"""What the page shows, from a plan, its made tables and its runs' files; what is not finished is there, and says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from volta_switch.checksums import is_there
from volta_switch.data.files.json_files import read_object
from volta_switch.study.arms import PlannedTable
from volta_switch.study.confounds import ConfoundCheck
from volta_switch.study.json_records import Record
from volta_switch.study.planned_runs import (
    PRETRAINING,
    FinishedRun,
    PlannedRun,
    Work,
    finished_runs,
    works_of,
)
from volta_switch.study.records import (
    AblationOverSeeds,
    ReportedTable,
    ReportedVerdict,
    RoutesOverSeeds,
    StudyClaim,
    StudyResults,
)
from volta_switch.study.report.curves import ArmCurves, CurvePanel, SeedCurve
from volta_switch.study.report.route_counts import CollectedRoutes
from volta_switch.study.report.runs import (
    Costs,
    Environments,
    RunGroup,
    RunSummary,
    commands_of,
    costs_of,
    environments,
    every_run,
)
from volta_switch.study.report.scope import Scope, scope_of
from volta_switch.study.report.switchers import WatchedRuns, watched_runs
from volta_switch.study.route_reports import RouteReport, read_routes
from volta_switch.study.run_plan import RunPlan
from volta_switch.study.study_data import is_synthetic, world_folder
from volta_switch.study.table import named_claims
from volta_switch.study.trained_runs import confounds_of
from volta_switch.task_names import metric_title, task_title
from volta_switch.tasks import task_class
from volta_switch.train.log_file import lines_of
from volta_switch.train.step_log import EXECUTED, PATHS

NOT_TESTED = "not tested"
VERDICTS = ("supported", "contradicted", "undecided", NOT_TESTED)
Points = tuple[tuple[float, ...], ...]  # (training samples, value)
DoneRuns = Mapping[str, FinishedRun]  # by their keys


@dataclass(frozen=True)
class StudySummary(Record):
    """The study in numbers."""

    name: str
    minimum_effect: float
    folder: str
    arms: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    """How many its tables plan."""
    cells: int
    """Its runs."""
    finished: int
    seconds: float
    claims: Mapping[str, int]
    """Verdict -> number of claims."""
    path: str = ""
    """The study's file."""
    directory: str = ""
    """Where its paths and those of commands begin."""
    synthetic: bool = False
    """Whether its data are synthetic worlds."""


@dataclass(frozen=True)
class ShownClaim(ReportedVerdict):
    """A claim with its verdict, if it was tested."""

    heading: str = ""
    """Of its column."""

    @property
    def tested(self) -> bool:
        """Whether its table is made."""
        return self.verdict != NOT_TESTED


@dataclass(frozen=True)
class TableRuns(Record):
    """How many runs a table needs, and the names of those that are not finished."""

    needed: int = 0
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShownTable(ReportedTable):
    """A planned table: as made, or without rows."""

    left_out: str = ""
    """Why it is left out; empty where it is not."""
    tasks: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    claims: tuple[ShownClaim, ...] = ()
    cells: TableRuns = field(default=TableRuns())


@dataclass(frozen=True)
class ReportData(Record):
    """Everything that the page shows."""

    scope: Scope
    """What the data are and what follows from them."""
    study: StudySummary
    tables: tuple[ShownTable, ...]
    curves: tuple[CurvePanel, ...]
    """For each table and kind of run."""
    cost: Costs
    routes: tuple[CollectedRoutes, ...]
    """Of the first seeds."""
    routes_over_seeds: tuple[RoutesOverSeeds, ...]
    ablation: tuple[AblationOverSeeds, ...]
    """Cross-modal, of the arms that the study measures."""
    switchers: tuple[WatchedRuns, ...]
    """Over training, of the arms that switch."""
    confounds: tuple[ConfoundCheck, ...]
    """What was compared, for each table."""
    runs: tuple[RunSummary, ...]
    commands: Mapping[str, tuple[RunGroup, ...]]
    """Arm -> its runs, those that are alike but for the seed once."""
    environment: Environments


def collect(plan: RunPlan, results: StudyResults) -> ReportData:
    """Collects everything that the page shows.

    Args:
        plan: the study's, over its folder, finished or not.
        results: the made tables; those that could not be made yet may lack.
    """
    done = finished_runs(plan.folder)
    shown = _tables(plan, results, done)
    runs, routes = every_run(plan, done), _routes(plan, done)
    study, cost = _study(plan, shown, runs), costs_of(plan, done, routes)
    return ReportData(
        scope=scope_of(plan, runs, cost.arms, study.seeds),
        study=study,
        tables=shown,
        curves=tuple(panel for table in plan.study.tables for panel in _panels(plan, table, done)),
        cost=cost,
        routes=routes,
        routes_over_seeds=tuple(each for each in results.routes if len(each.seeds) > 1),
        ablation=results.ablation,
        switchers=watched_runs(plan, done),
        confounds=tuple(confounds_of(plan, table) for table in plan.study.tables),
        runs=runs,
        commands=commands_of(runs),
        environment=environments(runs),
    )


def _study(plan: RunPlan, tables: Sequence[ShownTable], runs: Sequence[RunSummary]) -> StudySummary:
    found = [claim.verdict for table in tables for claim in table.claims]
    synthetic = is_synthetic(plan.study)
    return StudySummary(
        name=plan.study.name,
        minimum_effect=plan.study.minimum_effect,
        folder=str(plan.folder),
        arms=tuple({arm: None for table in plan.study.tables for arm in table.arms}),
        tasks=tuple({task_title(task, synthetic): None for table in tables for task in table.tasks}),
        seeds=tuple(sorted({len(table.planned_seeds) for table in tables})),
        cells=len(runs),
        finished=sum(run.finished for run in runs),
        seconds=sum(run.seconds or 0 for run in runs),
        claims={verdict: found.count(verdict) for verdict in VERDICTS},
        path=str(plan.study.path),
        directory=str(Path.cwd()),
        synthetic=synthetic,
    )


def _tables(plan: RunPlan, results: StudyResults, done: DoneRuns) -> tuple[ShownTable, ...]:
    """Returns all planned tables in order: as made, or without rows."""
    made = {table.name: table for table in results.tables}
    left_out = {table.name: table.text for table in results.left_out}
    found = []
    for table in plan.study.tables:
        first = plan.study.arms[table.arms[0]]
        empty = ReportedTable(table.name, table.title, table.varies)
        runs = _runs_of(plan, table)
        own = replace(made.get(table.name, empty), planned_seeds=table.seeds_of(first))
        untested = (_untested(claim) for claim in named_claims(plan, table))
        shown = ShownTable(
            **vars(own),
            left_out=left_out.get(table.name, ""),
            tasks=tuple(plan.spec(first.name, task).name for task in table.tasks),
            arms=table.arms,
            claims=tuple(_headed(verdict) for verdict in own.verdicts or untested),
            cells=TableRuns(len(runs), tuple(run.name for run in runs if run.key not in done)),
        )
        found.append(shown)
    return tuple(found)


def _untested(claim: StudyClaim) -> ReportedVerdict:
    return ReportedVerdict(claim, NOT_TESTED, "Its table is not made yet")


def _headed(verdict: ReportedVerdict) -> ShownClaim:
    """Returns a verdict with its column's heading."""
    return ShownClaim(**vars(verdict), heading=verdict.claim.column)


def _runs_of(plan: RunPlan, table: PlannedTable) -> list[PlannedRun]:
    """Returns what a table needs, each once."""
    found = {}
    for name in table.arms:
        for seed in table.seeds_of(plan.study.arms[name]):
            for work in works_of(table.tasks):
                if plan.has(name, seed, work):
                    run = plan.run_of(name, seed, work)
                    found[run.key] = run
    return list(found.values())


def _routes(plan: RunPlan, done: DoneRuns) -> tuple[CollectedRoutes, ...]:
    """Returns the reports of first seeds' routes, as ``volta-switch routes`` wrote them."""
    found = []
    for (name, seed, task), run in plan.route_runs().items():
        arm = plan.study.arms[name]
        if seed == arm.seeds[0]:
            world = str(world_folder(plan.study, arm, plan.folder)) if arm.world is not None else None
            report = read_routes(run) if run.key in done else None
            whole = _score_on_split(plan, name, seed, task, report) if report else None
            found.append(CollectedRoutes(name, plan.spec(name, task).name, seed, world, report, whole))
    return tuple(found)


def _score_on_split(plan: RunPlan, arm: str, seed: int, task: str, report: RouteReport) -> float | None:
    """Returns what the same weights scored on the whole split; None where they were not tested by that metric."""
    path = plan.run_of(arm, seed, Work.fine_tuning(task)).folder / f"{report.split}_metrics.json"
    return read_object(path).get(report.metric) if is_there(path) else None


# --- Curves ---------------------------------------------------------------------------------------------------------


def _panels(plan: RunPlan, table: PlannedTable, done: DoneRuns) -> Iterator[CurvePanel]:
    """Yields the pictures of a table's runs over training."""
    pretrains = any(plan.study.arms[name].pretraining for name in table.arms)
    for work in works_of(table.tasks):
        if pretrains or work != PRETRAINING:
            yield _panel(plan, table, work, done)
    # Path FLOPs over executed ones while the table's switching arms pre-train; none where nobody tracked them.
    arms = _over_seeds(_seed_runs(plan, table, PRETRAINING), _path_ratios)
    if arms:
        yield CurvePanel(table.name, "Active paths in pre-training", "path FLOPs over executed ones", arms)


def _panel(plan: RunPlan, table: PlannedTable, work: Work, done: DoneRuns) -> CurvePanel:
    """Returns the validations of every arm and seed of a table against the training samples seen."""
    synthetic, shown = is_synthetic(plan.study), ""
    if work == PRETRAINING:
        title, value, label = "Pre-training", "loss", "validation loss"
    else:
        spec = plan.spec(table.arms[0], work.task)
        metric = task_class(spec).metric
        title, value, shown = spec.name, "score", task_title(spec.name, synthetic)
        label = f"validation {metric_title(metric, synthetic)}, %"
    runs = list(_seed_runs(plan, table, work))
    waiting = tuple(f"{name}/seed{seed}" for name, seed, run in runs if run.key not in done)
    arms = _over_seeds(runs, lambda log: _validations(log, value))
    return CurvePanel(table.name, title, label, arms, len(runs), waiting, shown)


def _seed_runs(plan: RunPlan, table: PlannedTable, work: Work) -> Iterator[tuple[str, int, PlannedRun]]:
    """Yields arm, seed and run of everything that a table needs of one kind."""
    for name in table.arms:
        for seed in table.seeds_of(plan.study.arms[name]):
            if plan.has(name, seed, work):
                yield name, seed, plan.run_of(name, seed, work)


def _over_seeds(runs: Iterable[tuple[str, int, PlannedRun]], points: Callable[[Path], Points]) -> tuple[ArmCurves, ...]:
    """Returns the points of every run's log, where there are any."""
    arms: dict[str, list[SeedCurve]] = {}
    for name, seed, run in runs:
        found = points(run.folder / "log.jsonl")
        if found:
            arms.setdefault(name, []).append(SeedCurve(seed, found))
    return tuple(ArmCurves(name, tuple(seeds)) for name, seeds in arms.items())


def _lines(log: Path) -> list[dict[str, Any]]:
    """Reads a run's log; empty where it has not begun."""
    return lines_of(log) if is_there(log) else []


def _validations(log: Path, value: str) -> Points:
    """Returns (samples, value) of a run's validations, the last of each epoch."""
    lines = {line["epoch"]: line for line in _lines(log) if line["kind"] == "valid"}
    return tuple((line["samples"], line[value]) for line in lines.values() if line.get(value) is not None)


def _path_ratios(log: Path) -> Points:
    """Returns (samples, path FLOPs over executed ones) of the steps that tracked them."""
    tracked = {line["samples"]: line for line in _lines(log) if PATHS in line}
    return tuple((samples, line[PATHS] / line[EXECUTED]) for samples, line in tracked.items())
