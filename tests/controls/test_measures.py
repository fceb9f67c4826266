"""What the controls measure with: information of routes, finite differences, schedules and thresholds."""

import json
import math

import numpy as np
import pytest
import torch

from shells import ROOT
from volta_switch.config import load_config
from volta_switch.controls import CONTROLS
from volta_switch.controls.conditions import (
    NEEDS,
    PLANTED,
    RIGHT,
    SABOTAGES,
    THRESHOLDS,
    Budget,
    Condition,
    Threshold,
    cut_gradients,
    entropy,
    model_config,
    mutual_information,
    start_annealing,
)
from volta_switch.controls.gradients import compared_gradients, correlation, relative_error
from volta_switch.controls.planted_routes import MODES, draw, recovered
from volta_switch.model.bert import BertModel
from volta_switch.model.switch import Switcher

HALF = np.array([0, 1] * 8)


def test_entropy_is_in_bits():
    assert entropy(np.zeros(5, int)) == 0.0
    assert entropy(HALF) == pytest.approx(1.0)
    assert entropy(np.array([0, 1, 1, 1])) == pytest.approx(2 - 0.75 * math.log2(3))


def test_information_is_all_of_the_entropy_under_other_names_and_none_where_routes_are_independent():
    assert mutual_information(HALF, 3 - 2 * HALF) == pytest.approx(1.0)
    assert mutual_information(HALF, np.zeros(16, int)) == 0.0
    assert mutual_information(HALF, np.array([0, 0, 1, 1] * 4)) == pytest.approx(0.0)


def test_recovered_is_the_share_of_all_layers_entropy():
    planted = np.stack((HALF, np.array([0, 0, 1, 1] * 4)), 1)  # two layers, a bit each
    one_of_two = np.stack((HALF, np.zeros(16, int)), 1)
    assert recovered(planted, planted) == pytest.approx(1.0)
    assert recovered(one_of_two, planted) == pytest.approx(0.5)
    assert recovered(planted[:, ::-1], planted) == pytest.approx(0.0)


def test_planted_routes_follow_words_that_half_of_the_samples_have():
    config = model_config(2, vocab_size=40, width=16)
    batch = draw(np.random.default_rng(0), 2000, config)
    for layer, pair in enumerate(MODES):
        absent, present = (config.switch.modes.index(mode) for mode in pair)
        word = (batch.given.input_ids == 3 + layer).any(1)
        assert torch.equal(batch.modes[:, layer], torch.where(word, present, absent))
        assert 0.45 < word.float().mean() < 0.55
    word = (batch.given.input_ids == 3 + len(MODES) + 1).any(1)
    assert torch.equal(batch.inputs, torch.stack((torch.zeros(2000), 1 + word), 1).long())


class Cube(torch.autograd.Function):
    """x cubed, whose gradient is scaled by a factor: 1 is right."""

    @staticmethod
    def forward(ctx, values, factor):
        ctx.save_for_backward(values)
        ctx.factor = factor
        return values**3

    @staticmethod
    def backward(ctx, grad):
        return ctx.factor * 3 * ctx.saved_tensors[0] ** 2 * grad, None


@pytest.mark.parametrize("factor, right", [(1.0, True), (1.01, False), (0.0, False)])
def test_finite_differences_tell_a_wrong_gradient(factor, right):
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 4).double()
    before = model.weight.detach().clone()
    given = torch.randn(3, 5, dtype=torch.float64)
    pairs = compared_gradients(
        model, lambda: Cube.apply(model(given), factor).sum(), np.random.default_rng(0), lambda name: 6
    )
    assert torch.equal(model.weight, before) and [len(pairs[name][0]) for name in ("weight", "bias")] == [6, 4]
    own, finite = pairs["weight"]
    assert (relative_error(own, finite) < 1e-6) is right
    assert correlation(own, finite) == pytest.approx(1.0 if factor else 0.0)


def test_relative_error_is_of_the_larger_and_leaves_rounding_of_small_ones():
    assert relative_error(np.array([1.0, 2.0]), np.array([1.0, 1.0])) == 0.5
    assert relative_error(np.array([1.0, 1e-9]), np.array([1.0, 2e-9])) < 1e-5


