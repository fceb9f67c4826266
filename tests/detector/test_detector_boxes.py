"""Anchors, deltas, overlap and suppression equal plain loops: borders, ties, empty boxes."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector_loops import left_by_loops, overlap
from volta_switch.detector import boxes as subject

SIDES = st.sampled_from([0.0, 1.0, 2.0, 3.5, 8.0, 15.9, 16.0])
BOXES = st.lists(
    st.tuples(SIDES, SIDES, SIDES, SIDES).map(lambda four: (four[0], four[1], four[0] + four[2], four[1] + four[3])),
    max_size=8,
)
SCORES = st.sampled_from([0.1, 0.25, 0.5, 0.5, 0.9])
THRESHOLDS = st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0])


def as_tensor(boxes) -> torch.Tensor:
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


@given(boxes=BOXES, scores=st.lists(SCORES, min_size=8, max_size=8), threshold=THRESHOLDS, most=st.integers(1, 9))
@settings(max_examples=300, deadline=None)
def test_suppression_equals_loops(boxes, scores, threshold, most):
    scores = scores[: len(boxes)]
    found = subject.suppressed(as_tensor(boxes), torch.tensor(scores), threshold, most)
    assert found.tolist() == left_by_loops(boxes, scores, threshold)[:most]
    assert subject.suppressed(as_tensor(boxes), torch.tensor(scores), threshold).tolist() == left_by_loops(
        boxes, scores, threshold
    )


@given(boxes=BOXES, threshold=THRESHOLDS, extra=st.sampled_from([0.0, 1.0]), draw=st.data())
@settings(max_examples=300, deadline=None)
def test_the_highest_class_left_equals_loops(boxes, threshold, extra, draw):
    scores = draw.draw(st.lists(st.tuples(SCORES, SCORES, SCORES), min_size=len(boxes), max_size=len(boxes)))
    highest = [0.0] * len(boxes)
    for column in range(3):
        own = [row[column] for row in scores]
        for index in left_by_loops(boxes, own, threshold, extra):
            highest[index] = max(highest[index], own[index])
    found = subject.highest_unsuppressed(as_tensor(boxes), torch.tensor(scores).reshape(-1, 3), threshold, extra)
    assert torch.equal(found, torch.tensor(highest))


@given(boxes=BOXES, others=BOXES, extra=st.sampled_from([0.0, 1.0]))
@settings(max_examples=200, deadline=None)
def test_overlaps_equal_loops(boxes, others, extra):
    found = subject.overlaps(as_tensor(boxes), as_tensor(others), extra)
    expected = [[overlap(one, other, extra) for other in others] for one in boxes]
    np.testing.assert_array_equal(found.numpy(), np.array(expected, np.float32).reshape(len(boxes), len(others)))


def test_an_empty_box_overlaps_nothing_and_stays():
    boxes = as_tensor([(3, 3, 3, 3), (3, 3, 3, 3), (0, 0, 8, 8)])
    assert subject.suppressed(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 1, 2]
    assert len(subject.suppressed(as_tensor([]), torch.empty(0), 0.5)) == 0


@given(
    deltas=st.lists(st.tuples(*[st.floats(-8, 8, width=32)] * 4), min_size=1, max_size=5),
    weights=st.sampled_from([(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]),
)
@settings(max_examples=200, deadline=None)
def test_deltas_equal_loops(deltas, weights):
    boxes = [(4.0, 2.0, 20.0, 34.0)] * len(deltas)
    found = subject.apply_deltas(torch.tensor(deltas), as_tensor(boxes), weights)
    for row, (dx, dy, dw, dh), (x1, y1, x2, y2) in zip(found, deltas, boxes, strict=True):
        width, height = x2 - x1, y2 - y1
        x, y = x1 + width / 2 + dx / weights[0] * width, y1 + height / 2 + dy / weights[1] * height
        width *= math.exp(min(dw / weights[2], math.log(1000 / 16)))
        height *= math.exp(min(dh / weights[3], math.log(1000 / 16)))
        expected = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        np.testing.assert_allclose(row.numpy(), expected, rtol=1e-5, atol=1e-3)


def test_deltas_between_boxes_lead_from_one_to_the_other():
    boxes, wanted = as_tensor([(0, 0, 10, 20), (5, 5, 6, 9)]), as_tensor([(2, 1, 40, 21), (0, 5, 6, 6)])
    for weights in ((1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)):
        back = subject.apply_deltas(subject.deltas_between(boxes, wanted, weights), boxes, weights)
        torch.testing.assert_close(back, wanted)


def test_anchors_stand_around_the_corner_of_their_cell():
    anchors = subject.cell_anchors((64, 128), (0.5, 1.0, 2.0))
    assert anchors.shape == (6, 4) and anchors[1].tolist() == [-32, -32, 32, 32]
    sides = anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(sides.prod(dim=1), torch.tensor([64.0**2] * 3 + [128.0**2] * 3))
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1, 2] * 2))
    grid = subject.grid_anchors(anchors, 2, 3, 16)
    assert grid.shape == (36, 4)
    for row in range(2):
        for column in range(3):
            own = grid[(row * 3 + column) * 6 : (row * 3 + column + 1) * 6]
            torch.testing.assert_close(own, anchors + torch.tensor([16.0 * column, 16.0 * row] * 2))


def test_what_reaches_out_of_the_image_is_cut_off():
    found = subject.clipped(as_tensor([(-5, -1, 200, 30), (10, 70, 20, 90)]), 100, 60)
    assert found.tolist() == [[0, 0, 100, 30], [10, 60, 20, 60]]
