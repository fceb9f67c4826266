"""A whole world at VOLTA's sizes, written by our writers, is what VOLTA's own dataset classes and ours read alike.

Set VOLTA_HOME to a checkout of github.com/e-bug/volta; without it these tests are skipped.
"""

from __future__ import annotations

import random
import shutil
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.volta_files import FEATURES, REFER, TOKENIZER, VOLTA_DATA
from volta_datasets import LENGTH, hugging_face_tokenizer, theirs_of, volta_home
from volta_items import (
    alone,
    assert_same_images,
    assert_same_item,
    assert_same_referent,
    assert_same_text,
    named,
)
from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.feature_files import open_features
from volta_switch.tasks.gqa import load_gqa
from volta_switch.tasks.nlvr2 import Nlvr2Dataset, load_nlvr2
from volta_switch.tasks.refer import ReferDataset, load_refer
from volta_switch.tasks.retrieval_dataset import RetrievalDataset, RetrievalPairs, load_hard_negatives, load_retrieval
from volta_switch.tasks.snli_ve import load_snli_ve
from volta_switch.tasks.vqa import VqaDataset, load_vqa
from volta_switch.world import task_file as paths

volta_home()

NUMPY_MSGPACK = True  # as VOLTA's modules leave it


def ours_of(kind: type, annotations: Any, volta_world, features: Path, **options: Any) -> Any:
    store = open_features(volta_world.ours / features, 2048)
    return kind(annotations, store, volta_world.tokenizers.ours, num_locs=5, max_seq_length=LENGTH, **options)


@pytest.mark.parametrize(
    ("name", "split"),
    [*product(paths.REFER, ("train", "val", "test")), ("refer", "testA"), ("refer", "testB")],
)
def test_referring_expressions(volta_world, name, split) -> None:
    layout = paths.REFER[name]
    theirs = theirs_of("ReferExpressionDataset", layout.task, split, volta_world, layout.features, layout.annotations)
    entries = load_refer(volta_world.ours / layout.annotations, layout.task, split)
    ours = ours_of(ReferDataset, entries, volta_world, layout.features)
    assert len(theirs) == len(ours) >= 10
    for index in range(len(ours)):
        item = named(theirs[index])
        assert_same_referent(alone(ours, index, item), item)
        assert str(item["question_id"]) == entries[index].image_id


@pytest.mark.parametrize("split", ["train", "val", "minval", "test"])
def test_questions(volta_world, split) -> None:
    features = paths.VQA_TEST_FEATURES if split == "test" else paths.VQA_FEATURES
    theirs = theirs_of("VQAClassificationDataset", "VQA", split, volta_world, features, paths.VQA)
    annotations = load_vqa(volta_world.ours / paths.VQA, split)
    assert_same_answers(theirs, ours_of(VqaDataset, annotations, volta_world, features), split == "test")


@pytest.mark.parametrize("split", ["train", "val", "minval", "test"])
def test_gqas_questions(volta_world, split) -> None:
    theirs = theirs_of("GQAClassificationDataset", "GQA", split, volta_world, paths.GQA_FEATURES, paths.GQA)
    annotations = load_gqa(volta_world.ours / paths.GQA, split)
    ours = ours_of(VqaDataset, annotations, volta_world, paths.GQA_FEATURES)
    assert_same_answers(theirs, ours, split == "test")


def assert_same_answers(theirs: Any, ours: VqaDataset, test: bool) -> None:
    """VOLTA has no answers of test questions, whether or not there are any; ours are read where there are."""
    assert len(theirs) == len(ours) > 0 and theirs.num_labels == len(ours.label2ans)
    assert theirs.label2ans == ours.label2ans
    for index in range(len(ours)):
        item = named(theirs[index])
        batch = alone(ours, index, item)
        if test:
            assert not item["target"].any() and batch.target is not None and batch.target.any()
            batch.target[:] = 0
        assert_same_item(batch, item)
        assert int(batch.ids[0]) == item["question_id"]


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_statements_about_two_images(volta_world, split) -> None:
    theirs = theirs_of("NLVR2Dataset", "NLVR2", split, volta_world, paths.NLVR2_FEATURES, paths.NLVR2)
    entries = load_nlvr2(volta_world.ours / paths.NLVR2, split)
    ours = ours_of(Nlvr2Dataset, entries, volta_world, paths.NLVR2_FEATURES)
    assert len(theirs) == len(ours) >= 8
    for index in range(len(ours)):
        item = named(theirs[index])
        batch = alone(ours, index, item)
        assert_same_item(batch, item)
        assert item["question_id"] == index and batch.ids == [theirs.entries[index]["answer"]["id"]]


