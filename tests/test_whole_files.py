"""Files are written whole or not at all."""

import json
import os
import stat

import pytest

from volta_switch import UserError
from volta_switch.files import remove_unfinished, replacing, write_json


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "whole" and os.listdir(path.parent) == ["file.txt"]


def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


def test_an_error_where_there_was_no_file_leaves_none(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "file.txt"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_the_file_has_the_permissions_that_open_gives(tmp_path):
    with replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text("whole")
    (tmp_path / "plain.txt").write_text("plain")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file.txt", "plain.txt")}
    assert len(modes) == 1


def test_json_is_written_in_the_order_given_and_in_utf_8(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"z": "ü", "a": [1, 2]})
    text = path.read_text(encoding="utf-8")
    assert "ü" in text and text.index("z") < text.index("a") and json.loads(text) == {"z": "ü", "a": [1, 2]}


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1} and os.listdir(tmp_path) == ["file.json"]


def test_what_the_system_refuses_is_one_line_and_still_the_systems_error(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"old": 1})
    with pytest.raises(UserError) as caught, replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert str(caught.value).startswith(f"{path}: cannot be written (No space left on device); what stood there is")
    assert isinstance(caught.value, OSError) and caught.value.errno == 28 and caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["file.json"] and json.loads(path.read_text()) == {"old": 1}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/deep/x.json: cannot be written \(Not a directory\)"):
        write_json(tmp_path / "file" / "deep" / "x.json", {})


def test_an_error_of_reading_another_file_is_not_taken_for_one_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file.txt") as temporary:
        temporary.write_text((tmp_path / "source.txt").read_text())
    assert os.listdir(tmp_path) == []


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / ".file.txt.abc.unfinished").write_text("half")
    (tmp_path / ".step-00000001.unfinished").mkdir()
    (tmp_path / ".step-00000001.unfinished" / "model.safetensors").write_text("half")
    for name in (".hidden", "store.unfinished", "file.txt"):
        (tmp_path / name).write_text("whole")
    remove_unfinished(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "file.txt", "store.unfinished"]
