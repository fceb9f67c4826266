"""What VOLTA's own dataset classes returned for these files, and what ours return."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from data.volta_files import (
    FEATURES,
    NLVR2,
    READS,
    REFER,
    TOKENIZER,
    captions,
    expressions,
    features,
    questions,
    statements,
)
from volta_items import alone, assert_same_captions, assert_same_item, assert_same_referent, recorded_items
from volta_switch import load_config
from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.regions import locations
from volta_switch.tasks import DataOptions, build_task, load_task
from volta_switch.tasks.nlvr2 import load_nlvr2


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize(("where", "name"), [("first", "first"), (None, "none")])
def test_conceptual_captions_batch_equals_voltas(where, name, compat) -> None:
    """Where nothing is masked, VOLTA's global feature is the mean that ours always is."""
    dataset = captions("valid", volta_compat=compat)
    batch = dataset.collate([dataset[0], dataset[1]], BatchLayout(where, text_length=38, num_boxes=36)).to("cpu")
    regions = [dataset.pairs[index][0] for index in range(2)]
    scores = {field: np.stack([getattr(one, field) for one in regions]) for field in ("cls_prob", "attr_scores")}
    assert_same_captions(batch, scores, load_file(READS / f"concap_valid_unmasked_{name}.safetensors"))
    assert batch.ids == json.loads((READS / "concap_valid_ids.json").read_text())


@pytest.mark.parametrize("num_locs", [5, 7])
@pytest.mark.parametrize("split", ["train", "val"])
def test_referring_expressions_equal_voltas(split, num_locs) -> None:
    dataset = expressions(split, num_locs)
    theirs = recorded_items(load_file(READS / f"refcoco+_{split}_locs{num_locs}.safetensors"))
    assert len(theirs) == len(dataset)
    for index, item in enumerate(theirs):
        batch = alone(dataset, index, item)
        assert batch.inputs["image_loc"].shape == (1, 37, num_locs)
        assert_same_referent(batch, item)
        assert batch.ids == [str(dataset.entries[index].sent_id)]
        assert item["index"] == index and str(item["question_id"]) == dataset.entries[index].image_id


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("split", ["train", "val"])
def test_the_global_region_answers_by_the_images_id_in_voltas_way_only(tmp_path, split, compat) -> None:
    settings = {"name": "refcoco+", "type": "V-logit", "dataroot": str(REFER)}
    sizes = {"max_seq_length": 20, "max_region_num": 36, "num_labels": 1, "loss": "BCEWithLogitLoss", "batch_size": 2}
    entry = {**settings, **sizes, "features_h5path1": str(FEATURES["refcoco+"]), "lr": 1e-4, "num_epoch": 1}
    (tmp_path / "tasks.yml").write_text(
        yaml.safe_dump({"TASK10": {**entry, "train_split": "train", "val_split": "val"}})
    )
    spec = load_task(tmp_path / "tasks.yml", "TASK10")
    task = build_task(spec, load_config("ctrl_uniter_base"), TOKENIZER, DataOptions(volta_compat=compat))
    dataset = task.dataset(split, training=False)
    for index, item in enumerate(recorded_items(load_file(READS / f"refcoco+_{split}_locs5.safetensors"))):
        batch = alone(dataset, index, item)
        scores = torch.arange(37, 0, -1, dtype=torch.float32)[None, :, None]  # the global region's is the highest
        (result,) = task.results(scores, batch)
        sentence, slot = str(dataset.entries[index].sent_id), 0 if compat else 1
        assert result["id"] == (int(item["question_id"]) if compat else sentence) and result["target"] == 0
        assert result["IOU"] == pytest.approx(item["target"][slot, 0], abs=1e-6)


def test_questions_equal_voltas() -> None:
    dataset = questions("train")
    theirs = recorded_items(load_file(READS / "vqa_train_locs5.safetensors"))
    assert len(theirs) == len(dataset)
    for index, item in enumerate(theirs):
        batch = alone(dataset, index, item)
        assert_same_item(batch, item)
        assert batch.ids == [str(item["question_id"])] and item["index"] == index


def test_statements_equal_voltas() -> None:
    """VOLTA lays the two images one after the other in 74 slots; here they are two rows of 37."""
    dataset = statements("train")
    theirs = recorded_items(load_file(READS / "nlvr2_train_locs5.safetensors"))
    assert len(theirs) == len(dataset)
    for index, item in enumerate(theirs):
        batch = alone(dataset, index, item)
        assert_same_item(batch, item)
        assert batch.ids == [load_nlvr2(NLVR2, "train")[index].identifier]
        assert item["question_id"] == item["index"] == index


def test_seven_locations_follow_from_voltas_five() -> None:
    store = features("mscoco")
    for key in store:
        five, seven = locations(store[key], 5), locations(store[key], 7)
        assert np.array_equal(seven[:, [0, 1, 2, 3, 6]], five)
        assert np.abs(seven[:, 4] * seven[:, 5] - seven[:, 6]).max() <= 1e-6
