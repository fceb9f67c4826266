from __future__ import annotations

import pickle
from itertools import pairwise, product

import numpy as np
import pytest

from volta_switch.data.batches.sampling import MISMATCH, ORDER, SAMPLE, SUBSET, KeyedRandom, subset

PURPOSES = (SAMPLE, MISMATCH, ORDER, SUBSET)


def test_streams_of_other_keys_share_no_draw() -> None:
    seeds = (0, 1, -1, 2**31, 2**63, 2**64 - 2)
    draws = [
        KeyedRandom(seed, purpose).generator(epoch, index).integers(2**63, size=16)
        for seed, purpose, epoch, index in product(seeds, PURPOSES, (0, 1, 2), (0, 1, 2, 10**7))
    ]
    assert len(np.unique(draws)) == len(draws) * 16  # of 2**63 numbers none would come twice


def test_a_stream_does_not_run_into_the_next() -> None:
    streams = KeyedRandom(0, SAMPLE)
    long = [streams.generator(0, index).integers(2**63, size=20_000) for index in range(5)]
    assert len(np.unique(long)) == 100_000


@pytest.mark.parametrize("seed", [0, -3, 2**63 + 5, 10**30, -(10**30)])
def test_any_whole_number_is_a_seed(seed) -> None:
    first, second = (KeyedRandom(seed, SAMPLE).generator(2, 3).random(8) for _ in range(2))
    assert np.array_equal(first, second) and not np.array_equal(
        first, KeyedRandom(seed + 1, SAMPLE).generator(2, 3).random(8)
    )


def test_a_stream_starts_anew_whatever_was_drawn_before() -> None:
    streams = KeyedRandom(5, SAMPLE)
    expected = streams.generator(1, 7).random(4)
    for before in (
        lambda rng: rng.random(3),
        lambda rng: rng.integers(10, size=1, dtype=np.uint32),  # leaves half of a 64-bit draw
        lambda rng: rng.standard_normal(5),
        lambda rng: rng.permutation(10),
    ):
        before(streams.generator(0, 0))
        assert np.array_equal(streams.generator(1, 7).random(4), expected)
    assert np.array_equal(pickle.loads(pickle.dumps(streams)).generator(1, 7).random(4), expected)


def test_first_draws_over_many_streams_are_even_and_unrelated() -> None:
    streams = KeyedRandom(0, SAMPLE)
    count = 20_000
    first = np.array([streams.generator(0, index).random(2) for index in range(count)])
    later = np.array([streams.generator(1, index).random(2) for index in range(count)])
    cells, _ = np.histogram(first[:, 0], bins=50, range=(0, 1))
    assert ((cells - count / 50) ** 2 / (count / 50)).sum() < 100  # chi-squared with 49 degrees: 85 at p = 0.001
    for left, right in ((first[:, 0], first[:, 1]), (first[:-1, 0], first[1:, 0]), (first[:, 0], later[:, 0])):
        assert abs(np.corrcoef(left, right)[0, 1]) < 4 / count**0.5


def test_a_share_is_part_of_every_larger_one_and_depends_on_its_seed() -> None:
    shares = [subset(1000, fraction, 3) for fraction in (0.1, 0.25, 0.5, 1.0)]
    assert [len(share) for share in shares] == [100, 250, 500, 1000]
    for smaller, larger in pairwise(shares):
        assert set(smaller) < set(larger) and (np.diff(larger) > 0).all()
    assert not np.array_equal(subset(1000, 0.1, 4), shares[0])
    assert subset(3, 0.01, 0).shape == (1,)
