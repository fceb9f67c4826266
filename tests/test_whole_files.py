"""Files are written whole or not at all."""

import json
import os
import stat

import pytest

from volta_switch.files import replacing, write_json


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
