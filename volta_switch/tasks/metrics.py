"""Metrics: pure functions of arrays.

A tie is never a win: where another candidate scores as high as the right one, the right one ranks behind it. Nor is a
score that is no number. VOLTA instead takes the order that sorting happens to leave (``volta_ties``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from volta_switch.tasks.vqa_files import as_written, normalised


def caption_ranks(scores: np.ndarray, caption_image: np.ndarray, *, volta_ties: bool = False) -> np.ndarray:
    """Image retrieval: the rank of each caption's image among all images.

    Args:
        scores: (captions, images), higher is better.
        caption_image: (captions,) index of each caption's image.

    Returns:
        (captions,) int, 0 where the right image scores strictly highest.
    """
    if volta_ties:
        return (best_first(scores) == caption_image[:, None]).argmax(1)
    right = scores[np.arange(len(scores)), caption_image][:, None]
    return (~(scores < right)).sum(1) - 1


def image_ranks(scores: np.ndarray, caption_image: np.ndarray, *, volta_ties: bool = False) -> np.ndarray:
    """Text retrieval: the best rank among each image's captions, counting only other images' captions as rivals.

    Args:
        scores: (captions, images).
        caption_image: (captions,).

    Returns:
        (images,) int, 0 where one of the image's captions scores strictly above every other image's caption.
    """
    if volta_ties:
        return (caption_image[best_first(scores.T)] == np.arange(scores.shape[1])[:, None]).argmax(1)
    ranks = np.empty(scores.shape[1], dtype=np.int64)
    for image in range(scores.shape[1]):
        own = caption_image == image
        ranks[image] = (~(scores[~own, image] < scores[own, image].max())).sum()
    return ranks


def best_first(scores: np.ndarray) -> np.ndarray:
    """Each row's columns from the highest score to the lowest, ties as VOLTA's call of NumPy's sort leaves them."""
    return np.argsort(-scores.astype(np.float64), axis=1)


def recall_at(ranks: np.ndarray, k: int) -> float:
    """Share of ranks below k, in percent."""
    return 100.0 * float((ranks < k).mean())


def retrieval_ranks(
    scores: np.ndarray, caption_image: np.ndarray, *, volta_ties: bool = False
) -> dict[str, np.ndarray]:
    """``ir``: ``caption_ranks``, ``tr``: ``image_ranks``."""
    return {
        "ir": caption_ranks(scores, caption_image, volta_ties=volta_ties),
        "tr": image_ranks(scores, caption_image, volta_ties=volta_ties),
    }


