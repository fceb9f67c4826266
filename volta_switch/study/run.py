"""Running a study: several runs at once, each job with its GPU; finished ones are reused, a killed study goes on."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context, parent_process
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from volta_switch.errors import Stopped, UserError
from volta_switch.study import run_commands
from volta_switch.study.forecast import measured_seconds, time_ahead
from volta_switch.study.plan import Study
from volta_switch.study.planned_runs import (
    FinishedRun,
    PlannedRun,
    finished_runs,
    log_path,
    note_begun,
    note_finished,
    runs_of_share,
    scores_in,
    study_state,
)
from volta_switch.study.run_plan import RunPlan, plan_ahead, plan_of
from volta_switch.study.study_data import write_worlds
from volta_switch.tasks.task import WHOLE, Share
from volta_switch.train.log_file import seconds_trained

# glibc gives a large tensor's pages back after every operation and asks for them again; keeping them saves a fifth of
# the time of small models on a CPU. Other systems ignore the names.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "10000000000"}
WORKING = threading.Lock()  # of a worker: held while it executes a run
VISIBLE = "CUDA_VISIBLE_DEVICES"


def run_study(
    study: Study,
    folder: Path,
    jobs: int,
    retries: int = 1,
    *,
    gpus: Sequence[str] = (),
    share: Share = WHOLE,
) -> RunPlan:
    """Writes the study's worlds, then executes every run that is not finished yet; returns the plan.

    The study is planned twice. The first plan checks it whole before a world is written, over task files in a scratch
    folder. The second one is what is executed, over the study's own folder.

    Args:
        study: the study.
        folder: its folder.
        jobs: how many runs are executed at once.
        retries: how often a run that failed is tried again before it counts as failed.
        gpus: what the jobs' processes are given, one each (``chosen_gpus``); several jobs share one where there are
            fewer of them.
        share: which of the plan's runs are executed (``runs_of_share``).

    Raises:
        UserError: a run failed; its log is named, and the runs that do not need it are finished.
    """
    if jobs < 1:
        raise UserError(f"--jobs: expected 1 or more, found {jobs}")
    _check_before_writing(study, folder)
    write_worlds(study, folder)
    plan, again = _plan_with_weights(study, folder, share)
    plan.data.keep()
    runs, done = runs_of_share(plan.runs, share), finished_runs(folder)
    waiting = [run for run in runs if run.key not in done or run.key in again]
    _announce(study, runs, waiting, again, _shared_gpus(jobs, gpus), share)
    failed = _Scheduler(plan, waiting, retries, slots(min(jobs, max(len(waiting), 1)), gpus), set(again)).execute()
    for run in runs:
        if run.key in again and run not in failed:
            _compare(run, again[run.key])
    if failed:
        logs = ", ".join(str(log_path(folder, run)) for run in failed)
        raise UserError(f"study {study.name}: {len(failed)} cells failed ({logs}); the same command tries them again")
    return plan


def _check_before_writing(study: Study, folder: Path) -> None:
    """Raises UserError for what only task files tell, before a world is written."""
    with plan_ahead(study, folder):
        pass


def _plan_with_weights(study: Study, folder: Path, share: Share) -> tuple[RunPlan, dict[str, Path]]:
    """Plans what is executed, merged runs whose weights are needed among it.

    Such runs are planned anew, in folders of their own; what was merged stays where it is.

    Returns:
        The plan, and of each merged run that runs not finished yet need: its key -> the folder that was merged.
    """
    plan, done = plan_of(study, folder), finished_runs(folder)
    runs = {run.name: run for run in runs_of_share(plan.runs, share)}
    again: dict[str, Path] = {}
    for run in runs.values():
        if run.key in done:
            continue
        needed = runs.get(run.needs)
        while needed is not None and needed.key in done and not done[needed.key].has_weights:
            again[needed.key] = done[needed.key].folder
            needed = runs.get(needed.needs)
    return RunPlan(study, folder, study_state(folder, without=again)) if again else plan, again


def _announce(
    study: Study,
    runs: Sequence[PlannedRun],
    waiting: Sequence[PlannedRun],
    again: Mapping[str, Path],
    gpus: str,
    share: Share,
) -> None:
    """Says how much there is to do; ``gpus``: what the jobs share, in words."""
    of_share = "" if share == WHOLE else f" in share {share.number + 1} of {share.count}"
    said = f"{study.name}: {len(runs)} cells{of_share}, {len(runs) - len(waiting)} finished before"
    print(said + gpus, file=sys.stderr)
    for run in runs:
        if run.key in again:
            print(f"{run.name}: was merged without weights, which others need; run again here", file=sys.stderr)


def _compare(run: PlannedRun, merged: Path) -> None:
    """Says where a run that was made again has other scores than the one that was merged."""
    before, now = scores_in(merged), scores_in(run.folder)
    other = [name for name in before if now.get(name) != before[name]]
    if other:
        print(
            f"{run.name}: {other[0]} is {now.get(other[0])} here and was {before[other[0]]} where it was merged from; "
            "this run is the one that counts now",
            file=sys.stderr,
        )


class _Scheduler:
    """Executes runs in several processes as what they need gets ready."""

    def __init__(
        self, plan: RunPlan, waiting: Sequence[PlannedRun], retries: int, gpus: Sequence[str], again: set[str]
    ) -> None:
        """Begins with what waits.

        Args:
            plan: the plan.
            waiting: the runs to execute.
            retries: how often each may fail and be tried again.
            gpus: of each job its GPU, or "".
            again: keys of runs that are finished but for their weights.
        """
        self.plan, self.waiting, self.retries, self.gpus, self.again = plan, list(waiting), retries, gpus, again
        self.total, self.started = len(waiting), time.perf_counter()
        self.open_names = {run.name for run in waiting}
        self.finished = self._finished()
        self.failed: list[PlannedRun] = []
        self.tried: Counter[str] = Counter()
        self.running: dict[Future[str], PlannedRun] = {}

    def execute(self) -> list[PlannedRun]:
        """Executes all; returns the runs that failed or were waiting for one that did."""
        os.environ.update({**ALLOCATOR, **os.environ})  # read by a process when it starts
        context, jobs = get_context("spawn"), len(self.gpus)
        left_gpus: SimpleQueue[str] = context.SimpleQueue()
        for gpu in self.gpus:
            left_gpus.put(gpu)
        given = (max(1, (os.cpu_count() or 1) // jobs), left_gpus)
        with ProcessPoolExecutor(jobs, context, initializer=_begin_worker, initargs=given) as pool:
            while self.waiting or self.running:
                self._submit(pool)
                if not self.running:  # everything left waits for a run that failed, or nothing is left
                    return self.failed + self.waiting
                ended = wait(self.running, return_when=FIRST_COMPLETED).done
                self.finished = self._finished()
                for future in ended:
                    self._end(future)
        return self.failed

    def _submit(self, pool: ProcessPoolExecutor) -> None:
        """Gives the pool as many runs as it has room for, of those that wait for nothing."""
        self.open_names -= {run.name for run in self.waiting if run.key in self.finished}
        self.waiting = [run for run in self.waiting if run.key not in self.finished]
        free = len(self.gpus) - len(self.running)
        for run in [run for run in self.waiting if run.needs not in self.open_names][:free]:
            self.waiting.remove(run)
            self.running[pool.submit(_work_on, self.plan.folder, run)] = run

    def _end(self, future: Future[str]) -> None:
        """Takes what became of a run."""
        run = self.running.pop(future)
        try:
            error = future.result()
        except BrokenProcessPool:
            raise UserError(
                f"{run.name}: its process was killed, perhaps for want of memory; take fewer --jobs (the same "
                "command goes on from here)"
            ) from None
        self.tried[run.name] += 1
        if error and self.tried[run.name] <= self.retries:
            self.waiting.append(run)
            error = f"{error}; tried again"
        elif error:
            self.failed.append(run)
        else:
            self.open_names.discard(run.name)
        self._say(run, error)

    def _say(self, run: PlannedRun, error: str) -> None:
        left = [*self.waiting, *self.running.values()]
        minutes = (time.perf_counter() - self.started) / 60
        measured = measured_seconds(self.plan, self.finished)
        ahead = time_ahead(self.plan, left, measured, self.total, minutes, len(self.gpus))
        done = self.total - len(left)
        print(f"[{done}/{self.total}] {minutes:5.1f} min{ahead}  {run.name}  {error or 'done'}", file=sys.stderr)

    def _finished(self) -> dict[str, FinishedRun]:
        """Returns the finished runs, also another process's; not those made again for their weights."""
        found = finished_runs(self.plan.folder)
        return {key: run for key, run in found.items() if run.has_weights or key not in self.again}


