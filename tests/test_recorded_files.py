"""Files that this project writes are known by their checksums; no kill between two writes makes a good one look bad."""

import json
import os
import threading

import pytest

from volta_switch import checksums
from volta_switch.checksums import (
    SUMS,
    Changed,
    is_there,
    read_recorded,
    record,
    record_json,
    record_tree,
    recording,
    refuse_gone,
    release,
    verify,
)
from volta_switch.data.files import safe_pickle
from volta_switch.data.files.json_files import read_json, read_json_lines
from volta_switch.errors import UserError
from volta_switch.train.log_file import LogFile, lines_of, read_log, seconds_trained


class Killed(BaseException):
    """The process is gone: no handler of errors runs."""


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "metrics.json"
    for value in ({"a": 1}, {"a": 2}):
        record_json(path, value)
        assert json.loads(read_recorded(path)) == value
        verify(path)
        verify(tmp_path)


@pytest.mark.parametrize(
    "name", ["metrics.json", 'a "quoted" name', "ümlaut", "two\nlines", os.fsdecode(b"latin-\xe9")]
)
def test_every_other_content_is_refused_in_one_line(tmp_path, name):
    path = tmp_path / name
    record_json(path, {"a": 1})
    path.write_text('{"a": 2}')
    for read in (read_recorded, verify):
        with pytest.raises(Changed, match=r"not what was written .* copy it again or have it written again"):
            read(path)
    with pytest.raises(Changed):
        verify(tmp_path)
    record_json(path, {"a": 3})  # a run that writes it anew
    assert json.loads(read_recorded(path)) == {"a": 3}


def test_two_files_that_have_changed_places_are_refused(tmp_path):
    for name in ("one", "two"):
        record_json(tmp_path / name, name)
    (tmp_path / "one").rename(tmp_path / "between")
    (tmp_path / "two").rename(tmp_path / "one")
    (tmp_path / "between").rename(tmp_path / "two")
    for name in ("one", "two"):
        with pytest.raises(Changed, match=name):
            read_recorded(tmp_path / name)


def test_an_earlier_version_of_a_file_does_not_pass_for_it(tmp_path):
    record_json(tmp_path / "a", 1)
    before = (tmp_path / "a").read_bytes()
    record_json(tmp_path / "a", 2)
    (tmp_path / "a").write_bytes(before)
    with pytest.raises(Changed):
        read_recorded(tmp_path / "a")


def test_what_no_line_names_is_read_as_it_is(tmp_path):
    record_json(tmp_path / "a", 1)
    (tmp_path / "b").write_text("mine")
    assert read_recorded(tmp_path / "b") == b"mine"
    (tmp_path / "elsewhere").mkdir()
    moved = (tmp_path / "a").rename(tmp_path / "elsewhere" / "c")
    moved.write_text("mine, too")
    assert read_recorded(moved) == b"mine, too"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"volta_switch checksums 2\n", b"5e884  a\n"])
def test_a_file_of_checksums_that_is_none_covers_nothing(tmp_path, content):
    record_json(tmp_path / "a", 1)
    (tmp_path / SUMS).write_bytes(content)
    (tmp_path / "a").write_text("2")
    assert read_recorded(tmp_path / "a") == b"2"


@pytest.mark.parametrize("point", ["new", "rename", "set"])
def test_a_process_killed_at_any_point_leaves_a_file_that_is_known(tmp_path, monkeypatch, point):
    path = tmp_path / "a"
    record_json(path, 1)
    append = checksums._append

    def appended(path, line):
        if line.startswith(point):
            raise Killed
        append(path, line)
        if point == "rename":
            raise Killed

    for value, tries in ((2, 2), (3, 1)):
        monkeypatch.setattr(checksums, "_append", appended)
        for _ in range(tries):
            with pytest.raises(Killed):
                record_json(path, value)
        expected = value if point == "set" else 1
        assert json.loads(read_recorded(path)) == expected
    monkeypatch.undo()
    record_json(path, 4)
    assert json.loads(read_recorded(path)) == 4
    path.write_text("1\n")
    with pytest.raises(Changed):
        read_recorded(path)


def test_a_line_that_was_cut_short_loses_nothing(tmp_path):
    record_json(tmp_path / "a", 1)
    with (tmp_path / SUMS).open("a") as sums:
        sums.write("new 0123")
    record_json(tmp_path / "b", 2)
    assert read_recorded(tmp_path / "a") and read_recorded(tmp_path / "b")
    (tmp_path / "b").write_text("3")
    with pytest.raises(Changed):
        read_recorded(tmp_path / "b")


def test_files_of_one_folder_are_written_and_read_at_once(tmp_path):
    def write(name):
        for number in range(30):
            record_json(tmp_path / name, number)

    writers = [threading.Thread(target=write, args=(name,)) for name in ("a", "b", "c")]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        for name in ("a", "b", "c"):
            if (tmp_path / name).exists():
                read_recorded(tmp_path / name)  # never refused
    assert [json.loads(read_recorded(tmp_path / name)) for name in "abc"] == [29] * 3


def test_what_cannot_be_noted_is_not_written(tmp_path):
    record_json(tmp_path / "a", 1)
    (tmp_path / SUMS).unlink()
    (tmp_path / SUMS).mkdir()
    with pytest.raises(UserError, match=f"{SUMS}: cannot be written"):
        record_json(tmp_path / "a", 2)
    assert json.loads((tmp_path / "a").read_text()) == 1


