"""Conceptual Captions records whose fields are of other types than VOLTA's: read, or refused by record."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest

from small_regions import same, some_regions
from volta_switch.data.batches.concap_dataset import ConcapDataset
from volta_switch.data.files.lmdb_environment import writing
from volta_switch.data.formats.concap import ConcapFile, _encode
from volta_switch.errors import BadRecord, UserError

IMAGE = some_regions("7", 0, 3)
PLACES = {"features": 0, "cls_prob": 1, "objects_id": 2, "boxes": 7, "num_boxes": 8, "image_h": 9, "image_w": 10}


def pair(tmp_path, place: int, value: Any) -> ConcapFile:
    """Write one record with another value in a field; arrays in the form of msgpack-numpy."""
    record = msgpack.unpackb(_encode(IMAGE, "a dog"), strict_map_key=False)
    if isinstance(value, np.ndarray):
        form = {b"type": value.dtype.str, b"kind": b"", b"shape": list(value.shape), b"data": value.tobytes()}
        value = {b"nd": True, **form}
    record[place] = value
    with writing(tmp_path / "x.lmdb", directory=False) as put:
        for index in range(2):
            put(f"{index:08d}".encode(), msgpack.packb(record, use_bin_type=True))
    return ConcapFile(tmp_path / "x.lmdb")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((0, IMAGE.features.astype("<f8")), (7, IMAGE.boxes.astype("<f8")), (2, IMAGE.objects_id.astype("<i4"))),
        *((8, 3), (8, "3.0"), (9, 100), (9, "100.0"), (10, 120.0), (10, b"120"), (11, 7)),
    ],
)
def test_fields_of_other_types_are_read(tmp_path, place, value) -> None:
    for index in range(2):
        found, caption = pair(tmp_path, place, value)[index]
        assert same(found, IMAGE) and caption == "a dog"


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (8, "4", "features have 3 rows, num_boxes is 4"),
        (8, "three", "num_boxes is 'three', expected a whole number"),
        (9, "99.5", "the image's height is '99.5', expected a whole number"),
        (12, None, "the caption is null, expected a text"),
        (12, 5, "the caption is 5, expected a text"),
        (12, ["a"], "the caption is a list, expected a text"),
        (0, IMAGE.features.astype(">f4"), "features is of type >f4, expected <f4 or <f8 or <f2"),
        (0, (IMAGE.features * 9).astype("u1"), "features is of type |u1, expected"),
    ],
)
def test_fields_that_cannot_be_believed_are_refused_by_record(tmp_path, place, value, says) -> None:
    with pytest.raises(BadRecord, match=rf"x\.lmdb: record b'00000000': {says}"):
        pair(tmp_path, place, value)[0]


@pytest.mark.parametrize("wrong", ["null", "5", '["a dog"]', '{"raw": "a dog"}'])
def test_a_caption_file_with_other_things_than_texts_is_refused_by_image(concap_directory, tmp_path, tokenizer, wrong):
    (tmp_path / "caption_train.json").write_text(f'{{"1": "a dog", "2": {wrong}}}')
    with pytest.raises(UserError, match=r"caption_train\.json: the caption of image 2 is .*, expected a text"):
        ConcapDataset(concap_directory, tmp_path, "train", tokenizer, num_locs=5)
