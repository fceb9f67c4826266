"""What the page shows: from a plan, its made tables and its runs' files to plain JSON values.

Keys: ``study`` (in short), ``tables`` (as made, each with what it waits for), ``curves`` (a panel for each table and
kind of run), ``cost`` (each arm's), ``routes`` (the reports of the first seeds), ``routes_over_seeds``, ``confounds``
(what was compared), ``runs`` (every cell), ``commands`` (of runs that are alike but for the seed, once) and
``environment``. What is not finished is there, too, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from volta_switch.cost.counts import Counts, some_batch
from volta_switch.cost.executed import inference, training_step
from volta_switch.cost.memory import parameters
from volta_switch.cost.paths import inference_paths, training_paths
from volta_switch.data.files.json_files import read_object
from volta_switch.study.arms import Arm, Table
from volta_switch.study.cells import PRETRAINING, Cell, Plan, world_folder
from volta_switch.study.finished import Done, finished_cells
from volta_switch.study.report.records import commands_of, confounds, environments, every_run
from volta_switch.study.route_seeds import read_routes
from volta_switch.study.table import HEADINGS, named_claims
from volta_switch.tasks import task_class
from volta_switch.train.log_file import lines_of
from volta_switch.train.route_log import EXECUTED, PATHS

PAIRS = 32  # image-text pairs that FLOPs are the mean of
UNTESTED = {"verdict": "not tested", "text": "", "reason": "Its table is not made yet"}
VERDICTS = ("supported", "contradicted", "undecided")


def collect(plan: Plan, tables: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the page shows.

    Args:
        plan: the study's, over its folder, finished or not.
        tables: what ``table.json`` holds; tables that could not be made yet may lack.
    """
    done = finished_cells(plan.folder)
    shown = _tables(plan, tables, done)
    runs, routes = every_run(plan, done), _routes(plan, done)
    return {
        "study": _study(plan, shown, runs),
        "tables": shown,
        "curves": [panel for table in plan.study.tables for panel in _panels(plan, table, done)],
        "cost": _cost(plan, done, routes),
        "routes": routes,
        "routes_over_seeds": [each for each in tables.get("routes", []) if len(each["seeds"]) > 1],
        "confounds": [confounds(plan, table) for table in plan.study.tables],
        "runs": runs,
        "commands": commands_of(runs),
        "environment": environments(runs),
    }


