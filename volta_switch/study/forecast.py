"""How long a study will take, by what was measured of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from volta_switch.config import load_config
from volta_switch.cost.counts import Counts, some_batch
from volta_switch.cost.executed import training_step
from volta_switch.data.files.json_files import read_object
from volta_switch.ranges import WORDS
from volta_switch.study.cells import PRETRAINING, ROUTES, Cell, Plan, world_folder
from volta_switch.study.finished import Done, begun_cells, finished_cells, known_cells
from volta_switch.study.plan import Study
from volta_switch.study.shares import cells_of_share
from volta_switch.tasks.task import WHOLE, Share
from volta_switch.train.log_file import lines_of
from volta_switch.world.spec import WorldSpec


def dry_run(study: Study, folder: Path, share: Share = WHOLE) -> str:
    """What ``run_study`` would do: every cell of a share, and how long it takes by what was measured. Writes nothing.

    Measured are the cells of the same work that are finished or have begun to train: those of the same arm, or else of
    the same model, or else of any, at whose speed in operations a second this one is reckoned.
    """
    with planned(study, folder) as plan:
        rows, seconds, missing = _forecast(plan, finished_cells(folder), begun_cells(folder), share)
    left = sum(state != "finished" for _, state in rows)
    total = f"{len(rows)} cells, {left} to run{_in_words(left, missing, seconds)}"
    tables = [f"{table.name}: {', '.join(table.arms)} on {', '.join(table.tasks)}" for table in study.tables]
    return "\n".join([*tables, "", *(f"{name}  {state}" for name, state in rows), "", total])


@contextmanager
def planned(study: Study, folder: Path, data: Mapping[str, Any] | None = None) -> Iterator[Plan]:
    """The plan over a folder whose worlds need not be written yet, for the block; writes nothing there.

    ``data``: as ``plan_of`` takes it.

    Raises:
        UserError: as of ``Plan``.
    """
    with TemporaryDirectory() as scratch:
        at = folder
        if any(arm.world is not None and not world_folder(study, arm, folder).exists() for arm in study.arms.values()):
            at = Path(scratch)
            for arm in study.arms.values():
                if arm.world is not None:
                    _write_task_file(WorldSpec(**arm.world), world_folder(study, arm, at))
        yield Plan(study, at, replace(known_cells(folder), data=data or {}))


def _in_words(left: int, missing: int, seconds: float) -> str:
    """How long the cells that are left will take, of which ``missing`` are like none that was measured."""
    if not left:
        return ""
    if missing == left:
        return ": how long is unknown, for nothing like them was measured"
    unknown = f", and unknown time for {missing} that are like none that was measured" if missing else ""
    return f": {seconds / 3600:.1f} hours of one process{unknown}"


def _forecast(
    plan: Plan, done: Mapping[str, Done], started: Mapping[str, Path], share: Share
) -> tuple[list[tuple[str, str]], float, int]:
    """(cell's name, what is known of it) each, the seconds of those that are reckoned, and the number of others."""
    begun = {cell.name: found for cell in plan.cells if cell.key in started and (found := _begun(cell))}
    whole = {name: seconds for name, (seconds, _) in begun.items()}
    speeds = _speeds(plan, measured_seconds(plan, done) | whole)
    rows, missing, seconds = [], 0, 0.0
    for cell in cells_of_share(plan.cells, share):
        if cell.key in done:
            rows.append((cell.name, "finished"))
            continue
        left = begun[cell.name][1] if cell.name in begun else _expected_seconds(plan, cell, speeds)
        state = "not measured yet" if left is None else f"{left / 60:.1f} min"
        missing += left is None
        seconds += left or 0.0
        rows.append((cell.name, f"begun, {state} left" if cell.name in begun else state))
    return rows, seconds, missing


def _begun(cell: Cell) -> tuple[float, float] | None:
    """All seconds of a cell that has begun to train, and those that are left, at the speed since it last started."""
    record, log = cell.folder / "run.json", cell.folder / "log.jsonl"
    if not record.is_file() or not log.is_file():
        return None
    steps, lines = read_object(record).get("steps"), lines_of(log)
    starts = [line for line in lines if line["kind"] == "start"]
    if not steps or not starts or lines[-1]["step"] == starts[-1]["step"]:
        return None
    of_one = (lines[-1]["time"] - starts[-1]["time"]) / (lines[-1]["step"] - starts[-1]["step"])
    return of_one * steps, of_one * (steps - lines[-1]["step"])


def _write_task_file(spec: WorldSpec, folder: Path) -> None:
    from volta_switch.world.task_entries import task_file

    folder.mkdir(parents=True, exist_ok=True)
    lengths = dict.fromkeys(spec.data_sets, int(WORDS.lowest))  # they play no part in what cells cost
    entries = task_file(spec, lengths)
    (folder / "tasks.yml").write_text(yaml.safe_dump(entries), encoding="utf-8")


def measured_seconds(plan: Plan, done: Mapping[str, Done]) -> dict[str, float]:
    """Cell's name -> seconds, of finished cells."""
    return {cell.name: done[cell.key].seconds for cell in plan.cells if cell.key in done}


def _expected_seconds(plan: Plan, cell: Cell, speeds: Mapping[tuple[str, ...], float]) -> float | None:
    """By the finished cells most like this one, at their median speed."""
    found = next((speeds[kind] for kind in _kinds(plan, cell) if kind in speeds), None)
    return None if found is None else _size(plan, cell) / found


def _speeds(plan: Plan, measured: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """Operations a second of the finished cells of each kind: the median, which a night of other work leaves alone."""
    speeds: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
    for cell in plan.cells:
        for kind in _kinds(plan, cell) if cell.name in measured else ():
            speeds[kind].append(_size(plan, cell) / max(measured[cell.name], 1e-3))
    return {kind: median(found) for kind, found in speeds.items()}


def _kinds(plan: Plan, cell: Cell) -> tuple[tuple[str, ...], ...]:
    """What cells it is like, nearest first: the same work of its arm, of its model, of any."""
    return (cell.work, "arm", cell.arm), (cell.work, "model", plan.study.arms[cell.arm].model), (cell.work,)


def _size(plan: Plan, cell: Cell) -> float:
    """Operations of a cell's training, but for the number of samples, which is the same in all cells of its kind."""
    arm = plan.study.arms[cell.arm]
    if cell.work == PRETRAINING:
        flags, epochs = arm.pretraining, arm.pretraining.get("num_train_epochs", 10)
    else:
        task = next(task for task in arm.tasks if plan.spec(arm.name, task).key == cell.work.removeprefix(ROUTES))
        flags = arm.tasks[task].get("train") or {}
        epochs = flags.get("num_epoch", 20)
    return _flops(arm.model, arm.overrides) * epochs * flags.get("data_fraction", 1.0)


@cache
def _flops(model: str, overrides: tuple[str, ...]) -> float:
    """Of training on a few pairs of 12 word pieces and 36 regions."""
    config = load_config(model, overrides)
    return training_step(config, Counts.of(config, some_batch(4, config=config), None))


def time_ahead(
    plan: Plan, left: list[Cell], measured: Mapping[str, float], begun: int, minutes: float, jobs: int
) -> str:
    """About how long the cells that are left will take: by what was measured, or as long as those before."""
    if not left:
        return ""
    usual = 60 * minutes * jobs / max(begun - len(left), 1)
    speeds = _speeds(plan, measured)
    found = [_expected_seconds(plan, cell, speeds) for cell in left]
    seconds = sum(usual if each is None else each for each in found) / jobs
    return f", about {seconds / 60:.0f} min left"
