"""Running a study's cells: several at once, finished ones reused, a killed study continued."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from volta_switch.errors import UserError
from volta_switch.study.cells import Cell, Plan, world_folder
from volta_switch.study.finished import (
    Done,
    finished_cells,
    known_cells,
    log_of,
    note_begun,
    note_finished,
    plan_of,
    scores_in,
)
from volta_switch.study.forecast import measured_seconds, planned, time_ahead
from volta_switch.study.gpus import slots, take_gpu
from volta_switch.study.plan import Study
from volta_switch.study.shares import cells_of_share
from volta_switch.tasks.task import WHOLE, Share
from volta_switch.train.log_file import seconds_trained
from volta_switch.train.stopping import Stopped

# glibc gives a large tensor's pages back after every operation and asks for them again; keeping them saves a fifth of
# the time of small models on a CPU. Other systems ignore the names.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "10000000000"}
WORKING = threading.Lock()  # of a worker: held while it runs a cell


def run_study(
    study: Study,
    folder: Path,
    jobs: int,
    retries: int = 1,
    *,
    gpus: Sequence[str] = (),
    share: Share = WHOLE,
) -> Plan:
    """Writes the study's worlds, then runs every cell that is not finished yet; returns the plan.

    Args:
        study: the study.
        folder: its folder.
        jobs: how many cells are run at once.
        retries: how often a cell that failed is tried again before it counts as failed.
        gpus: what the jobs' processes are given, one each (``gpus.chosen_gpus``); several jobs share one where there
            are fewer of them.
        share: which of the plan's cells are run (``shares``).

    Raises:
        UserError: a cell failed; its log is named, and the cells that do not need it are finished.
    """
    if jobs < 1:
        raise UserError(f"--jobs: expected 1 or more, found {jobs}")
    with planned(study, folder):  # refuses what only task files tell before a world is written
        pass
    write_worlds(study, folder)
    plan, again = _plan_with_weights(study, folder, share)
    plan.data.keep()
    cells = cells_of_share(plan.cells, share)
    done = finished_cells(folder)
    waiting = [cell for cell in cells if cell.key not in done or cell.key in again]
    of_share = "" if share == WHOLE else f" in share {share.number + 1} of {share.count}"
    said = f"{study.name}: {len(cells)} cells{of_share}, {len(cells) - len(waiting)} finished before"
    print(said + _shared_gpus(jobs, gpus), file=sys.stderr)
    for cell in cells:
        if cell.key in again:
            print(f"{cell.name}: was merged without weights, which others need; run again here", file=sys.stderr)
    failed = _run_all(plan, waiting, retries, slots(min(jobs, max(len(waiting), 1)), gpus), set(again))
    for cell in cells:
        if cell.key in again and cell not in failed:
            _compare(cell, again[cell.key])
    if failed:
        logs = ", ".join(str(log_of(folder, cell)) for cell in failed)
        raise UserError(f"study {study.name}: {len(failed)} cells failed ({logs}); the same command tries them again")
    return plan


def write_worlds(study: Study, folder: Path) -> None:
    """Writes the small worlds of a study's arms into its folder, where they are not there yet.

    Of several processes that work in the folder one writes, and the others wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for arm in study.arms.values():
        if arm.world is not None:
            from volta_switch.world import one_writer, write_world

            world = world_folder(study, arm, folder)
            with one_writer(world):
                write_world(world, **arm.world)


def _plan_with_weights(study: Study, folder: Path, share: Share) -> tuple[Plan, dict[str, Path]]:
    """The plan, and the merged cells whose weights cells that are not finished need: key -> the folder that was merged.

    They are planned anew, in folders of their own; what was merged stays where it is.
    """
    plan, done = plan_of(study, folder), finished_cells(folder)
    cells = {cell.name: cell for cell in cells_of_share(plan.cells, share)}
    again: dict[str, Path] = {}
    for cell in cells.values():
        if cell.key in done:
            continue
        needed = cells.get(cell.needs)
        while needed is not None and needed.key in done and not done[needed.key].has_weights:
            again[needed.key] = done[needed.key].folder
            needed = cells.get(needed.needs)
    return Plan(study, folder, known_cells(folder, without=again)) if again else plan, again


def _compare(cell: Cell, merged: Path) -> None:
    """Says where a cell that was run again has other scores than the one that was merged."""
    before, now = scores_in(merged), scores_in(cell.folder)
    other = [name for name in before if now.get(name) != before[name]]
    if other:
        print(
            f"{cell.name}: {other[0]} is {now.get(other[0])} here and was {before[other[0]]} where it was merged from; "
            "this run is the one that counts now",
            file=sys.stderr,
        )


