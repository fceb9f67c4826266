from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.feature_files import open_features
from volta_switch.data.files.stores import FeatureStore
from volta_switch.data.regions import global_feature
from volta_switch.errors import UserError
from volta_switch.tasks.refer import ReferDataset, ReferEntry
from volta_switch.tasks.retrieval_dataset import RetrievalAnnotations, RetrievalDataset, RetrievalPairs, load_retrieval
from volta_switch.tasks.vqa import VqaAnnotations, VqaDataset, VqaEntry


@pytest.fixture(params=[False, True], ids=["read", "in_memory"])
def store(request, flickr_directory) -> FeatureStore:
    return open_features(flickr_directory / "flickr30k_feat.lmdb", feature_size=6, in_memory=request.param)


@pytest.fixture(scope="session")
def annotations(flickr_directory) -> RetrievalAnnotations:
    return load_retrieval(flickr_directory / "train_ann.jsonl")


def test_answers_become_soft_targets(store, tokenizer) -> None:
    entries = [VqaEntry(5, 101, "a dog", (2, 0), (1.0, 0.3)), VqaEntry(6, 100, "the cat", (), ())]
    dataset = VqaDataset(VqaAnnotations(entries, ["yes", "no", "red"]), store, tokenizer, num_locs=5)
    batch = dataset.collate([dataset[0], dataset[1]], BatchLayout("first"))
    assert torch.equal(batch.target, torch.tensor([[0.3, 0, 1], [0, 0, 0]]))
    assert batch.ids == ["5", "6"] and dataset.text_lengths.tolist() == [4, 4]


def test_questions_without_answers_have_no_target(store, tokenizer) -> None:
    entries = [VqaEntry(5, 101, "a dog", None, None)]
    dataset = VqaDataset(VqaAnnotations(entries, ["yes"]), store, tokenizer, num_locs=5)
    assert dataset.collate([dataset[0]], BatchLayout("first")).target is None


@pytest.mark.parametrize(("where", "boxes", "whole"), [("first", slice(1, 4), 0), ("last", slice(0, 3), -1)])
def test_the_whole_image_is_a_target_but_no_candidate(store, tokenizer, where, boxes, whole) -> None:
    meant = store[102].boxes[1].tolist()
    entries = [ReferEntry("a dog", 11, 3, 102, tuple(meant)), ReferEntry("red", 12, 3, 103, (0, 0, 120, 100))]
    dataset = ReferDataset(entries, store, tokenizer, num_locs=5)
    batch = dataset.collate([dataset[0], dataset[1]], BatchLayout(where))
    assert batch.target.shape == batch.candidates.shape == (2, 5)  # 3 and 4 boxes
    assert batch.target[0, boxes].argmax() == 1 and batch.target[0, boxes][1] == 1
    assert batch.candidates[0, boxes].all() and batch.candidates.sum(dim=1).tolist() == [3, 4]
    assert not batch.candidates[:, whole].any() and batch.target[1, whole] == 1
    padding = batch.inputs["image_attention_mask"] == 0
    assert padding.sum() == 1 and (batch.target[padding] == 0).all() and not batch.candidates[padding].any()
    assert batch.ids == ["11", "12"]


def test_regions_beyond_the_limit_are_left_out_but_count_for_the_mean(store, tokenizer) -> None:
    entries = [ReferEntry("a dog", 11, 3, 103, (0, 0, 50, 50))]
    sample = ReferDataset(entries, store, tokenizer, num_locs=5, max_regions=2)[0]
    assert len(sample["image_feat"]) == len(sample["target"]) == 2
    assert np.array_equal(sample["global_feat"], global_feature(store[103].features))


