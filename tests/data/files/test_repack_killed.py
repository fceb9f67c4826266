"""Repacking that is killed, at random moments and at the edges, and goes on: the store is that of a run left alone."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import kill_points
from kill_points import killed_at, started
from small_regions import some_regions
from stored_records import content
from volta_switch.cli import main
from volta_switch.data.files.lmdb_environment import Writer
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data_tools import packing

RECORDS = 520  # five blocks
ended = partial(kill_points.ended, seconds=60)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A source, the command's arguments but for OUT, an undisturbed result, and how many seconds it took."""
    folder = tmp_path_factory.mktemp("large")
    some = [some_regions("x", i, 6, 128) for i in range(8)]
    write_features(folder / "source", (replace(some[i % 8], image_id=str(i)) for i in range(RECORDS)))
    argv = ["data", "repack", str(folder / "source")]
    start = time.monotonic()
    assert ended(started([*argv, str(folder / "whole")])) == 0
    return argv, content(folder / "whole"), time.monotonic() - start


MOMENTS = np.random.default_rng(3).permutation((np.arange(10) + np.random.default_rng(4).random(10)) / 10)


def test_killed_at_ten_random_moments_the_result_is_that_of_an_undisturbed_run(large, tmp_path) -> None:
    argv, whole, seconds = large
    interrupted = 0
    for trial, moment in enumerate(MOMENTS):
        out = tmp_path / f"store{trial}"
        process = started([*argv, str(out)])
        time.sleep(moment * seconds)
        os.kill(process.pid, signal.SIGKILL)
        ended(process)
        interrupted += not out.exists()
        assert ended(started([*argv, str(out)])) == 0
        assert content(out) == whole
    assert interrupted  # how many there are depends on what else the machine does
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"store{trial}" for trial in range(10))
    assert main(["data", "check", str(tmp_path / "store0")]) is None


def test_killed_ten_times_one_after_the_other_the_result_is_the_same(large, tmp_path) -> None:
    argv, whole, seconds = large
    for moment in MOMENTS:
        process = started([*argv, str(tmp_path / "store")])
        time.sleep(moment * seconds / 2)
        os.kill(process.pid, signal.SIGKILL)
        ended(process)
    assert ended(started([*argv, str(tmp_path / "store")])) == 0
    assert content(tmp_path / "store") == whole


@pytest.mark.parametrize(
    ("owner", "name", "call", "when"),
    [
        (Path, "mkdir", 1, "after"),  # at the start
        (Writer, "commit", 1, "before"),  # before anything is written
        (Writer, "put", 700, "after"),  # inside a block
        (Writer, "commit", 3, "after"),  # between two blocks
        (Writer, "commit", 5, "after"),  # after the last
        (packing, "write_json", 1, "before"),
        (Path, "chmod", 1, "before"),  # the manifest is written and has its temporary name
        (packing, "write_json", 1, "after"),  # between the manifest and the store's appearance
        (packing.os, "replace", 2, "after"),  # the first is the manifest's, the second the store's
    ],
)
def test_killed_at_the_edges_the_result_is_the_same(large, tmp_path, owner, name, call, when) -> None:
    argv, whole, _ = large
    process = started([*argv, str(tmp_path / "store")], partial(killed_at, owner, name, call, when))
    assert ended(process) == -signal.SIGKILL
    assert ended(started([*argv, str(tmp_path / "store")])) == 0
    assert content(tmp_path / "store") == whole and [path.name for path in tmp_path.iterdir()] == ["store"]
