"""The order of samples that lie in shards: a few shards at a time, everything once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volta_switch.data.batches.sampling import BatchSampler, subset
from volta_switch.data.files.stores import ChosenPairs

LENGTHS = np.random.default_rng(0).integers(3, 38, size=1000)
BLOCKS = np.array([90, 110, 100, 60, 140, 100, 100, 95, 105, 70, 30])


@st.composite
def samplers(draw: st.DrawFn):
    """A way to make samplers of the same order, with what decides it."""
    blocks = np.array(draw(st.lists(st.integers(1, 40), min_size=1, max_size=12)))
    lengths = np.random.default_rng(draw(st.integers(0, 99))).integers(3, 38, size=blocks.sum())
    options = {
        "batch_size": draw(st.integers(1, 30)),
        "seed": draw(st.integers(0, 9)),
        "shuffle": draw(st.booleans()),
        "group_by_length": draw(st.booleans()),
        "drop_last": draw(st.booleans()),
        "window": draw(st.integers(1, 5)),
    }
    epoch = draw(st.integers(0, 3))

    def make(**more) -> BatchSampler:
        sampler = BatchSampler(lengths, blocks=blocks, **{**options, **more})
        sampler.set_epoch(epoch)
        return sampler

    return make


def windows_of(sampler: BatchSampler) -> list[set[int]]:
    """The runs of each window, found from the order of runs' first appearances."""
    owner = np.repeat(np.arange(len(sampler.blocks)), sampler.blocks)
    whole = BatchSampler(
        sampler.lengths,
        1,
        sampler.seed,
        shuffle=sampler.shuffle,
        group_by_length=False,
        blocks=sampler.blocks,
        window=sampler.window,
    )
    whole.set_epoch(sampler.epoch)
    seen = list(dict.fromkeys(int(owner[index]) for (index,) in whole))
    return [set(part.tolist()) for part in np.array_split(seen, -(-len(seen) // sampler.window))]


@settings(max_examples=300, deadline=None, database=None)
@given(samplers())
def test_every_sample_comes_once_and_every_batch_is_in_its_windows(make) -> None:
    sampler = make()
    batches, owner = list(sampler), np.repeat(np.arange(len(sampler.blocks)), sampler.blocks)
    indices = [index for batch in batches for index in batch]
    assert len(set(indices)) == len(indices) and len(batches) == sampler.batches_per_epoch
    left_out = len(sampler.lengths) % sampler.batch_size if sampler.drop_last else 0
    assert len(indices) == len(sampler.lengths) - left_out
    windows = windows_of(sampler)
    assert sorted(run for window in windows for run in window) == list(range(len(sampler.blocks)))
    ends = np.cumsum([sum(int(sampler.blocks[run]) for run in window) for window in windows])
    last = 0
    for batch in batches:
        of = sorted({next(i for i, window in enumerate(windows) if owner[index] in window) for index in batch})
        assert of == list(range(of[0], of[-1] + 1)) and of[0] >= last  # windows come one after the other
        inside = of[0] == of[-1]
        assert inside or any(end % sampler.batch_size > 0 for end in ends[of[0] : of[-1]])
        last = of[-1]


@settings(max_examples=100, deadline=None, database=None)
@given(samplers(), st.integers(1, 4), st.integers(1, 3), st.integers(0, 50))
def test_shares_of_ranks_and_parts_make_up_the_batches_from_any_of_them_on(make, ranks, parts, start) -> None:
    whole = list(make())
    shares = []
    for rank in range(ranks):
        sampler = make(rank=rank, ranks=ranks, parts=parts)
        sampler.start = start
        shares.append(list(sampler))
    for number, batch in enumerate(whole[start:]):
        lists = [share[parts * number + part] for share in shares for part in range(parts)]
        assert sorted(index for one in lists for index in one) == sorted(batch)
    assert all(len(share) == parts * len(whole[start:]) for share in shares)


@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"group_by_length": False}, {"drop_last": True}])
def test_one_window_is_the_order_without_shards(options) -> None:
    plain = BatchSampler(LENGTHS, 16, 3, **options)
    sharded = BatchSampler(LENGTHS, 16, 3, blocks=BLOCKS, window=len(BLOCKS), **options)
    narrow = BatchSampler(LENGTHS, 16, 3, blocks=BLOCKS, window=4, **options)
    assert list(sharded) == list(plain)
    assert list(narrow) != list(plain)


def test_windows_mix_their_shards_and_differ_between_epochs() -> None:
    sampler = BatchSampler(LENGTHS, 16, 3, blocks=BLOCKS, window=4)
    owner = np.repeat(np.arange(len(BLOCKS)), BLOCKS)
    assert np.median([len({int(owner[index]) for index in batch}) for batch in sampler]) == 4
    first, order = windows_of(sampler), list(sampler)
    sampler.set_epoch(1)
    assert windows_of(sampler) != first and list(sampler) != order


def test_grouping_by_length_holds_within_windows() -> None:
    def padding(batches):
        return sum(LENGTHS[batch].max() * len(batch) for batch in batches) / LENGTHS.sum() - 1

    assert padding(BatchSampler(LENGTHS, 16, 3, blocks=BLOCKS, window=4)) < 0.12
    assert padding(BatchSampler(LENGTHS, 16, 3, blocks=BLOCKS, window=4, group_by_length=False)) > 0.5


def test_blocks_of_other_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="999 of 1000 samples in blocks"):
        BatchSampler(LENGTHS, 16, 3, blocks=[500, 499], window=2)


class Sequence:
    path, layout, blocks = "somewhere", None, BLOCKS

    def __len__(self) -> int:
        return 1000


@pytest.mark.parametrize("fraction", [0.001, 0.05, 0.5, 1.0])
def test_a_share_of_the_pairs_has_the_blocks_that_are_left(fraction) -> None:
    places = subset(1000, fraction, 0)
    owner = np.repeat(np.arange(len(BLOCKS)), BLOCKS)
    chosen = ChosenPairs(Sequence(), places)
    assert chosen.blocks.tolist() == [count for count in np.bincount(owner[places]).tolist() if count]
