from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from pretraining_samples import sample_of
from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.batches.concap_dataset import ConcapDataset
from volta_switch.data.batches.pretraining_batch import IGNORED
from volta_switch.data.formats.concap import write_concap
from volta_switch.data.regions import pairwise_iou
from volta_switch.errors import UserError


@pytest.fixture
def dataset_of(concap_directory, tokenizer):
    def build(split="train", directory=concap_directory, **options) -> ConcapDataset:
        return ConcapDataset(directory, directory, split, tokenizer, num_locs=5, **options)

    return build


def epochs(dataset, count=30):
    for epoch in range(count):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            yield index, sample_of(dataset, index)


def equal(left, right) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


def captions(directory, name="caption_train.json") -> list[str]:
    return list(json.loads((directory / name).read_text()).values())


@pytest.mark.parametrize("masking", ["volta", "span"])
def test_a_sample_depends_on_seed_epoch_and_index_alone(dataset_of, masking) -> None:
    forward, backward = dataset_of(seed=3, masking=masking), dataset_of(seed=3, masking=masking, in_memory=True)
    forward.set_epoch(5)
    samples = [sample_of(forward, i) for i in range(40)]
    backward.set_epoch(1)
    _ = [sample_of(backward, i) for i in (7, 7, 3)]
    backward.set_epoch(5)
    assert all(equal(sample_of(backward, i), samples[i]) for i in reversed(range(40)))


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 6}])
def test_another_seed_or_epoch_hides_something_else(dataset_of, change) -> None:
    def labels(seed=3, epoch=5):
        dataset = dataset_of(seed=seed)
        dataset.set_epoch(epoch)
        return [sample_of(dataset, i)["image_label"].tolist() for i in range(40)]

    assert labels() == labels() and labels() != labels(**change)


def test_half_of_the_captions_are_replaced_in_training_and_validation(dataset_of) -> None:
    for split in ("train", "valid"):
        share = np.mean([sample["next_sentence_label"] for _, sample in epochs(dataset_of(split), 100)])
        assert share == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("masking", ["volta", "span"])
def test_a_replaced_caption_is_never_the_images_own(dataset_of, concap_directory, tokenizer, masking) -> None:
    texts = captions(concap_directory)
    own = [tokenizer.encode(text, 38) for text in texts]
    seen = set()
    for index, sample in epochs(dataset_of(masking=masking)):
        labels = sample["masked_lm_labels"]
        text = np.where(labels != IGNORED, labels, sample["input_ids"]).tolist()
        assert (text == own[index]) == (sample["next_sentence_label"] == 0)
        assert text in own
        seen.add(own.index(text))
    assert seen == set(range(40))


def test_negatives_differ_even_where_a_caption_fills_nearly_the_whole_file(tmp_path, dataset_of, regions_of) -> None:
    texts = ["a dog"] * 50 + ["a cat"]
    write_concap(tmp_path / "training_feat_all.lmdb", [(regions_of("0"), "a dog")] * 4)
    (tmp_path / "caption_train.json").write_text(json.dumps(dict(enumerate(texts))))
    for _, sample in epochs(dataset_of(directory=tmp_path), 20):
        labels = sample["masked_lm_labels"]
        text = np.where(labels != IGNORED, labels, sample["input_ids"])
        assert (text[2] == 9) == (sample["next_sentence_label"] == 1)  # 9 is "cat"


def test_hard_negatives_share_more_words_than_random_ones(dataset_of, concap_directory, tokenizer) -> None:
    own = [set(tokenizer.encode(text, 38)) for text in captions(concap_directory)]

    def shared(masking) -> float:
        overlaps = []
        for index, sample in epochs(dataset_of(masking=masking), 10):
            if sample["next_sentence_label"]:
                labels = sample["masked_lm_labels"]
                text = set(np.where(labels != IGNORED, labels, sample["input_ids"]).tolist())
                overlaps.append(len(text & own[index]) / len(text | own[index]))
        return float(np.mean(overlaps))

    assert shared("span") > shared("volta") + 0.15


def test_hidden_regions_are_zero_and_their_targets_are_not(dataset_of) -> None:
    zeroed = kept = 0
    for index, sample in epochs(dataset := dataset_of()):
        original = dataset.pairs[index][0].features
        predicted = sample["image_label"] == 1
        features = sample["image_feat"]
        zero = (features == 0).all(axis=1)
        assert np.array_equal(zero, sample["zeroed"]) and np.array_equal(sample["image_feat_target"], original)
        assert not zero[~predicted].any() and set(sample["image_label"]) <= {1, IGNORED}
        assert np.array_equal(features[~zero], original[~zero])
        zeroed, kept = zeroed + zero.sum(), kept + (predicted & ~zero).sum()
    assert kept / (kept + zeroed) == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(("where", "slot"), [("first", 0), ("last", -1)])
