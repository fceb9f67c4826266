"""The interval of one run's score over its test items."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from volta_switch.tasks.graded_items import Items, NoItems, interval_over_items


def items(points, groups=None):
    ids = np.array([f"{number:03}" for number in range(len(points))])
    return Items(ids, ids if groups is None else np.array(groups), np.array(points, np.float32), Path("results.json"))


def test_independent_items_have_students_interval():
    points = [0, 100, 50, 100, 100, 0, 30] * 9
    low, high, count = interval_over_items(items(points), float(np.mean(points)), 0.95)
    expected = ttest_1samp(points, 0).confidence_interval(0.95)
    assert (low, high) == pytest.approx((expected.low, expected.high)) and count == len(points)


def test_items_of_one_image_count_once():
    points = [0, 100, 50, 100, 100, 0, 30] * 9
    twice, groups = np.repeat(points, 2), np.repeat(np.arange(len(points)), 2)
    alone = interval_over_items(items(points), float(np.mean(points)), 0.9)
    assert interval_over_items(items(twice, groups), float(np.mean(points)), 0.9) == pytest.approx(alone)


def test_bounds_are_percentages():
    low, high, _ = interval_over_items(items([0, 100, 100, 100]), 75.0, 0.95)
    assert high == 100 and low == 0


@pytest.mark.parametrize(
    ("points", "groups", "score", "why"),
    [
        ([100, 100, 100], None, 100, "all items of results.json agree"),
        ([0, 100], ["a", "a"], 50, "all items of results.json belong together"),
        ([0, 100], None, 51, "gives 50.000, not the score 51.000"),
    ],
)
def test_no_interval_where_none_is_known(points, groups, score, why):
    with pytest.raises(NoItems, match=why):
        interval_over_items(items(points, groups), score, 0.95)