# --- One run, in a process of its own -------------------------------------------------------------------------------


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


def _work_on(folder: Path, run: PlannedRun) -> str:
    with WORKING:
        return execute_run(folder, run)


def execute_run(folder: Path, run: PlannedRun) -> str:
    """Executes a run's commands in this process, its output going to ``<run>.log``; returns an error line or ``""``."""
    log = log_path(folder, run)
    log.parent.mkdir(parents=True, exist_ok=True)
    note_begun(folder, run)
    trained, started = seconds_trained(run.folder / "log.jsonl"), time.perf_counter()  # before, and from now on
    with log.open("a", encoding="utf-8") as out, redirect_stdout(out), redirect_stderr(out):
        try:
            for typed, (command, arguments) in zip(run.typed, run.commands, strict=True):
                print(f"$ {typed}", flush=True)
                run_commands.run(command, arguments)
        except (UserError, Stopped) as error:
            print(f"error: {error}")
            return str(error)
        except SystemExit:  # argparse has said why, into the log
            return f"the plan's flags are wrong, see {log}"
        except Exception as error:  # a failed run must not take the others with it
            traceback.print_exc()
            return f"{type(error).__name__}: {error}"
    note_finished(folder, run, round(trained + time.perf_counter() - started, 1))
    return ""


# --- GPUs -------------------------------------------------------------------------------------------------------------