@pytest.mark.parametrize("condition", (RIGHT, *SABOTAGES), ids=lambda condition: condition.name)
def test_the_temperature_reaches_its_floor_where_the_condition_says(condition):
    budget = Budget(steps=200, batch=8)
    encoder = BertModel(condition.config(model_config(1, vocab_size=10, width=16), budget)).encoder
    start_annealing(encoder, budget)
    until = int(encoder.switch_floor_samples)
    assert until == round(max(condition.share * budget.samples, budget.batch))
    temperatures = []
    for samples in (0, int(0.9 * until), until):
        encoder.switch_samples.fill_(samples)
        temperatures.append(float(encoder.temperature))
    start, before, after = temperatures
    assert start == condition.start and before > 0.2 and after == pytest.approx(0.2)


def test_the_schedules_of_issue_7_are_the_demos_rate():
    shares = {condition.name: condition.share for condition in SABOTAGES if condition.name.startswith("first study")}
    assert shares["first study, pre-training"] == pytest.approx(math.log(25) / 0.00096 / 36_000)
    assert math.log(5.0 / 0.2) / (shares["first study, pre-training"] * 36_000) == pytest.approx(0.00096)
    assert math.log(1.0 / 0.2) / (shares["first study, fine-tuning"] * 16_000) == pytest.approx(0.00096)


def test_a_static_model_has_no_schedule():
    config = model_config(1, vocab_size=10, width=16, switched=False)
    assert RIGHT.config(config, Budget(steps=3)) is config and config.switch is None


def test_cut_gradients_leave_the_switchers_without_any():
    switcher = Switcher(4, load_config("demo/switchbert").switch, 3)
    handles = cut_gradients(switcher)
    assert not switcher(torch.randn(2, 4), torch.randn(2, 4)).requires_grad
    handles[0].remove()
    assert switcher(torch.randn(2, 4), torch.randn(2, 4)).requires_grad


def test_a_threshold_holds_at_its_bound_and_never_for_what_is_no_number():
    least, most = Threshold("a", 0.5, True, ""), Threshold("a", 0.5, False, "")
    assert [least.holds(value) for value in (0.4, 0.5, 0.6)] == [False, True, True]
    assert [most.holds(value) for value in (0.4, 0.5, 0.6)] == [True, True, False]
    assert not least.holds(math.nan) and not most.holds(math.nan)
    assert (least.worst([0.1, 0.7]), most.worst([0.1, 0.7])) == (0.1, 0.7)


def test_every_control_has_thresholds_and_every_required_failure_is_stated():
    assert set(THRESHOLDS) == set(CONTROLS)
    required = {condition.name: set(condition.fails) for condition in SABOTAGES}
    assert required["detached"] >= {NEEDS, PLANTED}
    assert all(PLANTED in required[name] for name in ("floor at step 1", "floor at 12 %", "first study, pre-training"))
    assert Condition("a", "b").fails == () == RIGHT.fails


def test_thresholds_of_planted_routes_are_the_calibrations_worst_seed_less_a_fifth():
    """The calibration's numbers are those of the page."""
    page = (ROOT / "docs/controls.md").read_text(encoding="utf-8")
    rows = [line.split("|")[2:5] for line in page.splitlines() if line.startswith("| seed ")]
    calibration = np.array(rows, float)  # (seeds, 3): SAB, SIB, error
    assert len(calibration) == 10
    bounds = [each.bound for each in THRESHOLDS[PLANTED]]
    worst = [calibration[:, 0].min() * 0.8, calibration[:, 1].min() * 0.8, calibration[:, 2].max() * 1.2]
    assert bounds == pytest.approx(worst, abs=0.006)


def test_the_record_is_json():
    from volta_switch.controls.commands import Cell, collected
    from volta_switch.controls.report import record

    found = collected([(Cell(NEEDS, RIGHT, 0), {"joint": 0.5, "forced": 1.0, "Switch-BERT": 1.0, "MI": 1.0})])
    written = json.loads(json.dumps(record(found, short=True)))
    assert written["outcomes"][0]["values"] == {"0": {"joint": 0.5, "forced": 1.0, "Switch-BERT": 1.0, "MI": 1.0}}
    assert written["budgets"][NEEDS]["steps"] == 300 and written["problems"] == []
