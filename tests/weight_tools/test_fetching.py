"""A file from the web comes whole and right, or the command says in one line why not; what came before counts."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import socket
import subprocess
import sys
import tarfile
import zipfile

import pytest

from volta_switch import UserError
from volta_switch.weight_tools.registered.archives import take_member
from volta_switch.weight_tools.registered.fetching import Expected, NotFetched, fetch
from weight_tools.range_server import serving

CONTENT = random.Random(1).randbytes(3_000_000)
OTHER = random.Random(2).randbytes(len(CONTENT))
SHA = hashlib.sha256(CONTENT).hexdigest()
KNOWN = Expected(len(CONTENT), SHA)
FETCH = """
import sys
from pathlib import Path
from volta_switch.weight_tools.registered.fetching import Expected, fetch
fetch([sys.argv[1]], Path(sys.argv[2]), Expected(), 30)
"""


@pytest.fixture
def server():
    with serving() as made:
        made.files["/model.bin"] = CONTENT
        yield made


@pytest.fixture
def to(tmp_path):
    return tmp_path / "model.bin"


@pytest.fixture
def closed():
    """An address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/model.bin"


def get(server, to, expected=KNOWN, *mirrors, seconds=5):
    return fetch(mirrors or [f"{server.url}/model.bin"], to, expected, seconds)


def whole(to):
    assert to.read_bytes() == CONTENT
    assert list(to.parent.iterdir()) == [to], "something is left beside it"
    return True


def refused(*arguments, **settings):
    with pytest.raises(NotFetched) as caught:
        get(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("expected", [KNOWN, Expected()])
def test_a_file_is_fetched_once(server, to, expected):
    assert get(server, to, expected) == {"bytes": len(CONTENT), "sha256": SHA}
    assert whole(to) and server.sent["/model.bin"] == len(CONTENT) and len(server.asked) == 1


@pytest.mark.parametrize("after", [1, 700_000, len(CONTENT) - 1])
def test_a_killed_process_leaves_its_part_and_the_next_one_asks_for_the_rest(server, to, after):
    server.stop_after, server.hold = after, True
    process = subprocess.Popen([sys.executable, "-c", FETCH, f"{server.url}/model.bin", str(to)])
    assert server.held.wait(60)
    part = to.with_name("model.bin.unfinished")
    while not part.exists() or part.stat().st_size < after:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not to.exists()
    get(server, to, Expected())
    assert whole(to) and server.asked[1:] == [("/model.bin", f"bytes={after}-")]
    assert server.sent["/model.bin"] == len(CONTENT)


def test_a_connection_that_breaks_is_gone_on_with_at_once(server, to):
    server.stop_after = 500_000
    get(server, to)
    assert whole(to) and server.sent["/model.bin"] == len(CONTENT) and len(server.asked) == 2


def left_unfinished(server, to, after=500_000):
    """A part of the file, as a process leaves it whose server has failed in between."""
    server.stop_after, server.then = after, 503
    content, server.files["/model.bin"] = server.files["/model.bin"], CONTENT
    assert "503" in refused(server, to, Expected())
    server.status, server.files["/model.bin"] = 0, content
    server.asked.clear()
    assert to.with_name("model.bin.unfinished").stat().st_size == after


def test_an_error_in_between_keeps_what_is_there(server, to):
    left_unfinished(server, to)
    get(server, to, Expected())
    assert whole(to) and server.asked == [("/model.bin", "bytes=500000-")]


def test_a_server_without_parts_is_read_from_the_start_and_never_appended(server, to):
    left_unfinished(server, to)
    server.ranges = False
    get(server, to, Expected())
    assert whole(to) and server.sent["/model.bin"] == 500_000 + len(CONTENT)


def test_parts_of_two_versions_are_never_put_together(server, to):
    left_unfinished(server, to)
    server.files["/model.bin"] = OTHER
    assert get(server, to, Expected())["sha256"] == hashlib.sha256(OTHER).hexdigest()
    assert to.read_bytes() == OTHER


def test_without_a_mark_of_the_version_and_without_a_checksum_it_starts_anew(server, to):
    server.tags = False
    left_unfinished(server, to)
    server.files["/model.bin"] = OTHER
    assert get(server, to, Expected())["sha256"] != SHA
    assert to.read_bytes() == OTHER and server.asked == [("/model.bin", "")]


def test_what_is_there_is_kept_until_there_is_something_better(server, to, closed):
    left_unfinished(server, to)
    assert "500,000 bytes are kept" in refused(server, to, Expected(), f"{server.url}/gone", closed)
    server.asked.clear()
    get(server, to, Expected())
    assert whole(to) and server.asked == [("/model.bin", "bytes=500000-")]


def test_a_known_checksum_lets_another_mirror_go_on_and_catches_another_versions_part(server, to):
    left_unfinished(server, to)
    server.files["/mirror"] = CONTENT
    get(server, to, KNOWN, f"{server.url}/mirror")
    assert whole(to) and server.asked == [("/mirror", "bytes=500000-")]
    to.unlink()
    left_unfinished(server, to)
    part = to.with_name("model.bin.unfinished")
    part.write_bytes(OTHER[:500_000])
    get(server, to, KNOWN, f"{server.url}/mirror")
    assert whole(to) and server.asked == [("/mirror", "bytes=500000-"), ("/mirror", "")]


def test_a_part_that_is_whole_already_is_taken(server, to):
    left_unfinished(server, to)
    to.with_name("model.bin.unfinished").write_bytes(CONTENT)
    sent = server.sent["/model.bin"]
    get(server, to)
    assert whole(to) and server.sent["/model.bin"] == sent


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        (Expected(sha256="0" * 64), f"another file: it has the sha256 {SHA}, and the registry says {'0' * 64}"),
        (Expected(bytes=17), "another file: it has 3,000,000 bytes, and the registry says 17"),
        (Expected(sha256="0" * 64, told_by="the record"), "and the record says 000"),
    ],
)
def test_another_file_is_refused_and_nothing_is_left(server, to, expected, told):
    assert told in refused(server, to, expected)
    assert not list(to.parent.iterdir())