def test_the_four_alternatives_are_pair_caption_image_and_hard_caption(store, annotations, tokenizer) -> None:
    hard = np.array([[(i + 1) % 8, (i + 2) % 8] for i in range(8)])
    dataset = RetrievalDataset(annotations, store, tokenizer, num_locs=5, hard_negatives=hard, seed=1)
    seen_captions, seen_images, seen_alike = set(), set(), set()
    for epoch in range(40):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            pair, caption, image, hard_caption = dataset[index]
            own = annotations.caption_image[index]
            features = store[annotations.image_ids[own]].features
            for alternative in (pair, caption, hard_caption):
                assert np.array_equal(alternative["image_feat"], features)
            assert not np.array_equal(image["image_feat"], features)
            assert np.array_equal(image["input_ids"], pair["input_ids"])
            assert annotations.caption_image[int(caption["id"])] != own
            assert annotations.caption_image[int(hard_caption["id"])] in hard[own]
            if index == 0:
                seen_captions.add(int(caption["id"]))
                seen_images.add(image["image_feat"].tobytes())
                seen_alike.add(int(annotations.caption_image[int(hard_caption["id"])]))
    # all captions and images of the other images are drawn, each about once in 14 and 7 draws
    assert len(seen_captions) >= 12 and len(seen_images) == 7 and seen_alike == set(hard[0])


@st.composite
def retrieval_splits(draw):
    """Captions, all different, of some of the store's images, and for each image a pool of others like it."""
    images = draw(st.integers(2, 6))
    counts = draw(st.lists(st.integers(1, 5), min_size=images, max_size=images))
    words = st.sampled_from(["red", "blue", "green", "dog", "cat", "tree"])
    texts = draw(st.lists(st.tuples(words, words, words), min_size=sum(counts), max_size=sum(counts), unique=True))
    caption_image = np.repeat(np.arange(images), counts)
    names = [str(100 + image) for image in draw(st.permutations(range(8)))[:images]]
    size = draw(st.integers(1, 3))
    pool = [
        draw(st.lists(st.sampled_from([i for i in range(images) if i != own]), min_size=size, max_size=size))
        for own in range(images)
    ]
    return RetrievalAnnotations(names, [" ".join(text) for text in texts], caption_image, "drawn"), np.array(pool)


@pytest.fixture(scope="session")
def decoded(flickr_directory) -> FeatureStore:
    return open_features(flickr_directory / "flickr30k_feat.lmdb", feature_size=6, in_memory=True)


