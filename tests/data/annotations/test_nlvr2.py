"""Statements about pairs of images: read as VOLTA reads them, laid out as rows 2i and 2i + 1."""

import json

import pytest
import torch

from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.feature_files import open_features
from volta_switch.errors import BadRecord, UserError
from volta_switch.tasks.nlvr2 import Nlvr2Dataset, Nlvr2Entry, load_nlvr2

LINE = {"identifier": "train-10-2-1", "sentence": "Two dogs.", "label": "True"}
MARVL = {"left_img": "marvl/sw/12-3.jpg", "right_img": "12-4.b.png", "caption": "Mbwa wawili.", "label": False}


def write_lines(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_images_of_a_statement_are_its_pairs(tmp_path):
    write_lines(tmp_path / "dev.jsonl", {**LINE, "identifier": "dev-10-2-1", "label": "False"}, LINE)
    assert load_nlvr2(tmp_path, "dev") == [
        Nlvr2Entry("dev-10-2-1", ("dev-10-2-img0", "dev-10-2-img1"), "Two dogs.", 0),
        Nlvr2Entry("train-10-2-1", ("train-10-2-img0", "train-10-2-img1"), "Two dogs.", 1),
    ]


def test_the_file_may_end_in_json_as_nlvr2s_own_do(tmp_path):
    write_lines(tmp_path / "test.json", LINE)
    assert len(load_nlvr2(tmp_path, "test")) == 1


def test_marvls_form_names_its_images_itself(tmp_path):
    path = write_lines(tmp_path / "sw.jsonl", MARVL, {**MARVL, "id": "sw-1", "label": 1})
    assert load_nlvr2(tmp_path, "test", path) == [
        Nlvr2Entry("0", ("12-3", "12-4"), "Mbwa wawili.", 0),
        Nlvr2Entry("sw-1", ("12-3", "12-4"), "Mbwa wawili.", 1),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"identifier": "train-1-0-0", "label": "True"}, "no sentence among its identifier, label"),
        ({**LINE, "label": "maybe"}, "label is 'maybe'"),
        ({**LINE, "identifier": "train"}, "identifier 'train' has no parts"),
        ({**MARVL, "label": 2}, "label is 2"),
        ({**MARVL, "label": float("inf")}, "label is inf"),
        ([LINE], "a list instead of an object with identifier"),
        (7, "not iterable"),
    ],
)
def test_lines_of_another_form_are_named(tmp_path, line, says):
    write_lines(tmp_path / "train.jsonl", {**LINE, "identifier": "train-0-0-0"}, line)
    with pytest.raises(UserError, match=rf"train\.jsonl, entry 2: expected identifier, .*{says}"):
        load_nlvr2(tmp_path, "train")


def test_files_and_splits_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UserError, match="NLVR2 has no split 'val'; expected train, dev, test"):
        load_nlvr2(tmp_path, "val")
    with pytest.raises(UserError, match=r"dev\.jsonl: no such file"):
        load_nlvr2(tmp_path, "dev")
    write_lines(tmp_path / "dev.jsonl")
    with pytest.raises(UserError, match=r"dev\.jsonl: the split is empty"):
        load_nlvr2(tmp_path, "dev")
    write_lines(tmp_path / "dev.jsonl", LINE, LINE)
    with pytest.raises(UserError, match=r"train-10-2-1 stands there twice"):
        load_nlvr2(tmp_path, "dev")


@pytest.fixture
def dataset(flickr_directory, tokenizer):
    store = open_features(flickr_directory / "flickr30k_feat.lmdb", feature_size=6)
    entries = [
        Nlvr2Entry("x-0", ("100", "103"), "a dog", 1),
        Nlvr2Entry("x-1", ("101", "100"), "the red cat", 0),
        Nlvr2Entry("x-2", ("101", "999"), "red", 0),
    ]
    return Nlvr2Dataset(entries, store, tokenizer, num_locs=5)


@pytest.mark.parametrize(("place", "start"), [("first", 1), ("last", 0), (None, 0)])
def test_a_batch_has_two_rows_for_each_statement(dataset, place, start):
    batch = dataset.collate([dataset[0], dataset[1]], BatchLayout(place))
    assert len(batch) == 2 and batch.ids == ["x-0", "x-1"] and batch.target.tolist() == [[0, 1], [1, 0]]
    assert batch.inputs["input_ids"].shape == (4, 5) and batch.inputs["image_feat"].shape[0] == 4
    assert torch.equal(batch.inputs["input_ids"][0], batch.inputs["input_ids"][1])
    assert torch.equal(batch.inputs["input_ids"][2], batch.inputs["input_ids"][3])
    assert batch.inputs["attention_mask"].sum(1).tolist() == [4, 4, 5, 5]
    boxes = [1, 4, 2, 1]
    extra = int(place is not None)
    assert batch.inputs["image_attention_mask"].sum(1).tolist() == [count + extra for count in boxes]
    assert torch.equal(batch.inputs["image_feat"][0, start], batch.inputs["image_feat"][3, start])  # image 100
    assert dataset.text_lengths.tolist() == [4, 5, 3]


def test_both_images_of_a_statement_may_stand_in_one_row(dataset):
    samples = [dataset[0], dataset[1]]
    apart, joined = (dataset.collate(samples, BatchLayout(None, joins_images=joins)) for joins in (False, True))
    assert joined.ids == apart.ids and torch.equal(joined.target, apart.target)
    assert torch.equal(joined.inputs["input_ids"], apart.inputs["input_ids"][::2])
    assert torch.equal(joined.inputs["attention_mask"], apart.inputs["attention_mask"][::2])
    assert joined.inputs["image_attention_mask"].tolist() == [
        [1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0],
    ]  # 1 and 4, 2 and 1 boxes
    assert joined.inputs["image_token_type_ids"].tolist() == [[0, 1, 1, 1, 1], [0, 0, 1, 0, 0]]
    for name in ("image_feat", "image_loc"):
        rows, own = joined.inputs[name], apart.inputs[name]
        assert torch.equal(rows[0], torch.cat((own[0, :1], own[1, :4])))
        assert torch.equal(rows[1], torch.cat((own[2, :2], own[3, :1], torch.zeros_like(rows[1, 3:]))))
    assert [len(rows) for rows in dataset.sample_rows.values()] == [2, 2, 2]
    dataset.joins_images = True
    assert dataset.sample_rows["x-0"] == [("100 103", "a dog")]


def test_an_image_without_features_is_named(dataset):
    with pytest.raises(BadRecord, match="no image '999'"):
        dataset[2]
