"""``volta-switch compare``: the side-by-side table of finished runs that no study planned.

Rows are what ``row_differences`` says: runs that differ in the seed alone are one row. A table whose rows differ in
more than one thing is refused, or, with ``--anyway``, says so in every format. Columns are the headline metrics of the
splits that all runs were tested on; without any, the best epoch's validation. Of pre-trainings they are the losses of
the last validation, and zero-shot tests that all have.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from volta_switch.errors import UserError
from volta_switch.statistics import estimate_difference, estimate_mean
from volta_switch.study.claims import ItemResults
from volta_switch.study.finished_folders import PRETRAINING, FoundRun, RunTest, find_runs
from volta_switch.study.items import Evaluated, ItemReader
from volta_switch.study.records import (
    ArmScore,
    ReportedColumn,
    ReportedDifference,
    ReportedEstimate,
    ReportedTable,
    TableRow,
    TrackedFlops,
)
from volta_switch.study.row_differences import Thing, differing, things_between
from volta_switch.study.table_formats import as_csv, as_latex, as_markdown, as_text
from volta_switch.task_names import column_title
from volta_switch.tasks import TaskSpec, load_task, task_class
from volta_switch.tasks.graded_items import NoItems
from volta_switch.tasks.metrics import mean_std
from volta_switch.train.step_log import EXECUTED, PATHS

LOSSES = ("loss", "itm", "mlm", "vision")
Rows = Mapping[str, Sequence[FoundRun]]  # name -> its runs, by their seeds


@dataclass(frozen=True)
class Compared:
    """A table, and what standard error should say beside it."""

    table: ReportedTable
    remarks: tuple[str, ...]

    def text(self, style: str) -> str:
        """Returns the table as "text", "md", "csv", "tex" or "json"."""
        if style == "json":
            return json.dumps(self.table.to_dict(), indent=2, allow_nan=False)
        return {"text": as_text, "md": as_markdown, "csv": as_csv, "tex": as_latex}[style](self.table).rstrip("\n")


@dataclass(frozen=True)
class _Column:
    """A column, and what a run has in it."""

    reported: ReportedColumn
    split: str = ""
    """Of its tests; empty: of validation."""
    measured: str = ""
    """The metric's name where it stands."""

    def score(self, run: FoundRun) -> float:
        """Returns a run's number.

        Raises:
            UserError: there is none.
        """
        if self.split:
            source, values = str(run.tests[self.split].path), run.tests[self.split].metrics
        else:
            part = "last_validation" if run.task == PRETRAINING else "best_validation"
            source, values = f"{run.folder / 'metrics.json'}: {part}", run.metrics.get(part) or {}
        found = values.get(self.measured)
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise UserError(
                f"{source}: {self.measured} is {found}, expected a number; take a split whose answers are known"
            )
        return float(found)


def compare_runs(folders: Sequence[str], results: Sequence[str] = (), anyway: bool = False) -> Compared:
    """Makes the table of finished runs.

    Args:
        folders: of runs, or of their tests.
        results: folders of tests; empty: they are looked for (``find_runs``).
        anyway: make a table of rows that differ in several things, too; it says in which.

    Raises:
        UserError: a run is not finished, or a folder damaged; runs are of different tasks; rows differ in more than one
            thing.
    """
    runs = find_runs(folders, results)
    _refuse_other_tasks(runs)
    splits = [split for split in runs[0].tests if all(split in run.tests for run in runs)]
    remarks = [remark for run in runs for remark in run.remarks]
    for run in runs:
        left = sorted(set(run.tests) - set(splits))
        without = [str(other.folder) for other in runs if not set(left) <= set(other.tests)]
        if left and without:
            remarks.append(f"{run.folder}: its tests on {', '.join(left)} are left out: {', '.join(without)} has none")
    runs = [replace(run, tests={split: run.tests[split] for split in splits}) for run in runs]
    rows = _rows(runs)
    things = things_between(rows)
    if len(things) > 1 and not anyway:
        raise UserError(
            f"the table is refused: its rows differ in {len(things)} things: "
            f"{'; '.join(thing.brief for thing in things)}; rows may differ in one thing and in the seed. Leave out "
            "runs, or take --anyway for a table that says so"
        )
    remarks += _remarks(rows)
    return Compared(_table(rows, splits, things), tuple(dict.fromkeys(remarks)))


def _refuse_other_tasks(runs: Sequence[FoundRun]) -> None:
    for run in runs[1:]:
        if run.task != runs[0].task:
            raise UserError(
                f"{runs[0].folder} is of {runs[0].task}, {run.folder} of {run.task}: a table is of one task; compare "
                "the runs of each by themselves"
            )


# --- Rows -----------------------------------------------------------------------------------------------------------


