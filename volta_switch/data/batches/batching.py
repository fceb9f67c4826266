"""Which samples make up each batch, the same on every machine, from any batch of an epoch on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils.signal_handling import _remove_worker_pids

from volta_switch.data.bad_records import BadRecords
from volta_switch.data.batches.collate import Batch, UnusableSamples
from volta_switch.data.batches.workers import PREFETCHED, check_worker_limits, leave_signals, lost_workers_explained
from volta_switch.data.random_streams import ORDER, KeyedRandom
from volta_switch.errors import BadRecord, UserError

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
    rank, ranks, parts: every process divides its share of each batch into so many lists, one after the other. Sample i
    of a batch is in part p of process r where i = r + ranks * p modulo ranks * parts; a list may be empty. batch_size
    is that of the whole batch: which samples it has does not depend on how it is divided.
    blocks, window: the sizes of runs of samples, (runs,), and how many runs are shuffled among each other, so that only
    so many need to be at hand at once: the runs come in a random order, and a batch has samples of one such window, or
    of two that follow each other. Without blocks, and with no more of them than the window, all samples are one window.
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
        parts: int = 1,
        blocks: np.ndarray | None = None,
        window: int = 1,
    ) -> None:
        if batch_size < 1 or parts < 1:
            raise ValueError(f"batch_size is {batch_size} in {parts} parts, expected 1 or more of both")
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
        self.parts = parts
        self.blocks = np.array([len(self.lengths)]) if blocks is None else np.asarray(blocks)
        self.window = window
        if self.blocks.sum() != len(self.lengths) or window < 1:
            raise ValueError(f"{self.blocks.sum()} of {len(self.lengths)} samples in blocks, {window} a window")
        self._streams = KeyedRandom(seed, ORDER)
        self.epoch = 0
        self.start = 0

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches of an epoch, wherever this one starts."""
        whole, rest = divmod(len(self.lengths), self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __len__(self) -> int:
        """Return the lists that are left in this epoch from the batch `start` on."""
        return max(self.batches_per_epoch - self.start, 0) * self.parts

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch."""
        self.epoch = epoch
        self.start = 0

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches()[self.start :]:
            for part in range(self.parts):
                yield batch[self.rank + self.ranks * part :: self.ranks * self.parts]

    def _batches(self) -> list[list[int]]:
        rng = self._streams.at(self.epoch)
        windows = self._windows(rng)
        order, ends = np.concatenate(windows), np.cumsum([len(window) for window in windows])
        if self.drop_last:
            order = order[: self.batches_per_epoch * self.batch_size]
            ends = np.minimum(ends, len(order))
        if self.group_by_length and len(order):
            order = self._grouped(order, ends)
        batches = [order[i : i + self.batch_size].tolist() for i in range(0, len(order), self.batch_size)]
        if self.group_by_length and self.shuffle:
            whole = [*(ends[:-1] // self.batch_size), len(batches)]  # a batch of two windows stays between theirs
            for start, end in zip([0, *-(-ends[:-1] // self.batch_size)], whole, strict=True):
                batches[start:end] = [batches[start + i] for i in rng.permutation(max(end - start, 0))]
        return batches

    def _windows(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Return the samples of each window, in a random order where they are shuffled."""
        ends, count = np.cumsum(self.blocks), len(self.blocks)
        runs = rng.permutation(count) if self.shuffle and count > self.window else np.arange(count)
        windows = []
        for chosen in np.array_split(runs, -(-count // self.window)):
            window = np.concatenate([np.arange(ends[run] - self.blocks[run], ends[run]) for run in np.sort(chosen)])
            windows.append(window[rng.permutation(len(window))] if self.shuffle else window)
        return windows

    def _grouped(self, order: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Sort each chunk of a window by length; within a length the random order stays."""
        size = _CHUNK * self.batch_size
        chunks = []
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            first = (
                -(-start // self.batch_size) * self.batch_size
            )  # what is before it ends the last window's last batch
            edges = [start, *range(first + size * (first == start), end, size), end]
            chunks += [order[i:j] for i, j in itertools.pairwise(edges)]
        return np.concatenate([chunk[np.argsort(self.lengths[chunk], kind="stable")] for chunk in chunks])


def make_loader(
    dataset: EpochDataset,
    sampler: BatchSampler,
    collate: Callable[[Sequence[Any]], Batch],
    num_workers: int = 0,
    pin_memory: bool = False,
    max_bad_records: int = 0,
    timeout: float = 0,
) -> Loader:
    """Return a DataLoader of `Batch`es. Making its iterator draws nothing from the global random generator.

    Workers start anew in every epoch, so that `start_epoch` reaches them, and leave signals to the process that
    iterates.
    timeout: seconds after which a batch that has not come raises UserError; 0: never.
    max_bad_records: samples of so many different records that cannot be used are left out of their batches, each
    reported once; the next one raises UserError, in the process that iterates.
    """
    return Loader(
        _PassingOver(dataset),
        max_bad_records=max_bad_records,
        batch_sampler=sampler,
        collate_fn=_Collate(collate),
        num_workers=num_workers,
        prefetch_factor=PREFETCHED if num_workers else None,
        pin_memory=pin_memory,
        timeout=timeout if num_workers else 0,
        worker_init_fn=leave_signals,
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
    """A DataLoader that counts the records which its workers could not use, in `bad_records`.

    Where several processes share the batches, each is given as many as the others: in place of an empty one it gets a
    stand-in, with the inputs of one sample and no ids.
    """

    def __init__(self, *args: Any, max_bad_records: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.bad_records = BadRecords(max_bad_records)
        self._stand_in: Batch | None = None
        self._has_limits = False  # that are large enough for the workers

    def __iter__(self) -> Any:
        sampler: Any = self.batch_sampler
        for batch in self._received():
            for reason in batch.passed_over:
                self.bad_records.pass_over(reason)
            yield batch if len(batch) or sampler.ranks == 1 else self._a_stand_in()

    def _received(self) -> Iterator[Batch]:
        """The workers' batches; raises UserError where one does not come, or the system grants too little."""
        if self.num_workers and not self._has_limits:
            self._check_limits()
        workers: Any = super().__iter__()
        try:
            with lost_workers_explained():
                yield from workers
        except UserError:
            if getattr(workers, "_worker_pids_set", False):  # else PyTorch lets whatever comes next fail
                _remove_worker_pids(id(workers))
                workers._worker_pids_set = False
            for worker in getattr(workers, "_workers", ()):
                worker.kill()  # one that hangs would keep this process from ending
            raise

    def _check_limits(self) -> None:
        sampler, batch = cast(BatchSampler, self.batch_sampler), self.first()
        tensors = [*batch.inputs.values(), *(each for each in (batch.target, batch.candidates) if each is not None)]
        samples = -(-sampler.batch_size // (sampler.ranks * sampler.parts))
        check_worker_limits(self.num_workers, len(tensors), samples * sum(each.nbytes for each in tensors))
        self._has_limits = True

    def _a_stand_in(self) -> Batch:
        if self._stand_in is None:
            self._stand_in = replace(self.first(), ids=[])
        return self._stand_in

    def first(self) -> Batch:
        """A batch of the first sample that can be used; raises UserError where too many before it cannot."""
        dataset: Any = self.dataset
        collate: Any = self.collate_fn
        for index in range(len(dataset)):
            sample = dataset[index]
            if not isinstance(sample, _Unusable):
                return collate([sample])
            self.bad_records.pass_over(sample.reason)
        raise UserError("no sample can be used; write the data again")


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
