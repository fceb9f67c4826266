"""A run's folder: what was run, what it logged, what came out, and its checkpoints.

| file | content |
|---|---|
| ``config.json`` | the resolved model configuration |
| ``run.json`` | command, hyperparameters, data, versions, device: what a comparison checks |
| ``command.txt`` | the command line |
| ``log.jsonl`` | one JSON object per start, logged step and validation |
| ``metrics.json`` | the last and the best validation |
| ``pytorch_model_<epoch>.bin``, ``pytorch_model_best.bin`` | weights that VOLTA loads |
| ``pytorch_ckpt_latest.tar`` | weights, optimiser, schedule, random state: what ``--resume`` reads |
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter

from volta_switch.config import Config
from volta_switch.errors import UserError
from volta_switch.files import replacing, write_json

LATEST = "pytorch_ckpt_latest.tar"
BEST = "pytorch_model_best.bin"


class RunFolder:
    """Writes a run's folder; every file is written whole or not at all, the log line by line.

    Nothing is touched before ``start``: a run that is refused leaves nothing behind, and no record overwritten.
    """

    def __init__(self, path: Path, logdir: Path | None = None):
        self.path, self.logdir = path, logdir
        self._events: SummaryWriter | None = None

    def start(self, config: Config, argv: list[str], settings: dict[str, Any], resumed: bool, step: int) -> None:
        """Makes the folder, writes what is about to run and opens the logs (``log.jsonl`` is continued).

        Raises:
            UserError: the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._events = None if self.logdir is None else SummaryWriter(str(self.logdir))
            self._log = (self.path / "log.jsonl").open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}; give another --output_dir or --logdir") from None
        self.log("start", step, {"resumed": resumed})
        write_json(self.path / "config.json", config.to_dict())
        write_json(self.path / "run.json", {"command": argv, **settings, "environment": environment()})
        with replacing(self.path / "command.txt") as temporary:
            temporary.write_text(shlex.join(argv) + "\n", encoding="utf-8")

    def log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """One line of ``log.jsonl``, and numbers to TensorBoard under ``<kind>/<name>``."""
        self._log.write(json.dumps({"kind": kind, "step": step, "time": round(time.time(), 3), **values}) + "\n")
        if self._events is not None:
            for name, value in values.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    self._events.add_scalar(f"{kind}/{name}", value, step)

    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds; empty before the first validation."""
        path = self.path / "metrics.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def record(self, name: str, values: Any) -> None:
        """Sets one entry of ``metrics.json``."""
        write_json(self.path / "metrics.json", {**self.metrics(), name: values})

    def close(self) -> None:
        """Flushes and closes the logs."""
        self._log.close()
        if self._events is not None:
            self._events.close()


def environment() -> dict[str, Any]:
    """Versions and hardware that a result may depend on."""
    versions = {}
    for package in ("volta-switch", "torch", "numpy", "tokenizers", "safetensors", "lmdb"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": versions,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
    }
