"""A loader among other processes: its own workers, which may stall or die, and the other ranks that share a batch."""

import dataclasses
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from volta_switch import UserError
from volta_switch.data.batches.collate import Batch
from volta_switch.data.batches.loader import make_loader
from volta_switch.data.batches.sampling import BatchSampler
from volta_switch.errors import BadRecord


class Numbers:
    """Samples that are their own places; what ``trouble`` does at place 5 happens in whatever process reads it."""

    def __init__(self, count, trouble=lambda: None):
        self.count, self.trouble = count, trouble
        self.text_lengths = np.ones(count, dtype=np.int64)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == 5:
            self.trouble()
        return index

    def set_epoch(self, epoch):
        pass


def batch_of(samples):
    return Batch({"numbers": torch.tensor(samples)}, None, [str(sample) for sample in samples])


def loader_of(dataset, workers=0, batch_size=2, timeout=0, bad=0, **shares):
    sampler = BatchSampler(dataset.text_lengths, batch_size, 0, shuffle=False, group_by_length=False, **shares)
    return make_loader(dataset, sampler, batch_of, workers, timeout=timeout, max_bad_records=bad)


def stall():
    threading.Event().wait()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def refuse():
    raise BadRecord("file, record 5: unreadable")


@pytest.mark.parametrize(
    ("trouble", "line"),
    [
        (
            stall,
            "a data worker has given nothing for 1 s; look at the disk that the features lie on, or raise",
        ),
        (die, "a data worker was ended from outside (DataLoader worker (pid"),
    ],
)
def test_a_worker_that_stalls_or_dies_is_reported_and_leaves_no_process(trouble, line):
    seen = []
    with pytest.raises(UserError) as caught:
        for batch in loader_of(Numbers(8, trouble), workers=1, timeout=1):
            seen += batch.ids
    assert str(caught.value).startswith(line) and set(seen) <= {"0", "1", "2", "3"}
    for child in multiprocessing.active_children():
        child.join(20)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_workers_leave_signals_to_the_process_that_iterates(number):
    loader = loader_of(Numbers(8, lambda: os.kill(os.getpid(), number)), workers=1)
    assert [name for batch in loader for name in batch.ids] == list("01234567")


@pytest.mark.parametrize("workers", [0, 1])
def test_processes_that_share_batches_are_given_as_many_each(workers):
    shares = [list(loader_of(Numbers(9), workers, 8, rank=rank, ranks=2, parts=2)) for rank in range(2)]
    assert [[batch.ids for batch in share] for share in shares] == [
        [["0", "4"], ["2", "6"], ["8"], []],
        [["1", "5"], ["3", "7"], [], []],
    ]
    stand_ins = [batch for share in shares for batch in share if not len(batch)]
    assert all(batch.inputs["numbers"].tolist() == [0] for batch in stand_ins)  # there is something to compute


@pytest.fixture
def pinned(monkeypatch):
    """Loaders as for a GPU: batches are pinned, in a thread where there are workers."""
    monkeypatch.setattr(Batch, "pin_memory", lambda batch: dataclasses.replace(batch, global_slot=7))

    def build(dataset, workers, **options):
        loader = loader_of(dataset, workers, **options)
        loader._pinned = True
        return loader

    return build


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_that_are_pinned_come_whole_and_in_order(pinned, workers):
    loader = pinned(Numbers(9), workers)
    for _ in range(2):
        batches = list(loader)
        assert [name for batch in batches for name in batch.ids] == list("012345678")
        assert all(batch.global_slot == 7 for batch in batches)


def test_a_loop_that_ends_early_leaves_no_thread(pinned):
    before = threading.active_count()
    batches = iter(pinned(Numbers(40), 1))
    assert next(batches).ids == ["0", "1"] and threading.active_count() > before
    batches.close()
    for _ in range(100):
        if threading.active_count() == before:
            break
        time.sleep(0.1)
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("trouble", "line"), [(stall, "a data worker has given nothing for 1 s"), (die, "a data worker")]
)
def test_a_lost_worker_is_reported_where_a_thread_waits_for_it(pinned, trouble, line):
    with pytest.raises(UserError, match=line):
        list(pinned(Numbers(8, trouble), 1, timeout=1))


def test_a_batch_that_lost_all_its_samples_has_a_stand_in_too():
    alone, shared = (loader_of(Numbers(6, refuse), batch_size=ranks, bad=1, ranks=ranks) for ranks in (1, 2))
    assert not list(alone)[5].inputs
    shared.batch_sampler.rank = 1
    assert [batch.ids for batch in shared] == [["1"], ["3"], []] and list(shared)[2].inputs["numbers"].tolist() == [0]


def test_parts_take_turns_through_a_batch_and_miss_nothing():
    sampler = BatchSampler(np.ones(11), 5, 0, shuffle=False, group_by_length=False, rank=1, ranks=2, parts=2)
    assert list(sampler) == [[1], [3], [6], [8], [], []] and len(sampler) == 6 and sampler.batches_per_epoch == 3
    sampler.start = 2
    assert list(sampler) == [[], []] and len(sampler) == 2


def test_a_batch_is_divided_into_one_part_at_least():
    with pytest.raises(ValueError, match="in 0 parts, expected 1 or more of both"):
        BatchSampler(np.ones(4), 2, 0, parts=0)
