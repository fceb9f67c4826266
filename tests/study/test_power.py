"""Numbers of seeds: against published tables, simulation and each other."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from volta_switch.statistics import critical_value, estimate_difference, estimate_mean
from volta_switch.study.power import MOST_SEEDS, _noncentral_t, power, seeds_needed, seeds_to_decide


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_pairs_for_80_percent_power_are_those_of_published_tables(effect, pairs):
    assert seeds_needed(effect, 1.0) == pairs  # G*Power 3, t tests, matched pairs, two-sided, alpha 0.05


@pytest.mark.parametrize(("effect", "per_arm"), [(0.2, 394), (0.5, 64), (0.8, 26)])
def test_seeds_of_unpaired_arms_are_cohens(effect, per_arm):
    assert seeds_needed(effect, math.sqrt(2), degrees_per_seed=2) == per_arm  # Cohen (1988), table 2.4.1


@pytest.mark.parametrize(("items_variance", "tolerance"), [(0.0, 0.006), (0.3, 0.02)])
def test_power_is_the_share_of_simulated_studies_that_decide(items_variance, tolerance):
    # The simulation's standard error is 0.15 points; with items the degrees of freedom are an approximation.
    rng = np.random.default_rng(0)
    seeds, effect, studies = 5, 1.5, 100_000
    value = effect + math.sqrt(1 / seeds + items_variance) * rng.normal(size=studies)
    by_seeds = rng.chisquare(seeds - 1, studies) / (seeds - 1) / seeds
    critical = critical_value(0.05, (by_seeds, seeds - 1), (items_variance, math.inf))
    decided = np.mean(value > critical * np.sqrt(by_seeds + items_variance))
    assert power(effect, 1.0, seeds, item_variance=items_variance) == pytest.approx(decided, abs=tolerance)
    assert 0.4 < decided < 0.8


@given(st.floats(0.1, 5), st.floats(0.05, 5), st.sampled_from([0.05, 0.05 / 20]), st.sampled_from([1.0, 2.0]))
def test_the_number_of_seeds_is_the_smallest_that_suffices(effect, spread, alpha, degrees):
    settings = {"alpha": alpha, "degrees_per_seed": degrees}
    found = seeds_needed(effect, spread, **settings)
    if found is None:
        assert power(effect, spread, MOST_SEEDS, **settings) < 0.8
    else:
        assert power(effect, spread, found, **settings) >= 0.8
        assert found == 2 or power(effect, spread, found - 1, **settings) < 0.8


def test_no_number_of_seeds_takes_the_items_spread_away():
    assert seeds_needed(1.0, 1.0) == 10
    assert seeds_needed(1.0, 1.0, item_variance=0.1) > 10
    assert seeds_needed(1.0, 1.0, item_variance=0.2) is None  # 1.0 is 2.2 standard errors of the items alone
    assert seeds_needed(0.0, 1.0) is None


@pytest.mark.parametrize(("seeds", "spread"), [(1, 1.0), (5, 0.0), (5, math.nan)])
def test_power_without_a_spread_is_refused(seeds, spread):
    with pytest.raises(ValueError, match="two seeds and a spread"):
        power(1.0, spread, seeds)


def test_seeds_to_decide_are_those_of_the_observed_effect_and_spread():
    rng = np.random.default_rng(3)
    better, worse = 70 + rng.normal(size=4), 69.3 + rng.normal(size=4)
    found = estimate_difference(better, worse)
    needed = seeds_to_decide(found, 0.2, alpha=0.01)
    assert needed.seeds == seeds_needed(found.value - 0.2, found.spread, alpha=0.01)
    assert needed.fewest < needed.seeds and needed.most is None  # the interval contains the margin
    unpaired = estimate_difference(better, worse, paired=False)
    expected = seeds_needed(unpaired.value, unpaired.spread, degrees_per_seed=unpaired.seed_degrees / 3)
    assert seeds_to_decide(unpaired).seeds == expected


def test_the_interval_of_the_number_of_seeds_holds_the_true_number():
    rng = np.random.default_rng(0)
    true, held, studies = seeds_needed(1.2, 1.0), 0, 300
    for row in 1.2 + rng.normal(size=(studies, 5)):
        needed = seeds_to_decide(estimate_mean(row))
        held += (needed.fewest or math.inf) <= true <= (needed.most or math.inf)
    assert 0.92 <= held / studies <= 0.98  # 95 % nominal, standard error 1.3 points; numbers of seeds are rounded


def test_it_is_bounded_where_the_interval_excludes_the_margin():
    scores = np.array([1.0, 1.2, 0.9, 1.1, 1.3])
    needed = seeds_to_decide(estimate_mean(scores), alpha=1e-5)
    assert needed.fewest <= needed.seeds <= needed.most
    # The interval of the noncentrality, from SciPy's noncentral t: both tails are 2.5 %.
    observed = scores.mean() / scores.std(ddof=1) * math.sqrt(5)
    ends = [
        optimize.brentq(lambda ncp, tail=tail: stats.nct.sf(observed, 4, ncp) - tail, 0, 60) for tail in (0.975, 0.025)
    ]
    assert (needed.fewest, needed.most) == tuple(seeds_needed(ncp / math.sqrt(5), 1.0, alpha=1e-5) for ncp in ends)


@pytest.mark.parametrize(("distance", "degrees", "ncp", "below"), [(2.0, 2, 60.0, 0), (10.0, 2, -8.0, 1)])
def test_the_noncentral_t_is_a_number_where_scipys_is_not(distance, degrees, ncp, below):
    assert _noncentral_t(distance, degrees, ncp) == pytest.approx(below, abs=1e-3)


def test_without_an_interval_there_is_no_number():
    assert seeds_to_decide(estimate_mean(np.array([70.0]))) is None
    assert seeds_to_decide(estimate_mean(np.full(3, 70.0))) is None


@given(st.floats(-8, 8), st.floats(-3, 3), st.integers(2, 20), st.floats(0, 2))
def test_it_answers_for_any_estimate(value, log_spread, seeds, item_variance):
    spread = 10**log_spread
    scores = value + spread * np.where(np.arange(seeds) % 2, 1.0, -1.0)
    needed = seeds_to_decide(replace(estimate_mean(scores), item_variance=item_variance, item_degrees=99), 0.5)
    assert needed.fewest is None or needed.seeds is None or needed.fewest <= needed.seeds
    assert needed.most is None or needed.seeds <= needed.most
