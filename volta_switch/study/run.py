"""Running a study's cells: several at once, finished ones reused, a killed study continued."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from volta_switch.errors import UserError
from volta_switch.files import write_json
from volta_switch.study.cells import Cell, Plan, world_folder
from volta_switch.study.plan import Study
from volta_switch.world.spec import WorldSpec

# glibc gives a large tensor's pages back after every operation and asks for them again; keeping them saves a fifth of
# the time of small models on a CPU. Other systems ignore the names.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "10000000000"}


def run_study(study: Study, folder: Path, jobs: int, retries: int = 1) -> Plan:
    """Writes the study's worlds, then runs every cell that is not finished yet; returns the plan.

    ``retries``: how often a cell that failed is tried again before it counts as failed.

    Raises:
        UserError: a cell failed; its log is named, and the cells that do not need it are finished.
    """
    if jobs < 1:
        raise UserError(f"--jobs: expected 1 or more, found {jobs}")
    folder.mkdir(parents=True, exist_ok=True)
    for arm in study.arms.values():
        if arm.world is not None:
            from volta_switch.world import write_world

            write_world(world_folder(study, arm, folder), **arm.world)
    plan = plan_of(study, folder)
    done = finished_cells(folder)
    waiting = [cell for cell in plan.cells if cell.key not in done]
    print(f"{study.name}: {len(plan.cells)} cells, {len(plan.cells) - len(waiting)} finished before", file=sys.stderr)
    failed = _run_all(plan, waiting, jobs, retries)
    if failed:
        logs = ", ".join(str(_log(folder, cell)) for cell in failed)
        raise UserError(f"study {study.name}: {len(failed)} cells failed ({logs}); the same command tries them again")
    return plan


def plan_of(study: Study, folder: Path) -> Plan:
    """The plan over a folder, where finished cells stay wherever they lie."""
    return Plan(study, folder, {key: done.folder for key, done in finished_cells(folder).items()})


def dry_run(study: Study, folder: Path) -> str:
    """What ``run_study`` would do: every cell, and how long those take that have a measured twin. Writes nothing.

    A twin is a finished cell of the same arm and task with another seed, or else of the same model and task.
    """
    with TemporaryDirectory() as scratch:
        at = folder
        if any(arm.world is not None and not world_folder(study, arm, folder).exists() for arm in study.arms.values()):
            at = Path(scratch)
            for arm in study.arms.values():
                if arm.world is not None:
                    _write_task_file(WorldSpec(**arm.world), world_folder(study, arm, at))
        plan = Plan(study, at)
    done = finished_cells(folder)
    measured = _measured(plan, done)
    rows, missing, seconds = [], 0, 0.0
    for cell in plan.cells:
        if cell.key in done:
            rows.append((cell.name, "finished"))
            continue
        found = _expected_seconds(plan, cell, measured)
        missing += found is None
        seconds += found or 0.0
        rows.append((cell.name, "not measured yet" if found is None else f"{found / 60:.1f} min"))
    left = sum(state != "finished" for _, state in rows)
    unknown = f"; {missing} of them have no measured twin and are not counted" if missing else ""
    total = f"{len(rows)} cells, {left} to run: {seconds / 3600:.1f} hours of one process{unknown}"
    tables = [f"{table.name}: {', '.join(table.arms)} on {', '.join(table.tasks)}" for table in study.tables]
    return "\n".join([*tables, "", *(f"{name}  {state}" for name, state in rows), "", total])


def _write_task_file(spec: WorldSpec, folder: Path) -> None:
    from volta_switch.world.task_entries import task_file

    folder.mkdir(parents=True, exist_ok=True)
    entries = task_file(spec, dict.fromkeys(spec.data_sets, 0))
    (folder / "tasks.yml").write_text(yaml.safe_dump(entries), encoding="utf-8")


def _measured(plan: Plan, done: Mapping[str, Done]) -> dict[str, float]:
    """Cell's name -> seconds, of finished cells."""
    return {cell.name: done[cell.key].seconds for cell in plan.cells if cell.key in done}


def _expected_seconds(plan: Plan, cell: Cell, measured: Mapping[str, float]) -> float | None:
    model = plan.study.arms[cell.arm].model
    of_arm = [measured[twin.name] for twin in plan.cells if twin.name in measured and _alike(twin, cell)]
    of_model = [
        measured[twin.name]
        for twin in plan.cells
        if twin.name in measured and twin.task == cell.task and plan.study.arms[twin.arm].model == model
    ]
    found = of_arm or of_model
    return sum(found) / len(found) if found else None


