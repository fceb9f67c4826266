"""Extraction that is killed, at random moments and at the edges, and goes on: the result is that of one left alone."""

from __future__ import annotations

import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kill_points import ended, killed_at, started
from small_detectors import QUICK, small_detector, write_pictures
from stored_records import content
from volta_switch.cli import main
from volta_switch.data.feature_files import open_features
from volta_switch.data.files.lmdb_environment import Writer
from volta_switch.data_tools import convert, detected, extract, packing
from volta_switch.detector.checkpoints import save_detector

PICTURES = 40
MOMENTS = np.random.default_rng(5).permutation((np.arange(10) + np.random.default_rng(6).random(10)) / 10)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with pictures, a detector and an undisturbed store, and how many seconds that took."""
    folder = tmp_path_factory.mktemp("desk")
    write_pictures(folder / "pictures", PICTURES)
    (folder / "pictures" / "117.png").write_bytes(b"no picture")
    save_detector(small_detector(**QUICK), folder / "detector")
    begun = time.monotonic()
    assert ended(started(argv(folder, folder / "whole"))) == 0
    return folder, time.monotonic() - begun


@pytest.fixture(scope="module")
def small_desk(tmp_path_factory):
    """The same with few pictures."""
    folder = tmp_path_factory.mktemp("small_desk")
    write_pictures(folder / "pictures", 5)
    save_detector(small_detector(**QUICK), folder / "detector")
    assert ended(started(argv(folder, folder / "whole"))) == 0
    return folder


def argv(folder: Path, out: Path, *flags: str) -> list[str]:
    given = ["data", "extract", str(folder / "pictures"), str(out), "--detector", str(folder / "detector")]
    return [*given, "--regions", "6", "--batch", "3", "--max-bad-records", "1", *flags]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_killed_ten_times_one_after_the_other_the_store_is_the_same(desk, tmp_path):
    folder, seconds = desk
    unfinished = 0
    for moment in MOMENTS:
        process = started(argv(folder, tmp_path / "store"))
        time.sleep(moment * seconds / 2)
        os.kill(process.pid, signal.SIGKILL)
        ended(process)
        unfinished += not (tmp_path / "store").exists()
    assert unfinished >= 2
    assert ended(started(argv(folder, tmp_path / "store"))) == 0
    assert content(tmp_path / "store") == content(folder / "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_run_that_continues_computes_only_what_is_missing(desk, tmp_path):
    folder, _ = desk

    def killed_in_its_second_batch():
        extract.SAFE_AFTER = 0.0  # after each picture: how many commits a run has is not to depend on its machine
        killed_at(Writer, "commit", 5, "after")

    process = started(argv(folder, tmp_path / "store"), killed_in_its_second_batch)
    assert ended(process) == -signal.SIGKILL
    look = detected.detected

    def looking_at_others(detector, files, selection):
        assert "100" not in [file.image_id for file in files]  # it has been looked at
        return look(detector, files, selection)

    def watched():
        detected.detected = looking_at_others

    assert ended(started(argv(folder, tmp_path / "store"), watched)) == 0
    assert content(tmp_path / "store") == content(folder / "whole")


def test_a_run_whose_pictures_have_changed_is_not_continued(small_desk, tmp_path, capsys):
    folder = tmp_path / "desk"
    shutil.copytree(small_desk, folder)

    def killed_at_its_first_commit():
        extract.SAFE_AFTER = 0.0
        killed_at(Writer, "commit", 1, "after")

    assert ended(started(argv(folder, tmp_path / "store"), killed_at_its_first_commit)) == -signal.SIGKILL
    picture = folder / "pictures" / "101.png"
    changed = bytearray(picture.read_bytes())
    changed[-20] ^= 1  # of the same name and size
    picture.write_bytes(changed)
    for out in ("store", "whole"):
        with pytest.raises(SystemExit) as caught:
            main(argv(folder, tmp_path / "store" if out == "store" else folder / "whole"))
        assert caught.value.code == 2 and "the inputs are not the same files" in capsys.readouterr().err
    assert content(folder / "whole") == content(small_desk / "whole")


@pytest.mark.long
def test_killed_with_several_processes_none_is_left_and_the_store_is_the_same(desk, tmp_path):
    folder, _ = desk
    process = started(argv(folder, tmp_path / "store", "--jobs", "2"))
    left: list[int] = []
    while len(left) < 3 and process.is_alive():  # two that compute, and one that Python starts for them
        time.sleep(0.05)
        left = children(process.pid)
    time.sleep(6)
    os.kill(process.pid, signal.SIGKILL)
    ended(process)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() and "Z" not in state(pid) for pid in left):
        assert time.monotonic() < deadline, "a process that computes is left"
        time.sleep(0.1)
    assert ended(started(argv(folder, tmp_path / "store", "--jobs", "2"))) == 0
    assert content(tmp_path / "store") == content(folder / "whole")


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


@pytest.mark.parametrize(
    ("owner", "name", "call", "when"),
    [
        (extract, "keep_facts", 1, "before"),  # the store is there, and nothing else
        (extract, "keep_facts", 1, "after"),
        (convert, "_write", 1, "before"),
        (Writer, "put", 14, "after"),  # inside the other format
        (convert, "_write", 1, "after"),
        (extract, "remove", 1, "before"),
        (packing, "write_json", 1, "after"),
    ],
)
@pytest.mark.parametrize("to", ["tsv", "h5-lmdb"])
def test_killed_at_the_edges_another_format_is_the_same(small_desk, tmp_path, owner, name, call, when, to):
    folder = small_desk
    command = argv(folder, tmp_path / "out", "--to", to)
    code = ended(started(command, partial(killed_at, owner, name, call, when)))
    assert code == -signal.SIGKILL or (name, to) == ("put", "tsv")
    assert ended(started(command)) == 0
    whole, found = open_features(folder / "whole"), open_features(tmp_path / "out")
    assert found.keys() == whole.keys()
    for image_id in whole:
        np.testing.assert_allclose(found[image_id].features, whole[image_id].features, rtol=1e-3, atol=1e-4)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"out", "out.detector.json", "volta_switch.sums"}
