"""Running a study's cells: several at once, finished ones reused, a killed study continued."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path

from volta_switch.errors import UserError
from volta_switch.files import write_json
from volta_switch.study.plan import Cell, Study, cells, places

# glibc gives a large tensor's pages back after every operation and asks for them again; keeping them saves a fifth of
# the time of small models on a CPU. Other systems ignore the names.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "10000000000"}


def run_study(study: Study, folder: Path, jobs: int) -> list[Cell]:
    """Writes the world if the study has one, then runs every cell that is not finished yet; returns all cells.

    Raises:
        UserError: a cell failed; its log is named, and the cells that do not need it are finished.
    """
    if jobs < 1:
        raise UserError(f"--jobs: expected 1 or more, found {jobs}")
    folder.mkdir(parents=True, exist_ok=True)
    where = places(study, folder)
    if study.world is not None:
        from volta_switch.world import write_world

        write_world(folder / "world", **study.world)
    plan = cells(study, where)
    keys = cell_keys(plan)
    waiting = [cell for cell in plan if not _is_finished(folder, cell, keys[cell.name])]
    print(f"{study.name}: {len(plan)} cells, {len(plan) - len(waiting)} finished before", file=sys.stderr)
    failed = _run_all(folder, waiting, keys, jobs, len(plan))
    if failed:
        logs = ", ".join(str(_log(folder, cell)) for cell in failed)
        raise UserError(f"study {study.name}: {len(failed)} cells failed ({logs}); the same command tries them again")
    return plan


def _run_all(folder: Path, waiting: list[Cell], keys: Mapping[str, str], jobs: int, total: int) -> list[Cell]:
    """Runs cells as what they need gets ready; returns those that failed or were waiting for one that did."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    started, open_names = time.perf_counter(), {cell.name for cell in waiting}
    failed: list[Cell] = []
    os.environ.update({**ALLOCATOR, **os.environ})  # read by a process when it starts
    running: dict[Future[str], Cell] = {}
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_limit_threads, initargs=(threads,)) as pool:
        while waiting or running:
            ready = [cell for cell in waiting if cell.needs not in open_names][: jobs - len(running)]
            for cell in ready:
                waiting.remove(cell)
                running[pool.submit(run_cell, folder, cell, keys[cell.name])] = cell
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
                if error:
                    failed.append(cell)
                else:
                    open_names.discard(cell.name)
                done = total - len(waiting) - len(running)
                minutes = (time.perf_counter() - started) / 60
                print(f"[{done}/{total}] {minutes:5.1f} min  {cell.name}  {error or 'done'}", file=sys.stderr)
    return failed


def _limit_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)


def run_cell(folder: Path, cell: Cell, key: str) -> str:
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
    write_json(_done(folder, cell), {"cell": cell.name, "key": key, "seconds": seconds})
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


def cell_keys(plan: Sequence[Cell]) -> dict[str, str]:
    """What finished cells are recognised by: their commands, word for word, and those of the cells they need."""
    keys: dict[str, str] = {}
    for cell in plan:  # what a cell needs stands before it
        keys[cell.name] = hashlib.sha256(json.dumps([cell.commands, keys.get(cell.needs)]).encode()).hexdigest()
    return keys


def _log(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / f"{cell.name.replace('/', '.')}.log"


def _done(folder: Path, cell: Cell) -> Path:
    return _log(folder, cell).with_suffix(".json")


def _is_finished(folder: Path, cell: Cell, key: str) -> bool:
    path = _done(folder, cell)
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("key") == key
