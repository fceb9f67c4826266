"""Intervals of drawn images cover what the whole split would have given."""

import numpy as np
import pytest

from volta_switch.data.batches.sampling import whole_groups
from volta_switch.routes.report import ImageSample, WeightedValues, means, surprisal

RNG = np.random.default_rng(0)
IMAGES, QUESTIONS = 200, 4


def split(spread):
    """Ids, images, and numbers whose images differ by ``spread`` standard deviations of a question."""
    images = [f"image {image}" for image in range(IMAGES) for _ in range(QUESTIONS)]
    values = RNG.normal(size=len(images)) + spread * np.repeat(RNG.normal(size=IMAGES), QUESTIONS)
    return [str(number) for number in range(len(images))], images, values


def test_groups_are_drawn_whole_and_at_random():
    names = [f"{number // 4}" for number in range(400)]
    drawn = whole_groups(names, 40, seed=0)
    assert len(drawn) == 40 and (np.bincount(drawn % 4) == 10).all()  # every fourth would be of one kind
    assert (np.diff(drawn[::4]) != 40).any() and drawn.tolist() != whole_groups(names, 40, seed=1).tolist()
    assert {*drawn} < {*whole_groups(names, 80, seed=0)}
    assert len(whole_groups(names, 1, seed=0)) == 8  # two groups, so that there is a spread
    assert len(whole_groups(names, 10**6, seed=0)) == 400 and len(whole_groups(["a"] * 3, 1, seed=0)) == 3
    shuffled = RNG.permutation(names)
    assert {*shuffled[whole_groups(shuffled, 40, seed=0)]} == {names[place] for place in drawn}  # whatever the order


@pytest.mark.parametrize(
    ("what", "spread", "count"),
    [("mean", 0.0, 80), ("mean", 2.0, 80), ("mean", 2.0, 400), ("share", 2.0, 120), ("entropy", 2.0, 160)],
)
def test_95_of_100_intervals_cover_the_whole_splits_number(what, spread, count):
    covered, tries = 0, 400
    for seed in range(tries):
        ids, images, values = split(spread)
        taken = whole_groups(images, count, seed)
        drawn = ImageSample(dict(zip(ids, images, strict=True)))

        def items(of, what=what):
            if what == "entropy":
                return surprisal(np.digitize(of, (-1.0, 0.5)))
            return of > 1 if what == "share" else of

        low, high = drawn.interval(items(values[taken]), drawn.groups([ids[place] for place in taken]))
        covered += low <= means(items(values)) <= high
    assert 0.92 <= covered / tries <= 0.98


def test_what_all_drawn_images_agree_on_is_not_certain():
    drawn = ImageSample({str(number): f"image {number // 2}" for number in range(100)})
    groups = drawn.groups([str(number) for number in range(20)])  # 10 of 50 images
    never, always = drawn.interval(np.zeros(20, bool), groups), drawn.interval(np.ones(20, bool), groups)
    assert never[0] == 0 and (1 - never[1]) ** 10 == pytest.approx(0.05) and always == [1 - never[1], 1]
    assert drawn.interval(np.zeros(20), groups) is None  # of another number there is no bound
    assert drawn.interval(np.arange(2.0), drawn.groups(["0", "1"])) is None  # one image
    assert drawn.interval(np.arange(100.0), drawn.groups(map(str, range(100)))) == [49.5, 49.5]  # the whole split


def test_a_weighed_mean_has_the_interval_of_its_rows():
    drawn = ImageSample({str(number): f"image {number}" for number in range(40)})
    sums, weights = np.array([1.0, 6.0, 2.0, 12.0]), np.array([1, 2, 2, 3])
    ratio = WeightedValues(sums, weights)
    assert ratio.mean == pytest.approx(21 / 8) == means({"a": [ratio]})["a"][0]
    rows, of_rows = np.repeat(sums / weights, weights), np.repeat(["0", "1", "2", "3"], weights)
    low, high = drawn.interval(ratio, drawn.groups(["0", "1", "2", "3"]))
    assert (low, high) == pytest.approx(tuple(drawn.interval(rows, drawn.groups(of_rows))))
    assert low < 21 / 8 < high


def test_a_report_and_its_intervals_have_one_shape():
    drawn = ImageSample({str(number): f"image {number // 2}" for number in range(100)})
    groups = drawn.groups([str(number) for number in range(20)])
    tree = {"layers": [{"layer": 1, "modes": {"J": np.arange(20) % 4 == 0}}], "entropy": np.linspace(0, 1, 20)}
    assert means(tree) == {"layers": [{"layer": 1, "modes": {"J": 0.25}}], "entropy": pytest.approx(0.5)}
    found = drawn.intervals(tree, groups)
    assert (
        found["layers"][0]["layer"] == 1
        and found["layers"][0]["modes"]["J"][0] < 0.25 < found["layers"][0]["modes"]["J"][1]
    )
