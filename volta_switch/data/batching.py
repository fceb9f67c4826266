"""Which samples make up each batch, the same on every machine, from any batch of an epoch on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from volta_switch.data.collate import Batch

_CHUNK = 50  # batches whose samples are sorted by length together: long enough to group, short enough to stay random


class EpochDataset(Protocol):
    """What the datasets of this package have in common."""

    @property
    def text_lengths(self) -> np.ndarray:
        """Tokens of each sample: (len,) int64."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def set_epoch(self, epoch: int) -> None:
        """Choose what is random in the samples."""


class BatchSampler:
    """Lists of indices, one a batch, that depend on (seed, epoch) alone.

    lengths: (samples,) the text length of each. group_by_length: put samples of similar length together.
    shuffle: random batches in a random order; with both False the order is the data's.
    drop_last: leave out a batch of fewer than batch_size.
    start: the batches of the epoch to pass over, for a run that goes on in the middle of one; `set_epoch` sets it to 0.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        group_by_length: bool = True,
        drop_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.group_by_length = group_by_length
        self.drop_last = drop_last
        self.epoch = 0
        self.start = 0

    @property
    def batches_per_epoch(self) -> int:
        """Batches of a whole epoch, wherever this one starts."""
        whole, rest = divmod(len(self.lengths), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __len__(self) -> int:
        """Return the batches that are left in this epoch from `start` on."""
        return max(self.batches_per_epoch - self.start, 0)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.epoch = epoch
        self.start = 0

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._batches()[self.start :]

    def _batches(self) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch, 0, 2])  # the fourth number: not the stream of a sample
        order = rng.permutation(len(self.lengths)) if self.shuffle else np.arange(len(self.lengths))
        if self.drop_last:
            order = order[: self.batches_per_epoch * self.batch_size]
        if self.group_by_length and len(order):
            order = self._grouped(order)
        batches = [order[i : i + self.batch_size].tolist() for i in range(0, len(order), self.batch_size)]
        if self.group_by_length and self.shuffle:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return batches

    def _grouped(self, order: np.ndarray) -> np.ndarray:
        """Sort each chunk by length; within a length the random order stays."""
        size = _CHUNK * self.batch_size
        chunks = [order[i : i + size] for i in range(0, len(order), size)]
        return np.concatenate([chunk[np.argsort(self.lengths[chunk], kind="stable")] for chunk in chunks])


def make_loader(
    dataset: EpochDataset,
    sampler: BatchSampler,
    collate: Callable[[Sequence[Any]], Batch],
    num_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader:
    """Return a DataLoader of `Batch`es. Making its iterator draws nothing from the global random generator.

    Workers start anew in every epoch, so that `start_epoch` reaches them.
    """
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(sampler.seed),
    )


def start_epoch(loader: DataLoader, epoch: int, start: int = 0) -> None:
    """Set a loader of `make_loader` to the batch `start` of an epoch: its samples, their lengths and their order."""
    dataset: Any = loader.dataset
    sampler: Any = loader.batch_sampler
    dataset.set_epoch(epoch)
    sampler.lengths = dataset.text_lengths
    sampler.set_epoch(epoch)
    sampler.start = start
