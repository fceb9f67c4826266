"""Pre-training pairs and image features, written by our writers, are what VOLTA's own loader and ours read alike.

Set VOLTA_HOME to a checkout of github.com/e-bug/volta; without it these tests are skipped.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from volta_datasets import LENGTH, volta_home, volta_module, volta_reader
from volta_items import (
    CONCAP_FIELDS,
    assert_same_captions,
    assert_same_images,
    named,
)
from volta_switch.data.batches.collate import BatchLayout, image_inputs
from volta_switch.data.batches.concap_dataset import ConcapDataset
from volta_switch.data.feature_files import open_features
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.tasks.dataset import TaskImages
from volta_switch.world import task_file as paths

volta_home()

NUMPY_MSGPACK = True  # as VOLTA's modules leave it


# Conceptual Captions


def concap_batches(volta_world, num_locs: int, add_global: bool, **options: Any) -> list[dict[str, np.ndarray]]:
    """VOLTA's validation batches of 5."""
    folder = volta_world.theirs / paths.CONCAP
    arguments = (
        str(folder / "annotations"),
        str(volta_world.theirs / paths.CONCAP_FEATURES),
        volta_world.tokenizers.theirs,
        LENGTH,
    )
    loader = volta_module("concept_cap_dataset").ConceptCapLoaderVal(
        *arguments, batch_size=5, num_locs=num_locs, add_global_imgfeat=add_global, **options
    )
    return [{**named(batch[:-1], CONCAP_FIELDS), "ids": np.asarray(batch[-1])} for batch in loader]


def our_captions(volta_world, split: str, num_locs: int, **options: Any) -> ConcapDataset:
    folders = (volta_world.ours / paths.CONCAP_FEATURES, volta_world.ours / paths.CONCAP / "annotations")
    sizes = {"num_locs": num_locs, "max_seq_length": LENGTH}
    return ConcapDataset(*folders, split, volta_world.tokenizers.ours, **{"masking": None, **sizes, **options})


def scores_of(dataset: ConcapDataset, indices: list[int]) -> dict[str, np.ndarray]:
    regions = [dataset.pairs[index][0] for index in indices]
    return {name: np.stack([getattr(one, name) for one in regions]) for name in ("cls_prob", "attr_scores")}


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("place", ["first", None])
@pytest.mark.parametrize("num_locs", [5, 7])
def test_conceptual_captions_validation(volta_world, num_locs, place, compat) -> None:
    theirs = concap_batches(volta_world, num_locs, place is not None, visualization=True)
    dataset = our_captions(volta_world, "valid", num_locs, volta_compat=compat)
    assert len(dataset) == 10 and len(theirs) == 2
    for number, expected in enumerate(theirs):
        indices = list(range(5 * number, 5 * number + 5))
        layout = BatchLayout(place, text_length=LENGTH, num_boxes=36)
        batch = dataset.collate([dataset[index] for index in indices], layout).to("cpu")
        assert_same_captions(batch, scores_of(dataset, indices), expected)
        assert batch.ids == expected["ids"].tolist()


def test_conceptual_captions_training_records(volta_world) -> None:
    """VOLTA's training loader hangs with tensorpack 0.11; what it does to a record is its BertPreprocessBatch."""
    from tensorpack.dataflow import LMDBSerializer

    folder = volta_world.theirs / paths.CONCAP
    captions = str(folder / "annotations" / "caption_train.json")
    prepare = volta_module("concept_cap_dataset").BertPreprocessBatch(
        captions, volta_world.tokenizers.theirs, LENGTH, 36, 20, visualization=True, num_locs=5
    )
    flow = LMDBSerializer.load(
        str(volta_world.theirs / paths.CONCAP_FEATURES / "training_feat_all.lmdb"), shuffle=False
    )
    flow.reset_state()
    dataset = our_captions(volta_world, "train", 5)
    count = 0
    for index, record in enumerate(flow):
        fields = prepare(record)
        theirs = {name: value[None] for name, value in named(fields[:-2], CONCAP_FIELDS).items()}
        batch = dataset.collate([dataset[index]], BatchLayout(None, text_length=LENGTH, num_boxes=36)).to("cpu")
        assert_same_captions(batch, scores_of(dataset, [index]), theirs)
        assert batch.ids == [fields[-1]]
        count += 1
    assert count == len(dataset) == 20