def _shared_gpus(jobs: int, gpus: Sequence[str]) -> str:
    if not gpus:
        return ""
    if jobs <= len(gpus):
        return f"; a GPU for each job ({', '.join(gpus[:jobs])})"
    return f"; {jobs} jobs share {len(gpus)} GPU{'s' if len(gpus) > 1 else ''} ({', '.join(gpus)})"


def _run_all(plan: Plan, waiting: list[Cell], retries: int, gpus: Sequence[str], again: set[str]) -> list[Cell]:
    """Runs cells as what they need gets ready; returns those that failed or were waiting for one that did.

    ``gpus``: of each job its GPU, or "". ``again``: keys of cells that are finished but for their weights.
    """
    folder, total, jobs = plan.folder, len(waiting), len(gpus)
    threads = max(1, (os.cpu_count() or 1) // jobs)
    started, open_names = time.perf_counter(), {cell.name for cell in waiting}
    finished, begun = _finished_beside(folder, again), len(waiting)
    failed: list[Cell] = []
    tried: Counter[str] = Counter()
    os.environ.update({**ALLOCATOR, **os.environ})  # read by a process when it starts
    running: dict[Future[str], Cell] = {}
    context = get_context("spawn")
    left_gpus: SimpleQueue[str] = context.SimpleQueue()
    for gpu in gpus:
        left_gpus.put(gpu)
    given = (threads, left_gpus)
    with ProcessPoolExecutor(jobs, context, initializer=_begin_worker, initargs=given) as pool:
        while waiting or running:
            open_names -= {cell.name for cell in waiting if cell.key in finished}
            waiting = [cell for cell in waiting if cell.key not in finished]
            ready = [cell for cell in waiting if cell.needs not in open_names][: jobs - len(running)]
            for cell in ready:
                waiting.remove(cell)
                running[pool.submit(_work_on, folder, cell)] = cell
            if not running:  # everything left waits for a cell that failed, or nothing is left
                return failed + waiting
            ended = wait(running, return_when=FIRST_COMPLETED).done
            finished = _finished_beside(folder, again)  # also by another process that runs this study
            for future in ended:
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
                left = [*waiting, *running.values()]
                minutes = (time.perf_counter() - started) / 60
                ahead = time_ahead(plan, left, measured_seconds(plan, finished), begun, minutes, jobs)
                done = total - len(left)
                print(f"[{done}/{total}] {minutes:5.1f} min{ahead}  {cell.name}  {error or 'done'}", file=sys.stderr)
    return failed


def _finished_beside(folder: Path, again: set[str]) -> dict[str, Done]:
    """The finished cells, without those that were merged and are run again for their weights."""
    return {key: done for key, done in finished_cells(folder).items() if done.has_weights or key not in again}


def _begin_worker(threads: int, gpus: SimpleQueue[str]) -> None:
    take_gpu(gpus.get())  # one for as long as this process lives
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_the_study, daemon=True).start()


def _end_with_the_study() -> None:
    """Ends this worker when the study's process is gone: training first writes a checkpoint, as when asked to stop."""
    study = parent_process()
    assert study is not None
    study.join()
    os.kill(os.getpid(), signal.SIGTERM)
    with WORKING:
        os._exit(1)


def _work_on(folder: Path, cell: Cell) -> str:
    with WORKING:
        return run_cell(folder, cell)


def run_cell(folder: Path, cell: Cell) -> str:
    """Runs one cell's commands in this process, its output going to ``<cell>.log``; returns an error line or ``""``."""
    log = log_of(folder, cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    note_begun(folder, cell)
    trained, started = seconds_trained(cell.folder / "log.jsonl"), time.perf_counter()  # before, and from now on
    with log.open("a", encoding="utf-8") as out, redirect_stdout(out), redirect_stderr(out):
        try:
            for typed, (entry, arguments) in zip(cell.typed, cell.commands, strict=True):
                print(f"$ {typed}", flush=True)
                _entry_point(entry, arguments)
        except (UserError, Stopped) as error:
            print(f"error: {error}")
            return str(error)
        except SystemExit:  # argparse has said why, into the log
            return f"the plan's flags are wrong, see {log}"
        except Exception as error:  # a failed cell must not take the others with it
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
    note_finished(folder, cell, round(trained + time.perf_counter() - started, 1))
    return ""


def _entry_point(name: str, arguments: Sequence[str]) -> None:
    from volta_switch.routes.commands import route_flags, run_routes
    from volta_switch.train import evaluation, finetuning, pretraining

    mains = {
        "routes": lambda arguments: run_routes(route_flags().parse_args(arguments)),
        "train_concap": pretraining.main,
        "train_task": finetuning.main,
        "eval_task": evaluation.main,
        "eval_retrieval": evaluation.main_retrieval,
    }
    mains[name](arguments)
