"""Gumbel-softmax draws options with their probabilities; top-K keeps K; the temperature falls as METHOD says."""

import math

import pytest
import torch

from model.small_models import encoder_of, switch_model
from volta_switch import SwitchConfig
from volta_switch.model.switch import annealed_temperature, hard_weights, samples_until_floor, soft_weights
from volta_switch.weights import load_volta, to_volta

PI = torch.tensor([0.1, 0.2, 0.3, 0.4])
DRAWS = 20_000


def draw(pi, K=None, temperature=1.0, seed=0, draws=DRAWS):
    torch.manual_seed(seed)
    log_pi = pi.log().expand(draws, -1)
    return soft_weights(log_pi, torch.tensor(temperature), K or pi.numel(), noise=True)


def chi_square(choices, pi):
    counts = torch.bincount(choices, minlength=pi.numel())
    expected = pi * len(choices)
    return float(((counts - expected).square() / expected).sum())


@pytest.mark.parametrize("temperature", [5.0, 1.0, 0.2])
def test_noisy_choices_follow_the_probabilities(temperature):
    choices = draw(PI, temperature=temperature).argmax(-1)
    assert chi_square(choices, PI) < 16.27  # 3 degrees of freedom, 0.1 %
    assert chi_square(choices, PI.flip(0)) > 1000  # and the test can tell


def test_the_mean_of_log_ratios_is_that_of_the_probabilities():
    """With independent standard Gumbels, log p_i - log p_j = (log pi_i - log pi_j + g_i - g_j) / tau."""
    log_weights = draw(PI, temperature=2.0).log()
    ratio = 2.0 * (log_weights[:, 3] - log_weights[:, 0])
    deviation = math.pi / math.sqrt(3)  # of the difference of two Gumbels
    assert abs(float(ratio.mean()) - math.log(4)) < 3 * deviation / math.sqrt(DRAWS)
    assert abs(float(ratio.std()) / deviation - 1) < 0.03


def test_lower_temperature_gives_harder_weights():
    largest = [float(draw(PI, temperature=t).max(-1).values.mean()) for t in (5.0, 1.0, 0.2)]
    assert largest[0] < 0.45 < largest[1] < 0.8 < 0.9 < largest[2]


def test_without_noise_the_weights_are_the_tempered_probabilities():
    log_pi = PI.log().expand(3, 4)
    found = soft_weights(log_pi, torch.tensor(0.5), 4, noise=False)
    assert torch.allclose(found, (PI**2 / (PI**2).sum()).expand(3, 4))


@pytest.mark.parametrize("K", [1, 2, 3])
def test_top_k_keeps_the_k_largest_renormalised(K):
    kept, every = draw(PI, K, draws=500), draw(PI, draws=500)  # the same seed, so the same noise
    assert torch.equal((kept != 0).sum(-1), torch.full((500,), K))
    assert (kept.sum(-1) - 1).abs().max() < 1e-6
    largest = torch.zeros_like(every).scatter(-1, every.argsort(-1, descending=True)[:, :K], 1.0)
    expected = every * largest / (every * largest).sum(-1, keepdim=True)
    assert torch.allclose(kept, expected, atol=1e-6)


@pytest.mark.parametrize("K", [4, 9])
def test_top_k_of_all_options_changes_nothing(K):
    assert torch.equal(draw(PI, K, draws=50), draw(PI, 4, draws=50))
    assert (draw(PI, K, draws=50) > 0).all()


def test_a_lone_option_trains_straight_through():
    log_pi = PI.log().expand(50, 4).clone().requires_grad_()
    torch.manual_seed(0)
    forward = soft_weights(log_pi, torch.tensor(0.7), 1, noise=True)
    torch.manual_seed(0)
    soft = soft_weights(log_pi, torch.tensor(0.7), 4, noise=True)
    chosen = hard_weights(soft.detach())
    assert torch.equal(forward, chosen)
    values = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad((forward * values).sum(), log_pi)
    (expected,) = torch.autograd.grad((soft * chosen * values).sum(), log_pi)  # the chosen soft weight's gradient
    assert found.abs().max() > 0.1 and torch.allclose(found, expected, atol=1e-7)


def test_extreme_probabilities_stay_finite():
    log_pi = torch.tensor([[0.0, -80.0, -80.0, -200.0]]).expand(200, 4).clone().requires_grad_()
    for K in (1, 2, 4):
        weights = soft_weights(log_pi, torch.tensor(0.2), K, noise=True)
        (gradient,) = torch.autograd.grad((weights * torch.arange(4.0)).sum(), log_pi)
        assert torch.isfinite(weights).all() and torch.isfinite(gradient).all()
        assert torch.equal(weights.argmax(-1), torch.zeros(200, dtype=torch.long))


