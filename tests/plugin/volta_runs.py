"""VOLTA's scripts on a small world at VOLTA's sizes: in a process of their own, or prepared in this one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import pytest
import torch

from synthetic_world import SyntheticWorld
from volta_datasets import WIDTHS
from volta_switch.plugin import unregister
from volta_switch.plugin.repairs import choose
from volta_switch.plugin.script import Script
from volta_switch.world import write_world

DATA_SETS = ("concap", "vqa", "retrieval", "refer", "nlvr2")
TASKS = {"vqa": "1", "retrieval": "8", "refer": "10", "nlvr2": "12"}
NAMES = {"vqa": "VQA", "retrieval": "RetrievalFlickr30k", "refer": "refcoco+", "nlvr2": "NLVR2"}
CONCAP = Path("datasets/conceptual_captions")
CONCAP_FLAGS = (
    *("--annotations_path", str(CONCAP / "annotations")),
    *("--features_path", str(CONCAP / "resnet101_faster_rcnn_genome_imgfeats/volta")),
    *("--from_pretrained", "", "--train_batch_size", "8", "--num_workers", "1", "--max_seq_length", "24"),
)


def volta_checkout() -> Path:
    """VOLTA_HOME; skips the calling module, saying why, where there is none or what VOLTA imports is not installed."""
    home = os.environ.get("VOLTA_HOME")
    if not home:
        pytest.skip("VOLTA_HOME is not set to a checkout of VOLTA", allow_module_level=True)
    if not Path(home, "train_concap.py").is_file():
        pytest.skip(f"VOLTA_HOME={home} holds no checkout of VOLTA", allow_module_level=True)
    for name in ("pytorch_transformers", "tensorpack.dataflow", "tensorboardX", "easydict", "json_lines"):
        pytest.importorskip(name, reason=f'VOLTA imports {name}: pip install -e ".[test,volta]"')
    return Path(home).resolve()


@dataclass(frozen=True)
class VoltaWorld:
    """A world's folder, the working directory of every run; VOLTA writes its caches into it."""

    path: Path

    def config(self, model: str, drop: Sequence[str] = (), **changes: Any) -> str:
        """A small model's configuration file, at a depth of folders that VOLTA does not expect.

        Its name is the model's; ``changes`` and keys to ``drop`` give it a folder of its own.
        """
        values = {**SyntheticWorld(self.path).config(model).to_dict(), **changes}
        text = json.dumps({key: value for key, value in values.items() if key not in drop})
        path = self.path / "models" / hashlib.sha256(text.encode()).hexdigest()[:8] / f"{model}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    def flags(self, script: str, model: str, out: Path, task: str = "") -> list[str]:
        """What every run of a script says."""
        flags = ["--config_file", self.config(model), "--output_dir", str(out)]
        if script.startswith("train"):
            flags += ["--logdir", str(out / "logs")]
        if script == "train_concap.py":
            return [*flags, *CONCAP_FLAGS]
        flags += ["--tasks_config_file", "tasks.yml", "--task", TASKS[task], "--num_val_workers", "0"]
        return flags + (["--num_workers", "0", "--batch_size", "16"] if script == "train_task.py" else [])

    def run(
        self, script: str, *flags: Any, options: Sequence[str] = (), **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """``volta-switch volta OPTIONS SCRIPT FLAGS`` in a process of its own."""
        command = [sys.executable, "-m", "volta_switch", "volta", *options, script, *map(str, flags)]
        inherited = {name: value for name, value in os.environ.items() if name != "TENSORPACK_SERIALIZE"}
        given = {**inherited, "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run(
            command, cwd=self.path, env=given, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL
        )

    def succeed(self, script: str, *flags: Any, options: Sequence[str] = (), **environment: str) -> str:
        """Runs a script that must end well; what it printed."""
        done = self.run(script, *flags, options=options, **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def prepared(
        self,
        script: str,
        *flags: Any,
        without: Sequence[str] = (),
        fix: Sequence[str] = (),
        plugin: bool = True,
    ) -> Iterator[Script]:
        """A script of VOLTA in this process, repaired and about to run; everything is taken back afterwards.

        LMDB files that it opened are closed and its readers ended: a process may not open one twice. This project's
        own readers must have opened nothing of this world (``copy``).
        """
        before, children = Path.cwd(), multiprocessing.active_children()
        made, opened = Script(volta_checkout(), script), []
        os.chdir(self.path)
        try:
            made.prepare(choose(without, fix), [str(flag) for flag in flags], plugin=plugin)

            @made.wrap(lmdb, "open")
            def open_and_note(original: Any, *args: Any, **options: Any) -> Any:
                opened.append(original(*args, **options))
                return opened[-1]

            yield made
        finally:
            os.chdir(before)
            unregister()
            made.patches.undo()
            for environment in opened:
                environment.close()
            for child in multiprocessing.active_children():
                if child not in children:  # tensorpack leaves its own until this process ends
                    child.terminate()
                    child.join()

    def run_here(self, script: str, *flags: Any, without: Sequence[str] = (), fix: Sequence[str] = ()) -> None:
        """Runs a script of VOLTA in this process to its end."""
        with self.prepared(script, *flags, without=without, fix=fix) as made:
            assert made.module is not None
            made.module.main()

    def copy(self, to: Path) -> VoltaWorld:
        """A world of one's own, which may be corrupted."""
        shutil.copytree(self.path, to)
        return VoltaWorld(to)


def write_volta_world(path: Path) -> VoltaWorld:
    """20 images of 36 boxes with 2048 features, 1601 classes and 401 attributes; 10 for validation and tests."""
    write_world(path, seed=0, images=20, eval_images=10, render=False, data_sets=DATA_SETS, **WIDTHS)
    return VoltaWorld(path)


def fingerprint_of(folder: Path) -> str:
    """A checksum of every file's name and content, Git's own aside."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and ".git" not in path.relative_to(folder).parts:
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def config_of(script: Script) -> Any:
    """VOLTA's own object of the configuration that the script was given."""
    return script.volta("config").BertConfig.from_json_file(script.module.parse_args().config_file)


class _Logger:
    """Takes what a checkpoint says of VOLTA's logger, and opens none of its files."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state


def checkpoint_of(run: Path) -> dict[str, Any]:
    """The latest checkpoint of a run of VOLTA's."""
    with torch.serialization.safe_globals([(_Logger, "volta.train_utils.tbLogger")]):
        return torch.load(run / "pytorch_ckpt_latest.tar", weights_only=True)
