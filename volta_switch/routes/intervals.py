"""Numbers of some drawn images, and how far those of the whole split may be from them.

A report's numbers are means over samples. They are kept as the values that they are the means of, so that a number and
its interval come from the same ones: a share from whether each sample chose so, an entropy from each sample's surprise,
-log2 of its choice's frequency (which gives the entropy's variance to first order).

Samples of one image are alike, so that images are what was drawn. The interval is Student's over images (``by_group``,
``estimate_mean``), narrowed by the share of the split's images that were drawn: those have no error.

Legend: n rows or samples, G drawn images, K images of the split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from volta_switch.statistics import by_group, estimate_mean

CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class Ratio:
    """Values whose mean is weighed: of each row's mass by its queries."""

    sums: np.ndarray  # (n,)
    weights: np.ndarray  # (n,) whole numbers

    @property
    def mean(self) -> float:
        """The sums' sum over the weights'."""
        return float(self.sums.sum() / max(float(self.weights.sum()), 1.0))


@dataclass(frozen=True)
class Drawn:
    """The images of a split that were drawn, whole."""

    image_of: Mapping[str, str]  # every sample of the split -> its image

    def groups(self, ids: Sequence[str]) -> np.ndarray:
        """(n,) the image of each row or sample."""
        return np.array([self.image_of[name] for name in ids])

    def interval(self, items: np.ndarray | Ratio, groups: np.ndarray) -> list[float] | None:
        """95 % for the mean over the whole split, low and high; None where it cannot be told.

        It cannot where a single image was drawn, or all that were drawn agree. Of a share that is 0 or 1 in all of
        them the interval ends where drawing them all so would have a chance of 5 %.

        Args:
            items: (n,) what is averaged; bool: a share.
            groups: (n,) the image of each.
        """
        is_share = isinstance(items, np.ndarray) and items.dtype == bool
        if isinstance(items, Ratio):
            rows = items.weights.astype(int)  # a row counts as often as it has queries
            groups = np.repeat(groups, rows)
            items = np.repeat(items.sums / np.maximum(rows, 1), rows)
        count = len(np.unique(groups))
        left = 1 - count / len(set(self.image_of.values()))
        estimate = estimate_mean(by_group(items[None].astype(float), groups)[0])
        if left <= 0:
            return [estimate.value, estimate.value]
        if estimate.problem:
            if not is_share or count < 2:
                return None
            reach = 1 - (1 - CONFIDENCE) ** (1 / count)
            return [0.0, reach] if estimate.value < 0.5 else [1 - reach, 1.0]
        low, high = estimate.interval(CONFIDENCE)
        half = (high - low) / 2 * left**0.5
        low, high = estimate.value - half, estimate.value + half
        return [max(low, 0.0), min(high, 1.0)] if is_share else [low, high]

    def intervals(self, tree: Any, groups: np.ndarray) -> Any:
        """A report that still has its values, with the interval of each number in its place."""
        return _folded(tree, lambda items: self.interval(items, groups))


def means(tree: Any) -> Any:
    """A report that still has its values, with their means in their place."""
    return _folded(tree, lambda items: items.mean if isinstance(items, Ratio) else float(items.mean()))


def _folded(tree: Any, fold: Callable[[Any], Any]) -> Any:
    if isinstance(tree, Mapping):
        return {key: _folded(value, fold) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_folded(value, fold) for value in tree]
    return fold(tree) if isinstance(tree, np.ndarray | Ratio) else tree
