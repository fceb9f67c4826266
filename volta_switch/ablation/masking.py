"""What is masked of a sample: word pieces of a phrase, or the regions that show an entity.

Legend: n regions of an image, m boxes of an entity, F feature width, T word pieces, [CLS] and [SEP] included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from volta_switch.ablation.settings import ALL, LANGUAGE, NONE, PART
from volta_switch.data.entities import EntityPhrase
from volta_switch.data.regions import Regions, as_float32, pairwise_iou
from volta_switch.data.tokenizer import Tokenizer


def coverage(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns which share of every other box (m, 4) each box (n, 4) covers: (n, m) float32.

    Both ends of a box are included, as in ``pairwise_iou``.
    """
    boxes, others = (np.asarray(each, dtype=np.float32) for each in (boxes, others))
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = np.maximum(high - low + 1, 0)  # (n, m, 2)
    whole = (others[:, 2] - others[:, 0] + 1) * (others[:, 3] - others[:, 1] + 1)  # (m,)
    return sides[..., 0] * sides[..., 1] / whole


def showing(regions: Regions, boxes: Sequence[Sequence[float]], threshold: float) -> np.ndarray:
    """Returns which regions cover more than a share ``threshold`` of one of an entity's boxes: (n,) bool."""
    covers = coverage(regions.boxes, np.array(boxes)) > threshold  # (n, m)
    return np.asarray(np.logical_or.reduce(covers, axis=1))


def target_region(regions: Regions, boxes: Sequence[Sequence[float]], shown: np.ndarray) -> int:
    """Returns the region that overlaps one of an entity's boxes most (IoU), of those that show it, (n,) bool."""
    overlaps = pairwise_iou(regions.boxes, np.array(boxes)).max(axis=1)  # (n,)
    return int(np.where(shown, overlaps, -1).argmax())


@dataclass(frozen=True)
class Text:
    """A caption as word pieces.

    Attributes:
        ids: (T,) int64, [CLS] and [SEP] included.
        named: (T,) bool, the pieces of the phrase.
    """

    ids: np.ndarray
    named: np.ndarray

    def masked(self, masking: str, mask_id: int) -> np.ndarray:
        """Returns the ids (T,) with the phrase's pieces, or all but [CLS] and [SEP], replaced by [MASK]."""
        inside = np.arange(len(self.ids)) % (len(self.ids) - 1) > 0
        chosen = {NONE: np.zeros_like(self.named), PART[LANGUAGE]: self.named, ALL: inside}[masking]
        return np.where(chosen, mask_id, self.ids)


class Texts:
    """Captions as word pieces, cut like those of tasks; each word is split once."""

    def __init__(self, tokenizer: Tokenizer, max_seq_length: int) -> None:
        self.tokenizer, self.max_seq_length = tokenizer, max_seq_length
        self._pieces: dict[str, list[int]] = {}

    def of(self, sample: EntityPhrase) -> Text:
        """Returns a sample's caption; of a phrase behind the cut no piece is left."""
        ids, named = [self.tokenizer.cls_id], [False]
        phrase = range(sample.phrase.first, sample.phrase.first + sample.phrase.words)
        for place, word in enumerate(sample.words):
            pieces = self._split(word)
            ids += pieces
            named += [place in phrase] * len(pieces)
        most = self.max_seq_length - 1
        return Text(np.array([*ids[:most], self.tokenizer.sep_id]), np.array([*named[:most], False]))

    def _split(self, word: str) -> list[int]:
        if word not in self._pieces:
            self._pieces[word] = self.tokenizer.encode(word, len(word.encode()) + 2)[1:-1]
        return self._pieces[word]


def without_object(regions: Regions, masked: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gives masked regions (n,) bool the mean feature of all images (F,): nothing tells them from others'.

    Returns:
        Features (n, F) and the global one (F,), their mean.
    """
    features = as_float32(regions.features).copy()
    features[masked] = mean
    return features, features.mean(axis=0)


def without_regions(regions: Regions, masked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sets masked regions (n,) bool to zeros, as in pre-training.

    Returns:
        Features (n, F) and the global one (F,), the mean of those that are not masked; zeros where all are.
    """
    features = as_float32(regions.features).copy()
    features[masked] = 0
    return features, features.sum(axis=0) / max(int((~masked).sum()), 1)
