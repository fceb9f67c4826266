"""The side-by-side table of a study: what each model reached, refused where two rows differ in a hyperparameter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from volta_switch.config import find_config
from volta_switch.errors import UserError
from volta_switch.files import replacing, write_json
from volta_switch.study.plan import Places, Study, places, test_split
from volta_switch.tasks import TASKS, TaskSpec, load_task
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

    task: TaskSpec
    metric: str
    split: str

    @property
    def heading(self) -> str:
        """``refcoco+ accuracy``."""
        return f"{self.task.name} {HEADINGS.get(self.metric, self.metric)}"


def make_table(study: Study, folder: Path) -> str:
    """Writes ``table.md`` and ``table.json`` into the study's folder and returns the table.

    Raises:
        UserError: a run is missing, or two rows of a column differ in anything but the model (the field is named).
    """
    for name in ("table.md", "table.json"):  # a refused table must not leave an older one in its place
        (folder / name).unlink(missing_ok=True)
    where = places(study, folder)
    columns = _columns(study, where)
    runs = {model: _run_files(study, where, model) for model in study.models}
    refuse_confounds(runs)
    rows = [_row(study, where, model, columns, runs[model]) for model in study.models]
    chance = _chance(folder, columns)
    headers = ["model", "parameters", *(column.heading for column in columns)]
    body = [[row["model"], f"{row['parameters'] / 1e6:.2f} M", *map(_shown, row["scores"])] for row in rows]
    if chance:
        body.append(["best blind guess", "", *(f"{value:.1f}" for value in chance)])
    text = tabulate(
        body, headers, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1))
    )
    notes = [_switch_note(row) for row in rows if row["soft_minus_hard"]]
    text = "\n\n".join([text, *notes]) + "\n"
    with replacing(folder / "table.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    metrics = [{"task": column.task.name, "metric": column.metric, "split": column.split} for column in columns]
    write_json(
        folder / "table.json",
        {"study": study.name, "seeds": list(study.seeds), "columns": metrics, "rows": rows, "chance": chance},
    )
    return text


def refuse_confounds(runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Compares the recorded settings of every model's runs.

    Args:
        runs: model -> run (``pretraining/seed0``, ...) -> what its ``run.json`` holds.

    Raises:
        UserError: two models' runs differ in a setting; the setting and both values are named.
    """
    first, *others = runs
    for other in others:
        for run, recorded in runs[first].items():
            for section in ("entry_point", "hyperparameters", "settings", "data", "precision"):
                _compare(section, run, (first, recorded[section]), (other, runs[other][run][section]))


def _compare(key: str, run: str, left: tuple[str, Any], right: tuple[str, Any]) -> None:
    if isinstance(left[1], Mapping) and isinstance(right[1], Mapping):
        for name in sorted({*left[1], *right[1]}):
            _compare(f"{key}.{name}", run, (left[0], left[1].get(name)), (right[0], right[1].get(name)))
    elif left[1] != right[1]:
        raise UserError(
            f"the table is refused: in {run}, {key} is {left[1]} for {left[0]} and {right[1]} for {right[0]}; "
            "rows may differ in the model only"
        )


def _columns(study: Study, where: Places) -> list[Column]:
    columns = []
    for task, flags in study.tasks.items():
        spec = load_task(where.tasks_config_file, task)
        split = test_split(spec, flags)
        columns += [Column(spec, metric, split) for metric in TASKS[spec.type].headline]
    return columns


def _run_files(study: Study, where: Places, model: str) -> dict[str, dict[str, Any]]:
    """``run.json`` of every run of a model."""
    stem, found = find_config(model).stem, {}
    for seed in study.seeds:
        folder = where.folder / stem / f"seed{seed}"
        runs = {f"pretraining/seed{seed}": (stem, "loss")} if study.pretraining else {}
        for task in study.tasks:
            spec = load_task(where.tasks_config_file, task)
            runs[f"{spec.name}/seed{seed}"] = f"{spec.name}_{stem}", TASKS[spec.type].metric
        for run, (run_folder, metric) in runs.items():
            found[run] = _read(folder / run_folder / "run.json")
            found[run]["last_validation"] = _read(folder / run_folder / "metrics.json")["last_validation"]
            found[run]["metric"] = metric
    return found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: missing; run the study first (volta-switch study run)")
    return json.loads(path.read_text(encoding="utf-8"))


def _row(
    study: Study, where: Places, model: str, columns: list[Column], runs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    stem = find_config(model).stem
    scores = []
    for column in columns:
        values = []
        for seed in study.seeds:
            result = where.folder / stem / f"seed{seed}" / f"{column.task.name}_{stem}" / f"{column.split}_metrics.json"
            values.append(float(_read(result)[column.metric]))
        mean, std = mean_std(values)
        scores.append({"mean": mean, "std": std, "values": values})
    return {
        "model": stem,
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
    return f"{row['model']}, validation score with soft routes minus hard routes, in points: {parts}."


def _shown(score: Mapping[str, Any]) -> str:
    return f"{score['mean']:.1f}" + (f" ± {score['std']:.1f}" if len(score["values"]) > 1 else "")


def _chance(folder: Path, columns: list[Column]) -> list[float]:
    """What is reached without looking, in percent, per column; empty where the data are not a small world.

    Referring expressions and retrieval: at random; VQA and GQA: the commonest answer to each kind of question; NLVR2
    and SNLI-VE: the commonest label.
    """
    path = folder / "world" / "world.json"
    if not path.is_file():
        return []
    balance = json.loads(path.read_text(encoding="utf-8"))["balance"]
    found = []
    for column in columns:
        data, guess = BLIND_GUESSES[column.task.name]
        found.append(100 * balance[data]["val" if column.split.startswith("val") else "test"][guess])
    return found
