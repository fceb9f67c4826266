"""RoIPool equals plain loops: boxes at borders, outside, smaller than a cell, and empty."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector_loops import pooled_by_loops
from volta_switch.detector.pooling import roi_pool

EDGE = st.one_of(st.floats(-40, 200, width=32), st.sampled_from([0.0, 7.9999, 8.0, 8.0001, 24.0, 96.0, 128.0, -8.0]))


@given(boxes=st.lists(st.tuples(EDGE, EDGE, EDGE, EDGE), max_size=4), pooled=st.sampled_from([1, 2, 7, 14]))
@settings(max_examples=150, deadline=None)
def test_pooling_equals_loops(boxes, pooled):
    features = torch.from_numpy(np.random.default_rng(7).normal(size=(3, 6, 9)).astype(np.float32))
    found = roi_pool(features, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), 1 / 16, pooled)
    np.testing.assert_array_equal(found.numpy(), pooled_by_loops(features.numpy(), boxes, 1 / 16, pooled))


def test_a_box_outside_of_the_map_gives_zeros_and_an_inner_one_negative_maxima():
    features = -torch.ones(2, 4, 4)
    found = roi_pool(features, torch.tensor([[200.0, 200.0, 300.0, 300.0], [0.0, 0.0, 32.0, 32.0]]), 1 / 16, 2)
    assert (found[0] == 0).all() and (found[1] == -1).all()
    assert roi_pool(features, torch.empty(0, 4), 1 / 16, 2).shape == (0, 2, 2, 2)


def test_gradients_reach_the_largest_cells_alone():
    features = torch.arange(16.0).reshape(1, 4, 4).requires_grad_()
    roi_pool(features, torch.tensor([[0.0, 0.0, 48.0, 48.0]]), 1 / 16, 2).sum().backward()
    assert features.grad is not None and features.grad.nonzero()[:, 1:].tolist() == [[1, 1], [1, 3], [3, 1], [3, 3]]