def _alike(twin: Cell, cell: Cell) -> bool:
    return (twin.arm, twin.task) == (cell.arm, cell.task)


def _run_all(plan: Plan, waiting: list[Cell], jobs: int, retries: int) -> list[Cell]:
    """Runs cells as what they need gets ready; returns those that failed or were waiting for one that did."""
    folder, total = plan.folder, len(plan.cells)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    started, open_names = time.perf_counter(), {cell.name for cell in waiting}
    measured, begun = _measured(plan, finished_cells(folder)), len(waiting)
    failed: list[Cell] = []
    tried: Counter[str] = Counter()
    os.environ.update({**ALLOCATOR, **os.environ})  # read by a process when it starts
    running: dict[Future[str], Cell] = {}
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_limit_threads, initargs=(threads,)) as pool:
        while waiting or running:
            ready = [cell for cell in waiting if cell.needs not in open_names][: jobs - len(running)]
            for cell in ready:
                waiting.remove(cell)
                running[pool.submit(run_cell, folder, cell)] = cell
            if not running:  # everything left waits for a cell that failed
                return failed + waiting
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                try:
                    error = future.result()
                except BrokenProcessPool:
                    raise UserError(
                        f"{cell.name}: its process was killed, perhaps for want of memory; take fewer --jobs (the same "
                        "command goes on from here)"
                    ) from None
                tried[cell.name] += 1
                if error and tried[cell.name] <= retries:
                    waiting.append(cell)
                    error = f"{error}; tried again"
                elif error:
                    failed.append(cell)
                else:
                    open_names.discard(cell.name)
                    measured = _measured(plan, finished_cells(folder))
                left = [*waiting, *running.values()]
                minutes = (time.perf_counter() - started) / 60
                ahead = _time_ahead(plan, left, measured, begun, minutes, jobs)
                done = total - len(left)
                print(f"[{done}/{total}] {minutes:5.1f} min{ahead}  {cell.name}  {error or 'done'}", file=sys.stderr)
    return failed


def _time_ahead(
    plan: Plan, left: list[Cell], measured: Mapping[str, float], begun: int, minutes: float, jobs: int
) -> str:
    """About how long the cells that are left will take: by measured twins, or as long as those before them."""
    if not left:
        return ""
    usual = 60 * minutes * jobs / max(begun - len(left), 1)
    found = [_expected_seconds(plan, cell, measured) for cell in left]
    seconds = sum(usual if each is None else each for each in found) / jobs
    return f", about {seconds / 60:.0f} min left"


def _limit_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def run_cell(folder: Path, cell: Cell) -> str:
    """Runs one cell's commands in this process, its output going to ``<cell>.log``; returns an error line or ``""``."""
    log = _log(folder, cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with log.open("a", encoding="utf-8") as out, redirect_stdout(out), redirect_stderr(out):
        try:
            for entry, arguments in cell.commands:
                print(f"$ python {entry}.py {' '.join(arguments)}", flush=True)
                _entry_point(entry, arguments)
        except UserError as error:
            print(f"error: {error}")
            return str(error)
        except SystemExit:  # argparse has said why, into the log
            return f"the plan's flags are wrong, see {log}"
        except Exception as error:  # a failed cell must not take the others with it
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
    seconds = round(time.perf_counter() - started, 1)
    done = {"cell": cell.name, "key": cell.key, "folder": os.path.relpath(cell.folder, folder), "seconds": seconds}
    write_json(_done(folder, cell), done)
    return ""


def _entry_point(name: str, arguments: Sequence[str]) -> None:
    from volta_switch.train import evaluation, finetuning, pretraining

    mains = {
        "train_concap": pretraining.main,
        "train_task": finetuning.main,
        "eval_task": evaluation.main,
        "eval_retrieval": evaluation.main_retrieval,
    }
    mains[name](arguments)


def _log(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / f"{cell.name.replace('/', '.')}.log"


def _done(folder: Path, cell: Cell) -> Path:
    return _log(folder, cell).with_suffix(".json")


@dataclass(frozen=True)
class Done:
    """A finished cell: its run's folder, and how long it took."""

    folder: Path
    seconds: float


def finished_cells(folder: Path) -> dict[str, Done]:
    """The finished cells of a study's folder by their keys, under whatever names."""
    found = {}
    for path in sorted((folder / "cells").glob("*.json")):
        try:
            done = json.loads(path.read_text(encoding="utf-8"))
            found[str(done["key"])] = Done(folder / done["folder"], float(done["seconds"]))
        except (ValueError, TypeError, KeyError):  # of another version, or not ours
            continue
    return {key: done for key, done in found.items() if done.folder.is_dir()}
