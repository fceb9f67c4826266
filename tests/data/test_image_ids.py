"""Ids as text, and one image's spellings."""

from __future__ import annotations

import numpy as np
import pytest

from volta_switch.data.image_ids import ImageIndex, examples, id_number, id_order, id_text, plain_id


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7"), ("007", "007"), (b"7.jpg", "7.jpg"), (np.int32(7), "7"), (7.0, "7"), (np.float64(7), "7"), ("", "")],
)
def test_an_id_is_text(value, text) -> None:
    assert id_text(value) == text


@pytest.mark.parametrize("value", [None, True, 7.5, float("nan"), [7], {"id": 7}, np.array([7])])
def test_what_is_no_id_is_none(value) -> None:
    with pytest.raises(TypeError, match="is no id"):
        id_text(value)


@pytest.mark.parametrize(
    "name",
    [
        *("9", "0009", "000000000009", "9.jpg", "000000000009.png", "9.JPEG", "val2014/9.jpg"),
        *("COCO_train2014_000000000009", "COCO_test2015_000000000009.jpg", "coco_val2014_000000000009"),
        "images/train2014/COCO_train2014_000000000009.jpg",
    ],
)
def test_all_spellings_of_an_image_have_one_plain_id(name) -> None:
    assert plain_id(name) == "9"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("9", "90"),
        ("n9", "9"),
        ("COCO_9x", "9"),
        ("train-0-0-img0", "train-0-0-img1"),
        ("photo_9", "9"),
        ("9.gif", "9"),
    ],
)
def test_other_images_have_others(one, other) -> None:
    assert plain_id(one) != plain_id(other)


def test_an_id_that_is_stored_is_itself_whatever_else_is_there() -> None:
    index = ImageIndex(["042", "42", "42.jpg"])
    assert [index.find(name) for name in ("042", "42", "42.jpg")] == [["042"], ["42"], ["42.jpg"]]


def test_an_id_that_may_be_two_images_is_none_of_them() -> None:
    index = ImageIndex(["042", "42", "7.png"])
    assert index.find("0042") == ["042", "42"] and not index.has("0042")
    assert index.has("007") and index.find("7.jpg") == ["7.png"] and not index.has("8")


def test_ids_are_ordered_by_number_then_as_texts() -> None:
    assert sorted(["b", "10", "9", "a", "2"], key=id_order) == ["2", "9", "10", "a", "b"]


def test_result_files_hold_numbers_where_ids_are_numbers() -> None:
    assert [id_number(name) for name in ("9", "0", "009", "n9", "")] == [9, 0, "009", "n9", ""]


def test_a_message_shows_three() -> None:
    assert examples(str(i) for i in range(9)) == "'0', '1', '2'" and examples([]) == "nothing"
