"""How a study's switchers fared over training, by the validations of its runs (``train.switch_watch``)."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volta_switch.checksums import is_there
from volta_switch.study.json_records import Record
from volta_switch.study.planned_runs import works_of
from volta_switch.study.report.runs import work_name
from volta_switch.study.run_plan import RunPlan
from volta_switch.train.log_file import lines_of
from volta_switch.train.switch_watch import is_one_route

MEASURES = ("commonest_share", "distinct_routes", "mutual_information")
Watched = Mapping[str, Any]  # what one validation says of the switchers


@dataclass(frozen=True)
class WatchedRuns(Record):
    """An arm's finished runs of one kind: means over seeds at the first, the middle and the last validation."""

    arm: str
    work: str
    """``pre-training``, or the task's name."""
    seeds: tuple[int, ...]
    commonest_share: tuple[float, ...]
    """In [0, 1]."""
    distinct_routes: tuple[float, ...]
    mutual_information: tuple[float, ...]
    """Bits."""
    collapsed: int
    """How many of the runs ended with one route for all samples."""


def watched_runs(plan: RunPlan, done: Collection[str]) -> tuple[WatchedRuns, ...]:
    """Sums up the finished runs of arms that switch; those of versions that did not watch are left out.

    Args:
        plan: the study's.
        done: the keys of its finished runs.
    """
    found = []
    for name in {name: None for table in plan.study.tables for name in table.arms}:
        for work in works_of(plan.study.tasks):
            runs: dict[int, list[Watched]] = {}
            for seed in plan.study.arms[name].seeds:
                if plan.has(name, seed, work) and plan.run_of(name, seed, work).key in done:
                    runs[seed] = _validations(plan.run_of(name, seed, work).folder / "log.jsonl")
            runs = {seed: validations for seed, validations in runs.items() if validations}
            if runs:
                found.append(_summed_up(name, work_name(plan, name, work), runs))
    return tuple(found)


def _summed_up(arm: str, work: str, runs: Mapping[int, Sequence[Watched]]) -> WatchedRuns:
    stages = [[run[place] for place in (0, (len(run) - 1) // 2, -1)] for run in runs.values()]
    over_seeds = {
        measure: tuple(statistics.fmean(each[measure] for each in stage) for stage in zip(*stages, strict=True))
        for measure in MEASURES
    }
    return WatchedRuns(
        arm, work, tuple(runs), **over_seeds, collapsed=sum(is_one_route(run[-1]) for run in runs.values())
    )


def _validations(log: Path) -> list[Watched]:
    """Returns what each validation of a run says of its switchers; empty where none does."""
    lines = lines_of(log) if is_there(log) else []
    return [line["switchers"] for line in lines if line["kind"] == "valid" and "switchers" in line]
