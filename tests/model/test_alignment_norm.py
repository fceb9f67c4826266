"""Alignment vectors normalised by running statistics: what these are, and how they survive a division and weights."""

import copy

import pytest
import torch

from model.small_models import encoder_of, random_batch
from model.test_reference import small
from volta_switch import BertForVLPreTraining
from volta_switch.model.switch import EPSILON, MOMENTUM, BatchStatistics, batch_statistics
from volta_switch.weights import load_volta, to_volta

W = 6


def vectors(B=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(B, W, generator=generator)


def statistics(*seen):
    one = BatchStatistics(W).train()
    for each in seen:
        one(each)
    return one


def model_of(**switch):
    torch.manual_seed(0)
    return BertForVLPreTraining(small("demo/switchbert", switch=switch))


def test_the_first_step_sets_them_and_later_ones_move_them():
    steps = [vectors(seed=seed) for seed in range(14)]
    found = statistics(*steps)
    mean, variance = torch.zeros(W), torch.ones(W)
    for number, step in enumerate(steps):
        share = max(1 / (number + 1), MOMENTUM)
        mean = mean + share * (step.mean(0) - mean)
        variance = variance + share * (step.var(0, unbiased=False) - variance)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.variance, variance)
    assert int(found.steps) == 14


def test_a_step_is_normalised_by_the_steps_before_it():
    one, first, second = BatchStatistics(W).train(), vectors(seed=0), vectors(seed=1)
    torch.testing.assert_close(one(first), first / (1 + EPSILON) ** 0.5)  # there was none
    expected = (second - first.mean(0)) / (first.var(0, unbiased=False) + EPSILON).sqrt()
    torch.testing.assert_close(one(second), expected)


def test_evaluation_changes_nothing():
    one = statistics(vectors()).eval()
    before = copy.deepcopy(one.state_dict())
    one(vectors(seed=1))
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items()) and not one.waiting


@pytest.mark.parametrize("parts", [1, 2, 3, 20])
def test_parts_of_a_step_add_up(parts):
    one, step = BatchStatistics(W).train(), vectors()
    one.deferred = True
    for part in step.chunk(parts):
        assert torch.equal(one(part), part * (1 + EPSILON) ** -0.5)  # by none before the step's end
    one.update(one.collect())
    whole = statistics(step)
    torch.testing.assert_close(one.mean, whole.mean)
    torch.testing.assert_close(one.variance, whole.variance)
    assert int(one.steps) == 1 and not one.waiting


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_numbers_that_are_not_finite_and_no_sample_leave_them_alone(bad):
    one = statistics(vectors())
    before = copy.deepcopy(one.state_dict())
    if bad is None:
        one.update(one.collect())
    else:
        one(torch.full((2, W), bad))
    assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())


def test_no_gradient_passes_through_them():
    one, step = statistics(vectors()), vectors(seed=1).requires_grad_()
    one(step)[0].sum().backward()
    assert step.grad is not None and step.grad[0].abs().min() > 0 and not step.grad[1:].any()


def test_the_switchers_see_them_and_weights_carry_them():
    model, batch = model_of(alignment_norm="batch").train(), random_batch(small("demo/switchbert"), 6, 6, 4)
    assert len(batch_statistics(model)) == 2 * encoder_of(model).depth - 1
    model(**batch)
    assert all(int(one.steps) == 1 and one.mean.any() for one in batch_statistics(model))
    again = model_of(alignment_norm="batch")
    assert load_volta(again, to_volta(model)) == []
    for one, other in zip(batch_statistics(model), batch_statistics(again), strict=True):
        assert torch.equal(one.mean, other.mean) and torch.equal(one.variance, other.variance)


def test_nothing_is_normalised_unless_asked_for():
    assert not batch_statistics(model_of()) and not batch_statistics(model_of(alignment_norm="sample"))
    names = {name for name in model_of().state_dict() if "norm" in name and "switch" in name}
    assert not names


def test_an_initial_scale_draws_the_last_layers_weights():
    model = model_of(initial_scale=0.5)
    weights = torch.cat([switcher.options.weight.flatten() for switcher in encoder_of(model).attention_switch])
    assert float(weights.detach().std()) == pytest.approx(0.5, rel=0.1)
    assert not any(switcher.options.weight.any() for switcher in encoder_of(model_of()).attention_switch)
