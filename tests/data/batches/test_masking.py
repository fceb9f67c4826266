from __future__ import annotations

import numpy as np
import pytest

from volta_switch.data.batches.pretraining_batch import IGNORED, RegionMasking, WordMasking
from volta_switch.data.regions import pairwise_iou

CLS, SEP, MASK, VOCABULARY = 2, 3, 4, 1000
TEXT = np.array([CLS, *range(100, 140), SEP])


def masked_many_times(masking: WordMasking, times: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    return hide(masking, np.repeat(TEXT[None], times, axis=0))


def hide(masking: WordMasking, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masked ids and labels of texts (B, T), [CLS] first and [SEP] last."""
    rng = np.random.default_rng(0)
    ids, words = ids.copy(), np.full(len(ids), ids.shape[1] - 2)
    draws = rng.random((*ids.shape, 3))
    draws[:, [0, -1]] = 1  # there is no word
    return ids, masking(ids, words, draws, rng.random((len(ids), 2)))


def test_fifteen_percent_of_words_are_chosen_and_eighty_ten_ten_replaced() -> None:
    ids, labels = masked_many_times(WordMasking(MASK, VOCABULARY))
    chosen = labels != IGNORED
    words = np.broadcast_to(TEXT, ids.shape)
    assert chosen[:, 1:-1].mean() == pytest.approx(0.15, abs=0.005)
    assert (ids[chosen] == MASK).mean() == pytest.approx(0.8, abs=0.015)
    assert (ids[chosen] == words[chosen]).mean() == pytest.approx(0.1, abs=0.015)
    other = ids[chosen & (ids != MASK) & (ids != words)]
    assert len(other) / chosen.sum() == pytest.approx(0.1, abs=0.015) and other.max() > 900 and other.min() < 100


@pytest.mark.parametrize("span", [False, True])
def test_labels_are_the_hidden_words_and_the_rest_is_untouched(span) -> None:
    ids, labels = masked_many_times(WordMasking(MASK, VOCABULARY, span=span), 200)
    words = np.broadcast_to(TEXT, ids.shape)
    chosen = labels != IGNORED
    assert np.array_equal(labels[chosen], words[chosen]) and np.array_equal(ids[~chosen], words[~chosen])
    assert not chosen[:, [0, -1]].any()
    assert ids.dtype == labels.dtype == np.int64


def test_a_span_is_one_run_of_any_length_cut_at_the_end() -> None:
    _, labels = masked_many_times(WordMasking(MASK, VOCABULARY, span=True))
    chosen = (labels != IGNORED)[:, 1:-1].astype(int)
    starts = (np.diff(chosen, axis=1, prepend=0) == 1).sum(axis=1)
    assert (starts == 1).all()
    assert set(chosen.sum(axis=1)) == set(range(1, 41))
    start = chosen.argmax(axis=1)
    assert np.bincount(start, minlength=40).min() > 20  # 50 expected for each
    short = chosen.sum(axis=1) < 40 - start  # not cut: its length is uniform below what was left
    assert short.mean() == pytest.approx(np.mean([(40 - s - 1) / 40 for s in range(40)]), abs=0.04)


@pytest.mark.parametrize("span", [False, True])
def test_a_text_without_words_is_left_alone(span) -> None:
    ids, labels = hide(WordMasking(MASK, VOCABULARY, rate=1.0, span=span), np.array([[CLS, SEP]]))
    assert ids.tolist() == [[CLS, SEP]] and labels.tolist() == [[IGNORED, IGNORED]]


def copies(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of as many images as asked for, all of them real."""
    return np.repeat(BOXES[None], count, axis=0), np.ones((count, len(BOXES)), dtype=bool)


BOXES = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, 5, 10, 15]], dtype=np.float32)


def test_fifteen_percent_of_regions_are_chosen_and_a_tenth_of_them_keep_their_feature() -> None:
    rng = np.random.default_rng(0)
    predicted, zeroed = RegionMasking()(*copies(5000), rng.random((5000, 4, 2)))
    assert predicted.mean() == pytest.approx(0.15, abs=0.01)
    assert zeroed[predicted].mean() == pytest.approx(0.9, abs=0.015)
    assert not zeroed[~predicted].any()


def test_overlapping_regions_are_hidden_together() -> None:
    rng = np.random.default_rng(0)
    masking = RegionMasking(rate=0.1, unchanged=0.0, overlap=0.4)
    assert (pairwise_iou(BOXES, BOXES) >= 0.4).tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]
    predicted, zeroed = masking(*copies(5000), rng.random((5000, 4, 2)))
    assert np.array_equal(predicted, zeroed)
    assert np.array_equal(predicted[:, 0], predicted[:, 1])
    assert predicted[:, 0].mean() == pytest.approx(1 - 0.9**2, abs=0.015)
    assert predicted[:, [2, 3]].mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("overlap", [None, 0.4])
def test_padding_is_never_hidden(overlap) -> None:
    boxes, real = copies(1000)
    real[:, 2:] = False
    draws = np.random.default_rng(0).random((1000, 4, 2))
    draws[:, 2:] = 1
    predicted, _ = RegionMasking(rate=0.5, overlap=overlap)(np.zeros_like(boxes), real, draws)  # all boxes are alike
    assert predicted[:, :2].any() and not predicted[:, 2:].any()


@pytest.mark.parametrize("overlap", [None, 0.4])
def test_an_image_without_regions_is_left_alone(overlap) -> None:
    nothing = np.zeros((1, 0, 4)), np.zeros((1, 0), dtype=bool), np.zeros((1, 0, 2))
    predicted, zeroed = RegionMasking(rate=1.0, overlap=overlap)(*nothing)
    assert predicted.shape == zeroed.shape == (1, 0)