def chosen_gpus(flag: str, seen: int | None = None) -> tuple[str, ...]:
    """Returns the names of the GPUs that a study's jobs may have, as ``CUDA_VISIBLE_DEVICES`` takes them.

    Args:
        flag: "" for all that PyTorch sees; "2" for the first two of them, "0" for none; "1,3" for those, by their
            numbers among them, and "3," for one.
        seen: how many PyTorch sees; None: ask it.

    Raises:
        UserError: the flag asks for a GPU that is not there, for one twice, or is none of these forms.
    """
    if seen is None:
        import torch  # here, not above: --help and other commands wait for nothing

        seen = torch.cuda.device_count()
    asked = [part.strip() for part in flag.split(",") if part.strip()]
    if not all(part.isascii() and part.isdecimal() for part in asked) or (flag and not asked):
        raise UserError(f"--gpus {flag}: expected how many (2), or their numbers with commas (0,2 or 3,)")
    numbers = [int(part) for part in asked] if "," in flag else list(range(int(asked[0]) if asked else seen))
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--gpus {flag}: one stands there twice")
    if numbers and max(numbers) >= seen:
        there = f"this machine has {seen}, numbered from 0" if seen else "PyTorch sees none"
        raise UserError(f"--gpus {flag}: {there}")
    names = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return tuple(names[number] if number < len(names) else str(number) for number in numbers)


def slots(jobs: int, gpus: Sequence[str]) -> list[str]:
    """Returns each job's GPU: one of its own where there are as many, else a shared one; "" without GPUs."""
    return [gpus[job % len(gpus)] if gpus else "" for job in range(jobs)]


def take_gpu(gpu: str) -> None:
    """Leaves this process one GPU, and those that it starts; before CUDA is used."""
    if gpu:
        os.environ[VISIBLE] = gpu


def _shared_gpus(jobs: int, gpus: Sequence[str]) -> str:
    if not gpus:
        return ""
    if jobs <= len(gpus):
        return f"; a GPU for each job ({', '.join(gpus[:jobs])})"
    return f"; {jobs} jobs share {len(gpus)} GPU{'s' if len(gpus) > 1 else ''} ({', '.join(gpus)})"
