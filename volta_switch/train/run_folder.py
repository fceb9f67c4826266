"""A run's folder: what was run, what it logged, what came out, and its checkpoints.

| file | content |
|---|---|
| ``config.json``, ``vocab.txt``, ``task.yml`` and others | the model, with the weights below (``model_folder``) |
| ``run.json`` | command, hyperparameters, data, versions, device: what a comparison checks |
| ``command.txt`` | the command line |
| ``log.jsonl`` | one JSON object per start, logged step and validation |
| ``metrics.json`` | the last and the best validation; at the end FLOPs of a pair, and that it has ended |
| ``training.json``, ``README.md`` | at the end: how the best weights came about and what they scored (``cards``) |
| ``pytorch_model_<epoch>.bin``, ``pytorch_model_best.bin`` | weights that VOLTA loads |
| ``checkpoints/step-<steps>/`` | weights, optimiser, random states, progress: what ``--resume`` reads |
| ``volta_switch.sums`` | checksums of the files above (``checksums``); checkpoints have their own |
| ``.lock`` | empty; held by the process that trains in the folder |
| ``ids-<process>.jsonl`` | with ``--log_ids``: the samples of every step |
"""

from __future__ import annotations

import fcntl
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import torch

from volta_switch.cards.card import is_own_card
from volta_switch.checksums import SUMS, is_there, record_bytes, record_json, verify
from volta_switch.config import Config
from volta_switch.config.loading import CONFIG
from volta_switch.config.model_folder import CARD, TRAINING, WEIGHTS
from volta_switch.errors import UserError
from volta_switch.files import find_object, remove, remove_unfinished
from volta_switch.identities import commit_of_code
from volta_switch.train.log_file import EventFile, LogFile, lines_of, writing
from volta_switch.train.ranks import Ranks

CHECKPOINTS = "checkpoints"
LOCK = ".lock"
BEST = WEIGHTS[1]  # under VOLTA's name
FINISHED = "finished"  # of metrics.json: the step at which the run ended
# What a run and its tests leave, for --overwrite, beside a card that nobody has edited; nothing else is touched.
_RESULTS = (
    "pytorch_model_*.bin",
    "metrics.json",
    TRAINING,
    "*_metrics.json",
    "*_result.json",
    "*_ranks.json",
    "*_submission.csv",
    SUMS,
)