def test_hard_weights_are_one_hot_at_the_most_probable():
    log_pi = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]).log()
    assert torch.equal(hard_weights(log_pi), torch.tensor([[0.0, 1, 0], [1, 0, 0]]))


# --- Temperature --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [5.0, 1.0])
@pytest.mark.parametrize("samples", [0, 1, 100_000, 1_000_000, 3_000_000, 3_300_000, 27_000_000])
def test_temperature_falls_exponentially_to_its_floor(start, samples):
    found = annealed_temperature(SwitchConfig(), torch.tensor(start), torch.tensor(samples))
    assert float(found) == pytest.approx(max(0.2, start * math.exp(-1e-6 * samples)), rel=1e-6)


def test_one_sample_more_lowers_the_temperature_even_late():
    encoder = encoder_of(switch_model()[1])
    temperatures = []
    for samples in (2_000_000, 2_000_000 + 256):
        encoder.start_annealing(5.0, samples)
        temperatures.append(float(encoder.temperature))
    assert temperatures[1] == pytest.approx(temperatures[0] * math.exp(-256e-6), rel=1e-6)


def test_the_floor_is_reached_after_samples_until_floor():
    switch = SwitchConfig()
    assert samples_until_floor(switch, 5.0) == pytest.approx(3.2189e6, rel=1e-4)  # METHOD: 3.2 M, in the second epoch
    until = samples_until_floor(switch, 5.0)
    before, after = (
        annealed_temperature(switch, torch.tensor(5.0), torch.tensor(int(n))) for n in (until - 1000, until + 1)
    )
    assert float(before) > 0.2 and float(after) == pytest.approx(0.2)
    assert samples_until_floor(SwitchConfig(anneal_rate=0.0), 5.0) == math.inf
    assert samples_until_floor(switch, 0.2) == 0


@pytest.mark.parametrize("share", [0.12, 0.5, 1.0])
@pytest.mark.parametrize("start", [5.0, 1.0])
def test_the_floor_is_reached_at_a_share_of_a_run(start, share):
    encoder, run = encoder_of(switch_model()[1]), 36_000
    encoder.start_annealing(start)
    encoder.anneal_within(share, run)
    found = {}
    for samples in (0, round(share * run / 2), round(share * run) - 1, round(share * run), run):
        encoder.switch_samples.fill_(samples)
        found[samples] = float(encoder.temperature)
    first, middle, before, *floor = found.values()
    assert first == start and middle == pytest.approx((start * 0.2) ** 0.5, rel=1e-3)
    assert before > 0.2 and floor == pytest.approx([0.2] * len(floor), rel=1e-6)


def test_a_start_below_the_floor_stays_there():
    encoder = encoder_of(switch_model(overrides=("switch.min_temperature=1.5",))[1])
    encoder.start_annealing(1.0)
    encoder.anneal_within(1.0, 100)
    for samples in (0, 50, 200):
        encoder.switch_samples.fill_(samples)
        assert float(encoder.temperature) == 1.5


def test_annealing_starts_from_the_configuration_and_can_be_restarted():
    encoder = encoder_of(switch_model(overrides=("switch.temperature=4", "switch.anneal_rate=1e-3"))[1])
    assert float(encoder.temperature) == 4
    encoder.switch_samples += 1000
    assert float(encoder.temperature) == pytest.approx(4 * math.exp(-1), rel=1e-6)
    encoder.start_annealing(encoder.switch.finetune_temperature)
    assert float(encoder.temperature) == 1 and int(encoder.switch_samples) == 0


def test_temperature_survives_a_checkpoint():
    model = switch_model()[1]
    encoder_of(model).start_annealing(1.0, samples=123_456_789)
    fresh = switch_model()[1]
    assert float(encoder_of(fresh).temperature) == 5
    load_volta(fresh, to_volta(model))
    assert int(encoder_of(fresh).switch_samples) == 123_456_789
    encoder_of(fresh).switch_samples.fill_(1_000)
    assert float(encoder_of(fresh).temperature) == pytest.approx(math.exp(-1e-3), rel=1e-6)


def test_training_routes_harden_as_the_temperature_falls():
    golden, model = switch_model()
    model.train()
    largest = []
    for temperature in (5.0, 0.2):
        encoder_of(model).start_annealing(temperature)
        torch.manual_seed(0)
        with torch.no_grad():
            largest.append(float(model(**golden.inputs).routes.modes.max(-1).values.mean()))
    assert largest[0] < 0.5 and largest[1] > 0.8
