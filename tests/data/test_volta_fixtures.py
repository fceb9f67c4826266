"""What VOLTA's own dataset classes returned for these files, and what ours return."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from volta_switch.data.collate import Layout
from volta_switch.data.concap_dataset import ConcapDataset
from volta_switch.data.feature_files import open_features
from volta_switch.data.refer import load_refer
from volta_switch.data.refer_dataset import ReferDataset
from volta_switch.data.regions import locations
from volta_switch.data.vqa import load_vqa
from volta_switch.data.vqa_dataset import VqaDataset

DETECTIONS = "resnet101_faster_rcnn_genome_imgfeats/volta"
CONCAP = {  # VOLTA's name of a tensor in its batch -> ours
    "input_ids": "input_ids",
    "input_mask": "attention_mask",
    "segment_ids": "token_type_ids",
    "lm_label_ids": "masked_lm_labels",
    "is_next": "next_sentence_label",
    "image_label": "image_label",
    "image_mask": "image_attention_mask",
    "obj_labels": "obj_labels",
    "obj_confs": "obj_confs",
    "attr_labels": "attr_labels",
    "attr_confs": "attr_confs",
}
TASK = {
    "text": "input_ids",
    "input_mask": "attention_mask",
    "segment_ids": "token_type_ids",
    "image_mask": "image_attention_mask",
}


@pytest.mark.parametrize(("where", "name"), [("first", "first"), (None, "none")])
def test_conceptual_captions_batch_equals_voltas(volta_data, volta_reads, volta_tokenizer, where, name) -> None:
    root = volta_data / "conceptual_captions"
    dataset = ConcapDataset(
        root / DETECTIONS, root / "annotations", "valid", volta_tokenizer, num_locs=5, masking=None, max_seq_length=38
    )
    batch = dataset.collate([dataset[0], dataset[1]], Layout(where, text_length=38, num_boxes=36)).to("cpu")
    theirs = load_file(volta_reads / f"concap_valid_unmasked_{name}.safetensors")
    for their_name, our_name in CONCAP.items():
        assert np.array_equal(batch.inputs[our_name].numpy(), theirs[their_name]), their_name
    features, boxes = batch.inputs["image_feat"].numpy(), slice(int(where == "first"), None)
    assert np.array_equal(features[:, boxes], theirs["image_feat"][:, boxes])
    assert np.abs(features - theirs["image_feat"]).max() <= 1e-6  # the global region's, a sum in another order
    assert np.abs(batch.inputs["image_loc"].numpy() - theirs["image_loc"]).max() <= 1e-6
    assert batch.ids == json.loads((volta_reads / "concap_valid_ids.json").read_text())
    for field, name in (("attr_scores", "image_attrs"), ("cls_prob", "image_cls")):
        assert np.array_equal(np.stack([getattr(dataset.pairs[i][0], field) for i in range(2)]), theirs[name])


@pytest.mark.parametrize("split", ["train", "val"])
def test_referring_expressions_equal_voltas(volta_data, volta_reads, volta_tokenizer, split) -> None:
    root = volta_data / "refcoco+_unc"
    store = open_features(root / DETECTIONS / "refcoco+_unc_dets36_feat.lmdb", feature_size=2048)
    entries = load_refer(root / "annotations", "refcoco+", split)
    dataset = ReferDataset(entries, store, volta_tokenizer, num_locs=5, max_seq_length=20)
    theirs = load_file(volta_reads / f"refcoco+_{split}_locs5.safetensors")
    assert len({key.split("/")[0] for key in theirs}) <= len(dataset)
    for item in {key.split("/")[0] for key in theirs}:
        batch = dataset.collate([dataset[int(item)]], Layout("first", text_length=20, num_boxes=36))
        assert_task_item(batch, theirs, item)
        assert np.abs(batch.target[0].numpy() - theirs[f"{item}/target"][:, 0]).max() <= 1e-6
        assert entries[int(item)].image_id == theirs[f"{item}/question_id"]
        boxes = theirs[f"{item}/image_mask"].sum() - 1
        assert batch.candidates[0].tolist() == [False] + [True] * boxes + [False] * (36 - boxes)


def test_questions_equal_voltas(volta_data, volta_reads, volta_tokenizer) -> None:
    store = open_features(volta_data / "mscoco" / DETECTIONS / "trainval_feat.lmdb", feature_size=2048)
    annotations = load_vqa(volta_data / "vqa" / "annotations", "train", num_labels=50)
    dataset = VqaDataset(annotations, store, volta_tokenizer, num_locs=5, max_seq_length=23)
    theirs = load_file(volta_reads / "vqa_train_locs5.safetensors")
    assert {key.split("/")[0] for key in theirs} == set(map(str, range(len(dataset))))
    for index in range(len(dataset)):
        batch = dataset.collate([dataset[index]], Layout("first", text_length=23, num_boxes=36))
        assert_task_item(batch, theirs, str(index))
        assert np.array_equal(batch.target[0].numpy(), theirs[f"{index}/target"])
        assert batch.ids == [str(theirs[f"{index}/question_id"])]


def assert_task_item(batch, theirs, item) -> None:
    """Features agree to the last bit of float16, in which they are stored; locations to 1e-6; the rest exactly."""
    features = batch.inputs["image_feat"][0].to(torch.float16).numpy()
    assert np.array_equal(features, theirs[f"{item}/features"])
    assert np.abs(batch.inputs["image_loc"][0].numpy() - theirs[f"{item}/spatials"]).max() <= 1e-6
    for their_name, our_name in TASK.items():
        assert np.array_equal(batch.inputs[our_name][0].numpy(), theirs[f"{item}/{their_name}"]), their_name


def test_seven_locations_follow_from_voltas_five(volta_data) -> None:
    store = open_features(volta_data / "mscoco" / DETECTIONS / "trainval_feat.lmdb")
    for key in store:
        five, seven = locations(store[key], 5), locations(store[key], 7)
        assert np.array_equal(seven[:, [0, 1, 2, 3, 6]], five)
        assert np.abs(seven[:, 4] * seven[:, 5] - seven[:, 6]).max() <= 1e-6