def test_a_tree_is_covered_from_its_root(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b"):
        (tmp_path / name).write_text(name)
    record_tree(tmp_path, [tmp_path / "a", tmp_path / "sub" / "b"])
    verify(tmp_path)
    (tmp_path / "sub" / "b").write_text("c")
    with pytest.raises(Changed, match="sub/b"):
        verify(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "sub")
    with pytest.raises(Changed, match="link/b"):
        read_recorded(tmp_path / "link" / "b")


# --- Logs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path):
    """A log of a run under way."""
    made = LogFile(tmp_path / "log.jsonl")
    made.write({"kind": "start", "step": 0, "resumed": False, "time": 1.0})
    for step in range(1, 6):
        made.write({"kind": "train", "step": step, "time": 1.0 + step, "note": "ü"})
    return made


def test_a_logs_lines_come_back_as_they_were_given(log):
    assert lines_of(log.path)[1] == {"kind": "train", "step": 1, "time": 2.0, "note": "ü"}
    assert seconds_trained(log.path) == 5.0


CHANGES = {
    "a number": lambda lines: [*lines[:2], lines[2].replace(b"3.0", b"4.0"), *lines[3:]],
    "a name": lambda lines: [*lines[:2], lines[2].replace(b"time", b"tine"), *lines[3:]],
    "a line gone": lambda lines: [*lines[:2], *lines[3:]],
    "a line twice": lambda lines: [*lines[:3], *lines[2:]],
    "lines that have changed places": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "no JSON": lambda lines: [*lines[:2], lines[2][:-1] + b"x", *lines[3:]],
    "two lines in one": lambda lines: [*lines[:2], lines[2] + b" " + lines[3], *lines[4:]],
    "a line of nothing": lambda lines: [*lines[:2], b"", *lines[3:]],
    "a line without checksum": lambda lines: [*lines[:2], b'{"kind": "train", "step": 9, "time": 1}', *lines[2:]],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_log_is_refused_and_its_line_named(log, change):
    lines = log.path.read_bytes().split(b"\n")
    log.path.write_bytes(b"\n".join(CHANGES[change](lines)))
    with pytest.raises(Changed, match=r"log.jsonl, line [34]: not what was written"):
        list(read_log(log.path))


def test_the_last_lines_of_a_log_that_has_ended_are_covered(log):
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 1])
    assert len(lines_of(log.path)) == 5  # as after the machine's end
    log.path.write_bytes(whole)
    log.close()
    assert len(lines_of(log.path)) == 6
    log.path.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 1])
    with pytest.raises(Changed):
        lines_of(log.path)


def test_a_log_that_goes_on_is_covered_line_by_line_again(log):
    log.close()
    again = LogFile(log.path)
    again.write({"kind": "start", "step": 5, "resumed": True, "time": 9.0})
    assert len(lines_of(log.path)) == 7
    again.close()
    assert len(lines_of(log.path)) == 7


def test_a_log_of_an_earlier_version_is_read_and_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"kind": "start", "step": 0, "resumed": false}\n{"kind": "tra')
    again = LogFile(path)
    again.write({"kind": "start", "step": 0, "resumed": True})
    assert len(lines_of(path)) == 2
    with recording(tmp_path / "other") as temporary:
        temporary.write_text("")
    release(path)
    record(path)
    assert len(lines_of(path)) == 2


def test_the_same_content_again_needs_no_line(tmp_path):
    record_json(tmp_path / "a", 1)
    before = (tmp_path / SUMS).read_bytes()
    record_json(tmp_path / "a", 1)
    assert (tmp_path / SUMS).read_bytes() == before


def test_a_file_that_is_gone_is_named(tmp_path):
    record_json(tmp_path / "a", 1)
    (tmp_path / "a").unlink()
    for read in (read_recorded, verify):
        with pytest.raises(Changed, match=r"a: gone, though .* names it"):
            read(tmp_path / "a")


def test_a_process_killed_before_a_files_first_place_leaves_nothing_that_is_gone(tmp_path, monkeypatch):
    append = checksums._append

    def appended(path, line):
        append(path, line)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checksums, "_append", appended)
        with pytest.raises(Killed):
            record_json(tmp_path / "a", 1)
    with pytest.raises(FileNotFoundError):
        read_recorded(tmp_path / "a")
    refuse_gone([tmp_path / "a"])
    record_json(tmp_path / "a", 1)
    (tmp_path / "a").unlink()
    with pytest.raises(Changed):
        refuse_gone([tmp_path / "a"])


@pytest.mark.parametrize("instead", ["nothing", "a folder"])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.p"])
def test_a_recorded_file_that_is_gone_is_no_file_that_was_never_there(tmp_path, name, instead):
    """Readers of what may be missing (``NoItems``, a run that has not begun) take no written file for such."""
    path = tmp_path / name
    readers = {".json": read_json, ".jsonl": read_json_lines, ".p": safe_pickle.load}
    with pytest.raises(UserError) as missing:
        readers[path.suffix](path)
    assert not isinstance(missing.value, Changed)
    assert not is_there(path)
    record_json(path, {"a": 1})
    path.unlink()
    if instead == "a folder":
        path.mkdir()
    with pytest.raises(Changed, match="gone"):
        readers[path.suffix](path)
    with pytest.raises(Changed, match="gone"):
        is_there(path)
