"""Loaders of batches: worker processes, features that stay in their file until here, records that are passed over.

Without enough open files PyTorch's processes wait for ever, without shared memory for the batches that they send they
are killed; both are looked at before any is started.
"""

from __future__ import annotations

import os
import queue
import re
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils.signal_handling import _remove_worker_pids

from volta_switch.data.batches.collate import Batch, UnusableSamples
from volta_switch.data.batches.sampling import BatchSampler, EpochDataset
from volta_switch.errors import BadRecord, UserError

SHARED_MEMORY = Path("/dev/shm")
LARGER_SHARED_MEMORY = "make it larger (docker run --shm-size 8g), or take fewer --num_workers (0: none is needed)"
PREFETCHED = 2  # batches that each worker has ready, PyTorch's default
_FILES_OF_A_WORKER = 8  # pipes of its queues, and what starting it takes
_PATIENCE = 2.0  # seconds for a thread to end that may be waiting for a worker
_OWN_FILES = 32  # that are opened later: data, logs, checkpoints


def make_loader(
    dataset: EpochDataset,
    sampler: BatchSampler,
    collate: Callable[[Sequence[Any]], Batch],
    num_workers: int = 0,
    pin_memory: bool = False,
    max_bad_records: int = 0,
    timeout: float = 0,
) -> Loader:
    """Returns a loader of batches. Making its iterator draws nothing from the global random generator.

    Workers start anew in every epoch, so that ``start_epoch`` reaches them, and leave signals to the process that
    iterates.

    Args:
        dataset: the samples.
        sampler: which of them make up each batch.
        collate: makes a batch of samples.
        num_workers: processes that do so; 0: the one that iterates.
        pin_memory: whether batches come in page-locked memory, from which a GPU copies asynchronously.
        max_bad_records: samples of so many different records that cannot be used are left out of their batches, each
            reported once; the next one raises UserError, in the process that iterates.
        timeout: seconds after which a batch that has not come raises UserError; 0: never.
    """
    return Loader(
        _PassingOver(dataset),
        max_bad_records=max_bad_records,
        pinned=pin_memory,
        batch_sampler=sampler,
        collate_fn=_Collate(collate),
        num_workers=num_workers,
        prefetch_factor=PREFETCHED if num_workers else None,
        timeout=timeout if num_workers else 0,
        worker_init_fn=leave_signals,
        generator=torch.Generator().manual_seed(sampler.seed),
    )


def start_epoch(loader: DataLoader, epoch: int, start: int = 0) -> None:
    """Sets a loader to the batch ``start`` of an epoch: its samples, their lengths and their order."""
    dataset: Any = loader.dataset
    sampler: Any = loader.batch_sampler
    dataset.set_epoch(epoch)
    sampler.lengths = dataset.text_lengths
    sampler.set_epoch(epoch)
    sampler.start = start


