"""Referring expressions: which of an image's regions is meant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from volta_switch.data.annotations.refer import ReferEntry
from volta_switch.data.batches.collate import Sample, collate_grounding
from volta_switch.data.batches.task_dataset import TaskDataset
from volta_switch.data.files.feature_store import FeatureStore
from volta_switch.data.regions import pairwise_iou
from volta_switch.data.tokenizer import Tokenizer


class ReferDataset(TaskDataset):
    """Samples add `target`, each region's overlap with the box that is meant ((n,) float32), and `global_target`.

    Overlaps are `pairwise_iou`s; global_target is that of the whole image. A sample's id is its sentence's (VOLTA
    gives the image's, which several expressions share).
    """

    collate = staticmethod(collate_grounding)

    def __init__(
        self,
        entries: Sequence[ReferEntry],
        store: FeatureStore,
        tokenizer: Tokenizer,
        *,
        num_locs: int,
        max_seq_length: int = 20,
        max_regions: int | None = None,
    ) -> None:
        texts = [entry.caption for entry in entries]
        super().__init__(texts, store, tokenizer, num_locs, max_seq_length, max_regions)
        self.entries = entries

    @property
    def sample_images(self) -> list[tuple[str, str]]:
        """As of every task."""
        return [(str(entry.sent_id), str(entry.image_id)) for entry in self.entries]

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        image = self._images[entry.image_id]
        regions = image.regions
        whole = np.array([[0, 0, regions.image_w, regions.image_h]], dtype=np.float32)
        meant = np.array([entry.box], dtype=np.float32)
        overlap = pairwise_iou(np.concatenate([regions.boxes, whole]), meant)[:, 0]  # (n + 1,)
        return {
            "id": str(entry.sent_id),
            "input_ids": self._tokens[index],
            "target": overlap[:-1],
            "global_target": overlap[-1],
            **image.inputs,
        }