def test_the_global_feature_is_the_mean_of_what_is_not_predicted(dataset_of, where, slot) -> None:
    dataset = dataset_of()
    for first in (0, 20):
        batch = dataset.collate([dataset[i] for i in range(first, first + 20)], BatchLayout(where)).to("cpu")
        for row, index in zip(batch.inputs["image_feat"].numpy(), range(first, first + 20), strict=True):
            sample = sample_of(dataset, index)
            visible = sample["image_label"] != 1
            shown = sample["image_feat"][visible] if visible.any() else sample["image_feat"]
            assert np.allclose(row[slot], shown.mean(axis=0), atol=1e-6)


def test_voltas_global_feature_is_restored_on_request(dataset_of) -> None:
    differs = 0
    ours = dataset_of()
    for index, sample in epochs(dataset := dataset_of(volta_compat=True), 5):
        boxes, predicted = dataset.pairs[index][0].boxes, sample["image_label"] == 1
        far = [box for box in range(len(boxes)) if not (pairwise_iou(boxes, boxes)[box, predicted] > 0.4).any()]
        expected = sample["image_feat"].sum(axis=0) / max(len(far), 1)
        assert np.allclose(sample["global_feat"], expected, atol=1e-5)
        ours.set_epoch(dataset._epoch)
        differs += not np.allclose(sample_of(ours, index)["global_feat"], sample["global_feat"])
    assert differs > 10


def test_span_masking_hides_overlapping_regions_together(dataset_of) -> None:
    hidden = 0
    for index, sample in epochs(dataset := dataset_of(masking="span")):
        boxes = dataset.pairs[index][0].boxes
        together = pairwise_iou(boxes, boxes) >= 0.4
        predicted = sample["image_label"] == 1
        assert sample["zeroed"][predicted].all()
        # whatever is predicted is an anchor or overlaps one: an isolated region is predicted only as an anchor
        for region in np.flatnonzero(predicted):
            assert predicted[together[region]].sum() >= min(2, together[region].sum())
        hidden += predicted.sum()
    assert hidden > 0


def test_objective_1_predicts_nothing_of_mismatched_pairs_in_validation_too(dataset_of) -> None:
    for split in ("train", "valid"):
        matched_labels = 0
        for _, sample in epochs(dataset_of(split, objective=1)):
            labels = np.concatenate([sample["masked_lm_labels"], sample["image_label"]])
            if sample["next_sentence_label"]:
                assert (labels == IGNORED).all()
            else:
                matched_labels += (labels != IGNORED).sum()
        assert matched_labels > 0


def test_objective_1_hides_the_same_as_objective_0(dataset_of) -> None:
    for (_, zero), (_, one) in zip(epochs(dataset_of()), epochs(dataset_of(objective=1)), strict=True):
        assert all(np.array_equal(zero[name], one[name]) for name in ("input_ids", "zeroed", "global_feat"))


def test_objective_2_mismatches_no_pair(dataset_of) -> None:
    samples = [sample for _, sample in epochs(dataset_of(objective=2))]
    assert not any(sample["next_sentence_label"] for sample in samples)
    assert any((sample["image_label"] == 1).any() for sample in samples)


def test_text_lengths_are_those_of_the_epochs_samples_unless_a_negative_was_the_own_caption(dataset_of) -> None:
    dataset = dataset_of()
    assert np.mean(dataset.text_lengths != dataset_of(masking=None).text_lengths) > 0.2
    for epoch in range(3):
        dataset.set_epoch(epoch)
        lengths = np.array([len(dataset[i].input_ids) for i in range(40)])
        assert (dataset.text_lengths != lengths).sum() <= 2  # 0.5 expected: one draw in 80


def test_captions_that_do_not_stand_in_the_order_of_the_pairs_are_read_from_the_pairs(
    tmp_path, dataset_of, concap_directory, tokenizer
) -> None:
    texts = json.loads((concap_directory / "caption_train.json").read_text())
    shutil.copy(concap_directory / "training_feat_all.lmdb", tmp_path)
    reordered = dict(reversed(texts.items())) | {"extra": "a tree"}
    (tmp_path / "caption_train.json").write_text(json.dumps(reordered))
    dataset = dataset_of(directory=tmp_path, masking=None)
    assert [dataset[i].input_ids.tolist() for i in range(40)] == [tokenizer.encode(t, 38) for t in texts.values()]


def test_a_number_of_regions_can_be_set(dataset_of) -> None:
    samples = [sample_of(dataset_of(max_regions=2), i) for i in range(5)]
    assert [len(sample["image_feat"]) for sample in samples] == [1, 2, 2, 2, 2]
    assert {len(sample[name]) for sample in samples[1:] for name in ("zeroed", "image_label", "obj_labels")} == {2}


