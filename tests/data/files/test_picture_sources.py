"""Pictures of folders, lists, JSON lines and tars: their order, their ids, their boxes; what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile

import numpy as np
import pytest

from small_detectors import write_pictures
from volta_switch.checksums import record_bytes
from volta_switch.data_tools.picture_sources import find_pictures, read_boxes
from volta_switch.detector.pictures import read_picture
from volta_switch.errors import UserError


def refused(*given) -> str:
    with pytest.raises(UserError) as error:
        find_pictures(*given)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path / "pictures", 3)
    (tmp_path / "pictures" / "below").mkdir()
    (tmp_path / "pictures" / "100.png").rename(tmp_path / "pictures" / "below" / "COCO_val2014_000000000009.PNG")
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


def ids(source, boxes=None) -> list[str]:
    return [file.image_id for file in find_pictures(source, boxes).files]


def test_a_folder_in_the_order_of_its_paths(folder):
    assert ids(folder) == ["101", "102", "9"]
    assert ids(folder / "101.png") == ["101"]


def test_tars_are_read_without_unpacking(folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder, "x")
    (tmp_path / "tars").mkdir()
    (tmp_path / "a.tar").rename(tmp_path / "tars" / "0000.tar")
    for source in (tmp_path / "tars", tmp_path / "tars" / "0000.tar"):
        found = find_pictures(source)
        assert sorted(file.image_id for file in found.files) == ["101", "102", "9"]
        for file in found.files:
            name = "below/COCO_val2014_000000000009.PNG" if file.image_id == "9" else f"{file.image_id}.png"
            assert isinstance(file.content(), bytes) and file.member == f"x/{name}"
            there = np.asarray(read_picture(file.content(), file.name))
            np.testing.assert_array_equal(there, np.asarray(read_picture(folder / name)))


def test_lists_begin_in_their_folder(folder):
    (folder / "list.txt").write_text("102.png\n\n101.png\n")
    assert ids(folder / "list.txt") == ["102", "101"]
    lines = [{"image": "102.png", "id": 7}, {"image": "101.png", "id": "a b", "boxes": None}, {"image": "101.png"}]
    (folder / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert ids(folder / "list.jsonl") == ["7", "a b", "101"]


def test_parts_are_the_whole(folder):
    whole = find_pictures(folder)
    for count in (1, 2, 3):
        parts = [whole.share(number, count) for number in range(1, count + 1)]
        assert [file for part in parts for file in part.files] == list(whole.files)
        assert len({part.fingerprint()["fingerprint"] for part in parts}) == count
    with pytest.raises(UserError, match=r"--part 4/5: .* has 3 pictures; give no more parts than that"):
        whole.share(4, 5)
    assert whole.share(1, 2).fingerprint()["part"] == "1/2"


def known(*given):
    return find_pictures(*given).with_digests().fingerprint()


def test_a_fingerprint_changes_with_the_pictures(folder, tmp_path):
    before = known(folder)
    assert before == known(folder) and before["records"] == 3
    (tmp_path / "boxes.json").write_text(json.dumps({"101": [[0, 0, 5, 5]], "102": [], "9": [[1, 1, 2, 2]]}))
    assert known(folder, tmp_path / "boxes.json") != before
    content = bytearray((folder / "101.png").read_bytes())
    content[-20] ^= 1  # name and size stay
    (folder / "101.png").write_bytes(content)
    assert known(folder) != before
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(folder / "102.png", "102.png")
    packed = known(tmp_path / "a.tar")
    raw = bytearray((tmp_path / "a.tar").read_bytes())
    raw[find_pictures(tmp_path / "a.tar").files[0].offset + 100] ^= 1
    (tmp_path / "a.tar").write_bytes(raw)
    assert known(tmp_path / "a.tar") != packed


def test_boxes_of_jsonl_json_coco_and_voltas_detections(folder, tmp_path):
    corners = [[1.0, 2.0, 11.0, 22.0], [0.0, 0.0, 5.0, 5.0]]
    sides = [[1, 2, 10, 20], [0, 0, 5, 5]]
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps({"101": corners, "102": [], "9": corners[:1]}))
    coco = tmp_path / "instances.json"
    coco.write_text(json.dumps({"annotations": [{"image_id": 101, "bbox": box, "id": 1} for box in sides]}))
    listed = tmp_path / "dets.json"
    listed.write_text(json.dumps([{"image_id": "101", "box": box} for box in sides]))
    for path in (plain, coco, listed):
        assert read_boxes(path)["101"].tolist() == corners
    found = {file.image_id: file.boxes for file in find_pictures(folder, plain).files}
    assert found["102"].shape == (0, 4) and found["9"].tolist() == corners[:1]
    (folder / "x.jsonl").write_text(json.dumps({"image": "101.png", "boxes": corners}))
    assert find_pictures(folder / "x.jsonl").files[0].boxes.tolist() == corners


def test_what_is_wrong_is_told_in_one_line(folder, tmp_path):
    assert "no such folder, list or tar" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no pictures; expected files that end in .jpg" in refused(tmp_path / "empty")
    (tmp_path / "empty" / "x.tar").write_bytes(b"no tar")
    assert "x.tar: not one whole tar without compression" in refused(tmp_path / "empty")
    (folder / "list.txt").write_text("101.png\ngone.png\n")
    assert f"gone.png: no such picture; check {folder}/list.txt, line 2" in refused(folder / "list.txt")
    (folder / "below" / "101.jpg").write_bytes(b"x")
    assert "would both be image '101'; give each an id" in refused(folder)
    (folder / "x.jsonl").write_text('{"picture": "101.png"}\n')
    assert 'x.jsonl, line 1: expected an object with "image"' in refused(folder / "x.jsonl")
    (folder / "x.jsonl").write_text('{"image": "101.png", "boxes": [[1, 2, 3]]}\n')
    assert "line 1: box 1 is [1, 2, 3]; expected x1, y1, x2, y2" in refused(folder / "x.jsonl")
    (folder / "x.jsonl").write_text('{"image": "101.png", "id": [1]}\n')
    assert "line 1: a list is no id" in refused(folder / "x.jsonl")
    (folder / "x.jsonl").write_text('{"image": "101.png", "boxes": []}\n{"image": "102.png"}\n')
    assert "102.png has no boxes, others have" in refused(folder / "x.jsonl")
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    assert "binary: not UTF-8 text" in refused(folder / "binary")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("3", "expected {image id: boxes}"),
        ('[{"image_id": 1}]', "annotation 1: expected image_id and bbox"),
        ('[{"image_id": 1, "bbox": "abcd"}]', "annotation 1: the box is 'abcd'; expected x, y, width, height"),
        ('{"101": [[1, 2, 3, 1e999]]}', "image '101': box 1 is [1, 2, 3, inf]; expected x1, y1"),
        ('{"101": 5}', "image '101': boxes are 5; expected a list"),
        ('{"101": [["0", "0", "9", "9"]]}', "box 1 is ['0', '0', '9', '9']; expected"),
        ('{"101": [[[0, 0], [9, 9]]]}', "box 1 is [[0, 0], [9, 9]]; expected"),
        ('{"101": [[0, 0, true, 9]]}', "box 1 is [0, 0, True, 9]; expected"),
        ('{"101": [[0, 0, NaN, 9]]}', "box 1 is [0, 0, nan, 9]; expected"),
        ('{"101": [], "101": [[0, 0, 9, 9]]}', "101 stands there twice"),
        ('{"9": [], "COCO_val2014_000000000009.png": []}', "boxes of image '9' stand there twice"),
        ('{"9": []}', "no boxes of image '101'"),
    ],
)
def test_wrong_boxes_are_told_in_one_line(folder, tmp_path, content, said):
    (tmp_path / "boxes.json").write_text(content)
    assert said in refused(folder, tmp_path / "boxes.json")


def lines_of(folder, *lines):
    (folder / "x.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder / "x.jsonl"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"image": "101.png", "box": [[0, 0, 9, 9]]}', "line 1: unknown key 'box', did you mean boxes?"),
        ('{"image": "101.png", "idd": 3}', "line 1: unknown key 'idd', did you mean id?"),
        ('{"image": "101.png", "image": "102.png"}', "line 1: image stands there twice"),
        ('{"image": "101\\u0000.png"}', "cannot be looked up"),
        ('{"image": "101\\ud800.png"}', "cannot be looked up"),
        ('{"image": "below"}', "below: a folder, no picture"),
        ('{"image": "101.png", "id": ""}', "'' cannot be an image's id"),
        ('{"image": "101.png", "id": "\\ud800"}', "cannot be an image's id"),
    ],
)
def test_lines_that_say_what_nothing_reads(folder, line, said):
    assert said in refused(lines_of(folder, line))


def test_boxes_of_two_kinds_are_refused(folder, tmp_path):
    (tmp_path / "boxes.json").write_text('{"101": [[0, 0, 9, 9]]}')
    listed = lines_of(folder, '{"image": "101.png", "boxes": [[1, 1, 5, 5]]}')
    assert "101.png has boxes of its own, and --boxes" in refused(listed, tmp_path / "boxes.json")


@pytest.fixture
def tar(folder, tmp_path):
    """A tar of three pictures: its bytes, and where the last member begins."""
    path = tmp_path / "whole.tar"
    with tarfile.open(path, "w") as file:
        for name in ("101.png", "102.png", "below/COCO_val2014_000000000009.PNG"):
            file.add(folder / name, name)
    with tarfile.open(path) as file:
        return path.read_bytes(), file.getmembers()[2].offset


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw, last: raw[:last],  # at the edge of a member
        lambda raw, last: raw[: last + 100],  # within a header
        lambda raw, last: raw[: last + 600],  # within a picture
        lambda raw, last: raw[: last + 10] + bytes([raw[last + 10] ^ 1]) + raw[last + 11 :],  # one bit of a header
        lambda raw, last: raw + raw,  # cat a.tar b.tar
        lambda raw, last: raw[:last] + b"\0" * 512 + raw[last:],  # a header that is empty
    ],
)
def test_a_tar_that_is_not_whole_loses_no_picture_silently(tmp_path, tar, damage):
    (tmp_path / "cut.tar").write_bytes(damage(*tar))
    assert "cut.tar: not one whole tar without compression" in refused(tmp_path / "cut.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar_are_refused(folder, tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(folder / "101.png", "101.png")
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = kind, "101.png"
        file.addfile(link)
        file.addfile(tarfile.TarInfo("fine.txt"))
    assert "member link.png is a link, pipe or device, not a whole picture" in refused(tmp_path / "a.tar")


def test_a_picture_packed_with_holes_is_refused(tmp_path):
    with (tmp_path / "s.bmp").open("wb") as file:
        file.write(b"BM")
        file.seek(1 << 20)
        file.write(b"end")
    done = subprocess.run(["tar", "-S", "-cf", "a.tar", "s.bmp"], cwd=tmp_path, capture_output=True)
    with tarfile.open(tmp_path / "a.tar") as file:
        if done.returncode or not file.getmembers()[0].issparse():
            pytest.skip("tar packs no holes here")
    assert "member s.bmp is packed with holes" in refused(tmp_path / "a.tar")


def test_lists_of_windows_are_read(folder):
    (folder / "list.txt").write_bytes(b"\xef\xbb\xbf102.png\r\n101.png\r\n")
    assert ids(folder / "list.txt") == ["102", "101"]


@pytest.mark.parametrize("name", ["list.txt", "list.jsonl"])
def test_a_list_with_a_checksum_must_be_what_was_written(folder, name):
    lines = {"list.txt": b"101.png\n", "list.jsonl": b'{"image": "101.png"}\n'}
    record_bytes(folder / name, lines[name])
    assert ids(folder / name) == ["101"]
    (folder / name).write_bytes(lines[name].replace(b"101", b"102"))
    assert f"{name}: not what was written" in refused(folder / name)


def test_of_several_links_to_a_folder_always_the_same_is_followed(tmp_path, monkeypatch):
    write_pictures(tmp_path / "z", 1)
    (tmp_path / "a").symlink_to(tmp_path / "z")
    walk = os.walk

    def backwards(*given, **options):
        for place, folders, names in walk(*given, **options):
            folders.sort(reverse=True)
            yield place, folders, names

    first = [file.path for file in find_pictures(tmp_path).files]
    monkeypatch.setattr(os, "walk", backwards)
    assert [file.path for file in find_pictures(tmp_path).files] == first == [tmp_path / "a" / "100.png"]


def test_links_in_a_folder_are_followed(folder, tmp_path):
    write_pictures(tmp_path / "elsewhere", 1)
    (tmp_path / "elsewhere" / "100.png").rename(tmp_path / "elsewhere" / "e.png")
    (folder / "there").symlink_to(tmp_path / "elsewhere")
    (folder / "circle").symlink_to(folder)
    (folder / "below" / "link.png").symlink_to(tmp_path / "elsewhere" / "e.png")
    assert ids(folder) == ["101", "102", "9", "link", "e"]


def test_what_ends_as_a_picture_and_is_none_is_refused(folder):
    (folder / "dangling.jpg").symlink_to(folder / "gone.jpg")
    assert "dangling.jpg: no such picture; move it away" in refused(folder)
    (folder / "dangling.jpg").unlink()
    for name, what in (("pipe.jpg", "picture"), ("pipe.tar", "tar file")):
        os.mkfifo(folder / name)
        assert f"{name}: a pipe or device, no {what}" in refused(folder)
        (folder / name).unlink()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "list.txt").write_text("pipe.jpg\n")
    assert "pipe.jpg: a pipe or device, no picture; check" in refused(folder / "list.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into every folder")
def test_a_folder_that_cannot_be_looked_into_is_refused(folder):
    (folder / "below").chmod(0)
    try:
        assert "below: cannot be looked into" in refused(folder)
    finally:
        (folder / "below").chmod(0o755)


def test_names_that_are_not_utf8_are_refused(folder):
    os.rename(folder / "102.png", os.fsencode(folder) + b"/\xff.png")
    assert "cannot be an image's id; name the pictures in a .jsonl" in refused(folder)
