"""A report of routes as JSON types (docs/routes.md explains it): frequencies, entropies, information, intervals.

A report's numbers are means over samples. They are kept as the values that they are the means of, so that a number and
its interval come from the same ones. A share comes from whether each sample chose so. An entropy comes from each
sample's surprisal, -log2 of its choice's frequency, which gives the entropy's variance to first order.

Samples of one image are alike, so that images are what was drawn. The interval is Student's over images (``by_group``,
``estimate_mean``), narrowed by the share of the split's images that were drawn: those have no error.

Legend: n samples or rows, L layers, M attention modes, C input candidates, G drawn images, K images of the split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from volta_switch.cost import EPSILON
from volta_switch.model.encoder import SwitchEncoder
from volta_switch.model.switch import INPUT_CANDIDATES
from volta_switch.routes.record import INPUT_NAMES, Record, route_words, soft_routes
from volta_switch.statistics import by_group, estimate_mean

SHOWN = 20  # architectures
CONFIDENCE = 0.95
MOST_GROUPS = 8  # values of a number, beyond which it is divided at its quantiles


def route_report(encoder: SwitchEncoder, record: Record, epsilon: float = EPSILON) -> dict[str, Any]:
    """Returns frequencies and entropies, per layer and of whole architectures, over the counted rows."""
    found: dict[str, Any] = means(route_values(encoder, record, epsilon))
    return found


def route_values(encoder: SwitchEncoder, record: Record, epsilon: float = EPSILON) -> dict[str, Any]:
    """Returns ``route_report`` with values (n,) in place of their means."""
    switch, counted = encoder.switch, record.counted
    modes, inputs = record.modes[counted], record.inputs[counted]  # (n, L)
    scores = (torch.from_numpy(of_block[counted]) for of_block in (record.mode_scores, record.input_scores))
    soft, names = soft_routes(encoder, *scores), INPUT_NAMES[: switch.input_candidates]
    routes = counted_routes(encoder, record)
    layers = []
    for layer in range(encoder.depth):
        line: dict[str, Any] = {"layer": layer + 1}
        if switch.attention:
            line |= _block("modes", switch.modes, modes[:, layer], soft.modes[:, layer], epsilon)
        if switch.input and layer > 0:
            line |= _block("inputs", names, inputs[:, layer], soft.inputs[:, layer], epsilon)
            line |= _from_below(inputs[:, layer])
        layers.append(line)
    crossing = inputs[:, 1:] if switch.input else inputs[:, :0]
    return {
        "samples": len(routes),
        "flops per pair": record.flops,
        "layers": layers,
        "cross-layer": _from_below(crossing) if crossing.size else {},
        "architectures": _architectures(routes),
    }


def counted_routes(encoder: SwitchEncoder, record: Record) -> list[str]:
    """Returns the route of every counted row, in words."""
    switch = encoder.switch
    rows = record.modes[record.counted], record.inputs[record.counted]
    return route_words(*rows, switch.modes, (switch.attention, switch.input))


def dependence(
    encoder: SwitchEncoder, record: Record, known: Mapping[str, list[Any]], permutations: int
) -> dict[str, dict[str, Any]]:
    """Returns the mutual information of each fact with whole routes, and with each switcher's choice by itself.

    A fact that is the same for all samples is left out.
    """
    found: dict[str, Any] = means(dependence_values(encoder, record, known, permutations))
    return found


def dependence_values(
    encoder: SwitchEncoder, record: Record, known: Mapping[str, list[Any]], permutations: int
) -> dict[str, dict[str, Any]]:
    """Returns ``dependence`` with values (n,) in place of their means."""
    switch, found = encoder.switch, {}
    routes = np.array(counted_routes(encoder, record))
    for name, values in known.items():
        labels = group_labels(values)
        if len(np.unique(labels)) < 2:
            continue
        of: dict[str, Any] = {
            "entropy": surprisal(labels),
            "architecture": _information(routes, labels, permutations),
        }
        for block, switched, chosen, first in (
            ("modes", switch.attention, record.modes, 0),
            ("inputs", switch.input, record.inputs, 1),
        ):
            if switched:
                of[block] = [
                    {"layer": layer + 1, **_information(chosen[record.counted, layer], labels, permutations)}
                    for layer in range(first, encoder.depth)
                ]
        found[name] = of
    return found


def _information(left: np.ndarray, right: np.ndarray, permutations: int) -> dict[str, Any]:
    """Returns ``mutual_information`` with each sample's pointwise values (n,) in place of the estimates."""
    found = mutual_information(left, right, permutations)
    (_, x), (y_values, y) = (np.unique(side, return_inverse=True) for side in (left, right))
    told = surprisal(left) + surprisal(right) - surprisal(x * len(y_values) + y)  # (n,)
    return {**found, "plug_in": told, "bits": told - (found["plug_in"] - found["bits"])}


