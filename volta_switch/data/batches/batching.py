"""Which samples make up each batch, the same on every machine, from any batch of an epoch on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from volta_switch.data.bad_records import BadRecords
from volta_switch.data.batches.collate import Batch, UnusableSamples
from volta_switch.data.random_streams import ORDER, KeyedRandom
from volta_switch.errors import BadRecord

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
    rank, ranks: of each batch, every process takes its share, samples rank, rank + ranks and so on; batch_size is that
    of the whole batch, which does not depend on the number of processes.
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
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank is {rank} of {ranks}, expected 0 to {ranks - 1}")
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.group_by_length = group_by_length
        self.drop_last = drop_last
        self.rank = rank
        self.ranks = ranks
        self._streams = KeyedRandom(seed, ORDER)
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
        for batch in self._batches()[self.start :]:
            yield batch[self.rank :: self.ranks]

    def _batches(self) -> list[list[int]]:
        rng = self._streams.at(self.epoch)
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
    max_bad_records: int = 0,
) -> Loader:
    """Return a DataLoader of `Batch`es. Making its iterator draws nothing from the global random generator.

    Workers start anew in every epoch, so that `start_epoch` reaches them.
    max_bad_records: samples of so many different records that cannot be used are left out of their batches, each
    reported once; the next one raises UserError, in the process that iterates.
    """
    return Loader(
        _PassingOver(dataset),
        max_bad_records=max_bad_records,
        batch_sampler=sampler,
        collate_fn=_Collate(collate),
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


class Loader(DataLoader):
    """A DataLoader that counts the records which its workers could not use, in `bad_records`."""

    def __init__(self, *args: Any, max_bad_records: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bad_records = BadRecords(max_bad_records)

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            for reason in batch.passed_over:
                self.bad_records.pass_over(reason)
            yield batch

    def check_first(self) -> None:
        """Read the first sample that can be used; raises UserError where too many before it cannot."""
        dataset: Any = self.dataset
        for index in range(len(dataset)):
            sample = dataset[index]
            if not isinstance(sample, _Unusable):
                return
            self.bad_records.pass_over(sample.reason)


@dataclass(frozen=True)
class _Unusable:
    """Takes the place of a sample that could not be read."""

    reason: str


class _PassingOver:
    """A dataset whose bad records are told, not raised: an error in a worker would reach the user as a traceback."""

    def __init__(self, dataset: EpochDataset) -> None:
        self._dataset = dataset

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # pickle asks before there is a dataset
            raise AttributeError(name)
        return getattr(self.__dict__["_dataset"], name)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._dataset[index]
        except BadRecord as error:
            return _Unusable(str(error))


class ChosenSamples:
    """Some samples of a dataset, by their places in it."""

    def __init__(self, dataset: EpochDataset, places: np.ndarray) -> None:
        self._dataset = dataset
        self._places = places

    @property
    def text_lengths(self) -> np.ndarray:
        """Tokens of each chosen sample: (len,) int64."""
        return self._dataset.text_lengths[self._places]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[int(self._places[index])]

    def set_epoch(self, epoch: int) -> None:
        """Choose what is random in the samples."""
        self._dataset.set_epoch(epoch)


class _Collate:
    """Puts the usable samples into a batch, and the reasons of the others beside them."""

    def __init__(self, collate: Callable[[Sequence[Any]], Batch]) -> None:
        self._collate = collate

    def __call__(self, samples: Sequence[Any]) -> Batch:
        usable = [sample for sample in samples if not isinstance(sample, _Unusable)]
        reasons = [sample.reason for sample in samples if isinstance(sample, _Unusable)]
        try:
            batch = self._collate(usable) if usable else Batch({}, None, [])
        except UnusableSamples as error:
            reasons += error.places.values()
            usable = [sample for place, sample in enumerate(usable) if place not in error.places]
            batch = self._collate(usable) if usable else Batch({}, None, [])
        batch.passed_over = reasons
        return batch
