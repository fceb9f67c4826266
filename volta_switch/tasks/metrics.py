"""Metrics: pure functions of arrays.

A tie is never a win: where another candidate scores as high as the right one, the right one ranks behind it. Nor is a
score that is no number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def caption_ranks(scores: np.ndarray, caption_image: np.ndarray) -> np.ndarray:
    """Image retrieval: the rank of each caption's image among all images.

    Args:
        scores: (captions, images), higher is better.
        caption_image: (captions,) index of each caption's image.

    Returns:
        (captions,) int, 0 where the right image scores strictly highest.
    """
    right = scores[np.arange(len(scores)), caption_image][:, None]
    return (~(scores < right)).sum(1) - 1


def image_ranks(scores: np.ndarray, caption_image: np.ndarray) -> np.ndarray:
    """Text retrieval: the best rank among each image's captions, counting only other images' captions as rivals.

    Args:
        scores: (captions, images).
        caption_image: (captions,).

    Returns:
        (images,) int, 0 where one of the image's captions scores strictly above every other image's caption.
    """
    ranks = np.empty(scores.shape[1], dtype=np.int64)
    for image in range(scores.shape[1]):
        own = caption_image == image
        ranks[image] = (~(scores[~own, image] < scores[own, image].max())).sum()
    return ranks


def recall_at(ranks: np.ndarray, k: int) -> float:
    """Share of ranks below k, in percent."""
    return 100.0 * float((ranks < k).mean())


def retrieval_metrics(scores: np.ndarray, caption_image: np.ndarray) -> dict[str, float]:
    """R@1, 5 and 10, median and mean rank (from 1), for image retrieval (``ir_``) and text retrieval (``tr_``)."""
    metrics = {}
    for direction, ranks in (
        ("ir", caption_ranks(scores, caption_image)),
        ("tr", image_ranks(scores, caption_image)),
    ):
        for k in (1, 5, 10):
            metrics[f"{direction}_r{k}"] = recall_at(ranks, k)
        metrics[f"{direction}_median_rank"] = float(np.floor(np.median(ranks) + 1))
        metrics[f"{direction}_mean_rank"] = float(ranks.mean() + 1)
    return metrics


def soft_accuracy(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """VQA: the soft label of each best answer, (samples, labels) twice to (samples,) in [0, 1]."""
    return targets[np.arange(len(targets)), scores.argmax(1)]


def soft_label(votes: int) -> float:
    """VOLTA's soft VQA label of an answer that ``votes`` of ten annotators gave: 0, .3, .6, .9, 1."""
    return min(1.0, 0.3 * votes)


def grounding_hits(scores: np.ndarray, overlaps: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Referring expressions: whether the best candidate overlaps the referent by more than 0.5.

    Args:
        scores, overlaps: (samples, regions), the latter as IoU.
        candidates: (samples, regions) bool; the global region and padding are none.

    Returns:
        (samples,) bool; False where a sample has no candidate.
    """
    best = np.where(candidates, scores, -np.inf).argmax(1)
    rows = np.arange(len(scores))
    return (overlaps[rows, best] > 0.5) & candidates[rows, best]


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for a single value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
