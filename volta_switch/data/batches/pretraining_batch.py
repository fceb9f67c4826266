"""From image-caption pairs to a pre-training batch: what is masked, and what the model has to say about it.

Everything is done for the whole batch at once: a pair costs the copy of its features and little else.

Legend: B batch, T longest text, N boxes, R regions with the global one, K predicted boxes of the batch, F feature
width, C object classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from volta_switch.data.batches.collate import (
    Batch,
    BatchLayout,
    StoredFeatures,
    TopClasses,
    UnusableSamples,
    joined,
    padded,
    place_global,
    text_inputs,
)
from volta_switch.data.regions import (
    Regions,
    TopScores,
    all_finite,
    box_locations,
    pairwise_iou,
    within,
)

IGNORED = -1  # label of a word or region that nothing is predicted for


@dataclass(frozen=True)
class WordMasking:
    """Masks words of texts: [MASK] for 80 % of the chosen, a random token for 10 %, the word itself for 10 %.

    Attributes:
        mask_id, vocab_size: of the tokenizer; a random token may be any token, as in VOLTA.
        rate: share of words chosen when they are chosen one by one.
        span: choose one contiguous span instead (InterBERT's masked segment modelling): a start, and a length from 1 to
            the text's; it ends with the text where it would run past it.
    """

    mask_id: int
    vocab_size: int
    rate: float = 0.15
    span: bool = False

    def __call__(self, input_ids: np.ndarray, words: np.ndarray, draws: np.ndarray, spans: np.ndarray) -> np.ndarray:
        """Masks words in input_ids, (B, T) int64, in place; returns the labels: the masked words, IGNORED elsewhere.

        Args:
            words: (B,) words of each text, without [CLS] and [SEP].
            draws: (B, T, 3) uniform in [0, 1): whether a word is chosen, what takes its place, which token that is; 1
                where there is no word.
            spans: (B, 2), start and length.
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
    """Masks regions of images: VOLTA's one by one, or InterBERT's anchors with everything that overlaps them.

    Attributes:
        rate: probability that a region is chosen (or is an anchor).
        unchanged: share of the chosen whose feature stays.
        overlap: None, or the intersection over union from which a region is chosen together with an anchor.
    """

    rate: float = 0.15
    unchanged: float = 0.1
    overlap: float | None = None

    def __call__(self, boxes: np.ndarray, real: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns which regions are predicted and which of them are zeroed: (B, N) bool each.

        Args:
            boxes: (B, N, 4) pixels.
            real: (B, N) bool, False at padding.
            draws: (B, N, 2) uniform in [0, 1): whether a region is chosen, whether it stays; 1 at padding.
        """
        predicted = draws[..., 0] < self.rate
        if self.overlap is not None:
            near = pairwise_iou(boxes, boxes) >= self.overlap  # (B, N, N)
            predicted = (predicted | (near & predicted[:, None]).any(axis=2)) & real
        return predicted, predicted & ~(draws[..., 1] < self.unchanged)


def _none() -> np.ndarray:
    return np.empty(0)


@dataclass(frozen=True, eq=False)
class PairSample:
    """One pair, nothing masked yet.

    Attributes:
        place: in the pairs.
        input_ids: (T,) int64, the caption's or, where ``mismatched``, another one's.
        mismatched: whether the caption is another pair's.
        regions: the image's.
        word_draws: (T - 2, 3), uniform in [0, 1): which words are masked follows from them; empty where none are.
        span_draws: (1, 2), the same of a span of words.
        region_draws: (n, 2), the same of regions.
    """

    place: int
    input_ids: np.ndarray
    mismatched: bool
    regions: Regions
    word_draws: np.ndarray = field(default_factory=_none)
    span_draws: np.ndarray = field(default_factory=_none)
    region_draws: np.ndarray = field(default_factory=_none)


@dataclass(frozen=True)
class MaskingConfig:
    """What a data set masks, and what is asked of it.

    Attributes:
        words, regions: None where none are masked.
        objective: 1: nothing is predicted of mismatched pairs.
        num_locs: location values of a box.
        feature_targets: whether to give image_feat_target.
        volta_compat: whether the global feature is VOLTA's.
        path: the pairs' file, for errors.
    """

    words: WordMasking | None
    regions: RegionMasking | None
    objective: int
    num_locs: int
    feature_targets: bool
    volta_compat: bool
    path: str


def collate_pretraining(samples: Sequence[PairSample], layout: BatchLayout, masking: MaskingConfig) -> Batch:
    """Returns the inputs with masked_lm_labels (B, T), the region labels (B, N) and next_sentence_label (B,).

    In a loader's worker the features stay in the file (``StoredFeatures``) until the loader has the batch. image_cls
    has the scores of the predicted boxes alone, (K, C), in the order of image_label == 1. None of the region labels has
    a place for the global region. Padding: IGNORED in masked_lm_labels and image_label, else 0. A sample's id is its
    image's.

    Raises:
        UnusableSamples: some regions do not pass ``Regions.check``.
    """
    mismatched = np.array([sample.mismatched for sample in samples])  # (B,)
    inputs = text_inputs([sample.input_ids for sample in samples], layout)
    words = _mask_words(samples, inputs["input_ids"].numpy(), masking)  # (B, T)
    images = _Images(samples, layout, masking)
    silent = mismatched & (masking.objective == 1)  # (B,) nothing is predicted of these
    words[silent] = IGNORED
    asked = images.predicted & ~silent[:, None]  # (B, N)
    inputs |= images.inputs()
    inputs["masked_lm_labels"] = torch.from_numpy(words)
    inputs["image_label"] = torch.from_numpy(np.where(asked, 1, IGNORED))
    inputs["next_sentence_label"] = torch.from_numpy(mismatched.astype(np.int64))
    inputs |= images.labels()
    batch = Batch(inputs, None, [sample.regions.image_id for sample in samples])
    batch.stored = images.stored(np.array([sample.place for sample in samples]))
    if get_worker_info() is None:
        inputs |= batch.stored.inputs([sample.regions for sample in samples])
    if layout.add_global_imgfeat is not None:
        batch.global_weights, batch.global_slot = torch.from_numpy(images.global_weights()), layout.global_slot
    if not (_add_class_scores(batch, samples, asked) and images.usable()):
        raise _unusable(samples, masking.path)
    return batch


def _mask_words(samples: Sequence[PairSample], input_ids: np.ndarray, masking: MaskingConfig) -> np.ndarray:
    """Masks words in input_ids (B, T), in place, and returns what they were: (B, T) int64."""
    if masking.words is None:
        return np.full(input_ids.shape, IGNORED, dtype=np.int64)
    length = input_ids.shape[1]
    draws = padded([sample.word_draws for sample in samples], length, 1, start=1).numpy()  # (B, T, 3); 1: never
    spans = np.concatenate([sample.span_draws for sample in samples])  # (B, 2)
    words = np.array([len(sample.input_ids) - 2 for sample in samples])
    return masking.words(input_ids, words, draws, spans)


class _Images:
    """The boxes of a batch, and which of them are masked."""

    def __init__(self, samples: Sequence[PairSample], layout: BatchLayout, masking: MaskingConfig) -> None:
        self._regions = [sample.regions for sample in samples]
        self._layout = layout
        self._masking = masking
        self._size = layout.num_boxes or max(map(len, self._regions))  # N
        self._slots = layout.slots(self._size)  # R
        self._counts = np.array([len(regions) for regions in self._regions])
        self._boxes = self._padded("boxes").numpy()  # (B, N, 4)
        self.real = np.arange(self._size) < self._counts[:, None]  # (B, N)
        self.predicted = self.zeroed = np.zeros(self.real.shape, dtype=bool)
        if masking.regions is not None:
            draws = padded([sample.region_draws for sample in samples], self._size, 1).numpy()  # (B, N, 2)
            self.predicted, self.zeroed = masking.regions(self._boxes, self.real, draws)

    def _padded(self, name: str) -> torch.Tensor:
        return padded([getattr(regions, name) for regions in self._regions], self._size, 0)

    def inputs(self) -> dict[str, torch.Tensor]:
        """Returns image_loc (B, R, num_locs) and image_attention_mask (B, R)."""
        start, slots = self._layout.boxes_from, self._slots
        sizes = np.array([(regions.image_w, regions.image_h) for regions in self._regions])[:, None]  # (B, 1, 2)
        location = np.zeros((len(self._counts), slots, self._masking.num_locs), dtype=np.float32)
        boxes = slice(start, start + self._size)
        location[:, boxes] = box_locations(self._boxes, sizes, self._masking.num_locs) * self.real[..., None]
        mask = np.zeros(location.shape[:2], dtype=np.int64)
        mask[:, boxes] = self.real
        inputs = {"image_loc": torch.from_numpy(location), "image_attention_mask": torch.from_numpy(mask)}
        return place_global(inputs, self._layout)

    def stored(self, places: np.ndarray) -> StoredFeatures:
        """Says which features the batch has, ``places`` being those of its pairs."""
        return StoredFeatures(
            places=places,
            slots=self._slots,
            start=self._layout.boxes_from,
            zeroed=np.argwhere(self.zeroed),
            target=self._masking.feature_targets,
            num_boxes=self._size,
        )

    def usable(self) -> bool:
        """Whether every number that ``inputs`` and ``labels`` gave can be used."""
        labels = ((regions.objects_id, regions.cls_prob) for regions in self._regions)
        return (
            all(all_finite(regions.features) for regions in self._regions)
            and all_finite(self._boxes)
            and all(scores is None or within(ids, scores.shape[1] - 1) for ids, scores in labels)
        )

    def labels(self) -> dict[str, torch.Tensor]:
        """Returns what the detector said of the boxes, as far as the file holds it."""
        names = {
            "obj_labels": "objects_id",
            "obj_confs": "objects_conf",
            "attr_labels": "attrs_id",
            "attr_confs": "attrs_conf",
        }
        held = {ours: name for ours, name in names.items() if getattr(self._regions[0], name) is not None}
        labels = {ours: self._padded(name) for ours, name in held.items()}
        return {name: array.long() if name.endswith("labels") else array for name, array in labels.items()}

    def global_weights(self) -> np.ndarray:
        """Returns how much each slot counts for the global region's feature: (B, R) float32.

        The feature is the mean of the boxes that nothing is predicted for; where there is none, of what the model is
        given. With ``volta_compat`` it is VOLTA's sum over the boxes that are not zeroed, divided by the number of
        boxes that overlap no predicted box by an intersection over union of more than 0.4 (1 if there is none).
        """
        given = self.real & ~self.zeroed
        if self._masking.volta_compat:
            overlap = pairwise_iou(self._boxes, self._boxes) > 0.4  # (B, N, N)
            near = (overlap & self.predicted[:, None]).any(axis=2)
            counted, among = given, (self.real & ~near).sum(axis=1)
        else:
            visible = self.real & ~self.predicted
            some = visible.any(axis=1)
            counted = np.where(some[:, None], visible, given)
            among = np.where(some, visible.sum(axis=1), self._counts)
        weights = np.zeros((len(given), self._slots), dtype=np.float32)
        start = self._layout.boxes_from
        weights[:, start : start + self._size] = counted / np.maximum(among, 1).astype(np.float32)[:, None]
        return weights


def _add_class_scores(batch: Batch, samples: Sequence[PairSample], asked: np.ndarray) -> bool:
    """Gives the batch the detector's scores of the boxes that are asked for; returns whether they can be used."""
    scores: list[Any] = [  # all arrays, or all TopScores
        sample.regions.cls_prob[np.flatnonzero(row)]
        for sample, row in zip(samples, asked, strict=True)
        if sample.regions.cls_prob is not None
    ]
    if not scores:
        return True
    if isinstance(scores[0], TopScores):
        parts = {name: joined([getattr(rows, name) for rows in scores]) for name in ("ids", "scores", "rest")}
        batch.top_classes = TopClasses(**parts, width=scores[0].width)
        ids, *numbers = (part.numpy() for part in parts.values())
        return within(ids, scores[0].width) and all(map(all_finite, numbers))
    batch.inputs["image_cls"] = joined(scores)
    return all_finite(batch.inputs["image_cls"].numpy())


def _unusable(samples: Sequence[PairSample], path: str) -> UnusableSamples:
    """Says which samples cannot be used, and why."""
    found = {}
    for place, sample in enumerate(samples):
        try:
            sample.regions.check()
        except ValueError as error:
            found[place] = f"{path}, image {sample.regions.image_id!r}: {error}; write the file again"
    return UnusableSamples(found)
