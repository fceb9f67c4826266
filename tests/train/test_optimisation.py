"""AdamW's groups, the schedule's values, and which hyperparameters are refused."""

import math

import pytest
import torch
from torch import nn

from volta_switch import BertForVLPreTraining, UserError
from volta_switch.train.optimisation import (
    Hyperparameters,
    build_optimizer,
    build_schedule,
    clipped_step,
    linear_schedule,
)

HYPER = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3}


def test_the_rate_rises_to_the_peak_and_falls_to_nothing():
    factor = linear_schedule(10, 100)
    assert [factor(step) for step in (0, 1, 5, 10, 55, 100, 101)] == [0, 0.1, 0.5, 1, 0.5, 0, 0]


def test_without_warm_up_the_first_step_has_the_whole_rate():
    assert [linear_schedule(0, 4)(step) for step in range(5)] == [1, 0.75, 0.5, 0.25, 0]


def test_warm_up_may_end_between_two_steps_or_last_the_whole_run():
    assert [linear_schedule(2.5, 5)(step) for step in range(4)] == pytest.approx([0, 0.4, 0.8, 0.8])
    assert [linear_schedule(3, 3)(step) for step in range(4)] == pytest.approx([0, 1 / 3, 2 / 3, 0])


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"warmup_proportion": 0.4}, [0, 0.5, 1, 2 / 3, 1 / 3, 0]),  # 2 of 5 steps
        ({"warmup_proportion": 0.4, "warmup_steps": 0}, [1, 0.8, 0.6, 0.4, 0.2, 0]),
        ({"warmup_proportion": 0.0, "schedule_epochs": 2}, [1, 0.9, 0.8, 0.7, 0.6, 0.5]),  # made for 10 steps
    ],
)
def test_the_schedule_counts_the_optimisers_steps(changes, rates):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    hyper = Hyperparameters(**{**HYPER, "epochs": 1, **changes})
    scheduler = build_schedule(optimizer, hyper, steps_per_epoch=5)
    found = []
    for _ in rates:
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert found == pytest.approx([0.1 * rate for rate in rates])


@pytest.mark.parametrize("name", ["ctrl_uniter", "switchbert", "ctrl_lxmert"])
def test_vectors_do_not_decay_and_every_parameter_stands_once(world, name):
    model = BertForVLPreTraining(world.config(name))
    optimizer = build_optimizer(model, Hyperparameters(**HYPER, weight_decay=0.3))
    decayed, spared = optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0)
    given = [id(parameter) for group in (decayed, spared) for parameter in group["params"]]
    assert len(given) == len(set(given)) and set(given) == {id(parameter) for parameter in model.parameters()}
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    vectors = {id(parameter) for norm in norms for parameter in norm.parameters()}
    vectors |= {id(parameter) for name, parameter in model.named_parameters() if name.endswith("bias")}
    assert {id(parameter) for parameter in spared["params"]} == vectors


def test_the_first_step_is_bias_corrected():
    parameter = torch.nn.Parameter(torch.tensor([[1.0, -1.0]]))
    model = torch.nn.ParameterList([parameter])
    optimizer = build_optimizer(model, Hyperparameters(**HYPER, weight_decay=0.0))
    parameter.grad = torch.tensor([[3e-4, -7.0]])
    optimizer.step()  # the corrected step is the rate, whatever the gradient's size
    torch.testing.assert_close(parameter.detach(), torch.tensor([[0.999, -0.999]]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("batch_size", 0), ("schedule_epochs", 0), ("learning_rate", -1e-3),
        ("learning_rate", math.nan), ("weight_decay", math.inf), ("warmup_proportion", 1.5), ("warmup_steps", -1),
        ("adam_epsilon", -1e-6), ("clip_grad_norm", -1.0), ("adam_betas", (0.9, 1.0)),
    ],
)  # fmt: skip
def test_a_hyperparameter_out_of_range_is_named(name, value):
    with pytest.raises(UserError, match=rf"^{name}: expected .*, found ") as caught:
        Hyperparameters(**{**HYPER, name: value})
    assert "\n" not in str(caught.value)


def test_hyperparameters_are_recorded_as_json_types():
    values = Hyperparameters(**HYPER).to_dict()
    assert values["adam_betas"] == [0.9, 0.999] and values["epochs"] == 2 and values["seed"] == 0


@pytest.mark.parametrize("limit", [0.5, 1e9, 0.0])
def test_a_clipped_step_is_clipping_and_then_a_step(limit):
    weights = []
    for clip_first in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(30, 40), nn.Linear(40, 5))
        optimizer = build_optimizer(model, Hyperparameters(epochs=1, batch_size=1, learning_rate=1e-2))
        for seed in range(3):
            given = torch.randn(7, 30, generator=torch.Generator().manual_seed(seed))
            (model(given) ** 2).sum().backward()
            if clip_first:
                if limit:
                    assert nn.utils.clip_grad_norm_(model.parameters(), limit) > 0.5
                optimizer.step()
            else:
                clipped_step(optimizer, limit)
            optimizer.zero_grad()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.allclose(*weights, atol=1e-6)
