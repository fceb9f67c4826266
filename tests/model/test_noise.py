"""Keyed noise: a good hash, the right rates and distributions. All keys are fixed, so that every test is exact."""

import hashlib
import math
import random

import pytest
import torch

from volta_switch.model.noise import (
    STEPS,
    Site,
    dropout,
    exponential,
    fold_in,
    keep_mask,
    mix_bits,
    random_bits,
    sample_keys,
)

CPU = torch.device("cpu")
KEYS = sample_keys(0, 0, [str(sample) for sample in range(2000)], 2000)


def bits_of(values):
    """(..., 64) 0 or 1."""
    return (values[..., None] >> torch.arange(64)) & 1


def splitmix(state):
    """splitmix64's finaliser in Python's integers."""
    state %= 2**64
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return state ^ state >> 31


def dropped(rate, count=1000, keys=KEYS):
    """(len(keys), count) True where an element is dropped."""
    return ~keep_mask((len(keys), count), rate, CPU, keys=keys)


# --- Keys and the hash --------------------------------------------------------------------------------------------


def test_a_key_is_a_hash_of_seed_epoch_row_and_id():
    name = hashlib.blake2b(b"3 5 1 caption 7", digest_size=8).digest()
    assert int(sample_keys(3, 5, ["x", "caption 7"], 4)[3]) == int.from_bytes(name, "little", signed=True)


def test_every_seed_epoch_sample_and_row_has_its_own_key():
    keys = [sample_keys(seed, epoch, ["1", "11", "a"], 6) for seed in (0, 1, 11) for epoch in (0, 1, 11)]
    assert len(torch.cat(keys).unique()) == 9 * 6
    assert torch.equal(sample_keys(1, 2, ["b", "a"], 2).flip(0), sample_keys(1, 2, ["a", "b"], 2))


def test_rows_that_cannot_be_divided_among_the_samples_are_refused():
    for ids in (["a", "b"], []):
        with pytest.raises(ValueError, match="3 rows"):
            sample_keys(0, 0, ids, 3)


def test_the_hash_is_splitmix64():
    generator = random.Random(0)
    states = [0, 1, 2**63 - 1, -(2**63), -1, *(generator.randrange(-(2**63), 2**63) for _ in range(1000))]
    assert [int(found) % 2**64 for found in mix_bits(torch.tensor(states))] == [splitmix(state) for state in states]


def test_the_hash_is_the_same_when_compiled():
    compiled = torch.compile(random_bits, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(KEYS, 17), random_bits(KEYS, 17))


@pytest.mark.parametrize("what", ["key", "column", "site", "number"])
def test_neighbours_differ_in_half_of_their_bits_each_in_half_of_the_cases(what):
    """Over keys in a row, which differ in their last bits alone; 64,000 pairs, so 0.01 is five deviations."""
    keys = torch.arange(64_000)
    if what == "column":
        one, other = random_bits(keys, 2).unbind(-1)
    else:
        one = fold_in(keys, Site.QUERY, 1)
        changed = {"key": (keys + 1, Site.QUERY, 1), "site": (keys, Site.KEY, 1), "number": (keys, Site.QUERY, 2)}
        other = fold_in(*changed[what])
    differ = bits_of(one ^ other).double()
    assert (differ.mean(0) - 0.5).abs().max() < 0.01
    assert abs(float(differ.sum(1).var()) / 16 - 1) < 0.05  # as of 64 independent bits


def test_each_input_bit_moves_every_output_bit():
    inputs = torch.arange(20_000) * (0x9E3779B97F4A7C15 - 2**64)
    for bit in range(64):
        share = bits_of(mix_bits(inputs) ^ mix_bits(inputs ^ (1 << bit if bit < 63 else -(2**63)))).double().mean(0)
        assert (share - 0.5).abs().max() < 0.025  # seven deviations


# --- Dropout ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
def test_elements_rows_and_columns_are_dropped_at_the_rate(rate):
    mask, exact = dropped(rate).double(), round(rate * STEPS) / STEPS
    for shares, limit in ((mask.mean(), 4), (mask.mean(0), 5), (mask.mean(1), 5)):
        count = mask.numel() / shares.numel()
        assert (shares - exact).abs().max() < limit * math.sqrt(rate * (1 - rate) / count) + 1 / count