class Loader(DataLoader):
    """A DataLoader of whole batches, which counts the records that its workers could not use.

    A worker looks at features that lie in a file, which brings them into memory, and sends their places alone: that
    they pass through shared memory, too, would cost more than all its other work. The file's pages are in memory for
    every process; the loader copies them from there, which its data set finds by ``stored_regions(place)``. For a GPU
    it copies them into page-locked memory, in a thread of its own.

    Where several processes share the batches, each is given as many as the others: in place of an empty one it gets a
    stand-in, with the inputs of one sample and no ids.

    Attributes:
        bad_records: those that were passed over so far.
    """

    def __init__(self, *args: Any, max_bad_records: int, pinned: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # whose own thread could not complete the batches that it pins
        self.bad_records = BadRecords(max_bad_records)
        self._pinned = pinned and torch.cuda.is_available()
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
        batches = map(self._completed, workers)
        try:
            with lost_workers_explained():
                yield from _ahead(batches) if self._pinned and self.num_workers else batches
        except UserError:
            if getattr(workers, "_worker_pids_set", False):  # else PyTorch lets whatever comes next fail
                _remove_worker_pids(id(workers))
                workers._worker_pids_set = False
            for worker in getattr(workers, "_workers", ()):
                worker.kill()  # one that hangs would keep this process from ending
            raise

    def _completed(self, batch: Batch) -> Batch:
        dataset: Any = self.dataset
        if not batch.is_complete:
            batch = batch.completed(dataset.stored_regions)
        return batch.pin_memory() if self._pinned else batch

    def _check_limits(self) -> None:
        sampler, tensors = cast(BatchSampler, self.batch_sampler), self.first().sent_by_workers()
        samples = -(-sampler.batch_size // (sampler.ranks * sampler.parts))
        check_worker_limits(self.num_workers, len(tensors), samples * sum(each.nbytes for each in tensors))
        self._has_limits = True

    def _a_stand_in(self) -> Batch:
        if self._stand_in is None:
            self._stand_in = replace(self.first(), ids=[])
        return self._stand_in

    def first(self) -> Batch:
        """Returns a batch of the first sample that can be used; raises UserError where too many before it cannot."""
        dataset: Any = self.dataset
        collate: Any = self.collate_fn
        for index in range(len(dataset)):
            sample = dataset[index]
            if not isinstance(sample, _Unusable):
                return collate([sample])
            self.bad_records.pass_over(sample.reason)
        raise UserError("no sample can be used; write the data again")


def _ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Gives the batches of an iterator that a thread goes through, so that one is ready when it is asked for."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=1)
    stopped = threading.Event()
    device = torch.cuda.current_device() if torch.cuda.is_available() else None

    def go_through() -> None:
        torch.set_num_threads(1)  # for this thread: copies into page-locked memory would take every core
        if device is not None:
            torch.cuda.set_device(device)
        end = None
        try:
            for batch in batches:
                ready.put(batch)
                if stopped.is_set():
                    return
        except BaseException as error:  # raised again where the batch is asked for
            end = error
        ready.put(end)

    thread = threading.Thread(target=go_through, daemon=True)
    thread.start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        stopped.set()
        with suppress(queue.Empty):
            ready.get_nowait()  # so that the thread finds room, and then that it is to end
        thread.join(_PATIENCE)


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


class BadRecords:
    """What was wrong with each record that was passed over, in the order in which they were met.

    Args:
        limit: ``--max-bad-records``.
        earlier: those of an earlier run that this one continues.
    """

    def __init__(self, limit: int, earlier: Iterable[str] = ()) -> None:
        self._limit = limit
        self._reasons = dict.fromkeys(earlier)  # an ordered set: every epoch meets the same ones

    def __len__(self) -> int:
        return len(self._reasons)

    def __iter__(self) -> Iterator[str]:
        return iter(self._reasons)

    def pass_over(self, reason: str) -> None:
        """Counts a record and names it on stderr, each once; raises UserError where there are too many."""
        if reason in self._reasons:
            return
        if len(self) >= self._limit:
            before = f" ({len(self)} were passed over before)" if len(self) else ""
            raise UserError(f"{reason}{before}; --max-bad-records N passes over N such records")
        self._reasons[reason] = None
        print(f"bad record passed over ({len(self)} of at most {self._limit}): {reason}", file=sys.stderr)


def check_worker_limits(workers: int, tensors: int, batch_bytes: int) -> None:
    """Raises this process's limit on open files as far as it may, and looks at both limits.

    Args:
        workers: processes.
        tensors: of a batch; each takes an open file until it is received.
        batch_bytes: of a batch.

    Raises:
        UserError: one is too small; says what to set.
    """
    there = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    needed = there + _OWN_FILES + workers * (_FILES_OF_A_WORKER + PREFETCHED * tensors)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise UserError(
                f"{workers} data workers need about {needed} open files, the limit is {hard}; raise it (ulimit -n "
                f"{needed}), or take fewer --num_workers"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    if SHARED_MEMORY.is_dir():
        found = os.statvfs(SHARED_MEMORY)
        free = found.f_bavail * found.f_frsize
        if free < workers * batch_bytes:
            raise UserError(
                f"{SHARED_MEMORY} has {_size(free)} free, {workers} data workers send batches of {_size(batch_bytes)} "
                f"through it; {LARGER_SHARED_MEMORY}"
            )


def _size(count: float) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


@contextmanager
def lost_workers_explained() -> Iterator[None]:
    """Raises UserError where PyTorch finds a loader's worker late or gone: gone also between two batches."""
    try:
        yield
    except RuntimeError as error:
        message = str(error).splitlines()[0] if str(error) else ""
        if not message.startswith("DataLoader"):  # PyTorch's words; it has no class for them
            raise
        late = re.search(r"timed out after (\d+)", message)
        if late:
            raise UserError(
                f"a data worker has given nothing for {late[1]} s; look at the disk that the features lie on, or raise "
                "--worker_timeout"
            ) from None
        if "Bus error" in message:
            raise UserError(f"a data worker found {SHARED_MEMORY} full; {LARGER_SHARED_MEMORY}") from None
        raise UserError(
            f"a data worker was ended from outside ({message.split('. ')[0]}); where memory ran out, take fewer "
            "--num_workers"
        ) from None


def leave_signals(worker: int) -> None:
    """Ctrl-C, SIGTERM and SIGHUP reach a whole group of processes; the first of them decides when the workers end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
