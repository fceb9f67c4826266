"""A world that commands keep for themselves: written once, however many ask for it and whatever kills them."""

import json
import subprocess
import sys

import pytest

from volta_switch.errors import UserError
from volta_switch.world.build import ensure_world

SMALLEST = {"seed": 0, "images": 20, "eval_images": 10, "render": False, "data_sets": ("refer",)}
KEEP = f"""
import os, sys
from volta_switch.world.build import ensure_world
ensure_world(sys.argv[1], **{SMALLEST!r})
print(os.stat(sys.argv[1] + "/world.json").st_ino)
"""


def test_processes_that_want_a_world_at_once_write_it_once(tmp_path):
    command = [sys.executable, "-c", KEEP, str(tmp_path / "deep" / "world")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {process.communicate(timeout=120)[0] for process in started}
    assert len(found) == 1 and all(process.returncode == 0 for process in started)  # the same file for all
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == [".world.lock", "world"]


def test_a_world_whose_writer_was_killed_is_written_anew(tmp_path):
    slow = KEEP.replace("'images': 20", "'images': 20000")
    killed = subprocess.Popen([sys.executable, "-c", slow, str(tmp_path / "world")])
    while not list(tmp_path.glob("world.unfinished-*")):
        assert killed.poll() is None
    killed.kill()
    killed.wait()
    assert list(tmp_path.glob("world.unfinished-*")) and not (tmp_path / "world").exists()
    ensure_world(tmp_path / "world", **SMALLEST)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".world.lock", "world"]
    before = (tmp_path / "world" / "world.json").stat()
    ensure_world(tmp_path / "world", **SMALLEST)
    assert (tmp_path / "world" / "world.json").stat() == before


def test_a_kept_world_of_other_parameters_or_of_another_version_is_replaced(tmp_path):
    out = tmp_path / "world"
    ensure_world(out, **SMALLEST)
    ensure_world(out, **{**SMALLEST, "seed": 1})
    summary = json.loads((out / "world.json").read_text())
    assert summary["spec"]["seed"] == 1
    (out / "world.json").write_text(json.dumps({**summary, "format": 0}))
    ensure_world(out, **{**SMALLEST, "seed": 1})
    assert json.loads((out / "world.json").read_text()) == summary


def test_what_is_no_world_is_left_alone(tmp_path):
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and holds no world"):
        ensure_world(tmp_path / "world", **SMALLEST)
    assert (tmp_path / "world" / "mine.txt").read_text() == "mine"


def test_a_kept_world_that_lacks_a_file_is_written_anew(tmp_path):
    out = tmp_path / "world"
    ensure_world(out, **SMALLEST)
    lost = out / sorted(json.loads((out / "world.json").read_text())["sha256"])[0]
    lost.unlink()
    ensure_world(out, **SMALLEST)
    assert lost.is_file()


def test_a_file_where_a_folder_is_needed_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        ensure_world(tmp_path / "file" / "world", **SMALLEST)
