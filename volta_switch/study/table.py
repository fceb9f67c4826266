"""The side-by-side tables of a study: what each arm reached, refused where two rows differ in what is not varied."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from volta_switch.errors import UserError
from volta_switch.files import replacing, write_json
from volta_switch.study.arms import Arm, Table
from volta_switch.study.cells import Plan, test_split, world_folder
from volta_switch.study.claims import Verdict, judge
from volta_switch.tasks import TASKS, TaskSpec
from volta_switch.tasks.metrics import mean_std

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


def make_tables(plan: Plan) -> str:
    """Writes ``table.md``, ``.json``, ``.csv`` and ``.tex`` into the study's folder and returns all tables as text.

    Raises:
        UserError: a run is missing, or two rows of a table differ in anything but what it varies (the field is named).
    """
    folder = plan.folder
    names = [f"table.{kind}" for kind in ("md", "json", "csv", "tex")]
    for name in names:  # a refused table must not leave an older one in its place
        (folder / name).unlink(missing_ok=True)
    made = [_table(plan, table) for table in plan.study.tables]
    text = "\n\n".join(map(_markdown, made)) + "\n"
    written = {
        "table.md": text,
        "table.csv": "".join(map(_csv, made)),
        "table.tex": "\n\n".join(map(_latex, made)) + "\n",
    }
    for name, content in written.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    write_json(folder / "table.json", {"study": plan.study.name, "tables": made})
    return text


def _table(plan: Plan, table: Table) -> dict[str, Any]:
    """A table as JSON values."""
    arms = [plan.study.arms[name] for name in table.arms]
    columns = _columns(plan, arms[0], table.tasks)
    runs = {arm.name: _run_files(plan, arm, table.tasks) for arm in arms}
    refuse_recorded_confounds(runs, table)
    rows = [_row(plan, arm, columns, runs[arm.name], table.published.get(arm.name, {})) for arm in arms]
    return {
        "name": table.name,
        "title": table.title,
        "varies": list(table.varies),
        "seeds": list(arms[0].seeds),
        "columns": [
            {"task": column.task.name, "metric": column.metric, "split": column.split, "heading": column.heading}
            for column in columns
        ],
        "rows": rows,
        "verdicts": [{**verdict.to_dict(), "text": verdict.text} for verdict in _verdicts(table, columns, rows)],
        "chance": _chance(world_folder(plan.study, arms[0], plan.folder), columns),
    }


def _verdicts(table: Table, columns: list[Column], rows: list[dict[str, Any]]) -> list[Verdict]:
    """What the scores say of the table's claims, whose tasks may be named as the plan or the task file does."""
    scores = {
        row["arm"]: {
            (task, column.metric): np.array(score["values"])
            for column, score in zip(columns, row["scores"], strict=True)
            for task in (column.planned, column.task.key, column.task.name)
        }
        for row in rows
    }
    return judge(table.claims, scores)


def refuse_recorded_confounds(runs: Mapping[str, Mapping[str, Mapping[str, Any]]], table: Table) -> None:
    """Compares the recorded settings of every arm's runs, but for those that the table varies.

    Args:
        runs: arm -> run (``pretraining/seed0``, ...) -> what its ``run.json`` holds.
        table: what it varies.

    Raises:
        UserError: two arms' runs differ in a setting; the setting and both values are named.
    """
    varied = {name.split(".")[0] for name in table.varies}
    first, *others = runs
    for other in others:
        for run, recorded in runs[first].items():
            if run not in runs[other]:  # an arm without pre-training, as planned
                continue
            sections = {"entry_point", "hyperparameters", "settings", "data", "precision"}
            if ("pretraining" if run.startswith("pretraining/") else "tasks") in varied:
                sections -= {"hyperparameters", "settings"}
            if varied & {"world", "data"}:
                sections.remove("data")
            for section in sorted(sections):
                _compare(section, run, (first, recorded[section]), (other, runs[other][run][section]))


def _compare(key: str, run: str, left: tuple[str, Any], right: tuple[str, Any]) -> None:
    if isinstance(left[1], Mapping) and isinstance(right[1], Mapping):
        for name in sorted({*left[1], *right[1]}):
            _compare(f"{key}.{name}", run, (left[0], left[1].get(name)), (right[0], right[1].get(name)))
    elif left[1] != right[1]:
        raise UserError(
            f"the table is refused: in {run}, {key} is {left[1]} for {left[0]} and {right[1]} for {right[0]}; "
            "rows may differ in what the table varies only"
        )


def _columns(plan: Plan, arm: Arm, tasks: Sequence[str]) -> list[Column]:
    columns = []
    for task in tasks:
        spec = plan.spec(arm.name, task)
        split = test_split(spec, arm.tasks[task])
        columns += [Column(task, spec, metric, split) for metric in TASKS[spec.type].headline]
    return columns


