"""A training run that nobody listens to, or whose terminal is closed, loses nothing."""

import signal
import subprocess
import sys
import time

import pytest

from shells import ROOT, in_shell
from synthetic_world import equal_weights, weights_of
from train.short_runs import PRETRAINING
from volta_switch.train.checkpoints import CheckpointStore


def training(world, out, *flags):
    argv = [*map(str, world.flags("train_concap", out, "ctrl_uniter")), *map(str, (*PRETRAINING, *flags))]
    return [sys.executable, str(ROOT / "train_concap.py"), *argv]


@pytest.mark.parametrize("streams", [">&-", ">/dev/full", "2>/dev/full", ">&- 2>&-", ">/dev/full 2>&1"])
def test_training_loses_nothing_where_nothing_can_be_said(world, pretrained, tmp_path, streams):
    done = in_shell(training(world, tmp_path), streams)
    assert done.returncode == 0, done.stderr
    assert equal_weights(weights_of(tmp_path / "ctrl_uniter"), weights_of(pretrained("ctrl_uniter")))


def test_a_reader_of_standard_error_that_goes_away_does_not_end_a_training_run(world, tmp_path):
    process = subprocess.Popen(training(world, tmp_path), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    process.stderr.read(1)
    process.stderr.close()
    assert process.wait(timeout=120) == 0
    assert (tmp_path / "ctrl_uniter" / "pytorch_model_best.bin").is_file()


@pytest.mark.parametrize("ignored", [False, True], ids=["closed terminal", "nohup"])
def test_a_closed_terminal_stops_a_run_with_a_checkpoint_unless_it_is_ignored(world, tmp_path, ignored):
    epochs = 1 if ignored else 10_000  # which the signal ends
    command = training(world, tmp_path, "--log_every", 1, "--save_best_only", "--num_train_epochs", epochs)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)  # which the process inherits
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    signal.signal(signal.SIGHUP, before)
    log = tmp_path / "ctrl_uniter" / "log.jsonl"
    while process.poll() is None and not (log.is_file() and len(log.read_text().splitlines()) > 1):
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    try:
        code = process.wait(timeout=60)
    finally:
        process.kill()
    assert code == (0 if ignored else 128 + signal.SIGHUP)
    assert CheckpointStore(tmp_path / "ctrl_uniter" / "checkpoints").newest() is not None
