"""What was recorded of a study's runs: commands, environments, and the settings that a table's arms share.

A setting is written by its dotted name, ``hyperparameters.learning_rate``, as everywhere in a study.
"""

from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from volta_switch.data.files.json_files import read_object
from volta_switch.errors import UserError
from volta_switch.study.arms import Table, flat
from volta_switch.study.cells import PRETRAINING, Cell, Plan
from volta_switch.study.confounds import SECTIONS, refuse_recorded_confounds
from volta_switch.study.finished import Done


def confounds(plan: Plan, table: Table) -> dict[str, Any]:
    """What a table varies, and how its arms' settings compare: those that were planned, and those that runs recorded.

    ``compared`` counts settings; ``differing`` names them with every arm's value. ``refused`` is the reason why the
    recorded ones make no table, or empty.
    """
    planned = {name: plan.study.arms[name].settings(table.tasks) for name in table.arms}
    recorded = {name: _recorded(plan, name, table) for name in table.arms}
    return {
        "table": table.name,
        "varies": list(table.varies),
        "planned": _compared_as_planned(planned),
        "recorded": {**_compared_as_recorded(recorded), "runs": sum(map(len, recorded.values()))},
        "refused": _refused(recorded, {name: plan.sections(name, table.tasks) for name in table.arms}),
    }


def _compared_as_planned(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A setting that an arm lacks is none for it."""
    keys = {key: None for values in settings.values() for key in values}
    found = {key: {arm: values.get(key) for arm, values in settings.items()} for key in keys}
    differing = [{"setting": key, "values": values} for key, values in found.items() if not _equal(values)]
    return {"compared": len(found), "equal": len(found) - len(differing), "differing": differing}


def _compared_as_recorded(recorded: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Of each kind of run, over the seeds that two arms have run; a setting is equal where it is in every seed."""
    found: dict[str, dict[str, dict[str, Any]]] = {}  # setting -> run -> arm -> value
    for arm, runs in recorded.items():
        for run, record in runs.items():
            for key, value in _settings(record).items():
                found.setdefault(f"{key} in {run.split('/')[0]}", {}).setdefault(run, {})[arm] = value
    found = {key: {run: of for run, of in runs.items() if len(of) > 1} for key, runs in found.items()}
    found = {key: runs for key, runs in found.items() if runs}
    differing = [key for key, runs in found.items() if not all(map(_equal, runs.values()))]
    shown = [{"setting": key, "values": _over_runs(found[key])} for key in differing]
    return {"compared": len(found), "equal": len(found) - len(differing), "differing": shown}


def _over_runs(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Arm -> its value, or its values where seeds differ."""
    values: dict[str, list[Any]] = {}
    for of_arms in runs.values():
        for arm, value in of_arms.items():
            if value not in values.setdefault(arm, []):
                values[arm].append(value)
    return {arm: of[0] if len(of) == 1 else ", ".join(map(str, of)) for arm, of in values.items()}


def _equal(values: Mapping[str, Any]) -> bool:
    first, *others = values.values()
    return all(value == first for value in others)


def _recorded(plan: Plan, arm: str, table: Table) -> dict[str, dict[str, Any]]:
    """``pretraining/seed0`` -> what that run wrote down, of those that have begun."""
    found = {}
    for seed in table.seeds_of(plan.study.arms[arm]):
        for work in (PRETRAINING, *table.tasks):
            if plan.has(arm, seed, work):
                record = _record(plan.cell(arm, seed, work))
                name = "pretraining" if work == PRETRAINING else plan.spec(arm, work).name
                if record:
                    found[f"{name}/seed{seed}"] = record
    return found


def _settings(record: Mapping[str, Any]) -> dict[str, Any]:
    return flat({section: record[section] for section in SECTIONS if section in record})


def _refused(recorded: Mapping[str, Mapping[str, Mapping[str, Any]]], planned: Mapping[str, Mapping[str, Any]]) -> str:
    try:
        refuse_recorded_confounds(recorded, planned)
    except UserError as error:
        return str(error)
    return ""


def every_run(plan: Plan, done: Mapping[str, Done]) -> list[dict[str, Any]]:
    """Every cell: whether it is finished, how long it took, its commands as given, and where it ran."""
    found = []
    for cell in plan.cells:
        record = _record(cell)
        # run.json holds the training's command; what follows it (a test) is as planned.
        written = [shlex.join(["python", *record["command"]])] if "command" in record else []
        finished = cell.key in done
        found.append(
            {
                **{"cell": cell.name, "arm": cell.arm, "seed": cell.seed, "finished": finished},
                **{"begun": bool(record), "seconds": done[cell.key].seconds if finished else None},
                **{"commands": [*written, *cell.typed[len(written) :]]},
                **{"environment": flat(record.get("environment") or {})},
            }
        )
    return found


def commands_of(runs: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Arm -> its runs in groups that were given the same commands but for the seed's number.

    A group has ``work`` ("refcoco+"), its ``seeds``, the ``commands`` of the first, how many runs are ``finished`` and
    how many ``begun`` only, and the finished ones' mean time in ``seconds``.
    """
    found: dict[str, dict[tuple[str, ...], list[Mapping[str, Any]]]] = {}
    for run in runs:
        work = run["cell"].split("/", 2)[2]
        blank = [re.sub(rf"(seed ?){run['seed']}\b", r"\1N", command) for command in run["commands"]]
        found.setdefault(run["arm"], {}).setdefault((work, *blank), []).append(run)
    return {arm: [_as_one(work, group) for (work, *_), group in groups.items()] for arm, groups in found.items()}


def _as_one(work: str, runs: list[Mapping[str, Any]]) -> dict[str, Any]:
    seconds = [run["seconds"] for run in runs if run["finished"]]
    return {
        **{"work": work, "commands": runs[0]["commands"], "runs": len(runs), "seeds": [run["seed"] for run in runs]},
        **{"finished": len(seconds), "seconds": statistics.fmean(seconds) if seconds else None},
        "begun": sum(run["begun"] and not run["finished"] for run in runs),
    }


def environments(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is the same in all recorded runs, and what differs: field -> value -> the runs that had it."""
    recorded = [run for run in runs if run["environment"]]
    fields = {field: None for run in recorded for field in run["environment"]}
    same: dict[str, Any] = {}
    differing: dict[str, dict[str, list[str]]] = {}
    for field in fields:
        by_value: dict[str, list[str]] = {}
        for run in recorded:
            by_value.setdefault(str(run["environment"].get(field, "not recorded")), []).append(run["cell"])
        if len(by_value) == 1:
            same[field] = next(iter(by_value))
        else:
            differing[field] = by_value
    return {"runs": len(recorded), "same": same, "differing": differing}


def _record(cell: Cell) -> dict[str, Any]:
    path: Path = cell.folder / "run.json"
    return read_object(path) if path.is_file() else {}