def _rows(runs: Sequence[FoundRun]) -> dict[str, list[FoundRun]]:
    """Returns runs by rows, each row's in the order of their seeds.

    Raises:
        UserError: two runs agree in their seeds, too.
    """
    rows: list[list[FoundRun]] = []
    for run in runs:
        own = next((row for row in rows if all(not differing(other, run) for other in row)), None)
        if own is None:
            rows.append([run])
            continue
        for other in own:
            if other.seeds == run.seeds:
                raise UserError(
                    f"{other.folder} and {run.folder}: the same run twice by all that they recorded (seed "
                    f"{run.seeds[0]}); give one of them"
                )
        own.append(run)
    rows = [sorted(row, key=lambda run: [-1 if seed is None else seed for seed in run.seeds]) for row in rows]
    return dict(zip(_names(rows), rows, strict=True))


def _names(rows: Sequence[Sequence[FoundRun]]) -> list[str]:
    """Returns rows' names: what the names of their runs' folders begin with, and as much of the path as tells them."""
    paths = [[Path(os.path.abspath(run.folder)) for run in row] for row in rows]
    depth = max(len(path.parts) for row in paths for path in row)
    names: list[str] = []
    for parts in range(1, depth + 1):
        names = [_shared(["/".join(path.parts[-parts:]) for path in row]) for row in paths]
        if parts == 1:
            names = [name.removeprefix(f"{row[0].task}_") for name, row in zip(names, rows, strict=True)]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


def _shared(names: Sequence[str]) -> str:
    """Returns what names begin with, up to the end of a word; the first name where that is nothing."""
    start = os.path.commonprefix(list(names))  # noqa: RUF071 (of characters)
    if start not in names:
        start = start[: max(start.rfind("-"), start.rfind("/"), 0)]
    return start.rstrip("-/") or names[0]


def _remarks(rows: Rows) -> Iterator[str]:
    """Yields what may matter and is no setting: versions of code, and seeds that are not the same."""
    runs = [run for row in rows.values() for run in row if run.record is not None]
    for name in ("commit", "versions", "device"):
        found: dict[str, str] = {}
        for run in runs:
            value = ((run.record.environment if run.record else None) or {}).get(name)
            found.setdefault(json.dumps(value), str(run.folder))
        if len(found) > 1:
            each = "; ".join(f"{value} in {folder}" for value, folder in found.items())
            yield f"the runs' environments differ in {name}: {each}"
    seeds = {name: [run.seeds for run in row] for name, row in rows.items()}
    if len({json.dumps(each) for each in seeds.values()}) > 1:
        each = "; ".join(f"{name} has {', '.join('/'.join(map(str, of)) for of in own)}" for name, own in seeds.items())
        yield f"rows have other seeds, so that differences are not paired: {each}"


# --- The table ------------------------------------------------------------------------------------------------------


def _table(rows: Rows, splits: Sequence[str], things: Sequence[Thing]) -> ReportedTable:
    runs = [run for row in rows.values() for run in row]
    columns = _columns(runs, splits)
    first, several = next(iter(rows)), any(len(row) > 1 for row in rows.values())
    return ReportedTable(
        name="comparison",
        title="Not a controlled comparison" if len(things) > 1 else "",
        varies=tuple(thing.name for thing in things),
        columns=tuple(column.reported for column in columns),
        rows=tuple(_row(name, row, columns) for name, row in rows.items()),
        intervals=_intervals(several),
        comparisons=tuple(_comparisons(rows, columns, first)),
        notes=tuple(_notes(runs, splits, things)),
    )


def _notes(runs: Sequence[FoundRun], splits: Sequence[str], things: Sequence[Thing]) -> Iterator[str]:
    """Yields what every format must say of a table."""
    if len(things) > 1:
        each = "; ".join(thing.whole for thing in things)
        yield (
            f"Not a controlled comparison: the rows differ in {len(things)} things, so that no difference of scores is "
            f"owed to one of them: {each}."
        )
    elif things:
        yield f"The rows differ in one thing: {things[0].brief}."
    if runs[0].task != PRETRAINING and not splits:
        yield (
            "Validation only: there is no split that all runs were tested on. Scores are those of the epoch that was "
            "chosen by them, and no test scores."
        )
    if runs[0].task == PRETRAINING:
        yield "Losses are those of the last validation, in nats, with hard routes: less is better."


def _intervals(several: bool) -> str:
    if not several:
        return "One seed of each row: the spread over seeds is unknown, so that there is no ± and no interval."
    return (
        "± is the standard deviation over seeds. Intervals take seeds as a random effect (Student's t), and test items "
        "as a second one where it is said (all questions, captions or expressions of one image are one item)."
    )


