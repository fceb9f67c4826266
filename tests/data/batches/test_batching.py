from __future__ import annotations

import functools
import pickle

import numpy as np
import pytest
import torch

from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.batches.concap_dataset import ConcapDataset
from volta_switch.data.batches.loader import make_loader, start_epoch
from volta_switch.data.batches.sampling import BatchSampler
from volta_switch.data_tools.repack import repack

LENGTHS = np.random.default_rng(0).integers(3, 38, size=1003)


def test_every_sample_stands_in_one_batch_of_each_epoch() -> None:
    for options in ({}, {"shuffle": False}, {"group_by_length": False}, {"shuffle": False, "group_by_length": False}):
        sampler = BatchSampler(LENGTHS, 16, 0, **options)
        batches = list(sampler)
        assert sorted(index for batch in batches for index in batch) == list(range(1003))
        assert len(batches) == len(sampler) == 63 and sorted(map(len, batches))[:2] == [11, 16]


def test_an_incomplete_batch_can_be_left_out() -> None:
    sampler = BatchSampler(LENGTHS, 16, 0, drop_last=True)
    assert {len(batch) for batch in sampler} == {16} and len(sampler) == len(list(sampler)) == 62


def test_batches_depend_on_seed_and_epoch() -> None:
    def batches(seed, epoch):
        sampler = BatchSampler(LENGTHS, 16, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(1, 2) == batches(1, 2) and batches(1, 2) != batches(1, 3) and batches(1, 2) != batches(2, 2)


def test_without_shuffling_or_grouping_the_order_is_the_datas() -> None:
    batches = list(BatchSampler(LENGTHS, 16, 0, shuffle=False, group_by_length=False))
    assert [index for batch in batches for index in batch] == list(range(1003))


def test_batches_of_like_length_have_little_padding_and_come_in_random_order() -> None:
    def padding(batches):
        return sum(LENGTHS[batch].max() * len(batch) for batch in batches) / LENGTHS.sum() - 1

    grouped, mixed = list(BatchSampler(LENGTHS, 16, 0)), list(BatchSampler(LENGTHS, 16, 0, group_by_length=False))
    assert padding(grouped) < 0.05 < 0.5 < padding(mixed)
    longest = [LENGTHS[batch].max() for batch in grouped]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.5


def test_an_epoch_goes_on_from_any_batch() -> None:
    sampler = BatchSampler(LENGTHS, 16, 0)
    sampler.set_epoch(4)
    whole = list(sampler)
    sampler.start = 20
    assert list(sampler) == whole[20:] and len(sampler) == 43 and sampler.batches_per_epoch == 63
    sampler.set_epoch(5)
    assert len(list(sampler)) == 63


def test_no_samples_make_no_batches_and_a_batch_holds_one_at_least() -> None:
    assert list(BatchSampler(np.zeros(0, dtype=np.int64), 4, 0)) == []
    with pytest.raises(ValueError, match="batch_size is 0"):
        BatchSampler(LENGTHS, 0, 0)


@pytest.fixture
def loader_of(concap_directory, tokenizer):
    def build(num_workers=0):
        dataset = ConcapDataset(concap_directory, concap_directory, "train", tokenizer, num_locs=5, seed=1)
        sampler = BatchSampler(dataset.text_lengths, 8, seed=1)
        return make_loader(
            dataset, sampler, functools.partial(dataset.collate, layout=BatchLayout("first")), num_workers
        )

    return build


def same_batches(left, right) -> bool:
    pairs = list(zip(left, right, strict=True))
    return all(
        a.ids == b.ids and all(torch.equal(a.inputs[name], b.inputs[name]) for name in a.inputs) for a, b in pairs
    )


def test_workers_and_resuming_change_no_batch(loader_of) -> None:
    loader = loader_of()
    start_epoch(loader, 0)
    first = list(loader)
    start_epoch(loader, 3)
    whole = list(loader)
    assert len(whole) == 5 and not same_batches(first, whole)
    workers = loader_of(num_workers=2)
    start_epoch(workers, 0)
    assert same_batches(first, workers)
    start_epoch(workers, 3)
    assert same_batches(whole, workers)
    resumed = loader_of()
    start_epoch(resumed, 3, start=2)
    assert same_batches(whole[2:], resumed) and len(resumed) == 3


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_batches_are_the_same_however_workers_are_started(
    concap_directory, tokenizer, tmp_path, method, compact
) -> None:
    directory = concap_directory
    if compact:
        directory = tmp_path
        repack([concap_directory / "training_feat_all.lmdb"], directory / "training_feat_all.lmdb", top_classes=3)
    loaders = []
    for num_workers in (0, 1, 2) if method == "fork" else (0, 2):
        dataset = ConcapDataset(directory, concap_directory, "train", tokenizer, num_locs=5, seed=1)
        sampler = BatchSampler(dataset.text_lengths, 8, seed=1)
        collate = functools.partial(dataset.collate, layout=BatchLayout("first"))
        loaders.append(make_loader(dataset, sampler, collate, num_workers))
        if num_workers:
            loaders[-1].multiprocessing_context = method
        start_epoch(loaders[-1], 2)
    alone, *others = ([batch.to("cpu") for batch in loader] for loader in loaders)
    assert alone[0].inputs["image_feat"].dtype == torch.float32 and "image_cls" in alone[0].inputs
    assert len(alone) == 5 and all(same_batches(alone, other) for other in others)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"shuffle": False}])
def test_ranks_share_the_batches_of_a_single_process(ranks, options) -> None:
    for epoch, start in ((0, 0), (3, 7)):
        samplers = [BatchSampler(LENGTHS, 16, 5, **options)]
        samplers += [BatchSampler(LENGTHS, 16, 5, rank=rank, ranks=ranks, **options) for rank in range(ranks)]
        for sampler in samplers:
            sampler.set_epoch(epoch)
            sampler.start = start
        whole, *shares = map(list, samplers)
        assert {len(share) for share in shares} == {len(whole)} == {len(samplers[-1])}
        for batch, *parts in zip(whole, *shares, strict=True):
            assert sorted(index for part in parts for index in part) == sorted(batch)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_rank_that_there_is_not_is_refused() -> None:
    for rank in (-1, 2):
        with pytest.raises(ValueError, match=f"rank is {rank} of 2, expected 0 to 1"):
            BatchSampler(LENGTHS, 16, 0, rank=rank, ranks=2)


def test_a_loader_draws_nothing_from_the_global_generator(loader_of) -> None:
    state = torch.get_rng_state()
    assert len(list(loader_of())) == 5
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_are_grouped_by_the_lengths_of_their_epoch(loader_of) -> None:
    loader = loader_of()
    for epoch in range(3):
        start_epoch(loader, epoch)
        slots = real = 0
        for batch in loader:
            slots += batch.inputs["attention_mask"].numel()
            real += int(batch.inputs["attention_mask"].sum())
        assert slots / real < 1.15


def test_a_dataset_gives_the_same_samples_after_a_journey_to_another_process(concap_directory, tokenizer) -> None:
    dataset = ConcapDataset(concap_directory, concap_directory, "train", tokenizer, num_locs=5, seed=1)
    dataset.set_epoch(2)
    copy = pickle.loads(pickle.dumps(dataset))
    layout = BatchLayout("first")
    assert same_batches(
        [dataset.collate([dataset[i] for i in range(40)], layout)], [copy.collate([copy[i] for i in range(40)], layout)]
    )
