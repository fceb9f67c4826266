"""Metrics against matrices worked out by hand."""

import math

import numpy as np
import pytest

from volta_switch.tasks.metrics import (
    best_first,
    caption_ranks,
    clear_choices,
    consistency,
    grounding_ceiling,
    grounding_hits,
    image_ranks,
    mean_of_folds,
    mean_std,
    recall_at,
    retrieval_metrics,
    soft_accuracy,
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


def voltas_ranks(scores, caption_image):
    """Of captions and of images: the place of the right one in the order that sorting by the negated score gives."""
    matrix = np.zeros(scores.shape)  # float64, as VOLTA fills it
    matrix[:] = scores
    captions = [np.where(np.argsort(-row) == image)[0][0] for row, image in zip(matrix, caption_image, strict=True)]
    images = []
    for image in range(matrix.shape[1]):
        order = np.argsort(-matrix[:, image])
        images.append(min(np.where(order == caption)[0][0] for caption in np.where(caption_image == image)[0]))
    return captions, images


@pytest.mark.parametrize("levels", [2, 5])
def test_voltas_ties_fall_as_its_sorting_leaves_them(levels):
    rng = np.random.default_rng(levels)
    scores = rng.integers(levels, size=(120, 40)).astype(np.float32)
    caption_image = np.repeat(np.arange(40), 3)
    captions, images = voltas_ranks(scores, caption_image)
    assert caption_ranks(scores, caption_image, volta_ties=True).tolist() == captions
    assert image_ranks(scores, caption_image, volta_ties=True).tolist() == images
    compat = retrieval_metrics(scores, caption_image, volta_ties=True)
    assert compat["ir_mean_rank"] == pytest.approx(np.mean(captions) + 1)
    ours = retrieval_metrics(scores, caption_image)
    assert all(ours[name] <= compat[name] for name in ("ir_r1", "ir_r5", "tr_r1", "tr_r10"))
    assert ours["ir_mean_rank"] > compat["ir_mean_rank"] and ours["ir_r10"] < compat["ir_r10"]  # ties that it won


def test_without_ties_voltas_ranks_are_ours():
    scores = np.random.default_rng(0).permutation(60 * 20).reshape(60, 20).astype(np.float32)
    caption_image = np.repeat(np.arange(20), 3)
    assert retrieval_metrics(scores, caption_image, volta_ties=True) == retrieval_metrics(scores, caption_image)
    assert best_first(np.array([[0.1, 0.9, 0.5]])).tolist() == [[1, 2, 0]]


def test_a_tie_of_two_is_a_win_only_where_sorting_says_so():
    scores, right = np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([0, 1])  # sorting leaves 0 before 1
    assert caption_ranks(scores, right).tolist() == image_ranks(scores, right).tolist() == [1, 1]
    assert caption_ranks(scores, right, volta_ties=True).tolist() == [0, 1]
    assert image_ranks(scores, right, volta_ties=True).tolist() == [0, 1]


def test_folds_rank_among_themselves_and_count_alike():
    # Two folds of two images with two captions each; what a caption scores with the other fold's images is no matter.
    scores = np.full((8, 4), 99.0)
    scores[:4, :2] = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]]  # all right
    scores[4:, 2:] = [[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [0.9, 0.3]]  # one of four right, one a tie
    caption_image = np.repeat(np.arange(4), 2)
    folds = mean_of_folds(scores, caption_image, 2)
    assert folds["ir_r1"] == (100 + 25) / 2 and folds["ir_mean_rank"] == (1 + 1.75) / 2
    # text retrieval, second fold: image 2's best 0.8 lies below 0.9; image 3's best 0.5 lies below 0.9, not below 0.2
    assert folds["tr_r1"] == (100 + 0) / 2 and folds["tr_mean_rank"] == (1 + 2) / 2
    assert retrieval_metrics(scores, caption_image)["ir_r1"] == 0  # over all four images
    assert mean_of_folds(scores, caption_image, 4) == retrieval_metrics(scores, caption_image)


def test_folds_take_ties_as_they_are_told():
    scores, caption_image = np.zeros((6, 4)), np.array([0, 0, 1, 2, 3, 3])
    assert mean_of_folds(scores, caption_image, 2)["ir_r1"] == 0
    first = retrieval_metrics(scores[:3, :2], caption_image[:3], volta_ties=True)["ir_r1"]
    second = retrieval_metrics(scores[3:, 2:], caption_image[3:] - 2, volta_ties=True)["ir_r1"]
    assert mean_of_folds(scores, caption_image, 2, volta_ties=True)["ir_r1"] == pytest.approx((first + second) / 2)


def test_images_that_fill_no_fold_are_left_out():
    scores, caption_image = np.eye(5), np.arange(5)
    scores[4, 4] = -1.0  # would be a miss
    assert mean_of_folds(scores, caption_image, 2)["ir_r1"] == 100.0


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


def test_only_a_strictly_highest_score_is_a_choice():
    scores = np.array([[0.1, 0.9, 0.0], [2.0, -1.0, 2.0], [0.0, 0.0, 0.0], [-3.0, -2.0, -1.0], [np.nan, 1.0, 0.0]])
    assert clear_choices(scores).tolist() == [1, -1, -1, 2, -1]
    assert clear_choices(np.array([[1.0, np.nan], [np.nan, np.nan]])).tolist() == [-1, -1]


def test_consistency_is_the_share_of_sentences_right_for_all_their_pairs():
    sentences = ["dogs", "cats", "dogs", "cats", "birds", "dogs"]
    hits = np.array([True, True, True, False, False, True])
    assert consistency(sentences, hits) == pytest.approx(100 / 3)  # dogs alone: cats miss one, birds their only one
    assert consistency(["a", "a", "b"], np.array([True, False, True])) == 50.0
    assert consistency(["a"], np.array([False])) == 0.0


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


def test_boxes_that_tie_for_the_best_must_all_be_right():
    scores = np.array([[2.0, 2.0, 1.0]] * 3 + [[2.0, np.nan, 1.0]])
    overlaps = np.array([[0.6, 0.9, 0.0], [0.6, 0.5, 0.9], [0.5, 0.6, 0.9], [0.9, 0.9, 0.9]])
    everywhere = np.ones_like(scores, dtype=bool)
    assert grounding_hits(scores, overlaps, everywhere).tolist() == [True, False, False, False]
    voltas = grounding_hits(scores[:3], overlaps[:3], everywhere[:3], volta_ties=True)
    assert voltas.tolist() == [True, True, False]  # the first of them counts


def test_the_ceiling_is_whether_any_candidate_would_be_a_hit():
    overlaps = np.array([[0.9, 0.5, 0.2], [0.9, 0.1, 0.6], [0.9, 0.51, 0.0]])
    candidates = np.array([[False, True, True], [False, True, False], [False, True, True]])
    assert grounding_ceiling(overlaps, candidates).tolist() == [False, False, True]
    assert grounding_ceiling(overlaps, np.ones_like(candidates)).tolist() == [True] * 3


def test_a_sample_without_candidates_is_a_miss():
    assert grounding_hits(np.ones((1, 3)), np.ones((1, 3)), np.zeros((1, 3), dtype=bool)).tolist() == [False]


def test_the_standard_deviation_is_the_samples_and_0_for_one_value():
    assert mean_std([1.0, 2.0, 4.0]) == (pytest.approx(7 / 3), pytest.approx(math.sqrt(7 / 3)))
    assert mean_std([5.0]) == (5.0, 0.0)