class RunFolder:
    """Writes a run's folder; every file is written whole or not at all, the logs line by line.

    Nothing is touched before ``start``: a run that is refused leaves nothing behind, and no record overwritten. Of
    several processes the first writes; the others' calls change nothing, but for ``log_ids``.
    """

    def __init__(self, path: Path, logdir: Path | None = None, ranks: Ranks | None = None):
        """``ranks``: the processes of the run."""
        self.path, self.logdir, self.ranks = path, logdir, ranks or Ranks()
        self._events: EventFile | None = None
        self._log: LogFile | None = None
        self._ids: LogFile | None = None
        self._lock: TextIO | None = None
        self.log_lines = 0  # of this run, those that stand (``lines_of``)

    def start(
        self,
        config: Config,
        argv: list[str],
        settings: dict[str, Any],
        resumed: bool,
        step: int,
        log_lines: int = 0,
        with_ids: bool = False,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Makes the folder, writes what is about to run and opens the logs, which are continued.

        ``log_lines``: as many lines of the log as the checkpoint that a run goes on from knew of. ``files``: what
        else belongs to the model, name -> content (``model_folder.files_of``).

        Raises:
            UserError: the folder cannot be made, or its log or metrics, which are continued, are damaged.
        """
        log = self.path / "log.jsonl"
        if self.ranks.first and is_there(log):
            lines_of(log)
        if self.ranks.first and resumed:
            self.metrics()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._hold()
            if with_ids:
                self._open_ids({"kind": "start", "step": step, "resumed": resumed})
            if not self.ranks.first:
                return
            if self.logdir is not None:  # what was drawn behind the checkpoint is drawn anew
                self._events = EventFile(self.logdir, step if resumed else None)
            self._log = LogFile(log)
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}; give another --output_dir or --logdir") from None
        remove_unfinished(self.path)
        self.log("start", step, {"resumed": resumed} | ({"keeps": log_lines} if resumed else {}))
        self.log_lines = len(lines_of(log))
        record_json(self.path / CONFIG, config.to_dict())
        for name, content in (files or {}).items():
            record_bytes(self.path / name, content)
        record_json(self.path / "run.json", {"command": argv, **settings, "environment": environment()})
        record_bytes(self.path / "command.txt", os.fsencode(shlex.join(argv)) + b"\n")  # file names as they are

    def refuse_results(self, resume: bool) -> None:
        """Keeps what a run has left from one that would start anew in its folder; nothing is changed.

        ``resume``: the run was asked to go on, and no checkpoint was found: one that was killed before it wrote any is
        started anew.

        Raises:
            UserError: the folder holds weights, checkpoints or results.
        """
        found = sorted(path.name for pattern in _RESULTS for path in self.path.glob(pattern))
        found += sorted(path.name for path in (self.path / CHECKPOINTS).glob("step-*"))
        ended = self.metrics().get(FINISHED)
        if not found or (resume and ended is None):
            return
        held, way = "a run that has not ended", "--resume goes on"
        if ended is not None:
            held = f"a run that has ended (after {ended} steps)"
            way = "--resume adds nothing unless it is given more steps"
        if resume:
            way = "--resume finds no checkpoint to go on from"
        raise UserError(
            f"{self.path}: holds {held}: {', '.join(found[:3])}{' ...' if len(found) > 3 else ''}; {way}, --overwrite "
            "discards it, --save_name gives the new run a folder of its own"
        )

    def discard(self) -> None:
        """Removes what an earlier run in this folder and its tests have left, but for its log, which is continued.

        Raises:
            UserError: another process trains in the folder, or something cannot be removed.
        """
        if not self.ranks.first or not self.path.is_dir():
            return
        try:
            self._hold()
            for pattern in _RESULTS:
                for path in self.path.glob(pattern):
                    path.unlink()
            if is_own_card(self.path / CARD):
                (self.path / CARD).unlink()
            for path in (self.path / CHECKPOINTS).glob("*step-*"):
                remove(path)
            for path in self.logdir.glob("events.out.tfevents.*") if self.logdir is not None else ():
                path.unlink()
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be removed ({error.strerror}); move it away") from None

    def log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Writes one line of ``log.jsonl``, and numbers to TensorBoard under ``<kind>/<name>``, lists left out."""
        if self._log is None:
            return
        self._log.write({"kind": kind, "step": step, "time": round(time.time(), 3), **values})
        self.log_lines += 1
        if self._events is not None:
            with writing(str(self.logdir)):
                self._events.add(dict(_numbers(kind, values)), step)

    def _hold(self) -> None:
        """Keeps other runs out of the folder until this process ends.

        Raises:
            UserError: one is in it.
        """
        if not self.ranks.first or self._lock is not None:
            return
        self._lock = (self.path / LOCK).open("w")
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which the loader's processes do not inherit
        except (BlockingIOError, PermissionError):
            self._lock.close()
            self._lock = None
            raise UserError(
                f"{self.path}: another process is training in this folder; wait for it, or give another --save_name"
            ) from None
        except OSError:  # a file system without locks
            pass

    def _open_ids(self, start: dict[str, Any]) -> None:
        """Opens this process's file of samples; those of processes that are no more are told of the start, too."""
        self._ids = LogFile(self.path / f"ids-{self.ranks.number}.jsonl")
        self._ids.write(start)
        for path in self.path.glob("ids-*.jsonl") if self.ranks.first else ():
            if int(path.stem.removeprefix("ids-")) >= self.ranks.count:
                with closing(LogFile(path)) as left:
                    left.write(start)

    def log_ids(self, epoch: int, step: int, ids: list[list[str]]) -> None:
        """Writes the samples of a step that this process was given, part by part, where they are asked for."""
        if self._ids is not None:
            self._ids.write({"epoch": epoch, "step": step, "ids": ids})

    def metrics(self) -> dict[str, Any]:
        """Returns what ``metrics.json`` holds; empty before the first validation.

        Raises:
            UserError: it is damaged.
        """
        path = self.path / "metrics.json"
        if not is_there(path):
            return {}
        verify(path)
        found = find_object(path)
        if found is None:
            raise UserError(f"{path}: damaged (not the JSON that a run writes); move it away, or give --overwrite")
        return found

    def record(self, name: str, values: Any) -> None:
        """Sets one entry of ``metrics.json``."""
        if not self.ranks.first:
            return
        record_json(self.path / "metrics.json", {**self.metrics(), name: values})

    def close(self) -> None:
        """Flushes and closes the logs."""
        for log in (self._log, self._ids, self._events, self._lock):
            if log is not None:
                log.close()


def _numbers(path: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields the numbers of nested sections by their paths."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{path}/{name}", value)
        elif isinstance(value, int | float):
            yield f"{path}/{name}", float(value)


def environment() -> dict[str, Any]:
    """Returns the code's commit, where it is known, and versions and hardware that a result may depend on."""
    commit = commit_of_code()
    versions = {}
    for package in ("volta-switch", "torch", "numpy", "tokenizers", "safetensors", "lmdb"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        **({"commit": commit} if commit else {}),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": versions,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
    }