@settings(max_examples=100, deadline=None)
@given(split=retrieval_splits(), seed=st.integers(0, 2**31), hard=st.booleans())
def test_negatives_differ_from_their_positive_and_come_from_all_images(decoded, tokenizer, split, seed, hard) -> None:
    annotations, pool = split
    dataset = RetrievalDataset(
        annotations, decoded, tokenizer, num_locs=5, hard_negatives=pool if hard else None, seed=seed
    )
    image_of = {decoded[name].features.tobytes(): number for number, name in enumerate(annotations.image_ids)}
    images, owner = len(annotations.image_ids), annotations.caption_image
    seen: dict[int, list[set[int]]] = {own: [set(), set(), set()] for own in range(images)}
    for epoch in range(60 // len(dataset) * (images - 1)):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            rows = [(image_of[row["image_feat"].tobytes()], int(row["id"])) for row in dataset[index]]
            own = owner[index]
            (_, caption), (image, _), (_, hard_caption) = rows[1:]
            assert rows[0] == (own, index) and [row[0] for row in (rows[1], rows[3])] == [own, own]
            assert rows[2][1] == index and image != own
            assert owner[caption] != own and owner[hard_caption] != own
            if hard:
                assert owner[hard_caption] in pool[own]
            for place, drawn in enumerate((owner[caption], image, owner[hard_caption])):
                seen[own][place].add(int(drawn))
    # every image is some other's negative; the chance that one is drawn by none of the others is below 1 in 10 ** 10
    for place in range(2 if hard else 3):
        assert set().union(*(drawn[place] for drawn in seen.values())) == set(range(images))


def test_with_voltas_error_negative_captions_are_the_files_first(store, annotations, tokenizer) -> None:
    hard = np.array([[(i + 1) % 8, (i + 2) % 8] for i in range(8)])
    seen: dict[bool, set[int]] = {True: set(), False: set()}
    for compat in seen:
        dataset = RetrievalDataset(annotations, store, tokenizer, num_locs=5, hard_negatives=hard, volta_compat=compat)
        for index in range(len(dataset)):
            _, caption, image, hard_caption = dataset[index]
            seen[compat] |= {int(caption["id"]), int(hard_caption["id"])}
            assert image["id"] == str(index)
    assert seen[True] == {0, 1}  # two captions an image: numbers in an image are taken for places in the file
    assert len(seen[False]) > 8


def test_negatives_depend_on_seed_epoch_and_index_alone(store, annotations, tokenizer) -> None:
    def drawn(seed, epoch, order):
        dataset = RetrievalDataset(annotations, store, tokenizer, num_locs=5, seed=seed)
        dataset.set_epoch(epoch)
        samples = {index: dataset[index] for index in order}
        return [[row["id"] for row in samples[i]] for i in range(16)]

    assert drawn(1, 2, range(16)) == drawn(1, 2, reversed(range(16)))
    assert drawn(1, 2, range(16)) != drawn(1, 3, range(16)) != drawn(2, 2, range(16))


def test_a_negative_caption_does_not_read_like_the_true_one(store, tokenizer) -> None:
    texts = ["a dog", "a cat", "a dog", "a dog"]
    images = ["100", "101", "102", "103"]
    dataset = RetrievalDataset(
        RetrievalAnnotations(images, texts, np.arange(4), "memory"), store, tokenizer, num_locs=5
    )
    same = 0
    for epoch in range(50):
        dataset.set_epoch(epoch)
        same += sum(
            np.array_equal(row["input_ids"], dataset[0][0]["input_ids"]) for row in (dataset[0][1], dataset[0][3])
        )
    assert same <= 10  # of 100: (2/3) ** 8 = 4 % keep it; without drawing again 67 % would


def test_alternatives_are_laid_out_one_after_the_other(store, annotations, tokenizer) -> None:
    dataset = RetrievalDataset(annotations, store, tokenizer, num_locs=5)
    batch = dataset.collate([dataset[0], dataset[5]], BatchLayout("first"))
    assert batch.inputs["input_ids"].shape[0] == batch.inputs["image_feat"].shape[0] == 8
    assert batch.target.tolist() == [0, 0] and batch.ids == ["0", "5"] and len(batch) == 2
    assert torch.equal(batch.inputs["input_ids"][4], batch.inputs["input_ids"][6])  # the pair, the other image
    assert torch.equal(batch.inputs["image_feat"][4], batch.inputs["image_feat"][5])  # the pair, the other caption


def test_one_image_gives_no_negatives(store, tokenizer) -> None:
    with pytest.raises(UserError, match=r"train_ann\.jsonl: one image gives no negatives"):
        RetrievalDataset(
            RetrievalAnnotations(["100"], ["a dog"], np.zeros(1, dtype=np.int64), "train_ann.jsonl"),
            store,
            tokenizer,
            num_locs=5,
        )


def test_the_pool_gives_all_images_and_captions(store, annotations, tokenizer) -> None:
    pool = RetrievalPairs(annotations, store, tokenizer, num_locs=5)
    layout = BatchLayout("first", num_boxes=4)
    images = pool.image_inputs(range(8), layout)
    texts = pool.text_inputs([3, 0], layout)
    assert images["image_feat"].shape == (8, 5, 6) and len(pool.image_ids) == 8
    assert images["image_attention_mask"].sum(dim=1).tolist() == [2, 3, 4, 5] * 2
    assert texts["input_ids"].tolist() == [tokenizer.encode(annotations.captions[i], 30) for i in (3, 0)]
    assert pool.caption_image.tolist() == [i // 2 for i in range(16)] and len(pool.text_lengths) == 16