@pytest.mark.parametrize("most", [36, 37])
@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_claims_about_an_image(volta_world, split, most) -> None:
    """A departure: VOLTA counts the global region among the regions of SNLI-VE, and so loses the last box of 36."""
    features = paths.RETRIEVAL_FEATURES["retrieval"]
    theirs = theirs_of(
        *("VisualEntailmentDataset", "VisualEntailment", split, volta_world, features, paths.SNLI_VE),
        max_region_num=most,
    )
    annotations = load_snli_ve(volta_world.ours / paths.SNLI_VE, split)
    ours = ours_of(VqaDataset, annotations, volta_world, features, max_regions=most - 1)
    assert len(theirs) == len(ours) > 0
    for index in range(len(ours)):
        item = named(theirs[index])
        assert item["features"].shape == (most, 2048) and item["image_mask"].all()
        batch = alone(ours, index, item)
        assert_same_item(batch, item)
        assert batch.ids == [str(item["question_id"])]


@pytest.mark.parametrize("name", ["retrieval", "coco"])
@pytest.mark.parametrize("split", ["valid", "test"])
def test_retrieval_in_evaluation(volta_world, name, split) -> None:
    task, root, features = retrieval_names(name)
    file = root / "annotations" / f"{split}_ann.jsonl"
    theirs = theirs_of("RetrievalDatasetVal", task, split, volta_world, features, root, annotations=file)
    annotations = load_retrieval(volta_world.ours / file, "id" if name == "coco" else "img_path")
    ours = ours_of(RetrievalPairs, annotations, volta_world, features)
    images, layout = len(annotations.image_ids), BatchLayout("first", text_length=LENGTH, num_boxes=36)
    assert len(theirs) == 2 * len(annotations.captions) > 0
    for index in range(len(theirs)):
        pool, spatials, mask, text, input_mask, segments, target, caption, half = map(np.asarray, theirs[index])
        shown = range(images)[half * -(-images // 2) :][: len(pool)]
        same_text = {"text": text, "input_mask": input_mask, "segment_ids": segments}
        assert_same_text(ours.text_inputs([int(caption)], layout), same_text)
        assert target.tolist() == [float(image == ours.caption_image[caption]) for image in shown]
        if caption == 0:
            item = {"features": pool, "spatials": spatials, "image_mask": mask}
            assert_same_images(ours.image_inputs(shown, layout), item)


@pytest.mark.parametrize("name", ["retrieval", "coco"])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_retrieval_in_training(volta_world, name, split) -> None:
    """Negatives are drawn: VOLTA's by the counter that makes all captions the first five, as ours with volta_compat."""
    task, root, features = retrieval_names(name)
    file = root / "annotations" / f"{split}_ann.jsonl"
    theirs = theirs_of("RetrievalDataset", task, split, volta_world, features, root, annotations=file)
    annotations = load_retrieval(volta_world.ours / file, "id" if name == "coco" else "img_path")
    hard = load_hard_negatives(volta_world.ours / root / "hard_negative.pkl", annotations) if split == "train" else None
    if hard is not None:  # VOLTA numbers images by its list, column 0 being the image itself
        assert [str(image) for image in theirs.train_image_list] == annotations.image_ids
        assert np.array_equal(theirs.train_hard_pool[:, 1:], hard)
    options = {"hard_negatives": hard, "volta_compat": True}
    ours = ours_of(RetrievalDataset, annotations, volta_world, features, **options)
    first_five = [volta_world.tokenizers.ours.encode(text, LENGTH) for text in annotations.captions[:5]]
    layout = BatchLayout("first", text_length=LENGTH, num_boxes=36)
    pool = ours_of(RetrievalPairs, annotations, volta_world, features)
    images = pool.image_inputs(range(len(annotations.image_ids)), layout)["image_feat"].numpy()
    random.seed(1), np.random.seed(1)
    assert len(theirs) == len(ours)
    for index in range(len(ours)):
        item, batch = named(theirs[index]), ours.collate([ours[index]], layout)
        own = int(annotations.caption_image[index])
        assert item["target"] == 0 == batch.target[0] and str(item["question_id"]) == annotations.image_ids[own]
        texts, rows = item["text"], batch.inputs["input_ids"].numpy()
        for row in (0, 1, 3):  # the image itself; row 2 shows another one, with the image's own text
            alternative = {name: item[name][row] for name in ("features", "spatials", "image_mask")}
            assert_same_images({name: tensor[row] for name, tensor in batch.inputs.items()}, alternative)
        for number in (0, 2):
            assert np.array_equal(texts[number], rows[number])
        for number in (1, 3):
            for tokens in (texts[number], rows[number]):
                assert tokens[tokens != 0].tolist() in first_five
        for shown in (item["features"][2], batch.inputs["image_feat"][2].numpy()):
            (other,) = np.flatnonzero((images == shown).all(axis=(1, 2)))
            assert other != own


def retrieval_names(name: str) -> tuple[str, Path, Path]:
    """VOLTA's name of the task, the data root and the features."""
    task = {"retrieval": "RetrievalFlickr30k", "coco": "RetrievalCOCO"}[name]
    return task, paths.RETRIEVAL[name], paths.RETRIEVAL_FEATURES[name]


@pytest.mark.parametrize(("place", "most"), [("first", 36), ("first", 8), ("last", 36), ("last", 8)])
def test_images_of_fewer_and_of_more_regions_than_fit(tmp_path, place, most) -> None:
    """A departure: VOLTA's last region is the global one right behind the boxes, or another one where they do not fit.

    Here it is in the last slot, which VL-BERT reads, whatever the number of boxes.
    """
    theirs_at = shutil.copytree(VOLTA_DATA, tmp_path / "theirs")
    files = SimpleNamespace(theirs=theirs_at, tokenizers=SimpleNamespace(
        ours=TOKENIZER, theirs=hugging_face_tokenizer(theirs_at / "bert-tiny-tok")))  # fmt: skip
    where = [path.relative_to(VOLTA_DATA) for path in (FEATURES["refcoco+"], REFER)]
    sizes = {"place": place, "max_region_num": most}
    theirs = theirs_of("ReferExpressionDataset", "refcoco+", "train", files, *where, **sizes)
    entries, store = load_refer(REFER, "refcoco+", "train"), open_features(FEATURES["refcoco+"], 2048)
    ours = ReferDataset(entries, store, TOKENIZER, num_locs=5, max_seq_length=LENGTH, max_regions=most)
    seen = set()
    for index in range(len(ours)):
        item = named(theirs[index])
        batch = alone(ours, index, item, place)
        regions = store[str(entries[index].image_id)]
        boxes = min(len(regions), most)
        seen.add(len(regions) > most)
        if place == "first":
            assert_same_referent(batch, item)
        elif len(regions) > most:  # VOLTA has no global region, but one box more
            assert np.array_equal(item["features"], regions.features[: most + 1])
            assert np.array_equal(batch.inputs["image_feat"][0, :most].numpy(), item["features"][:most])
            mean = regions.features.sum(axis=0) / len(regions)
            assert np.array_equal(batch.inputs["image_feat"][0, most].numpy(), mean)
        else:
            slots = [*range(boxes), *range(boxes + 1, most + 1), boxes]
            moved = {name: item[name][slots] for name in ("features", "spatials", "image_mask", "target")}
            assert_same_images(batch.inputs, moved)
            assert np.abs(batch.target[0].numpy() - moved["target"][:, 0]).max() <= 1e-6
    assert seen == ({False} if most == 36 else {True, False})
