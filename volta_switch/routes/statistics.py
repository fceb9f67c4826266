"""Entropies and mutual information of what was chosen. All in bits; plain NumPy.

Legend: n samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_GROUPS = 8  # values of a number, beyond which it is divided at its quantiles


def surprise(labels: Sequence[Any] | np.ndarray) -> np.ndarray:
    """(n,) -log2 of the frequency of each sample's label; their mean is the labels' entropy, without any correction."""
    _, index, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    return -np.log2(counts / max(len(index), 1))[index]


def mutual_information(left: np.ndarray, right: np.ndarray, permutations: int, seed: int = 0) -> dict[str, float]:
    """Of two labels of every sample, (n,) each, with a permutation test.

    Returns:
        ``bits``: the plug-in estimate less its mean over permutations of one side, which share its bias, at least 0;
        ``plug_in``; ``p``: (1 + permutations with as much or more) / (1 + permutations); ``samples``.
    """
    (_, x), (y_values, y) = (np.unique(side, return_inverse=True) for side in (left, right))
    of_x, of_y = _entropy(np.bincount(x)), _entropy(np.bincount(y))

    def found(order: np.ndarray) -> float:
        return of_x + of_y - _entropy(np.bincount(x * len(y_values) + order))

    if min(of_x, of_y) == 0:
        return {"bits": 0.0, "plug_in": 0.0, "p": 1.0, "samples": len(x)}
    rng = np.random.default_rng(seed)
    observed = found(y)
    by_chance = np.array([found(rng.permutation(y)) for _ in range(permutations)])
    p = (1 + int((by_chance >= observed - 1e-12).sum())) / (1 + permutations)
    bias = float(by_chance.mean()) if permutations else 0.0
    return {"bits": max(observed - bias, 0.0), "plug_in": observed, "p": p, "samples": len(x)}


def grouped(values: Sequence[Any]) -> np.ndarray:
    """Labels as they are; numbers of many values divided at their quantiles into ``MOST_GROUPS`` groups at most."""
    labels = np.asarray(values)
    if labels.dtype.kind not in "iuf" or len(np.unique(labels)) <= MOST_GROUPS:
        return labels
    edges = np.unique(np.quantile(labels, np.arange(1, MOST_GROUPS) / MOST_GROUPS))
    return np.searchsorted(edges, labels, side="right")


def _entropy(counts: np.ndarray) -> float:
    total = counts.sum()
    if total == 0:
        return 0.0
    share = counts[counts > 0] / total
    return abs(float((share * np.log2(share)).sum()))
