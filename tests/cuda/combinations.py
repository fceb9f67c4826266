"""Combinations of settings in which any two values of two settings meet."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Combination = dict[str, Any]


def pairs_of(combination: Combination) -> set[tuple[Any, ...]]:
    """All (setting, value, setting, value) of a combination."""
    return {(a, x, b, y) for (a, x), (b, y) in itertools.combinations(combination.items(), 2)}


def all_pairs(settings: Mapping[str, Sequence[Any]], allowed: Callable[[Combination], bool]) -> set[tuple[Any, ...]]:
    """Every pair of values that some allowed combination has."""
    return set().union(*(pairs_of(each) for each in _all(settings) if allowed(each)))


def pairwise(settings: Mapping[str, Sequence[Any]], allowed: Callable[[Combination], bool]) -> list[Combination]:
    """Few allowed combinations that have every pair: each takes as many of those still missing as any can."""
    possible = [each for each in _all(settings) if allowed(each)]
    missing = set().union(*map(pairs_of, possible))
    chosen = []
    while missing:
        best = max(possible, key=lambda each: len(pairs_of(each) & missing))
        missing -= pairs_of(best)
        chosen.append(best)
    return chosen


def _all(settings: Mapping[str, Sequence[Any]]) -> list[Combination]:
    return [dict(zip(settings, values, strict=True)) for values in itertools.product(*settings.values())]