def ranks_in_pools(scores: np.ndarray, caption_image: np.ndarray, *, volta_ties: bool = False) -> dict[str, np.ndarray]:
    """``retrieval_ranks`` within each pool of consecutive images, in the order of the captions and of the images.

    Args:
        scores: (captions, N), of each caption with the N images of its own pool.
        caption_image: (captions,) the index of each caption's image among those of all pools.
    """
    size, ranks = scores.shape[1], []
    for number in range(int(caption_image.max()) // size + 1):
        inside = caption_image // size == number
        own = caption_image[inside] - number * size
        ranks.append(retrieval_ranks(scores[inside], own, volta_ties=volta_ties))
    return {direction: np.concatenate([found[direction] for found in ranks]) for direction in ranks[0]}


def retrieval_metrics(scores: np.ndarray, caption_image: np.ndarray, *, volta_ties: bool = False) -> dict[str, float]:
    """``rank_metrics`` of the ranks that scores (captions, images) give."""
    return rank_metrics(retrieval_ranks(scores, caption_image, volta_ties=volta_ties))


def rank_metrics(by_direction: Mapping[str, np.ndarray]) -> dict[str, float]:
    """R@1, 5 and 10, median and mean rank (from 1), for image retrieval (``ir_``) and text retrieval (``tr_``).

    Args:
        by_direction: as ``retrieval_ranks`` gives them.
    """
    metrics = {}
    for direction, ranks in by_direction.items():
        for k in (1, 5, 10):
            metrics[f"{direction}_r{k}"] = recall_at(ranks, k)
        metrics[f"{direction}_median_rank"] = float(np.floor(np.median(ranks) + 1))
        metrics[f"{direction}_mean_rank"] = float(ranks.mean() + 1)
    return metrics


def mean_of_folds(
    scores: np.ndarray, caption_image: np.ndarray, fold: int, *, volta_ties: bool = False
) -> dict[str, float]:
    """``retrieval_metrics`` of each ``fold`` consecutive images among themselves, then the mean over the folds.

    COCO's "1k" numbers are those of five folds of 1000 images. Images that fill no whole fold are left out.
    """
    folds = []
    for start in range(0, scores.shape[1] - fold + 1, fold):
        inside = (caption_image >= start) & (caption_image < start + fold)
        part = scores[inside, start : start + fold]
        folds.append(retrieval_metrics(part, caption_image[inside] - start, volta_ties=volta_ties))
    return {name: float(np.mean([metrics[name] for metrics in folds])) for name in folds[0]}


def soft_accuracy(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """VQA: the soft label of each best answer, (samples, labels) twice to (samples,) in [0, 1]."""
    return targets[np.arange(len(targets)), scores.argmax(1)]


def vqa_accuracy(predictions: Mapping[str, str], annotators: Mapping[str, Sequence[str]]) -> float:
    """Returns VQA's official accuracy, in percent: an answer is as right as ten annotators make it.

    Args:
        predictions: answers by question id.
        annotators: what people answered to each of these questions, and maybe to others.
    """
    accuracies = [answer_accuracy(answer, annotators[question]) for question, answer in predictions.items()]
    return 100.0 * sum(accuracies) / len(accuracies)


def answer_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Returns how right a prediction is, 0 to 1: ``agreement`` with the annotators' answers (one or more).

    Answers are compared in normalised form, but as written where all annotators wrote the same, as the official
    evaluator does.
    """
    prediction, answers = as_written(prediction), [as_written(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction, answers = normalised(prediction), [normalised(answer) for answer in answers]
    return agreement(answers.count(prediction), len(answers))


def agreement(matches: int, annotators: int) -> float:
    """Returns the mean of min(1, matches / 3) over the subsets that leave out one annotator each.

    Of these, ``matches`` subsets lack an annotator who agrees, and the others keep all who do.
    """
    without_one = matches * min(1.0, (matches - 1) / 3) if matches else 0.0
    return (without_one + (annotators - matches) * min(1.0, matches / 3)) / annotators


def clear_choices(scores: np.ndarray) -> np.ndarray:
    """Each row's column that scores strictly highest, (samples, labels) to (samples,); -1 where none does."""
    best = scores.argmax(1)
    highest = scores[np.arange(len(scores)), best]
    return np.where((scores < highest[:, None]).sum(1) == scores.shape[1] - 1, best, -1)


def consistency(groups: Sequence[str], hits: np.ndarray) -> float:
    """NLVR2: the share of sentences that are judged rightly for all their pairs of images, in percent.

    Args:
        groups: the sentence of each sample.
        hits: (samples,) bool.
    """
    right: dict[str, bool] = {}
    for group, hit in zip(groups, hits, strict=True):
        right[group] = right.get(group, True) and bool(hit)
    return 100.0 * sum(right.values()) / len(right)


def grounding_hits(
    scores: np.ndarray, overlaps: np.ndarray, candidates: np.ndarray, *, volta_ties: bool = False
) -> np.ndarray:
    """Referring expressions: whether the best candidate overlaps the referent by more than 0.5.

    Where several score highest, all of them must; ``volta_ties``: the first.

    Args:
        scores, overlaps: (samples, regions), the latter as IoU.
        candidates: (samples, regions) bool; the global region and padding are none.

    Returns:
        (samples,) bool; False where a sample has no candidate.
    """
    asked = np.where(candidates, scores, -np.inf)
    if volta_ties:
        best = np.arange(scores.shape[1]) == asked.argmax(1)[:, None]
    else:
        best = asked == asked.max(1, keepdims=True)  # none, where a score is no number
    best &= candidates
    return best.any(1) & ((overlaps > 0.5) | ~best).all(1)


def grounding_ceiling(overlaps: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Referring expressions: whether any candidate would be a hit, (samples, regions) twice to (samples,) bool."""
    return ((overlaps > 0.5) & candidates).any(1)


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for a single value)."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