def _run_files(plan: Plan, arm: Arm, tasks: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``run.json`` of every run of an arm."""
    found = {}
    for seed in arm.seeds:
        runs = {f"pretraining/seed{seed}": (plan.cell(arm.name, seed), "loss")} if arm.pretraining else {}
        for task in tasks:
            spec = plan.spec(arm.name, task)
            runs[f"{spec.name}/seed{seed}"] = plan.cell(arm.name, seed, task), TASKS[spec.type].metric
        for run, (cell, metric) in runs.items():
            found[run] = _read(cell.folder / "run.json")
            found[run]["last_validation"] = _read(cell.folder / "metrics.json")["last_validation"]
            found[run]["metric"] = metric
    return found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: missing; run the study first (volta-switch study run)")
    return json.loads(path.read_text(encoding="utf-8"))


def _row(
    plan: Plan, arm: Arm, columns: list[Column], runs: Mapping[str, Mapping[str, Any]], published: Mapping[str, Any]
) -> dict[str, Any]:
    scores = []
    for column in columns:
        values = []
        for seed in arm.seeds:
            cell = plan.cell(arm.name, seed, column.planned)
            values.append(float(_read(cell.folder / f"{column.split}_metrics.json")[column.metric]))
        mean, std = mean_std(values)
        scores.append({"mean": mean, "std": std, "values": values, "published": published.get(column.heading)})
    return {
        "arm": arm.name,
        "model": arm.model,
        "parameters": next(iter(runs.values()))["parameters"],
        "scores": scores,
        "soft_minus_hard": _soft_minus_hard(runs),
    }


def _soft_minus_hard(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Task run -> how much better soft routes validate than hard ones after the last epoch, in points."""
    differences = {}
    for run, recorded in runs.items():
        last, metric = recorded["last_validation"], recorded["metric"]
        if recorded["entry_point"] == "train_task" and f"{metric}_soft_routes" in last:
            differences[run] = last[f"{metric}_soft_routes"] - last[metric]
    return differences


def _switch_note(row: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{run} {value:+.2f}" for run, value in row["soft_minus_hard"].items())
    return f"{row['arm']}, validation score with soft routes minus hard routes, in points: {parts}."


def _cells(table: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows as text."""
    headers = ["model", "parameters", *(column["heading"] for column in table["columns"])]
    body = [[row["arm"], f"{row['parameters'] / 1e6:.2f} M", *map(_shown, row["scores"])] for row in table["rows"]]
    if table["chance"]:
        body.append(["best blind guess", "", *(f"{value:.1f}" for value in table["chance"])])
    return headers, body


def _shown(score: Mapping[str, Any]) -> str:
    own = f"{score['mean']:.1f}" + (f" ± {score['std']:.1f}" if len(score["values"]) > 1 else "")
    return own if score["published"] is None else f"{own} ({score['published']})"


def _markdown(table: Mapping[str, Any]) -> str:
    headers, body = _cells(table)
    text = tabulate(
        body, headers, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1))
    )
    notes = [_switch_note(row) for row in table["rows"] if row["soft_minus_hard"]]
    title = [f"**{table['title']}**"] if table["title"] else []
    return "\n\n".join([*title, text, *notes, *(verdict["text"] for verdict in table["verdicts"])])


def _latex(table: Mapping[str, Any]) -> str:
    headers, body = _cells(table)
    body = [[cell.replace("±", "$\\pm$") for cell in row] for row in body]
    rows = tabulate(body, headers, tablefmt="latex_booktabs", disable_numparse=True)
    return rows.replace("\\$\\textbackslash{}pm\\$", "$\\pm$")


def _csv(table: Mapping[str, Any]) -> str:
    """A line for every arm, column and seed."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["table", "arm", "parameters", "task", "metric", "split", "seed", "score", "published"])
    for row in table["rows"]:
        for column, score in zip(table["columns"], row["scores"], strict=True):
            for seed, value in zip(table["seeds"], score["values"], strict=True):
                place = (column["task"], column["metric"], column["split"])
                lines.writerow([table["name"], row["arm"], row["parameters"], *place, seed, value, score["published"]])
    return out.getvalue()


def _chance(world: Path, columns: list[Column]) -> list[float]:
    """What is reached without looking, in percent, per column; empty where the data are not a small world.

    Referring expressions and retrieval: at random; VQA and GQA: the commonest answer to each kind of question; NLVR2
    and SNLI-VE: the commonest label.
    """
    path = world / "world.json"
    if not path.is_file():
        return []
    balance = json.loads(path.read_text(encoding="utf-8"))["balance"]
    found = []
    for column in columns:
        data, guess = BLIND_GUESSES[column.task.name]
        found.append(100 * balance[data]["val" if column.split.startswith("val") else "test"][guess])
    return found
