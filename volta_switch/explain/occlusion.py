"""What each word and each region is worth to the answer: how much its score falls when the part is missing.

A region is left out of the image, and out of the mean that is the global region's feature. A word's pieces become
[MASK]. Nothing is approximated: the model is asked again without the part. The joint worth of a word and a region is
what both lose together beyond what each loses alone: 0 where the one does not depend on the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from volta_switch.explain.subject import WHOLE, Place, Subject, Variant

MOST_PAIRS = 600  # a word and a region each; beyond it only the regions that are worth most


@dataclass(frozen=True, eq=False)
class Worth:
    """The measured worth of some parts.

    Attributes:
        score: of the answer, log-odds, with all parts.
        change: (parts,) the score with all parts minus that without the part; NaN where the part is the answer itself.
        becomes: (parts,) the best answer without the part.
    """

    score: float
    change: np.ndarray
    becomes: list[int]


def worth_of_words(subject: Subject) -> Worth:
    """Returns what each word is worth."""
    return worth_of(subject, [Variant(words=(number,)) for number in range(len(subject.words))])


def worth_of_regions(subject: Subject) -> Worth:
    """Returns what each region is worth, in the order of ``Subject.places``."""
    return worth_of(subject, [Variant(regions=(place,)) for place in subject.places])


def worth_of(subject: Subject, variants: list[Variant]) -> Worth:
    """Returns what is lost by each of some variants."""
    scores = subject.scores([WHOLE, *variants])  # (1 + S, A)
    of_answer = scores[:, subject.answer]
    return Worth(float(of_answer[0]), of_answer[0] - of_answer[1:], best_answers(scores[1:]))


def best_answers(scores: np.ndarray) -> list[int]:
    """Returns the best answer of each row of scores (S, A); -1 where no answer is left."""
    best = np.where(np.isnan(scores), -np.inf, scores).argmax(1)
    return np.where(np.isnan(scores).all(1), -1, best).tolist()  # type: ignore[no-any-return]


def joint_worth(subject: Subject, words: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Returns what a word and a region are worth together beyond what each is worth alone, (words, regions).

    NaN where it was not measured: of the answer's own region, and of regions beyond ``MOST_PAIRS``.

    Args:
        subject: what is asked.
        words, regions: ``Worth.change`` of each.
    """
    found = np.full((len(words), len(regions)), np.nan)
    asked = np.argsort(-np.abs(np.nan_to_num(regions)), kind="stable")[: MOST_PAIRS // max(len(words), 1)]
    pairs = [(word, region) for word in range(len(words)) for region in asked if np.isfinite(regions[region])]
    variants = [Variant(words=(word,), regions=(subject.places[region],)) for word, region in pairs]
    if variants:
        both = worth_of(subject, variants).change
        for (word, region), change in zip(pairs, both, strict=True):
            found[word, region] = change - words[word] - regions[region]
    return found


def pairs_to_measure(subject: Subject) -> int:
    """Returns how many times the model is asked by ``joint_worth``, at most."""
    words, regions = len(subject.words), len(subject.places)
    return words * min(regions, MOST_PAIRS // max(words, 1))


def is_answer(subject: Subject, place: Place) -> bool:
    """Returns whether a region is the answer itself."""
    return subject.prediction.region == place.number and subject.prediction.region is not None
