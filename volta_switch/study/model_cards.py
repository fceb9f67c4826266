"""What a study's tables say of its models, on the models' own cards (``comparison`` of ``training.json``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from volta_switch.cards.record import Record, change_record, set_comparisons
from volta_switch.study.arms import PlannedTable
from volta_switch.study.confounds import Comparison, ConfoundCheck
from volta_switch.study.planned_runs import REPORTS, PlannedRun, works_of
from volta_switch.study.records import ReportedTable, TableRow
from volta_switch.study.run_plan import RunPlan
from volta_switch.study.trained_runs import confounds_of


def write_comparisons(plan: RunPlan, made: Sequence[ReportedTable]) -> None:
    """Writes what the tables say of each model into the folder of its run, and renews its card.

    Runs that have no ``training.json`` are left alone: those made elsewhere, or by an earlier version.

    Args:
        plan: the study's.
        made: its tables. What a folder said of another table of the plan, which was refused or left out, is removed.
    """
    by_name = {table.name: table for table in made}
    entries: dict[str, list[Record]] = {run.key: [] for run in plan.runs if run.work.kind not in REPORTS}
    for planned in plan.study.tables:
        if planned.name in by_name:
            for run, entry in _entries(plan, planned, by_name[planned.name]):
                entries[run.key].append(entry)
    tables = [table.name for table in plan.study.tables]
    for run in plan.runs:
        if run.key in entries:
            _write(run, plan.study.name, tables, entries[run.key])


def _write(run: PlannedRun, study: str, tables: list[str], entries: list[Record]) -> None:
    def change(record: Record) -> Record | None:
        changed = set_comparisons(record, study, tables, entries)
        return changed if changed != record else None

    change_record(run.folder, change)


def _entries(plan: RunPlan, planned: PlannedTable, made: ReportedTable) -> list[tuple[PlannedRun, Record]]:
    """Returns the runs of a table, each with what the table says of its arm on its task; of pre-training on all."""
    check = confounds_of(plan, planned)
    found = []
    for row in made.rows:
        for seed in made.seeds:
            for work in works_of(planned.tasks):
                if plan.has(row.arm, seed, work):
                    key = plan.spec(row.arm, work.task).key if work.task else ""
                    found.append((plan.run_of(row.arm, seed, work), _entry(plan.study.name, made, row, key, check)))
    return found


def _entry(study: str, table: ReportedTable, row: TableRow, key: str, check: ConfoundCheck) -> Record:
    """Returns what a table says of an arm; ``key``: of the task, "" for all."""
    scores = [
        {
            "task": column.task,
            "metric": column.metric,
            "scope": column.scope,
            "synthetic": column.synthetic,
            "mean": score.mean,
            "values": list(score.values),
            **{name: getattr(score.estimate, name) for name in ("low", "high", "confidence", "population", "problem")},
        }
        for column, score in zip(table.columns, row.scores, strict=True)
        if key in ("", column.key)
    ]
    return {
        "study": study,
        "table": table.name,
        "arm": row.arm,
        "beside": [other.arm for other in table.rows if other.arm != row.arm],
        "varies": list(table.varies),
        "seeds": list(table.seeds),
        "scores": scores,
        "settings": {
            "planned": _counts(check.planned),
            "recorded": {"runs": check.recorded.runs, **_counts(check.recorded)},
        },
    }


def _counts(comparison: Comparison) -> dict[str, Any]:
    """Returns how many settings were compared; of those that differ the names, for values may be places of files."""
    differing = [each.setting for each in comparison.differing]
    return {"compared": comparison.compared, "equal": comparison.equal, "differing": differing}