@pytest.mark.parametrize("compat", [False, True])
def test_the_global_feature_of_masked_regions_is_voltas_with_compat_only(volta_world, compat) -> None:
    random.seed(3)
    parts = concap_batches(volta_world, 5, True, objective=2)
    theirs = {name: np.concatenate([part[name] for part in parts]) for name in ("image_feat", "image_label")}
    predicted, zeroed = theirs["image_label"] == 1, ~theirs["image_feat"][:, 1:].any(axis=2)  # (10, 36)
    dataset = our_captions(volta_world, "valid", 5, masking="volta", objective=2, volta_compat=compat)
    # draws that hide what VOLTA has hidden: chosen below 0.15, and left as it is below 0.1
    draws = np.stack([np.where(predicted, 0, 0.9), np.where(zeroed, 0.9, 0)], axis=2)
    samples = [replace(dataset[index], region_draws=draws[index]) for index in range(10)]
    batch = dataset.collate(samples, BatchLayout("first", num_boxes=36)).to("cpu")
    features = batch.inputs["image_feat"].numpy()
    assert np.array_equal(batch.inputs["image_label"].numpy(), theirs["image_label"])
    assert np.array_equal(features[:, 1:], theirs["image_feat"][:, 1:]) and zeroed.sum() > 20
    differences = np.abs(features[:, 0] - theirs["image_feat"][:, 0]).max(axis=1) / features.max()  # (10,)
    if compat:
        assert differences.max() <= 1e-6
    else:
        whole = [dataset.pairs[index][0].features for index in range(10)]
        means = np.stack([one[~hidden].mean(axis=0) for one, hidden in zip(whole, predicted, strict=True)])
        assert np.abs(features[:, 0] - means).max() <= 1e-6 * features.max() and (differences > 1e-3).sum() > 5


# Features


@pytest.mark.parametrize("place", ["first", "last", None])
@pytest.mark.parametrize("num_locs", [5, 7])
@pytest.mark.parametrize("variant", ["tsv", "h5", "npy"])
def test_features_in_each_variant(tmp_path, regions_of, variant, num_locs, place) -> None:
    images = [regions_of(name, seed, count, 2048) for seed, (name, count) in enumerate((("7", 36), ("x-img0", 3)))]
    write_features(tmp_path / "ours.lmdb", images, variant)
    shutil.copytree(tmp_path / "ours.lmdb", tmp_path / "theirs.lmdb")
    theirs = volta_reader(tmp_path / "theirs.lmdb", num_locs, place)
    store = open_features(tmp_path / "ours.lmdb", 2048)
    assert sorted(key.decode() for key in theirs.keys()) == sorted(store) == ["7", "x-img0"]  # noqa: SIM118
    for key in store:
        features, count, spatials, _ = theirs[key]
        inputs = image_inputs([TaskImages(store, num_locs)[key].inputs], BatchLayout(place))
        item = {"features": features, "spatials": spatials, "image_mask": np.ones(count, dtype=np.int64)}
        assert features.shape == (len(store[key]) + (place is not None), 2048)
        assert_same_images(inputs, item)


def test_seven_location_values_are_whole_from_memory_too(tmp_path, regions_of) -> None:
    """A departure: VOLTA's reader leaves width, height and area 0 where it keeps features in memory."""
    write_features(tmp_path / "ours.lmdb", [regions_of("7", 0, 5, 2048)])
    shutil.copytree(tmp_path / "ours.lmdb", tmp_path / "theirs.lmdb")
    read, kept = (volta_reader(tmp_path / "theirs.lmdb", 7, in_memory=memory)["7"][2] for memory in (False, True))
    assert np.array_equal(kept[:, :4], read[:, :4]) and not kept[1:, 4:].any() and read[1:, 4:].all()
    for memory in (False, True):
        ours = TaskImages(open_features(tmp_path / "ours.lmdb", 2048, in_memory=memory), 7)["7"].inputs["image_loc"]
        assert np.abs(ours - read[1:]).max() <= 1e-6