def test_mirrors_are_tried_in_order(server, to, closed):
    server.files |= {"/old": OTHER, "/page": b"<html>", "/good": CONTENT}
    get(server, to, KNOWN, closed, f"{server.url}/gone", f"{server.url}/old", f"{server.url}/good")
    assert whole(to) and [path for path, _ in server.asked] == ["/gone", "/old", "/good"]


def test_all_that_failed_is_said_in_one_line(server, to, closed):
    said = refused(server, to, KNOWN, closed, f"{server.url}/gone", "ftp://127.0.0.1/x")
    assert "model.bin could not be fetched: " in said and "Connection refused" in said
    assert "gone: answers 404" in said and "ftp://127.0.0.1/x: neither http nor https" in said
    assert not list(to.parent.iterdir())


def test_a_server_that_says_nothing_is_left_after_the_stated_time(to):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/model.bin"
        assert "no answer within 0.5 seconds" in refused(None, to, KNOWN, address, seconds=0.5)


def test_a_server_that_stops_in_the_middle_is_left_after_the_stated_time(server, to):
    server.stop_after, server.hold = 100, True
    get(server, to, KNOWN, seconds=0.5)  # the second answer is whole
    assert whole(to) and server.asked == [("/model.bin", ""), ("/model.bin", "bytes=100-")]


def test_a_web_page_is_no_file_of_weights(server, to):
    server.headers["Content-Type"] = "text/html; charset=utf-8"
    assert "answers with a web page" in refused(server, to, Expected())
    assert not list(to.parent.iterdir())


def test_redirects_to_other_hosts_are_followed_to_the_web_alone(server, to):
    with serving() as other:
        other.files["/elsewhere"] = CONTENT
        server.moved = {"/model.bin": f"{other.url}/elsewhere", "/local": f"file://{__file__}", "/ftp": "ftp://x/y"}
        get(server, to)
        assert whole(to)
        to.unlink()
        for path in ("/local", "/ftp"):
            assert f"{path}: " in refused(server, to, Expected(), f"{server.url}{path}")
    assert not list(to.parent.iterdir())