def _from_below(inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Returns how often text, and vision, come from layer l-2; of several layers (n, L), the mean over them."""
    taken = np.array(INPUT_CANDIDATES, dtype=bool)[inputs]  # (n, 2) or (n, L, 2), True: from layer l-2
    if taken.ndim == 3:
        taken = taken.mean(1)
    return {"text from l-2": taken[:, 0], "vision from l-2": taken[:, 1]}


def _block(name: str, options: tuple[str, ...], chosen: np.ndarray, soft: Tensor, epsilon: float) -> dict[str, Any]:
    """Returns one switcher's choices (n,), their entropy, soft weights (n, O), and how often each exceeds epsilon."""
    weights = soft.double().numpy()
    return {
        name: {option: chosen == number for number, option in enumerate(options)},
        f"{name} entropy": surprisal(chosen),
        f"{name} soft": dict(zip(options, weights.T, strict=True)),
        f"{name} active": dict(zip(options, epsilon < weights.T, strict=True)),
    }


def _architectures(routes: list[str]) -> dict[str, Any]:
    counts, each = Counter(routes), np.array(routes)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {
        "different": len(counts),
        "entropy": surprisal(routes) if routes else 0.0,
        "most frequent": [
            {"route": route, "share": each == route, "samples": count} for route, count in ordered[:SHOWN]
        ],
    }


def surprisal(labels: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Returns -log2 of the frequency of each sample's label (n,); the mean is the labels' entropy, uncorrected."""
    _, index, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    return -np.log2(counts / max(len(index), 1))[index]


def mutual_information(left: np.ndarray, right: np.ndarray, permutations: int, seed: int = 0) -> dict[str, float]:
    """Returns the mutual information in bits of two labels of every sample, (n,) each, with a permutation test.

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


def group_labels(values: Sequence[Any]) -> np.ndarray:
    """Returns labels unchanged; numbers of many values in at most ``MOST_GROUPS`` groups, divided at quantiles."""
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


@dataclass(frozen=True, eq=False)
class WeightedValues:
    """Values with a weighted mean: each row's mass, weighted by its queries."""

    sums: np.ndarray  # (n,)
    weights: np.ndarray  # (n,) whole numbers

    @property
    def mean(self) -> float:
        """The sum of ``sums`` divided by that of ``weights``."""
        return float(self.sums.sum() / max(float(self.weights.sum()), 1.0))


@dataclass(frozen=True)
class ImageSample:
    """The images of a split that were drawn, each with all its samples."""

    image_of: Mapping[str, str]  # every sample of the split -> its image

    def groups(self, ids: Sequence[str]) -> np.ndarray:
        """Returns the image of each row or sample (n,)."""
        return np.array([self.image_of[name] for name in ids])

    def interval(self, items: np.ndarray | WeightedValues, groups: np.ndarray) -> list[float] | None:
        """Returns the 95 % interval of the mean over the whole split, low and high; None where it is unknown.

        It is unknown where a single image was drawn, or all drawn ones agree. Where a share is 0 or 1 in all of them,
        the interval ends where such a draw would have a chance of 5 %.

        Args:
            items: (n,) what is averaged; bool: a share.
            groups: (n,) the image of each.
        """
        is_share = isinstance(items, np.ndarray) and items.dtype == bool
        if isinstance(items, WeightedValues):
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
        """Returns a report of values with intervals in their place."""
        return _fold(tree, lambda items: self.interval(items, groups))


def means(tree: Any) -> Any:
    """Returns a report of values with means in their place."""
    return _fold(tree, lambda items: items.mean if isinstance(items, WeightedValues) else float(items.mean()))


def _fold(tree: Any, fold: Callable[[Any], Any]) -> Any:
    if isinstance(tree, Mapping):
        return {key: _fold(value, fold) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_fold(value, fold) for value in tree]
    return fold(tree) if isinstance(tree, np.ndarray | WeightedValues) else tree
