"""Entropy and mutual information of what is known."""

import numpy as np
import pytest

from volta_switch.routes.report import MOST_GROUPS, group_labels, mutual_information, surprisal

RNG = np.random.default_rng(0)


def entropy(labels):
    return surprisal(labels).mean()


def test_entropy_of_known_frequencies():
    assert entropy(["a"] * 5) == 0
    assert entropy(["a", "b"] * 4) == 1
    assert entropy(np.array([0, 1, 2, 2])) == pytest.approx(1.5)
    assert surprisal(np.array([0, 1, 2, 2])).tolist() == [2, 2, 1, 1]


def test_information_of_a_copy_is_its_entropy():
    labels = RNG.integers(0, 4, 2000)
    found = mutual_information(labels, np.array(list("wxyz"))[labels], 200)
    assert found["plug_in"] == pytest.approx(entropy(labels)) and found["p"] == 1 / 201
    assert found["bits"] == pytest.approx(2, abs=0.02) and found["samples"] == 2000


def test_bias_of_independent_labels_is_taken_out():
    """The plug-in estimate has some (40 - 1) (8 - 1) / (2 n ln 2) = 0.49 bits too many."""
    found = mutual_information(RNG.integers(0, 40, 400), RNG.integers(0, 8, 400), 200)
    assert found["plug_in"] > 0.35 and found["bits"] < 0.06 and found["p"] > 0.01


def test_a_noisy_channel_has_its_capacity():
    sent = RNG.integers(0, 2, 20000)
    received = sent ^ (RNG.random(20000) < 0.11)
    assert mutual_information(sent, received, 50)["bits"] == pytest.approx(0.5, abs=0.03)


def test_false_alarms_are_as_rare_as_promised():
    found = [mutual_information(RNG.integers(0, 3, 60), RNG.integers(0, 5, 60), 99, seed)["p"] for seed in range(300)]
    assert 0.02 < np.mean(np.array(found) <= 0.05) < 0.09


def test_a_constant_says_nothing():
    assert mutual_information(np.zeros(9), np.arange(9), 20) == {"bits": 0, "plug_in": 0, "p": 1, "samples": 9}


def test_numbers_of_many_values_are_grouped_at_quantiles():
    values = RNG.permutation(1000)
    groups = group_labels(values)
    assert set(np.bincount(groups)) == {125} and len(set(groups.tolist())) == MOST_GROUPS
    assert (np.diff(groups[np.argsort(values)]) >= 0).all()
    assert group_labels([3, 1, 3]).tolist() == [3, 1, 3]
    words = [str(number) for number in range(20)]
    assert group_labels(words).tolist() == words