def _columns(runs: Sequence[FoundRun], splits: Sequence[str]) -> list[_Column]:
    synthetic = any(run.is_synthetic for run in runs)
    found = []
    if runs[0].task == PRETRAINING:
        losses = [name for name in LOSSES if all(name in (run.metrics.get("last_validation") or {}) for run in runs)]
        for name in losses:
            title = column_title(PRETRAINING, name, False)
            known = ReportedColumn(PRETRAINING, name, title, synthetic=synthetic, digits=3)
            found.append(_Column(known, measured=name))
    for split in splits:
        test = runs[0].tests[split]
        spec = _entry_of(runs[0], test)
        pool = test.of.get("pool_images")
        for metric in task_class(spec).headline:
            title = column_title(spec.name, metric, False) + ("" if len(splits) == 1 else f", {split}")
            known = ReportedColumn(spec.name, metric, title, spec.key, split, pool, synthetic)
            found.append(_Column(known, split, metric))
    if not found:
        run = runs[0]
        metric = task_class(_entry_of(run, None)).metric
        name = f"validation {column_title('', metric, False).strip()}"
        known = ReportedColumn(run.task, name, f"{run.task} {name}", run.key, synthetic=synthetic)
        found.append(_Column(known, measured=metric))
    return found


def _entry_of(run: FoundRun, test: RunTest | None) -> TaskSpec:
    """Returns as much of a task's entry as tells which task it is."""
    name, key, entry = run.task, run.key, run.entry
    if test is not None:
        name, key = str(test.metrics.get("name", name)), str(test.metrics.get("task", key))
        entry = test.of.get("entry") or entry
    return TaskSpec(key, Path(), name, str(entry.get("type")), "", "", 0, "", "")


def _row(name: str, runs: Sequence[FoundRun], columns: Sequence[_Column]) -> TableRow:
    scores = []
    for column in columns:
        values = [column.score(run) for run in runs]
        estimate = ReportedEstimate.of(estimate_mean(np.array(values)))
        scores.append(ArmScore(*mean_std(values), tuple(values), estimate=estimate))
    executed = tuple(run.metrics.get(EXECUTED) for run in runs)
    flops = TrackedFlops(executed, tuple(run.metrics.get(PATHS, run.metrics.get(EXECUTED)) for run in runs))
    return TableRow(
        arm=name,
        parameters=(runs[0].record.parameters or 0) if runs[0].record else 0,
        scores=tuple(scores),
        flops={column.reported.task: flops for column in columns},
        seeds=tuple(run.seeds[0] for run in runs),
        folders=tuple(str(run.folder) for run in runs),
    )


# --- Differences ----------------------------------------------------------------------------------------------------


def _comparisons(rows: Rows, columns: Sequence[_Column], first: str) -> Iterator[ReportedDifference]:
    """Yields each row less the first one, in each column, of several seeds: paired where these are the same."""
    reader = ItemReader()
    rows = {name: row for name, row in rows.items() if len(row) > 1}
    for column in columns if first in rows else ():
        scores = {name: np.array([column.score(run) for run in row]) for name, row in rows.items()}
        items = {name: _items(row, column, reader) for name, row in rows.items()}
        for name in list(rows)[1:]:
            own, other = items[name], items[first]
            results = scores[name], scores[first]
            if own is not None and other is not None and np.array_equal(own.names, other.names):
                results = own.points, other.points
            seeds = [[run.seeds for run in rows[row]] for row in (name, first)]
            paired = seeds[0] == seeds[1] and None not in [seed for of in seeds[0] for seed in of]
            found = ReportedEstimate.of(estimate_difference(*results, paired=paired))
            yield ReportedDifference(name, first, column.reported.title, found)


def _items(runs: Sequence[FoundRun], column: _Column, reader: ItemReader) -> ItemResults | None:
    """Returns what a row's scores are the means of; None with one seed, or where it is not found out."""
    if not column.split or len(runs) < 2:
        return None
    try:
        tests = []
        for run in runs:
            test = run.tests[column.split]
            tests.append((Evaluated(_spec(run, test), test.split, test.path.parent), column.score(run)))
        return reader.column({"": tests}, column.measured)[""]
    except NoItems:
        return None


def _spec(run: FoundRun, test: RunTest) -> TaskSpec:
    """Returns the task's entry with its files, as the training had it; raises NoItems where it is not found.

    A test's own entry is not recorded. Where it is another one, the items do not give the score, and are not used.
    """
    record = run.record
    if record is None or record.entry_point != "train_task":
        raise NoItems(f"{run.folder}: does not say where its data lie")
    said = record.data or {}
    try:
        spec = load_task(str(said.get("tasks_config_file")), run.key)
        root = str(said.get("dataroot", "")).removesuffix(spec.dataroot)  # in which all of the entry's paths lie
        spec = load_task(str(said.get("tasks_config_file")), run.key, root)
    except UserError as error:
        raise NoItems(str(error)) from None
    return replace(spec, pool_images=test.of.get("pool_images"))
