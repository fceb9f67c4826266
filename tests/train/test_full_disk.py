"""On a full disk a save fails in one line, what was complete stays, and with room again a save succeeds.

``FULL_DISK_POINTS=100 pytest tests/train/test_full_disk.py`` tries more amounts of free room than the suite does.
"""

import os
import shutil
import subprocess

import pytest
import torch

from train.small_disk import free_bytes, leave_free, make_room, small_disk
from train.stored_checkpoints import content, is_content, same_tensors, store_of
from volta_switch import UserError
from volta_switch.files import write_json
from volta_switch.train.checkpoints import CheckpointStore
from volta_switch.weights import read_weights, write_weights

POINTS = int(os.environ.get("FULL_DISK_POINTS", "12"))
WIDTH = 160  # of the small model's square weights: a checkpoint has about 100 pages


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 2**21) as folder:
        yield folder


def amounts(needed):
    """Free bytes to try, from none to a fifth more than is needed."""
    return [round(place * 1.2 * needed / (POINTS - 1)) for place in range(POINTS)]


def test_a_save_on_a_full_disk_loses_nothing(disk):
    store = CheckpointStore(disk / "run" / "checkpoints", keep=2)
    before = free_bytes(disk)
    store.save(*content(1, WIDTH))
    needed = before - free_bytes(disk)
    saved = 0
    for free in amounts(needed):
        leave_free(disk, free)
        try:
            path = store.save(*content(2, WIDTH))
        except UserError as error:
            start = f"{store.folder / 'step-00000002'}: the checkpoint cannot be written (No space left on device); "
            assert str(error).startswith(f"{start}{store.folder / 'step-00000001'} is whole") and "--resume" in str(
                error
            )
            assert "\n" not in str(error) and os.listdir(store.folder) == ["step-00000001"]
        else:
            saved += 1
            assert is_content(store.load(path), 2, width=WIDTH)
            shutil.rmtree(path)
        assert is_content(store.load(store.newest()), 1, width=WIDTH)
        assert sorted(os.listdir(disk / "run")) == ["checkpoints"]
        make_room(disk)
        assert is_content(store.load(store.save(*content(2, WIDTH))), 2, width=WIDTH)
        shutil.rmtree(store.folder / "step-00000002")
    print(f"{needed} bytes needed; of {POINTS} saves {saved} succeeded")
    assert 0 < saved < POINTS


def test_a_checkpoint_that_replaces_one_of_its_step_needs_room_beside_it(disk):
    store = CheckpointStore(disk / "checkpoints", keep=1)
    store.save(*content(1, WIDTH))
    leave_free(disk, 100_000)
    with pytest.raises(UserError, match="step-00000001 is whole"):
        store.save(*content(1, WIDTH))
    assert os.listdir(store.folder) == ["step-00000001"] and is_content(store.load(store.newest()), 1, width=WIDTH)


def test_a_disk_with_no_room_for_names_is_a_full_one(tmp_path):
    outcomes = set()
    for files in range(6, 16):
        with small_disk(tmp_path / "disk", 2**21, files) as disk:
            store = CheckpointStore(disk / "checkpoints", keep=2)
            store.save(*content(1))
            try:
                store.save(*content(2))
            except UserError as error:
                outcomes.add("refused")
                assert "(No space left on device)" in str(error) and os.listdir(store.folder) == ["step-00000001"]
            else:
                outcomes.add("saved")
            assert is_content(store.load(store.folder / "step-00000001"), 1)
    assert outcomes == {"refused", "saved"}


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_weights_on_a_full_disk_fail_in_one_line_and_the_old_ones_stay(disk, name):
    old, new = ({"a": torch.full((WIDTH, WIDTH), value), "b": torch.ones(7)} for value in (1.0, 2.0))
    path, written = disk / name, 0
    for free in amounts(WIDTH * WIDTH * 4):
        write_weights(path, old)
        leave_free(disk, free)
        try:
            write_weights(path, new)
        except UserError as error:
            assert str(error).startswith(f"{path}: cannot be written (No space left on device); what stood there is ")
            assert "\n" not in str(error) and same_tensors(read_weights(path), old)
        else:
            written += 1
            assert same_tensors(read_weights(path), new)
        assert sorted(os.listdir(disk)) == ["filler", name]
        make_room(disk)
    assert 0 < written < POINTS


def test_json_on_a_full_disk_fails_in_one_line_and_the_old_stays(disk):
    path = disk / "metrics.json"
    write_json(path, {"old": 1})
    leave_free(disk, 0)
    with pytest.raises(UserError, match=r"metrics.json: cannot be written \(No space left on device\)"):
        write_json(path, {"new": "x" * 10_000})
    assert path.read_text() == '{\n  "old": 1\n}\n' and sorted(os.listdir(disk)) == ["filler", "metrics.json"]


def test_a_disk_that_became_read_only_is_named(disk):
    store = store_of(disk, 1)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\); .*step-00000001 is whole"):
        store.save(*content(2))
    with pytest.raises(UserError, match=r"metrics.json: cannot be written \(Read-only file system\)"):
        write_json(disk / "metrics.json", {})
