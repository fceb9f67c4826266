"""Which words and regions of a batch pre-training hides, as functions of uniform draws.

Legend: B batch, T ids of the longest text with [CLS] and [SEP], N boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from volta_switch.data.regions import pairwise_iou

IGNORED = -1  # label of a word or region that nothing is predicted for


@dataclass(frozen=True)
class WordMasking:
    """Hide words of texts: [MASK] for 80 % of the chosen, a random token for 10 %, the word itself for 10 %.

    mask_id, vocab_size: of the tokenizer; a random token may be any token, as in VOLTA.
    rate: share of words chosen when they are chosen one by one.
    span: choose one contiguous span instead (InterBERT's masked segment modelling): a start, and a length from 1 to the
    text's; it ends with the text where it would run past it.
    """

    mask_id: int
    vocab_size: int
    rate: float = 0.15
    span: bool = False

    def __call__(self, input_ids: np.ndarray, words: np.ndarray, draws: np.ndarray, spans: np.ndarray) -> np.ndarray:
        """Hide words in input_ids, (B, T) int64, in place; return the labels: the hidden words, IGNORED elsewhere.

        words: (B,) words of each text, without [CLS] and [SEP]. draws: (B, T, 3) uniform in [0, 1): whether a word is
        chosen, what takes its place, which token that is; 1 where there is no word. spans: (B, 2), start and length.
        """
        chosen = self._in_span(input_ids.shape[1], words, spans) if self.span else draws[..., 0] < self.rate  # (B, T)
        labels = np.where(chosen, input_ids, IGNORED)
        kind = draws[..., 1]
        random = chosen & (kind >= 0.8) & (kind < 0.9)
        input_ids[chosen & (kind < 0.8)] = self.mask_id
        input_ids[random] = (draws[..., 2][random] * self.vocab_size).astype(np.int64)
        return labels

    @staticmethod
    def _in_span(length: int, words: np.ndarray, spans: np.ndarray) -> np.ndarray:
        first = (spans[:, 0] * words).astype(np.int64)  # (B,)
        behind = np.minimum(first + 1 + (spans[:, 1] * words).astype(np.int64), words)
        place = np.arange(length)[None] - 1  # [CLS] is not counted
        return (place >= first[:, None]) & (place < behind[:, None])


@dataclass(frozen=True)
class RegionMasking:
    """Hide regions of images: VOLTA's one by one, or InterBERT's anchors with everything that overlaps them.

    rate: probability that a region is chosen (or is an anchor); kept: share of the chosen whose feature stays.
    overlap: None, or the intersection over union from which a region is chosen together with an anchor.
    """

    rate: float = 0.15
    kept: float = 0.1
    overlap: float | None = None

    def __call__(self, boxes: np.ndarray, real: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which regions are predicted and which of them are zeroed: (B, N) bool each.

        boxes: (B, N, 4) pixels. real: (B, N) bool, False at padding. draws: (B, N, 2) uniform in [0, 1): whether a
        region is chosen, whether it stays; 1 at padding.
        """
        predicted = draws[..., 0] < self.rate
        if self.overlap is not None:
            near = pairwise_iou(boxes, boxes) >= self.overlap  # (B, N, N)
            predicted = (predicted | (near & predicted[:, None]).any(axis=2)) & real
        return predicted, predicted & ~(draws[..., 1] < self.kept)
