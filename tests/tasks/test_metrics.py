"""Metrics against matrices worked out by hand."""

import math

import numpy as np
import pytest

from volta_switch.tasks.metrics import (
    caption_ranks,
    grounding_hits,
    image_ranks,
    mean_std,
    recall_at,
    retrieval_metrics,
    soft_accuracy,
    soft_label,
)

# Rows: captions 0, 1 of image 0; captions 2, 3 of image 1; caption 4 of image 2.
SCORES = np.array(
    [
        [0.9, 0.1, 0.2],  # right image first
        [0.5, 0.6, 0.7],  # behind both others
        [0.3, 0.4, 0.4],  # a tie with image 2
        [0.1, 0.8, 0.2],  # first
        [0.6, 0.7, 0.65],  # behind image 1
    ]
)
CAPTION_IMAGE = np.array([0, 0, 1, 1, 2])


def test_an_images_rank_is_the_number_of_images_that_score_as_high():
    assert caption_ranks(SCORES, CAPTION_IMAGE).tolist() == [0, 2, 1, 0, 1]


def test_a_tie_is_no_win():
    assert caption_ranks(np.zeros((2, 5)), np.array([0, 3])).tolist() == [4, 4]
    assert image_ranks(np.zeros((4, 2)), np.array([0, 0, 1, 1])).tolist() == [2, 2]


def test_an_image_is_judged_by_its_best_caption_against_other_images_captions():
    # image 0: best own 0.9, rivals 0.3, 0.1, 0.6; image 1: 0.8 against 0.1, 0.6, 0.7; image 2: 0.65, only 0.7 is above
    assert image_ranks(SCORES, CAPTION_IMAGE).tolist() == [0, 0, 1]


def test_an_images_own_captions_are_no_rivals():
    scores = np.array([[0.9, 0.0], [0.9, 0.0], [0.5, 0.1]])  # two captions of image 0 score alike
    assert image_ranks(scores, np.array([0, 0, 1])).tolist() == [0, 0]


def test_a_score_that_is_no_number_is_no_win():
    scores = SCORES.copy()
    scores[:] = np.nan
    assert caption_ranks(scores, CAPTION_IMAGE).tolist() == [2] * 5
    assert image_ranks(scores, CAPTION_IMAGE).tolist() == [3, 3, 4]
    metrics = retrieval_metrics(np.full((20, 20), np.nan), np.arange(20))
    assert metrics["ir_r10"] == metrics["tr_r10"] == 0


def test_recall_is_the_share_of_ranks_below_k_in_percent():
    ranks = np.array([0, 1, 4, 5, 9, 10, 99, 0])
    assert [recall_at(ranks, k) for k in (1, 5, 10)] == [25.0, 50.0, 75.0]


def test_retrieval_metrics_of_a_matrix_worked_out_by_hand():
    metrics = retrieval_metrics(SCORES, CAPTION_IMAGE)
    assert metrics == {
        "ir_r1": 40.0, "ir_r5": 100.0, "ir_r10": 100.0,
        "ir_median_rank": 2.0, "ir_mean_rank": 1.8,  # of 1, 3, 2, 1, 2
        "tr_r1": pytest.approx(200 / 3), "tr_r5": 100.0, "tr_r10": 100.0,
        "tr_median_rank": 1.0, "tr_mean_rank": pytest.approx(4 / 3),
    }  # fmt: skip


def test_a_median_between_two_ranks_is_rounded_down():
    scores = np.array([[0.9, 0.1], [0.9, 0.1]])  # ranks from 1: 1 and 2
    assert retrieval_metrics(scores, np.array([0, 1]))["ir_median_rank"] == 1.0


def test_soft_accuracy_is_the_soft_label_of_the_best_answer():
    scores = np.array([[0.1, 0.9, 0.0], [2.0, -1.0, 1.0], [0.0, 0.0, 1.0]])
    targets = np.array([[0.0, 0.6, 1.0], [0.9, 0.0, 0.3], [1.0, 0.0, 0.0]])
    assert soft_accuracy(scores, targets).tolist() == [0.6, 0.9, 0.0]


def test_soft_labels_of_votes_are_voltas():
    assert [soft_label(votes) for votes in (0, 1, 2, 3, 4, 10)] == pytest.approx([0, 0.3, 0.6, 0.9, 1, 1])


def test_a_hit_overlaps_by_more_than_a_half():
    scores, candidates = np.array([[1.0, 2.0]] * 3), np.ones((3, 2), dtype=bool)
    overlaps = np.array([[1.0, 0.51], [1.0, 0.5], [1.0, 0.0]])
    assert grounding_hits(scores, overlaps, candidates).tolist() == [True, False, False]


def test_neither_the_global_region_nor_padding_is_an_answer():
    scores = np.array([[9.0, 1.0, 2.0, 8.0]])  # global, two boxes, padding
    overlaps = np.array([[0.9, 0.0, 0.7, 0.9]])
    candidates = np.array([[False, True, True, False]])
    assert grounding_hits(scores, overlaps, candidates).tolist() == [True]
    assert grounding_hits(scores, 1 - overlaps, candidates).tolist() == [False]


def test_a_sample_without_candidates_is_a_miss():
    assert grounding_hits(np.ones((1, 3)), np.ones((1, 3)), np.zeros((1, 3), dtype=bool)).tolist() == [False]


def test_the_standard_deviation_is_the_samples_and_0_for_one_value():
    assert mean_std([1.0, 2.0, 4.0]) == (pytest.approx(7 / 3), pytest.approx(math.sqrt(7 / 3)))
    assert mean_std([5.0]) == (5.0, 0.0)
