"""Power analysis: how many seeds a study needs, before it, during it, and after it (what would have decided).

The tests are those of ``statistics``: two-sided, seeds a random effect. The effect is counted from the margin m that a
claim asks for ("better by at least m"). ``sizing`` plans a study's claims with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import chdtri, nctdtr, ndtr

from volta_switch.statistics import Estimate, critical_value

MOST_SEEDS = 10_000  # a larger number is no plan


def power(
    effect: float,
    spread: float,
    seeds: int,
    *,
    alpha: float = 0.05,
    degrees_per_seed: float = 1.0,
    item_variance: float = 0.0,
) -> float:
    """Returns the chance that the two-sided test decides in the effect's direction.

    Exact without items: 1 - F(t_crit; (S - 1) * degrees_per_seed, ncp = effect / standard error), F the noncentral t
    (Johnson and Welch 1940). With items the degrees of freedom are Satterthwaite's (1946): an approximation.

    Args:
        effect: true distance from the margin, in points.
        spread: true standard deviation over seeds: paired, of the differences; unpaired, sqrt(2) times that of an arm.
        seeds: S, of each arm; 2 or more.
        alpha: level; of a family, that of its hardest step (alpha / F).
        degrees_per_seed: 1 paired, 2 unpaired (arms of equal spread).
        item_variance: of the difference over new test sets, with infinitely many seeds; 0: these items only.

    Raises:
        ValueError: fewer than two seeds, or no spread.
    """
    if seeds < 2 or not spread > 0:
        raise ValueError(f"power needs two seeds and a spread above 0, found {seeds} and {spread}")
    variance, degrees = spread**2 / seeds, degrees_per_seed * (seeds - 1)
    total = variance + item_variance
    critical = critical_value(alpha, (variance, degrees), (item_variance, math.inf))
    satterthwaite = min(degrees * (total / variance) ** 2, 1e6)
    return 1 - _noncentral_t(critical, satterthwaite, abs(effect) / math.sqrt(total))


def seeds_needed(effect: float, spread: float, target: float = 0.8, **settings: float) -> int | None:
    """Returns the smallest number of seeds whose ``power`` reaches ``target``; None where ``MOST_SEEDS`` do not.

    Args:
        settings: ``power``'s.
    """

    def enough(seeds: int) -> bool:
        return power(effect, spread, seeds, **settings) >= target

    if not enough(MOST_SEEDS):
        return None
    low, high = 1, MOST_SEEDS  # low does not do, high does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def excluded_effect(
    spread: float,
    seeds: int,
    target: float = 0.8,
    *,
    alpha: float = 0.05,
    item_variance: float = 0.0,
) -> float:
    """Returns the smallest effect, in points, that ``seeds`` pairs of seeds exclude, either way, if there is none.

    They exclude m where the whole interval at 1 - ``alpha`` lies between -m and m; ``target`` is the chance of it, the
    mean over the quantiles of the spread's chi-square, right to 1e-3.

    Args:
        spread, seeds, alpha, item_variance: ``power``'s, paired.

    Raises:
        ValueError: fewer than two seeds, or no spread.
    """
    if seeds < 2 or not spread > 0:
        raise ValueError(f"an interval needs two seeds and a spread above 0, found {seeds} and {spread}")
    degrees = seeds - 1
    seen = spread**2 / seeds * _chi_square_quantiles(degrees) / degrees  # the seeds' part, as their studies estimate it
    half = critical_value(alpha, (seen, degrees), (item_variance, math.inf)) * np.sqrt(seen + item_variance)
    standard_error = math.sqrt(spread**2 / seeds + item_variance)

    def chance(margin: float) -> float:
        return float(np.maximum(2 * ndtr((margin - half) / standard_error) - 1, 0.0).mean())

    most = standard_error
    while chance(most) < target:
        most *= 2
    return float(brentq(lambda margin: chance(margin) - target, 0, most))


@dataclass(frozen=True)
class SeedsNeeded:
    """How many seeds would decide, were effect and spread as observed; None: more than ``MOST_SEEDS``, or no number."""

    seeds: int | None
    fewest: int | None
    """If the effect is as large as its interval allows."""
    most: int | None
    """If it is as small; None also where the interval contains the margin."""


def seeds_to_decide(
    estimate: Estimate, margin: float = 0.0, *, alpha: float = 0.05, target: float = 0.8, confidence: float = 0.95
) -> SeedsNeeded | None:
    """Estimates the number of seeds that decides at level ``alpha`` with power ``target``, with its own uncertainty.

    It depends on (effect - margin) / spread, which a few seeds know badly: ``fewest`` and ``most`` are the numbers at
    both ends of that ratio's interval, from inverting the noncentral t (exact without items; Cumming and Finch 2001).
    An undecided effect is as likely too large as too small by its own noise: plan with a minimum effect, not with this.

    Returns:
        None where the estimate has a ``problem``.
    """
    if estimate.problem:
        return None
    distance = abs(estimate.value - margin) / estimate.standard_error
    share = estimate.seed_variance / (estimate.seed_variance + estimate.item_variance)
    degrees = min(estimate.seed_degrees / share**2, 1e6)
    known = {"degrees_per_seed": estimate.degrees_per_seed, "item_variance": estimate.item_variance}

    def needed(noncentrality: float) -> int | None:
        return seeds_needed(noncentrality * estimate.standard_error, estimate.spread, target, alpha=alpha, **known)

    low, high = (_noncentrality(distance, degrees, tail) for tail in ((1 + confidence) / 2, (1 - confidence) / 2))
    return SeedsNeeded(needed(distance), needed(high), needed(low) if low > 0 else None)


def _noncentrality(distance: float, degrees: float, tail: float) -> float:
    """Returns the ncp at which a noncentral t lies below ``distance`` with probability ``tail``."""
    low, high = -1.0, 1.0
    while _noncentral_t(distance, degrees, low) < tail:
        low *= 2
    while _noncentral_t(distance, degrees, high) > tail:
        high *= 2
    return float(brentq(lambda ncp: _noncentral_t(distance, degrees, ncp) - tail, low, high))


def _noncentral_t(distance: float, degrees: float, noncentrality: float) -> float:
    """Returns the distribution function at ``distance``."""
    below = float(nctdtr(degrees, noncentrality, distance))
    if math.isnan(below):  # SciPy's fails far out; the mean over the chi-square's quantiles is right to 1e-3
        below = float(ndtr(distance * np.sqrt(_chi_square_quantiles(degrees) / degrees) - noncentrality).mean())
    return below


def _chi_square_quantiles(degrees: float) -> np.ndarray:
    return np.asarray(chdtri(degrees, (np.arange(2000) + 0.5) / 2000))