@pytest.mark.parametrize("apart", [1, 2, 3, 4, 8, 64])
def test_neighbouring_elements_and_rows_are_dropped_independently(apart):
    mask = (dropped(0.5).double() - 0.5) * 2
    limit = 4 / math.sqrt(mask.numel())
    assert abs(float((mask[:, apart:] * mask[:, :-apart]).mean())) < limit
    assert abs(float((mask[apart:] * mask[:-apart]).mean())) < limit


def test_samples_epochs_seeds_sites_and_sublayers_are_dropped_independently():
    ids = [str(sample) for sample in range(500)]
    variants = [
        fold_in(sample_keys(seed, epoch, ids, 500), Site.OUTPUT) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    variants += [
        fold_in(KEYS[:500], site, number) for site in (Site.OUTPUT, Site.MATCH, Site.QUERY) for number in (1, 2, 12)
    ]
    masks = torch.stack([dropped(0.5, 1000, keys).double().flatten() * 2 - 1 for keys in variants])
    correlations = masks @ masks.T / masks.shape[1] - torch.eye(len(masks))
    assert correlations.abs().max() < 5 / math.sqrt(masks.shape[1])


def test_attention_weights_are_dropped_independently_of_their_rows_and_columns():
    """The keys of queries and of keys are added; each pair of rows is another hash."""
    pairs = fold_in(KEYS[:60], Site.KEY)[:, None] + fold_in(KEYS[:60], Site.QUERY)[None]  # (K, Q), of the same rows
    kept = keep_mask((12, 60, 60), 0.5, CPU, keys=pairs, along=0).double() * 2 - 1
    limit = 5 / math.sqrt(kept.numel())
    assert abs(float((kept * kept.transpose(1, 2)).mean()) - 1 / 60) < limit  # the diagonal alone is its own mirror
    corners = kept[:, :-1, :-1] * kept[:, 1:, :-1] * kept[:, :-1, 1:] * kept[:, 1:, 1:]
    assert abs(float(corners.mean())) < limit
    assert abs(float((kept[1:] * kept[:-1]).mean())) < limit


def test_the_dimension_that_the_keys_lack_may_be_any():
    keys = KEYS[:6].view(2, 3)
    whole = keep_mask((2, 3, 5), 0.5, CPU, keys=keys)
    assert torch.equal(keep_mask((2, 5, 3), 0.5, CPU, keys=keys, along=1), whole.transpose(1, 2))


def test_what_is_dropped_is_a_function_of_the_keys_alone():
    states = torch.rand(2000, 33) + 1
    before = torch.get_rng_state()
    whole = dropout(states, 0.3, keys=KEYS)
    assert torch.equal(torch.get_rng_state(), before)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))[:777]
    assert torch.equal(dropout(states[order], 0.3, keys=KEYS[order]), whole[order])
    assert torch.equal(dropout(states[:, :9], 0.3, keys=KEYS), whole[:, :9])
    assert torch.equal(dropout(states, 0.3, False, keys=KEYS), states)
    assert not dropout(states, 1.0, keys=KEYS).any()


# --- Gumbel noise -------------------------------------------------------------------------------------------------


def test_exponential_draws_have_their_distribution():
    """Kolmogorov and Smirnov's distance over 80,000 draws; 1.95 / sqrt(n) is the bound at 0.1 %."""
    draws = exponential(torch.empty(20_000, 4), torch.arange(20_000)).double().flatten().sort().values
    steps = torch.arange(1, len(draws) + 1) / len(draws)
    bound = 1.95 / math.sqrt(len(draws))
    assert (1 - torch.exp(-draws) - steps).abs().max() < bound
    assert (1 - torch.exp(-1.03 * draws) - steps).abs().max() > bound  # and the test can tell


def test_gumbel_noise_has_its_distribution_and_is_independent_between_options():
    noise = -exponential(torch.empty(20_000, 4), fold_in(torch.arange(20_000), Site.MODE, 3)).log()
    values = noise.double().flatten().sort().values
    steps = torch.arange(1, len(values) + 1) / len(values)
    assert (torch.exp(-torch.exp(-values)) - steps).abs().max() < 1.95 / math.sqrt(len(values))
    correlations = torch.corrcoef(noise.T) - torch.eye(4)
    assert correlations.abs().max() < 4 / math.sqrt(20_000)
