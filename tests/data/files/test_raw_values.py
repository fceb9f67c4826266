"""Which float type the bytes of an array are of, by their length and the numbers."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from volta_switch.data.files.raw_values import OtherForm, float_array, integer_array, whole_number
from volta_switch.data.image_ids import id_text

RNG = np.random.default_rng(0)
FEATURES = {
    "cut off at 0": lambda shape: np.maximum(RNG.normal(0.3, 0.6, shape), 0),
    "normal": lambda shape: RNG.normal(size=shape),
    "of one magnitude": lambda shape: RNG.uniform(0.5, 1.5, shape),
    "heavy-tailed": lambda shape: np.exp(RNG.normal(0, 3, shape)).clip(0, 6e4),
    "mostly 0": lambda shape: RNG.exponential(0.4, shape) * (RNG.random(shape) < 0.3),
    "rounded": lambda shape: RNG.integers(0, 8, shape) / 4,
    "zeros": np.zeros,
}


def read(array: np.ndarray, *given) -> np.ndarray:
    return float_array(base64.b64encode(array.tobytes()).decode(), *given)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("kind", ["<f4", "<f8", "<f2"])
@pytest.mark.parametrize("shape", [(36, 2048), (12, 64), (1, 2048)])
@pytest.mark.parametrize("name", FEATURES)
def test_features_are_read_in_the_type_that_they_have(name, shape, kind, known) -> None:
    for made_from in (kind, "<f4"):  # float64 that was float32 has halves of its own kind
        features = FEATURES[name](shape).astype(made_from).astype(kind)
        if name == "zeros" and kind != "<f4":
            continue  # zeros are of every type
        found = read(features, "features", shape[0], None, shape[1] if known else None)
        assert np.array_equal(found.reshape(shape), features.astype("<f4"))


def some_boxes(count: int, whole: bool) -> np.ndarray:
    corner = RNG.uniform(0, 300, (count, 2))
    boxes = np.concatenate([corner, corner + RNG.uniform(5, 300, (count, 2))], axis=1)
    boxes[0, :2] = 0
    return boxes.round() if whole else boxes


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kind", ["<f4", "<f8", "<f2"])
@pytest.mark.parametrize("count", [2, 3, 36, 100])
def test_boxes_are_of_the_type_that_num_boxes_says_or_refused(count, kind, whole) -> None:
    boxes = some_boxes(count, whole).astype(kind)
    for told in (count, None):
        assert np.array_equal(read(boxes, "boxes", told, 4).reshape(-1, 4), boxes.astype("<f4"))
    for wrong in (2 * count, 4 * count, count + 1, max(count // 2, 1), 0):
        with pytest.raises(OtherForm, match=r"boxes: .* bytes, num_boxes is"):
            read(boxes, "boxes", wrong, 4)


@pytest.mark.parametrize("kind", ["<f4", "<f8", "<f2"])
def test_probabilities_of_any_type_are_read(kind) -> None:
    scores = RNG.dirichlet(np.full(401, 0.05), 36).astype(kind)
    for name in ("cls_prob", "attr_scores"):
        assert np.array_equal(read(scores, name, 36).reshape(36, -1), scores.astype("<f4"))
    assert np.array_equal(read(scores.max(axis=1), "objects_conf", 36, 1), scores.max(axis=1).astype("<f4"))


@pytest.mark.parametrize("kind", ["<i8", "<i4", "<i2"])
def test_labels_of_any_type_are_read(kind) -> None:
    labels = np.arange(36, dtype=kind)
    found = integer_array(base64.b64encode(labels.tobytes()), "objects_id", 36)
    assert found.dtype == np.int64 and np.array_equal(found, labels)
    with pytest.raises(OtherForm, match=r"objects_id: .* bytes, expected 280 for 35 boxes"):
        integer_array(base64.b64encode(labels.tobytes()), "objects_id", 35)
    with pytest.raises(OtherForm, match="objects_id: float64, expected whole numbers"):
        integer_array(labels + 0.5, "objects_id", 36)


def test_numbers_that_are_none_stay_float32s() -> None:
    features = RNG.normal(size=(36, 64)).astype("<f4")
    for value in (np.nan, np.inf, 1e30, 1e-30):
        features[0, ::8] = value
        assert np.array_equal(read(features, "features", 36), features.ravel(), equal_nan=True)


@pytest.mark.parametrize(
    "value",
    [480, 480.0, "480", "480.0", " 480 ", b"480.00", np.int16(480), np.float64(480), np.array(480), np.array([[480]])],
)
def test_a_size_is_read_however_it_is_spelt(value) -> None:
    assert whole_number(value, "the height") == 480
    assert whole_number([value], "the height") == 480


def endless() -> list:
    """Return a list that holds itself, and one whose text would fill any memory, alone and in a list."""
    itself: list = []
    itself.append(itself)
    shared: list = [1]
    for _ in range(100):
        shared = [shared, shared]
    return [itself, shared, [itself], [shared]]


@pytest.mark.parametrize("place", range(4))
def test_lists_without_end_are_refused_at_once(place) -> None:
    with pytest.raises(OtherForm, match="the height is a list, expected a whole number"):
        whole_number(endless()[place], "the height")
    with pytest.raises(TypeError, match="a list is no id"):
        id_text(endless()[place])


@pytest.mark.parametrize(
    "value",
    [
        "",
        "tall",
        "480.5",
        480.5,
        None,
        True,
        [1, 2],
        np.array([]),
        np.complex64(480),
        np.nan,
        "inf",
        "9" * 5000,
        b"\xff",
        {"h": 1},
    ],
)
def test_what_is_no_size_is_refused(value) -> None:
    with pytest.raises(OtherForm, match=r"the height is .* expected a whole number"):
        whole_number(value, "the height")
