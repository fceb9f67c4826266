"""The side-by-side tables of a study: what each arm scored, refused where two rows differ in what is not varied."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from volta_switch.checksums import record_bytes, record_json
from volta_switch.cost.executed import parameters
from volta_switch.errors import UserError
from volta_switch.statistics import estimate_mean
from volta_switch.study.ablation_reports import ablations_over_seeds
from volta_switch.study.arms import Arm, PlannedTable
from volta_switch.study.claims import ItemResults, Measure, Verdict, judge
from volta_switch.study.confounds import refuse_recorded_confounds
from volta_switch.study.items import Evaluated, ItemReader, NoItems
from volta_switch.study.model_cards import write_comparisons
from volta_switch.study.planned_runs import Work, finished_runs
from volta_switch.study.records import (
    ArmScore,
    MeasuredQuantity,
    OmittedTable,
    ReportedColumn,
    ReportedEstimate,
    ReportedTable,
    StudyClaim,
    StudyResults,
    TableRow,
)
from volta_switch.study.route_reports import routes_over_seeds
from volta_switch.study.run_plan import RunPlan
from volta_switch.study.study_data import blind_guesses, is_synthetic, test_split, world_folder
from volta_switch.study.trained_runs import (
    TrainedRun,
    differences,
    pretraining_losses,
    read_result,
    soft_minus_hard,
    trained_runs,
    training_flops,
)
from volta_switch.study.written_tables import tables_csv, tables_latex, tables_text
from volta_switch.task_names import column_title
from volta_switch.tasks import TaskSpec, task_class
from volta_switch.tasks.metrics import mean_std


@dataclass(frozen=True)
class Column:
    """One metric of one task."""

    planned: str
    """The task as the study's file calls it."""
    task: TaskSpec
    metric: str
    split: str
    synthetic: bool
    """Whether the data are a synthetic world."""

    @property
    def heading(self) -> str:
        """``refcoco+ accuracy``: what files call it, whatever the data are."""
        return column_title(self.task.name, self.metric, False)

    def reported(self) -> ReportedColumn:
        """Returns the column as made tables have it."""
        task = self.task
        known = (task.name, self.metric, self.heading, task.key, self.split)
        return ReportedColumn(*known, pool_images=task.pool_images, synthetic=self.synthetic)


@dataclass(frozen=True)
class ColumnScores:
    """The scores of a table's arms in one column."""

    scores: Mapping[str, np.ndarray]
    """Arm -> (S,) in percent."""
    items: Mapping[str, ItemResults]
    """Behind them, of each arm; empty where they are not available."""
    why_not: str = ""
    """Why they are not; empty where they are."""


def make_tables(plan: RunPlan, finished_only: bool = False) -> StudyResults:
    """Writes ``table.md``, ``.json``, ``.csv`` and ``.tex`` into the study's folder and returns what the JSON holds.

    What they say of a model is written into its folder, too (``model_cards``).

    Args:
        plan: the study's.
        finished_only: as in ``tables_of``.

    Raises:
        UserError: as in ``tables_of``.
    """
    folder = plan.folder
    try:
        found = tables_of(plan, finished_only)
    except UserError:
        for kind in ("md", "json", "csv", "tex"):  # a refused table must not leave an older one in its place
            (folder / f"table.{kind}").unlink(missing_ok=True)
        write_comparisons(plan, ())  # nor may a model's card
        raise
    written = {
        "table.md": tables_text(found),
        "table.csv": tables_csv(found),
        "table.tex": tables_latex(found),
    }
    for name, content in written.items():
        record_bytes(folder / name, content.encode())
    record_json(folder / "table.json", found.to_dict())
    write_comparisons(plan, found.tables)
    return found


