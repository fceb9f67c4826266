"""VQA's official accuracy against the definition computed by brute force."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volta_switch.tasks.metrics import agreement, answer_accuracy, vqa_accuracy
from volta_switch.tasks.vqa_files import normalised

# words that the normalisation maps onto each other, or not
answers = st.sampled_from(["2", "two", "Two.", "yes", "Yes", "a yes", "red/blue", "red blue", "red / blue", " yes\n"])
ten_answers = st.lists(answers, min_size=10, max_size=10)


def by_leaving_out_each(prediction, given):
    """Ten choose nine: the mean of min(1, matches / 3) over the subsets of nine."""
    subsets = [subset.count(prediction) for subset in map(list, combinations(given, len(given) - 1))]
    return sum(min(1, matches / 3) for matches in subsets) / len(subsets)


@given(answers, ten_answers)
def test_accuracy_is_the_mean_over_ten_choose_nine(prediction, given):
    if len({answer.strip() for answer in given}) > 1:
        expected = by_leaving_out_each(normalised(prediction), [normalised(answer) for answer in given])
    else:
        expected = by_leaving_out_each(prediction.strip(), [answer.strip() for answer in given])
    assert answer_accuracy(prediction, given) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 10), st.integers(0, 10))
def test_agreement_is_the_mean_over_the_subsets(matches, others):
    if matches + others > 1:
        given = ["right"] * matches + ["other"] * others
        expected = by_leaving_out_each("right", given)
        assert agreement(matches, matches + others) == pytest.approx(expected, abs=1e-12)


def test_votes_of_ten_give_the_known_accuracies():
    assert [round(agreement(votes, 10), 10) for votes in range(6)] == [0, 0.3, 0.6, 0.9, 1, 1]


def test_where_all_agree_answers_are_compared_as_they_were_written():
    assert answer_accuracy("two", ["two"] * 10) == 1
    assert answer_accuracy("2", ["two"] * 10) == 0 == answer_accuracy("Two", ["two"] * 10)
    assert answer_accuracy("two ", ["two", " two"] * 5) == 1
    assert answer_accuracy("2", ["two"] * 9 + ["many"]) == 1


def test_the_accuracy_of_a_split_is_the_mean_over_its_predictions_in_percent():
    annotators = {1: ["yes"] * 10, 2: ["no"] * 2 + ["yes"] * 8, 3: ["x"] * 10}
    assert vqa_accuracy({1: "yes", 2: "no"}, annotators) == pytest.approx(80.0)
