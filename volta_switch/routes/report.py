"""A record of routes as JSON types: what docs/routes.md explains.

Legend: n samples, L layers, M attention modes, C input candidates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from volta_switch.cost import EPSILON
from volta_switch.model.encoder import SwitchEncoder
from volta_switch.model.switch import INPUT_CANDIDATES
from volta_switch.routes.intervals import means
from volta_switch.routes.record import INPUT_NAMES, Record, soft_routes, spelt
from volta_switch.routes.statistics import grouped, mutual_information, surprise

SHOWN = 20  # architectures


def route_report(encoder: SwitchEncoder, record: Record, epsilon: float = EPSILON) -> dict[str, Any]:
    """Frequencies and entropies, per layer and of whole architectures; over the counted rows."""
    found: dict[str, Any] = means(route_values(encoder, record, epsilon))
    return found


def route_values(encoder: SwitchEncoder, record: Record, epsilon: float = EPSILON) -> dict[str, Any]:
    """The same with the values (n,) of which each number is the mean in its place (``intervals``)."""
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
    """The route of every counted row, in words."""
    switch = encoder.switch
    rows = record.modes[record.counted], record.inputs[record.counted]
    return spelt(*rows, switch.modes, (switch.attention, switch.input))


def dependence(
    encoder: SwitchEncoder, record: Record, known: Mapping[str, list[Any]], permutations: int
) -> dict[str, dict[str, Any]]:
    """Mutual information of each fact with the route: of whole architectures, and of each switcher's choice by itself.

    A fact that is the same for all samples is left out.
    """
    found: dict[str, Any] = means(dependence_values(encoder, record, known, permutations))
    return found


def dependence_values(
    encoder: SwitchEncoder, record: Record, known: Mapping[str, list[Any]], permutations: int
) -> dict[str, dict[str, Any]]:
    """As ``dependence``, with the values (n,) of which each number is the mean in its place."""
    switch, found = encoder.switch, {}
    routes = np.array(counted_routes(encoder, record))
    for name, values in known.items():
        labels = grouped(values)
        if len(np.unique(labels)) < 2:
            continue
        of: dict[str, Any] = {
            "entropy": surprise(labels),
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
    """``mutual_information``, whose estimate is the mean over samples of what their two labels tell of each other."""
    found = mutual_information(left, right, permutations)
    (_, x), (y_values, y) = (np.unique(side, return_inverse=True) for side in (left, right))
    told = surprise(left) + surprise(right) - surprise(x * len(y_values) + y)  # (n,)
    return {**found, "plug_in": told, "bits": told - (found["plug_in"] - found["bits"])}


def _from_below(inputs: np.ndarray) -> dict[str, np.ndarray]:
    """How often text and how often vision comes from layer l-2; of several layers, (n, L), the mean over them."""
    taken = np.array(INPUT_CANDIDATES, dtype=bool)[inputs]  # (n, 2) or (n, L, 2), True: from layer l-2
    if taken.ndim == 3:
        taken = taken.mean(1)
    return {"text from l-2": taken[:, 0], "vision from l-2": taken[:, 1]}


def _block(name: str, options: tuple[str, ...], chosen: np.ndarray, soft: Tensor, epsilon: float) -> dict[str, Any]:
    """What one switcher chose, (n,), with entropy; its mean soft weights (n, O), and how often each exceeds epsilon."""
    weights = soft.double().numpy()
    return {
        name: {option: chosen == number for number, option in enumerate(options)},
        f"{name} entropy": surprise(chosen),
        f"{name} soft": dict(zip(options, weights.T, strict=True)),
        f"{name} active": dict(zip(options, epsilon < weights.T, strict=True)),
    }


def _architectures(routes: list[str]) -> dict[str, Any]:
    counts, each = Counter(routes), np.array(routes)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {
        "different": len(counts),
        "entropy": surprise(routes) if routes else 0.0,
        "most frequent": [
            {"route": route, "share": each == route, "samples": count} for route, count in ordered[:SHOWN]
        ],
    }