def tables_of(plan: RunPlan, finished_only: bool = False) -> StudyResults:
    """Makes a study's tables, and sums up its routes over seeds.

    Args:
        plan: the study's.
        finished_only: each table of the seeds that all its arms have finished; it says which, and a table without any
            is named in place of it.

    Raises:
        UserError: a run is missing, or two rows of a table differ in anything but what it varies (the field is named).
    """
    reader, done = ItemReader(), set(finished_runs(plan.folder)) if finished_only else None
    made, left_out = [], []
    for table in plan.study.tables:
        seeds = _seeds(plan, table, done)
        common = tuple(seed for seed in seeds[table.arms[0]] if all(seed in of_arm for of_arm in seeds.values()))
        if common or done is None:
            made.append(_table(plan, table, reader, seeds if done is None else dict.fromkeys(seeds, common)))
        else:
            left_out.append(_left_out(plan, table, seeds))
    return StudyResults(
        plan.study.name, tuple(made), tuple(left_out), routes_over_seeds(plan), ablations_over_seeds(plan)
    )


def _seeds(plan: RunPlan, table: PlannedTable, done: set[str] | None) -> dict[str, tuple[int, ...]]:
    """Returns each arm's seeds; only those with every task finished where the keys of finished runs are given."""

    def finished(arm: str, seed: int) -> bool:
        return done is None or all(plan.run_of(arm, seed, Work.fine_tuning(task)).key in done for task in table.tasks)

    planned = {name: table.seeds_of(plan.study.arms[name]) for name in table.arms}
    return {name: tuple(seed for seed in seeds if finished(name, seed)) for name, seeds in planned.items()}


def _left_out(plan: RunPlan, table: PlannedTable, seeds: Mapping[str, Sequence[int]]) -> OmittedTable:
    """Returns a table that no seed is finished for, and how far its arms are."""
    states = ", ".join(
        f"{arm} {len(done)} of {len(table.seeds_of(plan.study.arms[arm]))}" for arm, done in seeds.items()
    )
    title = f"{table.title} ({table.name})" if table.title else table.name
    text = f"Left out: {title}; no seed is finished for all of its arms. Finished seeds: {states}."
    return OmittedTable(table.name, table.title, text)


def _table(
    plan: RunPlan, table: PlannedTable, reader: ItemReader, seeds: Mapping[str, tuple[int, ...]]
) -> ReportedTable:
    """Makes a table of these seeds of each arm."""
    arms = [replace(plan.study.arms[name], seeds=seeds[name]) for name in table.arms]
    columns = _columns(plan, arms[0], table.tasks)
    runs = {arm.name: trained_runs(plan, arm, table.tasks) for arm in arms}
    refuse_recorded_confounds(
        {arm: {name: run.record for name, run in of_arm.items()} for arm, of_arm in runs.items()},
        {arm.name: plan.sections(arm.name, table.tasks) for arm in arms},
    )
    found = [_column_scores(plan, arms, column, reader) for column in columns]
    losses = [pretraining_losses(runs[arm.name]) if table.pretraining else {} for arm in arms]
    reported = tuple(column.reported() for column in columns)
    return ReportedTable(
        name=table.name,
        title=table.title,
        varies=table.varies,
        sweep=table.sweep,
        shows_flops=table.flops,
        seeds=arms[0].seeds,
        planned_seeds=table.seeds_of(plan.study.arms[table.arms[0]]),
        columns=reported,
        rows=tuple(
            replace(
                _row(plan, arm, columns, found, runs[arm.name], table.published.get(arm.name, {})),
                pretraining={name: MeasuredQuantity.of(values) for name, values in own.items()},
                pretraining_difference=differences(own, losses[0]) if number else {},
            )
            for number, (arm, own) in enumerate(zip(arms, losses, strict=True))
        ),
        intervals=_intervals(columns, found, len(arms[0].seeds)),
        verdicts=tuple(verdict.reported() for verdict in _verdicts(plan, table, columns, found)),
        chance=blind_guesses(world_folder(plan.study, arms[0], plan.folder), reported),
    )


def named_claims(plan: RunPlan, table: PlannedTable) -> tuple[StudyClaim, ...]:
    """Returns a table's claims, their tasks called as its columns are: "refcoco+", not as the study's file does."""
    specs, synthetic = plan.specs(table), is_synthetic(plan.study)
    return tuple(replace(claim, task=specs[claim.task].name, synthetic=synthetic) for claim in table.claims)


