"""The side-by-side tables of a study: what each arm reached, refused where two rows differ in what is not varied."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.checksums import record_json, recording, refuse_gone
from volta_switch.cost.memory import parameters
from volta_switch.data.files.json_files import read_object
from volta_switch.errors import UserError
from volta_switch.study.arms import Arm, Table
from volta_switch.study.cells import Plan, test_split, world_folder
from volta_switch.study.claims import Claim, ItemResults, Verdict, judge
from volta_switch.study.confounds import refuse_recorded_confounds
from volta_switch.study.finished import finished_cells
from volta_switch.study.items import Evaluated, ItemReader, NoItems
from volta_switch.study.route_seeds import routes_over_seeds
from volta_switch.study.statistics import estimate_mean
from volta_switch.study.table_formats import as_csv, as_latex, as_markdown, routes_as_markdown
from volta_switch.tasks import TaskSpec, task_class
from volta_switch.tasks.metrics import mean_std
from volta_switch.train.route_log import EXECUTED, PATHS

HEADINGS = {"accuracy": "accuracy", "vqa_score": "score", "ir_r1": "image R@1", "tr_r1": "text R@1"}


BLIND_GUESSES = {  # task -> data set of a small world, and what it calls the best guess without looking
    "VQA": ("vqa", "prior_by_kind"),
    "RetrievalCOCO": ("coco", "chance_r1"),
    "RetrievalFlickr30k": ("retrieval", "chance_r1"),
    "refcoco": ("refcoco", "chance"),
    "refcoco+": ("refer", "chance"),
    "refcocog": ("refcocog", "chance"),
    "NLVR2": ("nlvr2", "majority"),
    "VisualEntailment": ("snli_ve", "majority"),
    "GQA": ("gqa", "prior_by_kind"),
}


@dataclass(frozen=True)
class Column:
    """One metric of one task."""

    planned: str  # the task as the plan calls it
    task: TaskSpec
    metric: str
    split: str

    @property
    def heading(self) -> str:
        """``refcoco+ accuracy``."""
        return f"{self.task.name} {HEADINGS.get(self.metric, self.metric)}"


@dataclass(frozen=True)
class Reached:
    """What the arms of a table reached in one column."""

    scores: Mapping[str, np.ndarray]  # arm -> (S,) in percent
    items: Mapping[str, ItemResults]  # behind them, of each arm; empty where they cannot be had
    why_not: str = ""  # empty where they can


def make_tables(plan: Plan, finished_only: bool = False) -> dict[str, Any]:
    """Writes ``table.md``, ``.json``, ``.csv`` and ``.tex`` into the study's folder and returns what the JSON holds.

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
        raise
    made = found["tables"]
    written = {
        "table.md": tables_text(found),
        "table.csv": "".join(map(as_csv, made)),
        "table.tex": "\n\n".join(map(as_latex, made)) + "\n",
    }
    for name, content in written.items():
        with recording(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    record_json(folder / "table.json", found)
    return found


def tables_text(found: Mapping[str, Any]) -> str:
    """All tables as Markdown, those that are left out named, and routes over seeds."""
    parts = [*map(as_markdown, found["tables"]), *(each["text"] for each in found["left_out"])]
    return "\n\n".join([*parts, *routes_as_markdown(found["routes"])]) + "\n"


def tables_of(plan: Plan, finished_only: bool = False) -> dict[str, Any]:
    """A study's tables as JSON values, and its routes over seeds.

    Args:
        plan: the study's.
        finished_only: each table of the seeds that all its arms have finished; it says which, and a table without any
            is named in place of it.

    Raises:
        UserError: a run is missing, or two rows of a table differ in anything but what it varies (the field is named).
    """
    reader, done = ItemReader(), set(finished_cells(plan.folder)) if finished_only else None
    made, left_out = [], []
    for table in plan.study.tables:
        seeds = _seeds(plan, table, done)
        common = tuple(seed for seed in seeds[table.arms[0]] if all(seed in of_arm for of_arm in seeds.values()))
        if common or done is None:
            made.append(_table(plan, table, reader, seeds if done is None else dict.fromkeys(seeds, common)))
        else:
            left_out.append(_left_out(plan, table, seeds))
    return {"study": plan.study.name, "tables": made, "left_out": left_out, "routes": routes_over_seeds(plan)}


def _seeds(plan: Plan, table: Table, done: set[str] | None) -> dict[str, tuple[int, ...]]:
    """Each arm's seeds; only those whose every task is finished where the keys of finished cells are given."""

    def finished(arm: str, seed: int) -> bool:
        return done is None or all(plan.cell(arm, seed, task).key in done for task in table.tasks)

    planned = {name: table.seeds_of(plan.study.arms[name]) for name in table.arms}
    return {name: tuple(seed for seed in seeds if finished(name, seed)) for name, seeds in planned.items()}


def _left_out(plan: Plan, table: Table, seeds: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """A table that no seed is finished for, and how far its arms are."""
    states = ", ".join(
        f"{arm} {len(done)} of {len(table.seeds_of(plan.study.arms[arm]))}" for arm, done in seeds.items()
    )
    title = f"{table.title} ({table.name})" if table.title else table.name
    text = f"Left out: {title}; no seed is finished for all of its arms. Finished seeds: {states}."
    return {"name": table.name, "title": table.title, "text": text}


def _table(plan: Plan, table: Table, reader: ItemReader, seeds: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """A table as JSON values, of these seeds of each arm."""
    arms = [replace(plan.study.arms[name], seeds=seeds[name]) for name in table.arms]
    columns = _columns(plan, arms[0], table.tasks)
    runs = {arm.name: _run_files(plan, arm, table.tasks) for arm in arms}
    refuse_recorded_confounds(runs, {arm.name: plan.sections(arm.name, table.tasks) for arm in arms})
    reached = [_reached(plan, arms, column, reader) for column in columns]
    rows = [_row(plan, arm, columns, reached, runs[arm.name], table.published.get(arm.name, {})) for arm in arms]
    return {
        "name": table.name,
        "title": table.title,
        "varies": list(table.varies),
        "dial": table.dial,
        "shows_flops": table.flops,
        "seeds": list(arms[0].seeds),
        "planned_seeds": list(table.seeds_of(plan.study.arms[table.arms[0]])),
        "columns": [
            {
                **{"task": column.task.name, "key": column.task.key},
                **{"metric": column.metric, "split": column.split, "heading": column.heading},
            }
            for column in columns
        ],
        "rows": rows,
        "intervals": _intervals(columns, reached, len(arms[0].seeds)),
        "verdicts": [verdict.to_dict() for verdict in _verdicts(plan, table, columns, reached)],
        "chance": _chance(world_folder(plan.study, arms[0], plan.folder), columns),
    }


def named_claims(plan: Plan, table: Table) -> tuple[Claim, ...]:
    """A table's claims, their tasks called as its columns are ("refcoco+"), not as the plan or the task file does."""
    specs = plan.specs(table)
    return tuple(replace(claim, task=specs[claim.task].name) for claim in table.claims)


def _verdicts(plan: Plan, table: Table, columns: list[Column], reached: list[Reached]) -> list[Verdict]:
    """What the scores say of the table's claims."""
    scores: dict[str, dict[tuple[str, str], np.ndarray]] = defaultdict(dict)
    items: dict[str, dict[tuple[str, str], ItemResults]] = defaultdict(dict)
    for column, found in zip(columns, reached, strict=True):
        for arm, values in found.scores.items():
            key = column.task.name, column.metric
            scores[arm][key] = values
            if found.items:
                items[arm][key] = found.items[arm]
    return judge(named_claims(plan, table), scores, items, minimum_effect=plan.study.minimum_effect)


def _reached(plan: Plan, arms: Sequence[Arm], column: Column, reader: ItemReader) -> Reached:
    """Scores of every arm and seed, and the items behind them."""
    scores, tests = {}, {}
    for arm in arms:
        folders = [plan.cell(arm.name, seed, column.planned).folder for seed in arm.seeds]
        values = [_score(folder / f"{column.split}_metrics.json", column) for folder in folders]
        scores[arm.name] = np.array(values)
        spec = plan.tested_spec(arm.name, column.planned)
        tested = [Evaluated(spec, column.split, folder) for folder in folders]
        tests[arm.name] = list(zip(tested, values, strict=True))
    try:
        return Reached(scores, reader.column(tests, column.metric))
    except NoItems as error:
        return Reached(scores, {}, str(error))


def _score(path: Path, column: Column) -> float:
    found = _read(path).get(column.metric)
    if not isinstance(found, int | float) or not math.isfinite(found):
        raise UserError(
            f"{path}: {column.metric} is {found}, expected a score of {column.task.name}'s split {column.split}; take "
            "a split whose answers are known (test: split: ...)"
        )
    return float(found)


def _intervals(columns: list[Column], reached: list[Reached], seeds: int) -> str:
    """What a table's intervals and its ± are."""
    if seeds < 2:
        return "One seed of each arm: the spread over seeds is unknown, so that there is no ± and no interval."
    parts = [f"± is the standard deviation over {seeds} seeds. Intervals take seeds as a random effect (Student's t)"]
    without = [
        f"{each.heading} ({found.why_not})" for each, found in zip(columns, reached, strict=True) if found.why_not
    ]
    if len(without) < len(columns):
        parts[0] += (
            " and test items as a second one (resampling them, in closed form; all questions, captions or expressions "
            "of one image are one item): they are about new seeds and new items"
        )
    if without:
        parts.append(f"About these test items alone: {', '.join(without)}")
    if any(len({tuple(results.names) for results in found.items.values()}) > 1 for found in reached):
        parts.append("Verdicts on arms that were tested on different items are about these test items alone")
    return ". ".join(parts) + "."


def _columns(plan: Plan, arm: Arm, tasks: Sequence[str]) -> list[Column]:
    columns = []
    for task in tasks:
        spec = plan.spec(arm.name, task)
        split = test_split(spec, arm.tasks[task])
        columns += [Column(task, spec, metric, split) for metric in task_class(spec).headline]
    return columns


def _run_files(plan: Plan, arm: Arm, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``run.json`` of every run of an arm."""
    found = {}
    for seed in arm.seeds:
        runs = {f"pretraining/seed{seed}": (plan.cell(arm.name, seed), "loss")} if arm.pretraining else {}
        for task in tasks:
            spec = plan.spec(arm.name, task)
            runs[f"{spec.name}/seed{seed}"] = plan.cell(arm.name, seed, task), task_class(spec).metric
        for run, (cell, metric) in runs.items():
            found[run] = _read(cell.folder / "run.json")
            metrics = _read(cell.folder / "metrics.json")
            found[run] |= {"last_validation": metrics["last_validation"], "metric": metric}
            executed = metrics.get(EXECUTED)
            found[run]["flops"] = {"executed": executed, "paths": metrics.get(PATHS, executed)}
    return found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: missing; run the study first (volta-switch study run)")
    return read_object(path)


def _row(
    plan: Plan,
    arm: Arm,
    columns: list[Column],
    reached: list[Reached],
    runs: Mapping[str, Mapping[str, Any]],
    published: Mapping[str, Any],
) -> dict[str, Any]:
    scores = []
    for column, found in zip(columns, reached, strict=True):
        values = found.scores[arm.name]
        mean, std = mean_std(values.tolist())
        results = found.items[arm.name].points if found.items else values
        score = {"mean": mean, "std": std, "values": values.tolist(), "published": published.get(column.heading)}
        scores.append({**score, "estimate": estimate_mean(results).to_dict()})
    return {
        "arm": arm.name,
        "model": arm.model,
        "parameters": parameters(plan.config(arm.name)),
        "scores": scores,
        "flops": _training_flops(runs),
        "soft_minus_hard": _soft_minus_hard(runs),
    }


def _training_flops(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[float | None]]]:
    """Of each kind of run: operations of training on a pair as each seed's run tracked them, executed and by paths."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for run, recorded in runs.items():
        of_kind = found.setdefault(run.split("/")[0], {"executed": [], "paths": []})
        for kind, values in of_kind.items():
            values.append(recorded["flops"][kind])
    return found


def _soft_minus_hard(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Task run -> how much better soft routes validate than hard ones after the last epoch, in points."""
    differences = {}
    for run, recorded in runs.items():
        last, metric = recorded["last_validation"], recorded["metric"]
        if recorded["entry_point"] == "train_task" and f"{metric}_soft_routes" in last:
            differences[run] = last[f"{metric}_soft_routes"] - last[metric]
    return differences


def _chance(world: Path, columns: list[Column]) -> list[float]:
    """What is reached without looking, in percent, per column; empty where the data are not a small world.

    Referring expressions and retrieval: at random; VQA and GQA: the commonest answer to each kind of question; NLVR2
    and SNLI-VE: the commonest label.
    """
    path = world / "world.json"
    if not path.is_file():
        refuse_gone([path])
        return []
    balance = read_object(path)["balance"]
    found = []
    for column in columns:
        data, guess = BLIND_GUESSES[column.task.name]
        share = balance[data]["val" if column.split.startswith("val") else "test"][guess]
        # A statement is true of some pairs and false of others: one guess for all of them is never consistent.
        found.append(0.0 if column.metric == "consistency" else 100 * share)
    return found
