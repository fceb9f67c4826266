"""Feature files as VOLTA's ancestors write them: read with the right numbers, or refused by what they are."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from record_variants import IMAGES, array_record, cells, classes, coco, text, tsv_record, write_lines, write_lmdb
from volta_switch.data.feature_files import open_features
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.formats.tsv import write_tsv
from volta_switch.data.regions import Regions
from volta_switch.data_tools.repack import repack
from volta_switch.errors import BadRecord, UserError


def read_right(path: Path, images: list[Regions] = IMAGES, exactly: bool = True) -> None:
    """Assert that a file gives each image's numbers, whether the width is known or not."""
    for width in (None, images[0].features.shape[1]):
        store = open_features(path, width)
        assert len(store) == len(images)
        for image in images:
            found = store[image.image_id]
            assert (found.image_w, found.image_h) == (image.image_w, image.image_h)
            assert len(found) == len(image)
            assert not len(image) or np.allclose(found.features, image.features, rtol=0 if exactly else 1e-3)
            assert np.allclose(found.boxes, image.boxes, rtol=0 if exactly else 1e-3)
            assert found.features.dtype == found.boxes.dtype == np.float32


@pytest.mark.parametrize("boxes", ["<f4", "<f8", "<f2"])
@pytest.mark.parametrize("features", ["<f4", "<f8", "<f2"])
def test_base64_of_any_float_type_is_read_as_what_it_is(tmp_path, features, boxes) -> None:
    path = write_lmdb(tmp_path / "x", lambda image: tsv_record(image, features, boxes))
    read_right(path, exactly="<f2" not in (features, boxes))


