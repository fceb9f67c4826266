"""What is masked: by hand-worked boxes and captions, and against plain loops."""

import numpy as np
import pytest

from volta_switch.ablation.masking import (
    Text,
    Texts,
    coverage,
    showing,
    target_region,
    without_object,
    without_regions,
)
from volta_switch.data.entities import EntityPhrase, Phrase
from volta_switch.data.regions import Regions
from volta_switch.data.tokenizer import Tokenizer

# Of an image 100 pixels wide: a box of 10 x 10 pixels, its left half, all but a corner, the whole image, far away.
ENTITY = (10, 10, 19, 19)
BOXES = np.array([[10, 10, 14, 19], [11, 11, 30, 30], [0, 0, 99, 99], [60, 60, 70, 70]], dtype=np.float32)
SHARES = [0.5, 0.81, 1.0, 0.0]
FEATURES = np.array([[1, 2], [3, 4], [5, 6], [7, 8]], dtype=np.float32)
REGIONS = Regions("1", FEATURES, BOXES, 100, 100)


def test_coverage_is_the_share_of_the_other_box():
    np.testing.assert_allclose(coverage(BOXES, np.array([ENTITY]))[:, 0], SHARES, rtol=1e-6)
    np.testing.assert_allclose(coverage(np.array([ENTITY]), BOXES)[0, 2], 0.01, rtol=1e-6)


def plain_coverage(box, other):
    inside = sum(
        box[0] <= x <= box[2] and box[1] <= y <= box[3]
        for x in range(other[0], other[2] + 1)
        for y in range(other[1], other[3] + 1)
    )
    return inside / ((other[2] - other[0] + 1) * (other[3] - other[1] + 1))


def test_coverage_counts_pixels():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 12, (40, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    found = coverage(boxes[:20], boxes[20:])
    for row, box in enumerate(boxes[:20].tolist()):
        for column, other in enumerate(boxes[20:].tolist()):
            assert found[row, column] == pytest.approx(plain_coverage(box, other), abs=1e-6)


@pytest.mark.parametrize(("threshold", "expected"), [
    (0.0, [1, 1, 1, 0]), (0.5, [0, 1, 1, 0]), (0.82, [0, 0, 1, 0]), (1.0, [0, 0, 0, 0]),
])  # fmt: skip
def test_a_region_shows_an_entity_from_the_threshold_on(threshold, expected):
    assert showing(REGIONS, [ENTITY], threshold).tolist() == [bool(each) for each in expected]


def test_one_of_several_boxes_is_enough():
    assert showing(REGIONS, [ENTITY, (60, 60, 70, 70)], 0.5).tolist() == [False, True, True, True]


def test_the_target_fits_best_of_those_that_show_the_entity():
    """IoU: 0.5 of the left half, which does not cover enough; 81 / 419 of the next; 0.01 of the image."""
    shown = showing(REGIONS, [ENTITY], 0.5)
    assert target_region(REGIONS, [ENTITY], shown) == 1
    assert target_region(REGIONS, [ENTITY], np.array([True, True, True, False])) == 0
    assert target_region(REGIONS, [ENTITY, (0, 0, 99, 98)], shown) == 2


def test_masked_regions_are_zeros_and_the_global_one_the_mean_of_the_others():
    features, whole = without_regions(REGIONS, np.array([False, True, True, False]))
    assert features.tolist() == [[1, 2], [0, 0], [0, 0], [7, 8]] and whole.tolist() == [4, 5]
    features, whole = without_regions(REGIONS, np.ones(4, dtype=bool))
    assert not features.any() and not whole.any()
    assert (REGIONS.features == FEATURES).all()


def test_a_taken_object_looks_like_the_mean_and_so_the_whole():
    features, whole = without_object(REGIONS, np.array([False, True, False, False]), np.array([9, 9], dtype=np.float32))
    assert features.tolist() == [[1, 2], [9, 9], [5, 6], [7, 8]] and whole.tolist() == [5.5, 6.25]


# --- Texts ----------------------------------------------------------------------------------------------------------

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "##der", "ball", ",", "cafe", "left"]
MASK = 4


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    return Tokenizer(tmp_path)


def sample(words, first, count):
    return EntityPhrase("1", 0, tuple(words.split()), Phrase("7", first, count, ()), (ENTITY,))


def shown(text: Text) -> str:
    return " ".join(f"<{TOKENS[i]}>" if named else TOKENS[i] for i, named in zip(text.ids, text.named, strict=True))


@pytest.mark.parametrize(("words", "first", "count", "length", "expected"), [
    ("A redder ball", 0, 2, 9, "[CLS] <a> <red> <##der> ball [SEP]"),
    ("a ball a ball", 2, 2, 9, "[CLS] a ball <a> <ball> [SEP]"),  # the second one, although the first reads alike
    ("Café left, nil a ball", 2, 1, 12, "[CLS] cafe left , <[UNK]> a ball [SEP]"),  # where VOLTA loses count
    ("left nil redder ball", 2, 2, 5, "[CLS] left [UNK] <red> [SEP]"),
    ("left nil redder ball", 3, 1, 5, "[CLS] left [UNK] red [SEP]"),
])  # fmt: skip
def test_the_words_of_a_phrase_become_its_pieces(tokenizer, words, first, count, length, expected):
    text = Texts(tokenizer, length).of(sample(words, first, count))
    assert shown(text) == expected
    assert text.ids.tolist() == tokenizer.encode(words, length)


def test_maskings_of_a_text(tokenizer):
    text = Texts(tokenizer, 9).of(sample("a redder ball", 1, 1))
    named = [TOKENS.index(name) for name in ("[CLS]", "a", "[MASK]", "[MASK]", "ball", "[SEP]")]
    assert text.masked("none", MASK).tolist() == text.ids.tolist()
    assert text.masked("phrase", MASK).tolist() == named
    assert text.masked("all", MASK).tolist() == [2, MASK, MASK, MASK, MASK, 3]
