"""A study whose process is killed leaves no worker behind, and what a worker has trained until then is not lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from volta_switch.train.log_file import lines_of

RUN = Path("ctrl_uniter", "seed0", "ctrl_uniter")


def until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_of_a_killed_study_write_a_checkpoint_and_end(plan, tmp_path):
    longer = {**plan["pretraining"], "num_train_epochs": 200, "log_every": 1}
    study = {**plan, "models": ["demo/ctrl_uniter"], "pretraining": longer, "routes": None}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "volta_switch", "study", "run", "study.yaml", "--out", "out", "--jobs", "1"]
    begun = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL)
    folder = tmp_path / "out" / RUN
    try:
        until(
            lambda: (
                (folder / "log.jsonl").is_file()
                and any(line["kind"] == "train" for line in lines_of(folder / "log.jsonl"))
            )
        )
        begun.send_signal(signal.SIGKILL)
        begun.wait()
        until(lambda: not alive(begun.pid), 60.0)
    finally:
        if alive(begun.pid):
            os.killpg(begun.pid, signal.SIGKILL)
    checkpoints = list((folder / "checkpoints").glob("step-*"))
    trained = [line["step"] for line in lines_of(folder / "log.jsonl") if line["kind"] == "train"]
    assert checkpoints and max(trained) in {int(path.name.removeprefix("step-")) for path in checkpoints}
    assert not (tmp_path / "out" / "cells" / "ctrl_uniter.seed0.pretraining.json").exists()
