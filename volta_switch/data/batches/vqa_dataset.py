"""Visual question answering: a question, an image, soft scores over a fixed list of answers."""

from __future__ import annotations

import numpy as np

from volta_switch.data.annotations.vqa import VqaAnnotations
from volta_switch.data.batches.collate import Sample, collate_labelled
from volta_switch.data.batches.task_dataset import TaskDataset
from volta_switch.data.files.stores import FeatureStore
from volta_switch.data.tokenizer import Tokenizer


class VqaDataset(TaskDataset):
    """Samples add `target`, the (num_labels,) float32 soft scores, or None for questions without answers.

    A sample's id is its question id.
    """

    collate = staticmethod(collate_labelled)

    def __init__(
        self,
        annotations: VqaAnnotations,
        store: FeatureStore,
        tokenizer: Tokenizer,
        *,
        num_locs: int,
        max_seq_length: int = 23,
        max_regions: int | None = None,
    ) -> None:
        texts = [entry.question for entry in annotations.entries]
        super().__init__(texts, store, tokenizer, num_locs, max_seq_length, max_regions)
        self.entries = annotations.entries
        self.label2ans = annotations.label2ans

    @property
    def sample_images(self) -> list[tuple[str, str]]:
        """As of every task."""
        return [(str(entry.question_id), str(entry.image_id)) for entry in self.entries]

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        target = None
        if entry.labels is not None:
            target = np.zeros(len(self.label2ans), dtype=np.float32)
            target[list(entry.labels)] = entry.scores
        image = self._images[entry.image_id]
        return {"id": str(entry.question_id), "input_ids": self._tokens[index], "target": target, **image.inputs}
