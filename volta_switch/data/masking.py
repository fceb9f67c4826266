"""Which words and regions pre-training hides, as functions of a random generator.

Legend: T ids of one text with [CLS] and [SEP], n regions of one image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from volta_switch.data.regions import pairwise_iou

IGNORED = -1  # label of a word or region that nothing is predicted for


@dataclass(frozen=True)
class WordMasking:
    """Hide words of a text: [MASK] for 80 % of the chosen, a random token for 10 %, the word itself for 10 %.

    mask_id, vocab_size: of the tokenizer; a random token may be any token, as in VOLTA.
    rate: share of words chosen when they are chosen one by one.
    span: choose one contiguous span instead (InterBERT's masked segment modelling).
    """

    mask_id: int
    vocab_size: int
    rate: float = 0.15
    span: bool = False

    def __call__(self, input_ids: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return masked ids and labels, (T,) int64 each; labels are the hidden words, IGNORED elsewhere.

        The first and last id ([CLS], [SEP]) are never chosen.
        """
        words = len(input_ids) - 2
        masked, labels = input_ids.copy(), np.full(len(input_ids), IGNORED, dtype=np.int64)
        if words < 1:
            return masked, labels
        hidden = self._span(words, rng) if self.span else np.flatnonzero(rng.random(words) < self.rate) + 1
        if len(hidden):
            labels[hidden] = input_ids[hidden]
            kind, anything = rng.random((2, len(hidden)))
            masked[hidden[kind < 0.8]] = self.mask_id
            other = (kind >= 0.8) & (kind < 0.9)
            masked[hidden[other]] = (anything[other] * self.vocab_size).astype(np.int64)
        return masked, labels

    @staticmethod
    def _span(words: int, rng: np.random.Generator) -> np.ndarray:
        """Choose a start, and a length from 1 to the text's; the span ends with the text where it would run past it."""
        length = int(rng.integers(1, words + 1))
        start = int(rng.integers(words))
        return np.arange(start, min(start + length, words)) + 1  # behind [CLS]


@dataclass(frozen=True)
class RegionMasking:
    """Hide regions of an image: VOLTA's one by one, or InterBERT's anchors with everything that overlaps them.

    rate: probability that a region is chosen (or is an anchor); kept: share of the chosen whose feature stays.
    overlap: None, or the intersection over union from which a region is chosen together with an anchor.
    """

    rate: float = 0.15
    kept: float = 0.1
    overlap: float | None = None

    def __call__(self, boxes: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return which regions are predicted and which of them are zeroed: (n,) bool each. boxes: (n, 4) pixels."""
        predicted = rng.random(len(boxes)) < self.rate
        stays = rng.random(len(boxes)) < self.kept
        if self.overlap is not None and predicted.any():
            predicted |= (pairwise_iou(boxes, boxes[predicted]) >= self.overlap).any(axis=1)
        return predicted, predicted & ~stays
