"""What the data sets of tasks have in common: texts, and images that are looked up by their ids."""

from __future__ import annotations

from collections.abc import Sequence

from volta_switch.data.batches.task_images import TaskImages
from volta_switch.data.files.stores import FeatureStore
from volta_switch.data.tokenizer import Tokenizer


class TaskDataset:
    """One text a sample, the same in every epoch.

    max_seq_length: tokens with [CLS] and [SEP]. max_regions: only the first ones of each image; None: all.
    text_lengths: (len,) int64, tokens of each sample.
    """

    def __init__(
        self,
        texts: Sequence[str],
        store: FeatureStore,
        tokenizer: Tokenizer,
        num_locs: int,
        max_seq_length: int,
        max_regions: int | None,
    ) -> None:
        self._images = TaskImages(store, num_locs, max_regions)
        self._tokens = tokenizer.encode_all(texts, max_seq_length)
        self.text_lengths = self._tokens.lengths

    @property
    def sample_images(self) -> list[tuple[str, str]]:
        """(len,) each sample's id, and the name of what it shows; samples of one name are not independent."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._tokens)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: samples are the same in every epoch."""
