"""Comparing what VOLTA's dataset classes return with our batches of the same records.

Features agree in every bit that VOLTA's tensor has (the recorded ones are float16, in which the files' numbers are
exact), locations and overlaps to 1e-6, and everything else exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from volta_switch.data.batches.collate import Batch, BatchLayout, Sample

TASK_FIELDS = (  # of an item of VOLTA's task data sets, in its order
    *("features", "spatials", "image_mask", "text", "target", "input_mask", "segment_ids", "question_id", "index"),
)
CONCAP_FIELDS = (  # of a batch of VOLTA's Conceptual Captions loaders, in its order
    *("input_ids", "input_mask", "segment_ids", "lm_label_ids", "is_next", "image_feat", "image_loc", "image_cls"),
    *("obj_labels", "obj_confs", "attr_labels", "attr_confs", "image_attrs", "image_label", "image_mask"),
)
_TEXT = {"text": "input_ids", "input_mask": "attention_mask", "segment_ids": "token_type_ids"}
_CONCAP = {  # VOLTA's name of a tensor in its batch -> ours
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
Item = Mapping[str, np.ndarray]


def named(values: Any, names: tuple[str, ...] = TASK_FIELDS) -> dict[str, np.ndarray]:
    """A tuple of VOLTA's by the names of its fields, as arrays."""
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def recorded_items(tensors: Item) -> list[dict[str, np.ndarray]]:
    """The items of a recording, in order: its names are `<item>/<field>`."""
    numbers = sorted({int(name.split("/")[0]) for name in tensors})
    assert numbers == list(range(len(numbers)))
    return [{name: np.asarray(tensors[f"{number}/{name}"]) for name in TASK_FIELDS} for number in numbers]


def alone(dataset: Any, index: int, theirs: Item, place: str | None = "first") -> Batch:
    """One of our samples as a batch of the sizes of VOLTA's item, which are fixed."""
    length, slots = theirs["text"].shape[-1], theirs["features"].shape[-2]
    sample: Sample = dataset[index]
    boxes = slots // (2 if "images" in sample else 1) - (place is not None)
    return dataset.collate([sample], BatchLayout(place, text_length=length, num_boxes=boxes))


def assert_same_images(inputs: Mapping[str, Any], theirs: Item) -> None:
    """`inputs` are ours, of one row or of several that VOLTA lays one after the other."""
    features = inputs["image_feat"].numpy().astype(theirs["features"].dtype)
    assert np.array_equal(features.reshape(theirs["features"].shape), theirs["features"])
    locations = inputs["image_loc"].numpy().reshape(theirs["spatials"].shape)
    assert np.abs(locations - theirs["spatials"]).max() <= 1e-6
    assert np.array_equal(inputs["image_attention_mask"].numpy().reshape(theirs["image_mask"].shape),
                          theirs["image_mask"])  # fmt: skip


def assert_same_text(inputs: Mapping[str, Any], theirs: Item) -> None:
    """Every row of ours is VOLTA's one text."""
    for their_name, our_name in _TEXT.items():
        for row in inputs[our_name].numpy():
            assert np.array_equal(row, theirs[their_name]), their_name


def assert_same_item(batch: Batch, theirs: Item) -> None:
    """Of questions, claims and statements about two images: texts, images and soft labels."""
    assert_same_images(batch.inputs, theirs)
    assert_same_text(batch.inputs, theirs)
    assert batch.target is not None and np.array_equal(batch.target[0].numpy(), theirs["target"])


def assert_same_referent(batch: Batch, theirs: Item) -> None:
    """Of a referring expression; the global region is a target as in VOLTA, but, unlike in VOLTA, no candidate."""
    assert_same_images(batch.inputs, theirs)
    assert_same_text(batch.inputs, theirs)
    assert batch.target is not None and np.abs(batch.target[0].numpy() - theirs["target"][:, 0]).max() <= 1e-6
    boxes = int(theirs["image_mask"].sum()) - 1
    padding = len(theirs["image_mask"]) - 1 - boxes
    assert batch.candidates is not None
    assert batch.candidates[0].tolist() == [False] + [True] * boxes + [False] * padding


def assert_same_captions(batch: Batch, scores: Item, theirs: Item) -> None:
    """Of a batch of Conceptual Captions, its global region, if any, first.

    scores: (B, N, C) cls_prob and (B, N, A) attr_scores as our reader gives them. The global feature is a sum, and
    agrees to 1e-6.
    """
    for their_name, our_name in _CONCAP.items():
        assert np.array_equal(batch.inputs[our_name].numpy(), theirs[their_name]), their_name
    features = batch.inputs["image_feat"].numpy()  # (B, R, F)
    start = theirs["image_feat"].shape[1] - theirs["image_label"].shape[1]
    assert np.array_equal(features[:, start:], theirs["image_feat"][:, start:])
    assert np.abs(features - theirs["image_feat"]).max() <= 1e-6 * max(1.0, np.abs(theirs["image_feat"]).max())
    assert np.abs(batch.inputs["image_loc"].numpy() - theirs["image_loc"]).max() <= 1e-6
    assert np.array_equal(scores["cls_prob"], theirs["image_cls"])
    assert np.array_equal(scores["attr_scores"], theirs["image_attrs"])