def test_a_batch_has_the_models_keywords_and_shapes(dataset_of) -> None:
    dataset = dataset_of()
    batch = dataset.collate([dataset[i] for i in range(5)], BatchLayout("first")).to("cpu")
    text = max(len(dataset[i].input_ids) for i in range(5))
    shapes = {name: tuple(tensor.shape) for name, tensor in batch.inputs.items()}
    assert shapes == {
        **dict.fromkeys(("input_ids", "token_type_ids", "attention_mask", "masked_lm_labels"), (5, text)),
        "image_feat": (5, 6, 6),
        "image_loc": (5, 6, 5),
        "image_attention_mask": (5, 6),
        "image_cls": (int((batch.inputs["image_label"] == 1).sum()), 7),
        "image_feat_target": (5, 5, 6),
        **dict.fromkeys(("image_label", "obj_labels", "obj_confs", "attr_labels", "attr_confs"), (5, 5)),
        "next_sentence_label": (5,),
    }
    assert batch.ids == ["0", "1", "2", "3", "4"] and batch.target is None
    assert (batch.inputs["image_label"][0, 1:] == IGNORED).all()  # the first image has one region


def test_class_scores_are_those_of_the_predicted_boxes_in_the_batchs_order(dataset_of) -> None:
    dataset = dataset_of()
    batch = dataset.collate([dataset[i] for i in range(12)], BatchLayout("first"))
    expected = [dataset.pairs[i][0].cls_prob[sample_of(dataset, i)["image_label"] == 1] for i in range(12)]
    assert sum(map(len, expected)) >= 2
    assert np.array_equal(batch.inputs["image_cls"].numpy(), np.concatenate(expected))


def test_a_share_of_the_pairs_is_the_same_for_every_seed_and_part_of_a_larger_share(
    dataset_of, concap_directory
) -> None:
    def ids(fraction, **options) -> list[str]:
        dataset = dataset_of(fraction=fraction, **options)
        return [dataset.pairs[i][0].image_id for i in range(len(dataset))]

    quarter, half = ids(0.25), ids(0.5)
    assert len(quarter) == 10 and len(half) == 20 and set(quarter) < set(half) and len(ids(1.0)) == 40
    assert ids(0.25, seed=9) == quarter and ids(0.25, fraction_seed=1) != quarter
    assert quarter == sorted(quarter, key=int)  # the file's order


def test_a_share_brings_no_caption_of_the_other_pairs(dataset_of, tokenizer) -> None:
    dataset = dataset_of(fraction=0.25)
    own = {tuple(tokenizer.encode(dataset.pairs[i][1], 38)) for i in range(len(dataset))}
    for _, sample in epochs(dataset, 20):
        labels = sample["masked_lm_labels"]
        assert tuple(np.where(labels != IGNORED, labels, sample["input_ids"]).tolist()) in own


def test_parts_are_read_as_one_file(tmp_path, dataset_of, concap_directory) -> None:
    whole = dataset_of()
    pairs = [whole.pairs[i] for i in range(40)]
    for rank, chosen in enumerate((pairs[:15], pairs[15:16], pairs[16:])):
        write_concap(tmp_path / f"training_feat_part_{rank}.lmdb", chosen)
    shutil.copy(concap_directory / "caption_train.json", tmp_path)
    parts = dataset_of(directory=tmp_path)
    assert len(parts) == 40
    for index in (0, 14, 15, 16, 39):
        assert parts.pairs[index][0].image_id == whole.pairs[index][0].image_id
        assert equal(sample_of(parts, index), sample_of(whole, index))
    (tmp_path / "training_feat_part_1.lmdb").unlink()
    with pytest.raises(UserError, match=r"training_feat_part_1\.lmdb is missing"):
        dataset_of(directory=tmp_path)


def test_targets_that_no_loss_reads_can_be_left_out(dataset_of) -> None:
    with_targets, without = sample_of(dataset_of(), 0), sample_of(dataset_of(feature_targets=False), 0)
    assert with_targets.keys() - without.keys() == {"image_feat_target"}


def test_an_empty_split_is_named(tmp_path, dataset_of) -> None:
    write_concap(tmp_path / "validation_feat_all.lmdb", [])
    (tmp_path / "caption_valid.json").write_text("{}")
    with pytest.raises(UserError, match=r"validation_feat_all\.lmdb: the split is empty"):
        dataset_of("valid", tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [("{}", "there are no captions"), ('["a dog"]', "expected one object of image id and caption"), ("{", "not JSON")],
)
def test_caption_files_of_another_form_are_named(tmp_path, dataset_of, regions_of, content, says) -> None:
    write_concap(tmp_path / "training_feat_all.lmdb", [(regions_of("0"), "a dog")])
    (tmp_path / "caption_train.json").write_text(content)
    with pytest.raises(UserError, match=rf"caption_train\.json: {says}"):
        dataset_of(directory=tmp_path)


def test_captions_that_are_all_alike_are_refused(tmp_path, dataset_of, regions_of) -> None:
    write_concap(tmp_path / "training_feat_all.lmdb", [(regions_of("0"), "a dog")])
    (tmp_path / "caption_train.json").write_text('{"0": "a dog", "1": "A DOG"}')
    with pytest.raises(UserError, match="all captions are alike"):
        dataset_of(directory=tmp_path)
    assert len(dataset_of(directory=tmp_path, objective=2)) == 1
