"""Batch sampling and what is random in samples: deterministic, and resumable at any batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from volta_switch.data.regions import Regions

SAMPLE, MISMATCH, ORDER, SUBSET, GROUPS = range(5)  # what a stream is for
_CHUNK = 50  # batches whose samples are sorted by length together: long enough to group, short enough to stay random


class EpochDataset(Protocol):
    """What the datasets of this package have in common."""

    @property
    def text_lengths(self) -> np.ndarray:
        """Tokens of each sample: (len,) int64."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def set_epoch(self, epoch: int) -> None:
        """Chooses what is random in the samples."""


class KeyedRandom:
    """Streams of random numbers by (seed, purpose, epoch, index), each as long as 2**128 draws.

    Philox is a function of key and counter, so that going to a stream costs microseconds: making a generator for each
    sample of a loader takes ten times as long.
    """

    def __init__(self, seed: int, purpose: int) -> None:
        self._bits = np.random.Philox(0)
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state
        self._state["state"]["key"][:] = seed % 2**64, purpose
        self._state["buffer_pos"] = 4  # nothing is left of an earlier stream

    def generator(self, epoch: int, index: int = 0) -> np.random.Generator:
        """Returns the generator at the start of a stream; it is the same object for all streams."""
        self._state["state"]["counter"][:] = 0, 0, index, epoch
        self._bits.state = self._state
        return self._generator


def subset(count: int, fraction: float, seed: int) -> np.ndarray:
    """Returns the places, in order, of a random share of some samples: (round(count * fraction),) int64, at least one.

    It depends on (count, seed) alone, and a smaller share is part of every larger one.
    """
    chosen = KeyedRandom(seed, SUBSET).generator(0).permutation(count)[: max(round(count * fraction), 1)]
    return np.sort(chosen)


def whole_groups(groups: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Returns the places, in order, of the samples of randomly drawn groups, about ``count`` of them: (n,) int64.

    As many groups as have ``count`` samples on average, two at least, each with all its samples. It depends on the
    groups' names and on (count, seed) alone, and fewer samples are part of more.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    wanted = min(max(round(count * len(names) / len(index)), 2), len(names))
    drawn = KeyedRandom(seed, GROUPS).generator(0).permutation(len(names))[:wanted]
    return np.flatnonzero(np.isin(index, drawn))


class BatchSampler:
    """Lists of indices, one a batch, that depend on (seed, epoch) alone.

    Args:
        lengths: (samples,), the text length of each.
        batch_size: samples of a whole batch: which they are does not depend on how it is divided.
        seed: of the order.
        shuffle: whether batches are random and in a random order; with ``group_by_length`` False, too, the order is
            the data's.
        group_by_length: whether samples of similar length are put together.
        drop_last: whether a batch of fewer than ``batch_size`` is left out.
        rank, ranks: this process, and how many share each batch.
        parts: the lists into which every process divides its share, one after the other. Sample i of a batch is in
            part p of process r where i = r + ranks * p modulo ranks * parts; a list may be empty.
        blocks: (runs,), the sizes of runs of samples; None: all samples are one run.
        window: runs that are shuffled among each other, so that only so many need to be at hand at once. The runs come
            in a random order, and a batch has samples of one such window, or of two that follow each other. With no
            more runs than the window, all samples are one window.

    Attributes:
        start: batches of the epoch to pass over, for a run that is resumed within one; ``set_epoch`` sets it to 0.
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

    @property
    def samples_per_epoch(self) -> int:
        """Samples of these batches."""
        return min(self.batches_per_epoch * self.batch_size, len(self.lengths))

    def __len__(self) -> int:
        """Returns the lists that are left in this epoch from the batch ``start`` on."""
        return max(self.batches_per_epoch - self.start, 0) * self.parts

    def set_epoch(self, epoch: int) -> None:
        """Goes to the start of an epoch."""
        self.epoch = epoch
        self.start = 0

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches()[self.start :]:
            for part in range(self.parts):
                yield batch[self.rank + self.ranks * part :: self.ranks * self.parts]

    def _batches(self) -> list[list[int]]:
        rng = self._streams.generator(self.epoch)
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
        """Returns the samples of each window, in a random order where they are shuffled."""
        ends, count = np.cumsum(self.blocks), len(self.blocks)
        runs = rng.permutation(count) if self.shuffle and count > self.window else np.arange(count)
        windows = []
        for chosen in np.array_split(runs, -(-count // self.window)):
            window = np.concatenate([np.arange(ends[run] - self.blocks[run], ends[run]) for run in np.sort(chosen)])
            windows.append(window[rng.permutation(len(window))] if self.shuffle else window)
        return windows

    def _grouped(self, order: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Sorts each chunk of a window by length; within a length the random order stays."""
        size = _CHUNK * self.batch_size
        chunks = []
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            first = (
                -(-start // self.batch_size) * self.batch_size
            )  # what is before it ends the last window's last batch
            edges = [start, *range(first + size * (first == start), end, size), end]
            chunks += [order[i:j] for i, j in itertools.pairwise(edges)]
        return np.concatenate([chunk[np.argsort(self.lengths[chunk], kind="stable")] for chunk in chunks])


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

    def stored_regions(self, place: int) -> Regions:
        """Returns the regions that lie at a place of the whole dataset's file."""
        dataset: Any = self._dataset
        return dataset.stored_regions(place)

    def set_epoch(self, epoch: int) -> None:
        """Chooses what is random in the samples."""
        self._dataset.set_epoch(epoch)