def test_two_processes_do_not_write_one_file(server, to):
    server.stop_after, server.hold = 1000, True
    process = subprocess.Popen([sys.executable, "-c", FETCH, f"{server.url}/model.bin", str(to)])
    try:
        assert server.held.wait(60)
        with pytest.raises(UserError, match="another process is fetching it"):
            get(server, to)
    finally:
        process.kill()
        process.wait()


def test_a_folder_that_cannot_be_written_is_one_line(server, tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        get(server, tmp_path / "none" / "model.bin")


# --- Archives -------------------------------------------------------------------------------------------------------


def zipped(path, *names, mode=0):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, b"weights")


def tarred(path, *names, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size = kind, 7 if kind == tarfile.REGTYPE else 0
            entry.linkname = "/etc/passwd"
            archive.addfile(entry, io.BytesIO(b"weights"))


@pytest.mark.parametrize("make", [zipped, tarred])
def test_one_file_is_taken_out_of_an_archive(make, tmp_path):
    make(tmp_path / "archive", "seed0/model.bin", "seed1/model.bin")
    take_member(tmp_path / "archive", "seed1/model.bin", tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_bytes() == b"weights"
    assert sorted(os.listdir(tmp_path)) == ["archive", "out.bin"]


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_an_archive_that_leads_out_of_its_folder_is_refused(make, name, tmp_path):
    make(tmp_path / "archive", "model.bin", name)
    with pytest.raises(UserError, match="leads out of its folder"):
        take_member(tmp_path / "archive", "model.bin", tmp_path / "out.bin")
    assert os.listdir(tmp_path) == ["archive"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(kind, tmp_path):
    tarred(tmp_path / "archive", "model.bin", kind=kind)
    with pytest.raises(UserError, match="is a link or a device"):
        take_member(tmp_path / "archive", "model.bin", tmp_path / "out.bin")
    zipped(tmp_path / "archive", "model.bin", mode=0o120777)
    with pytest.raises(UserError, match="is a link or a device"):
        take_member(tmp_path / "archive", "model.bin", tmp_path / "out.bin")
    assert os.listdir(tmp_path) == ["archive"]


def test_what_is_no_archive_or_lacks_the_file_is_one_line(tmp_path):
    (tmp_path / "archive").write_bytes(b"no archive")
    with pytest.raises(UserError, match="no zip or tar archive, or a damaged one"):
        take_member(tmp_path / "archive", "model.bin", tmp_path / "out.bin")
    tarred(tmp_path / "archive", "other.bin")
    with pytest.raises(UserError, match=r"holds 0 files called model\.bin"):
        take_member(tmp_path / "archive", "model.bin", tmp_path / "out.bin")
    zipped(tmp_path / "archive", "model.bin")
    content = (tmp_path / "archive").read_bytes()
    (tmp_path / "archive").write_bytes(content.replace(b"weights", b"wEights"))
    with pytest.raises(UserError, match="damaged"):
        take_member(tmp_path / "archive", "model.bin", tmp_path / "out.bin")
    assert os.listdir(tmp_path) == ["archive"]


@pytest.mark.parametrize("compression", ["zip", "gz", "xz", "bz2"])
def test_a_damaged_archive_is_one_line(compression, tmp_path):
    content = random.Random(0).randbytes(30_000)
    if compression == "zip":
        with zipfile.ZipFile(tmp_path / "archive", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("model.bin", content.hex())
    else:
        with tarfile.open(tmp_path / "archive", f"w:{compression}") as archive:
            entry = tarfile.TarInfo("model.bin")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    whole = (tmp_path / "archive").read_bytes()
    for place in range(len(whole) // 3, len(whole) // 2, len(whole) // 40):
        (tmp_path / "archive").write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(UserError, match="damaged"):
            take_member(tmp_path / "archive", "model.bin", tmp_path / "out.bin")
        assert os.listdir(tmp_path) == ["archive"]
