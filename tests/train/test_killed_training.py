"""Training that is killed at random moments, again and again, ends bit for bit as if it had been left alone.

KILLS and TERMINATIONS set how often (3 and 1 here; docs/reliability.md has a run of 20 and 5).
"""

import os
import signal
import sys
import time

import numpy as np
import pytest

from kill_points import ended, forked
from synthetic_world import ENTRY_POINTS
from train.run_ends import logged, same_end, samples_in_order
from volta_switch.command import run_command
from volta_switch.train.checkpoints import CheckpointStore
from volta_switch.train.run_folder import CHECKPOINTS

KILLS, TERMINATIONS = (int(os.environ.get(name, usual)) for name, usual in (("KILLS", 3), ("TERMINATIONS", 1)))
DROPOUT = dict.fromkeys(
    ("hidden_dropout_prob", "v_hidden_dropout_prob", "attention_probs_dropout_prob", "v_attention_probs_dropout_prob"),
    0.1,
)
COMMON = ("--log_ids", "--log_every", 1, "--save_every", 1, "--num_workers", 1, "--resume")
RUNS = {
    "pre-training": ("train_concap", "", "--train_batch_size", 4, "--num_train_epochs", 4, "--learning_rate", 5e-3),
    "fine-tuning": ("train_task", "refer", "--batch_size", 8, "--num_epoch", 2, "--lr", 5e-3, "--val_split", "train"),
}


def started(entry, argv, log):
    """The command in a process of its own, forked, so that 25 of them start quickly."""

    def run():
        os.setpgid(0, 0)  # with its loader's processes
        with log.open("a", buffering=1) as sys.stdout, log.open("a", buffering=1) as sys.stderr:
            run_command(ENTRY_POINTS[entry], argv)

    return forked(run)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_killed_again_and_again_ends_like_one_left_alone(world, tmp_path, name):
    entry, task, *flags = RUNS[name]

    def argv(out):
        return [*world.flags(entry, tmp_path / out, "switchbert", task, **DROPOUT), *map(str, (*flags, *COMMON))]

    log = tmp_path / "log.txt"
    start = time.monotonic()
    assert ended(started(entry, argv("whole"), log)) == 0, log.read_text()
    seconds = time.monotonic() - start
    rng = np.random.default_rng(6)
    endings = rng.permutation([signal.SIGKILL] * KILLS + [signal.SIGTERM] * TERMINATIONS)
    codes = []
    for number, moment in zip(endings, rng.random(len(endings)), strict=True):
        process = started(entry, argv("killed"), log)
        time.sleep(0.8 * moment * seconds)
        os.killpg(process.pid, number) if number == signal.SIGKILL else os.kill(process.pid, number)
        codes.append((int(number), ended(process)))
    assert ended(started(entry, argv("killed"), log)) == 0, log.read_text()
    # 0: it had finished; a terminated one that had not begun to train dies of the signal.
    allowed = {signal.SIGKILL: (0, -signal.SIGKILL), signal.SIGTERM: (0, 128 + signal.SIGTERM, -signal.SIGTERM)}
    assert all(code in allowed[number] for number, code in codes), log.read_text()
    assert all(code for _, code in codes) or len(codes) > 2
    (whole,), (killed,) = (
        [path for path in (tmp_path / out).iterdir() if path.name != "logs"] for out in ("whole", "killed")
    )
    assert same_end(killed, whole) and logged(killed) == logged(whole)
    assert samples_in_order(killed) == samples_in_order(whole)
    assert not [path for path in killed.rglob("*") if "unfinished" in path.name]
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(world, tmp_path, number):
    argv = [*world.flags("train_concap", tmp_path, "switchbert"), "--train_batch_size", "2", "--log_ids"]
    log, ids = tmp_path / "log.txt", tmp_path / "switchbert" / "ids-0.jsonl"
    process = started("train_concap", [*argv, "--num_train_epochs", "10000"], log)
    while process.is_alive() and (not ids.exists() or ids.read_text().count("ids") < 3):
        time.sleep(0.02)
    os.kill(process.pid, number)
    assert ended(process) == 128 + number
    store = CheckpointStore(tmp_path / "switchbert" / CHECKPOINTS)
    step = store.load(store.newest()).progress.step
    last = log.read_text().splitlines()[-1]
    assert last.startswith(f"stopped after step {step}; {store.newest()} is written: ") and "--resume" in last
    assert step >= 3 and "Traceback" not in log.read_text()
