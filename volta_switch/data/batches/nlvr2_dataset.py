"""NLVR2: a statement and two images, of which it is true or false."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from volta_switch.data.annotations.nlvr2 import Nlvr2Entry
from volta_switch.data.batches.collate import Batch, BatchLayout, Sample, image_inputs, text_inputs
from volta_switch.data.batches.task_dataset import TaskDataset
from volta_switch.data.files.stores import FeatureStore
from volta_switch.data.tokenizer import Tokenizer


def collate_pairs(samples: Sequence[Sample], layout: BatchLayout) -> Batch:
    """Lay the two images of each sample one after the other, each with the text: inputs have 2 B rows.

    target is (B, 2) float32. VOLTA lays both images into one row and cuts it in two before the model; the model sees
    the same rows.
    """
    texts = [sample["input_ids"] for sample in samples for _ in sample["images"]]
    images = [image for sample in samples for image in sample["images"]]
    inputs = text_inputs(texts, layout) | image_inputs(images, layout)
    target = torch.from_numpy(np.stack([sample["target"] for sample in samples]))
    return Batch(inputs, target, [sample["id"] for sample in samples])


class Nlvr2Dataset(TaskDataset):
    """Samples have `images`, a left and a right one with the image's inputs, and `target`, (2,) float32, one-hot.

    A sample's id is its statement's identifier.
    """

    collate = staticmethod(collate_pairs)

    def __init__(
        self,
        entries: Sequence[Nlvr2Entry],
        store: FeatureStore,
        tokenizer: Tokenizer,
        *,
        num_locs: int,
        max_seq_length: int = 40,
        max_regions: int | None = None,
    ) -> None:
        texts = [entry.sentence for entry in entries]
        super().__init__(texts, store, tokenizer, num_locs, max_seq_length, max_regions)
        self.entries = entries

    @property
    def sample_images(self) -> list[tuple[str, str]]:
        """As of every task."""
        return [(entry.identifier, entry.set_of_pairs) for entry in self.entries]

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        images = [self._images[image_id].inputs for image_id in entry.image_ids]
        target = np.eye(2, dtype=np.float32)[entry.label]
        return {"id": entry.identifier, "input_ids": self._tokens[index], "images": images, "target": target}
