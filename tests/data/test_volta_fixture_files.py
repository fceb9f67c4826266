"""Every file of VOLTA's fixtures is read: each has an entry here, and gives what VOLTA's writers put into it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from volta_files import (
    CONCAP,
    FEATURES,
    FIXTURES,
    FLICKR,
    NLVR2,
    READS,
    REFER,
    TOKENIZER,
    VOCABULARY,
    VQA,
    captions,
    expressions,
    features,
    hard_negatives,
    questions,
    statements,
)
from volta_switch import cli
from volta_switch.data.concap_lmdb import ConcapFile
from volta_switch.data.collate import Layout
from volta_switch.data.json_files import read_json, read_json_lines
from volta_switch.data.nlvr2 import load_nlvr2
from volta_switch.data.refer import load_refer
from volta_switch.data.retrieval import load_retrieval
from volta_switch.data.retrieval_dataset import RetrievalDataset
from volta_switch.data.tokenizer import check_vocab_size
from volta_switch.data.vqa import load_vqa
from small_regions import DETECTIONS

REGIONS = {"flickr30k": (100, 600), "mscoco": (5, 25), "nlvr2": (8, 32), "refcoco+": (6, 45)}  # images, regions


def vocabulary_is_its_models(path: Path) -> None:
    check_vocab_size(TOKENIZER, read_json(path)["vocab_size"])


def tokens_are_hugging_faces(path: Path) -> None:
    texts = load_retrieval(FLICKR / "annotations" / "test_ann.jsonl").captions
    theirs = AutoTokenizer.from_pretrained(str(path.parent))
    assert theirs.get_vocab()["[SEP]"] == TOKENIZER.sep_id
    assert [TOKENIZER.encode(text, 512) for text in texts] == [theirs.encode(text) for text in texts]


def pairs_are_those_captioned(path: Path) -> None:
    split, count = {"t": ("train", 4), "v": ("valid", 2)}[path.name.removeprefix("caption_")[0]]
    dataset, texts = captions(split), read_json(CONCAP / "annotations" / f"caption_{split}.json")
    assert len(dataset) == len(texts) == count
    for index, (image_id, text) in enumerate(texts.items()):
        regions, caption = dataset.pairs[index]
        assert (regions.image_id, caption) == (image_id, text)
        assert dataset[index]["input_ids"].tolist() == TOKENIZER.encode(text, 38)
        assert np.array_equal(regions.cls_prob[:, 1:].argmax(1), regions.objects_id)
        assert np.allclose(regions.cls_prob.sum(1), 1, atol=1e-3)
        assert regions.features.shape == (36, 2048) and regions.attr_scores.shape == (36, 401)


def regions_are_whole(path: Path) -> None:
    name = next(name for name, file in FEATURES.items() if file in path.parents)
    store = features(name)
    assert (len(store), sum(len(store[key]) for key in store)) == REGIONS[name]
    for key in store:
        store[key].check()
        assert store[key].image_id == key and store[key].features.shape[1] == 2048


def images_have_captions(path: Path) -> None:
    annotations, store = load_retrieval(path), features("flickr30k")
    assert len(annotations.image_ids) == (60 if path.name.startswith("train") else 20)
    assert np.array_equal(annotations.caption_image, np.repeat(np.arange(len(annotations.image_ids)), 5))
    assert [text for line in read_json_lines(path) for text in line["sentences"]] == annotations.captions
    assert all(image_id in store for image_id in annotations.image_ids)


def hard_negatives_are_other_images(path: Path) -> None:
    pool = hard_negatives()
    assert path.exists() and pool.shape == (60, 3) and set(np.unique(pool)) <= set(range(60))
    assert not (pool == np.arange(60)[:, None]).any()


def statements_are_of_two_images(path: Path) -> None:
    lines, dataset = read_json_lines(path), statements(path.stem)
    assert load_nlvr2(NLVR2, path.stem) == dataset.entries and len(dataset) == len(lines)
    for index, line in enumerate(lines):
        sample = dataset[index]
        assert sample["id"] == line["identifier"] and len(sample["images"]) == 2
        assert sample["target"].tolist() == [line["label"] == "False", line["label"] == "True"]
        assert sample["input_ids"].tolist() == TOKENIZER.encode(line["sentence"], 40)


def expressions_name_boxes(path: Path) -> None:
    counts = {"train": 12, "val": 4, "testA": 4, "testB": 4, "test": 8}
    boxes = {item["id"]: item["bbox"] for item in read_json(REFER / "refcoco+" / "instances.json")["annotations"]}
    assert path.exists() and len(boxes) == 12
    for split, count in counts.items():
        dataset = expressions(split)
        assert dataset.entries == load_refer(REFER, "refcoco+", split) and len(dataset) == count
        for index, entry in enumerate(dataset.entries):
            x1, y1, x2, y2 = entry.box
            assert any(np.allclose([x1, y1, x2 - x1, y2 - y1], box) for box in boxes.values())
            sample = dataset[index]
            assert sample["id"] == str(entry.sent_id) and 0 <= sample["target"].max() <= 1


def questions_have_soft_answers(path: Path) -> None:
    split = next(split for split in ("train", "val", "test") if split in path.name.replace("trainval", "train"))
    annotations = load_vqa(VQA, split, 50)
    assert len(annotations.entries) == {"train": 9, "val": 6, "test": 3}[split] and len(annotations.label2ans) == 50
    assert read_json_labels(annotations.label2ans)
    for index, entry in enumerate(annotations.entries):
        if split == "test":
            assert entry.labels is entry.scores is None  # and no features: its images are not among these
        else:
            target = questions(split)[index]["target"]
            assert target.shape == (50,) and np.count_nonzero(target) == len(entry.labels)