SPELLINGS = {
    "ViLBERT's names, as text": lambda i: {
        **{"image_id": i.image_id, "image_h": str(i.image_h), "image_w": str(i.image_w), "num_boxes": str(len(i))},
        **{"boxes": text(i.boxes, "<f4").encode(), "features": text(i.features, "<f4").encode()},
    },
    "12-in-1's names, as arrays": lambda i: {
        **{"image_id": i.image_id, "image_h": i.image_h, "image_w": i.image_w, "num_boxes": len(i)},
        **{"boxes": i.boxes, "features": i.features},
    },
    "MMF's names": lambda i: {
        **{"image_height": i.image_h, "image_width": i.image_w, "num_boxes": len(i)},
        **{"bbox": i.boxes, "features": i.features, "objects": i.objects_id},
    },
    "sizes of one element": lambda i: array_record(i, img_h=np.array([i.image_h]), img_w=np.array([[i.image_w]])),
    "sizes as floats": lambda i: array_record(i, img_h=float(i.image_h), img_w=np.float32(i.image_w)),
    "sizes as texts of floats": lambda i: tsv_record(i, img_w=f"{i.image_w}.0", img_h=f" {i.image_h}.00 "),
    "sizes as bytes": lambda i: array_record(i, img_h=str(i.image_h).encode(), img_w=np.bytes_(str(i.image_w))),
    "sizes as lists": lambda i: array_record(i, img_h=[i.image_h], img_w=(float(i.image_w),)),
    "num_boxes of one element": lambda i: array_record(i, num_boxes=np.array([len(i)])),
    "arrays of float64": lambda i: array_record(i, features=i.features.astype("f8"), boxes=i.boxes.astype("f8")),
    "an axis of 1 in front": lambda i: array_record(i, features=i.features[None], boxes=i.boxes[None]),
    "flat arrays": lambda i: array_record(i, features=i.features.ravel(), boxes=i.boxes.ravel(), num_boxes=len(i)),
    "base64 with line breaks": lambda i: tsv_record(i, features="\n".join(text(i.features, "<f4").partition("A"))),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_record_of_another_spelling_is_read(tmp_path, name) -> None:
    read_right(write_lmdb(tmp_path / "x", SPELLINGS[name]))


REFUSED = {
    "more boxes": (lambda i: tsv_record(i, num_boxes=str(len(i) + 3)), r"boxes: 48 bytes, num_boxes is 6 \(96 of"),
    "twice as many": (lambda i: tsv_record(i, num_boxes=str(2 * len(i))), "boxes: 48 bytes, num_boxes is 6"),
    "half as many": (lambda i: tsv_record(i, num_boxes="2"), "boxes: 48 bytes, num_boxes is 2"),
    "more boxes than rows": (lambda i: array_record(i, num_boxes=9), r"boxes: shape \(3, 4\), expected \(9, 4\)"),
    "five columns": (lambda i: array_record(i, boxes=np.ones((3, 5))), r"boxes: shape \(3, 5\), expected \(n?3?, 4\)"),
    "columns as rows": (lambda i: array_record(i, boxes=i.boxes.T.copy()), r"boxes: shape \(4, 3\), expected"),
    "quantised": (lambda i: array_record(i, features=i.features.astype("u1")), "features: uint8, expected floats"),
    "lists": (lambda i: array_record(i, boxes=i.boxes.tolist()), "boxes: a list, expected a NumPy array or base64"),
    "a fraction of a pixel": (lambda i: array_record(i, img_w=np.float64(99.5)), "width is .*99.5.*whole number"),
    "two widths": (lambda i: array_record(i, img_w=np.array([1, 2])), "width is array.* expected a whole number"),
    "no number": (lambda i: tsv_record(i, img_h="tall"), "height is 'tall', expected a whole number"),
    "no height": (lambda i: array_record(i, img_h=None), "it has no img_h or image_h or image_height, only boxes"),
    "a height of 0": (lambda i: array_record(i, img_h=np.int64(0)), "the image is 120 x 0 pixels"),
    "tensors": (lambda i: array_record(i, boxes=torch.tensor(i.boxes)), "the pickle asks for torch._utils"),
    "other marks": (lambda i: tsv_record(i, boxes="****" + text(i.boxes, "<f4")), "characters that are none of base64"),
    "a text less": (lambda i: tsv_record(i, boxes=text(i.boxes, "<f4")[1:]), "boxes: no base64"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_record_that_cannot_be_believed_is_refused_by_what_it_is(tmp_path, name) -> None:
    record, says = REFUSED[name]
    store = open_features(write_lmdb(tmp_path / "x", record))
    with pytest.raises(BadRecord, match=rf"x, image '300000': .*{says}"):
        store["300000"]


def test_an_image_without_boxes_and_images_of_any_number_of_boxes_are_read(tmp_path) -> None:
    images = [replace(i, features=i.features[:n], boxes=i.boxes[:n]) for n, i in enumerate(IMAGES)]
    read_right(write_lmdb(tmp_path / "x", array_record, images), images)
    read_right(write_lmdb(tmp_path / "y", tsv_record, images), images)


KEYS = {
    "COCO's names": lambda i: coco(i).encode(),
    "COCO's files": lambda i: f"{coco(i)}.jpg".encode(),
    "zeros in front": lambda i: f"{int(i.image_id):012d}".encode(),
    "pictures": lambda i: f"{i.image_id}.jpg".encode(),
    "a folder": lambda i: f"val2014/{i.image_id}.png".encode(),
    "numbers": lambda i: int(i.image_id),
    "texts": lambda i: i.image_id,
}


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("name", KEYS)
def test_an_image_is_found_under_any_spelling_of_its_id(tmp_path, name, listed) -> None:
    path = write_lmdb(tmp_path / "x", tsv_record, key=KEYS[name], listed=listed)
    read_right(path)
    store = open_features(path)
    for spelling in (300001, "300001", "COCO_val2014_000000300001", "000000300001", "300001.png"):
        assert spelling in store and np.array_equal(store[spelling].features, IMAGES[1].features)
    with pytest.raises(
        BadRecord, match=r"no image '17' among its 4 \('.*300000.*', '.*300001.*', '.*300002.*', \.\.\.\)"
    ):
        store["17"]


def test_two_images_of_one_plain_id_are_not_guessed(tmp_path) -> None:
    images = [replace(IMAGES[0], image_id="0042"), replace(IMAGES[1], image_id="42")]
    write_features(tmp_path / "lmdb", images)
    write_tsv(tmp_path / "tsv", images)
    repack([tmp_path / "lmdb"], tmp_path / "compact", dtype="float32")
    for name in ("lmdb", "tsv", "compact"):
        store = open_features(tmp_path / name)
        assert all(len(store[image.image_id]) == len(image) for image in images) and "042" not in store
        with pytest.raises(BadRecord, match="image '042' may be '0042' or '42'; name it as the file does"):
            store["042"]


def test_a_compact_store_finds_other_spellings_without_reading_its_records(tmp_path, monkeypatch) -> None:
    repack([write_lmdb(tmp_path / "x", tsv_record, key=KEYS["pictures"])], tmp_path / "store", dtype="float32")
    read_right(tmp_path / "store")
    store = open_features(tmp_path / "store")
    monkeypatch.setattr(type(store), "keys", None)
    assert len(store["COCO_val2014_000000300001"]) == 4 and "5" not in store


HEADER = ["image_id", "image_w", "image_h", "num_boxes", "boxes", "features"]
LINES = {
    "six columns": [cells(i) for i in IMAGES],
    "a header line": [HEADER, *(cells(i) for i in IMAGES)],
    "a header line twice": [HEADER, cells(IMAGES[0]), HEADER, *(cells(i) for i in IMAGES[1:])],
    "columns in another order": [HEADER[::-1], *(cells(i)[::-1] for i in IMAGES)],
    "more columns": [["x", *HEADER], *(["", *cells(i)] for i in IMAGES)],
    "ViLBERT's seven": [[*cells(i), classes(i)] for i in IMAGES],
    "eight": [[*cells(i), classes(i), text(i.attr_scores, "<f4")] for i in IMAGES],
    "bytes as Python shows them": [[str(cell.encode()) for cell in cells(i)] for i in IMAGES],
    "sizes with a point": [[i.image_id, f"{i.image_w}.0", f"{i.image_h}.0", *cells(i)[3:]] for i in IMAGES],
    "COCO's names": [[f"{coco(i)}.jpg", *cells(i)[1:]] for i in IMAGES],
    "float64": [[*cells(i)[:4], text(i.boxes, "<f8"), text(i.features, "<f8")] for i in IMAGES],
}


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", LINES)
def test_lines_as_other_writers_leave_them_are_read(tmp_path, name, end, start) -> None:
    read_right(write_lines(tmp_path / "x.tsv", LINES[name], start, end))


def test_ids_of_four_bytes_and_the_classes_are_read(tmp_path) -> None:
    image = IMAGES[0]
    labels = [text(image.objects_id, "<i4"), text(image.objects_conf, "<f8"), text(image.attrs_id, "<i2")]
    line = [image.image_id, str(image.image_h), str(image.image_w), *labels, text(image.attrs_conf, "<f4")]
    line += [str(len(image)), text(image.boxes, "<f4"), text(image.features, "<f4")]
    line += [text(image.cls_prob, "<f8"), text(image.attr_scores, "<f2"), ""]
    found = open_features(write_lines(tmp_path / "x.tsv", [line]), detections=True)[image.image_id]
    for name in ("objects_id", "objects_conf", "attrs_id", "attrs_conf", "cls_prob", "attr_scores"):
        assert np.allclose(getattr(found, name), getattr(image, name), rtol=1e-3)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([[i.image_id, str(len(i)), text(i.features, "<f4")] for i in IMAGES], "VinVL's TSV"),
        ([[i.image_id, json.dumps({"objects": []})] for i in IMAGES], "VinVL's TSV"),
        (
            [HEADER[:4] + HEADER[5:], *(cells(i)[:4] + cells(i)[5:] for i in IMAGES)],
            "line 1: a header line, it lacks boxes",
        ),
        ([HEADER, cells(IMAGES[0]), HEADER[::-1]], "line 3: a header line, another one than the first"),
    ],
)
def test_lines_that_are_not_read_are_named(tmp_path, lines, says) -> None:
    with pytest.raises(UserError, match=rf"x\.tsv.*{says}"):
        open_features(write_lines(tmp_path / "x.tsv", lines))


@pytest.mark.parametrize("count", [4, 5, 9, 12])
def test_another_number_of_columns_is_named(tmp_path, count) -> None:
    store = open_features(write_lines(tmp_path / "x.tsv", [(cells(IMAGES[0]) * 3)[:count]]))
    with pytest.raises(BadRecord, match=rf"has {count} columns, expected 6, 7, 8, 10, 13; .* header line"):
        store["300000"]


def test_damage_to_one_line_costs_no_other(tmp_path) -> None:
    lines = ["\t".join(cells(image)) + "\n" for image in IMAGES]
    for name, broken in {
        "lost": lines[1][:-30] + lines[1][-29:],
        "junk": lines[1][:-70] + "****" * 4 + lines[1][-54:],
        "nul": lines[1][:-70] + "\0" * 16 + lines[1][-54:],
        "short": lines[1][:-60] + "\n",
    }.items():
        (tmp_path / name).write_text("".join([lines[0], broken, *lines[2:]]))
        store = open_features(tmp_path / name)
        assert len(store) == 4 and [len(store[i.image_id]) for i in IMAGES[2:]] == [5, 6]
        with pytest.raises(BadRecord, match=rf"{name}, image '300001': .*features"):
            store["300001"]
    (tmp_path / "glued").write_text(lines[0] + lines[1][:100] + lines[2] + lines[1] + lines[3])
    store = open_features(tmp_path / "glued")
    assert len(store["300001"]) == 4 and store.repeated == ["300001"] and "300002" not in store


def test_h5_files_of_other_layouts_are_named(tmp_path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "groups.h5", "w") as file:
        for image in IMAGES:
            group = file.create_group(f"{coco(image)}.jpg")
            group["features"], group["boxes"] = image.features.astype("f8"), image.boxes.astype("f8")
            group["image_w"], group["image_h"] = [image.image_w], [image.image_h]
            group["num_boxes"] = len(image)
    read_right(tmp_path / "groups.h5")
    with h5py.File(tmp_path / "groups.h5", "a") as file:
        del file[f"{coco(IMAGES[0])}.jpg/num_boxes"]
        file[f"{coco(IMAGES[0])}.jpg/num_boxes"] = 9
    with pytest.raises(BadRecord, match=r"image '300000': boxes: shape \(3, 4\), expected \(9, 4\)"):
        open_features(tmp_path / "groups.h5")["300000"]
    with h5py.File(tmp_path / "arrays.h5", "w") as file:
        file["image_features"], file["image_bb"] = np.zeros((2, 36, 8)), np.zeros((2, 36, 4))
        file["spatial_features"] = np.zeros((2, 36, 6))
    with pytest.raises(UserError, match=r"arrays\.h5: the H5 file of bottom-up-attention-vqa .*give the TSV file"):
        open_features(tmp_path / "arrays.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.zeros(3)
    with pytest.raises(UserError, match=r"other\.h5: 'x' is an array at the root .* a group for each image"):
        open_features(tmp_path / "other.h5")