def _verdicts(plan: RunPlan, table: PlannedTable, columns: list[Column], scored: list[ColumnScores]) -> list[Verdict]:
    """Judges the table's claims by the scores."""
    scores: dict[str, dict[Measure, np.ndarray]] = defaultdict(dict)
    items: dict[str, dict[Measure, ItemResults]] = defaultdict(dict)
    for column, found in zip(columns, scored, strict=True):
        for arm, values in found.scores.items():
            key = column.task.name, column.metric
            scores[arm][key] = values
            if found.items:
                items[arm][key] = found.items[arm]
    return judge(named_claims(plan, table), scores, items, minimum_effect=plan.study.minimum_effect)


def _column_scores(plan: RunPlan, arms: Sequence[Arm], column: Column, reader: ItemReader) -> ColumnScores:
    """Reads the scores of every arm and seed, and the items behind them."""
    scores, tests = {}, {}
    for arm in arms:
        folders = [plan.run_of(arm.name, seed, Work.fine_tuning(column.planned)).folder for seed in arm.seeds]
        values = [_score(folder / f"{column.split}_metrics.json", column) for folder in folders]
        scores[arm.name] = np.array(values)
        spec = plan.tested_spec(arm.name, column.planned)
        tested = [Evaluated(spec, column.split, folder) for folder in folders]
        tests[arm.name] = list(zip(tested, values, strict=True))
    try:
        return ColumnScores(scores, reader.column(tests, column.metric))
    except NoItems as error:
        return ColumnScores(scores, {}, str(error))


def _score(path: Path, column: Column) -> float:
    found = read_result(path).get(column.metric)
    if not isinstance(found, int | float) or not math.isfinite(found):
        raise UserError(
            f"{path}: {column.metric} is {found}, expected a score of {column.task.name}'s split {column.split}; take "
            "a split whose answers are known (test: split: ...)"
        )
    return float(found)


def _intervals(columns: list[Column], scored: list[ColumnScores], seeds: int) -> str:
    """Tells what a table's intervals and its ± are."""
    if seeds < 2:
        return "One seed of each arm: the spread over seeds is unknown, so that there is no ± and no interval."
    parts = [f"± is the standard deviation over {seeds} seeds. Intervals take seeds as a random effect (Student's t)"]
    without = [
        f"{each.reported().title} ({found.why_not})"
        for each, found in zip(columns, scored, strict=True)
        if found.why_not
    ]
    if len(without) < len(columns):
        parts[0] += (
            " and test items as a second one (resampling them, in closed form; all questions, captions or expressions "
            "of one image are one item): they are about new seeds and new items"
        )
    if without:
        parts.append(f"About these test items alone: {', '.join(without)}")
    if any(len({tuple(results.names) for results in found.items.values()}) > 1 for found in scored):
        parts.append("Verdicts on arms that were tested on different items are about these test items alone")
    return ". ".join(parts) + "."


def _columns(plan: RunPlan, arm: Arm, tasks: Sequence[str]) -> list[Column]:
    columns = []
    for task in tasks:
        spec = plan.tested_spec(arm.name, task)
        split = test_split(spec, arm.tasks[task])
        synthetic = arm.world is not None
        columns += [Column(task, spec, metric, split, synthetic) for metric in task_class(spec).headline]
    return columns


def _row(
    plan: RunPlan,
    arm: Arm,
    columns: list[Column],
    scored: list[ColumnScores],
    runs: Mapping[str, TrainedRun],
    published: Mapping[str, object],
) -> TableRow:
    scores = []
    for column, found in zip(columns, scored, strict=True):
        values = found.scores[arm.name]
        mean, std = mean_std(values.tolist())
        results = found.items[arm.name].points if found.items else values
        estimate = ReportedEstimate.of(estimate_mean(results))
        scores.append(ArmScore(mean, std, tuple(values.tolist()), published.get(column.heading), estimate))
    return TableRow(
        arm=arm.name,
        model=arm.model,
        parameters=parameters(plan.config(arm.name)),
        scores=tuple(scores),
        flops=training_flops(runs),
        soft_minus_hard=soft_minus_hard(runs),
    )
