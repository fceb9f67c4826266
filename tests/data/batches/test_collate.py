from __future__ import annotations

import numpy as np
import pytest
import torch

from volta_switch.data.batches.collate import Batch, BatchLayout, image_inputs, padded, text_inputs


def sample(count: int) -> dict:
    features = np.arange(1, 1 + count * 2, dtype=np.float32).reshape(count, 2)
    return {
        "image_feat": features,
        "image_loc": np.full((count, 5), 0.5, np.float32),
        "global_feat": -np.ones(2, np.float32),
    }


def test_texts_are_padded_to_the_longest() -> None:
    inputs = text_inputs([np.array([2, 7, 3]), np.array([2, 3])], BatchLayout(pad_id=9))
    assert inputs["input_ids"].tolist() == [[2, 7, 3], [2, 3, 9]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert inputs["token_type_ids"].tolist() == [[0] * 3] * 2
    assert {tensor.dtype for tensor in inputs.values()} == {torch.int64}


def test_the_global_region_stands_first() -> None:
    inputs = image_inputs([sample(1), sample(2)], BatchLayout("first"))
    assert inputs["image_feat"].tolist() == [[[-1, -1], [1, 2], [0, 0]], [[-1, -1], [1, 2], [3, 4]]]
    assert inputs["image_attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert inputs["image_loc"][:, 0].tolist() == [[0, 0, 1, 1, 1]] * 2


def test_the_global_region_stands_in_the_last_slot_after_the_padding() -> None:
    inputs = image_inputs([sample(1), sample(2)], BatchLayout("last"))
    assert inputs["image_feat"].tolist() == [[[1, 2], [0, 0], [-1, -1]], [[1, 2], [3, 4], [-1, -1]]]
    assert inputs["image_attention_mask"].tolist() == [[1, 0, 1], [1, 1, 1]]
    assert inputs["image_loc"][:, -1].tolist() == [[0, 0, 1, 1, 1]] * 2


def test_without_a_global_region_there_are_boxes_alone() -> None:
    inputs = image_inputs([sample(1), sample(2)], BatchLayout(None))
    assert inputs["image_feat"].tolist() == [[[1, 2], [0, 0]], [[1, 2], [3, 4]]]
    assert inputs["image_attention_mask"].tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("where", ["first", "last", None])
def test_fixed_sizes_hold_whatever_the_batch(where) -> None:
    layout = BatchLayout(where, text_length=6, num_boxes=4)
    inputs = image_inputs([sample(1)], layout) | text_inputs([np.array([2, 3])], layout)
    slots = 4 + (where is not None)
    assert inputs["image_feat"].shape == (1, slots, 2) and inputs["image_loc"].shape == (1, slots, 5)
    assert inputs["input_ids"].shape == (1, 6)


def test_samples_larger_than_a_fixed_size_are_refused() -> None:
    with pytest.raises(ValueError, match="a sample of 3 does not fit into 2 slots"):
        image_inputs([sample(3)], BatchLayout("first", num_boxes=2))
    with pytest.raises(ValueError, match="a sample of 3 does not fit into 2 slots"):
        text_inputs([np.array([2, 7, 3])], BatchLayout(text_length=2))


def test_padding_keeps_the_type_of_what_is_padded() -> None:
    assert padded([np.array([1, 2]), np.array([3])], 3, -1).tolist() == [[1, 2, -1], [3, -1, -1]]
    assert padded([np.ones((1, 2), np.float32)], 2, 0).dtype == torch.float32


def test_a_batch_moves_whole() -> None:
    batch = Batch({"input_ids": torch.zeros(2, 3)}, torch.ones(2), ["a", "b"], torch.ones(2, 3))
    moved = batch.to("meta")
    assert {t.device.type for t in (moved.inputs["input_ids"], moved.target, moved.candidates)} == {"meta"}
    assert moved.ids == ["a", "b"] and batch.target.device.type == "cpu"
    assert Batch({}, None, []).to("meta").target is None