def _study(plan: Plan, tables: list[dict[str, Any]], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The study in numbers."""
    arms = {arm: None for table in plan.study.tables for arm in table.arms}
    found = [claim["verdict"] for table in tables for claim in table["claims"]]
    return {
        "name": plan.study.name,
        "minimum_effect": plan.study.minimum_effect,
        "folder": str(plan.folder),
        "arms": list(arms),
        "tasks": list({task: None for table in tables for task in table["tasks"]}),
        "seeds": sorted({len(table["planned_seeds"]) for table in tables}),
        "cells": len(runs),
        "finished": sum(run["finished"] for run in runs),
        "seconds": sum(run["seconds"] or 0 for run in runs),
        "claims": {verdict: found.count(verdict) for verdict in (*VERDICTS, "not tested")},
    }


def _tables(plan: Plan, made: Mapping[str, Any], done: Mapping[str, Done]) -> list[dict[str, Any]]:
    """All planned tables in order: as made, or without rows."""
    known = {table["name"]: table for table in made.get("tables", [])}
    left_out = {table["name"]: table["text"] for table in made.get("left_out", [])}
    found = []
    for table in plan.study.tables:
        first = plan.study.arms[table.arms[0]]
        empty: dict[str, Any] = {"columns": [], "rows": [], "verdicts": [], "chance": [], "seeds": [], "intervals": ""}
        planned = {"name": table.name, "title": table.title, "varies": list(table.varies)}
        own = {**empty, **planned, **known.get(table.name, {})}
        own["planned_seeds"] = list(table.seeds_of(first))
        own["left_out"] = left_out.get(table.name, "")
        own["tasks"] = [plan.spec(first.name, task).name for task in table.tasks]
        own["arms"] = list(table.arms)
        own["verdicts"] = [_headed(verdict) for verdict in own["verdicts"]]
        own["claims"] = own["verdicts"] or [
            _headed({"claim": claim.to_dict(), **UNTESTED}) for claim in named_claims(plan, table)
        ]
        cells = _cells_of(plan, table)
        own["cells"] = {"needed": len(cells), "waiting": [cell.name for cell in cells if cell.key not in done]}
        found.append(own)
    return found


def _headed(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A verdict with its column's heading."""
    claim = verdict["claim"]
    return {**verdict, "heading": f"{claim['task']} {HEADINGS.get(claim['metric'], claim['metric'])}"}


def _cells_of(plan: Plan, table: Table) -> list[Cell]:
    """What a table needs, each once."""
    found = {}
    for name in table.arms:
        for seed in table.seeds_of(plan.study.arms[name]):
            for work in (PRETRAINING, *table.tasks):
                if plan.has(name, seed, work):
                    cell = plan.cell(name, seed, work)
                    found[cell.key] = cell
    return list(found.values())


# --- Curves ---------------------------------------------------------------------------------------------------------


def _works(plan: Plan, table: Table) -> Iterator[str]:
    """Pre-training, where any arm has it, and the table's tasks."""
    if any(plan.study.arms[name].pretraining for name in table.arms):
        yield PRETRAINING
    yield from table.tasks


def _panels(plan: Plan, table: Table, done: Mapping[str, Done]) -> Iterator[dict[str, Any]]:
    """The pictures of a table's runs over training."""
    for work in _works(plan, table):
        yield _panel(plan, table, work, done)
    yield from _paths_panel(plan, table)


def _panel(plan: Plan, table: Table, work: str, done: Mapping[str, Done]) -> dict[str, Any]:
    """Validations of every arm and seed of a table against the training samples seen."""
    if work == PRETRAINING:
        title, value, label = "Pre-training", "loss", "validation loss"
    else:
        spec = plan.spec(table.arms[0], work)
        metric = task_class(spec).metric
        title, value, label = spec.name, "score", f"validation {HEADINGS.get(metric, metric)}, %"
    runs = list(_runs(plan, table, work))
    waiting = [f"{name}/seed{seed}" for name, seed, cell in runs if cell.key not in done]
    arms = _over_seeds(runs, lambda log: _validations(log, value))
    return {"table": table.name, "title": title, "y_label": label, "arms": arms, "runs": len(runs), "waiting": waiting}


def _paths_panel(plan: Plan, table: Table) -> list[dict[str, Any]]:
    """Path FLOPs over executed ones while the table's switching arms pre-train; none where nobody tracked them."""
    arms = _over_seeds(_runs(plan, table, PRETRAINING), _path_ratios)
    label = "path FLOPs over executed ones"
    panel = {"table": table.name, "title": "Active paths in pre-training", "y_label": label, "arms": arms}
    return [{**panel, "runs": 0, "waiting": []}] if arms else []


def _runs(plan: Plan, table: Table, work: str) -> Iterator[tuple[str, int, Cell]]:
    """Arm, seed and cell of everything that a table needs of one kind."""
    for name in table.arms:
        for seed in table.seeds_of(plan.study.arms[name]):
            if plan.has(name, seed, work):
                yield name, seed, plan.cell(name, seed, work)


def _over_seeds(
    runs: Iterable[tuple[str, int, Cell]], points: Callable[[Path], list[list[float]]]
) -> list[dict[str, Any]]:
    """What ``curve_figure`` takes of arms: the points of every run's log, where there are any."""
    arms: dict[str, list[dict[str, Any]]] = {}
    for name, seed, cell in runs:
        found = points(cell.folder / "log.jsonl")
        if found:
            arms.setdefault(name, []).append({"seed": seed, "points": found})
    return [{"arm": name, "seeds": seeds} for name, seeds in arms.items()]


def _lines(log: Path) -> list[dict[str, Any]]:
    """A run's log; empty where it has not begun."""
    return lines_of(log) if log.is_file() else []


def _validations(log: Path, value: str) -> list[list[float]]:
    """(samples, value) of a run's validations, the last of each epoch."""
    lines = {line["epoch"]: line for line in _lines(log) if line["kind"] == "valid"}
    return [[line["samples"], line[value]] for line in lines.values() if line.get(value) is not None]


def _path_ratios(log: Path) -> list[list[float]]:
    """(samples, path FLOPs over executed ones) of the steps that tracked them."""
    tracked = {line["samples"]: line for line in _lines(log) if PATHS in line}
    return [[at, line[PATHS] / line[EXECUTED]] for at, line in tracked.items()]


# --- Cost and routes ------------------------------------------------------------------------------------------------


def _cost(plan: Plan, done: Mapping[str, Done], routes: list[dict[str, Any]]) -> dict[str, Any]:
    """Each arm's parameters, FLOPs of a pair in pre-training (see ``some_batch``), and times of its finished runs."""
    tracked = _tracked(routes)
    arms: dict[str, Any] = {}
    flops: dict[Any, dict[str, float]] = {}
    for name in {name: None for table in plan.study.tables for name in table.arms}:
        arm = plan.study.arms[name]
        config = plan.config(name)
        key = json.dumps(config.to_dict(), sort_keys=True)
        if key not in flops:
            counts = Counts.of(config, some_batch(PAIRS, config=config))
            flops[key] = {
                "parameters": parameters(config),
                "training_executed": training_step(config, counts) / PAIRS,
                "inference_executed": inference(config, counts) / PAIRS,
                "training_paths": training_paths(config, counts) / PAIRS,
                "inference_paths": inference_paths(config, counts) / PAIRS,
            }
        arms[name] = {
            **flops[key],
            "trained": _trained(plan, arm, done),
            "top_k": None if config.switch is None else config.switch.active_modes,
            "seconds": _seconds(plan, arm, done),
            "tracked": tracked.get(name, {}),
        }
    return {"pairs": PAIRS, "arms": arms}


def _trained(plan: Plan, arm: Arm, done: Mapping[str, Done]) -> dict[str, float]:
    """FLOPs of a pair as its finished pre-training runs tracked them, the mean over seeds; empty where none did."""
    cells = [plan.cell(arm.name, seed) for seed in arm.seeds if plan.has(arm.name, seed)]
    files = [cell.folder / "metrics.json" for cell in cells if cell.key in done]
    said = [read_object(path) for path in files]
    kept = [each for each in said if EXECUTED in each]
    names = {"training_executed": EXECUTED, "training_paths": PATHS}
    sums = {name: sum(each.get(key, each[EXECUTED]) for each in kept) for name, key in names.items()}
    return {name: total / len(kept) for name, total in sums.items() if kept}


def _seconds(plan: Plan, arm: Arm, done: Mapping[str, Done]) -> dict[str, dict[str, float]]:
    """Kind of run -> the mean time of its finished cells, and how many those are."""
    found = {}
    for work in (PRETRAINING, *plan.study.tasks):
        cells = [plan.cell(arm.name, seed, work) for seed in arm.seeds if plan.has(arm.name, seed, work)]
        times = [done[cell.key].seconds for cell in cells if cell.key in done]
        if times:
            name = "pre-training" if work == PRETRAINING else plan.spec(arm.name, work).name
            found[name] = {"mean": sum(times) / len(times), "runs": len(times)}
    return found


def _routes(plan: Plan, done: Mapping[str, Done]) -> list[dict[str, Any]]:
    """The reports of first seeds' routes, as ``volta-switch routes`` wrote them; None where one is not finished."""
    found = []
    for (name, seed, task), cell in plan.route_cells().items():
        if seed != plan.study.arms[name].seeds[0]:
            continue
        report = read_routes(cell) if cell.key in done else None
        arm, of = plan.study.arms[name], {"arm": name, "task": plan.spec(name, task).name, "seed": seed}
        world = str(world_folder(plan.study, arm, plan.folder)) if arm.world is not None else None
        found.append({**of, "world": world, "report": report})
    return found


def _tracked(routes: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Arm -> task -> FLOPs of a pair by the routes that its samples took."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for route in routes:
        if route["report"]:
            found.setdefault(route["arm"], {})[route["task"]] = route["report"].get("flops per pair") or {}
    return found
