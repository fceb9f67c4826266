"""Dropout on the CPU: the right share, the same elements backwards, independent draws, any shape and dtype."""

import math

import pytest
import torch

from volta_switch.model.noise import STEPS, Dropout, dropout

COUNT = 400_003  # not a multiple of 4
DTYPES = [torch.float32, torch.bfloat16, torch.float64]


def dropped(rate, *shape, seed=0):
    """True where an element was dropped."""
    torch.manual_seed(seed)
    return dropout(torch.ones(shape), rate) == 0


def deviation(rate, count):
    """Of the share of ``count`` draws, binomial."""
    return math.sqrt(rate * (1 - rate) / count)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_the_share_of_dropped_elements_is_the_rate(rate):
    for seed in range(3):
        share = float(dropped(rate, COUNT, seed=seed).double().mean())
        assert abs(share - rate) < 4 * deviation(rate, COUNT) + 0.5 / STEPS


@pytest.mark.parametrize("place", range(4))
def test_each_of_the_four_elements_of_a_draw_is_dropped_at_the_rate(place):
    share = float(dropped(0.1, COUNT)[place::4].double().mean())
    assert abs(share - 0.1) < 4 * deviation(0.1, COUNT // 4) + 0.5 / STEPS


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_kept_elements_are_scaled_so_that_the_mean_stays(rate):
    torch.manual_seed(0)
    out = dropout(torch.full((COUNT,), 3.0), rate)
    kept = out[out != 0]
    assert torch.equal(kept, kept[:1].expand_as(kept))
    assert float(kept[0]) == pytest.approx(3 / (1 - rate), rel=1 / STEPS / (1 - rate))
    assert abs(float(out.double().mean()) - 3) < 4 * 3 * deviation(rate, COUNT) / (1 - rate)


def test_the_scale_is_that_of_the_rounded_rate():
    """The expectation is exact: (1 - rounded) * scale = 1."""
    torch.manual_seed(0)
    out = dropout(torch.ones(1000, dtype=torch.float64), 0.1)
    rounded = round(0.1 * STEPS) / STEPS
    assert float(out.max()) == pytest.approx(1 / (1 - rounded), rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (2,), (3,), (4,), (5,), (7, 3), (2, 3, 5, 7), (0,), (0, 4)], ids=str)
def test_any_number_of_elements_in_any_dtype_is_dropped_or_scaled(shape, dtype):
    torch.manual_seed(0)
    states = torch.rand(shape).to(dtype) + 1
    before = states.clone()
    out = dropout(states, 0.5)
    assert out.dtype is dtype and out.shape == states.shape
    assert torch.equal(states, before)  # not in place
    assert ((out == 0) | (out == 2 * states)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_backward_pass_drops_the_same_elements(dtype):
    torch.manual_seed(0)
    states = (torch.rand(101, 3) + 1).to(dtype).requires_grad_()
    out = dropout(states, 0.5)
    direction = (torch.rand(101, 3) + 1).to(dtype)
    out.backward(direction)
    assert states.grad.dtype is dtype
    assert torch.equal(states.grad, torch.where(out == 0, torch.zeros_like(direction), 2 * direction))
    assert 0 < int((out == 0).sum()) < 303


def test_states_that_are_not_contiguous_are_dropped_in_place_of_their_elements():
    torch.manual_seed(0)
    states = torch.rand(5, 7).add(1).T.requires_grad_()
    out = dropout(states, 0.5)
    out.sum().backward()
    assert ((out == 0) | (out == 2 * states)).all()
    assert torch.equal(states.grad, 2.0 * (out != 0))


@pytest.mark.parametrize(("rate", "training"), [(0.0, True), (0.5, False), (0.0, False)])
def test_rate_zero_and_evaluation_change_nothing(rate, training):
    states = torch.randn(3, 5)
    state = torch.get_rng_state()
    assert dropout(states, rate, training) is states
    assert Dropout(rate).train(training)(states) is states
    assert torch.equal(torch.get_rng_state(), state)  # and draw nothing


def test_the_module_drops_in_training_as_the_function_does():
    module = Dropout(0.3)
    states = torch.ones(1000)
    torch.manual_seed(5)
    found = module(states)
    torch.manual_seed(5)
    assert torch.equal(found, dropout(states, 0.3)) and (found == 0).any()
    assert "0.3" in repr(module)


def test_the_generators_seed_repeats_the_draws():
    assert torch.equal(dropped(0.1, 1001, seed=3), dropped(0.1, 1001, seed=3))
    assert not torch.equal(dropped(0.1, 1001, seed=3), dropped(0.1, 1001, seed=4))
    torch.manual_seed(3)
    first, second = dropout(torch.ones(1001), 0.1), dropout(torch.ones(1001), 0.1)
    assert not torch.equal(first, second)  # each call draws anew


def test_a_rate_of_one_drops_everything():
    states = torch.ones(COUNT, requires_grad=True)
    out = dropout(states, 1.0)
    out.sum().backward()
    assert not out.any() and not states.grad.any()


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("apart", [1, 2, 3, 4, 5, 8, 64, 768])
def test_neighbouring_elements_are_dropped_independently(rate, apart):
    mask = dropped(rate, COUNT).double() - rate
    correlation = float((mask[:-apart] * mask[apart:]).mean() / (rate * (1 - rate)))
    assert abs(correlation) < 4 / math.sqrt(COUNT)


def test_all_patterns_of_four_neighbours_come_up_as_often_as_they_should():
    draws = dropped(0.5, COUNT // 4 * 4).view(-1, 4).long()  # the four elements of one draw
    counts = torch.bincount((draws * torch.tensor([8, 4, 2, 1])).sum(1), minlength=16).double()
    expected = len(draws) / 16
    assert float(((counts - expected) ** 2 / expected).sum()) < 37.7  # 15 degrees of freedom, 0.1 %


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float32), (torch.float32, torch.bfloat16)], ids=str)
def test_adding_what_is_dropped_equals_dropping_and_adding(dtypes, rate):
    states, update = (torch.rand(7, 9).to(dtype).requires_grad_() for dtype in dtypes)
    outcomes = []
    for way in (lambda: dropout(update, rate, onto=states), lambda: states + dropout(update, rate)):
        torch.manual_seed(0)
        out = way()
        outcomes.append((out, *torch.autograd.grad(out.square().sum(), (states, update))))
    for found, expected in zip(*outcomes, strict=True):
        assert found.dtype == expected.dtype
        assert torch.allclose(found.float(), expected.float(), rtol=0.02 if update.dtype is torch.bfloat16 else 1e-6)
    assert torch.equal(dropout(update, rate, training=False, onto=states), states + update)
