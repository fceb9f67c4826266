"""From image-caption pairs to a pre-training batch: what is hidden, and what the model has to say about it.

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

from volta_switch.data.batches.collate import (
    Batch,
    Layout,
    TopClasses,
    UnusableSamples,
    place_global,
    text_inputs,
)
from volta_switch.data.batches.masking import IGNORED, RegionMasking, WordMasking
from volta_switch.data.batches.padding import joined, padded
from volta_switch.data.batches.stored_features import Source, StoredFeatures
from volta_switch.data.regions import (
    Regions,
    TopScores,
    all_finite,
    box_locations,
    pairwise_iou,
    within,
)


def _none() -> np.ndarray:
    return np.empty(0)


@dataclass(frozen=True, eq=False)
class PairSample:
    """One pair, nothing hidden yet.

    place: in the pairs. input_ids: (T,) int64, the caption's or, where `mismatched`, another one's.
    word_draws: (T - 2, 3), span_draws: (1, 2), region_draws: (n, 2), uniform in [0, 1): what is hidden follows from
    them; empty where nothing is.
    """

    place: int
    input_ids: np.ndarray
    mismatched: bool
    regions: Regions
    word_draws: np.ndarray = field(default_factory=_none)
    span_draws: np.ndarray = field(default_factory=_none)
    region_draws: np.ndarray = field(default_factory=_none)


@dataclass(frozen=True)
class Hiding:
    """What a data set hides, and what is asked of it.

    words, regions: None where nothing is hidden. objective: 1: nothing is predicted of mismatched pairs.
    num_locs: location values. feature_targets: give image_feat_target. volta_compat: VOLTA's global feature.
    max_regions: the first so many of each image; None: all. source: the pairs, for StoredFeatures; path: their file,
    for errors.
    """

    words: WordMasking | None
    regions: RegionMasking | None
    objective: int
    num_locs: int
    feature_targets: bool
    volta_compat: bool
    max_regions: int | None
    source: Source
    path: str


def collate_pretraining(samples: Sequence[PairSample], layout: Layout, hiding: Hiding) -> Batch:
    """Return the inputs with masked_lm_labels (B, T), the region labels (B, N) and next_sentence_label (B,).

    The features stay in the file (StoredFeatures) until the batch is moved. image_cls has the scores of the predicted
    boxes alone, (K, C), in the order of image_label == 1. None of the region labels has a place for the global region.
    Padding: IGNORED in masked_lm_labels and image_label, else 0. A sample's id is its image's. Raises UnusableSamples
    for regions that do not pass `Regions.check`.
    """
    mismatched = np.array([sample.mismatched for sample in samples])  # (B,)
    inputs = text_inputs([sample.input_ids for sample in samples], layout)
    words = _hide_words(samples, inputs["input_ids"].numpy(), hiding)  # (B, T)
    images = _Images(samples, layout, hiding)
    silent = mismatched & (hiding.objective == 1)  # (B,) nothing is predicted of these
    words[silent] = IGNORED
    asked = images.predicted & ~silent[:, None]  # (B, N)
    inputs |= images.inputs()
    inputs["masked_lm_labels"] = torch.from_numpy(words)
    inputs["image_label"] = torch.from_numpy(np.where(asked, 1, IGNORED))
    inputs["next_sentence_label"] = torch.from_numpy(mismatched.astype(np.int64))
    inputs |= images.labels()
    batch = Batch(inputs, None, [sample.regions.image_id for sample in samples])
    batch.stored = images.stored(np.array([sample.place for sample in samples]))
    if layout.add_global_imgfeat is not None:
        batch.global_weights, batch.global_slot = torch.from_numpy(images.global_weights()), layout.global_slot
    if not (_add_class_scores(batch, samples, asked) and images.usable()):
        raise _unusable(samples, hiding.path)
    return batch


def _hide_words(samples: Sequence[PairSample], input_ids: np.ndarray, hiding: Hiding) -> np.ndarray:
    """Hide words in input_ids (B, T), in place, and return what they were: (B, T) int64."""
    if hiding.words is None:
        return np.full(input_ids.shape, IGNORED, dtype=np.int64)
    length = input_ids.shape[1]
    draws = padded([sample.word_draws for sample in samples], length, 1, start=1).numpy()  # (B, T, 3); 1: never
    spans = np.concatenate([sample.span_draws for sample in samples])  # (B, 2)
    words = np.array([len(sample.input_ids) - 2 for sample in samples])
    return hiding.words(input_ids, words, draws, spans)


class _Images:
    """The boxes of a batch, and which of them are hidden."""

    def __init__(self, samples: Sequence[PairSample], layout: Layout, hiding: Hiding) -> None:
        self._regions = [sample.regions for sample in samples]
        self._layout = layout
        self._hiding = hiding
        self._size = layout.num_boxes or max(map(len, self._regions))  # N
        self._slots = layout.slots(self._size)  # R
        self._counts = np.array([len(regions) for regions in self._regions])
        self._boxes = self._padded("boxes").numpy()  # (B, N, 4)
        self.real = np.arange(self._size) < self._counts[:, None]  # (B, N)
        self.predicted = self.zeroed = np.zeros(self.real.shape, dtype=bool)
        if hiding.regions is not None:
            draws = padded([sample.region_draws for sample in samples], self._size, 1).numpy()  # (B, N, 2)
            self.predicted, self.zeroed = hiding.regions(self._boxes, self.real, draws)

    def _padded(self, name: str) -> torch.Tensor:
        return padded([getattr(regions, name) for regions in self._regions], self._size, 0)

    def inputs(self) -> dict[str, torch.Tensor]:
        """Return image_loc (B, R, num_locs) and image_attention_mask (B, R)."""
        start, slots = self._layout.boxes_from, self._slots
        sizes = np.array([(regions.image_w, regions.image_h) for regions in self._regions])[:, None]  # (B, 1, 2)
        location = np.zeros((len(self._counts), slots, self._hiding.num_locs), dtype=np.float32)
        boxes = slice(start, start + self._size)
        location[:, boxes] = box_locations(self._boxes, sizes, self._hiding.num_locs) * self.real[..., None]
        mask = np.zeros(location.shape[:2], dtype=np.int64)
        mask[:, boxes] = self.real
        inputs = {"image_loc": torch.from_numpy(location), "image_attention_mask": torch.from_numpy(mask)}
        return place_global(inputs, self._layout)

    def stored(self, places: np.ndarray) -> StoredFeatures:
        """Say which features the batch has, `places` being those of its pairs."""
        return StoredFeatures(
            source=self._hiding.source,
            places=places,
            boxes=self._hiding.max_regions,
            slots=self._slots,
            start=self._layout.boxes_from,
            zeroed=np.argwhere(self.zeroed),
            target=self._hiding.feature_targets,
            num_boxes=self._size,
        )

    def usable(self) -> bool:
        """Whether every number that `inputs` and `labels` gave can be used."""
        labels = ((regions.objects_id, regions.cls_prob) for regions in self._regions)
        return (
            all(all_finite(regions.features) for regions in self._regions)
            and all_finite(self._boxes)
            and all(scores is None or within(ids, scores.shape[1] - 1) for ids, scores in labels)
        )

    def labels(self) -> dict[str, torch.Tensor]:
        """Return what the detector said of the boxes, as far as the file holds it."""
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
        """Return how much each slot counts for the global region's feature: (B, R) float32.

        The mean of the boxes that nothing is predicted for; where there is none, of what the model is given.
        volta_compat: VOLTA's sum over the boxes that are not zeroed, divided by the number of boxes that overlap no
        predicted box by an intersection over union of more than 0.4 (1 if there is none).
        """
        given = self.real & ~self.zeroed
        if self._hiding.volta_compat:
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
    """Give the batch the detector's scores of the boxes that are asked for; returns whether they can be used."""
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
    """Say which samples cannot be used, and why."""
    found = {}
    for place, sample in enumerate(samples):
        try:
            sample.regions.check()
        except ValueError as error:
            found[place] = f"{path}, image {sample.regions.image_id!r}: {error}; write the file again"
    return UnusableSamples(found)
