"""A training run whose disk fills up stops in one line, keeps its last checkpoint, and goes on when there is room.

FULL_DISK_POINTS sets how many amounts of free room are tried (6 here; docs/reliability.md has a run of 40).
"""

import os

import pytest

from synthetic_world import json_of
from train.run_ends import logged, newest, same_end
from train.small_disk import free_bytes, leave_free, make_room, small_disk
from volta_switch import UserError
from volta_switch.train.checkpoints import CheckpointStore
from volta_switch.train.run_folder import CHECKPOINTS

POINTS = int(os.environ.get("FULL_DISK_POINTS", "6"))
FLAGS = ("--train_batch_size", 10, "--num_train_epochs", 2, "--learning_rate", 5e-3, "--save_every", 1, "--resume")


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    return world.run("train_concap", tmp_path_factory.mktemp("whole"), "ctrl_uniter", *FLAGS)


def test_a_run_on_a_full_disk_stops_in_one_line_and_goes_on_with_room(world, whole, tmp_path):
    needed = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    refused = 0
    for point in range(POINTS):
        with small_disk(tmp_path / str(point), 8 * needed) as disk:
            leave_free(disk, round(point / POINTS * 2 * needed))
            try:
                world.run("train_concap", disk, "ctrl_uniter", *FLAGS)
            except UserError as error:
                refused += 1
                message = str(error)
                assert "No space left on device" in message and "\n" not in message
            run = disk / "ctrl_uniter"
            store = CheckpointStore(run / CHECKPOINTS)
            if store.newest() is not None:
                assert 1 <= newest(run).progress.step <= 4  # whole, whatever happened
            for path in run.rglob("*.json"):
                json_of(path)
            make_room(disk)
            assert free_bytes(disk) > needed
            world.run("train_concap", disk, "ctrl_uniter", *FLAGS)
            assert same_end(run, whole) and logged(run) == logged(whole)
            assert not [path for path in run.rglob("*") if "unfinished" in path.name]
    assert refused > 0
